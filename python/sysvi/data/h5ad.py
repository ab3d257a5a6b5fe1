"""Opening h5ad files with the expression left on disk, writing them, and adding results to a copy of a file."""

from __future__ import annotations

import errno
import io
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anndata
import h5py
import numpy as np
import pandas as pd
from anndata import AnnData
from anndata.io import read_elem, sparse_dataset, write_elem

from sysvi._core.errors import InputError
from sysvi._core.files import check_folder, check_free_space, check_regular, write_atomically
from sysvi._core.interrupts import postpone_interrupts, raise_postponed
from sysvi.data.h5ad_checks import check_structure, named_layers
from sysvi.data.other_formats import explain_folder, explain_hdf5, explain_other_file

RESERVED_COLUMN = "_index"  # name that anndata does not write as a column; SeuratDisk makes such columns


class OtherCellsError(InputError):
    """Raised if a file no longer holds the cells to which results belong."""


def read_h5ad(path: str | Path, raw: bool = False) -> AnnData:
    """Open an h5ad file with the expression, ``X`` and layers, left on disk.

    ``obs``, ``var``, ``obsm`` and ``uns`` are read into memory. Neighbour graphs and, by default, the expression in
    ``raw`` are not read.

    Parameters
    ----------
    path
        The file.
    raw
        Whether to take expression and genes from ``raw``; the layers, which have other genes, are then left out.

    Raises
    ------
    InputError
        If there is no such file, it is not an h5ad file, or another program writes it.
    """
    path = Path(path)
    try:
        if path.is_dir():
            raise InputError(explain_folder(path))
        check_regular(path)
        path.open("rb").close()
    except FileNotFoundError as error:
        raise InputError(f"There is no file {path}: check the path.") from error
    except OSError as error:
        raise InputError(f"{path} cannot be opened ({error.strerror}).") from error
    if not h5py.is_hdf5(path):
        raise InputError(explain_other_file(path))
    try:
        with h5py.File(path) as file:
            if not {"obs", "var"} <= set(file) or "mod" in file:
                raise InputError(explain_hdf5(path, set(file)))
            if raw and not _has(file, "raw"):
                raise InputError(f"{path} has no raw (--raw): leave the option out, or choose a layer.")
            check_structure(file)
        return _open(path, raw)
    except InputError:
        raise
    except Exception as error:  # a corrupted file can make h5py and anndata raise anything
        if isinstance(error, OSError) and error.errno in (errno.EAGAIN, errno.EACCES):
            raise InputError(
                f"{path} is open for writing in another program, such as a notebook: close it there, or copy the file "
                "and use the copy."
            ) from error
        raise InputError(f"{path} cannot be read as an h5ad file: {str(error).splitlines()[0]}") from error


def _open(path: Path, raw: bool) -> AnnData:
    """Open like ``anndata.read_h5ad(path, backed="r")``, which however would read the layers into memory."""
    file = h5py.File(path)  # stays open as long as the expression is in use
    if _is_old_format(file):
        adata = anndata.read_h5ad(path) if raw else anndata.read_h5ad(path, backed="r")
        return _raw_as_expression(adata) if raw else adata
    parts = {name: read_elem(file[name]) for name in ("obs", "var", "obsm", "uns") if name in file}
    if raw:
        return AnnData(_on_disk(file["raw/X"]), **(parts | {"var": read_elem(file["raw/var"])}))
    if _has(file, "raw"):  # AnnData requires its genes if the file has it
        parts["raw"] = {"var": read_elem(file["raw/var"])}
    layers = {name: _on_disk(matrix) for name, matrix in named_layers(file)}
    x = _on_disk(file["X"]) if _has(file, "X") else None
    if x is not None and ("raw" in parts or "raw" not in file):
        return AnnData(**parts, layers=layers, filename=path, filemode="r")
    parts.pop("raw", None)  # AnnData cannot hold the genes of raw alone if it is not backed
    return AnnData(x, **parts, layers=layers)


def _on_disk(matrix: h5py.Dataset | h5py.Group) -> Any:
    """A matrix of an h5ad file that is read when its values are needed."""
    return matrix if isinstance(matrix, h5py.Dataset) else sparse_dataset(matrix)


def _raw_as_expression(adata: AnnData) -> AnnData:
    """Cells with expression and genes of ``raw``."""
    return AnnData(adata.raw.X, obs=adata.obs, var=adata.raw.var, obsm=dict(adata.obsm), uns=dict(adata.uns))


