"""Random samples of rows and nearest neighbours, the same for the same input."""

from __future__ import annotations

import numpy as np


def sample_rows(rows: np.ndarray, size: int) -> np.ndarray:
    """At most `size` of some row numbers, drawn at random with a fixed seed, in their order.

    Examples
    --------
    >>> sample_rows(np.arange(3), 5)
    array([0, 1, 2])
    >>> len(sample_rows(np.arange(100), 5))
    5
    """
    if len(rows) <= size:
        return rows
    return np.sort(np.random.default_rng(0).choice(rows, size, replace=False))


def sample_groups(groups: np.ndarray, size: int) -> np.ndarray:
    """Rows of at most `size` cells, in their order: of each group the same number, or all if there are fewer.

    Parameters
    ----------
    groups
        Codes that define the group of each cell, (n, number of codes).
    size
        Largest number of rows; if there are more groups than that, a row of each.

    Examples
    --------
    >>> groups = np.repeat([[0, 0], [0, 1]], [100, 3], axis=0)
    >>> np.unique(groups[sample_groups(groups, 20)][:, 1], return_counts=True)[1].tolist()
    [10, 3]
    """
    if len(groups) <= size:
        return np.arange(len(groups))
    group = np.unique(groups, axis=0, return_inverse=True)[1].ravel()
    n_groups = group.max() + 1
    rows = [sample_rows(np.flatnonzero(group == i), max(1, size // n_groups)) for i in range(n_groups)]
    return np.sort(np.concatenate(rows))


def nearest_points(points: np.ndarray, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Distances and positions of the k points nearest to each query, (queries, k) each; of all if there are fewer."""
    from sklearn.neighbors import NearestNeighbors

    search = NearestNeighbors(n_neighbors=min(k, len(points)), algorithm="brute").fit(points)
    return search.kneighbors(queries)
