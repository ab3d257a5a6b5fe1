"""Drawing and saving of figures: UMAPs, colours, file formats."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
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
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.6 * len(colors), 8.4), layout="constrained")
    axes = figure.subplots(2, len(colors), squeeze=False)
    for row, (title, basis) in zip(axes, (("before", before), ("after", after)), strict=True):
        points = umap(adata.obsm[basis], seed)  # (n, 2)
        order = np.random.default_rng(seed).permutation(len(points))
        for ax, key in zip(row, colors, strict=True):
            column = pd.Categorical(adata.obs[key])
            shades = palette(len(column.categories))
            ax.scatter(*points[order].T, c=shades[column.codes[order]], s=3, linewidths=0, rasterized=True)
            ax.set(xticks=[], yticks=[], title=f"{key}, {title} ({basis})")
            ax.spines[:].set_visible(False)
    for ax, key in zip(axes[1], colors, strict=True):
        categories = pd.Categorical(adata.obs[key]).categories
        shades = palette(len(categories))
        handles = [
            ax.scatter([], [], color=color, label=str(name), s=20)
            for name, color in zip(categories, shades, strict=True)
        ]
        ax.legend(handles=handles, loc="upper center", bbox_to_anchor=(0.5, 0), ncols=3, frameon=False, fontsize=8)
    save_figure(figure, path)


def save_figure(figure: Figure, path: str | Path) -> None:
    """Write a figure atomically, in the format given by the extension of the file's name (PNG if there is none).

    All text is drawn as it is: a dollar sign in the name of a cell type begins no formula.

    Raises
    ------
    InputError
        If matplotlib cannot write that format, or the folder cannot be written to.
    """
    import matplotlib
    from matplotlib.backend_bases import FigureCanvasBase
    from matplotlib.text import Text

    path = Path(path)
    kind = path.suffix.lstrip(".").lower() or "png"
    if kind not in FigureCanvasBase.get_supported_filetypes():
        raise InputError(
            f"The figure cannot be saved as {path.name}: matplotlib does not write .{kind} files; use .png, .pdf or "
            ".svg."
        )
    for text in figure.findobj(Text):
        text.set_parse_math(False)
    with matplotlib.rc_context({"text.parse_math": False}):  # for tick labels that are made while drawing
        write_atomically(path, lambda temporary: figure.savefig(temporary, dpi=120, format=kind))


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
