"""Cell type labels of an AnnData, with a warning if some cells have none."""

from __future__ import annotations

import warnings

import numpy as np
from anndata import AnnData

from sysvi.data.labels import read_labels


def read_labels_with_warning(adata: AnnData, label_key: str) -> tuple[np.ndarray, np.ndarray]:
    """Read the cell type labels, and warn how many cells are unlabelled and so left out.

    Which cells are unlabelled is decided by `sysvi.data.labels.read_labels` (missing, "unknown", "unassigned", ...).

    Parameters
    ----------
    adata
        Annotated data with n cells.
    label_key
        Column of ``adata.obs`` with the cell types.

    Returns
    -------
    label
        Label of each cell, (n,) strings.
    labelled
        Whether the cell has a label, (n,) bool.

    Raises
    ------
    InputError
        If there is no such column, or all cells are unlabelled.

    Examples
    --------
    >>> import pandas as pd
    >>> obs = pd.DataFrame({"cell_type": ["beta", "unknown"]}, index=["a", "b"])
    >>> with warnings.catch_warnings(record=True) as caught:
    ...     label, labelled = read_labels_with_warning(AnnData(obs=obs), "cell_type")
    >>> labelled.tolist(), str(caught[0].message)
    ([True, False], "1 of 2 cells have no label in adata.obs['cell_type'] and are left out.")
    """
    label, labelled = read_labels(adata, label_key)
    assert label is not None  # label_key is given
    n_unlabelled = int((~labelled).sum())
    if n_unlabelled:
        warnings.warn(
            f"{n_unlabelled} of {adata.n_obs} cells have no label in adata.obs[{label_key!r}] and are left out.",
            stacklevel=3,
        )
    return label, labelled
