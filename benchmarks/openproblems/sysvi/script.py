"""Integrate the batches of an Open Problems data set with sysVI: the task's batches are sysVI's systems."""

import anndata
import h5py
from anndata.io import read_elem

import sysvi

## VIASH START
par = {
    "input": "resources_test/task_batch_integration/cxg_immune_cell_atlas/dataset.h5ad",
    "output": "output.h5ad",
    "n_hvg": 2000,
    "max_epochs": None,
}
meta = {"name": "sysvi"}
## VIASH END

print(f"Read {par['input']}", flush=True)
with h5py.File(par["input"]) as file:
    adata = anndata.AnnData(
        read_elem(file["layers/normalized"]), obs=read_elem(file["obs"])[["batch"]], var=read_elem(file["var"])
    )
    ids = {name: read_elem(file["uns"][name]) for name in ("dataset_id", "normalization_id")}
genes = adata.var["hvg_score"].nlargest(par["n_hvg"]).index
adata = adata[:, genes].copy()

print(f"Integrate {adata.n_obs} cells by {adata.n_vars} genes", flush=True)
settings = {} if par["max_epochs"] is None else {"max_epochs": par["max_epochs"]}
sysvi.integrate(adata, system_key="batch", progress=False, **settings)

print(f"Write {par['output']}", flush=True)
output = anndata.AnnData(
    obs=adata.obs[[]],
    var=adata.var[[]],
    obsm={"X_emb": adata.obsm["X_sysVI"]},
    uns={**ids, "method_id": meta["name"]},
)
output.write_h5ad(par["output"], compression="gzip")
