# /// script
# requires-python = ">=3.11,<3.12"
# dependencies = [
#   "scgen==2.1.0", "scvi-tools==0.19.0", "torchmetrics==0.11.4", "jax==0.4.23", "jaxlib==0.4.23", "flax==0.7.5",
#   "numpyro==0.13.2", "chex==0.1.86", "optax==0.1.9", "orbax-checkpoint<0.5", "ml_dtypes<0.4", "anndata<0.10",
#   "scanpy<1.10", "numpy<1.27", "scipy<1.12", "pandas<2.2", "setuptools<81",
# ]
#
# [tool.sysvi]
# package = "scgen"
# imports = ["scgen"]
#
# # It uses the cell type labels; unlabelled cells form one further label. The paper integrated systems and batches.
# [tool.sysvi.methods.scgen]
# title = "scGEN (uses cell types)"
# labels = true
# epochs = true
# settings = { integrate_by = "system", kl_weight = 0.1, max_epochs = 50 }
# grid = { integrate_by = ["system", "batch"] }
# ///
"""scGen: aligns systems (or batches) separately for each cell type label."""

import json
import sys


def main(source: str, target: str, run: dict) -> None:
    """Integrate the cells in the h5ad file `source` and write the embedding to the .npy file `target`."""
    import anndata
    import numpy as np
    import scgen
    import scvi

    settings = run["settings"]
    scvi.settings.seed = run["seed"]
    read = anndata.read_h5ad(source)
    # batch_removal() returns obsm["latent"] ordered by label, with labels found in one system only at the end, whatever
    # its obs_names say. So the cells are passed in that order, and the embedding is put back into the original order.
    label = read.obs["label"].astype(str)
    single = read.obs.groupby(label)[settings["integrate_by"]].nunique()[label].to_numpy() < 2
    order = np.lexsort((label.to_numpy(str), single))
    adata = read[order].copy()
    scgen.SCGEN.setup_anndata(adata, batch_key=settings["integrate_by"], labels_key="label")
    model = scgen.SCGEN(adata, kl_weight=settings["kl_weight"])
    model.train(max_epochs=run["epochs"] or settings["max_epochs"])
    latent = model.batch_removal().obsm["latent"]
    embedding = np.empty_like(latent)
    embedding[order] = latent
    np.save(target, embedding)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], json.loads(sys.argv[3]))
