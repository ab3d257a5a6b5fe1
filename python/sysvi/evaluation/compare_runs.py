"""Comparison of methods over repeated runs: whether their scores differ by more than chance."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from itertools import combinations
from typing import Literal

import numpy as np
import pandas as pd

from sysvi._core.arguments import check_types
from sysvi._core.checks import listing
from sysvi._core.errors import InputError

RUN_COLUMNS = ("run", "seed")  # numeric columns that identify runs and are not metrics


def compare_runs(
    table: pd.DataFrame,
    *,
    method: str = "method",
    metrics: Sequence[str] | None = None,
    family: Literal["metric", "all"] = "metric",
    alpha: float = 0.05,
) -> pd.DataFrame:
    """Compare the scores of each pair of methods, metric by metric, over repeated runs.

    As in the paper, by Welch's t-test (two-sided, unequal variances, ``scipy.stats.ttest_ind``). p-values are corrected
    by the two-stage procedure of Benjamini and Hochberg (statsmodels' ``fdr_tsbh``), whose corrected values depend on
    `alpha`: reject where they are at most `alpha`. Runs that differ only in the seed show how stable a method is on
    these data, not whether the difference generalises to other data.

    Parameters
    ----------
    table
        Scores, in one of two forms: wide, with one row per run of a method and one column per metric; or tidy, with one
        row per run and metric and the columns ``metric`` and ``value``. Missing values are left out, metric by metric.
    method
        Column with the methods.
    metrics
        Metrics to compare; by default all metrics (in wide tables all numeric columns but `method`, ``run``, ``seed``).
    family
        p-values that are corrected together: those of one ``"metric"``, over pairs of methods (as in the paper), or
        ``"all"``.
    alpha
        False discovery rate. Confidence intervals have the level 1 - alpha.

    Returns
    -------
    pandas.DataFrame
        One row per metric and pair: ``metric``, ``method_a``, ``method_b`` (in sorted order), numbers of runs ``n_a``
        and ``n_b``, ``mean_a``, ``mean_b``, ``difference`` (a minus b) with its confidence interval ``low`` to
        ``high``, ``t``, degrees of freedom ``df``, ``p``, ``p_adjusted``, and ``note``, which is empty or says why
        there is no test: a method has fewer than two runs, or the scores of neither method vary.

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
    from statsmodels.stats.multitest import multipletests

    check_types(compare_runs, table=table, method=method, metrics=metrics, family=family, alpha=alpha)
    if not 0 < alpha < 1:
        raise InputError(f"alpha is {alpha}: it must be between 0 and 1.")
    if family not in ("metric", "all"):
        raise InputError(f"family is {family!r}: it must be 'metric' or 'all'.")
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
    """Collect the scores of each method and metric, (runs,), without missing values; metrics keep their order."""
    if isinstance(metrics, str):
        raise InputError(f"metrics is the string {metrics!r}: give a list, [{metrics!r}].")
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
    invalid = ~np.isfinite(value) & tidy["value"].notna()
    if invalid.any():
        first = tidy[invalid].iloc[0]
        raise InputError(f"Metric {first['metric']!r} has the value {first['value']}: give finite numbers.")
    keys = [tidy[method].astype(str).to_numpy(), tidy["metric"].astype(str).to_numpy()]
    groups = {key: part.dropna().to_numpy() for key, part in value.groupby(keys)}
    methods = sorted(set(keys[0]))
    return {(name, metric): groups.get((name, metric), np.empty(0)) for metric in chosen for name in methods}


def _welch(a: np.ndarray, b: np.ndarray, alpha: float) -> dict[str, object]:
    """Compare two samples by Welch's t-test: a row of the table, with NaN and a note if there is no test."""
    from scipy.stats import ttest_ind

    row: dict[str, object] = {"n_a": len(a), "n_b": len(b)}
    mean_a, mean_b = (float(x.mean()) if len(x) else np.nan for x in (a, b))
    row |= {"mean_a": mean_a, "mean_b": mean_b, "difference": mean_a - mean_b}
    no_test = dict.fromkeys(("low", "high", "t", "df", "p"), np.nan)
    if min(len(a), len(b)) < 2:
        return row | no_test | {"note": "fewer than two runs"}
    if np.ptp(a) == 0 and np.ptp(b) == 0:
        return row | no_test | {"note": "scores do not vary"}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Precision loss", RuntimeWarning)  # one of the methods may not vary
        test = ttest_ind(a, b, equal_var=False)
    interval = test.confidence_interval(1 - alpha)
    result = {"low": interval.low, "high": interval.high, "t": test.statistic, "df": test.df, "p": test.pvalue}
    return row | {name: float(value) for name, value in result.items()} | {"note": ""}
