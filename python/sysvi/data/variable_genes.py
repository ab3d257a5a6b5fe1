"""Variable genes from sums over the cells, taken block by block: scanpy's choice without its copies of the matrix.

The definitions are those of scanpy's `highly_variable_genes` with ``n_top_genes``, rounding included: squares in
float32, sums in float64. Shapes: n cells of a block, B groups of cells (the batches of the systems), G genes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from scipy import sparse

FLAVORS = ("cell_ranger", "seurat")
MAD_OF_NORMAL = 0.6744897501960817  # median absolute deviation of the standard normal


class GeneMoments:
    """Mean and variance of each gene in groups of cells, from cells that are added block by block.

    Parameters
    ----------
    n_groups, n_genes
        B and G; held are 16 bytes for each group and gene.

    Examples
    --------
    >>> moments = GeneMoments(n_groups=1, n_genes=2)
    >>> for row in ([0.0, 1.0], [0.0, 3.0]):
    ...     moments.add(sparse.csr_matrix([row], dtype=np.float32), np.array([0]))
    >>> [values.tolist() for values in moments.of(np.array([0]))]
    [[[0.0, 2.0]], [[0.0, 2.0]]]
    """

    def __init__(self, n_groups: int, n_genes: int) -> None:
        self.n_cells = np.zeros(n_groups, np.int64)  # (B,)
        self.sums, self.squares = np.zeros((2, n_groups, n_genes))  # (B, G) each

    def add(self, block: sparse.csr_matrix, group: np.ndarray) -> None:
        """Add cells.

        Parameters
        ----------
        block
            Their expression, (n, G), float32.
        group
            The group of each, (n,); cells of group -1 are left out.
        """
        if (group < 0).any():
            block, group = block[group >= 0], group[group >= 0]
        if not len(group):
            return
        n_genes = self.sums.shape[1]
        first = group.min()  # neighbours are often of few groups: only their span is gone through
        span = slice(first, group.max() + 1)
        n_span = span.stop - first
        place = np.repeat((group - first) * n_genes, np.diff(block.indptr))  # (nnz,) in the flat sums of the span
        place += block.indices

        def summed(values: np.ndarray) -> np.ndarray:  # (nnz,) -> (n_span, G)
            return np.bincount(place, values, n_span * n_genes).reshape(n_span, n_genes)

        self.n_cells[span] += np.bincount(group - first, minlength=n_span)
        self.sums[span] += summed(block.data)
        self.squares[span] += summed(np.square(block.data))

    def of(self, groups: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean and variance in some groups, (groups, G) each; of a single cell, the variance is 0."""
        n = self.n_cells[groups, None]
        mean = self.sums[groups] / n
        return mean, (self.squares[groups] / n - mean**2) * (n / np.maximum(n - 1, 1))


def variable_genes(
    mean: np.ndarray, variance: np.ndarray, n_top_genes: int, flavor: str, names: pd.Index | None = None
) -> np.ndarray | None:
    """The genes that vary most for their mean, in all cells or in most batches.

    Parameters
    ----------
    mean, variance
        Of each gene in each batch, (B, G), or in all cells, (1, G): of log-normalised expression for
        ``"cell_ranger"``, of normalised expression (before the logarithm) for ``"seurat"``.
    n_top_genes
        How many to choose. Those that tie with the last are chosen too, unless there are batches.
    flavor
        ``"cell_ranger"`` or ``"seurat"``.
    names
        Gene names, (G,), if there are batches: equally good genes are chosen in the order of their names.

    Returns
    -------
    numpy.ndarray | None
        Mask of the chosen genes, (G,); None if genes are too few or too alike to be ranked.

    Examples
    --------
    >>> mean, variance = np.ones((1, 4)), np.array([[1.0, 2.0, 3.0, 9.0]])
    >>> variable_genes(mean, variance, 1, "seurat").tolist()
    [False, False, False, True]
    """
    dispersion, chosen = np.zeros(mean.shape), np.zeros(mean.shape, dtype=bool)  # (B, G)
    for b in range(len(mean)):
        of = slice(None) if names is None else np.flatnonzero(mean[b] > 0)  # genes not seen in a batch keep their 0
        if not mean[b, of].size:
            continue
        dispersion[b, of] = normalised_dispersion(mean[b, of], variance[b, of], flavor)
        chosen_here = _highest(dispersion[b, of], n_top_genes)
        if chosen_here is None:
            return None
        chosen[b, of] = chosen_here
    if names is None:
        return chosen[0]
    gene = np.tile(np.arange(mean.shape[1]), len(mean))  # (B * G,)
    table = pd.DataFrame({"batches": chosen.sum(axis=0)}, index=names)
    table["dispersion"] = pd.Series(dispersion.ravel()).groupby(gene).mean().to_numpy()
    best = table.sort_index().sort_values(["batches", "dispersion"], ascending=False)
    return names.isin(best.index[:n_top_genes])


def normalised_dispersion(mean: np.ndarray, variance: np.ndarray, flavor: str) -> np.ndarray:
    """Variance over mean of each gene, standardised among genes of similar mean.

    Parameters
    ----------
    mean, variance
        (G,), as in `variable_genes`.
    flavor
        ``"cell_ranger"``: by median and median absolute deviation in bins of as many genes; ``"seurat"``: the
        logarithm, by mean and standard deviation in 20 bins of the same width.

    Returns
    -------
    numpy.ndarray
        (G,); NaN where there is none, everywhere if the means are too alike for bins.

    Examples
    --------
    >>> normalised_dispersion(np.ones(3), np.array([1.0, 10.0, 100.0]), "seurat").tolist()
    [-1.0, 0.0, 1.0]
    """
    mean = np.where(mean == 0, 1e-12, mean)
    dispersion = variance / mean
    bins: Any = 20
    if flavor == "seurat":
        with np.errstate(divide="ignore", invalid="ignore"):  # a variance of 0 up to rounding
            dispersion = np.log(np.where(dispersion == 0, np.nan, dispersion))
        mean = np.log1p(mean)
    else:
        bins = np.r_[-np.inf, np.percentile(mean, np.arange(10, 105, 5)), np.inf]
    try:
        of_gene = pd.cut(pd.Series(mean), bins)
    except ValueError:  # two edges are the same
        return np.full(len(mean), np.nan)
    by_bin = pd.Series(dispersion).groupby(of_gene, observed=True)
    if flavor == "seurat":
        centre, scale = by_bin.transform("mean"), by_bin.transform("std")
        alone = scale.isna()  # in its bin: its dispersion becomes 1
        centre, scale = centre.mask(alone, 0.0), scale.mask(alone, centre)
    else:
        centre, scale = by_bin.transform("median"), by_bin.transform(_median_absolute_deviation)
    return ((dispersion - centre) / scale).to_numpy()


def _highest(dispersion: np.ndarray, n: int) -> np.ndarray | None:
    """Mask of the n highest and of what ties with the last of them, (G,); None if all are NaN."""
    ranked = np.sort(dispersion[~np.isnan(dispersion)])[::-1]
    if not len(ranked):
        return None
    # as scanpy: infinite ones count as the largest number
    return np.nan_to_num(dispersion, nan=-np.inf) >= ranked[min(n, len(ranked)) - 1]


def _median_absolute_deviation(values: pd.Series) -> float:
    return ((values - values.median()).abs() / MAD_OF_NORMAL).median()
