"""Cell type labels: which cells have one, and random samples of cells that keep the proportions of labels."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pandas as pd
from anndata import AnnData

from sysvi._core.checks import MISSING_NAMES, check_obs_column, get_obs_column, is_missing, to_text
from sysvi._core.errors import InputError

UNLABELLED = (*MISSING_NAMES, "unlabelled", "unlabeled", "unknown", "unassigned")
MANY_GROUPS = 100  # more than this, most of them of one cell, are no groups of cells


def is_labelled(labels: pd.Series, unlabelled: Iterable[str] = UNLABELLED) -> np.ndarray:
    """Find the cells that have a label: the one rule of the package.

    A cell is unlabelled if its value is missing (`sysvi._core.checks.is_missing`) or one of the names in `unlabelled`.
    Names are compared without regard to case and to surrounding spaces.

    Parameters
    ----------
    labels
        Labels of n cells, of any type.
    unlabelled
        Names that mean "no label".

    Returns
    -------
    numpy.ndarray
        True for labelled cells, (n,).

    Examples
    --------
    >>> is_labelled(pd.Series(["beta", None, "Unknown", " nan ", "NK"])).tolist()
    [True, False, False, False, True]
    """
    meaningless = {str(name).strip().lower() for name in unlabelled}
    names = labels.astype(str).str.strip().str.lower()
    return ~is_missing(labels) & ~names.isin(meaningless).to_numpy(bool)


def check_groups(names: np.ndarray, where: str) -> None:
    """Check that a column names groups of cells and not single cells, of which measures take long and say nothing.

    Parameters
    ----------
    names
        Group of each cell, (n,).
    where
        The column, for the message.

    Raises
    ------
    InputError
        If there are more than 100 groups, and fewer than two cells for each.

    Examples
    --------
    >>> check_groups(np.arange(500) // 2, "adata.obs['cell_type']")
    """
    n_groups = len(set(names))
    if n_groups > MANY_GROUPS and 2 * n_groups > len(names):
        raise InputError(
            f"{where} has {n_groups:,} different values in {len(names):,} cells, so it names single cells: choose a "
            "column whose values many cells share."
        )


def read_labels(
    adata: AnnData, key: str | None, unlabelled: Iterable[str] = UNLABELLED, *, argument: str = "label_key"
) -> tuple[np.ndarray | None, np.ndarray]:
    """Read the label of each cell, and which cells have one.

    Parameters
    ----------
    adata
        Annotated data with n cells.
    key
        Column of ``adata.obs`` with the labels; None if there are no labels.
    unlabelled
        Names that mean "no label", as in `is_labelled`.
    argument
        Name of the argument that gave `key`, for messages.

    Returns
    -------
    labels : numpy.ndarray or None
        Labels as strings, (n,); None without `key`.
    labelled : numpy.ndarray
        True for labelled cells, (n,); True for all cells without `key`.

    Raises
    ------
    InputError
        If there is no such column, or it labels no cell, or it names single cells (`check_groups`).

    Examples
    --------
    >>> adata = AnnData(obs=pd.DataFrame({"cell_type": ["beta", "unknown"]}, index=["cell1", "cell2"]))
    >>> labels, labelled = read_labels(adata, "cell_type")
    >>> labels[labelled].tolist(), labelled.tolist()
    (['beta'], [True, False])
    """
    if key is None:
        return None, np.ones(adata.n_obs, bool)
    column = get_obs_column(adata, key, argument)
    labelled = is_labelled(column, unlabelled)
    if not labelled.any():
        raise InputError(
            f"adata.obs[{key!r}] ({argument}) labels no cell: choose another column, or give no {argument}."
        )
    labels = to_text(column)
    check_groups(labels[labelled], f"adata.obs[{key!r}] ({argument})")
    return labels, labelled


def stratified_sample(
    adata: AnnData,
    system_key: str,
    label_key: str | None,
    n: int,
    seed: int,
    unlabelled: Iterable[str] = UNLABELLED,
) -> np.ndarray:
    """Draw cells at random so that each label of each system keeps its proportion.

    Parameters
    ----------
    adata
        Annotated data.
    system_key, label_key
        Columns of ``adata.obs`` with the systems and labels. Unlabelled cells count as one more label;
        without `label_key`, or if there is no such column, only the systems keep their proportions.
    n
        Number of cells to draw.
    seed
        Random seed of the sample.
    unlabelled
        Names that mean "no label", as in `is_labelled`.

    Returns
    -------
    numpy.ndarray
        Row numbers in ascending order, (n,).

    Examples
    --------
    >>> obs = pd.DataFrame({"species": ["human"] * 8 + ["mouse"] * 4}, index=[f"cell{i}" for i in range(12)])
    >>> adata = AnnData(obs=obs)
    >>> int((stratified_sample(adata, "species", None, n=6, seed=0) < 8).sum())  # 4 of 6 are human, as 8 of 12 are
    4
    """
    keys = [check_obs_column(adata, system_key, "system_key")]
    if label_key is not None and label_key in adata.obs:
        label = get_obs_column(adata, label_key, "label_key")
        keys.append(np.where(is_labelled(label, unlabelled), label.astype(str), ""))
    stratum = pd.Series(0, index=range(adata.n_obs)).groupby(keys).ngroup().to_numpy()  # (n_cells,)
    random = np.random.default_rng(seed).permutation(adata.n_obs)
    order = random[np.argsort(stratum[random], kind="stable")]  # stratum by stratum, each in random order
    return np.sort(order[np.arange(n) * adata.n_obs // n])
