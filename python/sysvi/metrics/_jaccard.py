"""Jaccard index of cell types and the clusters named after them."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from sysvi.metrics._clustering import name_clusters
from sysvi.metrics._score import Score, encode


def jaccard(label: ArrayLike, clusters: ArrayLike) -> Score:
    """How well clusters match cell types: 0 to 1, higher is better; low where types are mixed with others.

    Each cluster is named after its most common label. The index of a type is the number of its cells in clusters of
    its name, over the number of cells that have the type or are in such a cluster.

    Parameters
    ----------
    label
        Cell type of each cell.
    clusters
        Cluster of each cell, as from `leiden`; whether already named (`name_clusters`) makes no difference.

    Returns
    -------
    Score
        The mean over labels, and each label; 0 for a label that names no cluster.

    Raises
    ------
    InputError
        If lengths differ, or a value is missing.

    Notes
    -----
    Convention: the paper's macro average, with clusters from Leiden at resolution 2; scikit-learn's ``jaccard_score``
    with ``average="macro"``. One label alone gives 1. scib-metrics has no such measure.

    Examples
    --------
    >>> jaccard(["alpha", "alpha", "beta", "beta"], [0, 0, 0, 1]).per_label.round(3).to_dict()
    {'alpha': 0.667, 'beta': 0.5}
    """
    label = np.asarray(label, dtype=object)
    codes, names = encode(label, "label", len(label))
    named = np.searchsorted(names, name_clusters(clusters, label))  # (n,) code of the cluster's name
    n_labels = len(names)
    both = np.bincount(codes[codes == named], minlength=n_labels)
    either = np.bincount(codes, minlength=n_labels) + np.bincount(named, minlength=n_labels) - both
    per_label = pd.Series(both / either, index=names)
    return Score(float(per_label.mean()), per_label)
