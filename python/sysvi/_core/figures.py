"""Drawing and saving of figures: UMAPs, colours, file formats."""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from sysvi._core.compilation import ensure_numba_cache
from sysvi._core.errors import InputError
from sysvi._core.files import write_atomically
from sysvi._core.parallel import restore_thread_count
from sysvi._core.seeds import seed_of_32_bits

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

MISSING_COLOR = (0.6, 0.6, 0.6, 1.0)  # of cells without a category


def umap_before_after(
    adata: AnnData,
    colors: Sequence[str],
    path: str | Path,
    *,
    before: str = "X_pca",
    after: str = "X_sysVI",
    seed: int = 0,
) -> None:
    """Draw UMAPs of two embeddings: one row for each embedding, one column for each way to colour the cells.

    Parameters
    ----------
    adata
        Annotated data with both embeddings in ``obsm``.
    colors
        Categorical columns of ``adata.obs`` that colour the cells.
    path
        Figure to write; the name ends in ``.png``, ``.pdf`` or ``.svg``.
    before, after
        Names in ``adata.obsm`` of the embedding in the upper and in the lower row.
    seed
        Random seed of the UMAPs.
    """
    points = {
        f"{title} ({basis})": umap(adata.obsm[basis], seed) for title, basis in (("before", before), ("after", after))
    }
    columns = {key: pd.Categorical(adata.obs[key]) for key in colors}
    save_figure(draw_umaps(points, columns, seed), path)


def draw_umaps(points: Mapping[str, np.ndarray], columns: Mapping[str, pd.Categorical], seed: int = 0) -> Figure:
    """Draw cells: one row for each embedding, one column for each way to colour them, with legends below.

    Parameters
    ----------
    points
        Coordinates of n cells by the title of the row, (n, 2) each.
    columns
        Categories of the cells by the name of the column, (n,) each; cells without one are grey.
    seed
        Random seed of the order in which cells are drawn.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.6 * len(columns), 4.2 * len(points)), layout="constrained")
    axes = figure.subplots(len(points), len(columns), squeeze=False)
    for row, (title, coordinates) in zip(axes, points.items(), strict=True):
        order = np.random.default_rng(seed).permutation(len(coordinates))
        for ax, (key, column) in zip(row, columns.items(), strict=True):
            shades = np.vstack([palette(len(column.categories)), MISSING_COLOR])  # codes of -1 take the last one
            ax.scatter(*coordinates[order].T, c=shades[column.codes[order]], s=3, linewidths=0, rasterized=True)
            ax.set(xticks=[], yticks=[], title=f"{key}, {title}")
            ax.spines[:].set_visible(False)
    for ax, column in zip(axes[-1], columns.values(), strict=True):
        shades = palette(len(column.categories))
        handles = [
            ax.scatter([], [], color=color, label=str(name), s=20)
            for name, color in zip(column.categories, shades, strict=True)
        ]
        ax.legend(handles=handles, loc="upper center", bbox_to_anchor=(0.5, 0), ncols=3, frameon=False, fontsize=8)
    return figure


def save_figure(figure: Figure, path: str | Path) -> None:
    """Write a figure atomically, in the format given by the extension of the file's name (PNG if there is none).

    All text is drawn as it is: a dollar sign in the name of a cell type begins no formula.

    Raises
    ------
    InputError
        If matplotlib cannot write that format, or the folder cannot be written to.
    """
    from matplotlib.backend_bases import FigureCanvasBase

    path = Path(path)
    kind = path.suffix.lstrip(".").lower() or "png"
    if kind not in FigureCanvasBase.get_supported_filetypes():
        raise InputError(
            f"The figure cannot be saved as {path.name}: matplotlib does not write .{kind} files; use .png, .pdf or "
            ".svg."
        )
    write_atomically(path, lambda temporary: _write_figure(figure, temporary, kind))


def figure_as_png(figure: Figure) -> bytes:
    """The figure as a PNG file in memory; all text is drawn as it is."""
    buffer = io.BytesIO()
    _write_figure(figure, buffer, "png")
    return buffer.getvalue()


def _write_figure(figure: Figure, target: Path | io.BytesIO, kind: str) -> None:
    """Write a figure in a format of matplotlib, with all text as it is."""
    import matplotlib
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        text.set_parse_math(False)
    with matplotlib.rc_context({"text.parse_math": False}):  # for tick labels that are made while drawing
        figure.savefig(target, dpi=120, format=kind)


def annotated_heat_map(
    ax: Axes, values: np.ndarray, text: np.ndarray, rows: Sequence[str], columns: Sequence[str]
) -> AxesImage:
    """Draw values between 0 and 1 as colours, with a text in each field.

    Parameters
    ----------
    ax
        Where to draw.
    values
        The values, (rows, columns); others are drawn as 0 or 1.
    text
        The texts, (rows, columns); empty ones are left out.
    rows, columns
        Names of rows and columns; there may be none.

    Returns
    -------
    AxesImage
        The image, for a colour bar.
    """
    image = ax.imshow(np.clip(values, 0, 1), vmin=0, vmax=1, cmap="viridis", aspect="auto")
    for (y, x), shown in np.ndenumerate(text):
        if shown:
            color = "white" if values[y, x] < 0.6 else "0"
            ax.text(x, y, shown, ha="center", va="center", fontsize=7, color=color)
    ax.set_xticks(range(values.shape[1]), columns, rotation=90, fontsize=8)
    ax.set_yticks(range(values.shape[0]), rows, fontsize=8)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    return image


def add_color_bar(figure: Figure, image: AxesImage, box: tuple[float, float, float, float]) -> None:
    """Add the colour bar of a heat map; `box` is left, bottom, width and height as shares of the figure."""
    ax = figure.add_axes(box)
    figure.colorbar(image, cax=ax)
    ax.tick_params(labelsize=8)


@restore_thread_count()
def umap(embedding: np.ndarray, seed: int = 0) -> np.ndarray:
    """Compute a UMAP of an embedding, (n_cells, n_dimensions) -> (n_cells, 2), from 15 nearest neighbours."""
    ensure_numba_cache()
    import scanpy as sc

    points = AnnData(obsm={"X": np.asarray(embedding)}, shape=(len(embedding), 0))
    with warnings.catch_warnings():
        # From scanpy's own code, where cells are identical.
        warnings.filterwarnings("ignore", "Changing the sparsity structure", sparse.SparseEfficiencyWarning)
        # Where clusters lie far apart; it concerns only the initial positions, which are then optimised.
        warnings.filterwarnings("ignore", "Graph is not fully connected", UserWarning)
        sc.pp.neighbors(points, n_neighbors=15, use_rep="X", random_state=seed_of_32_bits(seed))
        sc.tl.umap(points, random_state=seed_of_32_bits(seed))
    return points.obsm["X_umap"]


def palette(n: int) -> np.ndarray:
    """N distinct colours as RGBA values between 0 and 1, (n, 4)."""
    from matplotlib import colormaps

    if n <= 10:
        return colormaps["tab10"](np.arange(n))
    return colormaps["tab20"](np.arange(n)) if n <= 20 else colormaps["gist_ncar"](np.linspace(0, 0.95, n))
