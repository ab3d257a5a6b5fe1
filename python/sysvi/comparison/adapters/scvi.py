# /// script
# requires-python = ">=3.12"
# dependencies = ["scvi-tools==1.5.1"]
#
# [tool.sysvi]
# package = "scvi-tools"
# imports = ["scvi"]
#
# [tool.sysvi.methods.scvi]
# title = "scVI"
# counts = true
# epochs = true
# settings = { n_layers = 2, n_hidden = 256, n_latent = 15, gene_likelihood = "nb", kl_weight = 1 }
# grid = { kl_weight = [0.5, 1, 1.5, 2] }
# ///
"""scVI on counts: systems are its batches, batches a covariate; the KL weight rises over the first 1,600 steps."""

import json
import sys


def main(source: str, target: str, run: dict) -> None:
    """Integrate the cells in the h5ad file `source` and write the embedding to the .npy file `target`."""
    import anndata
    import numpy as np
    import scvi

    settings = dict(run["settings"])
    plan = {"max_kl_weight": settings.pop("kl_weight"), "n_epochs_kl_warmup": None, "n_steps_kl_warmup": 1600}
    scvi.settings.seed = run["seed"]
    adata = anndata.read_h5ad(source)
    scvi.model.SCVI.setup_anndata(adata, layer="counts", batch_key="system", categorical_covariate_keys=["batch"])
    model = scvi.model.SCVI(adata, **settings)
    model.train(max_epochs=run["epochs"], plan_kwargs=plan, enable_progress_bar=False)
    np.save(target, model.get_latent_representation())


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], json.loads(sys.argv[3]))
