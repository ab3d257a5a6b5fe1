"""Jaccard index of cell type labels and the clusters named after them."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from sysvi.metrics._clustering import name_clusters
from sysvi.metrics._score import Score, convention, encode_categories


@convention("cells of a type compared with the cells of the clusters named after it; mean over types")
def jaccard(label: ArrayLike, clusters: ArrayLike) -> Score:
    """Measure how well clusters match cell types: 0 to 1, higher is better; low where types share clusters.

    Each cluster is named after its most common label. The index of a label is the number of its cells in clusters of
    that name, divided by the number of cells that have the label or are in such a cluster.

    Parameters
    ----------
    label
        Cell type of each cell, (n,).
    clusters
        Cluster of each cell, (n,), for example from `leiden`. Clusters that are named already (`name_clusters`) give
        the same result.

    Returns
    -------
    Score
        Mean over labels, with the index of each label; 0 for a label after which no cluster is named.

    Raises
    ------
    InputError
        If lengths differ, or a value is missing.

    Notes
    -----
    The macro average of the paper, which took Leiden clusters of resolution 2, computed by scikit-learn's
    ``jaccard_score``. If all cells have the same label the value is 1. scib-metrics has no such metric.

    Examples
    --------
    >>> jaccard(["alpha", "alpha", "beta", "beta"], [0, 0, 0, 1]).per_label.round(3).to_dict()
    {'alpha': 0.667, 'beta': 0.5}
    """
    from sklearn.metrics import jaccard_score

    label = np.asarray(label, dtype=object)
    codes, names = encode_categories(label, "label")
    cluster_codes = np.searchsorted(names, name_clusters(clusters, label))  # (n,), label after which it is named
    index = jaccard_score(codes, cluster_codes, labels=np.arange(len(names)), average=None)
    per_label = pd.Series(index, index=names)
    return Score(float(per_label.mean()), per_label)
