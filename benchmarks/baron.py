"""Quality of integration of Baron's islets (human and mouse), compared with scvi-tools' SysVI and PCA.

    python benchmarks/baron.py           trains three seeds of each at the defaults and measures them; about 40 minutes
    python benchmarks/baron.py --ours    only sysvi and PCA; the rows of scvi-tools are kept

Needs SYSVI_DATA. The environment of the peers (.venv-bench) is created if need be. Embeddings are kept in
benchmarks/.cache and reused (those of sysvi only with --reuse). Writes benchmarks/results/baron_quality.csv.
"""

import argparse
import platform

import anndata
import data
import numpy as np
import pandas as pd
import scanpy as sc
import torch
from common import CACHE, RESULTS, make_peer_environment, ours, peer
from sklearn.neighbors import KNeighborsClassifier

import sysvi
from sysvi.metrics import shared_neighbors

PREPARED = data.BARON
SEEDS = (0, 1, 2)


def main() -> None:
    """Compute the embeddings and measure them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reuse", action="store_true", help="reuse our own embeddings from the cache too")
    parser.add_argument("--ours", action="store_true", help="only sysvi and PCA; the rows of scvi-tools are kept")
    args = parser.parse_args()
    CACHE.mkdir(exist_ok=True)
    RESULTS.mkdir(exist_ok=True)
    if not args.ours:
        make_peer_environment()
    data.baron()
    print(f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    quality(args.reuse, args.ours)


def quality(reuse: bool, only_ours: bool) -> None:
    """Compute the embeddings of PCA, sysvi and scvi-tools for all seeds, measure them and write the table."""
    adata = anndata.read_h5ad(PREPARED)
    paths = {"PCA": CACHE / "baron_pca.npy"}
    np.save(paths["PCA"], sc.pp.pca(adata.X, n_comps=30, random_state=0))
    for seed in SEEDS:
        ours_path, peer_path = CACHE / f"baron_sysvi_{seed}.npy", CACHE / f"baron_scvi_{seed}.npy"
        if not (reuse and ours_path.exists()):
            sysvi.integrate(adata, "system", "batch", seed=seed, progress=False)
            np.save(ours_path, adata.obsm["X_sysVI"])
        paths[f"sysvi {sysvi.__version__}, seed {seed}"] = ours_path
        if not only_ours:
            if not peer_path.exists():
                peer("scvi_sysvi.py", PREPARED, peer_path, "--seed", seed)
            paths[f"scvi-tools 1.5.1 SysVI, seed {seed}"] = peer_path
    names = list(paths)
    scib = ours("peers/scib.py", PREPARED, *(f"{i}={paths[name]}" for i, name in enumerate(names)))
    rows = {name: measure(np.load(paths[name]), adata) | scib[str(i)] for i, name in enumerate(names)}
    table, path = pd.DataFrame(rows).T, RESULTS / "baron_quality.csv"
    if only_ours:
        old = pd.read_csv(path, index_col=0)
        table = pd.concat([old[~old.index.isin(table.index)], table])
    table = table.sort_index()
    table.to_csv(path, float_format="%.4f")
    method = table.index.str.replace(r", seed \d+", "", regex=True)
    columns = ["shared_neighbors", "label_transfer", "knn_purity", "iLISI", "cLISI", "nmi", "ari", "iLISI_all"]
    print(table.groupby(method)[columns].mean().round(3).to_string())


def measure(z: np.ndarray, adata: anndata.AnnData) -> dict[str, float]:
    """Metrics of one embedding (cells x latent dimensions)."""
    system, label = adata.obs["system"].to_numpy(), adata.obs["cell_type"].to_numpy().astype(str)
    per_type = shared_neighbors(z, system, label)
    shared = np.isin(label, per_type.index)
    # Label transfer: the cell type of a cell is predicted from its 15 nearest cells of the other system (shared types).
    accuracies = []
    for s in np.unique(system):
        query, reference = shared & (system == s), shared & (system != s)
        vote = KNeighborsClassifier(15).fit(z[reference], label[reference]).predict(z[query])
        accuracies.append(np.mean(vote == label[query]))
    neighbors = KNeighborsClassifier(15).fit(z, label).kneighbors(return_distance=False)
    return {
        "shared_neighbors": per_type.mean(),
        "label_transfer": float(np.mean(accuracies)),
        "knn_purity": float(np.mean(label[neighbors] == label[:, None])),
        **{f"shared_neighbors: {name}": value for name, value in per_type.items()},
    }


if __name__ == "__main__":
    main()
