# /// script
# dependencies = ["harmonypy==2.1.0", "anndata>=0.11", "scikit-learn>=1.4"]
#
# [tool.sysvi]
# package = "harmonypy"
# imports = ["harmonypy", "anndata", "sklearn"]
#
# # The grid is ours. theta (default 2) is the weight of mixing.
# [tool.sysvi.methods.harmony]
# title = "Harmony (Python)"
# settings = { theta = 2, n_components = 50 }
# grid = { theta = [1, 2, 5, 10] }
# ///
"""Harmony (harmonypy) on principal components, corrected for systems and batches."""

import json
import sys


def main(source: str, target: str, run: dict) -> None:
    """Integrate the cells in the h5ad file `source` and write the embedding to the .npy file `target`."""
    import anndata
    import harmonypy
    import numpy as np
    from sklearn.decomposition import PCA

    settings, seed = run["settings"], run["seed"]
    adata = anndata.read_h5ad(source)
    n_components = min(settings["n_components"], min(adata.shape) - 1)
    points = PCA(n_components, svd_solver="arpack", random_state=seed).fit_transform(adata.X)  # (n, components)
    harmony = harmonypy.run_harmony(
        points, adata.obs, ["system", "batch"], theta=[settings["theta"]] * 2, random_state=seed, verbose=False
    )
    corrected = np.asarray(harmony.Z_corr)  # (n, components), transposed in some versions of harmonypy
    np.save(target, corrected if corrected.shape[0] == adata.n_obs else corrected.T)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], json.loads(sys.argv[3]))
