"""The paper's score of runs, and its choice of a parameter by it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from sysvi._core.checks import listing
from sysvi._core.errors import InputError

BATCH_METRICS, BIOLOGY_METRICS = ("iLISI",), ("NMI", "Moran")
BIOLOGY_SHARE = 0.6  # of the overall score; the rest is batch correction


def paper_scores(
    table: pd.DataFrame, *, batch: Sequence[str] = BATCH_METRICS, biology: Sequence[str] = BIOLOGY_METRICS
) -> pd.DataFrame:
    """Score runs as the paper does: metrics scaled over the runs, 0.6 biology + 0.4 batch correction.

    Scores are relative: they rank the runs of one table, those of one method when its parameter is chosen.

    Parameters
    ----------
    table
        A row a run; columns ``iLISI``, ``NMI`` and ``Moran`` (the ratio of Moran's I), and any others.
    batch, biology
        Columns that take the place of these: for batch correction and for biology.

    Returns
    -------
    pandas.DataFrame
        The table with further columns: ``iLISI scaled``, ``NMI scaled``, ``Moran scaled``, in [0, 1] (lowest to highest
        run); ``batch`` (iLISI), ``biology`` (mean of NMI and Moran), ``overall``.

    Raises
    ------
    InputError
        If a column is missing or holds what is not a finite number.

    Notes
    -----
    A metric that no run has (all NaN) cannot be measured on these data and is left out of its mean; without any of
    biology or of batch correction there is no overall score (NaN), as one alone would choose too much mixing or none.
    A run that lacks a metric which others have gets NaN there and is not chosen. A metric that is the same in all runs
    scales to 0, as in the paper's code; it says nothing of which run is better.

    Source: Hrovatin, Moinfar et al., BMC Genomics 2025, Methods.

    Examples
    --------
    >>> runs = pd.DataFrame({"iLISI": [0.0, 0.2, 0.4], "NMI": [0.9, 0.9, 0.5], "Moran": [0.8, 0.7, 0.6]})
    >>> paper_scores(runs)[["biology", "batch", "overall"]].round(2)
       biology  batch  overall
    0     1.00    0.0     0.60
    1     0.75    0.5     0.65
    2     0.00    1.0     0.40
    """
    metrics = [*batch, *biology]
    if absent := [name for name in metrics if name not in table]:
        raise InputError(f"The table has no column {listing(absent)}: its columns are {listing(table)}.")
    result = table.copy()
    for name in metrics:
        result[f"{name} scaled"] = _scaled(table[name])
    for group, names in (("batch", batch), ("biology", biology)):
        measured = [f"{name} scaled" for name in names if table[name].notna().any()]
        result[group] = result[measured].mean(axis=1, skipna=False) if measured else np.nan
    result["overall"] = BIOLOGY_SHARE * result["biology"] + (1 - BIOLOGY_SHARE) * result["batch"]
    return result


def best_setting(scored: pd.DataFrame, setting: str | Sequence[str]) -> pd.DataFrame:
    """The runs of the setting with the highest mean overall score, the one of median score first.

    Parameters
    ----------
    scored
        What `paper_scores` returned for the runs of one method.
    setting
        Column or columns whose values make a setting; runs that share them are repetitions (seeds).

    Returns
    -------
    pandas.DataFrame
        Rows of `scored`, nearest to the median score first: the first is the representative run. Of equal settings
        or runs the one that comes first in the table. Empty if no run has an overall score.

    Examples
    --------
    >>> runs = pd.DataFrame({"weight": [2, 2, 2, 5, 5], "overall": [0.3, 0.6, 0.9, 0.1, 0.8]})
    >>> best_setting(runs, "weight").index.tolist()
    [1, 0, 2]
    """
    scored = scored[scored["overall"].notna()]
    if scored.empty:
        return scored
    keys = [setting] if isinstance(setting, str) else list(setting)
    groups = scored.groupby(keys, sort=False, dropna=False)
    group = groups.ngroup().to_numpy()  # (runs,), numbered as they come
    best = scored[group == groups["overall"].mean().to_numpy().argmax()]
    distance = (best["overall"] - best["overall"].median()).abs().to_numpy()
    return best.iloc[np.argsort(distance, kind="stable")]


def _scaled(column: pd.Series) -> np.ndarray:
    """Values scaled to [0, 1], NaN where they are; 0 where all are the same."""
    values = pd.to_numeric(column, errors="coerce").to_numpy(np.float64)
    if (column.notna().to_numpy() & ~np.isfinite(values)).any():
        raise InputError(f"Column {column.name!r} holds a value that is not a finite number: remove such runs.")
    if np.isnan(values).all():
        return values
    low = np.nanmin(values)
    spread = np.nanmax(values) - low
    return (values - low) / (1.0 if spread < 10 * np.finfo(np.float64).eps else spread)
