"""Silhouettes: whether cells are nearer to their own label, or their own system, than to another."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from sysvi._core.arguments import check_types
from sysvi.metrics._group_distances import group_distances, silhouette_width
from sysvi.metrics._score import Score, check_embedding, convention, encode_categories


@convention("(1 + silhouette of types) / 2, Euclidean distance; mean over cells")
def label_silhouette(embedding: ArrayLike, label: ArrayLike, *, device: str = "cpu") -> Score:
    """Measure how well labels are separated: 0 to 1, higher is better; 0.5 means that labels overlap.

    The silhouette s of a cell compares its mean Euclidean distance to the cells of its own label with that to the cells
    of the nearest other label; the cell scores (s + 1) / 2. Silhouettes favour round, well-separated groups and cannot
    reliably show whether biology is preserved (Rautenstrauch & Ohler 2025): use them together with other metrics.

    Parameters
    ----------
    embedding
        Embedding, (n, dimensions).
    label
        Cell type of each cell, (n,).
    device
        Device of the computation: ``"auto"``, ``"cpu"`` or ``"cuda"``.

    Returns
    -------
    Score
        Mean over cells, with the mean of each label and the value of each cell. All NaN if all cells have the same
        label.

    Raises
    ------
    InputError
        If the embedding is not finite, or a label is missing.

    Notes
    -----
    Same value as scib-metrics 0.5.10 (``silhouette_label``) and, before scaling, as scikit-learn; the mean of
    `per_label` is the macro average of the paper. s is 0 for the only cell of a label, and for cells that coincide with
    their own and another label. The distances of all pairs of cells are the most expensive part of an evaluation;
    therefore `isolated_labels` takes the result of this function.

    References
    ----------
    Rautenstrauch & Ohler, Nature Biotechnology (2025).

    Examples
    --------
    >>> label_silhouette([[0.0], [1.0], [9.0], [10.0]], ["a", "a", "b", "b"]).per_label.round(3).to_dict()
    {'a': 0.944, 'b': 0.944}
    """
    points = check_embedding(embedding)
    codes, names = encode_categories(label, "label", len(points))
    if len(names) == 1:
        return score_by_label(np.full(len(points), np.nan), codes, names)
    scaled = (_nearest_silhouette(points, codes, device) + 1) / 2
    return Score(float(scaled.mean()), score_by_label(scaled, codes, names).per_label, scaled)


@convention(
    "(1 - silhouette of systems) / 2 within each type, as in the paper; for comparison with publications only: it can "
    "favour systems that lie next to each other (Rautenstrauch & Ohler 2025)"
)
def batch_silhouette(
    embedding: ArrayLike, system: ArrayLike, label: ArrayLike, *, signed: bool = True, device: str = "cpu"
) -> Score:
    """Measure how little systems (or batches) are separated within each label: 0 to 1, higher is better.

    Reported for comparison with earlier publications only. A silhouette considers the nearest other system alone and
    assumes round groups, so that a system counts as integrated once it is near one other system. It cannot reliably
    assess the removal of batch effects (Rautenstrauch & Ohler 2025). Prefer `bras` and `cilisi`.

    Parameters
    ----------
    embedding
        Embedding, (n, dimensions).
    system
        System (or batch) of each cell, (n,).
    label
        Cell type of each cell, (n,).
    signed
        Definition of a cell's score. True: (1 - s) / 2, as in the paper; 0.5 means complete mixing, and larger values
        mean that the cell is nearer to another system than to its own. False: 1 - abs(s), as in scib; 1 means complete
        mixing.
    device
        Device of the computation: ``"auto"``, ``"cpu"`` or ``"cuda"``.

    Returns
    -------
    Score
        Mean over labels, with the values of each label and each cell. Labels that occur in one system only, and
        labels with a single cell in each system, are left out; the value is NaN if no label is left.

    Raises
    ------
    InputError
        If the embedding is not finite, or a system or label is missing.

    Notes
    -----
    Euclidean distances among the cells of one label, to the nearest other system; s is 0 for the only cell of a system.
    ``signed=False`` is the value of scib-metrics 0.5.10 (``silhouette_batch``), ``signed=True`` the macro average of
    the paper.

    References
    ----------
    Rautenstrauch & Ohler, Nature Biotechnology (2025).

    Examples
    --------
    >>> apart = [[0.0], [1.0], [9.0], [10.0]]
    >>> round(batch_silhouette(apart, ["human", "human", "mouse", "mouse"], ["beta"] * 4).value, 3)
    0.056
    """
    check_types(batch_silhouette, signed=signed)
    points = check_embedding(embedding)
    system_codes, _ = encode_categories(system, "system", len(points))
    codes, names = encode_categories(label, "label", len(points))
    scaled = np.full(len(points), np.nan)
    for cells, systems in measurable_labels(system_codes, codes):
        s = _nearest_silhouette(points[cells], systems, device)
        scaled[cells] = (1 - s) / 2 if signed else 1 - np.abs(s)
    return score_by_label(scaled, codes, names)


def measurable_labels(system: np.ndarray, label: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Find the labels in which mixing of systems is defined: several systems, and one of them with several cells.

    Returns the cells of each such label (positions) and their systems, numbered from 0.
    """
    by_label = np.split(np.argsort(label, kind="stable"), np.cumsum(np.bincount(label))[:-1])
    recoded = [(cells, np.unique(system[cells], return_inverse=True)[1]) for cells in by_label]
    return [(cells, systems) for cells, systems in recoded if 0 < systems.max() < len(cells) - 1]


def score_by_label(per_cell: np.ndarray, codes: np.ndarray, names: np.ndarray) -> Score:
    """Average values of cells over each label, then over labels; labels without any value (all NaN) are left out."""
    per_label = pd.Series(per_cell).groupby(names[codes]).mean().dropna()
    return Score(float(per_label.mean()), per_label, per_cell)


def _nearest_silhouette(points: np.ndarray, groups: np.ndarray, device: str) -> np.ndarray:
    """Compute the silhouette of each cell, (n,), for at least two groups, none of them empty."""
    sums = group_distances(points, groups, device=device)  # (n, n_groups)
    sizes = np.bincount(groups)
    own_group = (np.arange(len(points)), groups)  # index of each cell and its group
    size = sizes[groups]  # (n,)
    within = sums[own_group] / np.maximum(size - 1, 1)
    means = sums / sizes
    means[own_group] = np.inf
    return silhouette_width(within, means.min(1), size)
