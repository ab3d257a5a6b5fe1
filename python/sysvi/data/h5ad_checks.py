"""Checks of h5ad files for damage that h5py and anndata do not notice, or by which they crash or fill the memory.

An h5ad file has no checksums. What can be checked without reading the expression is checked when a file is opened:
sizes, shapes and the pointers of sparse matrices. Column indices are checked when rows are read
(`sysvi.data.row_blocks`).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import h5py
import numpy as np

READ_PARTS = ("obs", "var", "obsm", "uns", "X", "layers", "raw/var", "raw/X")  # of an h5ad file, by this package
# Largest size of the values relative to that of their compressed form; what is unwritten takes no space at all.
COMPRESSION, UNWRITTEN = 2**16, 2**26


def check_structure(file: h5py.File) -> None:
    """Check the parts of an open h5ad file that this package reads.

    Raises
    ------
    ValueError
        If a part is damaged; the message names it.
    """
    parts = [file[name] for name in READ_PARTS if name in file]
    for part in parts:
        for dataset in _datasets(part):
            _check_size(dataset, file.id.get_filesize())
    n_cells, n_genes = _n_rows(file["obs"]), _n_rows(file["var"])
    matrices = [(file["X"], n_genes)] if "X" in file else []
    matrices += [(matrix, n_genes) for _, matrix in named_layers(file)]
    matrices += [(file["raw/X"], _n_rows(file["raw/var"]))] if "raw/X" in file else []
    for matrix, n in matrices:
        if isinstance(matrix, h5py.Group) and not _is_sparse(matrix):
            raise ValueError(f"{matrix.name} is not a matrix")
        found = matrix.shape if isinstance(matrix, h5py.Dataset) else _sparse_shape(matrix)
        if found is not None and found != (n_cells, n):  # None: written as empty
            raise ValueError(f"{matrix.name} is of shape {found}, but there are {n_cells} cells and {n} genes")
    for part in parts:
        for group in _groups(part):
            if _is_sparse(group):
                check_sparse_group(group)


def named_layers(file: h5py.File) -> Iterator[tuple[str, h5py.Group | h5py.Dataset]]:
    """The layers of an h5ad file; earlier versions of anndata wrote the layer "a/b" as b in a group a."""

    def in_group(group: h5py.Group, start: str) -> Iterator[tuple[str, h5py.Group | h5py.Dataset]]:
        for name, element in group.items():
            if isinstance(element, h5py.Group) and not _is_sparse(element):
                yield from in_group(element, f"{start}{name}/")
            else:
                yield f"{start}{name}", element

    if "layers" in file:
        yield from in_group(file["layers"], "")


def _datasets(part: h5py.Group | h5py.Dataset) -> Iterator[h5py.Dataset]:
    """All datasets of a part."""
    if isinstance(part, h5py.Dataset):
        yield part
        return
    for item in part.values():
        yield from _datasets(item)


def _groups(part: h5py.Group | h5py.Dataset) -> Iterator[h5py.Group]:
    """All groups of a part, with itself."""
    if isinstance(part, h5py.Group):
        yield part
        for item in part.values():
            yield from _groups(item)


def _check_size(dataset: h5py.Dataset, file_size: int) -> None:
    """A dataset must not claim more values than can be in the file."""
    if dataset.shape is None or dataset.is_virtual or dataset.external:  # empty, or in other files
        return
    n_bytes = int(np.prod([int(n) for n in dataset.shape], dtype=object)) * dataset.dtype.itemsize
    if dataset.chunks is None:
        most = file_size
    else:
        stored = dataset.id.get_storage_size()
        is_compressed = dataset.id.get_create_plist().get_nfilters() > 0
        most = UNWRITTEN + (COMPRESSION * stored if is_compressed else stored)
    if n_bytes > most:
        raise ValueError(f"{dataset.name} claims to hold more values than the file can")


def _n_rows(table: h5py.Group | h5py.Dataset) -> int:
    """Number of rows of a table (of anndata before 0.7: a dataset); all columns must have as many."""
    if isinstance(table, h5py.Dataset):
        return int(table.shape[0])
    n = int(_values(table[table.attrs["_index"]]).shape[0])
    for name, column in table.items():
        values = _values(column)
        if isinstance(values, h5py.Dataset) and name != "__categories" and values.shape not in ((n,), ()):
            raise ValueError(f"{column.name} has {values.shape} values for {n} rows")
    return n


def _values(column: h5py.Group | h5py.Dataset) -> Any:
    """The dataset of a column with one entry for each row; categories and nullable types are groups."""
    return column if isinstance(column, h5py.Dataset) else column.get("codes", column.get("values"))


def _is_sparse(group: h5py.Group) -> bool:
    """Whether a group is meant to hold a sparse matrix."""
    return str(group.attrs.get("encoding-type", "")) in ("csr_matrix", "csc_matrix") or "h5sparse_format" in group.attrs


def _sparse_shape(group: h5py.Group) -> tuple[int, ...]:
    """Shape that a sparse matrix claims to have (before anndata 0.7, another attribute)."""
    attributes = group.attrs
    return tuple(int(n) for n in attributes["shape" if "shape" in attributes else "h5sparse_shape"])


def check_sparse_group(group: Any) -> None:
    """Shape, pointers and lengths of a sparse matrix, in an h5ad file or a zarr store, must go together.

    Raises
    ------
    ValueError
        If they do not.
    """
    shape = _sparse_shape(group)
    kind = group.attrs.get("encoding-type", group.attrs.get("h5sparse_format", ""))
    data, indices, indptr = (group[name] for name in ("data", "indices", "indptr"))
    n_major = shape["csc" in str(kind)]
    if len(shape) != 2 or min(shape) < 0 or indptr.shape != (n_major + 1,):
        raise ValueError(f"{group.name} is of shape {shape}, which its indptr does not have")
    if indices.dtype.kind not in "iu" or indptr.dtype.kind not in "iu":
        raise ValueError(f"{group.name} has indices that are no whole numbers")
    if data.ndim != 1 or data.shape != indices.shape:
        raise ValueError(f"{group.name} has {data.shape} values, but indices of {indices.shape}")
    starts = indptr[:]
    if starts[0] != 0 or starts[-1] != data.shape[0] or (starts[1:] < starts[:-1]).any():
        raise ValueError(f"{group.name} has an indptr that does not rise from 0 to its number of values")
