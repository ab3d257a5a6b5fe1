"""Moderated t-tests of differences between two groups of donors, gene by gene.

With few donors, the variance of a single gene is uncertain. All genes together say which variances are usual at a level
of expression; the variance of each gene is drawn towards that value (empirical Bayes), as by limma with a trend.

Shapes: n donors, G genes.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline
from scipy.special import digamma, polygamma
from scipy.stats import t as student_t

MIN_VARIANCE = 1e-5  # of the median variance; smaller ones are raised to it, as in limma
MIN_GENES_OF_TREND = 30  # fewer genes have one usual variance, whatever their expression

Floats = NDArray[np.float64]


class Moderated(NamedTuple):
    """Means of two groups and what a test of any combination of them needs; G genes.

    Parameters
    ----------
    means
        Mean of each group, (2, G).
    variance
        Moderated variance of a donor of weight 1 within its group, (G,).
    df
        Degrees of freedom of the variance, those of the prior included.
    weight
        Sum of the weights of the donors of each group, their number if they have none, (2, G).
    """

    means: Floats
    variance: Floats
    df: float
    weight: Floats

    def t(self, weights: tuple[float, float]) -> Floats:
        """The moderated t-statistic of the weighted sum of both means, (G,)."""
        combined = np.asarray(weights)
        return combined @ self.means / np.sqrt(self.variance * (combined**2 @ (1 / self.weight)))

    def two_sided_p(self, weights: tuple[float, float]) -> Floats:
        """The p-value of the weighted sum of both means being 0, (G,)."""
        return 2 * student_t.sf(np.abs(self.t(weights)), self.df)

    def one_sided_p(self, weights: tuple[float, float]) -> Floats:
        """The p-value of the weighted sum of both means being at most 0, (G,)."""
        return student_t.sf(self.t(weights), self.df)


def moderate(first: Floats, second: Floats, level: Floats, weights: tuple[Floats, Floats] | None = None) -> Moderated:
    """Fit means and moderated variances of two groups of donors.

    Parameters
    ----------
    first, second
        Values of the donors of each group, (n, G); each group has a donor, one of them two.
    level
        Level of expression of each gene, on which its usual variance depends, (G,).
    weights
        Weights of the donors of each group, (n, G): the variance of a value is that of the gene divided by its weight.
        By default all are 1.

    Returns
    -------
    Moderated

    References
    ----------
    Smyth, Linear models and empirical Bayes methods for assessing differential expression, Statistical Applications in
    Genetics and Molecular Biology (2004). Law et al., voom, Genome Biology (2014): the trend.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> first, second = rng.normal(size=(3, 500)), rng.normal(size=(4, 500))
    >>> fit = moderate(first, second, level=rng.normal(size=500))
    >>> fit.two_sided_p((-1, 1)).shape, bool(fit.df > 5)
    ((500,), True)
    """
    groups = (first, second)
    weights = (np.ones_like(first), np.ones_like(second)) if weights is None else weights
    weight = np.stack([w.sum(axis=0) for w in weights])
    means = np.stack([(w * group).sum(axis=0) for w, group in zip(weights, groups, strict=True)]) / weight
    df = len(first) + len(second) - 2
    squares = sum((w * (group - mean) ** 2).sum(axis=0) for w, group, mean in zip(weights, groups, means, strict=True))
    variance = squares / df
    usual, df_prior = usual_variance(variance, df, level)
    # the prior cannot weigh more than all genes together
    df_total = min(df + df_prior, df * variance.size)
    moderated = usual if np.isinf(df_prior) else (df_prior * usual + df * variance) / (df_prior + df)
    return Moderated(means, moderated, df_total, weight)


def usual_variance(variance: Floats, df: float, level: Floats) -> tuple[Floats, float]:
    """The variance that is usual at the level of each gene, and how firmly: the prior's degrees of freedom.

    The variances are taken as s0²(level) times F-distributed with `df` and d0 degrees of freedom. log s0² is a natural
    cubic spline of the level, with knots at its range and thirds, and d0 follows from the spread of log variances
    around it.

    Parameters
    ----------
    variance
        Variance of each gene, (G,).
    df
        Its degrees of freedom.
    level
        Level of expression of each gene, (G,).

    Returns
    -------
    usual : numpy.ndarray
        s0², (G,).
    df_prior : float
        d0; infinite if the variances differ no more than by chance, 0 for a single gene.

    Examples
    --------
    >>> usual, df_prior = usual_variance(np.full(100, 2.0), df=4, level=np.arange(100.0))
    >>> df_prior
    inf
    """
    if len(variance) == 1:  # nothing is usual
        return variance, 0.0
    median = np.median(variance)
    floor = MIN_VARIANCE * (median if median > 0 else 1)
    log_variance = np.log(np.maximum(variance, floor)) - digamma(df / 2) + np.log(df / 2)
    knots = np.unique(np.quantile(level, [0, 1 / 3, 2 / 3, 1]))
    if len(level) < MIN_GENES_OF_TREND or len(knots) < 4:
        basis = np.ones((len(level), 1))
    else:
        basis = CubicSpline(knots, np.eye(4), bc_type="natural")(level)
    fitted = basis @ np.linalg.lstsq(basis, log_variance, rcond=None)[0]
    n_free = len(level) - basis.shape[1]
    excess = ((log_variance - fitted) ** 2).sum() / n_free - polygamma(1, df / 2)
    if excess <= 0:
        return np.exp(fitted), np.inf
    df_prior = 2 * inverse_trigamma(excess)
    return np.exp(fitted + digamma(df_prior / 2) - np.log(df_prior / 2)), df_prior


def inverse_trigamma(y: float) -> float:
    """The x > 0 whose trigamma function is y > 0, by Newton's method on 1 / trigamma, which is nearly linear.

    Examples
    --------
    >>> round(inverse_trigamma(float(polygamma(1, 3.5))), 10)
    3.5
    """
    x = 0.5 + 1 / y  # below the solution, from where the steps rise to it
    for _ in range(50):
        value = polygamma(1, x)
        step = float(value * (1 - value / y) / polygamma(2, x))
        x += step
        if abs(step) < 1e-10 * x:
            break
    return x
