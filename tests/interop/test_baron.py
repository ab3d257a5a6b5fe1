"""Human and mouse islets (Baron et al.) with the gene names of each species: R and Python give the same embedding."""

import anndata
import numpy as np
import pytest

import sysvi

PREPARE = """
    systems <- list(human = human, mouse = mouse)
    object <- PrepareSystems(systems, orthologs = table, system = "species", verbose = FALSE)
    RunSysVI(object, system = "species", batch = "batch", max_epochs = 2, members = 1, device = "cpu", verbose = FALSE)
"""
MAKE = {
    "Seurat": "suppressWarnings(CreateSeuratObject(x, meta.data = obs))",
    "SCE": "SingleCellExperiment(list(counts = x), colData = obs)",
}


@pytest.fixture(scope="module")
def species(data_dir):
    return {name: anndata.read_h5ad(data_dir / f"baron_pancreas_{name}.h5ad") for name in ("human", "mouse")}


@pytest.fixture(scope="module")
def prepared(species, data_dir):
    table = data_dir / "human_mouse_one2one.tsv.gz"
    mouse = sysvi.map_orthologs(species["mouse"], table, source="mouse_symbol", target="human_symbol")
    counts = sysvi.join_systems({"human": species["human"], "mouse": mouse}, system_key="species")
    adata = sysvi.prepare(counts, "species", "batch")
    sysvi.integrate(adata, "species", "batch", max_epochs=2, members=1, device="cpu", progress=False)
    return adata


@pytest.mark.parametrize("kind", MAKE)
def test_raw_objects_and_orthologues_give_pythons_embedding(r, species, prepared, data_dir, kind):
    objects = {
        name: r(
            f"dimnames(x) <- list(genes, cells); rownames(obs) <- cells; {MAKE[kind]}",
            x=adata.X,
            genes=list(adata.var_names),
            cells=list(adata.obs_names),
            obs=adata.obs[["batch", "cell_type"]],
        )
        for name, adata in species.items()
    }
    integrated = r(PREPARE, **objects, table=str(data_dir / "human_mouse_one2one.tsv.gz"))
    result = r(
        """
        z <- if (is(object, "Seurat")) Embeddings(object, "sysvi") else reducedDim(object, "sysVI")
        list(z = unname(z), cells = rownames(z))
        """,
        object=integrated,
    )
    assert list(result["cells"]) == list(prepared.obs_names)
    np.testing.assert_array_equal(np.asarray(result["z"], dtype=np.float32), prepared.obsm["X_sysVI"])
