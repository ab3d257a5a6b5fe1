"""The results of paper/methods.py (Fig. 5: every method over its grid) as Markdown."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import pandas as pd
from results import RESULTS, markdown, number

from sysvi.comparison.methods import read_methods
from sysvi.comparison.tables import summary_table

SETS = {
    "baron": "Baron islets, human and mouse",
    "kang": "Kang, control and stimulated",
    "protocols": "human islets, four protocols",
    "hard": "hard simulation",
    "held_out": "held-out simulation",
    "malaria": "malaria parasites",
}
# Metrics of a table: name in the results, heading.
METRICS = {
    "iLISI": "iLISI",
    "CiLISI": "CiLISI",
    "NMI": "NMI",
    "Moran": "Moran",
    "kNN purity": "same type among neighbours",
    "private mixed": "private types mixed",
}
LEAST = 0.005  # smallest difference that is listed, which is 0.01 when rounded


def path(name: str, suffix: str = "") -> Path:
    """File of a table of one set."""
    return RESULTS / f"paper_fig5_{name}{suffix}.csv"


@functools.cache
def runs_of(name: str) -> pd.DataFrame:
    """The finished runs on one set; none if it was not run."""
    if not path(name).exists():
        return pd.DataFrame(columns=["method", "value", "chosen", "overall"])
    runs = pd.read_csv(path(name), dtype={"value": str}).fillna({"parameter": "", "value": ""})
    return runs[runs["status"] == "finished"]


@functools.cache
def best_of(name: str) -> pd.DataFrame:
    """A row for each method at its best setting on one set, best first, with means over seeds."""
    runs = runs_of(name)
    table = summary_table(runs, [metric for metric in METRICS if metric in runs and runs[metric].notna().any()])
    return table.assign(settings=table["method"].map(runs.groupby("method")["value"].nunique()))


@functools.cache
def methods_of(name: str) -> pd.DataFrame:
    """A row for each method that was asked for on one set: title, version, reason why there is no result."""
    return pd.read_csv(path(name, "_methods")).fillna({"reason": ""}).set_index("method")


def table_of(name: str) -> str:
    """The methods on one set at their best setting, best first, and those without a result."""
    if best_of(name).empty:
        return "Not run yet."
    table = best_of(name)
    shown = {metric: heading for metric, heading in METRICS.items() if metric in table}
    rows = []
    for row in table.to_dict("records"):
        title = f"**{row['title']}**" if row["method"] == "sysvi" else row["title"]
        setting = f", {row['parameter'].replace('_', ' ')} {row['value']}" if row["parameter"] else ""
        spread = f" ± {row['overall sd']:.2f}" if pd.notna(row["overall sd"]) else ""
        rows.append(
            [title + setting, row["settings"], row["runs"], number(row["overall"]) + spread,
             *(number(row[metric]) for metric in shown), number(row["seconds"], 0), number(row["peak_mb"], 0)]
        )  # fmt: skip
    methods = methods_of(name)
    without = [
        f"{row['title']} ({row['reason'].rstrip('.')})" for _, row in methods[methods["finished"] == 0].iterrows()
    ]
    without += [f"{method.title} (not run yet)" for key, method in read_methods().items() if key not in methods.index]
    text = markdown(["at its best setting", "settings", "seeds", "overall", *shown.values(), "s", "MB"], rows)
    return f"{text}\n\nWithout a result: {'; '.join(without)}." if without else text


def overall() -> str:
    """The paper's score of each method on each set, at its best setting."""
    sets = {name: title for name, title in SETS.items() if not best_of(name).empty}
    scores = {title: best_of(name).set_index("title")["overall"] for name, title in sets.items()}
    table = pd.DataFrame(scores)
    table = table.loc[table.mean(axis=1).sort_values(ascending=False).index]
    return markdown(["method", *table.columns], ([title, *map(number, row)] for title, row in table.iterrows()))


def behind() -> str:
    """In what sysVI is worse than each method that uses no cell types, on each set."""
    parts = []
    for name, title in SETS.items():
        if "sysvi" in set(best_of(name)["method"]):
            lines = behind_on(name) or ["- in nothing that was measured."]
            parts.append(f"On **{title}**:\n\n" + "\n".join(lines))
    return "\n\n".join(parts)


def behind_on(name: str) -> list[str]:
    """In what sysVI is worse than each method that uses no cell types on one set, a line for each method."""
    tests, labels, lines = pd.read_csv(path(name, "_tests")), methods_of(name)["labels"], []
    for method, title in best_of(name).set_index("method")["title"].items():
        of_method = tests[tests["method"] == method]
        worse = np.where(of_method["metric"] == "private mixed", 1, -1) * of_method["difference"] > LEAST
        parts = [
            f"{METRICS.get(row['metric'], row['metric'])} by {abs(row['difference']):.2f}"
            + (f" (p {row['p_adjusted']:.2g})" if pd.notna(row["p_adjusted"]) else "")
            for _, row in of_method[worse].iterrows()
        ]
        if parts and not labels[method]:
            lines.append(f"- {title}: {', '.join(parts)}.")
    return lines
