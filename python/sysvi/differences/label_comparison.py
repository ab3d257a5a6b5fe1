"""Comparison of one label between two systems: effects and p-values of each gene, from profiles of donors.

Shapes: D donors, K other labels, G genes.
"""

from __future__ import annotations

import numpy as np
from scipy.stats import false_discovery_control

from sysvi.differences.moderated import Moderated, moderate
from sysvi.differences.precision import contrast_weights, precision_weights
from sysvi.differences.profiles import MIN_DONORS, Floats, Ints, Mask, marker_contrast, specific_contrast, testable

# Added to a profile before its logarithm: half a count of its own, with which the mean of logarithms hardly depends on
# the number of cells; for genes that are not tested, of a profile of usual size, so that no counts give no effect.
PRIOR_COUNT = 0.5


def compare_label(measured: Floats, decoded: Floats, unit: Floats, system: Ints) -> dict[str, Floats]:
    """Compare a label between two systems; the columns of `sysvi.compare_systems` from ``effect`` on.

    Parameters
    ----------
    measured, decoded
        Mean expression, not logarithms, of a label, which comes first, and K others, (D, 1 + K, G).
    unit
        What one count adds to it, (D, 1 + K).
    system
        System of each donor, 0 or 1, (D,).

    Returns
    -------
    dict of str to numpy.ndarray
        Effects, p-values and false discovery rates of each gene, (G,), by the name of their column. P-values are NaN
        with fewer than two donors of a system, and for genes with too few counts.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> mean = rng.gamma(50, 1, (4, 3, 40))
    >>> found = compare_label(mean, mean, unit=np.full((4, 3), 0.1), system=np.array([0, 0, 1, 1]))
    >>> found["effect"].shape, bool((found["fdr"] >= found["p"]).all())
    ((40,), True)
    """
    can_test = np.bincount(system, minlength=2).min() >= MIN_DONORS
    tested, tested_marker = testable(measured, unit, system)
    usual_unit = np.median(unit)
    y = np.log2(measured + PRIOR_COUNT * np.where(tested, unit[:, :, None], usual_unit))
    y_decoded = np.log2(decoded + PRIOR_COUNT * usual_unit)
    weights = np.ones_like(y[:, 0])
    if can_test and tested.any():
        weights = contrast_weights(precision_weights(y, unit, system, tested))
    specific, of_model = (specific_contrast(values, system, tested) for values in (y, y_decoded))
    marker = marker_contrast(y, tested)
    level = y[:, 0].mean(axis=0)
    p, marker_p = np.full((2, len(tested)), np.nan)
    if can_test and tested.any():
        p[tested] = _moderate(specific, weights, level, system, tested).two_sided_p((-1, 1))
    if can_test and tested_marker.any():
        fit = _moderate(marker, weights, level, system, tested_marker)
        marker_p[tested_marker] = np.maximum(fit.one_sided_p((1, 0)), fit.one_sided_p((0, 1)))
    first, second = _means(specific, weights, system)
    model_first, model_second = _means(of_model, np.ones_like(weights), system)
    marker_first, marker_second = _means(marker, weights, system)
    return {
        "effect": second - first,
        "model_effect": model_second - model_first,
        "p": p,
        "fdr": _false_discovery_rate(p),
        "marker_1": marker_first,
        "marker_2": marker_second,
        "marker_p": marker_p,
        "marker_fdr": _false_discovery_rate(marker_p),
    }


def _means(contrast: Floats, weights: Floats, system: Ints) -> Floats:
    """Weighted mean of a contrast over the donors of each system, (2, G)."""
    return np.stack([np.average(contrast[system == k], axis=0, weights=weights[system == k]) for k in (0, 1)])


def _moderate(contrast: Floats, weights: Floats, level: Floats, system: Ints, genes: Mask) -> Moderated:
    """Means and moderated variances of some genes in both systems."""
    first, second, *of_groups = (x[system == k][:, genes] for x in (contrast, weights) for k in (0, 1))
    return moderate(first, second, level[genes], (of_groups[0], of_groups[1]))


def _false_discovery_rate(p: Floats) -> Floats:
    """False discovery rates by Benjamini and Hochberg; NaN where the p-value is NaN."""
    rate, tested = np.full(len(p), np.nan), np.isfinite(p)
    if tested.any():
        rate[tested] = false_discovery_control(p[tested])
    return rate
