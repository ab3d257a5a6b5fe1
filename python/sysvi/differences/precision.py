"""How precise the log expression of each gene in each profile is.

Profiles of few cells have few counts, and logarithms of few counts are noisy. Their weights are the inverse of the
noise that is usual for so many counts, as in limma-voom.

Shapes: D donors, T labels, G genes.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

N_ROUNDS = 5  # of fitting the noise, each with weights from the round before

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]


def precision_weights(y: Floats, unit: Floats, system: Ints, usual: Mask) -> Floats:
    """The inverse of the variance that is expected of each gene in each profile, for its number of counts.

    The variance is taken as a + b / count: that between donors, and that of counts. Both numbers are fitted to the
    squared residuals of all genes from :func:`fit_donors_and_labels`. The count is the fitted one, so that a profile
    that has few by chance weighs no less. With few donors or labels, residuals of noisy profiles spread to the others,
    and weights are more equal than they should be.

    Parameters
    ----------
    y
        Log2 expression, (D, T, G).
    unit
        What one count adds to the expression, (D, T).
    system
        System of each donor, 0 or 1, (D,); two donors of each at least.
    usual
        Genes with enough counts, to which the noise is fitted, (G,); one at least.

    Returns
    -------
    numpy.ndarray
        (D, T, G), above 0; all 1 if nothing varies.

    References
    ----------
    Law et al., voom: precision weights unlock linear model analysis tools for RNA-seq read counts, Genome Biology
    (2014).

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> cells = np.array([10, 100, 100, 100, 100])[:, None]
    >>> counts = rng.poisson(np.full((6, 5, 500), 2.0) * cells)
    >>> y, unit = np.log2((counts + 0.5) / cells), np.tile(1 / cells[:, 0], (6, 1))
    >>> weights = precision_weights(y, unit, np.array([0, 0, 0, 1, 1, 1]), np.full(500, True))
    >>> bool(weights[0, 1].mean() > 3 * weights[0, 0].mean())
    True
    """
    fitted = fit_donors_and_labels(y, system)
    residual = (y - fitted)[:, :, usual]
    residual -= np.median(residual, axis=2, keepdims=True)
    share_left = (1 - 1 / np.bincount(system)[system]) * (1 - 1 / y.shape[1])  # of the variance, (D,)
    squares = (residual**2 / share_left[:, None, None]).ravel()
    per_count = unit[:, :, None] / np.exp2(fitted)
    noise = np.stack([np.ones_like(squares), per_count[:, :, usual].ravel()], axis=1)
    variance, shares = np.ones_like(squares), np.zeros(2)
    for _ in range(N_ROUNDS):
        shares = nnls(noise / variance[:, None], squares / variance)[0]
        if not shares.any():
            return np.ones_like(y)
        variance = noise @ shares
    return 1 / (shares[0] + shares[1] * per_count)


def fit_donors_and_labels(y: Floats, system: Ints) -> Floats:
    """Least-squares fit of a level of each donor, and of each label in each system.

    Parameters
    ----------
    y
        (D, T, G), complete.
    system
        System of each donor, 0 or 1, (D,).

    Returns
    -------
    numpy.ndarray
        (D, T, G).

    Examples
    --------
    >>> y = np.array([[1.0, 2.0], [3.0, 4.0], [7.0, 0.0]])[:, :, None]  # the first two donors differ by 2
    >>> fit_donors_and_labels(y, np.array([0, 0, 1]))[:, :, 0].tolist()
    [[1.0, 2.0], [3.0, 4.0], [7.0, 0.0]]
    """
    fitted = np.empty_like(y)
    for code in (0, 1):
        own = y[system == code]
        if len(own):
            of_label = own.mean(axis=0)
            fitted[system == code] = own.mean(axis=1, keepdims=True) + of_label - of_label.mean(axis=0)
    return fitted


def contrast_weights(weights: Floats) -> Floats:
    """Weight of the difference between a label and what is usual in the others, for each donor.

    Parameters
    ----------
    weights
        Weights of a label, which comes first, and K others, (D, 1 + K, G).

    Returns
    -------
    numpy.ndarray
        (D, G). The middle of the others is taken for as precise as their mean.

    Examples
    --------
    >>> contrast_weights(np.array([[[1.0], [2.0], [2.0]]])).item()
    0.8
    """
    variance = 1 / weights
    return 1 / (variance[:, 0] + variance[:, 1:].mean(axis=1) / (weights.shape[1] - 1))
