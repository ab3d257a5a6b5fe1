"""Opening h5ad files with the expression left on disk, and adding results to a copy of a file."""

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
    """Open an h5ad file with the expression, ``X`` and layers, left on disk.

    ``obs``, ``var``, ``obsm`` and ``uns`` are read into memory. Neighbour graphs and the expression in ``raw``, which
    this package does not use, are not read.

    Raises
    ------
    InputError
        If there is no such file, or it is not an h5ad file.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"There is no file {path}: check the path.")
    if not h5py.is_hdf5(path):
        raise InputError(f"{path} is not an h5ad file (it is not HDF5): convert it with scanpy or anndata first.")
    try:
        with h5py.File(path) as file:
            if not {"obs", "var"} <= set(file):
                raise InputError(
                    f"{path} is an HDF5 file but not an h5ad file (without obs and var): convert it with anndata first."
                )
        return _open(path)
    except InputError:
        raise
    except Exception as error:  # a corrupted file can make h5py and anndata raise anything
        raise InputError(f"{path} cannot be read as an h5ad file: {str(error).splitlines()[0]}") from error


def _open(path: Path) -> AnnData:
    """Open like ``anndata.read_h5ad(path, backed="r")``, which however would read the layers into memory."""
    file = h5py.File(path)  # stays open as long as the layers are in use
    if "encoding-type" not in file["obs"].attrs:  # written by anndata before 0.7
        return anndata.read_h5ad(path, backed="r")
    parts = {name: read_elem(file[name]) for name in ("obs", "var", "obsm", "uns") if name in file}
    if "raw" in file:  # AnnData requires its genes if the file has it
        parts["raw"] = {"var": read_elem(file["raw/var"])}
    layers = {
        name: matrix if isinstance(matrix, h5py.Dataset) else sparse_dataset(matrix)
        for name, matrix in file.get("layers", {}).items()
    }
    return AnnData(**parts, layers=layers, filename=path, filemode="r")


def check_output(path: Path, overwrite: bool) -> None:
    """Check that an output file can be written, before any work is done.

    Raises
    ------
    InputError
        If the file exists and `overwrite` is False, or if its folder does not exist or cannot be written to.
    """
    if path.exists() and not overwrite:
        raise InputError(f"{path} exists already; pass --overwrite to replace it, or choose another name.")
    if not path.parent.is_dir():
        raise InputError(f"The folder {path.parent} does not exist: create it first.")
    probe = path.parent / f".{path.name}.probe"
    try:
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise InputError(f"Cannot write into the folder {path.parent} ({error.strerror}).") from error


def write_with_embedding(source: Path, target: Path, obsm: Mapping[str, np.ndarray], uns: Mapping[str, Any]) -> None:
    """Copy an h5ad file and add entries to its ``obsm`` and ``uns``; everything else stays byte for byte.

    The file appears under its name only when it is complete.

    Parameters
    ----------
    source, target
        Paths of the file to copy and of the file to write; they may be the same.
    obsm
        Name and values, (n_cells, n_dimensions), of each embedding to add.
    uns
        Name and value of each entry to add.
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
