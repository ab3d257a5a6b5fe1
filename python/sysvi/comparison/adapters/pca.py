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
"""Principal components: the cells as they are."""

import json
import sys


def main(source: str, target: str, run: dict) -> None:
    """Write the embedding of the cells in `source` to `target`."""
    import anndata
    import numpy as np

    from sysvi.metrics._pca import principal_components

    x = anndata.read_h5ad(source).X
    np.save(target, principal_components(x, run["settings"]["n_components"], seed=run["seed"]))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], json.loads(sys.argv[3]))
