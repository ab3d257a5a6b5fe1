"""Batches of a reference: cells of one system and one batch."""

from __future__ import annotations

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray

from sysvi._core.checks import check_obs_column
from sysvi._core.errors import InputError
from sysvi.data.from_anndata import read_setup


def batches(reference: AnnData, system_key: str | None, batch_key: str | None) -> NDArray[np.int64]:
    """Number of the batch of each cell, (n,): cells with the same values in all columns that are given.

    Parameters
    ----------
    reference
        Annotated data with n cells.
    system_key, batch_key
        Columns of ``reference.obs`` with the systems and the batches; None: there is no such column.

    Raises
    ------
    InputError
        If there is no such column, or a value is missing.

    Examples
    --------
    >>> obs = pd.DataFrame({"species": ["human", "human", "mouse"], "donor": ["a", "b", "a"]}, index=["1", "2", "3"])
    >>> batches(AnnData(obs=obs), "species", "donor").tolist()
    [0, 1, 2]
    """
    columns = [
        check_obs_column(reference, key, argument)
        for key, argument in ((system_key, "system_key"), (batch_key, "batch_key"))
        if key is not None
    ]
    if not columns:
        return np.zeros(reference.n_obs, np.int64)
    number = pd.Series(0, index=range(reference.n_obs)).groupby(columns).ngroup()
    return number.to_numpy().astype(np.int64)


def columns_of_model(adata: AnnData) -> tuple[str | None, str | None]:
    """Columns with the systems and the batches of the model that was trained on `adata`; None where there is none."""
    try:
        columns = read_setup(adata)
    except InputError:
        return None, None
    system, batch = (key if key in adata.obs else None for key in (columns.system, columns.batch))
    return system, batch
