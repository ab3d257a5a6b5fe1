"""LISI by scib-metrics and harmonypy; runs in the environment of benchmarks/lisi.py.

python benchmarks/peers/lisi.py embedding.npy system.npy target.npz

Writes the LISI of each cell: by scib-metrics from 90 neighbours with the cell itself (as its Benchmarker passes them)
and from 90 other cells, and by harmonypy.
"""

import sys

import harmonypy
import numpy as np
import pandas as pd
import scib_metrics
from scib_metrics.nearest_neighbors import NeighborsResults
from sklearn.neighbors import NearestNeighbors

embedding, system = np.load(sys.argv[1]), np.load(sys.argv[2])
distances, indices = (
    NearestNeighbors(n_neighbors=91).fit(embedding).kneighbors(embedding)
)  # the cell itself comes first


def scib(columns: slice) -> np.ndarray:
    """LISI by scib-metrics from some of the neighbours."""
    return scib_metrics.lisi_knn(NeighborsResults(indices=indices[:, columns], distances=distances[:, columns]), system)


np.savez(
    sys.argv[3],
    scib_with_self=scib(slice(0, 90)),
    scib_without_self=scib(slice(1, 91)),
    harmonypy=harmonypy.compute_lisi(embedding, pd.DataFrame({"system": system}), ["system"], 30)[:, 0],
)
