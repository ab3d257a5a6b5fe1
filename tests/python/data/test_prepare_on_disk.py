"""Preparation of expression that is not in memory: the same as that of expression in memory, in every value."""

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy import sparse

import sysvi
from sysvi.data import row_blocks
from sysvi.data.own_genes import OWN_GENES_KEY, own_genes_record
from sysvi.data.prepare_on_disk import prepare_on_disk, write_on_disk

pytestmark = pytest.mark.filterwarnings("ignore:Only .* genes remain")


@pytest.fixture
def cells(make_adata):
    adata = make_adata()
    obs = adata.obs.rename(columns={"age": "age/years", "sex": "_index"})  # names that an h5ad file cannot hold
    return AnnData(sparse.csr_matrix(adata.X, dtype=np.float32), obs=obs, var=adata.var[[]])


def without_expression(cells):
    return AnnData(obs=cells.obs, var=cells.var, uns=dict(cells.uns))


@pytest.mark.parametrize("few_values", [False, True], ids=["one block", "many blocks"])
@pytest.mark.parametrize("batch_key", [None, "batch"])
@pytest.mark.parametrize("genes", ["shared", "union"])
def test_it_equals_the_preparation_in_memory(cells, tmp_path, assert_same, monkeypatch, genes, batch_key, few_values):
    if few_values:
        monkeypatch.setattr(row_blocks, "BLOCK_VALUES", 500)
    if genes == "union":
        has = np.ones((2, cells.n_vars), bool)
        has[0, :9] = has[1, 9:14] = False
        x = cells.X.tolil()
        for system, row in zip(("system1", "system2"), has, strict=True):
            x[np.ix_((cells.obs["system"] == system).to_numpy(), ~row)] = 0
        cells.X = sparse.csr_matrix(x, dtype=np.float32)
        cells.X.eliminate_zeros()
        cells.uns[OWN_GENES_KEY] = own_genes_record(cells.var_names, ["system1", "system2"], has)
    chosen = {"n_top_genes": 60, "min_cells": 5}
    said, heard = [], []
    expected = sysvi.prepare(
        cells, "system", batch_key, normalize=False, genes=genes, report=said.append, keep_counts=False, **chosen
    )
    found = prepare_on_disk(
        cells.X,
        without_expression(cells),
        tmp_path / "a.h5ad",
        "system",
        batch_key,
        report=heard.append,
        **chosen,
    )
    assert 0 < found.n_vars < cells.n_vars
    np.testing.assert_array_equal(found.X.to_memory().toarray(), expected.X.toarray())
    pd.testing.assert_frame_equal(found.obs, expected.obs)
    assert list(found.var_names) == list(expected.var_names)
    assert set(found.uns) == set(expected.uns)
    for key in expected.uns:
        assert_same(found.uns[key], expected.uns[key])
    assert list(found.uns["sysvi_prepare"].items()) == list(expected.uns["sysvi_prepare"].items())
    assert heard == said


def test_all_genes_are_written_as_they_are(cells, tmp_path):
    x = cells.X.copy()
    x.data[:7] = 0  # stored zeros are not written
    found = write_on_disk(x, without_expression(cells), tmp_path / "a.h5ad")
    np.testing.assert_array_equal(found.X.to_memory().toarray(), x.toarray())
    assert found.X.group["data"].shape == (np.count_nonzero(x.data),)
    pd.testing.assert_frame_equal(found.obs, cells.obs)


def test_counts_are_refused(make_adata, tmp_path):
    adata = make_adata()
    with pytest.raises(sysvi.InputError, match=r"adata\.X looks like raw counts in system 'system1'"):
        prepare_on_disk(adata.layers["counts"], without_expression(adata), tmp_path / "a.h5ad", "system")
    assert not any(tmp_path.iterdir())
