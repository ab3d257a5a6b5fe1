"""TuneSysVI on R objects gives the runs, choice and embedding of Python on the same cells, identical to the bit."""

import warnings

import numpy as np
import pytest

import sysvi

COMPARED = {"cycle_weights": [2, 10], "seeds": 2, "max_epochs": 2, "n_latent": 5, "min_cells": 10, "device": "cpu"}
TUNE_R = """
    found <- TuneSysVI(
      object, system = "system", batch = "batch", label = label, cycle_weights = c(2, 10), seeds = 2, max_epochs = 2,
      n_latent = 5, min_cells = 10, device = "cpu", verbose = FALSE
    )
    tuning <- Tuning(found)
    list(
      z = unname(if (is(found, "Seurat")) Embeddings(found, "sysvi") else reducedDim(found, "sysVI")),
      names = names(tuning$runs),
      runs = as.matrix(tuning$runs[!names(tuning$runs) %in% c("prior", "status", "reason")]),
      status = tuning$runs$status, settings = as.matrix(tuning$settings[names(tuning$settings) != "prior"]),
      priors = c(tuning$prior, tuning$runs$prior, tuning$settings$prior),
      chosen = c(tuning$cycle_weight, tuning$kl_weight, tuning$seed), why = tuning$why, warnings = tuning$warnings
    )
"""


@pytest.fixture(scope="module", params=["cell_type", None], ids=["labels", "no labels"])
def expected(request, log_cells):
    """Label column (or None), tuning and embedding by Python."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # few genes
        prepared = sysvi.prepare(log_cells, "system", "batch", normalize=False)
        found = sysvi.tune(prepared, "system", "batch", request.param, progress=False, **COMPARED)
    return request.param, found, prepared.obsm["X_sysVI"]


@pytest.mark.parametrize("kind", ["Assay5", "split Assay5", "v3 Assay", "SCE in an HDF5 file"])
def test_every_kind_of_object(r, build, expected, kind):
    label, python, embedding = expected
    found = r(f"label <- {'NULL' if label is None else repr(label)}; {TUNE_R}", object=build(kind))
    runs = python.runs.drop(columns=["prior", "status", "reason"])
    assert list(found["names"]) == list(python.runs)
    assert list(found["status"]) == ["finished"] * 4
    np.testing.assert_array_equal(np.asarray(found["runs"], np.float64), runs.to_numpy(np.float64))
    settings = python.settings.reset_index()
    assert list(found["priors"]) == [python.prior, *python.runs["prior"], *settings["prior"]]
    settings = settings.drop(columns="prior").to_numpy(np.float64)
    np.testing.assert_array_equal(np.asarray(found["settings"], np.float64), settings)
    assert list(found["chosen"]) == [python.cycle_weight, python.kl_weight, python.seed]
    assert found["why"][0] == python.why
    assert list(found["warnings"]) == list(python.warnings)
    np.testing.assert_array_equal(np.asarray(found["z"]), embedding)


def test_chosen_models_of_r_and_python_are_equal(r, build, expected, tmp_path):
    label, python, embedding = expected
    save = "SaveSysVI(found, folder)"
    folder = str(tmp_path / "model")
    r(f"label <- {'NULL' if label is None else repr(label)}; {TUNE_R} {save}", object=build("SCE"), folder=folder)
    model = sysvi.load(folder)
    assert model.seed == python.seed
    assert model.train_settings == python.model.train_settings
    np.testing.assert_array_equal(model.get_latent_representation(python.model.adata), embedding)
