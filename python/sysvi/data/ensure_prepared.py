"""Expression ready for the model, whatever the user has: counts, log-normalised, or prepared already."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from anndata import AnnData
from anndata.abc import CSCDataset, CSRDataset
from scipy import sparse

from sysvi._core.checks import get_expression, looks_like_counts
from sysvi.data.prepare import prepare
from sysvi.data.row_blocks import row_blocks


def ensure_prepared(
    adata: AnnData,
    system_key: str,
    batch_key: str | None = None,
    *,
    layer: str | None = None,
    n_top_genes: int = 3000,
    min_cells: int = 20,
    all_genes: bool = False,
    report: Callable[[str], None] = lambda line: None,
) -> tuple[AnnData, str | None]:
    """Cells with log-normalised expression of the genes variable in every system.

    What `prepare` made is taken as it is; counts are prepared; of log-normalised expression the variable genes are
    chosen.

    Parameters
    ----------
    adata
        Cells of all systems, in memory or backed; never changed.
    system_key, batch_key
        Columns of ``adata.obs``.
    layer
        Layer with the expression; ``adata.X`` by default.
    n_top_genes, min_cells
        As in `prepare`.
    all_genes
        Keep all genes of log-normalised input, and all genes seen in every system of counts.
    report
        Called with one line of text after each step.

    Returns
    -------
    adata
        New object in memory, without layers but for the one with the expression.
    layer
        Where its expression is; None for ``X``.

    Raises
    ------
    InputError
        As `prepare` does.

    Examples
    --------
    >>> import sysvi
    >>> counts = sysvi.datasets.simulate_systems(200, 150, seed=0)
    >>> cells, layer = ensure_prepared(counts, "system", min_cells=3, all_genes=True)
    >>> cells.n_obs, layer, float(cells.X.max()) < 10
    (200, None, True)
    """
    if layer is None and "sysvi_prepare" in adata.uns:
        report("The input is prepared already")
        return _in_memory(adata, None), None
    if all_genes and not _are_counts(get_expression(adata, layer)[1]):
        report("The input looks like log-normalised expression")
        return _in_memory(adata, layer), layer
    return prepare(
        adata,
        system_key,
        batch_key,
        layer=layer,
        n_top_genes=adata.n_vars if all_genes else n_top_genes,
        min_cells=min_cells,
        normalize=None,
        keep_counts=False,
        report=report,
    ), None


def _in_memory(adata: AnnData, layer: str | None) -> AnnData:
    """The cells with this expression alone."""
    _, x = get_expression(adata, layer)
    if isinstance(x, CSRDataset | CSCDataset):
        x = x.to_memory()
    elif not sparse.issparse(x):
        x = np.asarray(x)
    return AnnData(
        x if layer is None else None,
        obs=adata.obs.copy(),
        var=adata.var.copy(),
        obsm=dict(adata.obsm),
        uns=dict(adata.uns),
        layers={} if layer is None else {layer: x},
    )


def _are_counts(matrix: Any) -> bool:
    return all(looks_like_counts(block.data) for _, _, block in row_blocks(matrix))
