"""Measures of an integration: pure functions of arrays, one file a metric.

Graph metrics take a `Neighbors` (`nearest_neighbors`), computed once. Most return a `Score`: the value, with the values
by label and by cell that it was made from.
"""

from sysvi.metrics.bras import bras
from sysvi.metrics.clustering import kmeans, leiden, leiden_sweep, name_clusters
from sysvi.metrics.gene_sets import gene_set_preservation
from sysvi.metrics.graph_connectivity import graph_connectivity
from sysvi.metrics.group_distances import group_distances
from sysvi.metrics.isolated_labels import isolated_labels
from sysvi.metrics.jaccard import jaccard
from sysvi.metrics.kbet import kbet, kbet_per_label
from sysvi.metrics.knn_purity import knn_purity
from sysvi.metrics.latent import latent_spread, standardise
from sysvi.metrics.lisi import cilisi, clisi, ilisi, ilisi_within, lisi
from sysvi.metrics.moran import MoranReference, moran_groups, moran_ratio, moran_reference, morans_i
from sysvi.metrics.neighbors import Neighbors, nearest_neighbors
from sysvi.metrics.nmi_ari import ari, best_clusters, nmi
from sysvi.metrics.pcr import pcr_comparison, principal_component_regression
from sysvi.metrics.score import Score
from sysvi.metrics.shared_neighbors import shared_neighbors
from sysvi.metrics.silhouette import batch_silhouette, label_silhouette
from sysvi.metrics.states import States, find_states

__all__ = [
    "MoranReference",
    "Neighbors",
    "Score",
    "States",
    "ari",
    "batch_silhouette",
    "best_clusters",
    "bras",
    "cilisi",
    "clisi",
    "find_states",
    "gene_set_preservation",
    "graph_connectivity",
    "group_distances",
    "ilisi",
    "ilisi_within",
    "isolated_labels",
    "jaccard",
    "kbet",
    "kbet_per_label",
    "kmeans",
    "knn_purity",
    "label_silhouette",
    "latent_spread",
    "leiden",
    "leiden_sweep",
    "lisi",
    "moran_groups",
    "moran_ratio",
    "moran_reference",
    "morans_i",
    "name_clusters",
    "nearest_neighbors",
    "nmi",
    "pcr_comparison",
    "principal_component_regression",
    "shared_neighbors",
    "standardise",
]
