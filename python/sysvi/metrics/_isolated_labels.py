"""Isolated labels: are types that few systems have kept apart."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from sysvi._core.errors import InputError
from sysvi.metrics._score import Score, encode
from sysvi.metrics._silhouette import score_by_label


def isolated_labels(silhouette: Score, label: ArrayLike, system: ArrayLike) -> Score:
    """How well the labels found in the fewest systems (or batches) are separated: 0 to 1, higher is better.

    Parameters
    ----------
    silhouette
        What `label_silhouette` gave for these cells and labels.
    label
        Cell type of each cell.
    system
        System, or batch, of each cell.

    Returns
    -------
    Score
        The mean over isolated labels; each of them, its mean label silhouette, (s + 1) / 2; and its cells. NaN if all
        cells have one label.

    Raises
    ------
    InputError
        If lengths differ, a label or system is missing, or the score has no value for each cell.

    Notes
    -----
    Convention: scib-metrics 0.5.10 (scib itself scores an F1 of clusters). A label is isolated if no other label is
    in fewer systems: where every label is in every system, all are, and the value is the labels' mean.

    Examples
    --------
    >>> from sysvi.metrics._silhouette import label_silhouette
    >>> label = ["alpha", "alpha", "beta", "beta"]
    >>> silhouette = label_silhouette([[0.0], [1.0], [9.0], [10.0]], label)
    >>> isolated_labels(silhouette, label, ["human", "mouse", "human", "human"]).per_label.round(3).to_dict()
    {'beta': 0.944}
    """
    if silhouette.per_cell is None:
        raise InputError("This score has no value for each cell: give isolated_labels what label_silhouette returned.")
    n = len(silhouette.per_cell)
    codes, names = encode(label, "label", n)
    system_codes, systems = encode(system, "system", n)
    pairs = np.unique(codes * len(systems) + system_codes)  # label and system that occur together
    n_systems = np.bincount(pairs // len(systems))  # (n_labels,)
    isolated = n_systems == n_systems.min()  # (n_labels,)
    return score_by_label(np.where(isolated[codes], silhouette.per_cell, np.nan), codes, names)
