"""The figures of a comparison: scores by method, and UMAPs."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, StrMethodFormatter

from sysvi._core.errors import InputError
from sysvi._core.figures import palette, save_figure, umap
from sysvi.comparison.tables import USAGE

OWN, OTHER = "tab:orange", "tab:blue"
N_ACROSS = 6  # methods side by side
NAMES = {"seconds": "time, s", "peak_mb": "peak\nmemory, MB", "overall": "overall score"}


def plot_comparison(
    runs: pd.DataFrame,
    table: pd.DataFrame,
    metrics: Sequence[str],
    path: str | Path,
    *,
    absent: Mapping[str, str] | None = None,
    note: str = "",
) -> None:
    """Draw the scores of methods at their chosen settings: a panel a metric, a row a method, a point a seed.

    A line marks the mean over seeds. Methods come in the order of `table`; those without a result stand below in grey.

    Parameters
    ----------
    runs
        `Comparison.runs`.
    table
        `Comparison.table`.
    metrics
        Columns of `runs` to draw; those that no run has are left out. Time and memory are added.
    path
        The PNG, PDF or SVG to write.
    absent
        Titles of methods without a result, and why.
    note
        A line under the panels.

    Raises
    ------
    InputError
        If no run has a result.
    """
    chosen = runs[runs["chosen"]]
    names = [name for name in [*metrics, *USAGE] if name in chosen and chosen[name].notna().any()]
    if chosen.empty or not names:
        raise InputError("No run has a result that could be drawn.")
    absent = absent or {}
    labels = [_label(row) for _, row in table.iterrows()]
    height, left = len(labels) + len(absent), 0.085 * max(map(len, [*labels, *absent])) + 0.2  # rows; inches
    panel, gap, top, bottom = 1.45, 0.22, 0.55, 0.75
    across = left + len(names) * (panel + gap) + 0.2
    down = top + 0.3 * height + bottom
    figure = Figure(figsize=(across, down))
    for i, name in enumerate(names):
        x = left + i * (panel + gap)
        ax = figure.add_axes((x / across, bottom / down, panel / across, 0.3 * height / down))
        for row, method in enumerate(table["method"]):
            values = chosen.loc[chosen["method"] == method, name].dropna()
            color = OWN if method == "sysvi" else OTHER
            ax.scatter(values, np.full(len(values), row), s=22, color=color, alpha=0.65, linewidths=0, zorder=3)
            if len(values):
                ax.plot([values.mean()] * 2, [row - 0.32, row + 0.32], color="black", linewidth=1.6, zorder=4)
        _dress(ax, name, height, log=name == "seconds")
        ax.set_yticks(range(height), [*labels, *absent] if i == 0 else [])
        for tick in ax.get_yticklabels()[len(labels) :]:
            tick.set_color("0.6")
    text = textwrap.fill(f"Points: seeds; lines: means. {note}", int(across * 17))
    figure.text(0.01, 0.02, text, fontsize=7.5, color="0.3", va="bottom")
    save_figure(figure, path)


def plot_umaps(
    embeddings: Mapping[str, np.ndarray], obs: pd.DataFrame, columns: Sequence[str], path: str | Path, seed: int = 0
) -> None:
    """Draw a UMAP of each embedding: methods side by side, below each other the columns of `obs`.

    Parameters
    ----------
    embeddings
        By the title of the method, (n, dimensions) each.
    obs
        Of the cells, n rows.
    columns
        Categorical columns of `obs`, each with its legend.
    path
        The PNG, PDF or SVG to write.
    seed
        Of the UMAPs.
    """
    size, legend = 2.1, 0.17  # inches: of a panel, of a line of a legend
    across = min(len(embeddings), N_ACROSS)
    bands = -(-len(embeddings) // across)
    figure = Figure(figsize=(size * across + 2.2, (size * len(columns) + 0.3) * bands), layout="constrained")
    axes = figure.subplots(bands * len(columns), across + 1, squeeze=False, width_ratios=[size] * across + [2.2])
    for ax in axes.flat:
        ax.axis("off")
    categories = [pd.Categorical(obs[column]) for column in columns]
    order = np.random.default_rng(seed).permutation(len(obs))
    for i, (title, embedding) in enumerate(embeddings.items()):
        band, x = divmod(i, across)
        points = umap(embedding, seed)  # (n, 2)
        for ax, category in zip(axes[band * len(columns) :, x], categories, strict=False):
            colors = palette(len(category.categories))[category.codes]  # (n, 4)
            ax.scatter(*points[order].T, c=colors[order], s=3, linewidths=0, rasterized=True)
        axes[band * len(columns), x].set_title(title, fontsize=9)
    for ax, column, category in zip(axes[:, -1], columns, categories, strict=False):
        names = category.categories
        for color, name in zip(palette(len(names)), names, strict=True):
            ax.scatter([], [], color=color, label=str(name), s=16)
        n_columns = -(-len(names) // int(size / legend))
        ax.legend(loc="center left", frameon=False, fontsize=7, title=column, title_fontsize=8, ncols=n_columns)
    save_figure(figure, path)


def _label(row: pd.Series) -> str:
    return f"{row['title']}, {row['parameter']} {row['value']}" if row["parameter"] else str(row["title"])


def _decades(ax: Axes) -> float:
    low, high = ax.get_xlim()
    return float(np.log10(high / low))


def _dress(ax: Axes, name: str, height: int, log: bool) -> None:
    """Scale, title and grid of a panel."""
    if log:
        ax.set_xscale("log")
        ax.xaxis.set_major_locator(LogLocator(subs=(1, 3) if _decades(ax) > 0.5 else (1, 1.5, 2, 3, 5, 7)))
        ax.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        ax.xaxis.set_minor_formatter(NullFormatter())
    else:
        ax.xaxis.set_major_locator(MaxNLocator(4))
    ax.set_ylim(height - 0.5, -0.5)
    ax.set_title(NAMES.get(name, name.replace(" ", "\n")), fontsize=9)
    ax.tick_params(labelsize=8, length=2)
    ax.grid(axis="x", color="0.9", linewidth=0.7)
    ax.set_axisbelow(True)
    for row in range(height):
        ax.axhline(row, color="0.93", linewidth=0.6, zorder=0)
    ax.spines[["top", "right"]].set_visible(False)
