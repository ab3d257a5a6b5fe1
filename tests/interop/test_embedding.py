"""Every kind of R object of the same cells gives the embedding of Python, identical to the bit and in its own order."""

import os
import warnings

import anndata
import numpy as np
import pytest
from r_objects import ENSEMBLE, ENSEMBLE_R, OBJECTS, SMALL, SMALL_R
from scipy import sparse

import sysvi

RUN = f"RunSysVI(object, system = 'system', batch = 'batch', {SMALL_R}"
READ = """
    z <- if (is(object, 'Seurat')) Embeddings(object, 'sysvi') else reducedDim(object, 'sysVI')
    list(z = unname(z), cells = rownames(z))
"""


@pytest.fixture(scope="session")
def embed(r):
    """Return a function that integrates an R object: (embedding, names of its cells)."""

    def run(r_object, settings=""):
        result = r(f"object <- {RUN}{settings}); {READ}", object=r_object)
        return np.asarray(result["z"]), list(result["cells"])

    return run


def test_r_uses_this_python_process(r):
    assert r("reticulate::import('os')$getpid()")[0] == os.getpid()


@pytest.mark.parametrize("kind", OBJECTS)
def test_every_kind_of_object(embed, build, log_cells, python_embedding, kind):
    embedding, cells = embed(build(kind))
    assert cells == list(log_cells.obs_names)
    np.testing.assert_array_equal(embedding, python_embedding)


@pytest.mark.parametrize("process", ["session", "separate"])
def test_expression_that_is_never_in_memory_as_a_whole(embed, build, log_cells, python_embedding, process):
    embedding, cells = embed(build("SCE in an HDF5 file"), f", memory = '4GB', process = '{process}'")
    assert cells == list(log_cells.obs_names)
    np.testing.assert_array_equal(embedding, python_embedding)


def test_sct_assay(r, embed, integrate, build, log_cells):
    seurat = r(
        "suppressWarnings(SCTransform(object, min_cells = 1, return.only.var.genes = FALSE, verbose = FALSE))",
        object=build("Assay5"),
    )
    data = r("m <- LayerData(object, 'data'); list(x = as.matrix(m), genes = rownames(m))", object=seurat)
    corrected = anndata.AnnData(sparse.csr_matrix(np.asarray(data["x"]).T, dtype=np.float32), obs=log_cells.obs)
    corrected.var_names = list(data["genes"])
    np.testing.assert_array_equal(embed(seurat)[0], integrate(corrected)[1].obsm["X_sysVI"])


@pytest.mark.parametrize(
    "kind",
    ["expression", "as.matrix(expression)", "as(expression, 'TsparseMatrix')", "as(expression, 'RsparseMatrix')"],
)
def test_every_kind_of_matrix(r, log_cells, python_embedding, kind):
    embedding = r(
        f"""
        dimnames(expression) <- list(genes, cells)
        rownames(obs) <- cells
        unclass(RunSysVI({kind}, metadata = obs, system = 'system', batch = 'batch', {SMALL_R}))
        """,
        expression=log_cells.X,
        genes=list(log_cells.var_names),
        cells=list(log_cells.obs_names),
        obs=log_cells.obs,
    )
    np.testing.assert_array_equal(np.asarray(embedding), python_embedding)


def test_integrate_layers(r, build, log_cells):
    embedding = r(
        f"""
        object <- IntegrateLayers(
          object, SysVIIntegration, orig.reduction = NULL, new.reduction = 'sysvi', scale.layer = 'data',
          features = rownames(object), batch = object$batch, {SMALL_R}
        )
        unname(Embeddings(object, 'sysvi'))
        """,
        object=build("split Assay5"),
    )
    model = sysvi.integrate(log_cells.copy(), "system", "batch", **SMALL, device="cpu", progress=False)
    np.testing.assert_array_equal(np.asarray(embedding), model.get_latent_representation())


