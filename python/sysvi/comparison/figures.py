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

SYSVI_COLOR, OTHER_COLOR = "tab:orange", "tab:blue"
MOST_COLUMNS = 6  # UMAPs side by side
PANEL_TITLES = {"seconds": "time, s", "peak_mb": "peak\nmemory, MB", "overall": "overall score"}


def plot_comparison(
    runs: pd.DataFrame,
    table: pd.DataFrame,
    metrics: Sequence[str],
    path: str | Path,
    *,
    without_result: Sequence[str] = (),
    note: str = "",
) -> None:
    """Draw the scores of the methods at their chosen settings: a panel for each metric, a row for each method.

    Points are seeds, black lines are means over seeds. Methods come in the order of `table`, followed in grey by those
    without a result.

    Parameters
    ----------
    runs
        Table of runs (`Comparison.runs`).
    table
        Table of methods at their chosen settings (`Comparison.table`).
    metrics
        Columns of `runs` to draw. Metrics that no run has are left out; time and memory are added.
    path
        File to write; its name ends in .png, .pdf or .svg.
    without_result
        Titles of methods without a result.
    note
        Text below the panels.

    Raises
    ------
    InputError
        If no run has a result.
    """
    chosen = runs[runs["chosen"]]
    drawn = [name for name in [*metrics, *USAGE] if name in chosen and chosen[name].notna().any()]
    if chosen.empty or not drawn:
        raise InputError("No run has a result, so there is nothing to draw.")
    labels = [_row_label(row) for _, row in table.iterrows()] + list(without_result)
    n_rows = len(labels)
    # All sizes are in inches.
    row_height, panel_width, gap, right = 0.3, 1.45, 0.22, 0.2
    left, top, bottom = 0.085 * max(map(len, labels)) + 0.2, 0.55, 0.75
    width = left + len(drawn) * (panel_width + gap) + right
    height = top + row_height * n_rows + bottom
    figure = Figure(figsize=(width, height))
    for i, name in enumerate(drawn):
        x = left + i * (panel_width + gap)
        ax = figure.add_axes((x / width, bottom / height, panel_width / width, row_height * n_rows / height))
        for row, method in enumerate(table["method"]):
            values = chosen.loc[chosen["method"] == method, name].dropna()
            color = SYSVI_COLOR if method == "sysvi" else OTHER_COLOR
            ax.scatter(values, np.full(len(values), row), s=22, color=color, alpha=0.65, linewidths=0, zorder=3)
            if len(values):
                ax.plot([values.mean()] * 2, [row - 0.32, row + 0.32], color="black", linewidth=1.6, zorder=4)
        _style_panel(ax, name, n_rows, log_scale=name == "seconds")
        ax.set_yticks(range(n_rows), labels if i == 0 else [""] * n_rows)
        for tick in ax.get_yticklabels()[len(table) :]:
            tick.set_color("0.6")
    text = textwrap.fill(f"Points: seeds; lines: means. {note}", int(width * 17))
    figure.text(0.01, 0.02, text, fontsize=7.5, color="0.3", va="bottom")
    save_figure(figure, path)


def plot_umaps(
    embeddings: Mapping[str, np.ndarray], obs: pd.DataFrame, columns: Sequence[str], path: str | Path, seed: int = 0
) -> None:
    """Draw UMAPs of several embeddings: methods side by side, columns of `obs` (as colours) below each other.

    Parameters
    ----------
    embeddings
        Embedding of each method by its title, n cells x latent dimensions.
    obs
        Annotation of the n cells.
    columns
        Categorical columns of `obs`, each with a legend of its own.
    path
        File to write; its name ends in .png, .pdf or .svg.
    seed
        Random seed of the UMAPs and of the order in which cells are drawn.
    """
    panel_size, legend_width, legend_line = 2.1, 2.2, 0.17  # inches
    n_across = min(len(embeddings), MOST_COLUMNS)
    n_bands = -(-len(embeddings) // n_across)  # a band holds one row of panels for each of `columns`
    figure = Figure(
        figsize=(panel_size * n_across + legend_width, (panel_size * len(columns) + 0.3) * n_bands),
        layout="constrained",
    )
    width_ratios = [panel_size] * n_across + [legend_width]
    axes = figure.subplots(n_bands * len(columns), n_across + 1, squeeze=False, width_ratios=width_ratios)
    for ax in axes.flat:
        ax.axis("off")
    categories = [pd.Categorical(obs[column]) for column in columns]
    order = np.random.default_rng(seed).permutation(len(obs))  # no category is drawn on top of the others
    for i, (title, embedding) in enumerate(embeddings.items()):
        band, x = divmod(i, n_across)
        points = umap(embedding, seed)  # (n, 2)
        for ax, category in zip(axes[band * len(columns) :, x], categories, strict=False):
            colors = palette(len(category.categories))[category.codes]  # (n, 4)
            ax.scatter(*points[order].T, c=colors[order], s=3, linewidths=0, rasterized=True)
        axes[band * len(columns), x].set_title(title, fontsize=9)
    for ax, column, category in zip(axes[:, -1], columns, categories, strict=False):
        names = category.categories
        for color, name in zip(palette(len(names)), names, strict=True):
            ax.scatter([], [], color=color, label=str(name), s=16)
        n_columns = -(-len(names) // int(panel_size / legend_line))
        ax.legend(loc="center left", frameon=False, fontsize=7, title=column, title_fontsize=8, ncols=n_columns)
    save_figure(figure, path)


def _row_label(row: pd.Series) -> str:
    """A method with its chosen setting."""
    return f"{row['title']}, {row['parameter']} {row['value']}" if row["parameter"] else str(row["title"])


def _style_panel(ax: Axes, name: str, n_rows: int, log_scale: bool) -> None:
    """Set the scale, ticks, title and grid of a panel."""
    if log_scale:
        ax.set_xscale("log")
        low, high = ax.get_xlim()
        ax.xaxis.set_major_locator(LogLocator(subs=(1, 3) if np.log10(high / low) > 0.5 else (1, 1.5, 2, 3, 5, 7)))
        ax.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        ax.xaxis.set_minor_formatter(NullFormatter())
    else:
        ax.xaxis.set_major_locator(MaxNLocator(4))
    ax.set_ylim(n_rows - 0.5, -0.5)
    ax.set_title(PANEL_TITLES.get(name, name.replace(" ", "\n")), fontsize=9)
    ax.tick_params(labelsize=8, length=2)
    ax.grid(axis="x", color="0.9", linewidth=0.7)
    ax.set_axisbelow(True)
    for row in range(n_rows):
        ax.axhline(row, color="0.93", linewidth=0.6, zorder=0)
    ax.spines[["top", "right"]].set_visible(False)
