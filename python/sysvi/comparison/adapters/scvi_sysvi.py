# /// script
# requires-python = ">=3.12"
# dependencies = ["scvi-tools==1.5.1"]
#
# [tool.sysvi]
# package = "scvi-tools"
# imports = ["scvi.external"]
#
# [tool.sysvi.methods.scvi-sysvi]
# title = "SysVI (scvi-tools)"
# epochs = true
# settings = { cycle_weight = 5, kl_weight = 1, n_prior_components = 5 }
# grid = { cycle_weight = [2, 5, 10, 50] }
# ///
"""SysVI of scvi-tools; its `batch_key` is the column with the systems."""

import json
import sys


def main(source: str, target: str, run: dict) -> None:
    """Integrate the cells in the h5ad file `source` and write the embedding to the .npy file `target`."""
    import anndata
    import numpy as np
    import scvi
    from scvi.external import SysVI

    settings = run["settings"]
    scvi.settings.seed = run["seed"]
    adata = anndata.read_h5ad(source)
    SysVI.setup_anndata(adata, batch_key="system", categorical_covariate_keys=["batch"])
    model = SysVI(adata, prior="vamp", n_prior_components=settings["n_prior_components"])
    plan = {"kl_weight": settings["kl_weight"], "z_distance_cycle_weight": settings["cycle_weight"]}
    model.train(max_epochs=run["epochs"], plan_kwargs=plan, enable_progress_bar=False)
    np.save(target, model.get_latent_representation())


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], json.loads(sys.argv[3]))
