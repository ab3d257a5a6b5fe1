"""Shared by tests that compare with scib-metrics: simulated embeddings, and neighbours in its format."""

import numpy as np
from scib_metrics.nearest_neighbors import NeighborsResults


def simulate(n=400, n_systems=2, n_labels=4, shift=1.0, seed=0):
    """Simulate an embedding (n x 6), systems and labels (both n) of cells; each system is moved by `shift` more."""
    rng = np.random.default_rng(seed)
    system, label = rng.integers(n_systems, size=n), rng.integers(n_labels, size=n)
    points = rng.normal(size=(n, 6)) + shift * system[:, None] + 3 * rng.normal(size=(n_labels, 6))[label]
    return (
        points.astype(np.float32),
        np.array(["human", "mouse", "rat"])[system],
        np.array(list("abcdefgh"), dtype=object)[label],
    )


def with_self(neighbors):
    """The neighbours in the format of scib-metrics, in which each cell is its own first neighbour."""
    own = np.arange(neighbors.n_cells)[:, None]
    return NeighborsResults(
        indices=np.hstack([own, neighbors.indices]).astype(np.int32),
        distances=np.hstack([0 * own, neighbors.distances]).astype(np.float32),
    )


def without_self(neighbors):
    """The neighbours in the format of scib-metrics, but without the cell itself, as harmonypy takes them."""
    return NeighborsResults(
        indices=neighbors.indices.astype(np.int32), distances=neighbors.distances.astype(np.float32)
    )
