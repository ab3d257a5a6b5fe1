"""Figures of an evaluation: the table with dots and bars, and a heat map by label."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sysvi._core.errors import InputError
from sysvi._core.figures import save_figure
from sysvi.evaluation.evaluate import AGGREGATE, embedding_columns

DOTS, BARS, HEAT = colormaps["PRGn"], colormaps["YlGnBu"], colormaps["viridis"]


def plot_evaluation(table: pd.DataFrame, path: str | Path) -> None:
    """Draw an evaluation's table: rows are embeddings, best total first; dots are metrics, bars aggregated scores.

    Metrics that could not be measured are left out. Dots are as large and as green as the score is high; names in
    grey do not count in the scores.

    Parameters
    ----------
    table
        What `sysvi.evaluate` returned.
    path
        The PNG, PDF or SVG to write.

    Raises
    ------
    InputError
        If the table holds no score.
    """
    embeddings = embedding_columns(table)
    table = table[table[embeddings].notna().any(axis=1)]
    if table.empty:
        raise InputError("The table holds no score that could be drawn.")
    if "Total" in table.index:
        total = {name: float(table[name]["Total"]) for name in embeddings}
        embeddings.sort(key=lambda name: -np.inf if np.isnan(total[name]) else total[name], reverse=True)
    name_width = 0.11 * max(map(len, embeddings)) + 0.4  # inches
    figure = Figure(figsize=(name_width + 0.82 * (len(table) + 0.3), 1.9 + 0.62 * len(embeddings)))
    ax = figure.add_axes((0, 0, 1, 1))
    ax.set(xlim=(-name_width / 0.82, len(table) + 0.3), ylim=(len(embeddings) + 0.35, -2.4))
    ax.axis("off")
    for row, name in enumerate(embeddings):
        ax.text(-0.25, row + 0.5, name, ha="right", va="center", weight="bold")
        ax.axhline(row, xmin=0.01, xmax=0.99, color="0.8", linewidth=0.8, linestyle=":")
    for column, (metric, values) in enumerate(table.iterrows()):
        draw = _bar if values["group"] == AGGREGATE else _dot
        for row, name in enumerate(embeddings):
            if pd.notna(values[name]):
                draw(ax, column, row, float(values[name]))
        color = "black" if values["in_score"] or values["group"] == AGGREGATE else "0.55"
        ax.text(column + 0.5, -0.15, _wrapped(str(metric)), ha="center", va="bottom", fontsize=8.5, color=color)
    _headings(ax, table["group"])
    save_figure(figure, path)


def plot_labels(per_label: pd.DataFrame, path: str | Path) -> None:
    """Draw the metrics of each label as a heat map: one panel a metric, labels down, embeddings across.

    Parameters
    ----------
    per_label
        `Evaluation.per_label`: columns embedding, metric, by, name and value.
    path
        The PNG, PDF or SVG to write.

    Raises
    ------
    InputError
        If there is nothing by label.
    """
    per_label = per_label[per_label["by"] == "label"]
    if per_label.empty:
        raise InputError("Nothing was measured by label: evaluate with label_key.")
    metrics = list(dict.fromkeys(per_label["metric"]))
    embeddings = list(dict.fromkeys(per_label["embedding"]))
    labels = sorted(per_label["name"].unique())
    width, height = 0.62 * len(embeddings) + 0.35, 0.3 * len(labels)  # of a panel, inches
    left, top = 0.09 * max(map(len, labels)) + 0.3, 0.6
    bottom = 0.085 * max(map(len, embeddings)) + 0.4
    columns = min(len(metrics), max(1, int(12 / width)))
    rows = -(-len(metrics) // columns)
    across, down = left + columns * width + 0.9, rows * (top + height + bottom)
    figure = Figure(figsize=(across, down))
    for i, metric in enumerate(metrics):
        row, column = divmod(i, columns)
        values = per_label[per_label["metric"] == metric].pivot(index="name", columns="embedding", values="value")
        values = values.reindex(index=labels, columns=embeddings)
        floor = (rows - 1 - row) * (top + height + bottom) + bottom
        ax = figure.add_axes(((left + column * width) / across, floor / down, (width - 0.35) / across, height / down))
        image = ax.imshow(np.clip(values, 0, 1), vmin=0, vmax=1, cmap=HEAT, aspect="auto")
        for (y, x), value in np.ndenumerate(values.to_numpy()):
            if np.isfinite(value):
                ax.text(
                    x, y, f"{value:.2f}", ha="center", va="center", fontsize=7, color="white" if value < 0.6 else "0"
                )
        ax.set_title(_wrapped(metric), fontsize=9)
        ax.set_xticks(range(len(embeddings)), embeddings, rotation=90, fontsize=8)
        ax.set_yticks(range(len(labels)), labels if column == 0 else [], fontsize=8)
        ax.tick_params(length=0)
        ax.set_facecolor("0.9")  # not measured
        ax.spines[:].set_visible(False)
    scale = figure.add_axes((1 - 0.75 / across, 1 - (top + height) / down, 0.15 / across, height / down))
    figure.colorbar(image, cax=scale)
    scale.tick_params(labelsize=8)
    save_figure(figure, path)


def _dot(ax: Axes, column: int, row: int, value: float) -> None:
    size = float(np.clip(value, 0, 1))
    ax.scatter(column + 0.5, row + 0.5, s=280 + 420 * size, color=DOTS(0.15 + 0.7 * size), linewidths=0)
    color = "white" if size < 0.15 or size > 0.85 else "black"
    ax.text(column + 0.5, row + 0.5, f"{value:.2f}", ha="center", va="center", fontsize=8, color=color)


def _bar(ax: Axes, column: int, row: int, value: float) -> None:
    size = float(np.clip(value, 0, 1))
    ax.barh(row + 0.5, 0.92 * size, left=column + 0.04, height=0.72, color=BARS(0.2 + 0.5 * size))
    ax.text(column + 0.1, row + 0.5, f"{value:.2f}", ha="left", va="center", fontsize=9)


def _headings(ax: Axes, groups: pd.Series) -> None:
    """Name the groups of columns above a line."""
    for group in dict.fromkeys(groups):
        columns = np.flatnonzero(groups == group)
        first, last = columns[0] + 0.08, columns[-1] + 0.92
        title = str(group).capitalize() + (" scores" if group == AGGREGATE else "")
        ax.plot([first, last], [-1.5, -1.5], color="black", linewidth=1)
        ax.text((first + last) / 2, -1.62, title if len(columns) > 1 else _wrapped(title), ha="center", va="bottom")


def _wrapped(name: str) -> str:
    """A name on short lines."""
    return name.replace(" ", "\n").replace("\n(", " (", 1) if len(name) > 9 else name
