"""Differences of expression between two groups of cells, from samples of both, and the genes that are called.

Shapes: n samples, G genes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
EPSILON = 1e-8  # keeps the logarithms of Bayes factors finite


def describe_change(
    first: np.ndarray,
    second: np.ndarray,
    *,
    delta: float,
    test_mode: Literal["two", "three"],
    pseudocounts: float,
    levels: Sequence[float] = (),
) -> dict[str, Floats]:
    """Log2 fold changes of the first group over the second, and the probability that they exceed a threshold.

    Parameters
    ----------
    first, second
        Samples of log-normalised expression of both groups (natural logarithm of 1 + value), (n, G); each row of one
        is compared with the same row of the other. Values below 0 count as 0.
    delta
        Threshold of the log2 fold change.
    test_mode
        ``"three"``: the larger of the probabilities of a rise and of a fall; ``"two"``: their sum.
    pseudocounts
        Added to normalised expression, not its logarithm, before the ratio is taken.
    levels
        Probabilities of credible intervals.

    Returns
    -------
    dict of str to numpy.ndarray
        Each (G,), by the names of scvi-tools' columns.

    Examples
    --------
    >>> found = describe_change(
    ...     np.log1p([[7.0, 1.0]] * 4), np.log1p([[1.0, 1.0]] * 4), delta=0.25, test_mode="three", pseudocounts=1
    ... )
    >>> found["lfc_mean"].round(6).tolist(), found["proba_de"].tolist()
    ([2.0, 0.0], [1.0, 0.0])
    """
    change = _log2(first, pseudocounts) - _log2(second, pseudocounts)
    rises, falls = (change >= delta).mean(axis=0), (change < -delta).mean(axis=0)
    proba = rises + falls if test_mode == "two" else np.maximum(rises, falls)
    found = {
        "proba_de": proba,
        "proba_not_de": 1 - proba,
        "bayes_factor": np.log(proba + EPSILON) - np.log(1 - proba + EPSILON),
        "scale1": first.mean(axis=0, dtype=np.float64),
        "scale2": second.mean(axis=0, dtype=np.float64),
        "pseudocounts": np.full(change.shape[1], pseudocounts),
        "delta": np.full(change.shape[1], delta),
        "lfc_mean": change.mean(axis=0, dtype=np.float64),
        "lfc_median": np.median(change, axis=0),
        "lfc_std": change.std(axis=0, dtype=np.float64),
        "lfc_min": change.min(axis=0),
        "lfc_max": change.max(axis=0),
    }
    if levels:
        change.sort(axis=0)
    for level in levels:
        low, high = _shortest_interval(change, level)
        found |= {f"lfc_confidence_interval_{level:g}_min": low, f"lfc_confidence_interval_{level:g}_max": high}
    return {name: np.asarray(values, np.float64) for name, values in found.items()}


def describe_order(first: np.ndarray, second: np.ndarray) -> dict[str, Floats]:
    """Probability that the first group expresses a gene more than the second; samples as in `describe_change`.

    Examples
    --------
    >>> describe_order(np.array([[1.0], [3.0]]), np.array([[2.0], [2.0]]))["proba_m1"].tolist()
    [0.5]
    """
    proba = (first > second).mean(axis=0)
    return {
        "proba_m1": proba,
        "proba_m2": 1 - proba,
        "bayes_factor": np.log(proba + EPSILON) - np.log(1 - proba + EPSILON),
        "scale1": first.mean(axis=0, dtype=np.float64),
        "scale2": second.mean(axis=0, dtype=np.float64),
    }


def call_genes(proba: Floats, fdr_target: float) -> NDArray[np.bool_]:
    """The most probable genes, as many as have an expected false discovery rate of at most `fdr_target`.

    The expected rate of a set of genes is the mean of their probabilities of not being changed (Newton et al., 2004).

    Examples
    --------
    >>> call_genes(np.array([0.5, 1.0, 0.92]), 0.05).tolist()
    [False, True, True]
    """
    order = np.argsort(-proba, kind="stable")
    expected = np.cumsum(1 - proba[order]) / np.arange(1, len(proba) + 1)
    called = np.zeros(len(proba), bool)
    called[order[: np.count_nonzero(expected <= fdr_target)]] = True
    return called


def _log2(y: np.ndarray, pseudocounts: float) -> np.ndarray:
    """Log2 of normalised expression and a pseudocount, from log-normalised expression."""
    value = np.expm1(np.maximum(y, 0))
    value += pseudocounts
    return np.log2(value, out=value)


def _shortest_interval(ordered: np.ndarray, level: float) -> tuple[np.ndarray, np.ndarray]:
    """The shortest interval with a share `level` of the samples of each gene, which are in increasing order."""
    n_inside = int(level * len(ordered))
    width = ordered[n_inside:] - ordered[: len(ordered) - n_inside]
    start, genes = width.argmin(axis=0), np.arange(ordered.shape[1])
    return ordered[start, genes], ordered[start + n_inside, genes]
