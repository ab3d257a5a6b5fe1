"""Highly variable genes computed row block by row block: the same genes as scanpy, without its copies of the matrix.

The definitions are those of scanpy's `highly_variable_genes` with ``n_top_genes``, including its rounding: squares in
float32, sums in float64. Shapes: n cells of a row block, B groups of cells (batches within systems), G genes.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import sparse

FLAVORS = ("cell_ranger", "seurat")
NORMAL_MAD = 0.6744897501960817  # median absolute deviation of the standard normal distribution


class BlockMoments(NamedTuple):
    """What the cells of a row block add to the moments of some consecutive groups, the s from `first` on."""

    first: int
    n_cells: np.ndarray  # (s,)
    sums: np.ndarray  # (s, G)
    squares: np.ndarray  # (s, G)


def block_moments(block: sparse.csr_matrix, group: np.ndarray) -> BlockMoments | None:
    """Sum the values of a row block, and their squares, by group.

    Parameters
    ----------
    block
        Expression of the cells, CSR of shape (n, G), float32.
    group
        Group of each cell, (n,); cells of group -1 are ignored.

    Returns
    -------
    BlockMoments or None
        None if all cells are ignored.
    """
    if (group < 0).any():
        block, group = block[group >= 0], group[group >= 0]
    if not len(group):
        return None
    n_genes = block.shape[1]
    first = int(group.min())  # consecutive cells are often of few groups: only those in their range are summed
    n_span = int(group.max()) + 1 - first
    position = np.repeat((group - first) * n_genes, np.diff(block.indptr))  # (nnz,) in the flat sums of the span
    position += block.indices

    def sum_by_group(values: np.ndarray) -> np.ndarray:  # (nnz,) -> (n_span, G)
        return np.bincount(position, values, n_span * n_genes).reshape(n_span, n_genes)

    n_cells = np.bincount(group - first, minlength=n_span)
    return BlockMoments(first, n_cells, sum_by_group(block.data), sum_by_group(np.square(block.data)))


class GeneMoments:
    """Mean and variance of each gene in groups of cells, accumulated row block by row block.

    Parameters
    ----------
    n_groups, n_genes
        Numbers of groups and genes, B and G. Memory is 16 bytes for each gene of each group.

    Examples
    --------
    >>> moments = GeneMoments(n_groups=1, n_genes=2)
    >>> for row in ([0.0, 1.0], [0.0, 3.0]):
    ...     moments.add(block_moments(sparse.csr_matrix([row], dtype=np.float32), np.array([0])))
    >>> [values.tolist() for values in moments.mean_and_variance(np.array([0]))]
    [[[0.0, 2.0]], [[0.0, 2.0]]]
    """

    def __init__(self, n_groups: int, n_genes: int) -> None:
        self.n_cells = np.zeros(n_groups, np.int64)  # (B,)
        self.sums, self.squares = np.zeros((2, n_groups, n_genes))  # (B, G) each

    def add(self, found: BlockMoments | None) -> None:
        """Add the cells of a row block. The sums depend, in their last bits, on the order of the blocks."""
        if found is None:
            return
        span = slice(found.first, found.first + len(found.n_cells))
        self.n_cells[span] += found.n_cells
        self.sums[span] += found.sums
        self.squares[span] += found.squares

    def mean_and_variance(self, groups: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean and variance of each gene in some groups, (len(groups), G) each; the variance of a single cell is 0."""
        n = self.n_cells[groups, None]
        mean = self.sums[groups] / n
        return mean, (self.squares[groups] / n - mean**2) * (n / np.maximum(n - 1, 1))


