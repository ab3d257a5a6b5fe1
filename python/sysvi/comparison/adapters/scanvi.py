# /// script
# requires-python = ">=3.12"
# dependencies = ["scvi-tools==1.5.1"]
#
# [tool.sysvi]
# package = "scvi-tools"
# imports = ["scvi"]
#
# # It uses the cell type labels, except for unlabelled cells. Settings and grid are those of scVI.
# [tool.sysvi.methods.scanvi]
# title = "scANVI (uses cell types)"
# counts = true
# labels = true
# epochs = true
# settings = { n_layers = 2, n_hidden = 256, n_latent = 15, gene_likelihood = "nb", kl_weight = 1 }
# grid = { kl_weight = [0.5, 1, 1.5, 2] }
# ///
"""scANVI on counts: scVI as in scvi.py, then trained further with labels for as long as scvi-tools chooses."""

import json
import sys


def main(source: str, target: str, run: dict) -> None:
    """Integrate the cells in the h5ad file `source` and write the embedding to the .npy file `target`."""
    import anndata
    import numpy as np
    import scvi

    settings = dict(run["settings"])
    kl_weight = {"max_kl_weight": settings.pop("kl_weight")}
    plan = kl_weight | {"n_epochs_kl_warmup": None, "n_steps_kl_warmup": 1600}
    scvi.settings.seed = run["seed"]
    adata = anndata.read_h5ad(source)
    scvi.model.SCVI.setup_anndata(adata, layer="counts", batch_key="system", categorical_covariate_keys=["batch"])
    first = scvi.model.SCVI(adata, **settings)
    first.train(max_epochs=run["epochs"], plan_kwargs=plan, enable_progress_bar=False)
    model = scvi.model.SCANVI.from_scvi_model(first, unlabeled_category="unlabelled", labels_key="label")
    model.train(max_epochs=run["epochs"], plan_kwargs=kl_weight, enable_progress_bar=False)
    np.save(target, model.get_latent_representation())


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], json.loads(sys.argv[3]))
