"""Figures of a transfer of labels: reliability of the confidences, and confusion of labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from sysvi._core.arguments import check_types
from sysvi._core.errors import InputError
from sysvi._core.figures import add_color_bar, annotated_heat_map, save_figure
from sysvi.mapping.transfer_labels import UNKNOWN, LabelTransfer

COLORS = {"reference": "#4c78a8", "query": "#e45756"}
LARGEST_DOT, SMALLEST_DOT = 260.0, 12.0  # square points


def plot_reliability(transfer: LabelTransfer, path: str | Path) -> None:
    """Plot how often labels are right against their confidence, for reference cells labelled by other batches.

    If the query has labels of its own, also for its cells, against these. The area of a dot grows with the share of
    cells in its bin of confidence. Dots on the diagonal are calibrated, below it confidences are too high.

    Parameters
    ----------
    transfer
        Result of :func:`sysvi.transfer_labels`.
    path
        Output file; PNG, PDF or SVG by its ending.
    """
    from matplotlib.figure import Figure

    check_types(plot_reliability, transfer=transfer, path=path)
    figure = Figure(figsize=(4.4, 4.6), layout="constrained")
    ax = figure.subplots()
    ax.plot([0, 1], [0, 1], color="0.75", linewidth=1, zorder=0)
    errors = transfer.calibration_error
    for name, table in transfer.reliability.groupby("cells", sort=False):
        share = table["n_cells"] / table["n_cells"].sum()
        ax.plot(table["confidence"], table["accuracy"], color=COLORS[str(name)], linewidth=1, alpha=0.7)
        ax.scatter(
            table["confidence"],
            table["accuracy"],
            s=SMALLEST_DOT + (LARGEST_DOT - SMALLEST_DOT) * share,
            color=COLORS[str(name)],
            alpha=0.7,
            linewidths=0,
            label=f"{name}: {table['n_cells'].sum():,} cells, calibration error {errors[str(name)]:.3f}",
        )
    ax.set(xlim=(-0.02, 1.04), ylim=(-0.04, 1.06), aspect="equal")
    ax.set(xlabel="confidence (mean in bin)", ylabel="share of right labels")
    ax.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper center", frameon=False, fontsize=9, markerscale=0.5)
    save_figure(figure, path)


def plot_confusion(transfer: LabelTransfer, path: str | Path) -> None:
    """Plot the labels that the query has itself (rows) against those that were transferred (columns).

    Colours are shares of a row, numbers are cells. ``"unknown"`` is the last column.

    Parameters
    ----------
    transfer
        Result of :func:`sysvi.transfer_labels`.
    path
        Output file; PNG, PDF or SVG by its ending.

    Raises
    ------
    InputError
        If the query has no labels of its own.
    """
    from matplotlib.figure import Figure

    check_types(plot_confusion, transfer=transfer, path=path)
    if transfer.confusion is None:
        raise InputError("The query has no labels of its own with which the transferred ones could be compared.")
    counts = transfer.confusion
    shared = [name for name in counts.index if name in counts.columns and name != UNKNOWN]
    rows = [*shared, *(name for name in counts.index if name not in shared)]
    columns = [*shared, *(name for name in counts.columns if name not in (*shared, UNKNOWN))]
    columns += [UNKNOWN] if UNKNOWN in counts.columns else []
    counts = counts.loc[rows, columns]
    share = counts.div(counts.sum(axis=1), axis=0).to_numpy()
    left, bottom = 0.085 * max(map(len, rows)) + 0.5, 0.07 * max(map(len, columns)) + 0.45  # inches
    width, height = 0.42 * len(columns), 0.3 * len(rows)
    figure_width, figure_height = left + width + 0.9, bottom + height + 0.2
    figure = Figure(figsize=(figure_width, figure_height))
    box = (left / figure_width, bottom / figure_height, width / figure_width, height / figure_height)
    ax = figure.add_axes(box)
    numbers = np.where(counts > 0, counts.astype(str), "")
    image = annotated_heat_map(ax, share, numbers, rows, columns)
    ax.set_xlabel("transferred label", fontsize=9)
    ax.set_ylabel("own label", fontsize=9)
    add_color_bar(figure, image, ((left + width + 0.15) / figure_width, box[1], 0.15 / figure_width, box[3]))
    save_figure(figure, path)
