"""Figures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from anndata import AnnData
from matplotlib.backend_bases import FigureCanvasBase
from matplotlib.figure import Figure

from sysvi._core.errors import InputError
from sysvi._core.files import write_atomically
from sysvi._core.parallel import restore_thread_count


def umap_before_after(
    adata: AnnData,
    colors: Sequence[str],
    path: str | Path,
    *,
    before: str = "X_pca",
    after: str = "X_sysVI",
    seed: int = 0,
) -> None:
    """Draw UMAPs of two embeddings side by side, one column per `colors`, as a PNG or PDF.

    Parameters
    ----------
    adata
        With both embeddings in obsm.
    colors
        Categorical columns of ``adata.obs``.
    path
        Where the picture goes.
    before, after
        Names of the embeddings in obsm: one row each.
    seed
        Of the UMAP.
    """
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
    """Write a figure whole or not at all, in the format that the name ends on; PNG without one.

    Raises
    ------
    InputError
        If matplotlib cannot write that format.
    """
    path = Path(path)
    kind = path.suffix.lstrip(".").lower() or "png"
    if kind not in FigureCanvasBase.get_supported_filetypes():
        raise InputError(f"A figure cannot be written as {path.name}: end its name on .png, .pdf or .svg.")
    write_atomically(path, lambda temporary: figure.savefig(temporary, dpi=120, format=kind))


@restore_thread_count()
def umap(embedding: np.ndarray, seed: int = 0) -> np.ndarray:
    """UMAP of an embedding on its 15 nearest neighbours, (n, 2)."""
    import scanpy as sc

    points = AnnData(obsm={"X": np.asarray(embedding)}, shape=(len(embedding), 0))
    sc.pp.neighbors(points, n_neighbors=15, use_rep="X", random_state=seed)
    sc.tl.umap(points, random_state=seed)
    return points.obsm["X_umap"]


def palette(n: int) -> np.ndarray:
    """Distinct colours, (n, 4)."""
    from matplotlib import colormaps

    if n <= 10:
        return colormaps["tab10"](np.arange(n))
    return colormaps["tab20"](np.arange(n)) if n <= 20 else colormaps["gist_ncar"](np.linspace(0, 0.95, n))
