"""Measure embeddings with scib-metrics, which is part of the development environment.

python benchmarks/peers/scib.py prepared.h5ad name=embedding.npy [name=embedding.npy ...]

Prints one line of JSON: for each name iLISI, cLISI (90 neighbours, as in the package's Benchmarker), NMI and ARI
(k-means clusters), for the cells whose cell type is in all systems, and for all cells ("_all").
"""

import json
import sys
import warnings

import anndata
import numpy as np
import scib_metrics
from scib_metrics.nearest_neighbors import pynndescent

warnings.filterwarnings("ignore")
adata = anndata.read_h5ad(sys.argv[1])
system = adata.obs["system"].cat.codes.to_numpy()
label = adata.obs["cell_type"].astype("category").cat.codes.to_numpy()
shared = [t for t in np.unique(label) if min(np.sum((label == t) & (system == s)) for s in np.unique(system)) >= 20]
both = np.isin(label, shared)
results = {}
for argument in sys.argv[2:]:
    name, path = argument.split("=")
    z = np.load(path)
    values = {}
    for suffix, cells in (("", both), ("_all", np.ones(len(z), bool))):
        neighbors = pynndescent(z[cells], n_neighbors=90, random_state=0)
        values["iLISI" + suffix] = float(scib_metrics.ilisi_knn(neighbors, system[cells]))
        values["cLISI" + suffix] = float(scib_metrics.clisi_knn(neighbors, label[cells]))
        clusters = scib_metrics.nmi_ari_cluster_labels_kmeans(z[cells], label[cells])
        values |= {name + suffix: float(value) for name, value in clusters.items()}
    results[name] = values
print(json.dumps(results))
