# /// script
# dependencies = ["scVital==1.0.1"]
#
# [tool.sysvi]
# package = "scVital"
# imports = ["scVital"]
#
# # Settings are its own. The grid is ours: the weight of the discriminator of systems.
# [tool.sysvi.methods.scvital]
# title = "scVital"
# epochs = true
# settings = { discCoef = 1.0, latentSize = 12 }
# grid = { discCoef = [0.5, 1.0, 2.0, 5.0] }
# ///
"""scVital: an autoencoder with an adversary that tells systems apart; it knows no batches within systems."""

import json
import sys


def main(source: str, target: str, run: dict) -> None:
    """Integrate the cells in the h5ad file `source` and write the embedding to the .npy file `target`."""
    import anndata
    import numpy as np
    import scVital

    training = {"numEpoch": run["epochs"]} if run["epochs"] else {}
    adata = anndata.read_h5ad(source)
    model = scVital.makeScVital(adata, "system", seed=run["seed"], verbose=False, **training, **run["settings"])
    model.runTrainScVital()
    np.save(target, model.getAdata().obsm["X_scVital"])


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], json.loads(sys.argv[3]))
