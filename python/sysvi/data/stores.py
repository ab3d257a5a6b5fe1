"""Opening files and stores of cells with the expression left on disk: h5ad files and zarr stores."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from anndata import AnnData
from anndata.io import read_elem, sparse_dataset

from sysvi._core.errors import InputError
from sysvi.data.h5ad import read_h5ad
from sysvi.data.h5ad_checks import check_sparse_group

MOST_EMPTY_CHUNKS = 1000  # of an array, for each that is there
ZARR_FILES = {".zgroup", ".zattrs", "zarr.json"}  # one of which a zarr store has


def is_zarr(path: Path) -> bool:
    """Whether a path is that of a zarr store, a folder."""
    return path.is_dir() and any((path / name).exists() for name in ZARR_FILES)


def open_cells(path: str | Path, raw: bool = False) -> AnnData:
    """Open an h5ad file or a zarr store (version 2 or 3) with the expression, ``X`` and layers, left on disk.

    ``obs``, ``var``, ``obsm`` and ``uns`` are read into memory; nothing else is.

    Parameters
    ----------
    path
        The file, or the folder of the store.
    raw
        Whether to take expression and genes from ``raw``; the layers, which have other genes, are then left out.

    Raises
    ------
    InputError
        If there is no such file, or it cannot be read.
    """
    path = Path(path)
    return _open_zarr(path, raw) if is_zarr(path) else read_h5ad(path, raw)


def import_zarr() -> Any:
    """The package zarr, which is needed for zarr stores only."""
    try:
        import zarr
    except ImportError as error:
        raise InputError(
            "zarr stores need the package zarr: pip install 'sysvi[zarr]', or use an h5ad file."
        ) from error
    return zarr


def _open_zarr(path: Path, raw: bool) -> AnnData:
    zarr = import_zarr()
    try:
        store = zarr.open_group(path, mode="r")
        if not {"obs", "var"} <= set(store):
            raise InputError(f"{path} is a zarr store but not one of anndata (without obs and var): convert it first.")
        if raw and "raw" not in store:
            raise InputError(f"{path} has no raw (--raw): leave the option out, or choose a layer.")
        for name in ("obs", "var", "obsm", "uns"):
            if name in store:
                _check_chunks(path, store[name], zarr.Group)
        parts = {name: read_elem(store[name]) for name in ("obs", "var", "obsm", "uns") if name in store}
        shape = len(parts["obs"]), len(parts["var"])
        layers: dict[str, Any] = {}
        if raw:
            _check_chunks(path, store["raw/var"], zarr.Group)
            parts["var"] = read_elem(store["raw/var"])
            shape = len(parts["obs"]), len(parts["var"])
            x = _on_disk(path, store["raw/X"], shape, zarr.Group)
        else:
            x = _on_disk(path, store["X"], shape, zarr.Group) if "X" in store else None
            names = list(store["layers"]) if "layers" in store else []
            layers = {name: _on_disk(path, store[f"layers/{name}"], shape, zarr.Group) for name in names}
        return AnnData(x, **parts, layers=layers)
    except InputError:
        raise
    except Exception as error:  # a damaged store can make zarr and anndata raise anything
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"{path} cannot be read as a zarr store of anndata ({reason}): write it again, or copy it again from "
            "where it comes."
        ) from error


def _check_chunks(path: Path, item: Any, group: Callable[..., Any]) -> None:
    """Check that no array of a part of a store claims far more chunks than there are, which would take hours to read.

    Chunks that hold zeros alone need not be there.
    """
    if isinstance(item, group):  # type: ignore[arg-type]
        for name in item:
            _check_chunks(path, item[name], group)
    elif item.nchunks > MOST_EMPTY_CHUNKS * (1 + item.nchunks_initialized):
        raise InputError(f"{path} is damaged: {item.path} claims to have {item.nchunks} chunks. Copy the store again.")


def _on_disk(path: Path, matrix: Any, shape: tuple[int, int], group: Callable[..., Any]) -> Any:
    """A matrix of a store that is read when its values are needed, after a check of its shape and its chunks."""
    is_sparse = isinstance(matrix, group)  # type: ignore[arg-type]
    arrays = [matrix[name] for name in ("data", "indices", "indptr")] if is_sparse else []
    found = tuple(matrix.attrs["shape"]) if is_sparse else matrix.shape
    if found != shape:
        raise InputError(f"{path} is damaged: {matrix.path} is of shape {found}, but obs and var of {shape}.")
    for array in arrays:  # zarr reads a chunk that is missing as zeros
        if array.nchunks_initialized < array.nchunks:  # of a shard that is there, all count
            raise InputError(
                f"{path} is damaged: {array.path} has {array.nchunks_initialized} of {array.nchunks} chunks. Copy the "
                "store again."
            )
    if not is_sparse:
        return matrix
    check_sparse_group(matrix)
    return sparse_dataset(matrix)
