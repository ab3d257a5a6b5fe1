"""What tests share that compare with scib-metrics: embeddings, and neighbours as it has them."""

import numpy as np
from scib_metrics.nearest_neighbors import NeighborsResults


def simulate(n=400, n_systems=2, n_labels=4, shift=1.0, seed=0):
    """An embedding of labelled cells, systems `shift` apart: points, system, label."""
    rng = np.random.default_rng(seed)
    system, label = rng.integers(n_systems, size=n), rng.integers(n_labels, size=n)
    points = rng.normal(size=(n, 6)) + shift * system[:, None] + 3 * rng.normal(size=(n_labels, 6))[label]
    return (
        points.astype(np.float32),
        np.array(["human", "mouse", "rat"])[system],
        np.array(list("abcdefgh"), dtype=object)[label],
    )


def with_self(neighbors):
    """The neighbours as scib-metrics has them: each cell is its own first."""
    own = np.arange(neighbors.n_cells)[:, None]
    return NeighborsResults(
        indices=np.hstack([own, neighbors.indices]).astype(np.int32),
        distances=np.hstack([0 * own, neighbors.distances]).astype(np.float32),
    )
