"""Processes that train together must have been called alike; what differs is said before any work."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from anndata import AnnData
from anndata.abc import CSCDataset

from sysvi._core.checks import get_expression, to_text
from sysvi._core.errors import InputError
from sysvi._core.fingerprint import fingerprint
from sysvi._core.ranks import Ranks
from sysvi._core.samples import sample_rows
from sysvi._version import __version__
from sysvi.api.training_folder import differences, plain_value
from sysvi.data.columns import Columns
from sysvi.data.row_blocks import n_stored_values, read_rows

SAMPLED_CELLS = 100  # whose expression is compared


def check_same_call(ranks: Ranks, adata: AnnData, columns: Columns, settings: Mapping[str, Any]) -> None:
    """Check that all processes have the same cells and settings.

    Parameters
    ----------
    ranks
        The processes.
    adata, columns
        The cells, and the columns and the layer to read. Of the expression, that of 100 random cells is compared.
    settings
        All other arguments by name, as plain values.

    Raises
    ------
    InputError
        If they differ, in all processes.
    """
    if ranks.size == 1:
        return
    _, matrix = get_expression(adata, columns.layer)
    sample = sample_rows(np.arange(adata.n_obs), SAMPLED_CELLS)
    x = None if isinstance(matrix, CSCDataset) else read_rows(matrix, sample)
    keys = [key for key in columns.all if key in adata.obs]
    call = {
        "version of sysvi": __version__,
        "version of torch": torch.__version__,
        "number of cells": adata.n_obs,
        "number of genes": adata.n_vars,
        "columns": json.dumps(columns.to_json()),
        "names of the cells": fingerprint(np.asarray(adata.obs_names, dtype=object)),
        "names of the genes": fingerprint(np.asarray(adata.var_names, dtype=object)),
        "systems, batches or covariates of the cells": fingerprint(*(to_text(adata.obs[key]) for key in keys)),
        "number of values": n_stored_values(matrix),
        "expression": None if x is None else fingerprint(x.data, x.indices, x.indptr),
        **{name: plain_value(value) for name, value in settings.items()},
    }
    calls = ranks.gather(call)
    for rank, other in enumerate(calls):
        if different := differences(other, calls[0]):
            raise InputError(
                f"The processes were called differently; of process {rank} and process 0 differ: "
                f"{'; '.join(different).replace(' there', f' in {rank}').replace(' here', ' in 0')}. Give all the same "
                "cells and settings."
            )
