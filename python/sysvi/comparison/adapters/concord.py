# /// script
# dependencies = ["concord-sc==1.0.13", "torch"]
#
# [tool.sysvi]
# package = "concord-sc"
# imports = ["concord"]
#
# # Settings are its own. The grid is ours: the temperature of its contrastive loss.
# [tool.sysvi.methods.concord]
# title = "CONCORD"
# epochs = true
# settings = { clr_temperature = 0.4, latent_dim = 100 }
# grid = { clr_temperature = [0.2, 0.4, 0.6] }
# ///
"""CONCORD: cells are contrasted with cells of the same domain, here a batch of a system."""

import json
import sys


def main(source: str, target: str, run: dict) -> None:
    """Integrate the cells in the h5ad file `source` and write the embedding to the .npy file `target`."""
    import anndata
    import concord
    import numpy as np

    training = {"n_epochs": run["epochs"]} if run["epochs"] else {}
    adata = anndata.read_h5ad(source)
    adata.obs["domain"] = adata.obs["system"].astype(str) + " " + adata.obs["batch"].astype(str)
    model = concord.Concord(adata, save_dir=None, domain_key="domain", seed=run["seed"], **training, **run["settings"])
    model.fit_transform(output_key="Concord", save_model=False)
    np.save(target, adata.obsm["Concord"])


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], json.loads(sys.argv[3]))
