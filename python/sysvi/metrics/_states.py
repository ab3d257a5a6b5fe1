"""Cell states found without labels: clusters of each system, matched between systems.

States replace cell type labels where there are none, to evaluate an embedding: whether systems mix within the states
that they share, whether different states stay separate, and whether a state of one system only stays unmixed.

Shapes: n cells, G genes, C clusters of all systems.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy import sparse
from scipy.sparse.csgraph import connected_components

from sysvi._core.arguments import check_types
from sysvi._core.errors import InputError
from sysvi._core.settings import random_seed, whole_number
from sysvi.data.row_blocks import row_sliceable
from sysvi.metrics._clustering import leiden
from sysvi.metrics._neighbors import nearest_neighbors
from sysvi.metrics._pca import principal_components
from sysvi.metrics._score import encode_categories

MIN_SHARE_OF_BEST = 0.8  # of the highest correlation that either cluster has with the other's system
MIN_CORRELATION = 0.2


@dataclass(frozen=True)
class States:
    """Result of :func:`find_states`.

    Parameters
    ----------
    state
        State of each cell, (n,) strings; empty for cells of clusters that are too small.
    counts
        Number of cells, (states, systems), with the names of states as index and of systems as columns.
    similarity
        Correlation of the expression profiles of all clusters, (C, C); clusters are named "system: number".
    """

    state: np.ndarray
    counts: pd.DataFrame
    similarity: pd.DataFrame

    @property
    def shared(self) -> pd.Index:
        """States that occur in two or more systems."""
        return self.counts.index[(self.counts > 0).sum(axis=1) > 1]

    @property
    def private(self) -> pd.Index:
        """States that occur in one system only."""
        return self.counts.index[(self.counts > 0).sum(axis=1) == 1]


def find_states(
    expression: Any,
    system: ArrayLike,
    *,
    resolution: float = 1.0,
    n_pcs: int = 30,
    n_neighbors: int = 14,
    min_cells: int = 10,
    seed: int = 0,
) -> States:
    """Cluster each system separately and match clusters of different systems that are the same cell state.

    Each system is clustered on its own principal components (Leiden), so that differences between systems have no
    influence. The profile of a cluster is its mean expression minus the mean over the clusters of its system, each of
    which counts once. Two clusters of different systems are linked if the correlation of their profiles over genes is

    - at least 0.8 times the highest correlation that either of them has with any cluster of the other's system,
    - at least half the median of these highest correlations over the clusters of both systems, and
    - at least 0.2.

    Clusters that are linked, directly or through other clusters, form one state. A cluster without a link is a state
    of its system only.

    Parameters
    ----------
    expression
        Log-normalised expression of variable genes, (n, G), sparse or dense.
    system
        System of each cell, (n,).
    resolution
        Resolution of Leiden; a higher one gives more and smaller clusters. Several clusters of one state do no harm,
        since they are linked.
    n_pcs, n_neighbors
        Number of principal components and of neighbours of each cell (without the cell itself) for clustering.
    min_cells
        Minimum number of cells of a cluster; cells of smaller clusters get no state.
    seed
        Random seed of PCA and Leiden.

    Returns
    -------
    States
        States named ``"state 1"``, ``"state 2"``, ... in order of decreasing number of cells.

    Raises
    ------
    InputError
        If there are fewer than two systems, a system is missing for a cell, a value is not finite, or a system has too
        few cells for clustering.

    Notes
    -----
    The thresholds were chosen on pancreatic islets (Baron), stimulated blood cells and simulations;
    benchmarks/criterion.py shows how well states replace labels on these data.

    Examples
    --------
    >>> from sysvi import prepare
    >>> from sysvi.data.simulate import simulate_systems
    >>> adata = prepare(simulate_systems(600, 400, n_types=4, n_private=1, seed=1), "system", "batch")
    >>> states = find_states(adata.X, adata.obs["system"])
    >>> len(states.shared), len(states.private)
    (2, 2)
    """
    check_types(find_states, resolution=resolution, n_pcs=n_pcs, n_neighbors=n_neighbors)
    seed = random_seed(seed)
    x = row_sliceable(expression)
    codes, names = encode_categories(system, "system", x.shape[0])
    whole_number("min_cells", min_cells, 1)
    if len(names) < 2:
        raise InputError(f"system has one value only ({names[0]}): states are matched between at least two systems.")
    if not np.isfinite(x.data if sparse.issparse(x) else x[:]).all():
        raise InputError("The expression has values that are not finite: remove or repair these cells or genes.")
    cluster, cluster_system = _cluster_systems(x, codes, names, resolution, n_pcs, n_neighbors, min_cells, seed)
    similarity = _correlate_profiles(x, cluster, cluster_system)  # (C, C)
    _, component = connected_components(_link_clusters(similarity, cluster_system), directed=False)  # (C,)
    by_size = np.argsort(-np.bincount(component[cluster[cluster >= 0]]), kind="stable")
    rank = np.argsort(by_size)[component]  # (C,)
    state = np.full(len(cluster), "", dtype=object)
    known = cluster >= 0
    state[known] = [f"state {k + 1}" for k in rank[cluster[known]]]
    counts = pd.crosstab(state[known], names[codes[known]])
    counts = counts.loc[[f"state {k + 1}" for k in range(len(counts))], :]
    counts.index.name = counts.columns.name = None
    number = np.arange(len(cluster_system)) - np.searchsorted(cluster_system, cluster_system)  # within the system
    labels = [f"{names[s]}: {k}" for s, k in zip(cluster_system, number, strict=True)]
    return States(state, counts, pd.DataFrame(similarity, labels, labels))


def _cluster_systems(
    x: Any,
    system: np.ndarray,
    names: np.ndarray,
    resolution: float,
    n_pcs: int,
    n_neighbors: int,
    min_cells: int,
    seed: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Cluster each system: cluster of each cell, (n,), numbered over all systems, and system of each cluster, (C,).

    Cells of clusters with fewer than `min_cells` cells have -1; a system keeps its largest cluster in any case.
    """
    cluster = np.full(len(system), -1)
    cluster_system: list[int] = []
    for s, name in enumerate(names):
        cells = np.flatnonzero(system == s)
        if len(cells) < max(min_cells, 3):
            raise InputError(
                f"System {name} has {len(cells)} cells, which are too few to find states: remove the system."
            )
        found = leiden(
            nearest_neighbors(principal_components(x[cells], n_pcs, seed=seed), n_neighbors, seed=seed),
            resolution,
            n_neighbors=n_neighbors,
            seed=seed,
        )
        sizes = np.bincount(found)
        large = np.flatnonzero(sizes >= min_cells)
        if not len(large):
            large = np.array([sizes.argmax()])
        renamed = np.full(len(sizes), -1)
        renamed[large] = len(cluster_system) + np.arange(len(large))
        cluster[cells] = renamed[found]
        cluster_system += [s] * len(large)
    return cluster, np.array(cluster_system)


