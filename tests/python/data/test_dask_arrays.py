"""Expression in Dask arrays, of dense and of sparse chunks: the results are those of the same expression in memory."""

import anndata
import dask.array as da
import h5py
import numpy as np
import pytest
import scipy.sparse as sp

import sysvi
from sysvi.data.row_blocks import read_rows, row_ranges

pytestmark = pytest.mark.filterwarnings("ignore:Only .* genes remain", "ignore:.*read_elem_lazy")

KINDS = ("dense", "csr_matrix", "csr_array", "csc_matrix", "file", "genes in chunks")


@pytest.fixture(scope="module")
def cells():
    """Counts of 300 cells. Shared: do not modify."""
    return sysvi.datasets.simulate_systems(300, 150, seed=1)


def lazy_copy(adata, kind, folder):
    """The cells with their expression in a Dask array with chunks of 70 cells."""
    if kind == "file":
        path = folder / "cells.h5ad"
        anndata.AnnData(sp.csr_matrix(adata.X)).write_h5ad(path)
        x = anndata.experimental.read_elem_lazy(h5py.File(path)["X"], chunks=(70, adata.n_vars))
    else:
        genes = 40 if kind == "genes in chunks" else -1
        x = da.from_array(sp.csr_matrix(adata.X).toarray(), chunks=(70, genes))
        if kind not in ("dense", "genes in chunks"):
            x = x.map_blocks(getattr(sp, kind))
    assert type(x).__module__.startswith("dask")
    return anndata.AnnData(x, obs=adata.obs.copy(), var=adata.var[[]].copy())


@pytest.mark.parametrize("kind", KINDS)
def test_preparation(cells, kind, tmp_path):
    arguments = {"system_key": "system", "batch_key": "batch", "min_cells": 3, "n_top_genes": 60}
    expected = sysvi.prepare(cells, **arguments)
    found = sysvi.prepare(lazy_copy(cells, kind, tmp_path), **arguments)
    assert list(found.var_names) == list(expected.var_names)
    for name in ("data", "indices", "indptr"):
        np.testing.assert_array_equal(getattr(found.X, name), getattr(expected.X, name))
    np.testing.assert_array_equal(found.layers["counts"].toarray(), expected.layers["counts"].toarray())
    np.testing.assert_array_equal(found.uns["sysvi_totals"]["shares"], expected.uns["sysvi_totals"]["shares"])


@pytest.mark.parametrize("kind", ["dense", "csr_matrix", "file"])
def test_integration(cells, kind, tmp_path):
    arguments = {"max_epochs": 1, "members": 1, "progress": False}
    expected = sysvi.prepare(cells, "system", "batch", min_cells=3)
    found = lazy_copy(expected, kind, tmp_path)
    for adata in (expected, found):
        sysvi.integrate(adata, "system", "batch", **arguments)
    np.testing.assert_array_equal(found.obsm["X_sysVI"], expected.obsm["X_sysVI"])
    assert type(found.X).__module__.startswith("dask")  # it was read, not replaced


def test_each_chunk_is_computed_once_in_a_pass():
    computed = []

    def chunk(block_info=None):
        start = block_info[None]["array-location"][0][0]
        computed.append(start)
        return np.ones((block_info[None]["chunk-shape"][0], 40_000), np.float32)  # more than a row block of values

    x = da.map_blocks(chunk, chunks=((30, 20, 50), 40_000), dtype=np.float32, meta=np.ones((0, 0), np.float32))
    assert row_ranges(x) == [(0, 30), (30, 50), (50, 100)]
    adata = anndata.AnnData(x)
    adata.obs["system"] = np.repeat(["a", "b"], 50)
    with pytest.raises(sysvi.InputError, match="looks like raw counts"):
        sysvi.prepare(adata, "system", normalize=False)
    assert sorted(computed) == [0, 30, 50]


def test_rows_of_sparse_chunks():
    x = sp.random(200, 30, 0.3, format="csr", dtype=np.float32, rng=np.random.default_rng(0))
    lazy = da.from_array(x.toarray(), chunks=(64, -1)).map_blocks(sp.csr_matrix)
    rows = np.array([0, 5, 63, 64, 70, 199])
    np.testing.assert_array_equal(read_rows(lazy, rows).toarray(), x.toarray()[rows])
