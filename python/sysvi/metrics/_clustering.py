"""Clusterings of cells, for the metrics that compare clusters with cell type labels."""

from __future__ import annotations

import random
import warnings
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike
from scipy import sparse
from scipy.sparse.csgraph import connected_components

from sysvi._core.arguments import check_types
from sysvi._core.errors import InputError
from sysvi._core.seeds import seed_of_32_bits
from sysvi._core.settings import random_seed, whole_number
from sysvi.metrics._neighbors import Neighbors
from sysvi.metrics._score import check_embedding, encode_categories

RESOLUTIONS = (0.2, 0.4, 0.6, 0.8, 1.0, 1.2, 1.4, 1.6, 1.8, 2.0)


def kmeans(embedding: ArrayLike, n_clusters: int, *, seed: int = 0) -> np.ndarray:
    """Cluster cells by k-means (scikit-learn, k-means++ initialisation, best of ten starts).

    Parameters
    ----------
    embedding
        Embedding, (n, dimensions).
    n_clusters
        Number of clusters. scib-metrics uses the number of labels.
    seed
        Random seed of the starting points.

    Returns
    -------
    numpy.ndarray
        Cluster of each cell, (n,) integers from 0. There are fewer clusters than `n_clusters` if fewer cells are
        distinct.

    Raises
    ------
    InputError
        If the embedding is not finite, or `n_clusters` is not between 1 and the number of cells.

    Notes
    -----
    scib-metrics 0.5.10 uses the same algorithm with one start and other random numbers: single results differ, and
    its results vary more between seeds.

    Examples
    --------
    >>> kmeans([[0.0], [0.1], [5.0], [5.1]], 2).tolist() in ([0, 0, 1, 1], [1, 1, 0, 0])
    True
    """
    seed = random_seed(seed)
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    points = check_embedding(embedding)
    if not 1 <= whole_number("n_clusters", n_clusters, 0) <= len(points):
        raise InputError(f"n_clusters is {n_clusters}: it must be between 1 and the number of cells, {len(points)}.")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer distinct cells than clusters
        return KMeans(n_clusters, n_init=10, random_state=seed_of_32_bits(seed)).fit_predict(points).astype(np.int64)


def leiden(neighbors: Neighbors, resolution: float = 1.0, *, n_neighbors: int = 14, seed: int = 42) -> np.ndarray:
    """Cluster cells on their neighbour graph by Leiden: `leiden_sweep` at one resolution.

    Examples
    --------
    >>> from sysvi.metrics._neighbors import nearest_neighbors
    >>> neighbors = nearest_neighbors([[0.0], [0.1], [0.2], [5.0], [5.1], [5.2]], 2)
    >>> leiden(neighbors).tolist()
    [0, 0, 0, 1, 1, 1]
    """
    check_types(leiden, neighbors=neighbors, resolution=resolution, n_neighbors=n_neighbors, seed=seed)
    return leiden_sweep(neighbors, [resolution], n_neighbors=n_neighbors, seed=seed)[resolution]


