"""Models and files of one language are usable in the other, without any change of values."""

import numpy as np
from r_objects import SMALL, SMALL_R

from sysvi import SysVI


def test_trained_in_r_loaded_in_python(r, build, integrate, log_cells, python_embedding, tmp_path):
    r(
        f"SaveSysVI(RunSysVI(object, system = 'system', batch = 'batch', {SMALL_R}), folder)",
        object=build("split Assay5"),
        folder=str(tmp_path / "model"),
    )
    prepared = integrate(log_cells)[1]
    model = SysVI.load(tmp_path / "model", prepared)
    np.testing.assert_array_equal(model.get_latent_representation(), python_embedding)
    assert model.is_trained
    assert len(model.history["loss_train"]) == SMALL["max_epochs"]


def test_trained_in_python_loaded_in_r(r, build, integrate, log_cells, python_embedding, tmp_path):
    integrate(log_cells)[0].save(tmp_path / "model")
    embedding = r("unname(predict(LoadSysVI(folder), object))", object=build("SCE"), folder=str(tmp_path / "model"))
    np.testing.assert_array_equal(np.asarray(embedding), python_embedding)


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
    assert SysVI.load(tmp_path / "model").is_trained


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
