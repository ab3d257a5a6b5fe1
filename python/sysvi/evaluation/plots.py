"""Figures of evaluations: table of metrics, heat map by label, and distances between samples."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from sysvi._core.arguments import check_types
from sysvi._core.errors import InputError
from sysvi._core.figures import add_color_bar, annotated_heat_map, save_figure
from sysvi.evaluation.batch_strength import BatchStrength
from sysvi.evaluation.tables import AGGREGATE, embedding_columns

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CELL_WIDTH = 0.82  # inches per metric in the figure of the table


def plot_evaluation(table: pd.DataFrame, path: str | Path) -> None:
    """Plot the table of an evaluation: one row per embedding, with dots for metrics and bars for aggregated scores.

    Embeddings are sorted by their total score. Larger and greener dots mean higher values. Metrics in grey do not count
    in the aggregated scores; metrics that could not be measured are left out.

    Parameters
    ----------
    table
        Result of `sysvi.evaluate`.
    path
        Output file; PNG, PDF or SVG by its ending.

    Raises
    ------
    InputError
        If the table holds no value.
    """
    from matplotlib.figure import Figure

    check_types(plot_evaluation, table=table, path=path)
    embeddings = embedding_columns(table)
    table = table[table[embeddings].notna().any(axis=1)]
    if table.empty:
        raise InputError(
            "The table holds no value that could be drawn: evaluate at least one metric that can be measured."
        )
    if "Total" in table.index:
        total = {name: float(table[name]["Total"]) for name in embeddings}
        embeddings.sort(key=lambda name: -np.inf if np.isnan(total[name]) else total[name], reverse=True)
    name_width = 0.11 * max(map(len, embeddings)) + 0.4  # inches
    figure = Figure(figsize=(name_width + CELL_WIDTH * (len(table) + 0.3), 1.9 + 0.62 * len(embeddings)))
    ax = figure.add_axes((0, 0, 1, 1))
    ax.set(xlim=(-name_width / CELL_WIDTH, len(table) + 0.3), ylim=(len(embeddings) + 0.35, -2.4))
    ax.axis("off")
    for row, name in enumerate(embeddings):
        ax.text(-0.25, row + 0.5, name, ha="right", va="center", weight="bold")
        ax.axhline(row, xmin=0.01, xmax=0.99, color="0.8", linewidth=0.8, linestyle=":")
    for column, (metric, values) in enumerate(table.iterrows()):
        draw = _draw_bar if values["group"] == AGGREGATE else _draw_dot
        for row, name in enumerate(embeddings):
            if pd.notna(values[name]):
                draw(ax, column, row, float(values[name]))
        color = "black" if values["in_score"] or values["group"] == AGGREGATE else "0.55"
        ax.text(column + 0.5, -0.15, _on_short_lines(str(metric)), ha="center", va="bottom", fontsize=8.5, color=color)
    _draw_group_headings(ax, table["group"])
    save_figure(figure, path)


def plot_labels(per_label: pd.DataFrame, path: str | Path) -> None:
    """Plot the values by label as heat maps: one panel per metric, with labels as rows and embeddings as columns.

    Parameters
    ----------
    per_label
        `Evaluation.per_label`: columns embedding, metric, by, name and value.
    path
        Output file; PNG, PDF or SVG by its ending.

    Raises
    ------
    InputError
        If there are no values by label.
    """
    from matplotlib.figure import Figure

    check_types(plot_labels, per_label=per_label, path=path)
    per_label = per_label[per_label["by"] == "label"]
    if per_label.empty:
        raise InputError("Nothing was measured by label: evaluate with label_key.")
    metrics = list(dict.fromkeys(per_label["metric"]))
    embeddings = list(dict.fromkeys(per_label["embedding"]))
    labels = sorted(per_label["name"].unique())
    width, height = 0.62 * len(embeddings) + 0.35, 0.3 * len(labels)  # inches per panel
    left, top = 0.09 * max(map(len, labels)) + 0.3, 0.6
    bottom = 0.085 * max(map(len, embeddings)) + 0.4
    columns = min(len(metrics), max(1, int(12 / width)))
    rows = -(-len(metrics) // columns)
    figure_width, figure_height = left + columns * width + 0.9, rows * (top + height + bottom)
    figure = Figure(figsize=(figure_width, figure_height))
    for i, metric in enumerate(metrics):
        row, column = divmod(i, columns)
        values = per_label[per_label["metric"] == metric].pivot(index="name", columns="embedding", values="value")
        values = values.reindex(index=labels, columns=embeddings)
        y0 = (rows - 1 - row) * (top + height + bottom) + bottom
        ax = figure.add_axes(
            (
                (left + column * width) / figure_width,
                y0 / figure_height,
                (width - 0.35) / figure_width,
                height / figure_height,
            )
        )
        numbers = values.map(lambda value: f"{value:.2f}" if np.isfinite(value) else "").to_numpy()
        image = annotated_heat_map(ax, values.to_numpy(), numbers, labels if column == 0 else [], embeddings)
        ax.set_title(_on_short_lines(metric), fontsize=9)
        ax.set_facecolor("0.9")  # shows where values are missing
    box = (1 - 0.75 / figure_width, 1 - (top + height) / figure_height, 0.15 / figure_width, height / figure_height)
    add_color_bar(figure, image, box)
    save_figure(figure, path)


def plot_batch_strength(strength: BatchStrength, path: str | Path) -> None:
    """Plot the distances between samples within and between systems, for each cell type.

    Parameters
    ----------
    strength
        Result of :func:`sysvi.batch_strength`.
    path
        Output file; PNG, PDF or SVG by its ending.

    Raises
    ------
    InputError
        If there are no distances, or the file cannot be written.
    """
    from matplotlib.figure import Figure

    check_types(plot_batch_strength, strength=strength, path=path)
    distances = strength.distances
    if distances.empty:
        raise InputError("There are no two samples of one cell type, so there are no distances to draw.")
    medians = distances.groupby(["label", "kind"])["distance"].median().unstack("kind")
    medians = medians.reindex(columns=["within", "between"])
    labels = medians.sort_values("between", na_position="first").index  # the largest distance on top
    jitter = np.random.default_rng(0)
    figure = Figure(figsize=(6.4, 1.6 + 0.42 * len(labels)), layout="constrained")
    axes = figure.subplots()
    for kind, color, shift in (("within", "#4c78a8", -0.17), ("between", "#e45756", 0.17)):
        part = distances[distances["kind"] == kind]
        height = labels.get_indexer(pd.Index(part["label"])) + shift
        axes.scatter(
            part["distance"],
            height + jitter.uniform(-0.1, 0.1, len(part)),
            s=12,
            color=color,
            alpha=0.6,
            linewidths=0,
            label=f"{kind} {'one system' if kind == 'within' else 'systems'}",
        )
        axes.plot(medians.loc[labels, kind], np.arange(len(labels)) + shift, "|", color=color, ms=13, mew=2.5)
    axes.set(yticks=range(len(labels)), yticklabels=labels, xlim=(0, None), ylim=(-0.6, len(labels) - 0.4))
    axes.set(xlabel="distance between mean profiles of samples (bar: median)")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2, markerscale=2, frameon=False)
    save_figure(figure, path)


def _draw_dot(ax: Axes, column: int, row: int, value: float) -> None:
    """Draw the value of a metric as a dot with its number."""
    from matplotlib import colormaps

    size = float(np.clip(value, 0, 1))
    ax.scatter(column + 0.5, row + 0.5, s=280 + 420 * size, color=colormaps["PRGn"](0.15 + 0.7 * size), linewidths=0)
    color = "white" if size < 0.15 or size > 0.85 else "black"
    ax.text(column + 0.5, row + 0.5, f"{value:.2f}", ha="center", va="center", fontsize=8, color=color)


def _draw_bar(ax: Axes, column: int, row: int, value: float) -> None:
    """Draw an aggregated score as a bar with its number."""
    from matplotlib import colormaps

    size = float(np.clip(value, 0, 1))
    ax.barh(row + 0.5, 0.92 * size, left=column + 0.04, height=0.72, color=colormaps["YlGnBu"](0.2 + 0.5 * size))
    ax.text(column + 0.1, row + 0.5, f"{value:.2f}", ha="left", va="center", fontsize=9)


def _draw_group_headings(ax: Axes, groups: pd.Series) -> None:
    """Write the name of each group of columns above a line."""
    for group in dict.fromkeys(groups):
        columns = np.flatnonzero(groups == group)
        first, last = columns[0] + 0.08, columns[-1] + 0.92
        title = str(group).capitalize() + (" scores" if group == AGGREGATE else "")
        ax.plot([first, last], [-1.5, -1.5], color="black", linewidth=1)
        ax.text(
            (first + last) / 2, -1.62, title if len(columns) > 1 else _on_short_lines(title), ha="center", va="bottom"
        )


def _on_short_lines(name: str) -> str:
    """Break a long name into short lines."""
    return name.replace(" ", "\n").replace("\n(", " (", 1) if len(name) > 9 else name
