"""Noticing that a file or a store changes while expression is read from it."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import h5py

from sysvi._core.errors import InputError

REMOVED = (-1, -1)  # in place of a size and a time
# Of a zarr store: a chunk is written under another name and moved, which changes the time of its folder.
WATCHED = ("", "c", "zarr.json", ".zarray", ".zattrs")


def file_state(matrix: Any) -> dict[str, tuple[int, int]]:
    """Sizes and times of what holds a matrix on disk; the same as long as it is not changed.

    Parameters
    ----------
    matrix
        Matrix in memory or on disk. Of an h5ad file, the file that was opened is looked at, even if there is another
        one under its name by now; of a zarr store, the folders of the matrix and their metadata.

    Returns
    -------
    dict
        Size in bytes and time of the last change in nanoseconds, by name; empty for a matrix in memory, and -1 of a
        zarr store that is not there.
    """
    item = getattr(matrix, "group", matrix)  # of a sparse matrix
    if isinstance(item, h5py.Group | h5py.Dataset):
        with suppress(OSError, ValueError):  # a file of another kind than on a disk
            return {"": _size_and_time(os.fstat(item.file.id.get_vfd_handle()))}
        return {}
    store = getattr(item, "store", None)
    root = getattr(store, "root", getattr(store, "path", None))  # of zarr 3, of zarr 2
    if not isinstance(root, str | Path):
        return {}
    folder, found = Path(root) / item.path, {}
    for part in ("", "data", "indices", "indptr"):
        for name in WATCHED:
            with suppress(FileNotFoundError, NotADirectoryError):
                found[f"{part}/{name}"] = _size_and_time((folder / part / name).stat())
    return found or {"": REMOVED}


def check_unchanged(matrix: Any, state: dict[str, tuple[int, int]] | None) -> None:
    """Check, after values were read, that a matrix on disk has the state that it had before, and is still there.

    Raises
    ------
    InputError
        If it has not.
    """
    now = file_state(matrix)
    if state and now and now != state:  # nothing now: it was read into memory
        raise InputError(
            "The expression was changed on disk while it was read, or removed: run it again, and leave the file as it "
            "is meanwhile."
        )


def _size_and_time(status: os.stat_result) -> tuple[int, int]:
    return status.st_size, status.st_mtime_ns
