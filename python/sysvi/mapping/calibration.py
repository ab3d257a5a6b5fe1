"""Calibration: making confidences agree with how often labels are right, and measuring how far they do.

Shapes: n cells, C labels.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Floats = NDArray[np.float64]

N_BINS = 10  # of equal width, as in Guo et al. (2017)
TEMPERATURES = (0.1, 10.0)


def apply_temperature(probability: np.ndarray, temperature: float) -> Floats:
    """Raise probabilities, (n, C), to the power 1 / temperature and make them sum to 1 again.

    Examples
    --------
    >>> apply_temperature(np.array([[0.8, 0.2]]), 2.0).round(3)
    array([[0.667, 0.333]])
    """
    return np.exp(_log_probability(np.log(probability), 1 / temperature))


def fit_temperature(probability: np.ndarray, code: np.ndarray) -> float:
    """Find the temperature with which the right labels are most likely (temperature scaling, Guo et al., 2017).

    Parameters
    ----------
    probability
        Probability of each label, all above 0, (n, C).
    code
        Column of the right label of each cell, (n,).

    Returns
    -------
    float
        Between 0.1 and 10; 1 if there is nothing to learn from: no cells, or a single label.

    References
    ----------
    Guo et al., On calibration of modern neural networks, ICML (2017).

    Examples
    --------
    >>> right_in_three_of_four = np.array([0, 0, 0, 1])
    >>> temperature = fit_temperature(np.full((4, 2), [0.9, 0.1]), right_in_three_of_four)
    >>> apply_temperature(np.array([[0.9, 0.1]]), temperature).round(3)
    array([[0.75, 0.25]])
    """
    from scipy.optimize import minimize_scalar

    if not len(code) or probability.shape[1] < 2:
        return 1.0
    log_probability = np.log(probability)
    rows = np.arange(len(code))

    def loss(power: float) -> float:  # convex
        return -float(_log_probability(log_probability, power)[rows, code].mean())

    bounds = 1 / TEMPERATURES[1], 1 / TEMPERATURES[0]
    return float(1 / minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-6}).x)


def _log_probability(log_probability: np.ndarray, power: float) -> Floats:
    """Logarithms of probabilities, (n, C), that are raised to a power and sum to 1 again."""
    from scipy.special import log_softmax

    return np.asarray(log_softmax(power * log_probability, axis=1), np.float64)


def reliability(confidence: np.ndarray, correct: np.ndarray) -> pd.DataFrame:
    """How often labels are right, by their confidence.

    Parameters
    ----------
    confidence
        Confidence of each label, from 0 to 1, (n,).
    correct
        Whether the label is right, (n,).

    Returns
    -------
    pandas.DataFrame
        A row for each bin of confidence that has cells, indexed by ``bin`` (its lower bound): ``n_cells``, and the
        means ``confidence`` and ``accuracy``.

    Examples
    --------
    >>> reliability(np.array([0.62, 0.68, 0.95]), np.array([True, False, True])).reset_index()
       bin  n_cells  confidence  accuracy
    0  0.6        2        0.65       0.5
    1  0.9        1        0.95       1.0
    """
    lower_bound = np.minimum(np.floor(np.asarray(confidence) * N_BINS), N_BINS - 1) / N_BINS
    cells = pd.DataFrame({"confidence": confidence, "accuracy": np.asarray(correct, float), "bin": lower_bound})
    groups = cells.groupby("bin")
    return pd.concat([groups.size().rename("n_cells"), groups.mean()], axis=1)


def calibration_error(table: pd.DataFrame) -> float:
    """Compute the expected calibration error from a table of `reliability`; NaN without cells.

    It is the mean over cells of the distance between confidence and accuracy of their bin.

    Examples
    --------
    >>> calibration_error(reliability(np.array([0.75, 0.75]), np.array([True, False])))
    0.25
    """
    if table.empty:
        return float("nan")
    return float(np.average((table["confidence"] - table["accuracy"]).abs(), weights=table["n_cells"]))
