"""Comparison of one label between two systems: effects and p-values of each gene, from profiles of donors.

Shapes: D donors, K other labels, G genes.
"""

from __future__ import annotations

import numpy as np
from scipy.stats import false_discovery_control

from sysvi.differences.moderated import moderate
from sysvi.differences.profiles import MIN_DONORS, Floats, Ints, marker_contrast, specific_contrast, testable

PRIOR_COUNT = 0.5  # added to a profile before its logarithm, in counts of a profile of usual size


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
    first, second = system == 0, system == 1
    prior = PRIOR_COUNT * np.median(unit)
    y, y_decoded = np.log2(measured + prior), np.log2(decoded + prior)
    tested, tested_marker = testable(measured, unit, system)
    specific, of_model = (specific_contrast(values, system, tested) for values in (y, y_decoded))
    marker = marker_contrast(y, tested)
    p, marker_p = np.full((2, len(tested)), np.nan)
    if min(first.sum(), second.sum()) >= MIN_DONORS:
        level = y[:, 0].mean(axis=0)
        if tested.any():
            fit = moderate(specific[first][:, tested], specific[second][:, tested], level[tested])
            p[tested] = fit.two_sided_p((-1, 1))
        if tested_marker.any():
            fit = moderate(marker[first][:, tested_marker], marker[second][:, tested_marker], level[tested_marker])
            marker_p[tested_marker] = np.maximum(fit.one_sided_p((1, 0)), fit.one_sided_p((0, 1)))
    return {
        "effect": specific[second].mean(axis=0) - specific[first].mean(axis=0),
        "model_effect": of_model[second].mean(axis=0) - of_model[first].mean(axis=0),
        "p": p,
        "fdr": _false_discovery_rate(p),
        "marker_1": marker[first].mean(axis=0),
        "marker_2": marker[second].mean(axis=0),
        "marker_p": marker_p,
        "marker_fdr": _false_discovery_rate(marker_p),
    }


def _false_discovery_rate(p: Floats) -> Floats:
    """False discovery rates by Benjamini and Hochberg; NaN where the p-value is NaN."""
    rate, tested = np.full(len(p), np.nan), np.isfinite(p)
    if tested.any():
        rate[tested] = false_discovery_control(p[tested])
    return rate
