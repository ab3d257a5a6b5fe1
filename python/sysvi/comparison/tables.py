"""The tables of a comparison."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from sysvi.comparison.environments import Environment
from sysvi.comparison.methods import Method
from sysvi.comparison.runs import MethodRun, read_run
from sysvi.evaluation.scores import best_setting, paper_scores

# Columns of the table of runs that are not metrics.
RUN_COLUMNS = ["method", "title", "parameter", "value", "seed", "epochs"]
RUN_COLUMNS += ["status", "reason", "seconds", "peak_mb", "run"]
SCORED_METRICS = ("iLISI", "NMI", "Moran")  # metrics that the paper's score consists of
USAGE = ("seconds", "peak_mb")


def runs_table(runs: Sequence[MethodRun], folder: Path, failures: Mapping[str, str]) -> tuple[pd.DataFrame, list[str]]:
    """The table of runs and the names of the metrics in it.

    Parameters
    ----------
    runs
        All runs of the comparison.
    folder
        Folder of the runs.
    failures
        Reasons why runs failed, by the run's name.

    Returns
    -------
    table
        One row for each run: `RUN_COLUMNS`, one column for each metric, and the columns of `scored_runs`.
    metrics
        Names of the metrics.
    """
    rows = []
    for run in runs:
        record = read_run(folder, run) or {}
        finished = "scores" in record and run.name not in failures
        row = {
            "method": run.method.name,
            "title": run.method.title,
            "parameter": run.parameter,
            "value": run.value,
            "seed": run.seed,
            "epochs": run.epochs if run.method.epochs else None,
            "status": "finished" if finished else "failed" if run.name in failures else "not run",
            "reason": failures.get(run.name, ""),
            "seconds": record.get("seconds"),
            "peak_mb": record.get("peak_mb"),
            "run": run.name,
        }
        rows.append(row | (record["scores"] if finished else {}))
    metrics = list(dict.fromkeys(name for row in rows for name in row if name not in RUN_COLUMNS))
    table = pd.DataFrame(rows, columns=[*RUN_COLUMNS, *metrics])
    table = table.astype(dict.fromkeys([*USAGE, *metrics], float))
    table["value"] = pd.Series([run.value for run in runs], dtype=object)  # as declared: 1 and 1.5, not 1.0 and 1.5
    return scored_runs(table), metrics


def methods_table(
    methods: Sequence[Method],
    environments: Mapping[str, Environment],
    reasons: Mapping[str, str],
    runs: pd.DataFrame,
) -> pd.DataFrame:
    """The table of methods: whether each is available, its version and how its runs ended.

    Parameters
    ----------
    methods
        Methods that were asked for.
    environments
        Environments of the available methods, by method name.
    reasons
        Why the other methods are not available, by method name.
    runs
        Table of runs.
    """
    rows = []
    for method in methods:
        status = runs.loc[runs["method"] == method.name, "status"]
        failed = status == "failed"
        reason = reasons.get(method.name, "")
        if not failed.empty and failed.all():
            reason = f"all runs failed: {runs.loc[status.index[0], 'reason']}"
        environment = environments.get(method.name)
        rows.append(
            {
                "method": method.name,
                "title": method.title,
                "available": environment is not None,
                "version": "" if environment is None else environment.version_of(method.package),
                "reason": reason,
                "finished": int((status == "finished").sum()),
                "failed": int(failed.sum()),
                "labels": method.labels,
                "settings": json.dumps(method.settings),
                "grid": json.dumps(method.grid),
                "dependencies": " ".join(method.dependencies),
            }
        )
    return pd.DataFrame(rows)


def scored_runs(runs: pd.DataFrame) -> pd.DataFrame:
    """Add the paper's score of each run and the setting that it chooses for each method.

    Parameters
    ----------
    runs
        One row for each run: `RUN_COLUMNS` and one column for each metric.

    Returns
    -------
    pandas.DataFrame
        The table with further columns. ``score`` is scaled over the runs of the method. ``chosen`` marks the runs of
        the setting with the highest mean score over seeds, ``representative`` the one of them with the median score.
        ``overall`` is scaled over the chosen runs of all methods and ranks the methods; it is missing in other runs.

    Notes
    -----
    A method without any score (if nothing of biology or of mixing could be measured) gets its first setting chosen.
    """
    runs = runs.assign(score=float("nan"), chosen=False, representative=False, overall=float("nan"))
    for name in SCORED_METRICS:
        if name not in runs:
            runs[name] = float("nan")
    for _, rows in runs[runs["status"] == "finished"].groupby("method", sort=False):
        scored = paper_scores(rows)
        runs.loc[rows.index, "score"] = scored["overall"]
        best = best_setting(scored, ["parameter", "value"])
        if best.empty:
            first = rows.iloc[0]
            same = (rows["parameter"] == first["parameter"]) & (rows["value"].astype(str) == str(first["value"]))
            best = rows[same]
        runs.loc[best.index, "chosen"] = True
        runs.loc[best.index[0], "representative"] = True
    if runs["chosen"].any():
        runs.loc[runs["chosen"], "overall"] = paper_scores(runs[runs["chosen"]])["overall"]
    return runs


def summary_table(runs: pd.DataFrame, metrics: Sequence[str]) -> pd.DataFrame:
    """Summarise each method at its chosen setting, best overall score first.

    Returns
    -------
    pandas.DataFrame
        One row for each method: ``method``, ``title``, ``parameter``, ``value``, ``runs`` (number of seeds) and
        ``epochs``; then, for ``overall``, each metric, ``seconds`` and ``peak_mb``, the mean over seeds and the
        standard deviation (``<name> sd``).
    """
    chosen = runs[runs["chosen"]]
    columns = ["method", "title", "parameter", "value", "runs", "epochs"]
    averaged = ["overall", *metrics, *USAGE]
    columns += [f"{name}{suffix}" for name in averaged for suffix in ("", " sd")]
    if chosen.empty:
        return pd.DataFrame(columns=columns)
    rows = []
    for _, part in chosen.groupby("method", sort=False):
        first = part.iloc[0]
        row = {name: first[name] for name in ("method", "title", "parameter", "value", "epochs")} | {"runs": len(part)}
        for name in averaged:
            row |= {name: part[name].mean(), f"{name} sd": part[name].std()}
        rows.append(row)
    table = pd.DataFrame(rows)[columns]
    table["value"] = pd.Series([row["value"] for row in rows], dtype=object)  # as declared: 1 and 1.5, not 1.0 and 1.5
    return table.sort_values("overall", ascending=False, kind="stable", ignore_index=True)


def tests_table(runs: pd.DataFrame, metrics: Sequence[str]) -> pd.DataFrame:
    """Welch's tests between the chosen settings of the methods; no rows if fewer than two methods have runs."""
    from sysvi.evaluation.compare_runs import compare_runs

    chosen = runs[runs["chosen"]]
    if chosen["method"].nunique() < 2:
        return pd.DataFrame(columns=["metric", "method_a", "method_b"])
    measured = [name for name in metrics if chosen[name].notna().any()]
    return compare_runs(chosen[["method", "seed", *measured]], metrics=measured)


