"""Silhouettes: are cells nearer to their own label, or their own system, than to another."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from sysvi.metrics._group_distances import group_distances, silhouette_width
from sysvi.metrics._score import Score, check_embedding, encode


def label_silhouette(embedding: ArrayLike, label: ArrayLike, *, device: str = "cpu") -> Score:
    """How well labels are separated: 0 to 1, higher is better; 0.5 is overlap.

    The silhouette s of a cell compares its mean Euclidean distance to its own label with that to the nearest other
    label; here (s + 1) / 2. A silhouette favours round, well-parted groups and cannot reliably tell whether biology
    was kept (Rautenstrauch & Ohler, Nat Biotechnol 2025): read it beside others.

    Parameters
    ----------
    embedding
        Cells x dimensions.
    label
        Cell type of each cell.
    device
        Where distances are computed: ``"auto"``, ``"cpu"`` or ``"cuda"``.

    Returns
    -------
    Score
        The mean over cells, the mean over the cells of each label, and each cell. NaN throughout if all cells have
        one label.

    Raises
    ------
    InputError
        If the embedding is not finite, or a label is missing.

    Notes
    -----
    Convention: scikit-learn's silhouette, scaled as by scib-metrics 0.5.10 (``silhouette_label``), whose value this is;
    the mean of `per_label` is the paper's macro average. A label of one cell has s = 0, as have cells that coincide
    with their own and another label. This is the one pass over all pairs of cells in an evaluation:
    `isolated_labels` takes its Score.

    Examples
    --------
    >>> label_silhouette([[0.0], [1.0], [9.0], [10.0]], ["a", "a", "b", "b"]).per_label.round(3).to_dict()
    {'a': 0.944, 'b': 0.944}
    """
    points = check_embedding(embedding)
    codes, names = encode(label, "label", len(points))
    if len(names) == 1:
        return score_by_label(np.full(len(points), np.nan), codes, names)
    scaled = (_nearest_silhouette(points, codes, device) + 1) / 2
    return Score(float(scaled.mean()), score_by_label(scaled, codes, names).per_label, scaled)


def batch_silhouette(
    embedding: ArrayLike, system: ArrayLike, label: ArrayLike, *, signed: bool = True, device: str = "cpu"
) -> Score:
    """How little systems (or batches) are separated within each label: 0 to 1, higher is better.

    Reported as history. A silhouette looks at the nearest other system only and expects round groups, so that it
    calls a system integrated as soon as it is near one other: it "cannot reliably assess" the removal of batch
    effects (Rautenstrauch & Ohler, Nat Biotechnol 2025). Prefer `bras` and LISI within types.

    Parameters
    ----------
    embedding
        Cells x dimensions.
    system
        System, or batch, of each cell.
    label
        Cell type of each cell.
    signed
        True: (1 - s) / 2, the paper's, where 0.5 is a perfect mix and more means nearer to another system than to the
        own one. False: 1 - abs(s), scib's, where 1 is a perfect mix.
    device
        Where distances are computed: ``"auto"``, ``"cpu"`` or ``"cuda"``.

    Returns
    -------
    Score
        The mean over labels, each label, and each cell. Labels in one system only, and labels whose every cell is a
        system of its own, are left out; the value is NaN if none is left.

    Raises
    ------
    InputError
        If the embedding is not finite, or a system or label is missing.

    Notes
    -----
    Convention: Euclidean distances among the cells of one label, nearest other system; the only cell of a system has
    s = 0. ``signed=False`` is the value of scib-metrics 0.5.10 (``silhouette_batch``); ``signed=True`` is the paper's
    macro average.

    Examples
    --------
    >>> apart = [[0.0], [1.0], [9.0], [10.0]]
    >>> round(batch_silhouette(apart, ["human", "human", "mouse", "mouse"], ["beta"] * 4).value, 3)
    0.056
    """
    points = check_embedding(embedding)
    system_codes, _ = encode(system, "system", len(points))
    codes, names = encode(label, "label", len(points))
    scaled = np.full(len(points), np.nan)
    for cells, systems in measurable_labels(system_codes, codes):
        s = _nearest_silhouette(points[cells], systems, device)
        scaled[cells] = (1 - s) / 2 if signed else 1 - np.abs(s)
    return score_by_label(scaled, codes, names)


def measurable_labels(system: np.ndarray, label: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Labels with several systems, not all of one cell: for each its cells and their systems, numbered from 0."""
    by_label = np.split(np.argsort(label, kind="stable"), np.cumsum(np.bincount(label))[:-1])
    recoded = [(cells, np.unique(system[cells], return_inverse=True)[1]) for cells in by_label]
    return [(cells, systems) for cells, systems in recoded if 0 < systems.max() < len(cells) - 1]


def score_by_label(per_cell: np.ndarray, codes: np.ndarray, names: np.ndarray) -> Score:
    """Score whose value is the mean of labels' means; labels of cells without a value (NaN) are left out."""
    per_label = pd.Series(per_cell).groupby(names[codes]).mean().dropna()
    return Score(float(per_label.mean()), per_label, per_cell)


def _nearest_silhouette(points: np.ndarray, groups: np.ndarray, device: str) -> np.ndarray:
    """Silhouette of each cell, (n,), for two or more groups of which none is empty."""
    sums = group_distances(points, groups, device=device)  # (n, n_groups)
    sizes = np.bincount(groups)
    own = (np.arange(len(points)), groups)
    size = sizes[groups]  # (n,)
    within = sums[own] / np.maximum(size - 1, 1)
    means = sums / sizes
    means[own] = np.inf
    return silhouette_width(within, means.min(1), size)
