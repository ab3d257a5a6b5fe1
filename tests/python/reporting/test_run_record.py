"""The record of a run, in memory and after it went through an h5ad file."""

import json

import anndata
import numpy as np
import pytest
from anndata import AnnData

import sysvi
from sysvi import InputError
from sysvi.model.checkpoint import ENSEMBLE_VERSION, MODEL_FILE, read_file, write_file
from sysvi.reporting.run_record import read_record


def as_comparable(record):
    agreement = None if record.agreement is None else record.agreement.tolist()
    return {**vars(record), "agreement": agreement}


@pytest.mark.slow
def test_the_record_says_how_the_run_was_made_and_survives_a_file(integrated, tmp_path):
    record = read_record(integrated)
    assert (record.columns.system, record.columns.batch, record.columns.categorical) == ("system", "batch", ("sex",))
    assert (record.n_genes, record.n_members, record.seed, record.status) == (integrated.n_vars, 2, 4, "finished")
    assert record.train_settings.max_epochs == 3
    assert [losses["epoch"] for losses in record.losses] == [[1, 2, 3]] * 2
    assert record.losses[0] != record.losses[1]
    assert record.versions["sysvi"] == sysvi.__version__
    assert record.preparation["genes_in"] == 150
    assert record.preparation["genes_kept"] == integrated.n_vars
    assert record.agreement.shape == (2, 2)
    assert 0 < record.agreement[0, 1] < 1
    integrated.write_h5ad(tmp_path / "cells.h5ad")
    assert as_comparable(read_record(anndata.read_h5ad(tmp_path / "cells.h5ad"))) == as_comparable(record)


@pytest.mark.slow
def test_a_saved_model_has_the_same_record(integrated, tmp_path, make_adata):
    adata = make_adata()
    adata.uns["sysvi_prepare"] = {"genes_in": np.int64(150), "variable_genes": {"a": np.int64(3)}}
    for members in (1, 2):
        model = sysvi.integrate(adata, "system", "batch", members=members, max_epochs=1, device="cpu", progress=False)
        model.save(tmp_path, overwrite=True)
        assert sysvi.load(tmp_path, device="cpu").record() == adata.uns["sysvi"] == model.record()
        assert json.loads(model.record()["preparation"]) == {"genes_in": 150, "variable_genes": {"a": 3}}
        assert read_record(adata).preparation is None  # it lacks entries
        assert read_record(adata).n_members == members


def test_what_is_no_record_is_refused_in_one_sentence(integrated):
    with pytest.raises(InputError, match=r"has no 'sysvi', the record of an integration: run sysvi\.integrate first"):
        read_record(AnnData(np.ones((2, 2))))
    record = dict(integrated.uns["sysvi"])
    old = {name: text for name, text in record.items() if name != "losses"}
    with pytest.raises(InputError, match="written by an earlier version"):
        read_record(AnnData(np.ones((2, 2)), uns={"sysvi": old}))
    for name in ("columns", "model_settings", "seed", "versions"):
        for broken in ("{", json.dumps(None), json.dumps("x")):
            with pytest.raises(InputError, match="cannot be read"):
                read_record(AnnData(np.ones((2, 2)), uns={"sysvi": {**record, name: broken}}))


@pytest.mark.slow
def test_models_of_before_have_neither_preparation_nor_agreement(make_adata, tmp_path):
    adata = make_adata()
    model = sysvi.integrate(adata, "system", "batch", members=2, max_epochs=1, device="cpu", progress=False)
    model.save(tmp_path)
    path = tmp_path / MODEL_FILE
    tensors, header = read_file(path)
    assert np.asarray(header["agreement"]).shape == (2, 2)
    old = {name: value for name, value in header.items() if name not in ("agreement", "preparation")}
    for member in old["members"]:
        del member["preparation"]
    write_file(path, tensors, old, True, ENSEMBLE_VERSION)
    loaded = sysvi.load(path, adata, device="cpu")
    assert loaded.agreement is None
    assert loaded.record()["agreement"] == loaded.record()["preparation"] == "null"
    np.testing.assert_array_equal(loaded.get_latent_representation(), adata.obsm["X_sysVI"])
    for wrong in ([[1.0]], "x", None, [[1.0, 2.0], [float(10**9), "y"]]):
        write_file(path, tensors, {**old, "agreement": wrong}, True, ENSEMBLE_VERSION)
        with pytest.raises(InputError, match="is corrupted"):
            sysvi.load(path, device="cpu")
    write_file(path, tensors, {**old, "members": [{**old["members"][0], "preparation": 3}] * 2}, True, ENSEMBLE_VERSION)
    with pytest.raises(InputError, match="is corrupted: its preparation is no object"):
        sysvi.load(path, device="cpu")
