"""EvaluateIntegration and BatchStrength on R objects give the values of Python on the same cells."""

import warnings

import numpy as np
import pytest

import sysvi

KINDS = ["Assay5", "split Assay5", "v3 Assay", "SCE", "SCE in an HDF5 file"]


@pytest.fixture(scope="module")
def labelled(log_cells):
    """Cells with a PCA and another embedding; some are unlabelled."""
    adata = log_cells.copy()
    adata.obs["cell_type"] = adata.obs["cell_type"].astype(object)
    adata.obs.iloc[[1, 5, 8], adata.obs.columns.get_loc("cell_type")] = None
    adata.obsm["X_pca"] = sysvi.metrics._pca.principal_components(adata.X, 6).astype(np.float64)
    adata.obsm["sysvi"] = np.random.default_rng(0).normal(size=(adata.n_obs, 4)) + adata.obsm["X_pca"][:, :4]
    return adata


@pytest.mark.parametrize("kind", KINDS)
def test_evaluation(r, build, labelled, kind):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # few genes
        expected = sysvi.evaluate_in_detail(
            labelled,
            ["X_pca", "sysvi"],
            system_key="system",
            batch_key="batch",
            label_key="cell_type",
            min_cells=20,
            device="cpu",
            progress=False,
        )
    found = r(
        """
        rownames(pca) <- rownames(sysvi) <- colnames(object)
        seurat <- is(object, "Seurat")
        if (seurat) {
          reduction <- function(z, key) suppressWarnings(CreateDimReducObject(z, key = key, assay = "RNA"))
          object[["pca"]] <- reduction(pca, "pca_")
          object[["sysvi"]] <- reduction(sysvi, "sysvi_")
        } else {
          reducedDims(object) <- list(PCA = pca, sysVI = sysvi)
        }
        found <- EvaluateIntegration(
          object, system = "system", batch = "batch", label = "cell_type", min_cells = 20, verbose = FALSE
        )
        list(
          scores = unname(as.matrix(found$table[3:4])), metrics = found$table$metric,
          per_label = found$per_label$value, labels = found$per_label$name,
          per_cell = unname(as.matrix(found$per_cell)), cells = rownames(found$per_cell)
        )
        """,
        object=build(kind, labelled),
        pca=labelled.obsm["X_pca"],
        sysvi=labelled.obsm["sysvi"],
    )
    assert list(found["metrics"]) == list(expected.table.index)
    np.testing.assert_allclose(
        np.asarray(found["scores"]), expected.table[["X_pca", "sysvi"]].to_numpy(), rtol=1e-6, atol=1e-9
    )
    assert list(found["labels"]) == list(expected.per_label["name"])
    np.testing.assert_allclose(np.asarray(found["per_label"]), expected.per_label["value"], rtol=1e-6, atol=1e-9)
    assert list(found["cells"]) == list(expected.per_cell.index)
    np.testing.assert_allclose(np.asarray(found["per_cell"]), expected.per_cell.to_numpy(), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_batch_strength(r, build, log_cells, kind):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # few genes
        chosen = sysvi.prepare(log_cells, "system", "batch", normalize=False)
    expected = sysvi.batch_strength(chosen, "system", "batch", "cell_type", min_cells=10)
    found = r(
        """
        found <- BatchStrength(object, "system", "batch", "cell_type", min_cells = 10, verbose = FALSE)
        list(
          table = unname(as.matrix(found$table[-(1:2)])), distance = found$distances$distance,
          batches = found$distances$batch_2, advice = found$advice
        )
        """,
        object=build(kind),
    )
    assert found["advice"][0] == expected.advice
    assert list(found["batches"]) == list(expected.distances["batch_2"])
    np.testing.assert_allclose(np.asarray(found["distance"]), expected.distances["distance"], rtol=1e-6)
    np.testing.assert_allclose(np.asarray(found["table"]), expected.table.to_numpy(np.float64), rtol=1e-6)
