"""Moran's I: whether variation within a cell type, in one sample, outlives integration.

Metrics of cell types cannot see it: an embedding that puts every type in a point of its own pleases them all. Here
genes that vary smoothly within a type, as a gradient or a state does, must still do so among the neighbours that the
integration gives. One sample of one type at a time, so that no difference between systems or batches plays a part.

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

from sysvi._core.checks import check_log_normalised
from sysvi._core.errors import InputError
from sysvi._core.settings import whole_number
from sysvi.data.row_blocks import row_sliceable
from sysvi.metrics._neighbors import nearest_neighbors
from sysvi.metrics._pca import principal_components
from sysvi.metrics._score import Score, check_embedding, encode

N_NEIGHBORS = 14  # other cells: scanpy's default of 15, which counts the cell itself
FEWEST_GENES, MOST_GENES, PAPER_CUTOFF = 12, 150, 0.2
CHUNK = 2**23  # values held dense at a time: 64 MB


def morans_i(graph: Any, values: Any) -> np.ndarray:
    """Moran's I of each column: how alike the values of neighbouring cells are.

    I = n / Σ_ij w_ij · Σ_ij w_ij z_i z_j / Σ_i z_i², with z the values less their mean. About -1/(n - 1) for values
    that have nothing to do with the graph, towards 1 for values that hardly differ between neighbours, negative where
    neighbours differ more than any two cells.

    Parameters
    ----------
    graph
        Weights w, sparse (n, n), such as :attr:`sysvi.metrics.Neighbors.connectivities`; need not be symmetric.
    values
        (n, g), sparse or dense; made dense a few columns at a time.

    Returns
    -------
    numpy.ndarray
        (g,) float64; NaN for a column of equal values and, in all columns, for a graph without weights. scanpy's
        ``morans_i(graph, values.T)``.

    Raises
    ------
    InputError
        If the shapes do not fit.

    Examples
    --------
    >>> line = sparse.diags([1.0, 1.0], [-1, 1], shape=(4, 4))  # four cells in a row
    >>> morans_i(line, np.array([[0.0, 1.0], [1.0, 0.0], [2.0, 1.0], [3.0, 0.0]])).round(3)
    array([ 0.333, -1.   ])
    """
    weights = sparse.csr_matrix(graph, dtype=np.float64)
    n = weights.shape[0]
    if weights.shape[1] != n or len(np.shape(values)) != 2 or np.shape(values)[0] != n:
        raise InputError(
            f"Moran's I takes a graph of cells x cells and values of cells x genes; these have the shapes "
            f"{weights.shape} and {np.shape(values)}."
        )
    values = values.tocsc() if sparse.issparse(values) else np.asarray(values)
    result = np.empty(values.shape[1])
    step = max(1, CHUNK // max(n, 1))
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
    """The cells of one type in one sample.

    Parameters
    ----------
    label, system, batch
        Whose cells these are; `system` is ``"all"`` where systems were not told apart.
    cells
        Their rows in the data, (m,).
    """

    label: str
    system: str
    batch: str
    cells: np.ndarray


@dataclass(frozen=True, eq=False)
class MoranGroup(Group):
    """A group with the genes that vary smoothly in it, before integration.

    Parameters
    ----------
    genes
        Columns of the expression, (g,).
    before
        Their Moran's I among the group's own neighbours, (g,).
    values
        Their expression, CSR (m, g).
    """

    genes: np.ndarray
    before: np.ndarray
    values: sparse.csr_matrix


@dataclass(frozen=True, eq=False)
class MoranReference:
    """What :func:`moran_ratio` compares embeddings with; made once for a data set by :func:`moran_reference`.

    Parameters
    ----------
    groups
        The groups in which genes are followed.
    cutoff
        Least Moran's I, before, of these genes.
    n_cells
        Cells of the data set, n.
    reason
        Why there are no groups, in a sentence; None where there are some.
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
    """Find, in each type of each sample, the genes whose variation an integration should keep.

    As in the paper: in each group of at least `min_cells` cells, the genes seen in `min_share` of its cells, a PCA of
    them in `n_pcs` components, the neighbours of scanpy's default (15 with the cell itself, UMAP's weights), and each
    gene's Moran's I. The genes of at least `cutoff` are kept.

    Parameters
    ----------
    expression
        Log-normalised, cells x genes: sparse, dense or backed. A group's rows are read at a time.
    label
        Cell type of each cell, (n,).
    batch
        Sample of each cell, (n,).
    system
        System of each cell, (n,): for data where systems use the same names for their samples.
    min_cells
        Fewest cells of a group.
    min_share
        Least share of a group's cells in which a gene is seen.
    n_pcs
        Principal components of a group.
    cutoff
        Least Moran's I of a gene that is kept; the paper took 0.2 (pancreas, adipose) and 0.15 (retina), by eye, for
        "some genes in every group and not too many in any". By default chosen for the data set: of 0.05, 0.06, ...,
        0.99 the one at which the groups come closest to 12 to 150 genes, that is with the least sum over groups of
        how far log(genes + 1) is from this range; of equal ones the one nearest to 0.2, then the higher.
    seed
        Of the PCA.

    Returns
    -------
    MoranReference
        Without groups where none is large enough or keeps a gene; ``reason`` then says so.

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
    matrix = row_sliceable(expression)
    if cutoff is not None and not 0 <= cutoff < 1:
        raise InputError(f"cutoff is {cutoff}; it must be at least 0 and below 1.")
    n = matrix.shape[0]
    groups, reason = sample_groups(label, batch, system, n, min_cells)
    measured: list[tuple[Group, np.ndarray, np.ndarray]] = []  # group, genes, their Moran's I
    for group in groups:
        x = group_expression(matrix, group.cells)  # (m, genes of the data)
        genes = seen_genes(x, min_share)
        x = x[:, genes]
        graph = own_graph(x, n_pcs, seed)
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
        reason = f"No gene reaches a Moran's I of {chosen:g} within a cell type of a sample: lower cutoff."
    return MoranReference(tuple(kept), chosen, n, reason)


def moran_groups(reference: MoranReference, embedding: ArrayLike) -> pd.DataFrame:
    """Moran's I before and after integration, a row for each group.

    Parameters
    ----------
    reference
        From :func:`moran_reference`.
    embedding
        Cells x dimensions, the cells of the reference in its order.

    Returns
    -------
    pandas.DataFrame
        ``label``, ``system``, ``batch``, ``n_cells``, ``n_genes``, the mean Moran's I of the genes ``before`` and
        ``after``, and ``ratio``, the mean over genes of (after + 1) / (before + 1).

    Raises
    ------
    InputError
        If the embedding does not fit or is not finite.

    Examples
    --------
    >>> expression = np.log1p(np.random.default_rng(0).poisson(20 * np.linspace(0, 1, 60)[:, None], size=(60, 20)))
    >>> reference = moran_reference(expression, ["beta"] * 60, ["donor1"] * 60, min_cells=50)
    >>> moran_groups(reference, np.arange(60.0)[:, None])[["label", "n_cells", "n_genes"]]
      label  n_cells  n_genes
    0  beta       60       20
    """
    points = check_embedding(embedding)
    if len(points) != reference.n_cells:
        raise InputError(f"The embedding has {len(points)} cells, the reference {reference.n_cells}: give the same.")
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


def moran_ratio(reference: MoranReference, embedding: ArrayLike) -> Score:
    """How much of the variation within types, in each sample, an embedding keeps.

    The ratio of (I + 1) / 2 after to before integration, with Moran's I of the genes of `reference` among the same
    group's neighbours in the embedding; averaged over the genes of a group, then the samples of a type, then types.
    1: neighbours are as alike as in the group's own PCA. Variation lost altogether (I = 0) gives 1 / (1 + I before),
    some 0.7, not 0. Above 1 is possible, as an embedding may smooth more than a PCA. No counterpart in scib-metrics.

    Parameters
    ----------
    reference
        From :func:`moran_reference`.
    embedding
        Cells x dimensions, the cells of the reference in its order.

    Returns
    -------
    Score
        With a value for each type that has a group. NaN where the reference has none (its ``reason`` says why).

    Raises
    ------
    InputError
        If the embedding does not fit or is not finite.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> state = rng.uniform(size=(60, 1))
    >>> expression = np.log1p(rng.poisson(20 * state, size=(60, 20)))
    >>> reference = moran_reference(expression, ["beta"] * 60, ["donor1"] * 60, min_cells=50)
    >>> float(moran_ratio(reference, state)) > 0.95 > 0.7 > float(moran_ratio(reference, rng.normal(size=(60, 1))))
    True
    """
    return mean_ratio(moran_groups(reference, embedding))


def mean_ratio(table: pd.DataFrame) -> Score:
    """The column ``ratio`` averaged over the groups of a ``label``, then over labels; missing ones left out."""
    per_label = table.groupby("label", sort=True)["ratio"].mean().dropna().astype(np.float64)
    per_label.index.name = None
    return Score(float(per_label.mean()), per_label)


def sample_groups(
    label: ArrayLike, batch: ArrayLike, system: ArrayLike | None, n: int, min_cells: int
) -> tuple[list[Group], str | None]:
    """The types of each sample with at least `min_cells` cells, sorted; without any, the reason in a sentence.

    Raises
    ------
    InputError
        If lengths differ or a value is missing.

    Examples
    --------
    >>> groups, _ = sample_groups(["b", "a", "a"], ["x", "x", "x"], None, 3, 2)
    >>> groups[0].label, groups[0].cells
    ('a', array([1, 2]))
    """
    whole_number("min_cells", min_cells, 2)
    labels, label_names = encode(label, "label", n)
    systems, system_names = encode(np.full(n, "all") if system is None else system, "system", n)
    batches, batch_names = encode(batch, "batch", n)
    triples, group_of = np.unique(np.column_stack([labels, systems, batches]), axis=0, return_inverse=True)
    order = np.argsort(group_of.ravel(), kind="stable")
    cells = np.split(order, np.cumsum(np.bincount(group_of.ravel(), minlength=len(triples)))[:-1])  # rising in each
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
    """Some rows of an expression matrix of any kind, checked: CSR float64 without stored zeros."""
    x = sparse.csr_matrix(matrix[cells], dtype=np.float64)
    x.sum_duplicates()
    x.eliminate_zeros()
    if not np.isfinite(x.data).all():
        raise InputError("The expression has a value that is not finite: remove or repair such cells or genes.")
    check_log_normalised(x, "The expression")
    return x


def seen_genes(x: sparse.csr_matrix, min_share: float) -> np.ndarray:
    """Columns that are not zero in at least `min_share` of the rows."""
    return np.flatnonzero(x.getnnz(axis=0) >= min_share * x.shape[0])


def own_graph(x: sparse.csr_matrix, n_pcs: int, seed: int) -> sparse.csr_matrix | None:
    """Neighbours of the cells of a group by their own expression, (m, m); None where it does not vary."""
    try:
        points = principal_components(x, n_pcs, seed=seed)
    except InputError:  # fewer than two genes vary
        return None
    return nearest_neighbors(points, N_NEIGHBORS).connectivities


def choose_cutoff(morans: Sequence[np.ndarray]) -> float:
    """The cutoff at which the groups come closest to 12 to 150 genes; the rule is in :func:`moran_reference`.

    Parameters
    ----------
    morans
        Moran's I of the genes of each group.

    Examples
    --------
    >>> choose_cutoff([np.linspace(0, 1, 101)])  # 81 genes of at least 0.2
    0.2
    >>> choose_cutoff([np.linspace(0, 1, 1001)])  # 801 of at least 0.2
    0.86
    """
    cutoffs = np.arange(5, 100) / 100
    miss = np.zeros(len(cutoffs))
    for moran in morans:
        genes = len(moran) - np.searchsorted(np.sort(moran), cutoffs)  # of at least each cutoff
        few, many = np.log((FEWEST_GENES + 1) / (genes + 1)), np.log((genes + 1) / (MOST_GENES + 1))
        miss += np.maximum(np.maximum(few, many), 0)
    best = np.flatnonzero(miss <= miss.min() + 1e-9)
    percent = best + 5  # whole numbers: |0.19 - 0.2| and |0.21 - 0.2| are equal
    return float(cutoffs[best[np.lexsort((-percent, np.abs(percent - round(100 * PAPER_CUTOFF))))[0]]])
