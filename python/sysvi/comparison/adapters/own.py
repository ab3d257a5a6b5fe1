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
# grid = { cycle_weight = [2, 5, 10, 50] }
#
# [tool.sysvi.methods.cvae]
# title = "cVAE"
# epochs = true
# settings = { prior = "standard_normal", cycle_weight = 0, kl_weight = 1 }
# grid = { kl_weight = [1, 1.5, 2, 5] }
#
# [tool.sysvi.methods.vamp]
# title = "VAMP"
# epochs = true
# settings = { prior = "vamp", n_prior_components = 5, mixture_share = [1, 0, 0], cycle_weight = 0, kl_weight = 1 }
# grid = { kl_weight = [1, 1.5, 2, 5] }
#
# [tool.sysvi.methods.cyc]
# title = "CYC"
# epochs = true
# settings = { prior = "standard_normal", cycle_weight = 5, kl_weight = 1 }
# grid = { cycle_weight = [2, 5, 10, 50] }
#
# # The paper's configurations hold no adversarial model of its own (its kappa is GLUE's): the grid is ours.
# [tool.sysvi.methods.adv]
# title = "ADV"
# epochs = true
# settings = { prior = "standard_normal", cycle_weight = 0, kl_weight = 1, adversarial_weight = 1 }
# grid = { adversarial_weight = [1, 5, 10, 50] }
# ///
"""The model of this package and its baselines."""

import json
import sys


def main(source: str, target: str, run: dict) -> None:
    """Write the embedding of the cells in `source` to `target`."""
    import anndata
    import numpy as np

    import sysvi

    settings = run["settings"] | ({"max_epochs": run["epochs"]} if run["epochs"] else {})
    adata = anndata.read_h5ad(source)
    sysvi.integrate(adata, "system", "batch", seed=run["seed"], progress=False, **settings)
    np.save(target, adata.obsm["X_sysVI"])


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], json.loads(sys.argv[3]))
