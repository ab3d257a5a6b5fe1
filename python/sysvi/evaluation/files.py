"""Output of an evaluation: text for the terminal, tables and figures."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from sysvi._core.arguments import check_types
from sysvi._core.errors import InputError
from sysvi._core.files import check_folder, create_folder, write_atomically
from sysvi._core.tables import write_csv
from sysvi.evaluation.evaluate import Evaluation
from sysvi.evaluation.multiqc import multiqc_document
from sysvi.evaluation.plots import plot_evaluation, plot_labels
from sysvi.evaluation.scib_table import scib_table
from sysvi.evaluation.tables import AGGREGATE, embedding_columns

TABLE_FILE, JSON_FILE, LABEL_FILE, CELL_FILE = "evaluation.csv", "evaluation.json", "labels.csv", "cells.csv"
MULTIQC_FILE, SCIB_FILE = "evaluation_mqc.json", "scib.csv"


def format_evaluation(evaluation: Evaluation) -> str:
    """Format the table for a terminal: groups as headings, three decimals, then the notes."""
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
    lines += ["", "Higher is better. * not counted in the aggregated scores.", *evaluation.notes]
    return "\n".join(lines)


def check_output_folder(folder: Path, overwrite: bool) -> None:
    """Check, before any work is done, that a folder can be written to and holds no results that must be kept.

    Raises
    ------
    InputError
        If it cannot be created or written to, or it holds results and `overwrite` is False.
    """
    if (folder / TABLE_FILE).exists() and not overwrite:
        raise InputError(f"{folder / TABLE_FILE} exists already; pass --overwrite to replace it, or another folder.")
    check_folder(folder, may_be_missing=True)


def write_evaluation(
    evaluation: Evaluation, folder: str | Path, figures: str = "png", *, overwrite: bool = True
) -> list[Path]:
    """Write an evaluation into a folder; each file is written completely or not at all.

    Parameters
    ----------
    evaluation
        Result of `sysvi.evaluate_in_detail`.
    folder
        Output folder, created if it does not exist.
    figures
        Format of the figures: ``"png"``, ``"pdf"`` or ``"svg"``.
    overwrite
        Whether an evaluation in the folder may be replaced. If not, one that another run wrote in the meantime is kept.

    Returns
    -------
    list of Path
        Files written: evaluation.csv, evaluation.json (table and notes), evaluation_mqc.json (the table for a MultiQC
        report), cells.csv and the figure evaluation; with labels also labels.csv and the figure labels; with metrics
        that scib-metrics has, too, scib.csv (`sysvi.scib_table`).

    Raises
    ------
    InputError
        If an evaluation is kept (the table of this one is then beside it, under a name that the message gives), or a
        file cannot be written.
    """
    check_types(write_evaluation, evaluation=evaluation, folder=folder, figures=figures, overwrite=overwrite)
    folder = create_folder(folder)
    cells = evaluation.per_cell.copy()
    cells.columns = cells.columns.map(": ".join)
    writers: dict[str, Callable[[Path], object]] = {
        TABLE_FILE: lambda path: write_csv(evaluation.table, path, index_label="metric"),
        JSON_FILE: lambda path: _write_json(_json_document(evaluation), path),
        MULTIQC_FILE: lambda path: _write_json(multiqc_document(evaluation), path),
        CELL_FILE: lambda path: write_csv(cells, path, index_label="cell", float_format="%.6g"),
    }
    if not evaluation.per_label.empty:
        writers[LABEL_FILE] = lambda path: write_csv(evaluation.per_label, path, index=False)
    scib = scib_table(evaluation)
    if not scib.empty:
        writers[SCIB_FILE] = lambda path: write_csv(scib, path, index_label="Embedding")
    for name, write in writers.items():
        write_atomically(folder / name, write, overwrite=overwrite or name != TABLE_FILE)  # the table comes first
    paths = [folder / name for name in writers]
    figure_paths = [folder / f"evaluation.{figures}"]
    plot_evaluation(evaluation.table, figure_paths[0])
    if (evaluation.per_label["by"] == "label").any():
        figure_paths.append(folder / f"labels.{figures}")
        plot_labels(evaluation.per_label, figure_paths[1])
    return paths + figure_paths


def _write_json(document: dict[str, object], path: Path) -> None:
    """Write a document as JSON; NaN, which JSON does not have, is an error."""
    path.write_text(json.dumps(document, indent=1, allow_nan=False) + "\n")


def _json_document(evaluation: Evaluation) -> dict[str, object]:
    """Convert the table and the notes for JSON, which has null in place of NaN."""
    table = evaluation.table.astype(object).replace({np.nan: None})
    return {"table": table.rename_axis("metric").reset_index().to_dict("records"), "notes": list(evaluation.notes)}