@pytest.mark.parametrize(("kind", "process"), [("split Assay5", "session"), ("SCE", "separate")])
def test_ensemble_and_its_support(r, build, ensemble, kind, process):
    found = r(
        f"""
        object <- RunSysVI(object, 'system', 'batch', {ENSEMBLE_R}, process = '{process}')
        seurat <- is(object, 'Seurat')
        by_system <- if (seurat) {{
          Misc(object[['sysvi']], 'support_by_system')
        }} else {{
          metadata(object)[['sysVI_support_by_system']]
        }}
        list(
          z = unname(if (seurat) Embeddings(object, 'sysvi') else reducedDim(object, 'sysVI')),
          support = unname(object$sysvi_support), by_system = as.matrix(by_system), systems = names(by_system)
        )
        """,
        object=build(kind),
    )
    model, prepared = ensemble
    assert len(model.members) > 1
    np.testing.assert_array_equal(np.asarray(found["z"]), prepared.obsm["X_sysVI"])
    np.testing.assert_array_equal(np.asarray(found["support"]), prepared.obs["sysvi_support"])
    np.testing.assert_array_equal(np.asarray(found["by_system"]), prepared.obsm["sysvi_support"])
    assert list(found["systems"]) == list(prepared.obsm["sysvi_support"])


def test_ensemble_of_a_matrix_and_of_integrate_layers(r, build, log_cells):
    """With the genes that are given, here all."""
    found = r(
        f"""
        direct <- RunSysVI(
          LayerData(JoinLayers(object), 'data'), 'system', 'batch', metadata = object[[]], features = rownames(object),
          {ENSEMBLE_R}
        )
        layers <- IntegrateLayers(
          object, SysVIIntegration, orig.reduction = NULL, new.reduction = 'sysvi', scale.layer = 'data',
          features = rownames(object), batch = object$batch, {ENSEMBLE_R}
        )
        list(
          direct = matrix(direct, nrow(direct)), layers = unname(Embeddings(layers, 'sysvi')),
          support = unname(attr(direct, 'support')), layer_support = unname(Misc(layers[['sysvi']], 'support'))
        )
        """,
        object=build("split Assay5"),
    )
    adata = log_cells.copy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # few epochs
        sysvi.integrate(adata, "system", "batch", **ENSEMBLE, device="cpu", progress=False)
    for name in ("direct", "layers"):
        np.testing.assert_array_equal(np.asarray(found[name]), adata.obsm["X_sysVI"], err_msg=name)
    for name in ("support", "layer_support"):
        np.testing.assert_array_equal(np.asarray(found[name]), adata.obs["sysvi_support"], err_msg=name)


def test_preset(r, build, integrate, log_cells):
    few = {"max_epochs": 2, "seed": 3, "n_hidden": 32}
    expected = integrate(log_cells, settings={"preset": "paper", **few})[1].obsm["X_sysVI"]
    z = r(
        """
        object <- RunSysVI(
          object, 'system', 'batch', preset = 'paper', max_epochs = 2, seed = 3, options = sysvi_options(n_hidden = 32),
          device = 'cpu', verbose = FALSE
        )
        unname(reducedDim(object, 'sysVI'))
        """,
        object=build("SCE"),
    )
    np.testing.assert_array_equal(np.asarray(z), expected)


def test_separate_process(embed, build, python_embedding):
    np.testing.assert_array_equal(embed(build("SCE"), ", process = 'separate'")[0], python_embedding)


@pytest.mark.parametrize("column", ["sex", "donor", "plate", "stained"])
def test_factors_strings_integers_and_logicals_are_categories(embed, build, integrate, log_cells, column):
    expected = integrate(log_cells, categorical_covariate_keys=[column])[1].obsm["X_sysVI"]
    np.testing.assert_array_equal(embed(build("Assay5"), f", covariates = '{column}'")[0], expected)


def test_continuous_covariate(embed, build, integrate, log_cells):
    expected = integrate(log_cells, continuous_covariate_keys=["age"])[1].obsm["X_sysVI"]
    np.testing.assert_array_equal(embed(build("SCE"), ", continuous = 'age'")[0], expected)


def test_variable_genes_are_those_of_python(embed, build, integrate, log_cells):
    _, prepared = integrate(log_cells, n_top_genes=60)
    assert prepared.n_vars < 60
    np.testing.assert_array_equal(embed(build("split Assay5"), ", n_top_genes = 60")[0], prepared.obsm["X_sysVI"])


def test_column_with_missing_values_is_named(r, build, log_cells):
    cells = log_cells.copy()
    cells.obs["batch"] = cells.obs["batch"].astype(object)
    cells.obs.loc[cells.obs_names[7], "batch"] = None
    message = r(
        f"tryCatch(RunSysVI(object, system = 'system', batch = 'batch', {SMALL_R}), error = conditionMessage)",
        object=build("SCE", cells),
    )
    assert "batch" in message[0]
    assert "NA" in message[0] or "missing" in message[0]