def _has(file: h5py.File, name: str) -> bool:
    """Whether a part is in an h5ad file; some versions of anndata write a part that is None as an empty dataset."""
    return name in file and not (isinstance(file[name], h5py.Dataset) and file[name].shape is None)


def _is_old_format(file: h5py.File) -> bool:
    """Whether an h5ad file was written by anndata before 0.7."""
    return "encoding-type" not in file["obs"].attrs


def check_output(path: Path, overwrite: bool, n_bytes: int = 0) -> None:
    """Check that an output file can be written, before any work is done.

    Parameters
    ----------
    path
        File to write.
    overwrite
        Whether it may exist.
    n_bytes
        Size that it will have, as far as known.

    Raises
    ------
    InputError
        If the file exists and `overwrite` is False, if its name is that of a zarr store, if its folder does not exist
        or cannot be written to, or if the disk has too little space.
    """
    if path.suffix == ".zarr":
        raise InputError(f"{path} has the name of a zarr store, but a file is written: give its name another ending.")
    check_regular(path)
    if path.exists() and not overwrite:
        raise InputError(f"{path} exists already; pass overwrite=True to replace it, or choose another name.")
    check_folder(path.parent)
    check_free_space(path, n_bytes)


def writable_columns(table: pd.DataFrame) -> pd.DataFrame:
    """The table with another name of the column of the reserved name ``_index``, if it has one."""
    return table.rename(columns={RESERVED_COLUMN: "index"})


def write_anndata(path: Path, adata: AnnData) -> None:
    """Write an h5ad file.

    Like ``adata.write_h5ad``, but a full disk raises one OSError, and a backed object stays with its own file. A column
    of the reserved name ``_index`` is written as ``index``.

    Raises
    ------
    InputError
        If `adata` holds something that h5ad files cannot.
    OSError
        If the file cannot be written.
    """
    with open_for_writing(path, "w") as file:
        write_parts(file, adata, "an h5ad file")


def write_parts(root: Any, adata: AnnData, kind: str) -> None:
    """Write all parts of `adata` into an open h5ad file or zarr store, which messages call `kind`.

    Raises
    ------
    InputError
        If `adata` holds something that cannot be written.
    """
    for axis in ("obs", "var"):
        table = getattr(adata, axis)
        if RESERVED_COLUMN in table:
            adata = adata.copy()
            setattr(adata, axis, writable_columns(table))
    adata.strings_to_categoricals()
    # anndata before 0.11 cannot read nullable strings, so the output has them only where the input does.
    with anndata.settings.override(allow_write_nullable_strings=True):
        try:
            root.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})
            for name in ("X", "raw", "obs", "var", "obsm", "varm", "obsp", "varp", "layers", "uns"):
                part = getattr(adata, name)
                raise_postponed()
                if part is not None:
                    write_elem(root, name, dict(part) if isinstance(part, Mapping) else part)
        except Exception as error:  # anndata raises errors of many kinds for what it cannot write
            reason = str(error).partition("\n")[0].rstrip(".")
            raise InputError(f"adata holds something that {kind} cannot: {reason}. Remove or convert it.") from error


def write_with_layer(path: Path, adata: AnnData, layer: str, blocks: Iterable[np.ndarray]) -> None:
    """Write an h5ad file with a further dense layer, which is computed in blocks of cells.

    Parameters
    ----------
    path
        File to write.
    adata
        The data without the layer.
    layer
        Name of the layer.
    blocks
        Its values, float32, in the order of the cells, (cells of the block, n_genes) each.

    Raises
    ------
    InputError
        If `adata` holds something that h5ad files cannot.
    OSError
        If the file cannot be written.
    """
    write_anndata(path, adata)
    with open_for_writing(path, "r+") as file:
        matrix = file["layers"].create_dataset(layer, shape=adata.shape, dtype=np.float32)
        matrix.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
        start = 0
        for block in blocks:
            raise_postponed()
            matrix[start : start + len(block)] = block
            start += len(block)


