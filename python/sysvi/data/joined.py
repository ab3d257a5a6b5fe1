"""Expression of several files as one matrix of the genes that all have, none of which is read before it is needed.

Shapes: n cells of all files, G genes that all files have.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import sparse

from sysvi._core.checks import get_expression
from sysvi._core.errors import InputError
from sysvi.data.file_changes import check_unchanged, file_state
from sysvi.data.row_blocks import n_stored_values, read_slice, row_sliceable
from sysvi.data.stores import open_cells


@contextmanager
def in_file(path: Path) -> Iterator[None]:
    """Name the file in an InputError."""
    try:
        yield
    except InputError as error:
        message = str(error)
        raise (error if str(path) in message else InputError(f"{path}: {message}")) from error


@dataclass(frozen=True)
class Place:
    """Where a matrix lies on disk, by which another process opens it.

    Parameters
    ----------
    path
        The h5ad file or zarr store.
    layer
        Its layer; None for ``X``.
    """

    path: Path
    layer: str | None

    def open(self) -> Any:
        """The matrix, from which rows can be sliced, with its values on disk (of CSC, in memory)."""
        with in_file(self.path):
            return row_sliceable(get_expression(open_cells(self.path), self.layer)[1])


class SelectedGenes:
    """Some genes of a matrix of any kind, chosen when rows are read.

    Parameters
    ----------
    matrix
        Matrix of any kind, in memory or on disk; CSC on disk is read into memory.
    genes
        Column numbers of the genes, in the order wanted, (G,).
    place
        Where the matrix lies on disk, if it does. A process to which the selection is sent opens it there, and a file
        that changes after the selection was made is noticed.
    """

    def __init__(self, matrix: Any, genes: np.ndarray, place: Place | None = None):
        self._state = None if place is None else file_state(matrix)
        self._matrix = row_sliceable(matrix)
        self.genes, self.place = genes, place
        self.shape = (int(matrix.shape[0]), len(genes))
        self.dtype = np.dtype(np.float32)
        self.nnz = n_stored_values(self._matrix)  # of all genes, so an upper bound
        self._all = np.array_equal(genes, np.arange(matrix.shape[1]))

    def __getstate__(self) -> dict[str, Any]:
        """What is sent to another process: without the matrix, if it can be opened there."""
        return self.__dict__ | ({} if self.place is None else {"_matrix": None})

    def __getitem__(self, rows: slice) -> sparse.csr_matrix:
        """Read consecutive rows."""
        if self.place is None:
            return self._select(rows)
        with in_file(self.place.path):
            if self._matrix is None:
                self._matrix = self.place.open()
            block = self._select(rows)
            check_unchanged(self._matrix, self._state)
        return block

    def _select(self, rows: slice) -> sparse.csr_matrix:
        block = read_slice(self._matrix, rows.start, rows.stop)
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
