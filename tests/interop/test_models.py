"""Models and files of one language are usable in the other, without any change of values."""

import numpy as np
import pytest
from r_objects import ENSEMBLE_R, SMALL, SMALL_R

import sysvi


def test_trained_in_r_loaded_in_python(r, build, integrate, log_cells, python_embedding, tmp_path):
    r(
        f"SaveSysVI(RunSysVI(object, system = 'system', batch = 'batch', {SMALL_R}), folder)",
        object=build("split Assay5"),
        folder=str(tmp_path / "model"),
    )
    prepared = integrate(log_cells)[1]
    model = sysvi.load(tmp_path / "model", prepared)
    np.testing.assert_array_equal(model.get_latent_representation(), python_embedding)
    assert model.is_trained
    assert len(model.history["loss_train"]) == SMALL["max_epochs"]


def test_trained_in_python_loaded_in_r(r, build, integrate, log_cells, python_embedding, tmp_path):
    integrate(log_cells)[0].save(tmp_path / "model")
    embedding = r("unname(predict(LoadSysVI(folder), object))", object=build("SCE"), folder=str(tmp_path / "model"))
    np.testing.assert_array_equal(np.asarray(embedding), python_embedding)


@pytest.mark.parametrize("kind", ["split Assay5", "SCE"])
def test_ensemble_trained_in_r_loaded_in_python(r, build, ensemble, kind, tmp_path):
    r(
        f"SaveSysVI(RunSysVI(object, 'system', 'batch', {ENSEMBLE_R}), folder)",
        object=build(kind),
        folder=str(tmp_path / "model"),
    )
    python, prepared = ensemble
    model = sysvi.load(tmp_path / "model", prepared)
    np.testing.assert_array_equal(model.get_latent_representation(), prepared.obsm["X_sysVI"])
    assert [member.seed for member in model.members] == [member.seed for member in python.members]
    assert model.status == "finished"


def test_ensemble_trained_in_python_loaded_in_r(r, build, ensemble, tmp_path):
    model, prepared = ensemble
    model.save(tmp_path / "model")
    found = r(
        """
        model <- LoadSysVI(folder)
        again <- tempfile()
        SaveSysVI(model, again)
        list(
          z = unname(predict(model, object, verbose = FALSE)), members = model$members,
          seed = model$seed, epochs = nrow(model$history), same = identical(LoadSysVI(again), model)
        )
        """,
        object=build("SCE"),
        folder=str(tmp_path / "model"),
    )
    np.testing.assert_array_equal(np.asarray(found["z"]), prepared.obsm["X_sysVI"])
    assert found["members"][0] == len(model.members)
    assert (found["seed"][0], found["epochs"][0], bool(found["same"][0])) == (model.seed, SMALL["max_epochs"], True)


def test_model_is_stored_in_the_saved_object(r, build, python_embedding, tmp_path):
    """The model survives saveRDS and readRDS, and Python loads what the reloaded object saves."""
    r(
        f"""
        saveRDS(RunSysVI(object, system = 'system', batch = 'batch', {SMALL_R}), file)
        again <- readRDS(file)
        SaveSysVI(again, folder)
        """,
        object=build("Assay5"),
        file=str(tmp_path / "object.rds"),
        folder=str(tmp_path / "model"),
    )
    assert sysvi.load(tmp_path / "model").is_trained


def test_h5ad_of_python_is_read_in_r(r, log_cells, python_embedding, tmp_path):
    log_cells.write_h5ad(tmp_path / "cells.h5ad")
    result = r(
        f"""
        sce <- SingleCellExperiment(list(logcounts = H5ADMatrix(file)), colData = obs)
        sce <- RunSysVI(sce, system = 'system', batch = 'batch', {SMALL_R})
        list(z = unname(reducedDim(sce, 'sysVI')), genes = rownames(sce), cells = colnames(sce))
        """,
        file=str(tmp_path / "cells.h5ad"),
        obs=log_cells.obs,
    )
    np.testing.assert_array_equal(np.asarray(result["z"]), python_embedding)
    assert list(result["genes"]) == list(log_cells.var_names)
    assert list(result["cells"]) == list(log_cells.obs_names)
