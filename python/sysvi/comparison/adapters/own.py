# /// script
# dependencies = []
#
# [tool.sysvi]
# package = "sysvi"
# imports = ["sysvi"]
#
# [tool.sysvi.methods.sysvi]
# title = "sysVI (VAMP + CYC)"
# epochs = true
# settings = { prior = "vamp", n_prior_components = 5, cycle_weight = 10, kl_weight = 1 }
# grid = { cycle_weight = [5, 10, 30, 100] }
#
# [tool.sysvi.methods.cvae]
# title = "cVAE"
# epochs = true
# settings = { preset = "paper", prior = "standard_normal", cycle_weight = 0, kl_weight = 1 }
# grid = { kl_weight = [1, 1.5, 2, 5] }
#
# [tool.sysvi.methods.vamp]
# title = "VAMP"
# epochs = true
# settings = { preset = "paper", prior = "vamp", cycle_weight = 0, kl_weight = 1 }
# grid = { kl_weight = [1, 1.5, 2, 5] }
#
# [tool.sysvi.methods.cyc]
# title = "CYC"
# epochs = true
# settings = { preset = "paper", prior = "standard_normal", cycle_weight = 5, kl_weight = 1 }
# grid = { cycle_weight = [2, 5, 10, 50] }
#
# # The paper's configurations contain no such adversarial model (their kappa belongs to GLUE), so the grid is ours.
# [tool.sysvi.methods.adv]
# title = "ADV"
# epochs = true
# settings = { preset = "paper", prior = "standard_normal", cycle_weight = 0, kl_weight = 1, adversarial_weight = 1 }
# grid = { adversarial_weight = [1, 5, 10, 50] }
# ///
"""sysVI and the paper's baselines: its model without the cycle loss, the VampPrior or both, and with an adversary.

The baselines are trained as in the paper: single models from random weights, 400 epochs.
"""

import json
import sys


def main(source: str, target: str, run: dict) -> None:
    """Integrate the cells in the h5ad file `source` and write the embedding to the .npy file `target`."""
    import anndata
    import numpy as np

    import sysvi

    settings = run["settings"] | ({"max_epochs": run["epochs"]} if run["epochs"] else {})
    adata = anndata.read_h5ad(source)
    sysvi.integrate(adata, "system", "batch", seed=run["seed"], progress=False, **settings)
    np.save(target, adata.obsm["X_sysVI"])


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], json.loads(sys.argv[3]))
