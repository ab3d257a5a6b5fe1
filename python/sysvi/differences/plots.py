"""Figures of a comparison of systems: volcano plots, and a heat map of genes that differ in single labels."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from sysvi._core.arguments import check_types
from sysvi._core.checks import listing
from sysvi._core.errors import InputError
from sysvi._core.figures import add_color_bar, save_figure
from sysvi._core.settings import Limits, number, whole_number

if TYPE_CHECKING:
    from matplotlib.axes import Axes

HIGHER_1, HIGHER_2, OTHER = "#4c78a8", "#e45756", "0.75"
NAMED_GENES = 8  # in each panel of a volcano plot
MIN_WIDTH = 7.0  # inches; the legend and the label of the axis take about as much
LIMIT = 6.0  # largest log2 fold change of the heat map's colours
SHARE = Limits(min=0, max=1)


def plot_volcano(table: pd.DataFrame, path: str | Path, *, max_fdr: float = 0.05) -> None:
    """Plot the effect of each gene against its p-value, one panel for each label that has p-values.

    Genes with a false discovery rate of at most `max_fdr` are coloured by the system in which they are higher; the
    most significant ones are named.

    Parameters
    ----------
    table
        Result of :func:`sysvi.compare_systems` for one pair of systems.
    path
        Output file; PNG, PDF or SVG by its ending.
    max_fdr
        False discovery rate up to which genes are coloured.

    Raises
    ------
    InputError
        If the table is none of :func:`sysvi.compare_systems`, or has several pairs of systems or no p-values.
    """
    from matplotlib.figure import Figure

    check_types(plot_volcano, table=table, path=path)
    max_fdr = number("max_fdr", max_fdr, SHARE)
    pair = _the_pair(table)
    table = table[table["p"].notna()]
    if table.empty:
        raise InputError("The table has no p-values to draw: at least two donors of each system are needed.")
    labels = sorted(table["label"].unique())
    columns = min(len(labels), 3)
    rows = -(-len(labels) // columns)
    width = max(4.2 * columns, MIN_WIDTH)
    figure = Figure(figsize=(width, 3.6 * rows + 0.4), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for ax, label in zip(axes, labels, strict=False):
        _draw_volcano(ax, table[table["label"] == label], max_fdr)
        ax.set_title(str(label), fontsize=10)
    for ax in axes[len(labels) :]:
        ax.axis("off")
    handles = [
        axes[0].scatter([], [], color=color, s=18, label=f"higher in {name} in this label")
        for color, name in zip((HIGHER_1, HIGHER_2), pair, strict=True)
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=2, frameon=False, fontsize=9)
    figure.supxlabel(f"log2 fold change of {pair[1]} over {pair[0]}, beyond that in the other labels", fontsize=10)
    figure.supylabel("-log10 p", fontsize=10)
    save_figure(figure, path)


def _draw_volcano(ax: Axes, genes: pd.DataFrame, max_fdr: float) -> None:
    """Draw the panel of one label."""
    effect, height = genes["effect"].to_numpy(), -np.log10(np.maximum(genes["p"].to_numpy(), 1e-300))
    found = (genes["fdr"] <= max_fdr).to_numpy()
    color = np.where(found, np.where(effect < 0, HIGHER_1, HIGHER_2), OTHER)
    ax.scatter(effect, height, c=color, s=np.where(found, 12, 5), linewidths=0, rasterized=True)
    for i in np.flatnonzero(found)[:NAMED_GENES]:  # the smallest p-values come first
        ax.annotate(str(genes["gene"].iloc[i]), (effect[i], height[i]), (3, 2), textcoords="offset points", fontsize=7)
    ax.axvline(0, color="0.85", linewidth=0.8, zorder=0)
    ax.margins(x=0.15)
    ax.spines[["top", "right"]].set_visible(False)
    ax.tick_params(labelsize=8)


def plot_specific_genes(table: pd.DataFrame, path: str | Path, *, max_fdr: float = 0.05, n_genes: int = 10) -> None:
    """Plot a heat map of the genes that differ between the systems in a label, with their effects in all labels.

    The genes of each label come together, those with the smallest p-values. A dot marks a false discovery rate of at
    most `max_fdr`. Colours end at a log2 fold change of 6.

    Parameters
    ----------
    table
        Result of :func:`sysvi.compare_systems` for one pair of systems.
    path
        Output file; PNG, PDF or SVG by its ending.
    max_fdr
        False discovery rate up to which a gene is drawn.
    n_genes
        Largest number of genes of a label.

    Raises
    ------
    InputError
        If the table is none of :func:`sysvi.compare_systems`, or has several pairs of systems or no gene with such a
        false discovery rate.
    """
    from matplotlib.figure import Figure

    check_types(plot_specific_genes, table=table, path=path)
    max_fdr, n_genes = number("max_fdr", max_fdr, SHARE), whole_number("n_genes", n_genes, 1)
    pair = _the_pair(table)
    found = table[table["fdr"] <= max_fdr]
    if found.empty:
        raise InputError(f"No gene has a false discovery rate of at most {max_fdr:g}: there is nothing to draw.")
    genes = list(dict.fromkeys(found.sort_values(["label", "p"]).groupby("label", sort=True).head(n_genes)["gene"]))
    labels = sorted(table["label"].unique())
    effect, fdr = (
        table.pivot(index="label", columns="gene", values=name).reindex(index=labels, columns=genes).to_numpy(float)
        for name in ("effect", "fdr")
    )

    left, bottom, top = 0.08 * max(map(len, labels)) + 0.2, 0.09 * max(map(len, genes)) + 0.3, 0.5  # inches
    width, height = 0.19 * len(genes) + 0.1, 0.26 * len(labels)
    size = left + max(width, 3.5) + 0.9, bottom + height + top
    figure = Figure(figsize=size)
    ax = figure.add_axes((left / size[0], bottom / size[1], width / size[0], height / size[1]))
    image = ax.imshow(effect, vmin=-LIMIT, vmax=LIMIT, cmap="RdBu_r", aspect="auto")
    y, x = np.nonzero(fdr <= max_fdr)
    ax.scatter(x, y, s=5, color="black", linewidths=0)
    ax.set_xticks(range(len(genes)), genes, rotation=90, fontsize=7)
    ax.set_yticks(range(len(labels)), labels, fontsize=8)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    ax.set_title(
        f"log2 fold change of {pair[1]} over {pair[0]}, beyond that in the other labels", fontsize=9, loc="left"
    )
    add_color_bar(figure, image, ((left + width + 0.15) / size[0], bottom / size[1], 0.12 / size[0], height / size[1]))
    save_figure(figure, path)


def _the_pair(table: pd.DataFrame) -> tuple[str, str]:
    """The two systems of a table; there must be one pair."""
    needed = ("label", "gene", "system_1", "system_2", "effect", "p", "fdr")
    if missing := [name for name in needed if name not in table]:
        raise InputError(f"The table has no column {missing[0]!r}: give a table of sysvi.compare_systems.")
    pairs = table[["system_1", "system_2"]].drop_duplicates()
    if len(pairs) != 1:
        names = listing(f"{a} and {b}" for a, b in pairs.itertuples(index=False))
        raise InputError(f"The table compares {len(pairs)} pairs of systems ({names}): choose the rows of one pair.")
    first, second = pairs.iloc[0]
    return str(first), str(second)