def _correlate_profiles(x: Any, cluster: np.ndarray, cluster_system: np.ndarray) -> np.ndarray:
    """Correlate the profiles of clusters over genes, (C, C); a profile is relative to the mean of its system.

    In place of NumPy's corrcoef, which gives NaN for a constant profile; here its correlations are 0.
    """
    known = np.flatnonzero(cluster >= 0)
    sizes = np.bincount(cluster[known])  # (C,)
    members = sparse.csr_matrix(
        (1 / sizes[cluster[known]], (cluster[known], known)), shape=(len(cluster_system), len(cluster))
    )
    means = members @ x  # (C, G)
    means = np.asarray(means.todense() if sparse.issparse(means) else means, np.float64)
    profiles = means.copy()
    for s in np.unique(cluster_system):
        own = cluster_system == s
        # A system with one cluster has no other clusters to compare with: use the clusters of the other systems.
        profiles[own] -= means[own if own.sum() > 1 else ~own].mean(0)
    profiles -= profiles.mean(1, keepdims=True)
    length = np.linalg.norm(profiles, axis=1, keepdims=True)
    profiles /= np.where(length > 0, length, 1)
    return profiles @ profiles.T


def _link_clusters(similarity: np.ndarray, cluster_system: np.ndarray) -> np.ndarray:
    """Decide which clusters of different systems are the same state, (C, C) bool; the rule is in `find_states`."""
    links = np.zeros(similarity.shape, bool)
    for s, t in combinations(np.unique(cluster_system), 2):
        rows, columns = np.flatnonzero(cluster_system == s), np.flatnonzero(cluster_system == t)
        r = similarity[np.ix_(rows, columns)]
        row_best, column_best = r.max(1, keepdims=True), r.max(0, keepdims=True)
        typical_best = np.median(np.concatenate([row_best.ravel(), column_best.ravel()]))
        links[np.ix_(rows, columns)] = (
            (r >= MIN_SHARE_OF_BEST * row_best)
            & (r >= MIN_SHARE_OF_BEST * column_best)
            & (r >= max(MIN_CORRELATION, typical_best / 2))
        )
    return links
