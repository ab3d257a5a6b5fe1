# /// script
# dependencies = ["harmonypy==2.1.0", "anndata>=0.11", "scikit-learn>=1.4"]
#
# [tool.sysvi]
# package = "harmonypy"
# imports = ["harmonypy", "anndata", "sklearn"]
#
# # The grid is ours: theta is Harmony's weight of mixing, 2 its default.
# [tool.sysvi.methods.harmony]
# title = "Harmony (Python)"
# settings = { theta = 2, n_components = 50 }
# grid = { theta = [1, 2, 5, 10] }
# ///
"""Harmony on principal components, for systems and batches."""

import json
import sys


def main(source: str, target: str, run: dict) -> None:
    """Write the embedding of the cells in `source` to `target`."""
    import anndata
    import harmonypy
    import numpy as np
    from sklearn.decomposition import PCA

    settings, seed = run["settings"], run["seed"]
    adata = anndata.read_h5ad(source)
    n_components = min(settings["n_components"], min(adata.shape) - 1)
    points = PCA(n_components, svd_solver="arpack", random_state=seed).fit_transform(adata.X)  # (n, components)
    found = harmonypy.run_harmony(
        points, adata.obs, ["system", "batch"], theta=[settings["theta"]] * 2, random_state=seed, verbose=False
    )
    corrected = np.asarray(found.Z_corr)
    np.save(target, corrected if corrected.shape[0] == adata.n_obs else corrected.T)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], json.loads(sys.argv[3]))
