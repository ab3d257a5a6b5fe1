"""Expression of several files as one matrix of the genes that all have, none of which is read before it is needed.

Shapes: n cells of all files, G genes that all files have.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import sparse

from sysvi.data.row_blocks import n_stored_values, read_slice, row_sliceable


class SelectedGenes:
    """Some genes of a matrix of any kind, chosen when rows are read.

    Parameters
    ----------
    matrix
        Matrix of any kind, in memory or on disk; CSC on disk is read into memory.
    genes
        Column numbers of the genes, in the order wanted, (G,).
    """

    def __init__(self, matrix: Any, genes: np.ndarray):
        self.matrix, self.genes = row_sliceable(matrix), genes
        self.shape = (int(matrix.shape[0]), len(genes))
        self.dtype = np.dtype(np.float32)
        self.nnz = n_stored_values(self.matrix)  # of all genes, so an upper bound
        self._all = np.array_equal(genes, np.arange(matrix.shape[1]))

    def __getitem__(self, rows: slice) -> sparse.csr_matrix:
        """Read consecutive rows."""
        block = read_slice(self.matrix, rows.start, rows.stop)
        return block if self._all else block[:, self.genes]


class JoinedRows:
    """Matrices with the same columns, one below the other.

    Parameters
    ----------
    parts
        The matrices, (n_cells of the part, G) each.

    Examples
    --------
    >>> joined = JoinedRows([SelectedGenes(np.eye(2), np.array([1, 0])), SelectedGenes(np.eye(2), np.arange(2))])
    >>> joined.shape, joined[1:3].toarray().tolist()
    ((4, 2), [[1.0, 0.0], [1.0, 0.0]])
    """

    def __init__(self, parts: Sequence[SelectedGenes]):
        self.parts = parts
        self.starts = np.cumsum([0, *(part.shape[0] for part in parts)])
        self.shape = (int(self.starts[-1]), parts[0].shape[1])
        self.dtype = np.dtype(np.float32)
        self.nnz = sum(part.nnz for part in parts)

    def __getitem__(self, rows: slice) -> sparse.csr_matrix:
        """Read consecutive rows, at least one."""
        blocks = []
        for part, first in zip(self.parts, self.starts, strict=False):
            start, stop = max(rows.start, first), min(rows.stop, first + part.shape[0])
            if start < stop:
                blocks.append(part[int(start - first) : int(stop - first)])
        return blocks[0] if len(blocks) == 1 else sparse.csr_matrix(sparse.vstack(blocks, format="csr"))
