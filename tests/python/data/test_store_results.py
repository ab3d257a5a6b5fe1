"""Results that are added to a zarr store in place: the store can be read at every moment, and nothing else changes."""

import os
import shutil
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
from anndata.io import read_elem

import sysvi.data.store_results as module
from sysvi._core.errors import InputError
from sysvi._core.files import locked_folder
from sysvi.data.h5ad import OtherCellsError
from sysvi.data.store_results import add_results, check_in_place
from sysvi.data.store_writer import write_store

zarr = pytest.importorskip("zarr")
pytestmark = pytest.mark.filterwarnings("ignore:Writing zarr v2", "ignore:Consolidated metadata", "ignore:zarr v3 auto")

N = 7


def cells():
    x = np.arange(3.0 * N, dtype=np.float32).reshape(N, 3)
    obs = pd.DataFrame({"system": list("aabbabb"), "age": np.arange(N)}, index=[f"cell {i}" for i in range(N)])
    return anndata.AnnData(x, obs, pd.DataFrame(index=["INS", "GCG", "SST"]), obsm={"X_pca": x[:, :2]}, uns={"a": 1})


def results(value, n_latent=2):
    support = pd.DataFrame({"a": np.full(N, value), "b": np.full(N, -value)}, index=cells().obs_names)
    return {
        "obs": {"sysvi_support": np.full(N, value)},
        "obsm": {"X_sysVI": np.full((N, n_latent), value, np.float32), "sysvi_support": support},
        "uns": {"sysvi": {"seed": str(value), "genes": np.array(["INS", "GCG"], dtype=object)}},
    }


@pytest.fixture(params=["3", "2", "3 without consolidated metadata", "of sysvi prepare"])
def store(request, tmp_path):
    path, adata = tmp_path / "cells.zarr", cells()
    if request.param == "of sysvi prepare":
        from scipy import sparse

        blocks = [sparse.csr_matrix(adata.X)]
        write_store(path, adata.obs, adata.var, lambda: {"a": 1}, blocks, blocks[0].nnz, overwrite=False)
        return path
    with anndata.settings.override(zarr_write_format=int(request.param[0])):
        adata.write_zarr(path)
    if "without" in request.param:
        module._drop_consolidated_metadata(path)
    return path


def entries(path, expected):
    """Check the results in a store as a new process reads it; all else must be as it was."""
    found = anndata.read_zarr(path)
    np.testing.assert_array_equal(found.X.toarray() if hasattr(found.X, "toarray") else found.X, cells().X)
    assert list(found.obs["age"]) == list(range(N))
    assert found.uns["a"] == 1
    names = {"system", "age"} | {name for name, x in expected["obs"].items() if x is not None}
    assert set(found.obs) == names
    for name, x in expected["obs"].items():
        if x is not None:
            np.testing.assert_array_equal(found.obs[name], x)
    for name, x in expected["obsm"].items():
        if x is None:
            assert name not in found.obsm
        else:
            np.testing.assert_array_equal(found.obsm[name], x)
    assert found.uns["sysvi"]["seed"] == expected["uns"]["sysvi"]["seed"]
    assert list(found.uns["sysvi"]["genes"]) == ["INS", "GCG"]


def add(path, values):
    add_results(path, cells=cells().obs_names, **values)


def test_results_are_added_and_replaced(store, tmp_path):
    consolidated = zarr.open_group(store, mode="r").metadata.consolidated_metadata is not None
    add(store, results(0.5))
    entries(store, results(0.5))
    add(store, results(0.25, n_latent=3))
    entries(store, results(0.25, n_latent=3))
    single = results(0.75)
    single["obs"]["sysvi_support"] = single["obsm"]["sysvi_support"] = None  # of a single model
    add(store, single)
    entries(store, single)
    assert [path.name for path in tmp_path.iterdir()] == ["cells.zarr"]
    assert (zarr.open_group(store, mode="r").metadata.consolidated_metadata is not None) == consolidated


@pytest.mark.slow
def test_the_store_is_valid_after_a_kill_at_any_moment(store, tmp_path, monkeypatch):
    """Each renaming or removal of a file of the store is prevented once, with all that comes after it."""
    add(store, results(0.5))
    original, step = tmp_path / "original", {"last": 0, "now": 0}
    shutil.copytree(store, original)

    class Killed(BaseException):
        pass

    def counted(function):
        def call(*args, **kwargs):
            if any(store in Path(arg).parents for arg in args if isinstance(arg, str | Path)):
                step["now"] += 1
                if step["now"] > step["last"]:
                    raise Killed
            return function(*args, **kwargs)

        return call

    complete = False
    while not complete:
        shutil.rmtree(store)
        shutil.copytree(original, store)
        step["last"], step["now"] = step["last"] + 1, 0
        with monkeypatch.context() as patched:
            for name in ("rename", "replace", "unlink"):
                patched.setattr(Path, name, counted(getattr(Path, name)))
            patched.setattr(shutil, "rmtree", lambda *args, **kwargs: None)  # a killed process cleans nothing up
            try:
                add(store, results(0.25, n_latent=3))
                complete = True
            except Killed:
                pass
        found = anndata.read_zarr(store)
        assert list(found.obs["age"]) == list(range(N))
        for name, x in found.obsm.items():
            assert name in ("X_pca", "X_sysVI", "sysvi_support")
            assert np.isfinite(np.asarray(x)).all()
        add(store, results(0.75))  # which removes what the killed call has left beside the store
        entries(store, results(0.75))
        assert sorted(path.name for path in tmp_path.iterdir()) == ["cells.zarr", "original"]
    assert step["last"] > 8


def test_an_error_in_the_middle_leaves_the_store_as_it_was(store, tmp_path, monkeypatch):
    add(store, results(0.5))
    rename = Path.rename

    def fail(source, target):
        if source.parts[-3:] == ("new", "uns", "sysvi"):
            raise OSError("no more moves")
        return rename(source, target)

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(OSError, match="no more moves"):
        add(store, results(0.25, n_latent=3))
    entries(store, results(0.5))
    assert [path.name for path in tmp_path.iterdir()] == ["cells.zarr"]


def test_other_cells_are_refused(store):
    before = read_elem(zarr.open_group(store, mode="r")["obs"])
    with pytest.raises(OtherCellsError, match="was changed during the run: it no longer holds the cells"):
        add_results(store, cells=cells().obs_names[::-1], **results(0.5))
    pd.testing.assert_frame_equal(read_elem(zarr.open_group(store, mode="r")["obs"]), before)


def test_two_processes_do_not_add_at_the_same_time(store):
    with locked_folder(store), pytest.raises(InputError, match="Another run is working in the folder"):
        add(store, results(0.5))


def test_what_cannot_be_added_is_said_before_any_work(store, tmp_path):
    check_in_place(store, "X_sysVI", overwrite=False)
    add(store, results(0.5))
    check_in_place(store, "X_sysVI", overwrite=True)
    with pytest.raises(InputError, match=r"obsm\['X_sysVI'\] of .* exists already: pass overwrite=True"):
        check_in_place(store, "X_sysVI", overwrite=False)
    cells().write_h5ad(tmp_path / "cells.h5ad")
    with pytest.raises(InputError, match="is no zarr store, and --in-place adds the embedding to stores only"):
        check_in_place(tmp_path / "cells.h5ad", "X_sysVI", overwrite=False)
    if os.geteuid():  # root may write everywhere
        store.chmod(0o500)
        with pytest.raises(InputError, match="Cannot write into the folder"):
            check_in_place(store, "X_new", overwrite=False)
        store.chmod(0o700)