def variable_genes(
    mean: np.ndarray, variance: np.ndarray, n_top_genes: int, flavor: str, names: pd.Index | None = None
) -> np.ndarray | None:
    """Select the genes with the highest normalised dispersion, in all cells or in as many batches as possible.

    Parameters
    ----------
    mean, variance
        Mean and variance of each gene in each batch, (B, G), or in all cells, (1, G): of log-normalised expression for
        ``"cell_ranger"``, of normalised expression (before the logarithm) for ``"seurat"``.
    n_top_genes
        Number of genes to select. Without batches, genes that tie with the last one are selected too.
    flavor
        ``"cell_ranger"`` or ``"seurat"``.
    names
        Gene names, (G,), if there are batches; ties are resolved in the order of the names. None without batches.

    Returns
    -------
    numpy.ndarray or None
        Mask of the selected genes, (G,); None if the genes are too few or too similar to be ranked.

    Examples
    --------
    >>> mean, variance = np.ones((1, 4)), np.array([[1.0, 2.0, 3.0, 9.0]])
    >>> variable_genes(mean, variance, 1, "seurat").tolist()
    [False, False, False, True]
    """
    dispersion, selected = np.zeros(mean.shape), np.zeros(mean.shape, dtype=bool)  # (B, G)
    for b in range(len(mean)):
        genes = slice(None) if names is None else np.flatnonzero(mean[b] > 0)  # others keep a dispersion of 0
        if not mean[b, genes].size:
            continue
        dispersion[b, genes] = normalised_dispersion(mean[b, genes], variance[b, genes], flavor)
        highest = _highest(dispersion[b, genes], n_top_genes)
        if highest is None:
            return None
        selected[b, genes] = highest
    if names is None:
        return selected[0]
    gene = np.tile(np.arange(mean.shape[1]), len(mean))  # (B * G,)
    table = pd.DataFrame({"batches": selected.sum(axis=0)}, index=names)
    table["dispersion"] = pd.Series(dispersion.ravel()).groupby(gene).mean().to_numpy()
    best = table.sort_index().sort_values(["batches", "dispersion"], ascending=False)
    return names.isin(best.index[:n_top_genes])


def normalised_dispersion(mean: np.ndarray, variance: np.ndarray, flavor: str) -> np.ndarray:
    """Dispersion (variance / mean) of each gene, standardised among genes of similar mean.

    Parameters
    ----------
    mean, variance
        Mean and variance of each gene, (G,), as in `variable_genes`.
    flavor
        ``"cell_ranger"`` standardises the dispersion by median and median absolute deviation, in bins of equally many
        genes. ``"seurat"`` standardises its logarithm by mean and standard deviation, in 20 bins of equal width.

    Returns
    -------
    numpy.ndarray
        Normalised dispersion, (G,); NaN where it is undefined, for all genes if their means are too similar for bins.

    Examples
    --------
    >>> normalised_dispersion(np.ones(3), np.array([1.0, 10.0, 100.0]), "seurat").tolist()
    [-1.0, 0.0, 1.0]
    """
    mean = np.where(mean == 0, 1e-12, mean)
    dispersion = variance / mean
    bins: Any = 20
    if flavor == "seurat":
        with np.errstate(divide="ignore", invalid="ignore"):  # a variance that is 0 up to rounding
            dispersion = np.log(np.where(dispersion == 0, np.nan, dispersion))
        mean = np.log1p(mean)
    else:
        bins = np.r_[-np.inf, np.percentile(mean, np.arange(10, 105, 5)), np.inf]
    try:
        gene_bins = pd.cut(pd.Series(mean), bins)
    except ValueError:  # two edges of bins are equal
        return np.full(len(mean), np.nan)
    by_bin = pd.Series(dispersion).groupby(gene_bins, observed=True)
    if flavor == "seurat":
        centre, scale = by_bin.transform("mean"), by_bin.transform("std")
        single = scale.isna()  # the only gene of its bin, whose normalised dispersion becomes 1
        centre, scale = centre.mask(single, 0.0), scale.mask(single, centre)
    else:
        centre, scale = by_bin.transform("median"), by_bin.transform(_median_absolute_deviation)
    return ((dispersion - centre) / scale).to_numpy()


def _highest(dispersion: np.ndarray, n: int) -> np.ndarray | None:
    """Mask of the n highest dispersions and of those that tie with the last of them, (G,); None if all are NaN."""
    ranked = np.sort(dispersion[~np.isnan(dispersion)])[::-1]
    if not len(ranked):
        return None
    # Like scanpy, treat infinite dispersions as the largest number.
    return np.nan_to_num(dispersion, nan=-np.inf) >= ranked[min(n, len(ranked)) - 1]


def _median_absolute_deviation(values: pd.Series) -> float:
    return ((values - values.median()).abs() / NORMAL_MAD).median()
