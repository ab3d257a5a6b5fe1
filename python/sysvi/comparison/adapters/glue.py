# /// script
# dependencies = ["scglue==0.4.1"]
#
# [tool.sysvi]
# package = "scglue"
# imports = ["scglue"]
#
# # One parameter is varied at a time and the others keep their defaults, as in the paper.
# [tool.sysvi.methods.glue]
# title = "GLUE"
# counts = true
# epochs = true
#
# [tool.sysvi.methods.glue.settings]
# rel_gene_weight = 1.0
# lam_align = 0.05
# lam_graph = 0.02
# lam_data = 1.0
# lam_kl = 1.0
# latent_dim = 50
# h_depth = 2
# h_dim = 256
#
# [tool.sysvi.methods.glue.grid]
# rel_gene_weight = [0.4, 0.6, 0.8, 1.0]
# lam_align = [0.0005, 0.005, 0.05, 0.5]
# lam_graph = [0.005, 0.1, 0.5, 2.0]
# ///
"""GLUE: each system is a modality; the guidance graph links each gene with itself in the other systems."""

import json
import sys
import tempfile


def main(source: str, target: str, run: dict) -> None:
    """Integrate the cells in the h5ad file `source` and write the embedding to the .npy file `target`."""
    import anndata
    import networkx as nx
    import numpy as np
    import scanpy as sc
    import scglue

    settings, seed = run["settings"], run["seed"]
    adata = anndata.read_h5ad(source)
    systems, genes = sorted(adata.obs["system"].unique()), list(adata.var_names)
    modalities = {}
    for system in systems:
        part = adata[adata.obs["system"] == system].copy()
        part.var_names = [f"{gene}@{system}" for gene in genes]
        sc.pp.scale(part)
        sc.pp.pca(part, n_comps=min(50, min(part.shape) - 1), random_state=seed)
        scglue.models.configure_dataset(
            part, "NB", use_highly_variable=False, use_batch="batch", use_layer="counts", use_rep="X_pca"
        )
        modalities[system] = part
    graph = nx.MultiDiGraph()
    for a in systems:
        for b in systems:
            weight = 1.0 if a == b else settings["rel_gene_weight"]
            graph.add_edges_from((f"{gene}@{a}", f"{gene}@{b}", {"weight": weight, "sign": 1}) for gene in genes)
    with tempfile.TemporaryDirectory() as folder:
        model = scglue.models.fit_SCGLUE(
            modalities,
            graph,
            init_kws={name: settings[name] for name in ("latent_dim", "h_depth", "h_dim")} | {"random_seed": seed},
            compile_kws={name: settings[name] for name in ("lam_data", "lam_kl", "lam_graph", "lam_align")},
            fit_kws={"directory": folder} | ({"max_epochs": run["epochs"]} if run["epochs"] else {}),
        )
    embedding = np.empty((adata.n_obs, settings["latent_dim"]), np.float32)
    for system, part in modalities.items():
        embedding[(adata.obs["system"] == system).to_numpy()] = model.encode_data(system, part)
    np.save(target, embedding)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], json.loads(sys.argv[3]))
