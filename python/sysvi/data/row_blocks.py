"""Expression matrices of any kind, in memory or on disk, read in blocks of rows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from anndata.abc import CSCDataset, CSRDataset
from scipy import sparse

BLOCK_VALUES = 2**19  # values of a block of cells: some 20 MB while they are worked on


def row_sliceable(matrix: Any) -> Any:
    """Give the matrix of shape (n_cells, n_genes) in a form that can be cut by rows: CSR instead of CSC."""
    if isinstance(matrix, CSCDataset):  # on disk, a few rows cost a read of every column: take the whole matrix
        matrix = matrix.to_memory()
    return matrix.tocsr() if sparse.issparse(matrix) else matrix


def row_blocks(matrix: Any, n_rows: int | None = None) -> Iterator[tuple[int, int, sparse.csr_matrix]]:
    """Blocks of consecutive rows of an expression matrix of any kind, as new CSR matrices.

    Parameters
    ----------
    matrix
        Shape (n_cells, n_genes): array, CSR or CSC, or their counterparts on disk (h5py dataset, anndata's backed
        matrices). It is not changed.
    n_rows
        Rows per block; by default as many as hold about half a million values, stored ones if the matrix is sparse.

    Yields
    ------
    start, stop, block
        ``block`` holds rows start to stop, CSR of shape (stop - start, n_genes), float32, with sorted indices and
        without stored zeros, so that it is the same for all kinds of matrix.

    Examples
    --------
    >>> import numpy as np
    >>> [(start, stop, block.nnz) for start, stop, block in row_blocks(np.eye(5), n_rows=2)]
    [(0, 2, 2), (2, 4, 2), (4, 5, 1)]
    """
    matrix = row_sliceable(matrix)
    if n_rows is None:
        n_rows = max(1, BLOCK_VALUES * matrix.shape[0] // max(1, _most_values(matrix)))
    for start in range(0, matrix.shape[0], n_rows):
        stop = min(start + n_rows, matrix.shape[0])
        block = sparse.csr_matrix(matrix[start:stop], dtype=np.float32)
        if sparse.issparse(matrix) and np.may_share_memory(block.data, matrix.data):
            block = block.copy()
        block.sum_duplicates()  # sorts the indices too
        block.eliminate_zeros()
        yield start, stop, block


def select_genes(matrix: Any, genes: np.ndarray) -> sparse.csr_matrix:
    """Read some columns of an expression matrix as CSR, in blocks of rows.

    Parameters
    ----------
    matrix
        Shape (n_cells, n_genes), of any kind that :func:`row_blocks` takes.
    genes
        Positions of the columns, shape (n_selected,).

    Returns
    -------
    scipy.sparse.csr_matrix
        Shape (n_cells, n_selected), float32.

    Examples
    --------
    >>> import numpy as np
    >>> select_genes(np.array([[1, 0, 2], [0, 3, 4]]), np.array([0, 2])).toarray().tolist()
    [[1.0, 2.0], [0.0, 4.0]]
    """
    matrix = row_sliceable(matrix)
    blocks = (block[:, genes] for _, _, block in row_blocks(matrix))
    shape = (matrix.shape[0], len(genes))
    return stack_blocks(blocks, shape, min(_most_values(matrix), shape[0] * shape[1]))


def stack_blocks(blocks: Iterable[sparse.csr_matrix], shape: tuple[int, int], most_values: int) -> sparse.csr_matrix:
    """Blocks of cells below one another, CSR float32; each is copied to its place, so that nothing is held twice."""
    values, columns = np.empty(most_values, np.float32), np.empty(most_values, np.int32)  # unused room takes no memory
    starts = np.zeros(shape[0] + 1, np.int64)
    row = end = 0
    for block in blocks:
        n, start = block.shape[0], end
        end += block.nnz
        values[start:end], columns[start:end] = block.data, block.indices
        starts[row + 1 : row + n + 1] = start + block.indptr[1:]
        row += n
    return sparse.csr_matrix((values[:end], columns[:end], starts), shape=shape)


def _most_values(matrix: Any) -> int:
    """Values that a matrix of any kind stores; of a dense one, all."""
    if isinstance(matrix, CSRDataset):
        return int(matrix.group["data"].shape[0])
    return int(matrix.nnz) if sparse.issparse(matrix) else int(np.prod(matrix.shape))
