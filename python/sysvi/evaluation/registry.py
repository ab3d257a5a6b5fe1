"""Which metrics an evaluation knows, how each is measured, and the convention of its number."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from sysvi.metrics._bras import bras
from sysvi.metrics._clustering import kmeans, leiden, leiden_sweep, name_clusters
from sysvi.metrics._graph_connectivity import graph_connectivity
from sysvi.metrics._isolated_labels import isolated_labels
from sysvi.metrics._jaccard import jaccard
from sysvi.metrics._kbet import kbet_per_label
from sysvi.metrics._knn_purity import knn_purity
from sysvi.metrics._lisi import cilisi, clisi, ilisi, ilisi_within
from sysvi.metrics._moran import moran_ratio
from sysvi.metrics._neighbors import Neighbors, nearest_neighbors
from sysvi.metrics._nmi_ari import ari, best_clusters, nmi
from sysvi.metrics._pcr import pcr_comparison
from sysvi.metrics._score import Score
from sysvi.metrics._silhouette import batch_silhouette, label_silhouette

BATCH, BIOLOGY, WITHIN = "batch correction", "biological preservation", "within-type"


@dataclass
class View:
    """One embedding of some cells, and what several metrics share, computed when first asked for."""

    points: np.ndarray  # (n, dimensions)
    system: np.ndarray  # (n,)
    batch: Any = None  # (n,), like `label`
    label: Any = None
    before: Any = None  # (n, components): the cells before integration
    within: Any = None  # MoranReference
    device: str = "cpu"
    seed: int = 0

    @cached_property
    def neighbors(self) -> Neighbors:
        """90 neighbours with the cell itself."""
        return nearest_neighbors(self.points, 89, device=self.device, seed=self.seed)

    @cached_property
    def silhouette(self) -> Score:
        """Of labels: the one pass over all pairs of cells."""
        return label_silhouette(self.points, self.label, device=self.device)

    @cached_property
    def kmeans(self) -> np.ndarray:
        """As many clusters as labels, (n,)."""
        return kmeans(self.points, len(np.unique(self.label)), seed=self.seed)

    @cached_property
    def named(self) -> np.ndarray:
        """Leiden clusters at resolution 2, each named by its most common label, (n,)."""
        return name_clusters(leiden(self.neighbors, 2.0, seed=self.seed), self.label)

    @cached_property
    def best(self) -> np.ndarray:
        """Leiden clusters at the one of ten resolutions with the highest NMI, (n,)."""
        return best_clusters(self.label, leiden_sweep(self.neighbors, seed=self.seed))


@dataclass(frozen=True)
class Metric:
    """One row of the table.

    Parameters
    ----------
    name
        Of the row.
    group
        Batch correction, biological preservation or within-type.
    measure
        The metric of a `View`.
    convention
        How the number is defined, in a line.
    needs
        What must be known of the cells: ``"label"``, ``"batch"``, ``"before"``, ``"within"``.
    in_score
        Whether it counts in the aggregated scores.
    slow
        Whether it is left out unless asked for.
    by
        What its parts are values of: ``"label"`` or ``"system"``.
    """

    name: str
    group: str
    measure: Callable[[View], Score]
    convention: str
    needs: tuple[str, ...] = ()
    in_score: bool = True
    slow: bool = False
    by: str = "label"


LABEL = ("label",)
METRICS = (
    Metric(
        "iLISI",
        BATCH,
        lambda v: ilisi(v.neighbors, v.system, v.label, device=v.device),
        "LISI of systems, 89 other neighbours, perplexity 30; (median - 1) / (systems - 1)",
    ),
    Metric(
        "CiLISI",
        BATCH,
        lambda v: cilisi(v.points, v.system, v.label, device=v.device),
        "LISI of systems within each type, 30 neighbours; (LISI - 1) / (systems of the type - 1), mean over cells",
        LABEL,
    ),
    Metric(
        "BRAS",
        BATCH,
        lambda v: bras(v.points, v.system, v.label),
        "1 - |silhouette of systems| within each type, cosine, between = all other systems; mean over types",
        LABEL,
    ),
    Metric(
        "Graph connectivity",
        BATCH,
        lambda v: graph_connectivity(v.neighbors, v.label),
        "largest strong component of each type on 14 other neighbours; mean over types",
        LABEL,
    ),
    Metric(
        "kBET",
        BATCH,
        lambda v: kbet_per_label(v.neighbors, v.system, v.label, seed=v.seed),
        "acceptance at 0.05 on diffusion neighbours within each type; mean over types",
        LABEL,
        slow=True,
    ),
    Metric(
        "PCR comparison",
        BATCH,
        lambda v: pcr_comparison(v.before, v.points, v.system),
        "(R2 of systems in the PCs before - in the embedding) / before, at least 0",
        ("before",),
    ),
    Metric(
        "iLISI of batches",
        BATCH,
        lambda v: ilisi_within(v.points, v.batch, v.system, device=v.device),
        "iLISI of batches, neighbours searched within each system; mean over systems",
        ("batch",),
        in_score=False,
        by="system",
    ),
    Metric(
        "Batch silhouette",
        BATCH,
        lambda v: batch_silhouette(v.points, v.system, v.label, device=v.device),
        "(1 - silhouette of systems) / 2 within each type, as in the paper; for history: it can reward systems side by "
        "side (Rautenstrauch & Ohler 2025)",
        LABEL,
        in_score=False,
    ),
    Metric(
        "cLISI",
        BIOLOGY,
        lambda v: clisi(v.neighbors, v.label, device=v.device),
        "LISI of types, 89 other neighbours, perplexity 30; (types - median) / (types - 1)",
        LABEL,
    ),
    Metric("NMI", BIOLOGY, lambda v: nmi(v.label, v.kmeans), "k-means with as many clusters as types", LABEL),
    Metric("ARI", BIOLOGY, lambda v: ari(v.label, v.kmeans), "k-means with as many clusters as types", LABEL),
    Metric(
        "Jaccard",
        BIOLOGY,
        lambda v: jaccard(v.label, v.named),
        "cells of a type against cells of the clusters named after it (Leiden, resolution 2); mean over types",
        LABEL,
    ),
    Metric(
        "Label silhouette",
        BIOLOGY,
        lambda v: v.silhouette,
        "(1 + silhouette of types) / 2, Euclidean; mean over cells",
        LABEL,
    ),
    Metric(
        "Isolated labels",
        BIOLOGY,
        lambda v: isolated_labels(v.silhouette, v.label, v.system),
        "label silhouette of the types present in the fewest systems; mean over types",
        LABEL,
    ),
    Metric(
        "kNN purity",
        BIOLOGY,
        lambda v: knn_purity(v.neighbors, v.label),
        "share of the 30 nearest cells of a cell's type; mean over types",
        LABEL,
        in_score=False,
    ),
    Metric(
        "NMI fixed",
        BIOLOGY,
        lambda v: nmi(v.label, v.named),
        "Leiden at resolution 2, clusters named by their most common type",
        LABEL,
        in_score=False,
    ),
    Metric(
        "ARI fixed",
        BIOLOGY,
        lambda v: ari(v.label, v.named),
        "Leiden at resolution 2, clusters named by their most common type",
        LABEL,
        in_score=False,
    ),
    Metric(
        "NMI Leiden",
        BIOLOGY,
        lambda v: nmi(v.label, v.best),
        "Leiden at the resolution of 0.2, 0.4, ..., 2 with the highest NMI",
        LABEL,
        in_score=False,
        slow=True,
    ),
    Metric(
        "ARI Leiden",
        BIOLOGY,
        lambda v: ari(v.label, v.best),
        "Leiden at the resolution of 0.2, 0.4, ..., 2 with the highest NMI",
        LABEL,
        in_score=False,
        slow=True,
    ),
    Metric(
        "Moran",
        WITHIN,
        lambda v: moran_ratio(v.within, v.points),
        "(Moran's I + 1) / 2 of genes within sample x type groups, embedding over each group's own PCA; mean over "
        "genes, samples, types",
        ("label", "within"),
    ),
)
