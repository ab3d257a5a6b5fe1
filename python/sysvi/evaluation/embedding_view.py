"""One embedding as metrics see it: the inputs from which metrics choose what they need."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from sysvi.metrics._clustering import kmeans, leiden, leiden_sweep, name_clusters
from sysvi.metrics._moran import MoranReference
from sysvi.metrics._neighbors import Neighbors, nearest_neighbors
from sysvi.metrics._nmi_ari import best_clusters
from sysvi.metrics._score import Score
from sysvi.metrics._silhouette import label_silhouette


@dataclass
class EmbeddingView:
    """An embedding of n cells, what is known of the cells, and quantities that several metrics share.

    Each attribute is an input that a metric can name as a parameter. Shared quantities (`neighbors`, `silhouette` and
    the clusterings) are computed when they are first used.

    Parameters
    ----------
    embedding
        Embedding that is measured, (n, dimensions).
    system
        System of each cell, (n,).
    batch
        Batch (sample) of each cell, (n,); None if unknown.
    label
        Cell type of each cell, (n,); None if unknown, also for some of the cells only.
    pca
        Principal components of the cells before integration, (n, components); None if there is no expression.
    moran_reference
        Variation within the cell types of the labelled cells before integration; None if unknown.
    device
        Device of the computation: ``"auto"``, ``"cpu"`` or ``"cuda"``.
    seed
        Random seed.
    """

    embedding: np.ndarray
    system: np.ndarray
    batch: np.ndarray | None = None
    label: np.ndarray | None = None
    pca: np.ndarray | None = None
    moran_reference: MoranReference | None = None
    device: str = "cpu"
    seed: int = 0

    @cached_property
    def neighbors(self) -> Neighbors:
        """Nearest 89 other cells of each cell (90 counting the cell itself)."""
        return nearest_neighbors(self.embedding, 89, device=self.device, seed=self.seed)

    @cached_property
    def silhouette(self) -> Score:
        """Label silhouette; the only quantity that needs the distances of all pairs of cells."""
        return label_silhouette(self.embedding, self._known_label(), device=self.device)

    @cached_property
    def kmeans_clusters(self) -> np.ndarray:
        """Clusters of k-means, as many as there are labels, (n,)."""
        return kmeans(self.embedding, len(np.unique(self._known_label())), seed=self.seed)

    @cached_property
    def leiden_clusters(self) -> np.ndarray:
        """Leiden clusters of resolution 2, each named after its most common label, (n,)."""
        return name_clusters(leiden(self.neighbors, 2.0, seed=self.seed), self._known_label())

    @cached_property
    def best_leiden_clusters(self) -> np.ndarray:
        """Leiden clusters of the resolution, out of ten, that has the highest NMI with the labels, (n,)."""
        return best_clusters(self._known_label(), leiden_sweep(self.neighbors, seed=self.seed))

    def _known_label(self) -> np.ndarray:
        if self.label is None:
            raise ValueError("This input needs the labels of all cells of the embedding.")
        return self.label


CLUSTER_CONVENTIONS = {
    "kmeans_clusters": "k-means with as many clusters as types, best of ten starts",
    "leiden_clusters": "Leiden clusters of resolution 2, named after their most common type",
    "best_leiden_clusters": "Leiden at the resolution of 0.2, 0.4, ..., 2 with the highest NMI",
}
INPUTS_FROM_LABELS = frozenset({"label", "silhouette", "moran_reference", *CLUSTER_CONVENTIONS})
