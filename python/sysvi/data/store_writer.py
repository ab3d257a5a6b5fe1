"""Writing cells into an h5ad file or a zarr store in blocks, with only one block in memory.

Shapes: n cells, G genes.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from anndata.io import write_elem
from scipy import sparse

from sysvi._core.errors import InputError
from sysvi._core.files import check_folder, check_free_space, write_atomically, write_folder_atomically
from sysvi._core.interrupts import raise_postponed
from sysvi.data.h5ad import check_output, open_for_writing, write_anndata, write_parts
from sysvi.data.stores import import_zarr, is_zarr

CHUNK_VALUES = 2**15  # of a zarr store: few, so that little is decoded beside the row blocks that are read
SHARD_CHUNKS = 128  # at most, in a file of a zarr store, each of which can be read without the others


def check_store_output(path: Path, overwrite: bool) -> None:
    """Check an output as `check_cells_output` does, and that its name says what it is.

    Raises
    ------
    InputError
        If its name ends in neither ``.h5ad`` nor ``.zarr``, or as `check_cells_output` does.
    """
    if path.suffix not in (".h5ad", ".zarr"):
        raise InputError(f"{path} is no name of an output: it must end in .h5ad (a file) or .zarr (a store, a folder).")
    check_cells_output(path, overwrite)


def check_cells_output(path: Path, overwrite: bool, n_bytes: int = 0) -> None:
    """Check, before any work is done, that an h5ad file or, by its name, a zarr store of `n_bytes` can be written.

    Raises
    ------
    InputError
        If it exists and `overwrite` is False, if something else than a zarr store would be replaced by one, if its
        folder cannot be written to, or if the disk has too little space.
    """
    if path.suffix != ".zarr":
        check_output(path, overwrite, n_bytes)
        return
    import_zarr()
    if path.exists() and not is_zarr(path):
        raise InputError(f"{path} exists and is not a zarr store, so it is not replaced: choose another name.")
    if path.exists() and not overwrite:
        raise InputError(f"{path} exists already; pass overwrite=True to replace it, or choose another name.")
    check_folder(path.parent)
    check_free_space(path, n_bytes)


def write_cells(path: Path, adata: AnnData, overwrite: bool) -> None:
    """Write cells in memory as an h5ad file or, by its name, a zarr store, which appears when it is complete.

    Parameters
    ----------
    path
        File or store, as `check_cells_output` accepts it.
    adata
        The cells.
    overwrite
        Whether a file or store of this name may be replaced.

    Raises
    ------
    InputError
        If `adata` holds something that cannot be written, or there is too little space.
    """

    def write_zarr(temporary: Path) -> None:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "zarr v3 autosharding|Writing zarr v2")
            write_parts(import_zarr().open_group(temporary, mode="w"), adata, "a zarr store")

    if path.suffix == ".zarr":
        write_folder_atomically(path, write_zarr, overwrite=overwrite)
    else:
        write_atomically(path, lambda temporary: write_anndata(temporary, adata), overwrite=overwrite)


def write_store(
    path: Path,
    obs: pd.DataFrame,
    var: pd.DataFrame,
    uns: Callable[[], Mapping[str, Any]],
    blocks: Iterable[sparse.csr_matrix],
    n_values: int,
    overwrite: bool,
) -> None:
    """Write cells with CSR expression in ``X``, which appear under their name only when they are complete.

    In a zarr store, the chunks of ``X`` have checksums, by which damage is noticed when they are read, and lie in
    shards, so that a file holds up to 4 million values (with zarr 2, each chunk is a file).

    Parameters
    ----------
    path
        File or store, as `check_store_output` accepts it.
    obs, var
        Cells and genes.
    uns
        Function that gives the further entries, called after all blocks were written.
    blocks
        Expression, float32, in the order of the cells, (cells of the block, G) each.
    n_values
        Number of values that all blocks store.
    overwrite
        Whether a file of this name may be replaced.

    Raises
    ------
    InputError
        If there is too little space, or the output cannot be written.
    """
    check_free_space(path, 8 * n_values)  # before compression

    def fill(root: Any, create: Callable[..., Any]) -> None:
        root.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})
        cells = AnnData(obs=obs, var=var)
        cells.strings_to_categoricals()
        write_elem(root, "obs", cells.obs)
        write_elem(root, "var", cells.var)
        for name in ("layers", "obsm"):
            write_elem(root, name, {})
        shape = [len(obs), len(var)]
        x = root.create_group("X")
        x.attrs.update({"encoding-type": "csr_matrix", "encoding-version": "0.1.0", "shape": shape})
        data = create(x, "data", shape=(n_values,), dtype=np.float32)
        indices = create(x, "indices", shape=(n_values,), dtype=np.int32)
        starts = np.zeros(len(obs) + 1, np.int64)
        row = end = 0
        for block in blocks:
            raise_postponed()
            n, start = block.shape[0], end
            end += block.nnz
            if block.nnz:
                data[start:end], indices[start:end] = block.data, block.indices
            starts[row + 1 : row + n + 1] = start + block.indptr[1:]
            row += n
        if (row, end) != (len(obs), n_values):
            raise InputError(f"The cells changed while they were read, so {path} was not written: run it again.")
        # Both index arrays have the same type unless there are too many values, since compiled code expects it.
        dtype = np.int32 if n_values <= np.iinfo(np.int32).max else np.int64
        create(x, "indptr", shape=starts.shape, dtype=dtype)[:] = starts.astype(dtype)
        write_elem(root, "uns", dict(uns()))

    def write_h5ad(temporary: Path) -> None:
        with open_for_writing(temporary, "w") as file:
            fill(file, lambda group, name, **kwargs: group.create_dataset(name, **kwargs))

    def write_zarr(temporary: Path) -> None:
        root = import_zarr().open_group(temporary, mode="w")

        def create(group: Any, name: str, *, shape: tuple[int], dtype: type) -> Any:
            chunks = (max(1, min(shape[0], CHUNK_VALUES)),)
            if hasattr(group, "create_array"):  # zarr 3
                # zarrs checks this checksum of a part of a shard, but not CRC32C.
                compressors = import_module("zarr.codecs").ZstdCodec(checksum=True)
                n_chunks = -(-shape[0] // chunks[0])
                shards = (chunks[0] * min(n_chunks, SHARD_CHUNKS),) if n_chunks > 1 else None
                options = {"chunks": chunks, "shards": shards, "compressors": compressors}
                return group.create_array(name, shape=shape, dtype=dtype, **options)
            compressor = import_module("numcodecs").Zstd(checksum=True)
            return group.create_dataset(name, shape=shape, dtype=dtype, chunks=chunks, compressor=compressor)

        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "zarr v3 autosharding")  # small arrays; the large ones are made here
            fill(root, create)

    if path.suffix == ".zarr":
        write_folder_atomically(path, write_zarr, overwrite=overwrite)
    else:
        write_atomically(path, write_h5ad, overwrite=overwrite)
