"""The tables of a comparison."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from sysvi.evaluation.compare_runs import compare_runs
from sysvi.evaluation.scores import best_setting, paper_scores

FACTS = ["method", "title", "parameter", "value", "seed", "epochs", "status", "reason", "seconds", "peak_mb", "run"]
SCORE = ("iLISI", "NMI", "Moran")
USAGE = ("seconds", "peak_mb")


def scored_runs(runs: pd.DataFrame) -> pd.DataFrame:
    """Runs with the paper's score, and the setting of each method that it chooses.

    Parameters
    ----------
    runs
        A row a run: `FACTS`, then a column a metric.

    Returns
    -------
    pandas.DataFrame
        With further columns ``score`` (scaled over the runs of the method), ``chosen`` (of the setting with the highest
        mean over seeds), ``representative`` (of the chosen setting the run of median score) and ``overall`` (scaled
        over the chosen runs of all methods, which ranks methods; missing in the others).

    Notes
    -----
    Where a method has no overall score (nothing of biology or of mixing could be measured), its first setting is taken.
    """
    runs = runs.assign(score=float("nan"), chosen=False, representative=False, overall=float("nan"))
    for name in SCORE:
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


def summary(runs: pd.DataFrame, metrics: Sequence[str]) -> pd.DataFrame:
    """A row a method at its chosen setting, best overall score first.

    Returns
    -------
    pandas.DataFrame
        ``method``, ``title``, ``parameter``, ``value``, ``runs`` (seeds), ``epochs``; then the mean over seeds of
        ``overall``, of each metric, of ``seconds`` and of ``peak_mb``, and the standard deviation of each in
        ``<name> sd``.
    """
    chosen = runs[runs["chosen"]]
    columns = ["method", "title", "parameter", "value", "runs", "epochs"]
    measured = ["overall", *metrics, *USAGE]
    columns += [f"{name}{end}" for name in measured for end in ("", " sd")]
    if chosen.empty:
        return pd.DataFrame(columns=columns)
    rows = []
    for _, part in chosen.groupby("method", sort=False):
        first = part.iloc[0]
        row = {name: first[name] for name in ("method", "title", "parameter", "value", "epochs")} | {"runs": len(part)}
        for name in measured:
            row |= {name: part[name].mean(), f"{name} sd": part[name].std()}
        rows.append(row)
    table = pd.DataFrame(rows)[columns]
    table["value"] = pd.Series([row["value"] for row in rows], dtype=object)  # 1 and 1.5, not 1.0
    return table.sort_values("overall", ascending=False, kind="stable", ignore_index=True)


def welch(runs: pd.DataFrame, metrics: Sequence[str]) -> pd.DataFrame:
    """Welch's tests between the chosen settings of the methods; no rows where fewer than two methods have runs."""
    chosen = runs[runs["chosen"]]
    if chosen["method"].nunique() < 2:
        return pd.DataFrame(columns=["metric", "method_a", "method_b"])
    names = [name for name in metrics if chosen[name].notna().any()]
    return compare_runs(chosen[["method", "seed", *names]], metrics=names)


def printed(table: pd.DataFrame, methods: pd.DataFrame, notes: Sequence[str]) -> str:
    """For a terminal: a line a method, then the methods without a result and why, then the notes."""
    metrics = {"overall": "overall", **{name: name for name in SCORE}, "seconds": "seconds", "peak_mb": "peak MB"}
    titles = [len(title) for title in table["title"]]
    width = max([*titles, 12]) + 2
    settings = [_setting(row) for _, row in table.iterrows()]
    wide = max([*map(len, settings), 10]) + 2
    lines = [
        "method".ljust(width) + "setting".ljust(wide) + "runs" + "".join(name.rjust(10) for name in metrics.values())
    ]
    for (_, row), setting in zip(table.iterrows(), settings, strict=True):
        values = (_number(row[name], 0 if name in USAGE else 3) for name in metrics)
        lines.append(
            row["title"].ljust(width) + setting.ljust(wide) + f"{row['runs']:4d}" + "".join(v.rjust(10) for v in values)
        )
    for _, method in methods.iterrows():
        if method["reason"]:
            lines.append(f"{method['title']}: {method['reason']}")
    return "\n".join([*lines, "", *notes])


def _setting(row: pd.Series) -> str:
    return f"{row['parameter']} {row['value']}" if row["parameter"] else ""


def _number(value: float, digits: int) -> str:
    return "-" if pd.isna(value) else f"{value:,.{digits}f}"