@contextmanager
def open_for_writing(path: Path, mode: str) -> Iterator[h5py.File]:
    """Open an HDF5 file for writing such that a full disk raises one OSError, and stop signals wait.

    HDF5 keeps what it could not write, because the disk was full or writing was interrupted, and tries again when the
    file is closed and when the process ends; it then prints hundreds of lines and crashes. Stop signals raise
    KeyboardInterrupt in `raise_postponed`, which is to be called where writing takes long, and when the file is closed.
    """
    with open(path, "r+b" if mode == "r+" else "w+b", buffering=0) as raw, postpone_interrupts():
        shielded = _ShieldedFile(raw)
        try:
            with h5py.File(shielded, mode) as file:
                yield file
        except Exception as error:
            if shielded.error is not None:
                raise shielded.error from error
            raise
        if shielded.error is not None:
            raise shielded.error


class _ShieldedFile(io.RawIOBase):
    """A file that stores its first error of writing instead of raising it, and discards what is written afterwards."""

    def __init__(self, file: io.FileIO):
        self.file = file
        self.error: OSError | None = None

    def readinto(self, buffer: Any) -> int:
        """Read; beyond the end of the file there are zeros."""
        n = self.file.readinto(buffer) or 0
        memoryview(buffer)[n:] = bytes(len(buffer) - n)
        return len(buffer)

    def write(self, values: Any) -> int:
        """Write all values, unless an error has occurred."""
        left = memoryview(values).cast("B")
        size = len(left)
        try:
            while self.error is None and len(left):
                left = left[self.file.write(left) :]
        except OSError as error:
            self.error = error
        return size

    def truncate(self, size: int | None = None) -> int:
        """Change the size of the file, unless an error has occurred."""
        try:
            if self.error is None:
                self.file.truncate(size)
        except OSError as error:
            self.error = error
        return 0 if size is None else size

    def seek(self, offset: int, whence: int = 0) -> int:
        """Change the position."""
        return self.file.seek(offset, whence)

    def tell(self) -> int:
        """The position."""
        return self.file.tell()


def write_with_results(
    source: Path,
    target: Path,
    *,
    cells: pd.Index,
    obs: Mapping[str, np.ndarray | pd.Categorical | None],
    obsm: Mapping[str, np.ndarray | pd.DataFrame | None],
    uns: Mapping[str, Any],
    overwrite: bool = True,
) -> None:
    """Copy an h5ad file and add or remove entries of ``obs``, ``obsm`` and ``uns``; all else stays byte for byte.

    The file appears under its name only when it is complete. A file of anndata before 0.7 is written in today's format.

    Parameters
    ----------
    source, target
        Paths of the file to copy and of the file to write; they may be the same.
    cells
        Names of the cells to which the results belong, in their order, (n_cells,).
    obs
        Name and values, (n_cells,), of each column to add; None removes a column, if there is one.
    obsm
        Name and values, (n_cells, n_dimensions), of each entry to add; None removes an entry, if there is one.
    uns
        Name and value of each entry to add.
    overwrite
        Whether a file that is there by now may be replaced.

    Raises
    ------
    OtherCellsError
        If the file to copy does not hold these cells in this order: it was replaced after they were read.
    """

    def write(temporary: Path) -> None:
        with h5py.File(source) as file:
            old_format = _is_old_format(file)
        if old_format:
            write_anndata(temporary, anndata.read_h5ad(source))
        else:
            shutil.copyfile(source, temporary)
        with open_for_writing(temporary, "r+") as file:
            check_same_cells(file, cells, source)  # in the copy, which nobody else can change
            _update(file["obs"], obs)
            order = [name for name in file["obs"].attrs["column-order"] if name not in obs]
            order += [name for name, values in obs.items() if values is not None]
            file["obs"].attrs["column-order"] = order
            for group, entries in (("obsm", obsm), ("uns", uns)):
                if group not in file:
                    write_elem(file, group, {})
                _update(file[group], entries)

    write_atomically(target, write, overwrite=overwrite)


def check_same_cells(store: Any, cells: pd.Index, path: str | Path) -> None:
    """Check that an open h5ad file or zarr store, of a path, holds these cells in this order.

    Raises
    ------
    OtherCellsError
        If it does not: it was changed after they were read.
    """
    obs = store["obs"]
    if not pd.Index(read_elem(obs[obs.attrs["_index"]])).astype(str).equals(cells.astype(str)):
        raise OtherCellsError(
            f"{path} was changed during the run: it no longer holds the cells that were read, in their order."
        )


def _update(group: h5py.Group, entries: Mapping[str, Any]) -> None:
    """Write each entry into a group of an h5ad file, in place of one of the same name; None removes it."""
    for name, value in entries.items():
        if value is not None:
            write_elem(group, name, value)
        elif name in group:
            del group[name]
