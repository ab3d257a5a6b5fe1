"""Adding results to a zarr store in place: written aside, then moved into it.

Each entry appears whole or not at all, and the store can be read at any moment: what is replaced or added is listed (in
the order of the columns of ``obs``, and in the consolidated metadata) only while it is there.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from anndata.io import write_elem

from sysvi._core.errors import InputError
from sysvi._core.files import check_folder, folder_beside, locked_folder, write_atomically
from sysvi.data.h5ad import check_same_cells
from sysvi.data.stores import import_zarr, is_zarr


def check_in_place(path: Path, key: str, overwrite: bool) -> None:
    """Check, before any work is done, that an embedding can be added to a store.

    Parameters
    ----------
    path
        The store.
    key
        Name of the embedding in ``obsm``.
    overwrite
        Whether an embedding of this name may be replaced.

    Raises
    ------
    InputError
        If it is no zarr store, has an embedding of this name already, or cannot be written to.
    """
    if not is_zarr(path):
        raise InputError(
            f"{path} is no zarr store, and --in-place adds the embedding to stores only: give --output instead, which "
            "may be the input itself with --copy and --overwrite."
        )
    import_zarr()
    if (path / "obsm" / key).exists() and not overwrite:
        raise InputError(
            f"obsm[{key!r}] of {path} exists already: pass overwrite=True to replace it, or give another key_added."
        )
    for folder in (path, path.absolute().parent):
        check_folder(folder)


def add_results(
    path: Path,
    *,
    cells: pd.Index,
    obs: Mapping[str, np.ndarray | None],
    obsm: Mapping[str, np.ndarray | pd.DataFrame | None],
    uns: Mapping[str, Any],
) -> None:
    """Add entries to a zarr store (version 2 or 3), in place of those of the same names.

    Parameters
    ----------
    path
        The store.
    cells
        Names of the cells to which the results belong, in their order, (n_cells,).
    obs
        Name and values, (n_cells,), of each column to add; None removes a column, if there is one.
    obsm
        Name and values, (n_cells, n_dimensions), of each entry to add; None removes an entry, if there is one.
    uns
        Name and value of each entry to add.

    Raises
    ------
    OtherCellsError
        If the store does not hold these cells in this order: it was changed after they were read.
    InputError
        If another process adds to the store.
    """
    zarr = import_zarr()
    parts: dict[str, Mapping[str, Any]] = {"obsm": obsm, "uns": uns, "obs": obs}
    with locked_folder(path), folder_beside(path) as aside:
        store = _open_unconsolidated(path, zarr)
        check_same_cells(store, cells, path)
        _write_aside(aside / "new", parts, store, zarr)
        was_consolidated = _drop_consolidated_metadata(path)
        try:
            _move_entries(path, aside, parts, store["obs"].attrs)
        finally:
            if was_consolidated:
                with warnings.catch_warnings():
                    warnings.filterwarnings("ignore", "Consolidated metadata")  # are not part of zarr 3 yet
                    zarr.consolidate_metadata(str(path))


def _move_entries(path: Path, aside: Path, parts: Mapping[str, Mapping[str, Any]], attributes: Any) -> None:
    """Move the entries from ``aside/new`` into the store, and those that were there to ``aside/old``.

    After an error, all is moved back. `attributes` are those of ``obs``, which have the order of the columns.
    """
    columns = list(attributes["column-order"])
    others = [name for name in columns if name not in parts["obs"]]
    added = [name for name, values in parts["obs"].items() if values is not None]
    moved: list[tuple[Path, Path]] = []

    def move(source: Path, target: Path) -> None:
        if source.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            source.rename(target)
            moved.append((source, target))

    try:
        attributes["column-order"] = others
        for part, entries in parts.items():
            if not (path / part).exists():
                move(aside / "new" / part, path / part)
                continue
            for name in entries:
                move(path / part / name, aside / "old" / part / name)
                move(aside / "new" / part / name, path / part / name)
        attributes["column-order"] = others + added
    except BaseException:
        for source, target in reversed(moved):
            target.rename(source)
        attributes["column-order"] = columns
        raise


def _open_unconsolidated(path: Path, zarr: Any) -> Any:
    """Open a store such that its own metadata are read, not their copy."""
    if not hasattr(zarr, "AsyncGroup"):  # zarr 2
        return zarr.open_group(str(path), mode="r+")
    return zarr.open_group(path, mode="r+", use_consolidated=False)


def _write_aside(folder: Path, parts: Mapping[str, Mapping[str, Any]], store: Any, zarr: Any) -> None:
    """Write the entries into a new store of the same version of zarr."""
    version = {"zarr_format": store.metadata.zarr_format} if hasattr(store, "metadata") else {}
    new = zarr.open_group(str(folder), mode="w", **version)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "zarr v3 autosharding|Writing zarr v2")
        for part, entries in parts.items():
            write_elem(new, part, {name: value for name, value in entries.items() if value is not None})


def _drop_consolidated_metadata(path: Path) -> bool:
    """Remove the consolidated metadata of a store, which a change makes out of date, and say whether it had any."""
    if (path / ".zmetadata").exists():
        (path / ".zmetadata").unlink()
        return True
    root = path / "zarr.json"
    metadata = json.loads(root.read_text(encoding="utf-8")) if root.exists() else {}
    if metadata.pop("consolidated_metadata", None) is None:
        return False
    write_atomically(root, lambda temporary: temporary.write_text(json.dumps(metadata, indent=2), encoding="utf-8"))
    return True
