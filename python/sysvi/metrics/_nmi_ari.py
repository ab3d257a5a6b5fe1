"""Agreement of clusters with cell type labels: normalised mutual information (NMI) and adjusted Rand index (ARI).

Three clusterings are common, all in `sysvi.metrics`:

- k-means with as many clusters as labels (default of scib-metrics): ``kmeans(embedding, n_labels)``;
- Leiden at the best of ten resolutions (scib): ``best_clusters(label, leiden_sweep(neighbors))``;
- Leiden at resolution 2, clusters named after their most common label (the paper):
  ``name_clusters(leiden(neighbors, 2.0), label)``; `jaccard` uses the same.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike

from sysvi._core.arguments import check_types
from sysvi._core.errors import InputError
from sysvi.metrics._score import Score, convention, encode_categories


@convention("normalised mutual information of types and clusters, arithmetic mean of the entropies")
def nmi(label: ArrayLike, clusters: ArrayLike) -> Score:
    """Compute the normalised mutual information of labels and clusters: 0 (none) to 1 (the same partition).

    Parameters
    ----------
    label
        Cell type of each cell, (n,).
    clusters
        Cluster of each cell, (n,).

    Returns
    -------
    Score
        Value only, without values by label or by cell.

    Raises
    ------
    InputError
        If lengths differ, or a value is missing.

    Notes
    -----
    Computed by scikit-learn and normalised by the arithmetic mean of both entropies, as in scib and scib-metrics. One
    label in one cluster gives 1; one label in several clusters, or several labels in one cluster, gives 0.

    Examples
    --------
    >>> round(nmi(["a", "a", "b", "b"], [0, 0, 1, 2]).value, 3)
    0.8
    """
    from sklearn.metrics import normalized_mutual_info_score

    return Score(float(normalized_mutual_info_score(*_codes(label, clusters), average_method="arithmetic")))


@convention("adjusted Rand index of types and clusters")
def ari(label: ArrayLike, clusters: ArrayLike) -> Score:
    """Compute the adjusted Rand index of labels and clusters: 1 (the same partition), 0 (as by chance), at least -0.5.

    Parameters
    ----------
    label
        Cell type of each cell, (n,).
    clusters
        Cluster of each cell, (n,).

    Returns
    -------
    Score
        Value only, without values by label or by cell.

    Raises
    ------
    InputError
        If lengths differ, or a value is missing.

    Notes
    -----
    Computed by scikit-learn, as in scib and scib-metrics. One label in one cluster gives 1; one label in several
    clusters, or several labels in one cluster, gives 0.

    Examples
    --------
    >>> round(ari(["a", "a", "b", "b"], [0, 0, 1, 2]).value, 3)
    0.571
    """
    from sklearn.metrics import adjusted_rand_score

    return Score(float(adjusted_rand_score(*_codes(label, clusters))))


def best_clusters(label: ArrayLike, clusterings: Mapping[float, np.ndarray]) -> np.ndarray:
    """Select the clustering that agrees best with the labels by NMI; the first one in case of ties.

    Parameters
    ----------
    label
        Cell type of each cell, (n,).
    clusterings
        Cluster of each cell, (n,), by resolution, as from `leiden_sweep`.

    Returns
    -------
    numpy.ndarray
        Cluster of each cell, (n,).

    Notes
    -----
    scib-metrics 0.5.10 reports NMI and ARI of these clusters; the paper maximised ARI over resolutions separately. A
    clustering chosen by the labels gives higher values: compare only with values chosen in the same way.

    Examples
    --------
    >>> best_clusters(["a", "a", "b"], {0.2: [0, 0, 0], 1.0: [0, 0, 1], 2.0: [0, 1, 2]})
    [0, 0, 1]
    """
    check_types(best_clusters, clusterings=clusterings)
    if not clusterings:
        raise InputError("clusterings is empty: give at least one clustering.")
    return max(clusterings.values(), key=lambda clusters: nmi(label, clusters).value)


def _codes(label: ArrayLike, clusters: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Check labels and clusters, and represent both by integers, (n,)."""
    label = np.asarray(label, dtype=object)
    codes = encode_categories(label, "label")[0]
    return codes, encode_categories(clusters, "clusters", len(codes))[0]
