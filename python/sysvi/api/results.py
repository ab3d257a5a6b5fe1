"""Writing what a trained model gives into the data that it was trained on."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from anndata import AnnData

from sysvi._core.checks import check_obs_column
from sysvi._core.errors import InputError
from sysvi._core.events import OnEvent
from sysvi.api.ensemble import Ensemble
from sysvi.api.support import (
    SUPPORT_KEY,
    describe_support,
    neighbor_support,
    remove_support,
    support_column,
    warn_about_unsupported_cells,
)
from sysvi.api.sysvi import SysVI
from sysvi.data.columns import Columns


def is_hdf5_name(name: object) -> bool:
    """Whether a part of an h5ad file can have this name: HDF5 gives slashes, "." and null characters a meaning.

    Examples
    --------
    >>> is_hdf5_name("X_sysVI"), is_hdf5_name("."), is_hdf5_name("a/b")
    (True, False, False)
    """
    if not isinstance(name, str) or name in ("", ".", "..") or set(name) & {"/", "\0"}:
        return False
    try:
        name.encode()
    except UnicodeEncodeError:  # half of a surrogate pair
        return False
    return True


def check_result_name(key_added: str) -> None:
    """Refuse a name under which a result cannot be stored in an h5ad file."""
    if not is_hdf5_name(key_added):
        raise InputError(
            f"key_added is {key_added!r}; it must be a string, not empty, not '.' or '..' and without a slash."
        )


def check_embedding_name(key_added: str) -> None:
    """Refuse a name under which an embedding cannot be stored in ``obsm``."""
    check_result_name(key_added)
    if key_added == SUPPORT_KEY:
        raise InputError(f"key_added is {key_added!r}, under which the support is stored: choose another name.")


def check_input_columns(columns: Columns) -> None:
    """Refuse to read the system or a covariate from the column in which the support is written."""
    if SUPPORT_KEY in columns.all:
        raise InputError(
            f"Column {SUPPORT_KEY!r} of adata.obs cannot be the system, the batch or a covariate, as the support of "
            "cells is written there: rename it."
        )


def check_support_names(systems: Iterable[str]) -> None:
    """Refuse systems whose columns in ``obsm["sysvi_support"]`` would have the same name.

    Examples
    --------
    >>> check_support_names(["cell line/2D", "cell line/3D"])
    """
    of_column: dict[str, str] = {}
    for name in systems:
        other = of_column.setdefault(support_column(name), name)
        if other != name:
            raise InputError(
                f"Systems {other!r} and {name!r} would have the same column in obsm[{SUPPORT_KEY!r}], where a slash "
                "becomes a bar: rename one of them."
            )


def write_results(adata: AnnData, model: SysVI | Ensemble, key_added: str, on_event: OnEvent, stacklevel: int) -> None:
    """Write embedding, support and record of a trained model into its data.

    The support, which only an ensemble gives, is reported to `on_event`, and systems with many cells of low support are
    warned about. The support of an earlier model is removed.

    Parameters
    ----------
    adata
        The data of the model. Gets ``obsm[key_added]``, ``uns["sysvi"]``, and, from an ensemble, ``sysvi_support`` in
        ``obs`` and ``obsm``.
    model
        Trained model.
    key_added
        Name of the embedding.
    on_event
        Progress callback.
    stacklevel
        As in ``warnings.warn``, of the caller.
    """
    remove_support(adata)
    adata.uns["sysvi"] = model.record()
    if not isinstance(model, Ensemble):
        adata.obsm[key_added] = model.get_latent_representation()
        return
    embeddings = model.member_embeddings()
    adata.obsm[key_added] = model.combine(embeddings)
    system = check_obs_column(adata, model.vocabulary.system_key, "system_key")
    support = neighbor_support(embeddings, system).set_index(adata.obs_names)
    adata.obsm[SUPPORT_KEY] = support.rename(columns=support_column)
    adata.obs[SUPPORT_KEY] = support.max(axis=1).to_numpy(np.float32)
    on_event(describe_support(support, system))
    warn_about_unsupported_cells(support, system, stacklevel=stacklevel + 1)
