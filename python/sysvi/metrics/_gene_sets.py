"""Preservation of the variation of gene set activity within cell types."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from sysvi._core.arguments import check_types
from sysvi._core.checks import check_obs_column, check_unique_names, get_expression, listing
from sysvi._core.compilation import ensure_numba_cache
from sysvi._core.errors import InputError
from sysvi._core.seeds import seed_of_32_bits
from sysvi._core.settings import random_seed
from sysvi.data.row_blocks import row_sliceable
from sysvi.metrics._labels import read_labels_with_warning
from sysvi.metrics._latent import get_embedding
from sysvi.metrics._moran import (
    N_NEIGHBORS,
    detected_genes,
    expression_neighbor_graph,
    group_expression,
    mean_ratio,
    morans_i,
    type_and_sample_groups,
)
from sysvi.metrics._neighbors import nearest_neighbors


@dataclass(frozen=True, eq=False)
class GeneSetPreservation:
    """Result of :func:`gene_set_preservation`.

    Parameters
    ----------
    ratio
        Value of each gene set: the column ``ratio`` of the table averaged over samples, then over types. 1 means that
        the variation is preserved, about 0.7 that it is lost; NaN where it could not be measured.
    table
        One row per gene set and group: ``gene_set``, ``label``, ``system``, ``batch``, ``n_cells``, ``n_genes`` (genes
        of the set in the data), Moran's I of the score ``before`` and ``after`` integration, and ``ratio``, that of
        (I + 1) / 2.
    missing
        Genes of each set that are not in the data.
    reason
        Sentence that says why nothing could be measured, or None.
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
    """Measure how much of the variation of gene set activity within cell types an embedding preserves.

    Each group of at least `min_cells` cells of one type in one sample is treated separately. Gene sets are scored by
    ``scanpy.tl.score_genes`` (mean expression of the set minus that of random genes of similar expression). Moran's I
    of the score among the group's neighbours in a PCA of its expression (of the genes detected in a share `min_share`
    of its cells, as in :func:`sysvi.metrics.moran_reference`) is compared with Moran's I among its neighbours in the
    embedding.

    Parameters
    ----------
    adata
        Log-normalised expression, in memory or backed; not changed. The rows of one group are read at a time.
    embedding_key
        Key of the embedding in ``adata.obsm``.
    gene_sets
        Genes of each set, by name of the set; genes are named as in ``adata.var_names``.
    label_key
        Column of ``adata.obs`` with the cell types. Unlabelled cells are left out, with a warning.
    batch_key
        Column of ``adata.obs`` with the samples.
    system_key
        Column of ``adata.obs`` with the systems; needed if systems use the same names for their samples.
    layer
        Layer with the expression; ``adata.X`` by default.
    min_cells
        Minimum number of cells of a group.
    min_share
        Minimum share of a group's cells in which a gene of the PCA is detected.
    n_pcs
        Number of principal components.
    seed
        Random seed of the genes that scores are compared with, and of the PCA.

    Returns
    -------
    GeneSetPreservation
        A set without a gene in the data has the value NaN. So has a row of the table if the score is the same in all
        cells of the group.

    Raises
    ------
    InputError
        If a column, the layer or the embedding is missing, the expression looks like counts, no set has a gene in the
        data, or no genes are left to compare a set with.

    Examples
    --------
    >>> import numpy as np, pandas as pd, anndata
    >>> rng = np.random.default_rng(0)
    >>> state = rng.uniform(size=(80, 1))  # activity of the first ten genes in each cell
    >>> mean = np.where(np.arange(100) < 10, 20 * state, 2.0)
    >>> obs = pd.DataFrame({"type": "beta", "donor": "d1"}, index=[f"cell{i}" for i in range(80)])
    >>> adata = anndata.AnnData(np.log1p(rng.poisson(mean)), obs=obs, obsm={"X_state": state})
    >>> result = gene_set_preservation(
    ...     adata, "X_state", {"active": [*adata.var_names[:10], "XIST"]}, "type", "donor", min_cells=50
    ... )
    >>> bool(result.ratio["active"] > 0.9), result.missing
    (True, {'active': ('XIST',)})
    """
    check_types(
        gene_set_preservation,
        adata=adata,
        embedding_key=embedding_key,
        gene_sets=gene_sets,
        label_key=label_key,
        batch_key=batch_key,
        system_key=system_key,
        layer=layer,
        min_cells=min_cells,
        min_share=min_share,
        n_pcs=n_pcs,
    )
    seed = random_seed(seed)
    check_unique_names(adata)
    points = get_embedding(adata, embedding_key)
    label, labelled = read_labels_with_warning(adata, label_key)
    batch = check_obs_column(adata, batch_key, "batch_key")
    system = None if system_key is None else check_obs_column(adata, system_key, "system_key")[labelled]
    rows = np.flatnonzero(labelled)
    matrix = row_sliceable(get_expression(adata, layer)[1])
    sets, missing = _genes_in_data(gene_sets, adata.var_names)
    groups, reason = type_and_sample_groups(label[rows], batch[rows], system, len(rows), min_cells)
    records = []
    for group in groups:
        cells = rows[group.cells]
        x = group_expression(matrix, cells)  # (m, genes)
        scores = np.column_stack([_score(x, adata.var_names, sets[name], name, seed) for name in sets])  # (m, sets)
        graph = expression_neighbor_graph(x[:, detected_genes(x, min_share)], n_pcs, seed)
        before = np.full(len(sets), np.nan) if graph is None else morans_i(graph, scores)
        after = morans_i(nearest_neighbors(points[cells], N_NEIGHBORS).connectivities, scores)
        for name, b, a in zip(sets, before, after, strict=True):
            records.append(
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
    table = pd.DataFrame(records, columns=columns).sort_values("gene_set", kind="stable", ignore_index=True)
    ratio = {name: mean_ratio(table[table["gene_set"] == name]).value for name in map(str, gene_sets)}
    return GeneSetPreservation(pd.Series(ratio, name="ratio", dtype=np.float64), table, missing, reason)


def _genes_in_data(
    gene_sets: Mapping[str, Sequence[str]], var_names: pd.Index
) -> tuple[dict[str, list[str]], dict[str, tuple[str, ...]]]:
    """Split each set into genes that are in the data (without sets that have none) and genes that are missing."""
    present: dict[str, list[str]] = {}
    missing: dict[str, tuple[str, ...]] = {}
    for name, genes in gene_sets.items():
        if isinstance(genes, str) or not isinstance(genes, Iterable):
            raise InputError(f"Gene set {name!r} is {genes!r}: give a list of genes.")
        unique = list(dict.fromkeys(map(str, genes)))
        present[str(name)] = [gene for gene in unique if gene in var_names]
        missing[str(name)] = tuple(gene for gene in unique if gene not in var_names)
    sets = {name: genes for name, genes in present.items() if genes}
    if not sets:
        raise InputError(
            f"No gene of the gene sets ({listing(present, 5)}) is in adata.var_names ({listing(var_names, 5)}): "
            "use the same gene names, and keep these genes in the selection of variable genes."
        )
    return sets, missing


def _score(x: sparse.csr_matrix, var_names: pd.Index, genes: list[str], name: str, seed: int) -> np.ndarray:
    """Score a gene set in each cell of a group by scanpy, (m,)."""
    ensure_numba_cache()
    import scanpy as sc

    cells = AnnData(x, var=pd.DataFrame(index=var_names))
    n_bins = min(25, max(2, len(var_names) // 2 + 1))  # scanpy's default, but at least two genes per bin
    with _restore_numpy_random_state():
        try:
            sc.tl.score_genes(cells, genes, n_bins=n_bins, random_state=seed_of_32_bits(seed), use_raw=False)
        except RuntimeError as error:
            raise InputError(
                f"No genes are left to compare gene set {name!r} with: use a smaller set or keep more genes."
            ) from error
    return cells.obs["score"].to_numpy(dtype=np.float64)


@contextmanager
def _restore_numpy_random_state() -> Iterator[None]:
    """Restore the state of NumPy's global random generator, which scanpy seeds."""
    state = np.random.get_state()  # noqa: NPY002
    try:
        yield
    finally:
        np.random.set_state(state)  # noqa: NPY002
