"""What the report of a tuning shows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd

from sysvi.evaluation.scores import BIOLOGY_METRICS
from sysvi.reporting.findings import Finding
from sysvi.reporting.recipe import differing_settings, tuning_recipes
from sysvi.reporting.run_record import RunRecord, parse_record
from sysvi.reporting.runs_content import (
    RunsContent,
    Series,
    Table,
    at_edge,
    cells_table,
    mean_point,
    number,
    run_points,
    systems_of,
    with_spread,
)
from sysvi.tuning.files import TuningTables
from sysvi.tuning.results import SETTING

SETTING_NAMES = ("Cycle weight", "KL weight", "Prior")


def collect_tuning(tables: TuningTables) -> RunsContent:
    """Gather what the report of a tuning shows."""
    runs, settings, document = tables
    record = parse_record(document["record"])
    mixing, cells = document["mixing"], document["cells"]
    metrics = [name for name in (mixing, *BIOLOGY_METRICS) if settings[name].notna().any()]
    axes = (mixing, "biology", *metrics[1:], "batch", "overall", f"{mixing}, standardised")
    n_cells = sum(group["cells"] for group in cells)
    n_failed = int(document["runs_without_result"])
    n_runs = len(runs) + n_failed - int(runs["overall"].isna().sum())
    best = settings.iloc[0]
    facts = [
        ("Settings compared", f"{len(settings)}"),
        ("Runs", f"{n_runs}"),
        ("Without a result", f"{n_failed}"),
        ("Chosen cycle weight", f"{best['cycle_weight']:g}"),
        ("Score", number(best["overall"], 2)),
        ("Cells", f"{n_cells:,}"),
        ("Genes of the model", f"{record.n_genes:,}"),
        ("Systems", f"{len(systems_of(cells))}"),
    ]
    return RunsContent(
        f"Choice of settings for {_listed(systems_of(cells))}",
        tuple(facts),
        tuple(_findings(runs, settings, document)),
        (_how_measured(document["arguments"]["label_key"], mixing),),
        axes,
        tuple(_series(runs, settings, axes)),
        "A line for each prior and KL weight joins the cycle weights in their order. Batch, biology and overall are "
        "scaled over the runs, from 0 (lowest) to 1 (highest): they rank these runs, and mean nothing for others.",
        (
            "Settings",
            "Best first; means over seeds, with the standard deviation of the score.",
            _choices(settings, metrics),
        ),
        (),
        _runs_table(runs, metrics),
        _failures(runs, n_runs),
        cells_table(cells, record.columns.system, record.columns.batch),
        _settings(record, document, n_cells),
        ("The models were made with " + ", ".join(f"{name} {v}" for name, v in record.versions.items()) + ".",),
        tuple(tuning_recipes(record, document["arguments"], n_cells)),
    )


def _listed(names: list[str]) -> str:
    return f"{', '.join(names[:-1])} and {names[-1]}" if 1 < len(names) <= 4 else f"{len(names)} systems"


def _findings(runs: pd.DataFrame, settings: pd.DataFrame, document: dict[str, Any]) -> Iterator[Finding]:
    yield Finding("good", f"Chosen: {document['why']}")
    for text in document["warnings"]:
        yield Finding("warning", text)
    if n := int(document["runs_without_result"]):
        yield Finding(
            "warning",
            f"{n} {'run has' if n == 1 else 'runs have'} no result: failed, interrupted or not begun.",
            "The table of runs without a result has the reasons. The same call with the same output folder makes the "
            "missing runs.",
        )
    arguments = document["arguments"]
    if at_edge(document["cycle_weight"], arguments["cycle_weights"]):
        yield Finding(
            "note",
            "The chosen cycle weight is the largest that was tried.",
            "Try larger ones too: with the same output folder, finished runs are kept.",
        )
    if len(arguments["seeds"]) == 1:
        yield Finding(
            "note",
            "Each setting was run once, so it is not known how far results vary by chance.",
            "Run it with three seeds or more.",
        )


def _how_measured(label_key: str | None, mixing: str) -> str:
    if label_key is None:
        return (
            f"Measured without labels: states found in each system take their place, and mixing ({mixing}) counts "
            "where systems share a state."
        )
    return f"Measured with the cell types of the column {label_key}, by the rule of the paper."


def _setting(row: Any) -> tuple[str, str, str]:
    return f"{row['cycle_weight']:g}", f"{row['kl_weight']:g}", str(row["prior"])


def _series(runs: pd.DataFrame, settings: pd.DataFrame, axes: tuple[str, ...]) -> Iterator[Series]:
    """A series for each KL weight and prior."""
    finished = runs[runs["overall"].notna()]
    for (kl_weight, prior), part in finished.groupby(SETTING[1:], sort=False):
        chosen = settings.loc[settings["chosen"], SETTING].iloc[0]
        means = []
        for weight, of_setting in part.groupby("cycle_weight"):
            is_chosen = (weight, kl_weight, prior) == tuple(chosen)
            means.append(mean_point(f"{weight:g}", of_setting, axes, is_chosen))
        names = [f"cycle weight {row['cycle_weight']:g}, seed {row['seed']}" for _, row in part.iterrows()]
        yield Series(f"prior {prior}, KL weight {kl_weight:g}", tuple(means), run_points(names, part, axes))


def _choices(settings: pd.DataFrame, metrics: list[str]) -> Table:
    columns = (*SETTING_NAMES, "Score", *metrics, "Batch", "Biology", "Collapsed dimensions", "Runs")
    rows = []
    for _, row in settings.iterrows():
        score = with_spread(row["overall"], row["overall SD"])
        values = [number(row[name]) for name in (*metrics, "batch", "biology")]
        collapsed = number(row["collapsed dimensions"], 1)
        rows.append((*_setting(row), score, *values, collapsed, f"{row['runs']:.0f}"))
    numeric = frozenset({0, 1, *range(3, len(columns))})
    caption = "Settings, best first; the chosen one is bold"
    return Table(caption, columns, tuple(rows), numeric, frozenset(_positions(settings["chosen"])))


def _runs_table(runs: pd.DataFrame, metrics: list[str]) -> Table:
    columns = (*SETTING_NAMES, "Seed", "Status", "Score", *metrics, "Batch", "Biology")
    rows = tuple(
        (
            *_setting(row),
            str(row["seed"]),
            str(row["status"]).replace("_", " "),
            *(number(row[name]) for name in ("overall", *metrics, "batch", "biology")),
        )
        for _, row in runs.iterrows()
    )
    numeric = frozenset({0, 1, 3, *range(5, len(columns))})
    return Table("All runs; those of the chosen setting are bold", columns, rows, numeric, _positions(runs["chosen"]))


def _failures(runs: pd.DataFrame, n_runs: int) -> Table:
    failed = runs[runs["overall"].isna()]
    rows = [
        (*_setting(row), str(row["seed"]), row["reason"] or str(row["status"]).replace("_", " "))
        for _, row in failed.iterrows()
    ]
    if n_runs > len(runs):
        rows.append(("", "", "", "", f"{n_runs - len(runs)} not begun: the tuning was interrupted"))
    return Table("Runs without a result", (*SETTING_NAMES, "Seed", "Reason"), tuple(rows), frozenset({0, 1, 3}))


def _positions(marks: pd.Series) -> frozenset[int]:
    return frozenset(i for i, mark in enumerate(marks) if mark)


def _settings(record: RunRecord, document: dict[str, Any], n_cells: int) -> Table:
    arguments = document["arguments"]
    tried = {"cycle_weights": "Cycle weights", "kl_weights": "KL weights", "priors": "Priors", "seeds": "Seeds"}
    rows = [(text, ", ".join(map(_text, arguments[name]))) for name, text in tried.items()]
    rows.append(("Column of cell types", arguments["label_key"] or "none: measured without labels"))
    rows.append(("Fewest cells of a type in a batch (Moran's I)", f"{arguments['min_cells']:,}"))
    rows.append(("Most cells that are measured", f"{arguments['max_cells']:,}"))
    shared = differing_settings(record, n_cells)
    rows += [(name, _text(value)) for name, value in shared.items() if name not in SETTING]
    return Table("What was tried, and settings other than the defaults", ("Setting", "Value"), tuple(rows))


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
