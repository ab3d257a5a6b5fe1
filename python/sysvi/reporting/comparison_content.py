"""What the report of a comparison of methods shows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from sysvi.comparison.result import Comparison
from sysvi.comparison.tables import RUN_COLUMNS, USAGE
from sysvi.reporting.findings import Finding
from sysvi.reporting.recipe import comparison_recipes
from sysvi.reporting.runs_content import (
    RunsContent,
    Series,
    Table,
    cells_table,
    mean_point,
    number,
    run_points,
    systems_of,
    with_spread,
)

SCORES = ("score", "chosen", "representative", "overall")  # columns of runs that are neither settings nor metrics
# Metrics that come first, where there are any.
FIRST = ("iLISI", "NMI", "Moran", "Batch correction", "Biological preservation", "Total")
AXIS_NAMES = {"seconds": "time (s)", "peak_mb": "peak memory (MB)", "score": "score within the method"}


def collect_comparison(comparison: Comparison) -> RunsContent:
    """Gather what the report of a comparison shows."""
    runs, table, methods, arguments = comparison.runs, comparison.table, comparison.methods, comparison.arguments
    measured = map(str, runs.columns.drop([*RUN_COLUMNS, *SCORES]))
    metrics = [name for name in measured if runs[name].notna().any()]
    metrics = [*(name for name in FIRST if name in metrics), *(name for name in metrics if name not in FIRST)]
    drawn = [*metrics, "score", *USAGE]
    drawn = [name for name in drawn if runs[name].notna().any()]
    cells = arguments["cells"]
    n_failed = int((runs["status"] != "finished").sum())
    facts = [
        ("Methods with a result", f"{len(table)} of {len(methods)}"),
        ("Runs", f"{len(runs)}"),
        ("Without a result", f"{n_failed}"),
        ("Cells", f"{sum(group['cells'] for group in cells):,}"),
        ("Genes", f"{arguments['genes']:,}"),
        ("Systems", f"{len(systems_of(cells))}"),
    ]
    if len(table):
        facts.insert(0, ("Highest score", str(table["title"].iloc[0])))
    return RunsContent(
        f"Comparison of {len(methods)} {'method' if len(methods) == 1 else 'methods'} of integration",
        tuple(facts),
        tuple(_findings(comparison)),
        comparison.notes,
        tuple(AXIS_NAMES.get(name, name) for name in drawn),
        tuple(_series(runs, table, drawn)),
        "A line joins the settings of a method that were tried; the chosen setting of each method is marked.",
        (
            "Methods",
            "Each method at its chosen setting, best first; means over seeds with standard deviations. The overall "
            "score is 0.6 biology (NMI, Moran's I) + 0.4 mixing (iLISI), scaled over these runs: it ranks these "
            "methods, and means nothing for others. Time and memory are those of the whole process.",
            _methods_table(table, metrics),
        ),
        tuple(_further(comparison)),
        _runs_table(runs, metrics),
        _failures(runs, methods),
        cells_table(cells, arguments["system_key"], arguments["batch_key"]),
        _settings(arguments),
        tuple(f"{name}: {_versions(packages)}." for name, packages in comparison.versions.items()),
        tuple(comparison_recipes(arguments)),
    )


def _setting(row: Any) -> str:
    return f"{row['parameter']} {row['value']}" if row["parameter"] else ""


def _findings(comparison: Comparison) -> Iterator[Finding]:
    table, runs, methods = comparison.table, comparison.runs, comparison.methods
    if table.empty:
        yield Finding("warning", "No method gave a result.", "The reasons are below; the same call tries again.")
    elif table["overall"].notna().any():
        best = table.iloc[0]
        text = f"{best['title']} has the highest overall score, {best['overall']:.2f}"
        if len(table) > 1:
            second = table.iloc[1]
            text += f"; next comes {second['title']} with {second['overall']:.2f}"
            spread = np.nanmax([0.0, best["overall sd"], second["overall sd"]])
            if best["overall"] - second["overall"] <= spread:
                text += ", a difference no larger than that between seeds"
        yield Finding("good", f"{text}.", "Look at mixing and biology too: a score hides which of them a method buys.")
    missing = methods.loc[~methods["method"].isin(table["method"]), "title"]
    if len(missing):
        yield Finding(
            "warning",
            f"Without a result: {', '.join(missing)}.",
            "The reasons are below. The same call with the same output folder tries these again.",
        )
    n_failed = int((runs["status"] != "finished").sum())
    if n_failed:
        yield Finding(
            "warning",
            f"{n_failed} of {len(runs)} runs {'has' if n_failed == 1 else 'have'} no result.",
            "The reasons are below.",
        )
    if len(comparison.arguments["seeds"]) == 1:
        yield Finding(
            "note",
            "Each setting was run once, so it is not known how far scores vary by chance, and nothing is tested.",
            "Run it with three seeds or more.",
        )
    for note in comparison.notes[1:]:
        yield Finding("note", note)


def _series(runs: pd.DataFrame, table: pd.DataFrame, drawn: list[str]) -> Iterator[Series]:
    """A series for each method, in the order of the table."""
    finished = runs[runs["status"] == "finished"]
    for method in table["method"]:
        part = finished[finished["method"] == method]
        means = []
        for _, of_setting in part.groupby(part["value"].astype(str), sort=False):
            first = of_setting.iloc[0]
            name = _setting(first) or str(first["title"])
            means.append(mean_point(name, of_setting, drawn, bool(of_setting["chosen"].any())))
        names = [f"{_setting(row) or row['title']}, seed {row['seed']}" for _, row in part.iterrows()]
        yield Series(str(part["title"].iloc[0]), tuple(means), run_points(names, part, drawn))


def _methods_table(table: pd.DataFrame, metrics: list[str]) -> Table:
    columns = ("Method", "Setting", "Seeds", "Overall", *metrics, "Time (s)", "Peak memory (MB)")
    rows = []
    for _, row in table.iterrows():
        values = [with_spread(row[name], row[f"{name} sd"]) for name in ("overall", *metrics)]
        usage = [with_spread(row[name], row[f"{name} sd"], 0) for name in USAGE]
        rows.append((str(row["title"]), _setting(row), str(row["runs"]), *values, *usage))
    numeric = frozenset(range(2, len(columns)))
    return Table("Methods at their chosen settings", columns, tuple(rows), numeric)


def _further(comparison: Comparison) -> Iterator[tuple[str, str, Table]]:
    """Tests of differences from the best method."""
    tests, table = comparison.tests, comparison.table
    if "p_adjusted" not in tests or len(table) < 2:
        return
    best, titles = table["method"].iloc[0], dict(zip(table["method"], table["title"], strict=True))
    rows = []
    for _, row in tests.iterrows():
        if best not in (row["method_a"], row["method_b"]) or row["metric"] not in FIRST:
            continue
        sign, other = (1, row["method_b"]) if row["method_a"] == best else (-1, row["method_a"])
        note = row["note"] if isinstance(row["note"], str) else ""
        difference = number(sign * row["difference"])
        rows.append((str(row["metric"]), titles[other], difference, number(row["p_adjusted"], 4), note))
    if rows:
        columns = ("Metric", "Other method", "Difference", "Adjusted p", "Note")
        caption = f"{titles[best]} against the other methods"
        text = (
            "Welch's tests over seeds, corrected for the number of pairs. They show how stable the methods are on "
            "these cells, not whether the difference holds on others."
        )
        yield "Differences from the first method", text, Table(caption, columns, tuple(rows), frozenset({2, 3}))


def _runs_table(runs: pd.DataFrame, metrics: list[str]) -> Table:
    columns = ("Method", "Setting", "Seed", "Status", *metrics, "Time (s)", "Peak memory (MB)")
    rows = tuple(
        (
            str(row["title"]),
            _setting(row),
            str(row["seed"]),
            str(row["status"]),
            *(number(row[name]) for name in metrics),
            *(number(row[name], 0) for name in USAGE),
        )
        for _, row in runs.iterrows()
    )
    marked = frozenset(i for i, chosen in enumerate(runs["chosen"]) if chosen)
    numeric = frozenset({2, *range(4, len(columns))})
    return Table("All runs; those of chosen settings are bold", columns, rows, numeric, marked)


def _failures(runs: pd.DataFrame, methods: pd.DataFrame) -> Table:
    missing = methods[~methods["available"].astype(bool)]
    rows = [(str(row["title"]), "", "", f"not available: {row['reason']}") for _, row in missing.iterrows()]
    for _, row in runs[runs["status"] != "finished"].iterrows():
        rows.append((str(row["title"]), _setting(row), str(row["seed"]), row["reason"] or str(row["status"])))
    return Table(
        "Methods and runs without a result", ("Method", "Setting", "Seed", "Reason"), tuple(rows), frozenset({2})
    )


def _settings(arguments: dict[str, Any]) -> Table:
    names = {"label_key": "Column of cell types", "methods": "Methods", "grid": "Settings of each method"}
    names |= {"seeds": "Seeds", "epochs": "Epochs", "timeout": "Longest time of a run (s)", "jobs": "Runs at a time"}
    names |= {"min_cells": "Fewest cells of a type in a batch (Moran's I)", "layer": "Layer"}
    rows = []
    for name, text in names.items():
        value = arguments[name]
        if value is not None:
            rows.append((text, ", ".join(map(str, value)) if isinstance(value, list) else str(value)))
    return Table("Settings of the comparison", ("Setting", "Value"), tuple(rows))


def _versions(packages: dict[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in packages.items())
