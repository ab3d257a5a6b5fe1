"""Overall score of integration runs as defined in the paper, and the choice of a setting by it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from sysvi._core.checks import listing
from sysvi._core.errors import InputError

BATCH_METRICS, BIOLOGY_METRICS = ("iLISI",), ("NMI", "Moran")
BIOLOGY_SHARE = 0.6  # weight of biological preservation in a total score; the rest is batch correction


def paper_scores(
    table: pd.DataFrame, *, batch: Sequence[str] = BATCH_METRICS, biology: Sequence[str] = BIOLOGY_METRICS
) -> pd.DataFrame:
    """Score runs as in the paper: metrics scaled over runs, 0.6 biological preservation + 0.4 batch correction.

    Scores are relative: they rank the runs of one table, for example those of one method with different settings.

    Parameters
    ----------
    table
        One row per run; columns ``iLISI``, ``NMI``, ``Moran`` (ratio of Moran's I) and any others.
    batch
        Columns with metrics of batch correction.
    biology
        Columns with metrics of biological preservation.

    Returns
    -------
    pandas.DataFrame
        The table with the columns ``iLISI scaled``, ``NMI scaled``, ``Moran scaled`` (from 0, lowest run, to 1, highest
        run), ``batch`` and ``biology`` (means of the scaled metrics), and ``overall``.

    Raises
    ------
    InputError
        If a column is missing or holds a value that is not a finite number.

    Notes
    -----
    A metric that is NaN in all runs is left out of its mean. Without any metric of biological preservation or of batch
    correction there is no overall score (NaN), since the other one alone would choose too much mixing or none. A run
    that lacks a metric which other runs have gets NaN and is not chosen. A metric that is the same in all runs is
    scaled to 0, as in the code of the paper.

    References
    ----------
    Hrovatin, Moinfar et al., Integrating single-cell RNA-seq datasets with substantial batch effects, BMC Genomics
    (2025), Methods.

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
    """Select the runs of the setting with the highest mean overall score; the run nearest to the median comes first.

    Parameters
    ----------
    scored
        Result of `paper_scores` for the runs of one method.
    setting
        Column or columns that define a setting; runs with the same values are repetitions (seeds).

    Returns
    -------
    pandas.DataFrame
        Rows of `scored` in order of the distance of their score from the median; the first is the representative run.
        Ties are resolved by the order of the table. Empty if no run has an overall score.

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
    group = groups.ngroup().to_numpy()  # (runs,), settings numbered by first occurrence
    best = scored[group == groups["overall"].mean().to_numpy().argmax()]
    distance = (best["overall"] - best["overall"].median()).abs().to_numpy()
    return best.iloc[np.argsort(distance, kind="stable")]


def _scaled(column: pd.Series) -> np.ndarray:
    """Scale values to [0, 1]: exactly 0 for the lowest and 1 for the highest; missing values stay NaN.

    In place of scikit-learn's minmax_scale, which rounds differently, so that equal runs would no longer tie.
    """
    values = pd.to_numeric(column, errors="coerce").to_numpy(np.float64)
    if (column.notna().to_numpy() & ~np.isfinite(values)).any():
        raise InputError(f"Column {column.name!r} holds a value that is not a finite number: remove these runs.")
    if np.isnan(values).all():
        return values
    low = np.nanmin(values)
    spread = np.nanmax(values) - low
    return (values - low) / (1.0 if spread < 10 * np.finfo(np.float64).eps else spread)
