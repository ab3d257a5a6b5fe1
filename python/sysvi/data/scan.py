"""One pass over expression, in memory or on disk: what all cells tell of each gene in each system.

Shapes: n cells, S systems, G genes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from sysvi._core.checks import whole_numbers
from sysvi._core.ranks import Ranks


@dataclass(frozen=True, eq=False)
class Scan:
    """What a pass over the expression tells.

    Parameters
    ----------
    n_detected
        Number of cells of each system with a value above 0 of each gene, (S, G) int64.
    sums
        Sum of each gene in each system, (S, G) float64.
    n_values, n_whole
        Number of nonzero values of each system, and how many of them are whole numbers, (S,) int64.
    smallest, largest
        Smallest and largest of all values; NaN if there is a NaN.
    """

    n_detected: NDArray[np.int64]
    sums: NDArray[np.float64]
    n_values: NDArray[np.int64]
    n_whole: NDArray[np.int64]
    smallest: float
    largest: float

    def total(self, ranks: Ranks) -> Scan:
        """That of all processes, from what each has found in its own cells."""
        if ranks.size == 1:
            return self
        ends = np.array(ranks.gather((self.smallest, self.largest)))  # NaN wins in both
        n_detected, sums = ranks.sum_numbers(self.n_detected), ranks.sum_numbers(self.sums)
        n_values, n_whole = ranks.sum_numbers(self.n_values), ranks.sum_numbers(self.n_whole)
        return Scan(n_detected, sums, n_values, n_whole, float(ends[:, 0].min()), float(ends[:, 1].max()))


def scan(blocks: Iterable[tuple[int, int, sp.csr_matrix]], system: np.ndarray, n_systems: int, n_genes: int) -> Scan:
    """Go through the row blocks of an expression matrix.

    Parameters
    ----------
    blocks
        First row, last row + 1 and CSR of each block, in order, without stored zeros
        (:func:`sysvi.data.row_blocks.row_blocks`).
    system
        Code of each cell's system, (n,).
    n_systems, n_genes
        Number of systems and of genes.

    Examples
    --------
    >>> x = sp.csr_matrix([[1.5, 0.0], [2.0, 3.0], [0.0, 1.0]])
    >>> found = scan([(0, 2, x[:2]), (2, 3, x[2:])], np.array([0, 1, 1]), 2, 2)
    >>> found.sums.tolist(), found.n_detected.tolist(), found.n_whole.tolist(), found.largest
    ([[1.5, 0.0], [2.0, 4.0]], [[1, 0], [1, 2]], [0, 3], 3.0)
    """
    n_detected, sums = np.zeros(n_systems * n_genes, np.int64), np.zeros(n_systems * n_genes)
    n_values, n_whole = np.zeros(n_systems, np.int64), np.zeros(n_systems, np.int64)
    smallest = largest = np.float64(0)
    for start, stop, block in blocks:
        if not block.nnz:
            continue
        code = np.repeat(system[start:stop], np.diff(block.indptr))  # (nnz,)
        place = code * n_genes + block.indices
        n_detected += np.bincount(place[block.data > 0], minlength=len(n_detected))
        np.add.at(sums, place, block.data)  # one after the other, so that sums do not depend on the blocks
        n_values += np.bincount(code, minlength=n_systems)
        n_whole += np.bincount(code[whole_numbers(block.data)], minlength=n_systems)
        smallest, largest = np.minimum(smallest, block.data.min()), np.maximum(largest, block.data.max())
    shape = (n_systems, n_genes)
    return Scan(n_detected.reshape(shape), sums.reshape(shape), n_values, n_whole, float(smallest), float(largest))
