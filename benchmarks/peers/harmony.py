"""Correct 30 principal components by Harmony (harmonypy 2); runs in the environment of the peers.

python benchmarks/peers/harmony.py prepared.h5ad embedding.npy [--threads N]

Prints one line of JSON: clock readings when the data are in memory and when the embedding is computed ("span"); CPU
seconds of all threads; peak memory.
"""

import argparse
import json

import anndata
import harmonypy
import numpy as np
import scanpy as sc
from usage import Usage

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("prepared")
parser.add_argument("embedding")
parser.add_argument("--threads", type=int, default=0, help="number of threads; default: that of harmonypy")
args = parser.parse_args()

usage = Usage()
adata = anndata.read_h5ad(args.prepared)
usage.start()
components = sc.pp.pca(adata.X, n_comps=30)  # (cells, 30)
harmony = harmonypy.run_harmony(components, adata.obs, ["system", "batch"], verbose=False, ncores=args.threads)
embedding = np.asarray(harmony.Z_corr, np.float32)
used = usage.stop()
np.save(args.embedding, embedding)
print(json.dumps(used))
