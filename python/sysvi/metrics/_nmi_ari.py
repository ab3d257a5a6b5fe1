"""Agreement of clusters with labels: normalised mutual information and adjusted Rand index.

Three ways to cluster are in use, all from `sysvi.metrics._clustering`; cluster once and use the result for all:

- k-means with as many clusters as labels (scib-metrics' default): ``kmeans(embedding, n_labels)``;
- Leiden at the best of ten resolutions (scib): ``best_clusters(label, leiden_sweep(neighbors))``;
- fixed: Leiden at resolution 2, clusters named after their most common label (the paper):
  ``name_clusters(leiden(neighbors, 2.0), label)``, which `jaccard` uses as well.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike

from sysvi.metrics._score import Score, encode


def nmi(label: ArrayLike, clusters: ArrayLike) -> Score:
    """Normalised mutual information of labels and clusters: 0 (none) to 1 (the same up to names).

    Parameters
    ----------
    label
        Cell type of each cell.
    clusters
        Cluster of each cell.

    Returns
    -------
    Score
        The value only.

    Raises
    ------
    InputError
        If lengths differ, or a value is missing.

    Notes
    -----
    Convention: scikit-learn's, normalised by the arithmetic mean of both entropies, as in scib and scib-metrics. One
    label in one cluster gives 1; one label in several clusters, or several labels in one, 0.

    Examples
    --------
    >>> round(nmi(["a", "a", "b", "b"], [0, 0, 1, 2]).value, 3)
    0.8
    """
    from sklearn.metrics import normalized_mutual_info_score

    return Score(float(normalized_mutual_info_score(*_codes(label, clusters), average_method="arithmetic")))


def ari(label: ArrayLike, clusters: ArrayLike) -> Score:
    """Adjusted Rand index of labels and clusters: 1 is the same up to names, 0 as by chance; at least -0.5.

    Parameters
    ----------
    label
        Cell type of each cell.
    clusters
        Cluster of each cell.

    Returns
    -------
    Score
        The value only.

    Raises
    ------
    InputError
        If lengths differ, or a value is missing.

    Notes
    -----
    Convention: scikit-learn's, as in scib and scib-metrics. One label in one cluster gives 1; one label in several
    clusters, or several labels in one, 0.

    Examples
    --------
    >>> round(ari(["a", "a", "b", "b"], [0, 0, 1, 2]).value, 3)
    0.571
    """
    from sklearn.metrics import adjusted_rand_score

    return Score(float(adjusted_rand_score(*_codes(label, clusters))))


def best_clusters(label: ArrayLike, clusterings: Mapping[float, np.ndarray]) -> np.ndarray:
    """The clusters, of several resolutions, that agree best with the labels by NMI; the first of equals.

    Parameters
    ----------
    label
        Cell type of each cell.
    clusterings
        For each resolution the cluster of each cell, as from `leiden_sweep`.

    Returns
    -------
    numpy.ndarray
        Cluster of each cell, (n,).

    Notes
    -----
    Convention: scib-metrics 0.5.10 reports NMI and ARI of these clusters; the paper's optimised ARI is the best over
    resolutions by itself. Choosing by the labels flatters: compare only with values chosen the same way.

    Examples
    --------
    >>> best_clusters(["a", "a", "b"], {0.2: [0, 0, 0], 1.0: [0, 0, 1], 2.0: [0, 1, 2]})
    [0, 0, 1]
    """
    return max(clusterings.values(), key=lambda clusters: nmi(label, clusters).value)


def _codes(label: ArrayLike, clusters: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    label = np.asarray(label, dtype=object)
    return encode(label, "label", len(label))[0], encode(clusters, "clusters", len(label))[0]