def leiden_sweep(
    neighbors: Neighbors, resolutions: Sequence[float] = RESOLUTIONS, *, n_neighbors: int = 14, seed: int = 42
) -> dict[float, np.ndarray]:
    """Cluster cells on their neighbour graph at several resolutions (igraph's Leiden, modularity, two iterations).

    Parameters
    ----------
    neighbors
        Nearest neighbours of each cell.
    resolutions
        Resolutions; a higher one gives more clusters.
    n_neighbors
        Number of neighbours of each cell in the graph of UMAP's connectivities; all neighbours if there are fewer.
    seed
        Random seed, the same for each resolution.

    Returns
    -------
    dict
        Cluster of each cell, (n,) integers from 0, by resolution.

    Raises
    ------
    InputError
        If a resolution is negative or not finite, or `n_neighbors` is not positive.

    Notes
    -----
    Cells at the same point are in the same cluster. Otherwise these are the clusters of scib-metrics 0.5.10 for the
    same neighbours and seed: its 15 neighbours count the cell itself, hence 14 here. The paper clustered the graph of
    scanpy's 90 neighbours (``n_neighbors=89``) with leidenalg at resolution 2. igraph has one random generator per
    process. It is replaced during the call and then reset to igraph's default, Python's `random`.

    Examples
    --------
    >>> from sysvi.metrics._neighbors import nearest_neighbors
    >>> neighbors = nearest_neighbors([[0.0], [0.1], [0.2], [5.0], [5.1], [5.2]], 2)
    >>> {resolution: int(clusters.max()) + 1 for resolution, clusters in leiden_sweep(neighbors, [0.0, 1.0]).items()}
    {0.0: 2, 1.0: 2}
    """
    check_types(leiden_sweep, neighbors=neighbors, resolutions=resolutions, n_neighbors=n_neighbors, seed=seed)
    import igraph

    for resolution in resolutions:
        if not 0 <= resolution < np.inf:
            raise InputError(f"resolution is {resolution}: it must be a finite number of at least 0.")
    if n_neighbors < 1:
        raise InputError(f"n_neighbors is {n_neighbors}: it must be at least 1.")
    edges = sparse.triu(
        neighbors.nearest(n_neighbors).connectivities, format="coo"
    )  # each edge once, not in both directions
    graph = igraph.Graph(neighbors.n_cells, np.stack([edges.row, edges.col], 1))
    # Doubled as in scanpy and scib-metrics, which list each edge twice: igraph's refinement depends on the scale.
    weights = (2 * edges.data.astype(np.float64)).tolist()
    clusters = {}
    try:
        for resolution in resolutions:
            igraph.set_random_number_generator(random.Random(seed))
            found = graph.community_leiden("modularity", weights=weights, resolution=resolution, n_iterations=2)
            clusters[resolution] = _unite_equal_cells(np.asarray(found.membership, dtype=np.int64), neighbors)
    finally:
        igraph.set_random_number_generator(random)
    return clusters


def _unite_equal_cells(clusters: np.ndarray, neighbors: Neighbors) -> np.ndarray:
    """Give cells at the same point the cluster of the first of them, (n,) -> (n,), numbered from 0.

    Which of very many equally near cells are neighbours means nothing, and Leiden may then split them down to single
    cells, which would agree with any labels.
    """
    if neighbors.distances.min(initial=np.inf) > 0:
        return clusters
    n = neighbors.n_cells
    row, column = np.nonzero(neighbors.distances == 0)
    equal = sparse.coo_matrix((np.ones(len(row)), (row, neighbors.indices[row, column])), shape=(n, n))
    _, point = connected_components(equal, directed=False)  # (n,)
    first_of_point = np.unique(point, return_index=True)[1]
    return np.unique(clusters[first_of_point][point], return_inverse=True)[1].astype(np.int64)


def name_clusters(clusters: ArrayLike, label: ArrayLike) -> np.ndarray:
    """Name each cluster after the most common label of its cells.

    Parameters
    ----------
    clusters
        Cluster of each cell, (n,).
    label
        Cell type of each cell, (n,).

    Returns
    -------
    numpy.ndarray
        Name of each cell's cluster, (n,) strings. Where labels are equally common, the first in sorted order. Several
        clusters may share a name, and some labels may name no cluster.

    Raises
    ------
    InputError
        If lengths differ, or a value is missing.

    Examples
    --------
    >>> name_clusters([0, 0, 0, 1, 1], ["alpha", "beta", "beta", "beta", "alpha"]).tolist()
    ['beta', 'beta', 'beta', 'alpha', 'alpha']
    """
    label = np.asarray(label, dtype=object)
    codes, names = encode_categories(label, "label")
    cluster_codes, clusters_found = encode_categories(clusters, "clusters", len(codes))
    counts = sparse.coo_matrix((np.ones(len(codes)), (cluster_codes, codes)), shape=(len(clusters_found), len(names)))
    return names[counts.toarray().argmax(1)][cluster_codes]
