"""Input of any kind made ready for the model: counts, log-normalised expression, or the output of `prepare`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from anndata import AnnData

from sysvi._core.checks import get_expression, looks_like_counts
from sysvi.data.prepare import PREPARED_KEY, prepare
from sysvi.data.row_blocks import read_into_memory, row_blocks


def ensure_prepared(
    adata: AnnData,
    system_key: str,
    batch_key: str | None = None,
    *,
    layer: str | None = None,
    n_top_genes: int = 3000,
    min_cells: int = 20,
    all_genes: bool = False,
    fractional_counts: bool = False,
    report: Callable[[str], None] = lambda line: None,
) -> tuple[AnnData, str | None]:
    """Return cells with log-normalised expression of the genes that are variable in every system.

    The output of `prepare` is used as it is; counts are prepared; log-normalised expression is reduced to its variable
    genes.

    Parameters
    ----------
    adata
        Cells of all systems, in memory or backed; never changed.
    system_key, batch_key
        Columns of ``adata.obs`` with the systems and batches.
    layer
        Layer with the expression; ``adata.X`` by default.
    n_top_genes, min_cells
        Settings of the gene selection, as in `prepare`.
    all_genes
        Whether to keep all genes of log-normalised input, and all genes of counts that are detected in every system.
    fractional_counts
        Whether values with fractions are counts, as in `prepare`.
    report
        Function that is called with one line of text after each step.

    Returns
    -------
    adata : anndata.AnnData
        New object in memory, without layers except the one with the expression.
    layer : str or None
        Layer with its expression; None for ``X``.

    Raises
    ------
    InputError
        If `prepare` cannot use the input.

    Examples
    --------
    >>> import sysvi
    >>> counts = sysvi.datasets.simulate_systems(200, 150, seed=0)
    >>> cells, layer = ensure_prepared(counts, "system", min_cells=3, all_genes=True)
    >>> cells.n_obs, layer, float(cells.X.max()) < 10
    (200, None, True)
    """
    if is_prepared(adata, layer):
        report(f"The input is prepared already: its {adata.n_vars} genes are used, no others are chosen")
        return _copy_with_expression(adata, None), None
    if all_genes and not fractional_counts and not _are_counts(get_expression(adata, layer)[1]):
        report("The input looks like log-normalised expression")
        return _copy_with_expression(adata, layer), layer
    return prepare(
        adata,
        system_key,
        batch_key,
        layer=layer,
        n_top_genes=adata.n_vars if all_genes else n_top_genes,
        min_cells=min_cells,
        normalize=None,
        fractional_counts=fractional_counts,
        keep_counts=False,
        report=report,
    ), None


def is_prepared(adata: AnnData, layer: str | None) -> bool:
    """Whether the expression, ``X`` or a layer, is the output of `prepare`, whose genes are used as they are."""
    return layer is None and PREPARED_KEY in adata.uns


def _copy_with_expression(adata: AnnData, layer: str | None) -> AnnData:
    """Copy the cells into memory, with the given expression alone."""
    expression = read_into_memory(get_expression(adata, layer)[1])
    return AnnData(
        expression if layer is None else None,
        obs=adata.obs.copy(),
        var=adata.var.copy(),
        obsm=dict(adata.obsm),
        uns=dict(adata.uns),
        layers={} if layer is None else {layer: expression},
    )


def _are_counts(matrix: Any) -> bool:
    return all(looks_like_counts(block.data) for _, _, block in row_blocks(matrix))
