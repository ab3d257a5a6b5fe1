"""Write a comparison to a folder: tables, versions, notes and figures."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from sysvi._core.events import Event, OnEvent
from sysvi._core.files import reading_results, write_atomically
from sysvi._core.tables import write_csv
from sysvi.comparison.result import Comparison
from sysvi.comparison.runs import EMBEDDING

ARGUMENTS = "comparison.json"
TABLES = ("table", "runs", "methods", "tests")
DRAWN_METRICS = ("iLISI", "NMI", "Moran", "Batch correction", "Biological preservation", "Total")


def write_comparison(comparison: Comparison, obs: pd.DataFrame, figures: str, on_event: OnEvent) -> None:
    """Write all files of a comparison into its folder; no file is ever incomplete.

    Parameters
    ----------
    comparison
        Comparison with its tables.
    obs
        Columns ``system`` and ``label`` of the cells, for the UMAPs.
    figures
        Format of the figures: ``"png"``, ``"pdf"`` or ``"svg"``.
    on_event
        Function that receives an event when all is written.
    """
    folder = comparison.folder
    tables = {
        "runs": comparison.runs,
        "methods": comparison.methods,
        "table": comparison.table,
        "tests": comparison.tests,
    }
    for name, table in tables.items():
        write_atomically(folder / f"{name}.csv", partial(write_csv, table, index=False))
    versions = json.dumps(comparison.versions, indent=1) + "\n"
    write_atomically(folder / "versions.json", lambda path: path.write_text(versions))
    arguments = json.dumps(comparison.arguments, indent=1) + "\n"
    write_atomically(folder / ARGUMENTS, lambda path: path.write_text(arguments, encoding="utf-8"))
    write_atomically(
        folder / "notes.txt", lambda path: path.write_text("\n".join(comparison.notes) + "\n", encoding="utf-8")
    )
    if comparison.table.empty:
        for name in ("comparison", "umaps"):  # figures of an earlier comparison in this folder
            (folder / f"{name}.{figures}").unlink(missing_ok=True)
    else:
        _draw(comparison, obs, figures)
    on_event(Event("write", f"Wrote the tables and figures into {folder}", {"output": str(folder)}))


def read_comparison(folder: str | Path) -> Comparison:
    """Read the files of a comparison.

    Raises
    ------
    InputError
        If one is missing or damaged, or was written by an earlier version.
    """
    folder = Path(folder)
    with reading_results(folder, "a comparison", "sysvi.compare"):
        table, runs, methods, tests = (
            pd.read_csv(folder / f"{name}.csv", float_precision="round_trip", dtype=_as_text(name)) for name in TABLES
        )
        versions, arguments = (
            json.loads((folder / name).read_text(encoding="utf-8")) for name in ("versions.json", ARGUMENTS)
        )
        notes = tuple((folder / "notes.txt").read_text(encoding="utf-8").splitlines())
        _ = arguments["cells"], runs["chosen"], methods["reason"]
    for each, names in ((runs, ("reason", "parameter", "value")), (methods, ("reason", "version"))):
        each[list(names)] = each[list(names)].fillna("")
    table["value"], table["parameter"] = table["value"].fillna(""), table["parameter"].fillna("")
    return Comparison(table, runs, methods, tests, versions, notes, folder, arguments)


def _as_text(name: str) -> dict[str, Any]:
    """Columns of a table that are text, though some look like numbers."""
    return {"value": str, "parameter": str} if name in ("table", "runs") else {}


def _draw(comparison: Comparison, obs: pd.DataFrame, figures: str) -> None:
    """Draw the scores, and UMAPs of each method's representative run."""
    from sysvi.comparison.figures import plot_comparison, plot_umaps  # imports matplotlib

    folder, table, runs, methods = comparison.folder, comparison.table, comparison.runs, comparison.methods
    missing = methods.loc[~methods["method"].isin(table["method"]), "title"]
    plot_comparison(
        runs,
        table,
        ["overall", *DRAWN_METRICS],
        folder / f"comparison.{figures}",
        without_result=[f"{title} (no result)" for title in missing],
        note=" ".join(comparison.notes),
    )
    representative = runs[runs["representative"]].set_index("method").loc[table["method"]]
    embeddings = {
        title: np.load(folder / "runs" / run / EMBEDDING)
        for title, run in zip(representative["title"], representative["run"], strict=True)
    }
    plot_umaps(embeddings, obs, ["system", "label"], folder / f"umaps.{figures}")
