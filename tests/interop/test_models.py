"""A model trained in one language is the same model in the other; so are files."""

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


def test_model_lives_in_the_saved_object(r, build, python_embedding, tmp_path):
    """saveRDS and readRDS keep the model; the file that the reloaded object writes is Python's."""
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


def test_h5ad_by_python_used_in_r(r, log_cells, python_embedding, tmp_path):
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
