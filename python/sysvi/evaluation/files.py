"""An evaluation as text and as files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from sysvi._core.errors import InputError
from sysvi._core.files import write_atomically
from sysvi.evaluation.evaluate import AGGREGATE, Evaluation, embedding_columns
from sysvi.evaluation.plots import plot_evaluation, plot_labels

TABLE, DOCUMENT, LABELS, CELLS = "evaluation.csv", "evaluation.json", "labels.csv", "cells.csv"


def format_evaluation(evaluation: Evaluation) -> str:
    """The table for a terminal: groups as headings, three decimals, then the notes."""
    table = evaluation.table
    embeddings = embedding_columns(table)
    width = max(max(map(len, table.index)), 24) + 4
    columns = [max(len(name), 7) + 2 for name in embeddings]
    lines = [" " * width + "".join(name.rjust(w) for name, w in zip(embeddings, columns, strict=True))]
    for group, rows in table.groupby("group", sort=False):
        lines.append(str(group).capitalize() + (" scores" if group == AGGREGATE else ""))
        for metric, row in rows.iterrows():
            name = f"  {metric}" + ("" if row["in_score"] or group == AGGREGATE else " *")
            values = ("-" if pd.isna(row[e]) else f"{row[e]:.3f}" for e in embeddings)
            lines.append(name.ljust(width) + "".join(v.rjust(w) for v, w in zip(values, columns, strict=True)))
    lines += ["", "Higher is better. * does not count in the scores.", *evaluation.notes]
    return "\n".join(lines)


def check_output_folder(folder: Path, overwrite: bool) -> None:
    """Refuse a folder that holds results already, before any work is done.

    Raises
    ------
    InputError
        If it does and `overwrite` is False.
    """
    if (folder / TABLE).exists() and not overwrite:
        raise InputError(f"{folder / TABLE} exists already; pass --overwrite to replace it, or another folder.")


def write_evaluation(evaluation: Evaluation, folder: str | Path, figures: str = "png") -> list[Path]:
    """Write an evaluation into a folder, each file whole or not at all.

    Parameters
    ----------
    evaluation
        What `sysvi.evaluate_in_detail` returned.
    folder
        Made if it is missing.
    figures
        ``"png"``, ``"pdf"`` or ``"svg"``.

    Returns
    -------
    list of Path
        evaluation.csv, evaluation.json (table and notes), cells.csv, the figure evaluation; with labels also
        labels.csv and the figure labels.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    cells = evaluation.per_cell.copy()
    cells.columns = cells.columns.map(": ".join)
    writers: dict[str, Callable[[Path], object]] = {
        TABLE: lambda path: evaluation.table.to_csv(path, index_label="metric"),
        DOCUMENT: lambda path: path.write_text(json.dumps(_document(evaluation), indent=1, allow_nan=False) + "\n"),
        CELLS: lambda path: cells.to_csv(path, index_label="cell", float_format="%.6g"),
    }
    if not evaluation.per_label.empty:
        writers[LABELS] = lambda path: evaluation.per_label.to_csv(path, index=False)
    for name, write in writers.items():
        write_atomically(folder / name, write)
    paths = [folder / name for name in writers]
    drawings = [folder / f"evaluation.{figures}"]
    plot_evaluation(evaluation.table, drawings[0])
    if (evaluation.per_label["by"] == "label").any():
        drawings.append(folder / f"labels.{figures}")
        plot_labels(evaluation.per_label, drawings[1])
    return paths + drawings


def _document(evaluation: Evaluation) -> dict[str, object]:
    """For JSON, which has no NaN."""
    table = evaluation.table.astype(object).replace({np.nan: None})
    return {"table": table.rename_axis("metric").reset_index().to_dict("records"), "notes": list(evaluation.notes)}
