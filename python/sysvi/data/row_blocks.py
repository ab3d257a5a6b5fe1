"""Expression matrices of any kind, in memory or on disk: reading them in row blocks and converting them to CSR."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import h5py
import numpy as np
from anndata.abc import CSCDataset, CSRDataset
from scipy import sparse

from sysvi._core.errors import InputError
from sysvi.data.annbatch_rows import ReadRows, annbatch_reader

BLOCK_VALUES = 2**19  # values of a row block, which take about 20 MB during its processing
MAX_GAP = 32  # rows that are this near are read together: reading those between them is faster than to skip them
MAX_GAP_OF_ZARR = 256  # the same in zarr stores, where starting a read takes as long as reading a few hundred rows
LONG_RUNS = 64  # annbatch reads consecutive rows faster if runs of them have at least so many on average
PART_ROWS = 4096  # at most so many are read at once


class CsrOnDisk:
    """CSR matrix in an h5ad file or a zarr store, of which slices of rows are read; its row starts are in memory.

    It reads the arrays of anndata's CSRDataset without the checks that this makes for each slice, which take as long as
    reading some hundred cells.

    Parameters
    ----------
    dataset
        The matrix, (n_cells, n_genes).

    Attributes
    ----------
    group
        Group of the file or the store that holds its arrays.
    shape, nnz
        Number of rows and columns, and number of stored values.
    """

    def __init__(self, dataset: CSRDataset):
        self.dataset, self.group = dataset, dataset.group
        self.shape: tuple[int, int] = (int(dataset.shape[0]), int(dataset.shape[1]))
        self.starts = np.asarray(self.group["indptr"][:], np.int64)
        with _decoding_by_zarrs(self.group):
            self.data, self.indices = self.group["data"], self.group["indices"]
        self.nnz = int(self.data.shape[0])

    @cached_property
    def by_annbatch(self) -> ReadRows | None:
        """Reads rows by their numbers, if annbatch can read this matrix."""
        return annbatch_reader(self.dataset)

    def __getitem__(self, rows: Any) -> sparse.csr_matrix:
        """Read a slice of rows as a new CSR matrix; rows given by their numbers are read by anndata, more slowly."""
        if not isinstance(rows, slice) or rows.step not in (None, 1):
            return sparse.csr_matrix(self.dataset[rows])
        start, stop, _ = rows.indices(self.shape[0])
        starts = self.starts[start : max(start, stop) + 1]
        values = slice(int(starts[0]), int(starts[-1]))
        arrays = self.data[values], self.indices[values], starts - starts[0]
        return sparse.csr_matrix(arrays, shape=(len(starts) - 1, self.shape[1]))


@contextmanager
def _decoding_by_zarrs(group: Any) -> Iterator[None]:
    """Let arrays of a zarr store that are opened in this context be decoded by the package zarrs, if it is installed.

    It decodes parts of shards faster than zarr itself, and other threads of Python go on meanwhile.
    """
    if isinstance(group, h5py.Group):
        yield
        return
    try:
        import zarr
        from zarrs import ZarrsCodecPipeline
    except ImportError:
        yield
        return
    name = f"{ZarrsCodecPipeline.__module__}.{ZarrsCodecPipeline.__name__}"
    with zarr.config.set({"codec_pipeline.path": name}):
        yield


def check_sparse(matrix: Any) -> None:
    """Check the arrays of a sparse matrix in memory, by which compiled code would otherwise crash.

    Like scipy's ``check_format(full_check=True)``, which however may change the arrays.

    Raises
    ------
    InputError
        If they do not go together, or an index is out of range.
    """
    if not sparse.issparse(matrix) or matrix.format not in ("csr", "csc"):
        return
    n_major, n_minor = matrix.shape if matrix.format == "csr" else matrix.shape[::-1]
    starts, indices = matrix.indptr, matrix.indices
    valid = (
        starts.shape == (n_major + 1,)
        and starts[0] == 0
        and not (starts[1:] < starts[:-1]).any()
        and starts[-1] <= min(len(indices), len(matrix.data))
    )
    if valid and starts[-1]:
        used = indices[: starts[-1]]
        valid = used.min() >= 0 and used.max() < n_minor
    if not valid:
        raise InputError(
            f"The expression is damaged: the indices of its {matrix.format.upper()} matrix are out of range. Read it "
            "from an intact file."
        )


def read_into_memory(matrix: Any) -> Any:
    """Read a matrix from disk; a matrix in memory is returned as it is.

    Parameters
    ----------
    matrix
        Array or sparse matrix, or its counterpart on disk (h5py dataset, anndata's backed sparse matrices).

    Returns
    -------
    numpy.ndarray or scipy.sparse matrix
        Same values, sparse format and type.
    """
    if isinstance(matrix, CSRDataset | CSCDataset):
        with _damage_as_input_error(matrix):
            matrix = matrix.to_memory()
    matrix = computed(matrix)
    if sparse.issparse(matrix):
        check_sparse(matrix)
        return matrix
    with _damage_as_input_error(matrix):
        return np.asarray(matrix)


def computed(matrix: Any) -> Any:
    """Compute a lazy array, such as those of dask, whose chunks may be sparse; other matrices are returned as they are.

    numpy and scipy would take a lazy array of sparse chunks for a single object.
    """
    return matrix.compute() if hasattr(matrix, "compute") else matrix


def to_csr(matrix: Any) -> sparse.csr_matrix:
    """Convert an expression matrix of any kind to CSR in memory, float32, with sorted column indices.

    Parameters
    ----------
    matrix
        Matrix of any kind that :func:`row_blocks` takes, shape (n_cells, n_genes). It is not changed, but the result
        shares its memory if it has this form already.

    Examples
    --------
    >>> to_csr(np.array([[0, 2], [1, 0]])).data.tolist()
    [2.0, 1.0]
    """
    matrix = sparse.csr_matrix(read_into_memory(matrix), dtype=np.float32)
    return matrix if matrix.has_sorted_indices else matrix.sorted_indices()


def row_sliceable(matrix: Any) -> Any:
    """Return a matrix, (n_cells, n_genes), in a form from which rows can be read efficiently.

    CSC becomes CSR, and anndata's CSR matrices on disk become `CsrOnDisk`.

    CSC on disk is read into memory, since a few of its rows cost as much as all of them.
    """
    if len(getattr(matrix, "shape", ())) != 2:
        raise InputError(f"Expression must be a matrix of cells x genes, but it is of type {type(matrix).__name__}.")
    if isinstance(matrix, CSRDataset):
        with _damage_as_input_error(matrix):
            return CsrOnDisk(matrix)
    if isinstance(matrix, CSCDataset):
        matrix = read_into_memory(matrix)
    elif sparse.issparse(matrix):
        check_sparse(matrix)
    return matrix.tocsr() if sparse.issparse(matrix) else matrix


def row_blocks(matrix: Any, n_rows: int | None = None) -> Iterator[tuple[int, int, sparse.csr_matrix]]:
    """Read an expression matrix of any kind in blocks of consecutive rows, as new CSR matrices.

    Parameters
    ----------
    matrix
        Shape (n_cells, n_genes): array, CSR or CSC, or their counterparts on disk (h5py dataset, anndata's backed
        sparse matrices). It is not changed.
    n_rows
        Rows of a block; by default as many as hold about half a million values (stored values of a sparse matrix).

    Yields
    ------
    start, stop, block
        ``block`` holds rows start to stop, CSR of shape (stop - start, n_genes), float32, with sorted indices and
        without stored zeros. It is the same for every kind of matrix.

    Examples
    --------
    >>> import numpy as np
    >>> [(start, stop, block.nnz) for start, stop, block in row_blocks(np.eye(5), n_rows=2)]
    [(0, 2, 2), (2, 4, 2), (4, 5, 1)]
    """
    matrix = row_sliceable(matrix)
    for start, stop in row_ranges(matrix, n_rows):
        yield start, stop, read_slice(matrix, start, stop)


def row_ranges(matrix: Any, n_rows: int | None = None) -> list[tuple[int, int]]:
    """First row and last row + 1 of each of the blocks in which :func:`row_blocks` reads a matrix.

    Examples
    --------
    >>> import numpy as np
    >>> row_ranges(np.eye(5), n_rows=2)
    [(0, 2), (2, 4), (4, 5)]
    """
    n = int(matrix.shape[0])
    if n_rows is None:
        n_rows = max(1, BLOCK_VALUES * n // max(1, n_stored_values(matrix)))
        if hasattr(matrix, "compute") and hasattr(matrix, "chunks"):
            return _ranges_of_chunks(matrix.chunks[0], n_rows)
    return [(start, min(start + n_rows, n)) for start in range(0, n, n_rows)]


def _ranges_of_chunks(sizes: Iterable[int], n_rows: int) -> list[tuple[int, int]]:
    """Blocks of at least `n_rows` rows of whole chunks of a lazy array, so that each chunk is computed once.

    Examples
    --------
    >>> _ranges_of_chunks([2, 2, 5, 1], 3)
    [(0, 4), (4, 9), (9, 10)]
    """
    ranges, start, stop = [], 0, 0
    for size in sizes:
        stop += int(size)
        if stop - start >= n_rows:
            ranges.append((start, stop))
            start = stop
    return ranges if start == stop else [*ranges, (start, stop)]


def read_slice(matrix: Any, start: int, stop: int) -> sparse.csr_matrix:
    """Read rows start to stop of a matrix that `row_sliceable` returned, as `row_blocks` yields them."""
    return _as_row_block(matrix, lambda: computed(matrix[start:stop]))


def _as_row_block(matrix: Any, read: Callable[[], Any]) -> sparse.csr_matrix:
    """Rows of a matrix, which a function reads, in the form of `row_blocks`."""
    with _damage_as_input_error(matrix):
        block = sparse.csr_matrix(read(), dtype=np.float32)
    if isinstance(matrix, CsrOnDisk):
        check_sparse(block)
    if sparse.issparse(matrix) and np.may_share_memory(block.data, matrix.data):
        block = block.copy()
    block.sum_duplicates()  # sorts the indices too
    block.eliminate_zeros()
    return block


def read_rows(matrix: Any, rows: np.ndarray) -> sparse.csr_matrix:
    """Read some rows of an expression matrix of any kind, as a new CSR matrix.

    Rows that lie near each other are read at once, with the few between them.

    Parameters
    ----------
    matrix
        Shape (n_cells, n_genes), of any kind that :func:`row_blocks` takes.
    rows
        Row numbers, rising, (n_rows,).

    Returns
    -------
    scipy.sparse.csr_matrix
        Shape (n_rows, n_genes), of the form that :func:`row_blocks` gives.

    Examples
    --------
    >>> import numpy as np
    >>> read_rows(np.eye(200), np.array([0, 2, 150])).indices.tolist()
    [0, 2, 150]
    """
    matrix = row_sliceable(matrix)
    rows = np.asarray(rows, np.int64)
    if not len(rows):
        return sparse.csr_matrix((0, matrix.shape[1]), dtype=np.float32)
    is_zarr = isinstance(matrix, CsrOnDisk) and not isinstance(matrix.group, h5py.Group)
    apart = (np.diff(rows) > (MAX_GAP_OF_ZARR if is_zarr else MAX_GAP)) | (np.diff(rows // PART_ROWS) > 0)
    parts = np.split(rows, np.flatnonzero(apart) + 1)
    n_runs = 1 + np.count_nonzero(np.diff(rows) != 1)  # of consecutive rows
    if is_zarr and len(rows) >= LONG_RUNS * n_runs and (read := matrix.by_annbatch) is not None:
        with _decoding_by_zarrs(matrix.group):
            return _as_row_block(matrix, lambda: read(rows))
    blocks = []
    for part in parts:
        block = read_slice(matrix, int(part[0]), int(part[-1]) + 1)
        blocks.append(block if block.shape[0] == len(part) else block[part - part[0]])
    return stack_blocks(blocks, (len(rows), matrix.shape[1]), sum(block.nnz for block in blocks))


def select_genes(matrix: Any, genes: np.ndarray) -> sparse.csr_matrix:
    """Read some columns of an expression matrix as CSR, row block by row block.

    Parameters
    ----------
    matrix
        Shape (n_cells, n_genes), of any kind that :func:`row_blocks` takes.
    genes
        Column numbers, shape (n_selected,).

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
    return stack_blocks(blocks, shape, min(n_stored_values(matrix), shape[0] * shape[1]))


def stack_blocks(blocks: Iterable[sparse.csr_matrix], shape: tuple[int, int], max_values: int) -> sparse.csr_matrix:
    """Stack row blocks into one CSR matrix, float32, holding only one block at a time besides the result.

    Parameters
    ----------
    blocks
        Row blocks in order.
    shape
        Shape of the result, (n_cells, n_genes).
    max_values
        Upper bound of the number of stored values.
    """
    values, columns = np.empty(max_values, np.float32), np.empty(max_values, np.int32)  # unused pages take no memory
    starts = np.zeros(shape[0] + 1, np.int64)
    row = end = 0
    for block in blocks:
        n, start = block.shape[0], end
        end += block.nnz
        values[start:end], columns[start:end] = block.data, block.indices
        starts[row + 1 : row + n + 1] = start + block.indptr[1:]
        row += n
    return sparse.csr_matrix((values[:end], columns[:end], starts), shape=shape)


@contextmanager
def _damage_as_input_error(matrix: Any) -> Iterator[None]:
    """Turn the errors of reading a matrix from a damaged file into an InputError.

    A damaged chunk of a zarr store can make its decoders raise anything.
    """
    is_sparse = isinstance(matrix, CsrOnDisk | CSRDataset | CSCDataset)
    is_on_disk = is_sparse or (hasattr(matrix, "chunks") and hasattr(matrix, "store"))
    try:
        yield
    except (InputError, MemoryError):
        raise
    except Exception as error:
        if not (is_on_disk or isinstance(error, OSError)):
            raise
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"The expression cannot be read; its file is damaged ({reason}).") from error


def n_stored_values(matrix: Any) -> int:
    """Number of values that a matrix of any kind stores."""
    if isinstance(matrix, CSRDataset | CSCDataset):
        return int(matrix.group["data"].shape[0])
    return int(matrix.nnz) if hasattr(matrix, "nnz") else int(np.prod(matrix.shape))
