"""Whether the activity of gene sets still varies smoothly within cell types after integration."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from sysvi._core.checks import check_obs_column, check_unique_names, get_expression, listing
from sysvi._core.compilation import ensure_numba_cache
from sysvi._core.errors import InputError
from sysvi.data.row_blocks import row_sliceable
from sysvi.metrics._latent import get_embedding
from sysvi.metrics._moran import (
    N_NEIGHBORS,
    group_expression,
    mean_ratio,
    morans_i,
    own_graph,
    sample_groups,
    seen_genes,
)
from sysvi.metrics._neighbors import nearest_neighbors


@dataclass(frozen=True, eq=False)
class GeneSetPreservation:
    """Result of :func:`gene_set_preservation`.

    Parameters
    ----------
    ratio
        A value for each gene set: the column of the same name averaged over samples, then over types. 1 is kept,
        some 0.7 is lost; NaN where it could not be measured.
    table
        A row for each gene set and group: ``gene_set``, ``label``, ``system``, ``batch``, ``n_cells``, ``n_genes``
        (of the set, in the data), Moran's I of the score ``before`` and ``after``, and ``ratio``, that of (I + 1) / 2.
    missing
        Genes of each set that are not in the data.
    reason
        Why nothing could be measured, in a sentence, or None.
    """

    ratio: pd.Series
    table: pd.DataFrame
    missing: dict[str, tuple[str, ...]]
    reason: str | None


def gene_set_preservation(
    adata: AnnData,
    embedding_key: str,
    gene_sets: Mapping[str, Sequence[str]],
    label_key: str,
    batch_key: str,
    system_key: str | None = None,
    *,
    layer: str | None = None,
    min_cells: int = 500,
    min_share: float = 0.1,
    n_pcs: int = 15,
    seed: int = 0,
) -> GeneSetPreservation:
    """How much of the variation of gene sets' activity within types, in each sample, an embedding keeps.

    In each type of each sample of at least `min_cells` cells, each set is scored by ``scanpy.tl.score_genes`` (mean
    expression of the set less that of genes of like expression, drawn from all genes of the data). Moran's I of the
    score among the group's own neighbours (a PCA of the genes seen in `min_share` of its cells, as in
    :func:`sysvi.metrics._moran.moran_reference`) is compared with the one among its neighbours in the embedding.

    Parameters
    ----------
    adata
        Log-normalised expression, in memory or backed; not changed. A group's rows are read at a time.
    embedding_key
        The embedding, in ``adata.obsm``.
    gene_sets
        Names of genes, as in ``adata.var_names``, of each set.
    label_key, batch_key
        Columns of ``adata.obs`` with cell types and samples.
    system_key
        Column with the systems, for data where systems use the same names for their samples.
    layer
        Layer with the expression; ``adata.X`` by default.
    min_cells, min_share, n_pcs
        Fewest cells of a group, least share of them in which a gene of the PCA is seen, and its components.
    seed
        Of the genes that scores are compared with, and of the PCA.

    Returns
    -------
    GeneSetPreservation
        A set of which no gene is in the data gets NaN and stands in ``missing``; so does, as a row, one whose score is
        the same in all cells of a group.

    Raises
    ------
    InputError
        If a column, the layer or the embedding is missing, the expression is counts, no set has a gene in the data,
        or no genes are left to compare a set with.

    Examples
    --------
    >>> import numpy as np, pandas as pd, anndata
    >>> rng = np.random.default_rng(0)
    >>> state = rng.uniform(size=(80, 1))  # of each cell: how active the first ten genes are
    >>> mean = np.where(np.arange(100) < 10, 20 * state, 2.0)
    >>> obs = pd.DataFrame({"type": "beta", "donor": "d1"}, index=[f"cell{i}" for i in range(80)])
    >>> adata = anndata.AnnData(np.log1p(rng.poisson(mean)), obs=obs, obsm={"X_state": state})
    >>> result = gene_set_preservation(
    ...     adata, "X_state", {"active": [*adata.var_names[:10], "XIST"]}, "type", "donor", min_cells=50
    ... )
    >>> bool(result.ratio["active"] > 0.9), result.missing
    (True, {'active': ('XIST',)})
    """
    check_unique_names(adata)
    points = get_embedding(adata, embedding_key)
    label, batch = check_obs_column(adata, label_key, "label_key"), check_obs_column(adata, batch_key, "batch_key")
    system = None if system_key is None else check_obs_column(adata, system_key, "system_key")
    matrix = row_sliceable(get_expression(adata, layer)[1])
    sets, missing = _split(gene_sets, adata.var_names)
    groups, reason = sample_groups(label, batch, system, adata.n_obs, min_cells)
    rows = []
    for group in groups:
        x = group_expression(matrix, group.cells)  # (m, genes)
        scores = np.column_stack([_score(x, adata.var_names, sets[name], name, seed) for name in sets])  # (m, sets)
        own = own_graph(x[:, seen_genes(x, min_share)], n_pcs, seed)
        before = np.full(len(sets), np.nan) if own is None else morans_i(own, scores)
        after = morans_i(nearest_neighbors(points[group.cells], N_NEIGHBORS).connectivities, scores)
        for name, b, a in zip(sets, before, after, strict=True):
            rows.append(
                {
                    "gene_set": name,
                    "label": group.label,
                    "system": group.system,
                    "batch": group.batch,
                    "n_cells": len(group.cells),
                    "n_genes": len(sets[name]),
                    "before": b,
                    "after": a,
                    "ratio": (a + 1) / (b + 1),
                }
            )
    columns = ["gene_set", "label", "system", "batch", "n_cells", "n_genes", "before", "after", "ratio"]
    table = pd.DataFrame(rows, columns=columns).sort_values("gene_set", kind="stable", ignore_index=True)
    ratio = {name: mean_ratio(table[table["gene_set"] == name]).value for name in map(str, gene_sets)}
    return GeneSetPreservation(pd.Series(ratio, name="ratio", dtype=np.float64), table, missing, reason)


def _split(
    gene_sets: Mapping[str, Sequence[str]], var_names: pd.Index
) -> tuple[dict[str, list[str]], dict[str, tuple[str, ...]]]:
    """Genes of each set that are in the data (sets without any left out), and those that are not."""
    present: dict[str, list[str]] = {}
    missing: dict[str, tuple[str, ...]] = {}
    for name, genes in gene_sets.items():
        if isinstance(genes, str):
            raise InputError(f"Gene set {name!r} is the text {genes!r}; give a list of genes.")
        unique = list(dict.fromkeys(map(str, genes)))
        present[str(name)] = [gene for gene in unique if gene in var_names]
        missing[str(name)] = tuple(gene for gene in unique if gene not in var_names)
    sets = {name: genes for name, genes in present.items() if genes}
    if not sets:
        raise InputError(
            f"No gene of the gene sets ({listing(present, 5)}) is in adata.var_names ({listing(var_names, 5)}): "
            "use the same names, and mind that genes which are not variable may have been left out."
        )
    return sets, missing


def _score(x: sparse.csr_matrix, var_names: pd.Index, genes: list[str], name: str, seed: int) -> np.ndarray:
    """Score by scanpy of a gene set in the cells of a group, (m,)."""
    ensure_numba_cache()
    import scanpy as sc

    cells = AnnData(x, var=pd.DataFrame(index=var_names))
    n_bins = min(25, max(2, len(var_names) // 2 + 1))  # scanpy's, unless its bins would be smaller than two genes
    with _kept_numpy_state():
        try:
            sc.tl.score_genes(cells, genes, n_bins=n_bins, random_state=seed, use_raw=False)
        except RuntimeError as error:
            raise InputError(
                f"No genes are left to compare gene set {name!r} with: make the set smaller or keep more genes."
            ) from error
    return cells.obs["score"].to_numpy(dtype=np.float64)


@contextmanager
def _kept_numpy_state() -> Iterator[None]:
    """Give NumPy's global generator its state back: scanpy seeds it."""
    state = np.random.get_state()  # noqa: NPY002
    try:
        yield
    finally:
        np.random.set_state(state)  # noqa: NPY002