def format_comparison(table: pd.DataFrame, methods: pd.DataFrame, notes: Sequence[str]) -> str:
    """Text for a terminal: one line for each method, then why other methods have no result, then the notes."""
    shown = {name: name for name in ("overall", *SCORED_METRICS, "seconds")} | {"peak_mb": "peak MB"}
    settings = [_format_setting(row) for _, row in table.iterrows()]
    title_width = max([*map(len, table["title"]), 12]) + 2
    setting_width = max([*map(len, settings), 10]) + 2
    header = "method".ljust(title_width) + "setting".ljust(setting_width) + "runs"
    lines = [header + "".join(name.rjust(10) for name in shown.values())]
    for (_, row), setting in zip(table.iterrows(), settings, strict=True):
        values = (_format_number(row[name], 0 if name in USAGE else 3) for name in shown)
        line = row["title"].ljust(title_width) + setting.ljust(setting_width) + f"{row['runs']:4d}"
        lines.append(line + "".join(value.rjust(10) for value in values))
    for _, method in methods[methods["reason"] != ""].iterrows():
        lines.append(f"{method['title']}: {method['reason']}")
    return "\n".join([*lines, "", *notes])


def _format_setting(row: pd.Series) -> str:
    return f"{row['parameter']} {row['value']}" if row["parameter"] else ""


def _format_number(value: float, digits: int) -> str:
    return "-" if pd.isna(value) else f"{value:,.{digits}f}"
