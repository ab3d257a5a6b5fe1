# /// script
# dependencies = []
#
# [tool.sysvi]
# package = "sysvi"
# imports = ["sysvi"]
#
# [tool.sysvi.methods.pca]
# title = "PCA (not integrated)"
# deterministic = true
# settings = { n_components = 50 }
# ///
"""Principal components without any integration, for reference."""

import json
import sys


def main(source: str, target: str, run: dict) -> None:
    """Integrate the cells in the h5ad file `source` and write the embedding to the .npy file `target`."""
    import anndata
    import numpy as np

    from sysvi.metrics._pca import principal_components

    x = anndata.read_h5ad(source).X
    np.save(target, principal_components(x, run["settings"]["n_components"], seed=run["seed"]))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], json.loads(sys.argv[3]))
