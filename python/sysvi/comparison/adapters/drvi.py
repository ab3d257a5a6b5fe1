# /// script
# requires-python = ">=3.12"
# dependencies = ["scvi-tools==1.5.1"]
#
# [tool.sysvi]
# package = "scvi-tools"
# imports = ["scvi.external"]
#
# # Settings are its own. The grid is ours: the number of latent dimensions, each of which is decoded separately.
# [tool.sysvi.methods.drvi]
# title = "DRVI"
# counts = true
# epochs = true
# settings = { n_latent = 32 }
# grid = { n_latent = [16, 32, 64] }
# ///
"""DRVI (disentangled representation) of scvi-tools, on counts: systems are its batches, batches a covariate."""

import json
import sys


def main(source: str, target: str, run: dict) -> None:
    """Integrate the cells in the h5ad file `source` and write the embedding to the .npy file `target`."""
    import anndata
    import numpy as np
    import scvi
    from scvi.external import DRVI

    scvi.settings.seed = run["seed"]
    adata = anndata.read_h5ad(source)
    DRVI.setup_anndata(adata, layer="counts", batch_key="system", categorical_covariate_keys=["batch"])
    model = DRVI(adata, **run["settings"])
    model.train(max_epochs=run["epochs"], enable_progress_bar=False)
    np.save(target, model.get_latent_representation())


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], json.loads(sys.argv[3]))
