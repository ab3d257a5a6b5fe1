"""Principal component regression: how much of the variance a batch explains."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from sysvi._core.errors import InputError
from sysvi.metrics._score import Score, check_embedding, encode

ROUNDING = 1e-12  # of a share of the variance


def principal_component_regression(embedding: ArrayLike, groups: ArrayLike) -> float:
    """Share of an embedding's variance that groups of cells explain: 0 to 1.

    Parameters
    ----------
    embedding
        Cells x dimensions.
    groups
        System, or batch, of each cell.

    Returns
    -------
    float
        Exactly 0 for one group; NaN for an embedding that does not vary.

    Raises
    ------
    InputError
        If the embedding is not finite, or a group is missing.

    Notes
    -----
    Convention: scib-metrics 0.5.10 (``principal_component_regression``, ``categorical=True``, all components). R² of
    each component on the one-hot groups, weighted by the component's variance, is the sum of squares between groups
    over the total, which no rotation changes: no components are needed.

    Examples
    --------
    >>> round(principal_component_regression([[0.0], [1.0], [2.0], [3.0]], ["a", "a", "b", "b"]), 3)
    0.8
    """
    points = check_embedding(embedding).astype(np.float64)
    codes, _ = encode(groups, "groups", len(points))
    points -= points[0]  # a constant embedding becomes exactly 0
    points -= points.mean(0)
    total = float((points**2).sum())
    if total == 0:
        return np.nan
    explained = float((pd.DataFrame(points).groupby(codes).transform("mean").to_numpy() ** 2).sum()) / total
    return min(explained, 1.0) if explained > ROUNDING else 0.0


def pcr_comparison(before: ArrayLike, after: ArrayLike, groups: ArrayLike) -> Score:
    """Share of the groups' explained variance that integration removed: 0 to 1, higher is better.

    Parameters
    ----------
    before
        Embedding before integration, such as a PCA: cells x dimensions.
    after
        Embedding after it, of the same cells.
    groups
        System, or batch, of each cell.

    Returns
    -------
    Score
        (R² before - R² after) / R² before, 0 if integration made it worse. NaN if groups explained nothing before, or
        if an embedding does not vary.

    Raises
    ------
    InputError
        If an embedding is not finite, the two have different cells, or a group is missing.

    Notes
    -----
    Convention: scib-metrics 0.5.10 (``pcr_comparison`` with ``categorical=True``); R² is that of
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
    then, now = principal_component_regression(before, groups), principal_component_regression(after, groups)
    return Score(max(0.0, (then - now) / then) if then > 0 and not np.isnan(now) else np.nan)
