"""Principal component regression (PCR): share of the variance that systems or batches explain."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from sysvi._core.errors import InputError
from sysvi.metrics._score import Score, check_embedding, convention, encode_categories

ZERO_SHARE = 1e-12  # shares of the variance below this are rounding errors and count as 0


def principal_component_regression(embedding: ArrayLike, groups: ArrayLike) -> float:
    """Compute the share of an embedding's variance that groups of cells explain: 0 to 1.

    Parameters
    ----------
    embedding
        Embedding, (n, dimensions).
    groups
        System (or batch) of each cell, (n,).

    Returns
    -------
    float
        Share of the variance (R²); exactly 0 for one group, NaN for an embedding that does not vary.

    Raises
    ------
    InputError
        If the embedding is not finite, or a group is missing.

    Notes
    -----
    Same value as scib-metrics 0.5.10 (``principal_component_regression``, ``categorical=True``, all components). The R²
    of regressing each component on the one-hot groups, weighted by the component's variance, equals the sum of squares
    between groups divided by the total sum of squares. Rotations do not change this, so no components are computed.

    Examples
    --------
    >>> round(principal_component_regression([[0.0], [1.0], [2.0], [3.0]], ["a", "a", "b", "b"]), 3)
    0.8
    """
    points = check_embedding(embedding).astype(np.float64)
    codes, _ = encode_categories(groups, "groups", len(points))
    points -= points[0]  # a constant embedding becomes exactly 0
    points -= points.mean(0)
    total = float((points**2).sum())
    if total == 0:
        return np.nan
    explained = float((pd.DataFrame(points).groupby(codes).transform("mean").to_numpy() ** 2).sum()) / total
    return min(explained, 1.0) if explained > ZERO_SHARE else 0.0


@convention("(R2 of systems in the PCs before integration - R2 in the embedding) / R2 before, at least 0")
def pcr_comparison(before: ArrayLike, after: ArrayLike, groups: ArrayLike) -> Score:
    """Measure the share of the variance explained by groups that integration removed: 0 to 1, higher is better.

    Parameters
    ----------
    before
        Embedding before integration, such as a PCA, (n, dimensions).
    after
        Embedding of the same cells after integration, (n, dimensions).
    groups
        System (or batch) of each cell, (n,).

    Returns
    -------
    Score
        (R² before - R² after) / R² before; 0 if R² increased. NaN if groups explained nothing before integration, or if
        an embedding does not vary.

    Raises
    ------
    InputError
        If an embedding is not finite, the two have different cells, or a group is missing.

    Notes
    -----
    Same value as scib-metrics 0.5.10 (``pcr_comparison`` with ``categorical=True``); R² is computed by
    `principal_component_regression`.

    Examples
    --------
    >>> before, after = [[0.0], [1.0], [2.0], [3.0]], [[0.0], [2.0], [1.0], [3.0]]
    >>> round(pcr_comparison(before, after, ["a", "a", "b", "b"]).value, 3)
    0.75
    """
    before, after = check_embedding(before), check_embedding(after)
    if len(before) != len(after):
        raise InputError(
            f"The embedding before has {len(before)} cells and the one after {len(after)}: give the same cells."
        )
    r2_before, r2_after = (principal_component_regression(embedding, groups) for embedding in (before, after))
    if not r2_before > 0 or np.isnan(r2_after):
        return Score(np.nan)
    return Score(max(0.0, (r2_before - r2_after) / r2_before))
