"""Moran's I: whether variation of expression within cell types is preserved by an integration.

Metrics of cell type labels cannot show this: an embedding that puts each type into a single point is perfect by all of
them. Here genes that vary smoothly within a type, for example along a gradient, must still do so among the neighbours
in the embedding. Each group of cells of one type in one sample is measured separately, so that differences between
systems or batches have no influence.

Shapes: n cells, m cells of a group, g genes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy import sparse

from sysvi._core.arguments import check_types
from sysvi._core.checks import check_log_normalised
from sysvi._core.errors import InputError
from sysvi._core.settings import random_seed, whole_number
from sysvi.data.row_blocks import row_sliceable
from sysvi.metrics._neighbors import nearest_neighbors
from sysvi.metrics._pca import principal_components
from sysvi.metrics._score import Score, check_embedding, convention, encode_categories

N_NEIGHBORS = 14  # other cells; scanpy's default of 15 counts the cell itself
MIN_GENES, MAX_GENES = 12, 150  # range of the number of genes of a group at which the cutoff aims
PAPER_CUTOFF = 0.2
CHUNK_VALUES = 2**23  # values that are dense at a time, 64 MB


def morans_i(graph: Any, values: Any) -> np.ndarray:
    """Compute Moran's I of each column of `values`: how similar the values of neighbouring cells are.

    I = n / Σ_ij w_ij · Σ_ij w_ij z_i z_j / Σ_i z_i², where z are the values minus their mean. I is about -1/(n - 1) for
    values unrelated to the graph, near 1 for values that hardly differ between neighbours, and negative where
    neighbours differ more than random pairs of cells.

    Parameters
    ----------
    graph
        Weights w between cells, sparse (n, n), such as :attr:`sysvi.metrics.Neighbors.connectivities`. They need not be
        symmetric.
    values
        Values of each cell, (n, g), sparse or dense; made dense in blocks of columns.

    Returns
    -------
    numpy.ndarray
        Moran's I of each column, (g,) float64; NaN for a constant column, and for all columns if the graph has no
        edges.

    Raises
    ------
    InputError
        If the shapes do not match.

    Notes
    -----
    Same values as ``scanpy.metrics.morans_i(graph, values.T)``. Own code, since a sparse product over blocks of genes
    is about twice as fast (0.3 s in place of 0.8 s for 2,000 cells and 1,500 genes).

    Examples
    --------
    >>> line = sparse.diags([1.0, 1.0], [-1, 1], shape=(4, 4))  # four cells in a row
    >>> morans_i(line, np.array([[0.0, 1.0], [1.0, 0.0], [2.0, 1.0], [3.0, 0.0]])).round(3)
    array([ 0.333, -1.   ])
    """
    try:
        weights = sparse.csr_matrix(graph, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"graph is of type {type(graph).__name__}; it must be a matrix of cells x cells.") from error
    n = weights.shape[0]
    if weights.shape[1] != n or len(np.shape(values)) != 2 or np.shape(values)[0] != n:
        raise InputError(
            f"Moran's I needs a graph of cells x cells and values of cells x genes; these have the shapes "
            f"{weights.shape} and {np.shape(values)}."
        )
    values = values.tocsc() if sparse.issparse(values) else np.asarray(values)
    result = np.empty(values.shape[1])
    step = max(1, CHUNK_VALUES // max(n, 1))
    for start in range(0, len(result), step):
        block = values[:, start : start + step]
        x = np.asarray(block.toarray() if sparse.issparse(block) else block, dtype=np.float64)  # (n, step)
        z = x - x.mean(0)
        with np.errstate(divide="ignore", invalid="ignore"):
            moran = n / weights.sum() * np.einsum("ij,ij->j", z, weights @ z) / np.einsum("ij,ij->j", z, z)
        result[start : start + step] = np.where((x != x[:1]).any(0), moran, np.nan)
    return result


@dataclass(frozen=True, eq=False)
class Group:
    """Cells of one type in one sample.

    Parameters
    ----------
    label, system, batch
        Cell type, system and sample of the cells; `system` is ``"all"`` if no systems were given.
    cells
        Row numbers of the cells in the data, (m,).
    """

    label: str
    system: str
    batch: str
    cells: np.ndarray


@dataclass(frozen=True, eq=False)
class MoranGroup(Group):
    """Group of cells with the genes that vary smoothly in it before integration.

    Parameters
    ----------
    genes
        Column numbers of these genes in the expression, (g,).
    before
        Moran's I of these genes before integration, among neighbours by the group's own expression, (g,).
    values
        Expression of these genes, CSR (m, g).
    """

    genes: np.ndarray
    before: np.ndarray
    values: sparse.csr_matrix


@dataclass(frozen=True, eq=False)
class MoranReference:
    """Variation within cell types before integration, with which :func:`moran_ratio` compares embeddings.

    Parameters
    ----------
    groups
        Groups of cells whose genes are measured.
    cutoff
        Minimum Moran's I of these genes before integration.
    n_cells
        Number of cells of the data set, n.
    reason
        Sentence that says why there are no groups; None if there are any.
    """

    groups: tuple[MoranGroup, ...]
    cutoff: float
    n_cells: int
    reason: str | None


def moran_reference(
    expression: Any,
    label: ArrayLike,
    batch: ArrayLike,
    system: ArrayLike | None = None,
    *,
    min_cells: int = 500,
    min_share: float = 0.1,
    n_pcs: int = 15,
    cutoff: float | None = None,
    seed: int = 0,
) -> MoranReference:
    """Find the genes whose variation within each cell type of each sample an integration should preserve.

    As in the paper, each group of at least `min_cells` cells is treated separately: take the genes detected in at least
    a share `min_share` of its cells, compute `n_pcs` principal components and the neighbour graph with scanpy's
    defaults (15 neighbours counting the cell itself, UMAP's weights), and select the genes whose Moran's I is at least
    `cutoff`.

    Parameters
    ----------
    expression
        Log-normalised expression, (n, genes), sparse, dense or backed. The rows of one group are read at a time.
    label
        Cell type of each cell, (n,).
    batch
        Sample of each cell, (n,).
    system
        System of each cell, (n,); needed if systems use the same names for their samples.
    min_cells
        Minimum number of cells of a group.
    min_share
        Minimum share of a group's cells in which a gene is detected.
    n_pcs
        Number of principal components of a group.
    cutoff
        Minimum Moran's I of selected genes. The paper chose 0.2 (pancreas, adipose) and 0.15 (retina) by eye for "some
        genes in every group and not too many in any". By default it is chosen for the data set: among 0.05, 0.06, ...,
        0.99 the one whose groups have numbers of genes nearest to the range 12 to 150, measured by the sum over groups
        of the distance of log(genes + 1) from this range; in case of ties the one nearest to 0.2, then the higher.
    seed
        Random seed of the PCA.

    Returns
    -------
    MoranReference
        Reference without groups if no group is large enough or no gene is selected; its ``reason`` says why.

    Raises
    ------
    InputError
        If lengths differ, a value is missing, or the expression is counts or not finite.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> state = rng.uniform(size=(60, 1))  # varies from cell to cell within the only type
    >>> expression = np.log1p(rng.poisson(20 * state, size=(60, 20)))
    >>> reference = moran_reference(expression, ["beta"] * 60, ["donor1"] * 60, min_cells=50)
    >>> [(group.label, len(group.genes)) for group in reference.groups]
    [('beta', 20)]
    """
    check_types(moran_reference, min_cells=min_cells, min_share=min_share, n_pcs=n_pcs, cutoff=cutoff)
    seed = random_seed(seed)
    matrix = row_sliceable(expression)
    if cutoff is not None and not 0 <= cutoff < 1:
        raise InputError(f"cutoff is {cutoff}: it must be at least 0 and below 1.")
    n = matrix.shape[0]
    groups, reason = type_and_sample_groups(label, batch, system, n, min_cells)
    measured: list[tuple[Group, np.ndarray, np.ndarray]] = []  # group, genes, Moran's I of the genes
    for group in groups:
        x = group_expression(matrix, group.cells)  # (m, all genes)
        genes = detected_genes(x, min_share)
        x = x[:, genes]
        graph = expression_neighbor_graph(x, n_pcs, seed)
        if graph is not None:
            moran = morans_i(graph, x)
            measured.append((group, genes[np.isfinite(moran)], moran[np.isfinite(moran)]))
    chosen = choose_cutoff([moran for _, _, moran in measured]) if cutoff is None else float(cutoff)
    kept = []
    for group, genes, moran in measured:
        smooth = moran >= chosen
        if smooth.any():
            values = group_expression(matrix, group.cells)[:, genes[smooth]]
            kept.append(
                MoranGroup(
                    group.label, group.system, group.batch, group.cells, genes[smooth], moran[smooth], values.tocsr()
                )
            )
    if groups and not kept:
        reason = f"No gene reaches a Moran's I of {chosen:g} in a cell type of a sample: lower cutoff."
    return MoranReference(tuple(kept), chosen, n, reason)


def moran_groups(reference: MoranReference, embedding: ArrayLike) -> pd.DataFrame:
    """Compute Moran's I before and after integration for each group of a reference.

    Parameters
    ----------
    reference
        From :func:`moran_reference`.
    embedding
        Cells x dimensions, the cells of the reference in its order.

    Returns
    -------
    pandas.DataFrame
        One row per group: ``label``, ``system``, ``batch``, ``n_cells``, ``n_genes``, mean Moran's I of the genes
        ``before`` and ``after`` integration, and ``ratio``, the mean over genes of (after + 1) / (before + 1).

    Raises
    ------
    InputError
        If the embedding has another number of cells than the reference or is not finite.

    Examples
    --------
    >>> expression = np.log1p(np.random.default_rng(0).poisson(20 * np.linspace(0, 1, 60)[:, None], size=(60, 20)))
    >>> reference = moran_reference(expression, ["beta"] * 60, ["donor1"] * 60, min_cells=50)
    >>> moran_groups(reference, np.arange(60.0)[:, None])[["label", "n_cells", "n_genes"]]
      label  n_cells  n_genes
    0  beta       60       20
    """
    check_types(moran_groups, reference=reference)
    points = check_embedding(embedding)
    if len(points) != reference.n_cells:
        raise InputError(
            f"The embedding has {len(points)} cells, the reference {reference.n_cells}: give the same cells."
        )
    rows = []
    for group in reference.groups:
        after = morans_i(nearest_neighbors(points[group.cells], N_NEIGHBORS).connectivities, group.values)
        rows.append(
            {
                "label": group.label,
                "system": group.system,
                "batch": group.batch,
                "n_cells": len(group.cells),
                "n_genes": len(group.genes),
                "before": group.before.mean(),
                "after": after.mean(),
                "ratio": ((after + 1) / (group.before + 1)).mean(),
            }
        )
    columns = ["label", "system", "batch", "n_cells", "n_genes", "before", "after", "ratio"]
    return pd.DataFrame(rows, columns=columns)


@convention(
    "(Moran's I + 1) / 2 of genes within groups of one type and sample, embedding divided by the PCA of the group; "
    "mean over genes, samples, types"
)
def moran_ratio(reference: MoranReference, embedding: ArrayLike) -> Score:
    """Measure how much of the variation within cell types an embedding preserves: about 0.7 (none) to 1, or above.

    The ratio of (I + 1) / 2 after and before integration, where I is Moran's I of the genes of `reference` among the
    neighbours within each group, is averaged over the genes of a group, then the samples of a type, then types. 1 means
    that neighbours in the embedding are as similar as neighbours in a PCA of the group. Variation that is lost
    completely (I = 0) gives 1 / (1 + I before), about 0.7, and not 0. Values above 1 are possible, since an embedding
    may be smoother than a PCA. scib-metrics has no such metric.

    Parameters
    ----------
    reference
        From :func:`moran_reference`.
    embedding
        Cells x dimensions, the cells of the reference in its order.

    Returns
    -------
    Score
        Mean over types, with the value of each type that has a group. NaN if the reference has no groups (its
        ``reason`` says why).

    Raises
    ------
    InputError
        If the embedding has another number of cells than the reference or is not finite.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> state = rng.uniform(size=(60, 1))
    >>> expression = np.log1p(rng.poisson(20 * state, size=(60, 20)))
    >>> reference = moran_reference(expression, ["beta"] * 60, ["donor1"] * 60, min_cells=50)
    >>> float(moran_ratio(reference, state)) > 0.95 > 0.7 > float(moran_ratio(reference, rng.normal(size=(60, 1))))
    True
    """
    check_types(moran_ratio, reference=reference)
    return mean_ratio(moran_groups(reference, embedding))


def mean_ratio(table: pd.DataFrame) -> Score:
    """Average the column ``ratio`` over the groups of each ``label``, then over labels, ignoring missing values."""
    per_label = table.groupby("label", sort=True)["ratio"].mean().dropna().astype(np.float64)
    per_label.index.name = None
    return Score(float(per_label.mean()), per_label)


def type_and_sample_groups(
    label: ArrayLike, batch: ArrayLike, system: ArrayLike | None, n: int, min_cells: int
) -> tuple[list[Group], str | None]:
    """Group cells by type and sample, and select the groups with at least `min_cells` cells.

    Returns the groups in sorted order, and None or, if there is no such group, a sentence that says why.

    Raises
    ------
    InputError
        If lengths differ or a value is missing.

    Examples
    --------
    >>> groups, _ = type_and_sample_groups(["b", "a", "a"], ["x", "x", "x"], None, 3, 2)
    >>> groups[0].label, groups[0].cells
    ('a', array([1, 2]))
    """
    whole_number("min_cells", min_cells, 2)
    labels, label_names = encode_categories(label, "label", n)
    systems, system_names = encode_categories(np.full(n, "all") if system is None else system, "system", n)
    batches, batch_names = encode_categories(batch, "batch", n)
    triples, group_of = np.unique(np.column_stack([labels, systems, batches]), axis=0, return_inverse=True)
    order = np.argsort(group_of.ravel(), kind="stable")
    cells = np.split(order, np.cumsum(np.bincount(group_of.ravel(), minlength=len(triples)))[:-1])  # in ascending order
    groups = [
        Group(str(label_names[t]), str(system_names[s]), str(batch_names[b]), rows)
        for (t, s, b), rows in zip(triples, cells, strict=True)
    ]
    large = [group for group in groups if len(group.cells) >= min_cells]
    if large:
        return large, None
    if not groups:
        return [], "There are no cells."
    largest = max(groups, key=lambda group: len(group.cells))
    return [], (
        f"No cell type has {min_cells} cells in one sample (the largest, {largest.label} in {largest.batch}, "
        f"has {len(largest.cells)}): lower min_cells."
    )


def group_expression(matrix: Any, cells: np.ndarray) -> sparse.csr_matrix:
    """Read and check rows of an expression matrix of any kind: CSR float64 without stored zeros."""
    x = sparse.csr_matrix(matrix[cells], dtype=np.float64)
    x.sum_duplicates()
    x.eliminate_zeros()
    if not np.isfinite(x.data).all():
        raise InputError("The expression has a value that is not finite: remove or repair these cells or genes.")
    check_log_normalised(x, "The expression")
    return x


def detected_genes(x: sparse.csr_matrix, min_share: float) -> np.ndarray:
    """Find genes that are not zero in at least a share `min_share` of the cells (column numbers)."""
    return np.flatnonzero(x.getnnz(axis=0) >= min_share * x.shape[0])


def expression_neighbor_graph(x: sparse.csr_matrix, n_pcs: int, seed: int) -> sparse.csr_matrix | None:
    """Compute the neighbour graph of a group's cells from a PCA of their expression, (m, m).

    Returns None if fewer than two genes vary.
    """
    try:
        points = principal_components(x, n_pcs, seed=seed)
    except InputError:
        return None
    return nearest_neighbors(points, N_NEIGHBORS).connectivities


def choose_cutoff(morans: Sequence[np.ndarray]) -> float:
    """Choose the cutoff at which groups have nearest to 12 to 150 genes; the rule is in :func:`moran_reference`.

    Parameters
    ----------
    morans
        Moran's I of the genes, one array per group.

    Examples
    --------
    >>> choose_cutoff([np.linspace(0, 1, 101)])  # 81 genes have at least 0.2
    0.2
    >>> choose_cutoff([np.linspace(0, 1, 1001)])  # 801 genes have at least 0.2
    0.86
    """
    cutoffs = np.arange(5, 100) / 100
    distance = np.zeros(len(cutoffs))  # from the range of 12 to 150 genes
    for moran in morans:
        genes = len(moran) - np.searchsorted(np.sort(moran), cutoffs)  # number of genes at each cutoff
        too_few, too_many = np.log((MIN_GENES + 1) / (genes + 1)), np.log((genes + 1) / (MAX_GENES + 1))
        distance += np.maximum(np.maximum(too_few, too_many), 0)
    best = np.flatnonzero(distance <= distance.min() + 1e-9)
    percent = best + 5  # integers, so that 0.19 and 0.21 are exactly equally far from 0.2
    return float(cutoffs[best[np.lexsort((-percent, np.abs(percent - round(100 * PAPER_CUTOFF))))[0]]])
