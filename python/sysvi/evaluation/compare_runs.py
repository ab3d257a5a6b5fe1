"""Comparing methods over runs: whether a difference between their scores is more than chance."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Literal

import numpy as np
import pandas as pd

from sysvi._core.checks import listing
from sysvi._core.errors import InputError

RUN_COLUMNS = ("run", "seed")  # say which run it is, and are no metric


def compare_runs(
    table: pd.DataFrame,
    *,
    method: str = "method",
    metrics: Sequence[str] | None = None,
    family: Literal["metric", "all"] = "metric",
    alpha: float = 0.05,
) -> pd.DataFrame:
    """Compare the scores of methods, pair by pair and metric by metric, over repeated runs.

    Welch's t-test (two-sided, unequal variances), corrected by the two-stage procedure of Benjamini and Hochberg
    (statsmodels' ``fdr_tsbh``), as in the paper. Corrected p-values belong to `alpha`: reject where they are at most
    `alpha`. Runs that differ in their seed alone show how stable a method is on these data, not whether the
    difference holds for others.

    Parameters
    ----------
    table
        A row for each run of a method. Wide: a column for each metric. Or tidy, a row for each run and metric: columns
        ``metric`` and ``value``. Missing values are left out, metric by metric.
    method
        Column with the methods.
    metrics
        Metrics to compare; by default all there are (wide: all numeric columns but `method`, ``run`` and ``seed``).
    family
        p-values corrected together: those of one ``"metric"``, over the pairs of methods (the paper's choice), or
        ``"all"``.
    alpha
        False discovery rate; the confidence interval is that of 1 - alpha.

    Returns
    -------
    pandas.DataFrame
        A row for each metric and pair: ``metric``, ``method_a``, ``method_b`` (methods in sorted order), runs ``n_a``
        and ``n_b``, ``mean_a``, ``mean_b``, ``difference`` (a less b), its confidence interval ``low`` to ``high``,
        ``t``, degrees of freedom ``df``, ``p``, ``p_adjusted``, and ``note``: why there is no test, empty if there is
        one. There is none with fewer than two runs of a method, or if no score of either varies.

    Raises
    ------
    InputError
        If a column is missing or not numeric, there are fewer than two methods, or alpha is not between 0 and 1.

    Examples
    --------
    >>> runs = pd.DataFrame({"method": ["ours"] * 3 + ["theirs"] * 3, "iLISI": [0.5, 0.6, 0.7, 0.2, 0.3, 0.4]})
    >>> compare_runs(runs)[["metric", "difference", "df", "p"]].round(4)
      metric  difference   df       p
    0  iLISI         0.3  4.0  0.0213
    """
    from statsmodels.stats.multitest import multipletests  # slow to import

    if not 0 < alpha < 1:
        raise InputError(f"alpha is {alpha}; it must be between 0 and 1.")
    if family not in ("metric", "all"):
        raise InputError(f"family is {family!r}; it must be 'metric' or 'all'.")
    scores = _scores(table, method, metrics)
    methods = sorted({name for name, _ in scores})
    if len(methods) < 2:
        raise InputError(f"Column {method!r} holds one method only ({listing(methods)}): there must be two to compare.")
    names = list(dict.fromkeys(metric for _, metric in scores))
    none = np.empty(0)
    rows = [
        {"metric": metric, "method_a": a, "method_b": b}
        | _welch(scores.get((a, metric), none), scores.get((b, metric), none), alpha)
        for metric in names
        for a, b in combinations(methods, 2)
    ]
    result = pd.DataFrame(rows)
    result.insert(result.columns.get_loc("p") + 1, "p_adjusted", np.nan)  # type: ignore[arg-type, operator]
    tested = result[result["p"].notna()]
    for _, part in tested.groupby("metric" if family == "metric" else np.zeros(len(tested))):
        result.loc[part.index, "p_adjusted"] = multipletests(part["p"], alpha=alpha, method="fdr_tsbh")[1]
    return result


def _scores(table: pd.DataFrame, method: str, metrics: Sequence[str] | None) -> dict[tuple[str, str], np.ndarray]:
    """Scores of the runs of each method and metric, metrics in their order; missing ones left out."""
    if isinstance(metrics, str):
        raise InputError(f"metrics is the text {metrics!r}; give a list: [{metrics!r}].")
    if method not in table:
        raise InputError(f"The table has no column {method!r} with the methods: its columns are {listing(table)}.")
    if table[method].isna().any():
        raise InputError(f"Column {method!r} is missing in {int(table[method].isna().sum())} rows: fill it in.")
    if {"metric", "value"} <= set(table.columns):
        tidy = table[[method, "metric", "value"]]
    else:
        numeric = table.select_dtypes("number").columns.difference([method, *RUN_COLUMNS], sort=False)
        wide = list(numeric) if metrics is None else list(metrics)
        if absent := [name for name in wide if name not in table]:
            raise InputError(f"The table has no metric {listing(absent)}: its columns are {listing(table)}.")
        tidy = table[[method, *wide]].melt(method, var_name="metric", value_name="value")
    present = list(dict.fromkeys(tidy["metric"].astype(str)))
    chosen = present if metrics is None else [str(name) for name in metrics]
    if absent := [name for name in chosen if name not in present]:
        raise InputError(f"The table has no metric {listing(absent)}: its metrics are {listing(present)}.")
    if not chosen:
        raise InputError(f"The table has no metric: none of its columns ({listing(table)}) is numeric.")
    value = pd.to_numeric(tidy["value"], errors="coerce").astype(np.float64)
    bad = ~np.isfinite(value) & tidy["value"].notna()
    if bad.any():
        first = tidy[bad].iloc[0]
        raise InputError(f"Metric {first['metric']!r} has the value {first['value']}: give finite numbers.")
    keys = [tidy[method].astype(str).to_numpy(), tidy["metric"].astype(str).to_numpy()]
    groups = {key: part.dropna().to_numpy() for key, part in value.groupby(keys)}
    methods = sorted(set(keys[0]))
    return {(name, metric): groups.get((name, metric), np.empty(0)) for metric in chosen for name in methods}


def _welch(a: np.ndarray, b: np.ndarray, alpha: float) -> dict[str, object]:
    """Welch's test of two samples, a row of the table; NaN and a note where there is none."""
    from scipy import stats

    row: dict[str, object] = {"n_a": len(a), "n_b": len(b)}
    mean_a, mean_b = (float(x.mean()) if len(x) else np.nan for x in (a, b))
    row |= {"mean_a": mean_a, "mean_b": mean_b, "difference": mean_a - mean_b}
    empty = dict.fromkeys(("low", "high", "t", "df", "p"), np.nan)
    if min(len(a), len(b)) < 2:
        return row | empty | {"note": "fewer than two runs"}
    error_a, error_b = (float(x.var(ddof=1)) / len(x) if np.ptp(x) else 0.0 for x in (a, b))  # squared, of the means
    error = error_a + error_b
    if error == 0:
        return row | empty | {"note": "scores do not vary"}
    df = error**2 / (error_a**2 / (len(a) - 1) + error_b**2 / (len(b) - 1))
    difference, scale = mean_a - mean_b, np.sqrt(error)
    t, half = difference / scale, stats.t.isf(alpha / 2, df) * scale
    p = 2 * stats.t.sf(abs(t), df)
    return row | {"low": difference - half, "high": difference + half, "t": t, "df": df, "p": p, "note": ""}
