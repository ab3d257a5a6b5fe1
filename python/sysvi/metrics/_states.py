"""States: groups of cells found without labels, in each system by itself, and which of them systems share.

Cell types that nobody has named yet, good enough to ask an embedding the questions that are else asked with labels: do
the systems mix where they share a state, do states stay apart, does a state that one system has alone stay alone?

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

from sysvi._core.errors import InputError
from sysvi._core.settings import whole_number
from sysvi.data.row_blocks import row_sliceable
from sysvi.metrics._clustering import leiden
from sysvi.metrics._neighbors import nearest_neighbors
from sysvi.metrics._pca import principal_components
from sysvi.metrics._score import encode

NEAR_BEST, LEAST_SIMILARITY = 0.8, 0.2


@dataclass(frozen=True)
class States:
    """States of cells.

    Parameters
    ----------
    state
        State of each cell, (n,) strings; empty where its cluster is too small to say.
    counts
        Cells: a row a state, its name as index, a column a system.
    similarity
        Correlation of the profiles of all clusters, (C, C), named "system: cluster".
    """

    state: np.ndarray
    counts: pd.DataFrame
    similarity: pd.DataFrame

    @property
    def shared(self) -> pd.Index:
        """States of two or more systems."""
        return self.counts.index[(self.counts > 0).sum(axis=1) > 1]

    @property
    def private(self) -> pd.Index:
        """States of one system only."""
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
    """Cluster each system by itself, and find the clusters of other systems that are the same state.

    Each system is clustered on its own principal components (Leiden), so the difference between systems plays no part.
    A cluster's profile is its mean expression less the mean over its system's clusters, each counted once: what sets
    it apart at home. Two clusters of different systems are linked if the correlation of their profiles over genes is
    at least 0.8 of the highest that either has with any cluster of the other's system, at least half of what such
    highest ones typically are (their median), and at least 0.2. Linked clusters, directly or through others, are one
    state; a cluster without a link is a state of its system alone.

    Parameters
    ----------
    expression
        Log-normalised expression of variable genes, (n, G), sparse or dense.
    system
        System of each cell, (n,).
    resolution
        Of Leiden: more makes more, smaller clusters. Several clusters of one state do no harm, they are linked.
    n_pcs, n_neighbors
        Principal components, and neighbours of a cell (itself not counted), for the clusters of a system.
    min_cells
        Smaller clusters get no state.
    seed
        Of PCA and Leiden.

    Returns
    -------
    States
        Named ``"state 1"``, ... by falling number of cells.

    Raises
    ------
    InputError
        If there are fewer than two systems, systems are missing, values not finite, or a system has too few cells to
        be clustered.

    Notes
    -----
    The rule was made on Baron's islets, stimulated blood cells and simulations; benchmarks/criterion.py shows how well
    its states stand in for labels there.

    Examples
    --------
    >>> from sysvi import prepare
    >>> from sysvi.data.simulate import simulate_systems
    >>> adata = prepare(simulate_systems(600, 400, n_types=4, n_private=1, seed=1), "system", "batch")
    >>> states = find_states(adata.X, adata.obs["system"])
    >>> len(states.shared), len(states.private)
    (2, 2)
    """
    x = row_sliceable(expression)
    codes, names = encode(system, "system", x.shape[0])
    whole_number("min_cells", min_cells, 1)
    if len(names) < 2:
        raise InputError(f"States are compared between systems, and there is one only ({names[0]}).")
    if not np.isfinite(x.data if sparse.issparse(x) else x[:]).all():
        raise InputError("The expression has values that are not finite: remove or repair such cells or genes.")
    cluster, home = _cluster_systems(x, codes, names, resolution, n_pcs, n_neighbors, min_cells, seed)
    similarity = _similarity(x, cluster, home)  # (C, C)
    _, component = connected_components(_links(similarity, home), directed=False)  # (C,)
    by_size = np.argsort(-np.bincount(component[cluster[cluster >= 0]]), kind="stable")
    rank = np.argsort(by_size)[component]  # (C,)
    state = np.full(len(cluster), "", dtype=object)
    known = cluster >= 0
    state[known] = [f"state {k + 1}" for k in rank[cluster[known]]]
    counts = pd.crosstab(state[known], names[codes[known]])
    counts = counts.loc[[f"state {k + 1}" for k in range(len(counts))], :]
    counts.index.name = counts.columns.name = None
    number = np.arange(len(home)) - np.searchsorted(home, home)  # within the system
    labels = [f"{names[s]}: {k}" for s, k in zip(home, number, strict=True)]
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
    """Cluster of each cell, numbered over all systems, -1 in small ones, (n,); and each cluster's system, (C,)."""
    cluster = np.full(len(system), -1)
    home: list[int] = []
    for s, name in enumerate(names):
        cells = np.flatnonzero(system == s)
        if len(cells) < max(min_cells, 3):
            raise InputError(f"System {name} has {len(cells)} cells, too few to find its states.")
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
        renamed[large] = len(home) + np.arange(len(large))
        cluster[cells] = renamed[found]
        home += [s] * len(large)
    return cluster, np.array(home)


def _similarity(x: Any, cluster: np.ndarray, home: np.ndarray) -> np.ndarray:
    """Correlation over genes of what sets each cluster apart in its system, (C, C)."""
    known = np.flatnonzero(cluster >= 0)
    sizes = np.bincount(cluster[known])  # (C,)
    members = sparse.csr_matrix((1 / sizes[cluster[known]], (cluster[known], known)), shape=(len(home), len(cluster)))
    means = members @ x  # (C, G)
    means = np.asarray(means.todense() if sparse.issparse(means) else means, np.float64)
    profiles = means.copy()
    for s in np.unique(home):
        own = home == s
        # With one cluster there is no mean of others at home: that of the other systems must do.
        profiles[own] -= means[own if own.sum() > 1 else ~own].mean(0)
    profiles -= profiles.mean(1, keepdims=True)
    length = np.linalg.norm(profiles, axis=1, keepdims=True)
    profiles /= np.where(length > 0, length, 1)
    return profiles @ profiles.T


def _links(similarity: np.ndarray, home: np.ndarray) -> np.ndarray:
    """Which clusters are the same state, (C, C) bool."""
    links = np.zeros(similarity.shape, bool)
    for s, t in combinations(np.unique(home), 2):
        rows, columns = np.flatnonzero(home == s), np.flatnonzero(home == t)
        r = similarity[np.ix_(rows, columns)]
        of_row, of_column = r.max(1, keepdims=True), r.max(0, keepdims=True)
        typical = np.median(np.concatenate([of_row.ravel(), of_column.ravel()]))
        links[np.ix_(rows, columns)] = (
            (r >= NEAR_BEST * of_row) & (r >= NEAR_BEST * of_column) & (r >= max(LEAST_SIMILARITY, typical / 2))
        )
    return links
