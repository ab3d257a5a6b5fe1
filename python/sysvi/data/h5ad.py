"""Reading an h5ad file, and writing one that keeps all that another had."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import anndata
import h5py
import numpy as np
from anndata import AnnData
from anndata.io import read_elem, sparse_dataset, write_elem

from sysvi._core.errors import InputError
from sysvi._core.files import write_atomically


def read_h5ad(path: str | Path) -> AnnData:
    """Open an h5ad file with its expression left on disk, that of layers too.

    Of the rest, obs, var, obsm and uns are read: neighbour graphs and raw, which nothing here uses, are not.

    Raises
    ------
    InputError
        If there is no such file, or it is not an h5ad.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"There is no file {path}.")
    if not h5py.is_hdf5(path):
        raise InputError(f"{path} is not an h5ad file (it is not HDF5); convert it with scanpy or anndata first.")
    try:
        with h5py.File(path) as file:
            if not {"obs", "var"} <= set(file):
                raise InputError(f"{path} is an HDF5 file but not an h5ad: it has no obs and var.")
        return _opened(path)
    except InputError:
        raise
    except Exception as error:  # whatever a damaged file makes h5py or anndata raise
        raise InputError(f"{path} cannot be read as an h5ad file: {str(error).splitlines()[0]}") from error


def _opened(path: Path) -> AnnData:
    """As anndata's ``backed="r"``, which reads layers into memory."""
    file = h5py.File(path)  # open for as long as its layers are in use
    if "encoding-type" not in file["obs"].attrs:  # of an anndata before 0.7
        return anndata.read_h5ad(path, backed="r")
    parts = {name: read_elem(file[name]) for name in ("obs", "var", "obsm", "uns") if name in file}
    if "raw" in file:  # then AnnData wants it
        parts["raw"] = {"var": read_elem(file["raw/var"])}
    layers = {
        name: matrix if isinstance(matrix, h5py.Dataset) else sparse_dataset(matrix)
        for name, matrix in file.get("layers", {}).items()
    }
    return AnnData(**parts, layers=layers, filename=path, filemode="r")


def check_output(path: Path, overwrite: bool) -> None:
    """Refuse an output that exists, or that cannot be written, before any work is done.

    Raises
    ------
    InputError
        Saying which of these.
    """
    if path.exists() and not overwrite:
        raise InputError(f"{path} exists already; pass --overwrite to replace it, or another name.")
    if not path.parent.is_dir():
        raise InputError(f"The folder {path.parent} does not exist; make it first.")
    probe = path.parent / f".{path.name}.probe"
    try:
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise InputError(f"Cannot write into the folder {path.parent} ({error.strerror}).") from error


def write_with_embedding(source: Path, target: Path, obsm: Mapping[str, np.ndarray], uns: Mapping[str, Any]) -> None:
    """Copy the h5ad `source` to `target` with entries added to obsm and uns; everything else stays byte for byte.

    The file appears under its name only when it is complete. `source` and `target` may be the same.
    """

    def write(temporary: Path) -> None:
        shutil.copyfile(source, temporary)
        with h5py.File(temporary, "r+") as file:
            for group, entries in (("obsm", obsm), ("uns", uns)):
                if group not in file:
                    write_elem(file, group, {})
                for name, value in entries.items():
                    write_elem(file[group], name, value)

    write_atomically(target, write)
