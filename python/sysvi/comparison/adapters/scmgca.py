# /// script
# requires-python = ">=3.11,<3.12"
# dependencies = [
#   "scMGCA==1.0.7", "spektral<0.7", "tensorflow-cpu<2.16", "tensorflow-probability<0.24", "scanpy<1.10",
#   "anndata<0.10", "leidenalg", "numpy<1.24", "scipy<1.12", "pandas<2.2", "matplotlib<3.9",
# ]
#
# [tool.sysvi]
# package = "scMGCA"
# imports = ["scMGCA.scmgca", "scMGCA.preprocess", "scMGCA.graph_function"]
#
# # Settings of its authors' example for several batches. The graph of cells is a dense matrix, so memory grows with
# # the square of the number of cells.
# [tool.sysvi.methods.scmgca]
# title = "scMGCA"
# counts = true
# epochs = true
#
# [tool.sysvi.methods.scmgca.settings]
# latent_dim = 20
# dec_dim = [128]
# W_a = 0.6
# lr = 0.0005
# epochs = 1000
# clustering_epochs = 300
# clusters = 8
# ///
"""scMGCA, with genes scaled within each system."""

import json
import sys


def main(source: str, target: str, run: dict) -> None:
    """Integrate the cells in the h5ad file `source` and write the embedding to the .npy file `target`."""
    import anndata
    import numpy as np
    import pandas as pd
    import scanpy as sc
    import tensorflow as tf
    from scMGCA.graph_function import get_adj
    from scMGCA.preprocess import normalize_batch
    from scMGCA.scmgca import SCMGCA
    from scMGCA.utils import find_resolution
    from spektral.layers import GraphConv

    settings = run["settings"]
    epochs = run["epochs"] or settings["epochs"]
    clustering_epochs = min(run["epochs"] or epochs, settings["clustering_epochs"])
    np.random.seed(run["seed"])  # noqa: NPY002 (scMGCA draws from this global generator)
    tf.random.set_seed(run["seed"])
    read = anndata.read_h5ad(source)
    adata = anndata.AnnData(read.layers["counts"].toarray(), obs=pd.DataFrame({"system": list(read.obs["system"])}))
    x = np.asarray(normalize_batch(adata, batch_key="system", n_high_var=None), np.float32)
    graph = get_adj(x)  # (n, n)
    normalised = GraphConv.preprocess(graph)
    model = SCMGCA(x, adj=graph, adj_n=normalised, latent_dim=settings["latent_dim"], dec_dim=settings["dec_dim"])
    model.pre_train(epochs=epochs, W_a=settings["W_a"], lr=settings["lr"])
    first = sc.AnnData(model.embedding(x, normalised))
    sc.pp.neighbors(first, n_neighbors=15, use_rep="X")
    sc.tl.leiden(first, find_resolution(first, settings["clusters"], 0), random_state=0)
    centers = pd.DataFrame(first.X).groupby(first.obs["leiden"].to_numpy()).mean().to_numpy()
    np.save(target, model.train(epochs=clustering_epochs, W_a=settings["W_a"], centers=centers).latent)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], json.loads(sys.argv[3]))
