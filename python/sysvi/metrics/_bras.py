"""BRAS, the batch removal adapted silhouette: mixing of systems within cell types."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from sysvi._core.arguments import check_types
from sysvi.metrics._group_distances import silhouette_width
from sysvi.metrics._score import Score, check_embedding, convention, encode_categories
from sysvi.metrics._silhouette import measurable_labels, score_by_label

ZERO_DISTANCE = 1e-12  # mean cosine distances below this are rounding errors and count as 0


@convention(
    "1 - |silhouette of systems| within each type, cosine distance, compared with all other systems; mean over types"
)
def bras(
    embedding: ArrayLike,
    system: ArrayLike,
    label: ArrayLike,
    *,
    between: Literal["mean_other", "furthest"] = "mean_other",
) -> Score:
    """Measure how well systems (or batches) are mixed within each label: 0 to 1, higher is better.

    Among the cells of one label, the silhouette s of a cell compares its mean cosine distance to the cells of its own
    system with its mean distance to the cells of the other systems. The cell scores 1 - abs(s).

    Parameters
    ----------
    embedding
        Embedding, (n, dimensions).
    system
        System (or batch) of each cell, (n,).
    label
        Cell type of each cell, (n,).
    between
        Distance to other systems: ``"mean_other"`` is the mean over all cells of other systems, ``"furthest"`` the
        mean over the cells of the most distant other system.

    Returns
    -------
    Score
        Mean over labels, with the values of each label and each cell. Labels that occur in one system only, and
        labels with a single cell in each system, are left out; the value is NaN if no label is left.

    Raises
    ------
    InputError
        If the embedding is not finite, a system or label is missing, or `between` has another value.

    Notes
    -----
    Same values as scib-metrics 0.5.10 (``bras``). Cosine distance is linear in the unit vectors of the cells, so mean
    distances to a group follow exactly from the group's mean unit vector, without computing all pairs. Cosine distance
    depends on the origin; the embedding is not centred. A cell at the origin has distance 1 to every cell (in
    scib-metrics it turns all cells of its label into NaN). s is 0 for the only cell of a system, and where all cells
    of a label have the same direction.

    References
    ----------
    Rautenstrauch & Ohler, Nature Biotechnology (2025).

    Examples
    --------
    >>> embedding, system = [[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.1, 1.0]], ["human", "human", "mouse", "mouse"]
    >>> round(bras(embedding, system, ["beta"] * 4).value, 3)
    0.006
    >>> bras(embedding, ["human", "mouse", "human", "mouse"], ["alpha", "alpha", "beta", "beta"]).value
    nan
    """
    check_types(bras, between=between)
    points = check_embedding(embedding).astype(np.float64)
    system_codes, _ = encode_categories(system, "system", len(points))
    codes, names = encode_categories(label, "label", len(points))
    length = np.linalg.norm(points, axis=1, keepdims=True)
    direction = np.divide(points, length, out=points, where=length > 0)  # (n, d); 0 for cells at the origin
    per_cell = np.full(len(points), np.nan)
    for cells, systems in measurable_labels(system_codes, codes):
        per_cell[cells] = 1 - np.abs(_cosine_silhouette(direction[cells], systems, between))
    return score_by_label(per_cell, codes, names)


def _cosine_silhouette(direction: np.ndarray, groups: np.ndarray, between: str) -> np.ndarray:
    """Silhouette of each cell, (n,), from unit vectors (n, d) and groups numbered from 0, none of them empty."""
    n, sizes = len(direction), np.bincount(groups)
    own_group = (np.arange(n), groups)  # index of each cell and its group
    group_sums = pd.DataFrame(direction).groupby(groups).sum().to_numpy()  # (n_groups, d)
    pairs = np.tile(sizes, (n, 1))  # (n, n_groups), number of cells compared with; the cell itself is left out below
    pairs[own_group] -= 1
    similarity = direction @ group_sums.T  # (n, n_groups), summed over the cells of a group
    similarity[own_group] -= (direction**2).sum(1)
    sums = pairs - similarity  # (n, n_groups), sums of cosine distances
    sums[sums < ZERO_DISTANCE * pairs] = 0
    within = sums[own_group] / np.maximum(pairs[own_group], 1)
    sums[own_group] = 0
    size = sizes[groups]  # (n,)
    other = sums.sum(1) / (n - size) if between == "mean_other" else (sums / sizes).max(1)
    return silhouette_width(within, other, size)
