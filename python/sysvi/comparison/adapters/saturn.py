# /// script
# dependencies = [
#   "scvi-tools==1.4.2", "scanpy", "scikit-misc", "igraph", "record-keeper", "faiss-cpu", "plotly", "torchvision",
# ]
#
# [tool.sysvi]
# package = "scanpy"
# imports = ["scanpy", "faiss", "record_keeper", "plotly", "torchvision"]
#
# [tool.sysvi.paths]
# SATURN_CODE = "a clone of github.com/snap-stanford/SATURN, which no package registry offers"
# SATURN_EMBEDDINGS = "a folder with SATURN's protein embeddings, a file <system>_embedding.torch for each system"
#
# [tool.sysvi.methods.saturn]
# title = "SATURN"
# counts = true
# epochs = true
# grid = { pe_sim_penalty = [0.01, 0.1, 1.0, 10.0] }
#
# [tool.sysvi.methods.saturn.settings]
# pe_sim_penalty = 1.0
# n_latent = 32
# n_hidden = 256
# macrogenes = 1500
# variable_genes = 6000
# epochs = 50
# ///
"""SATURN, with clusters of each system by itself; a fifth of the epochs (the paper: 10 of 50) are pretraining."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path


def main(source: str, target: str, run: dict) -> None:
    """Integrate the cells in the h5ad file `source` and write the embedding to the .npy file `target`."""
    import anndata
    import numpy as np
    import pandas as pd
    import scanpy as sc

    settings, seed = run["settings"], run["seed"]
    code, proteins = Path(os.environ["SATURN_CODE"]), Path(os.environ["SATURN_EMBEDDINGS"])
    epochs = max(2, run["epochs"] or settings["epochs"])
    pretraining = max(1, epochs // 5)
    adata = anndata.read_h5ad(source)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows = []
        for system in sorted(adata.obs["system"].unique()):
            part = adata[adata.obs["system"] == system].copy()
            expression = part.copy()
            sc.pp.scale(expression)
            sc.pp.pca(expression, random_state=seed)
            sc.pp.neighbors(expression, random_state=seed)
            sc.tl.leiden(expression, flavor="igraph", n_iterations=2, random_state=seed)
            part.obs["cluster"] = [f"{system}{cluster}" for cluster in expression.obs["leiden"]]
            part.X = part.layers["counts"]
            part.write_h5ad(folder / f"{system}.h5ad")
            embedding = proteins / f"{system}_embedding.torch"
            rows.append({"path": folder / f"{system}.h5ad", "species": system, "embedding_path": embedding})
        pd.DataFrame(rows).to_csv(folder / "systems.csv", index=False)
        options = {
            "in_data": folder / "systems.csv",
            "in_label_col": "cluster",
            "ref_label_col": "cluster",
            "non_species_batch_col": "batch",
            "work_dir": f"{folder}/",
            "centroids_init_path": folder / "centroids.pkl",
            "num_macrogenes": settings["macrogenes"],
            "hv_genes": settings["variable_genes"],
            "pe_sim_penalty": settings["pe_sim_penalty"],
            "model_dim": settings["n_latent"],
            "hidden_dim": settings["n_hidden"],
            "pretrain_epochs": pretraining,
            "epochs": epochs - pretraining,
            "seed": seed,
        }
        command = [sys.executable, "train-saturn.py", "--pretrain"]
        for option, value in options.items():
            command += [f"--{option}", str(value)]
        subprocess.run(command, cwd=code, check=True)
        (result,) = (folder / "saturn_results").glob(f"*_seed_{seed}.h5ad")
        np.save(target, np.asarray(anndata.read_h5ad(result)[adata.obs_names].X))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], json.loads(sys.argv[3]))
