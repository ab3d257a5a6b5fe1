"""BRAS: the silhouette adapted to batch removal."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from sysvi._core.errors import InputError
from sysvi.metrics._group_distances import silhouette_width
from sysvi.metrics._score import Score, check_embedding, encode
from sysvi.metrics._silhouette import measurable_labels, score_by_label

ROUNDING = 1e-12  # of a mean cosine distance; below it directions are the same


def bras(
    embedding: ArrayLike,
    system: ArrayLike,
    label: ArrayLike,
    *,
    between: Literal["mean_other", "furthest"] = "mean_other",
) -> Score:
    """How well systems (or batches) are mixed within each label: 0 to 1, higher is better.

    Batch removal adapted silhouette (Rautenstrauch & Ohler, Nat Biotechnol 2025). Among the cells of a label, the
    silhouette s of a cell compares its mean cosine distance to its own system with that to the other systems; the
    cell scores 1 - abs(s).

    Parameters
    ----------
    embedding
        Cells x dimensions.
    system
        System, or batch, of each cell.
    label
        Cell type of each cell.
    between
        ``"mean_other"``: mean distance to all cells of other systems. ``"furthest"``: mean distance to the furthest
        other system.

    Returns
    -------
    Score
        The mean over labels, each label, and each cell. Labels in one system only, and labels whose every cell is a
        system of its own, are left out; the value is NaN if none is left.

    Raises
    ------
    InputError
        If the embedding is not finite, a system or label is missing, or `between` is not known.

    Notes
    -----
    Convention: scib-metrics 0.5.10 (``bras``). Cosine distance is linear in the cells' directions, so means over
    groups follow exactly from groups' mean directions, without any pairs. It depends on where the origin is: no
    centring is done. A cell at the origin has no direction; its distance to every cell is 1 (scib-metrics loses
    all cells of its label to not-a-number). The only cell of a system has s = 0, and so have cells whose
    label points in one direction only.

    Examples
    --------
    >>> embedding, system = [[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.1, 1.0]], ["human", "human", "mouse", "mouse"]
    >>> round(bras(embedding, system, ["beta"] * 4).value, 3)
    0.006
    >>> bras(embedding, ["human", "mouse", "human", "mouse"], ["alpha", "alpha", "beta", "beta"]).value
    nan
    """
    if between not in ("mean_other", "furthest"):
        raise InputError(f"between={between!r} is not known; use 'mean_other' or 'furthest'.")
    points = check_embedding(embedding).astype(np.float64)
    system_codes, _ = encode(system, "system", len(points))
    codes, names = encode(label, "label", len(points))
    length = np.linalg.norm(points, axis=1, keepdims=True)
    direction = np.divide(points, length, out=points, where=length > 0)  # (n, d), 0 at the origin
    per_cell = np.full(len(points), np.nan)
    for cells, systems in measurable_labels(system_codes, codes):
        per_cell[cells] = 1 - np.abs(_cosine_silhouette(direction[cells], systems, between))
    return score_by_label(per_cell, codes, names)


def _cosine_silhouette(direction: np.ndarray, groups: np.ndarray, between: str) -> np.ndarray:
    """Silhouette of each cell, (n,), from unit vectors; `groups` are numbered from 0, none is empty."""
    n, sizes = len(direction), np.bincount(groups)
    own = (np.arange(n), groups)
    totals = pd.DataFrame(direction).groupby(groups).sum().to_numpy()  # (n_groups, d)
    pairs = np.tile(sizes, (n, 1))  # (n, n_groups) cells that a cell is compared with: not itself
    pairs[own] -= 1
    similarity = direction @ totals.T  # (n, n_groups) sums over groups
    similarity[own] -= (direction**2).sum(1)
    sums = pairs - similarity
    sums[sums < ROUNDING * pairs] = 0
    within = sums[own] / np.maximum(pairs[own], 1)
    sums[own] = 0
    size = sizes[groups]  # (n,)
    other = sums.sum(1) / (n - size) if between == "mean_other" else (sums / sizes).max(1)
    return silhouette_width(within, other, size)
