"""Adding results to a copy of an h5ad file; test_cli.py has whole files."""

import signal

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
from hdf5_edits import replace
from scipy import sparse

from sysvi._core.errors import InputError
from sysvi._core.interrupts import raise_interrupts
from sysvi.data import h5ad
from sysvi.data.h5ad import OtherCellsError, read_h5ad, write_with_results
from sysvi.data.prepare import prepare


@pytest.fixture
def cells(tmp_path):
    """An h5ad file of three cells."""
    obs = pd.DataFrame({"system": pd.Categorical(["a", "b", "a"]), "score": [1.0, 2.0, 3.0]}, index=["x", "y", "z"])
    adata = anndata.AnnData(np.ones((3, 2), np.float32), obs=obs, obsm={"old": np.ones((3, 2))})
    adata.write_h5ad(tmp_path / "cells.h5ad")
    return tmp_path / "cells.h5ad"


def write(source, target, obs=None, obsm=None, uns=None, cells=("x", "y", "z")):
    write_with_results(source, target, cells=pd.Index(cells), obs=obs or {}, obsm=obsm or {}, uns=uns or {})
    return anndata.read_h5ad(target)


def test_columns_and_tables_are_added(cells, tmp_path):
    table = pd.DataFrame({"a": [np.nan, 0.5, np.nan], "b": [0.1, np.nan, 1.0]}, index=["x", "y", "z"])
    found = write(
        cells,
        tmp_path / "out.h5ad",
        {"support": np.array([0.1, 0.5, 1], np.float32)},
        {"support": table},
        {"n": {"m": 3}},
    )
    assert list(found.obs) == ["system", "score", "support"]
    assert found.obs["support"].dtype == np.float32
    assert found.obs["support"].tolist() == [np.float32(0.1), 0.5, 1]
    pd.testing.assert_frame_equal(found.obsm["support"], table)
    assert found.obs["system"].tolist() == ["a", "b", "a"]
    assert found.uns["n"]["m"] == 3
    assert "support" not in anndata.read_h5ad(cells).obs


def test_entries_are_replaced_in_place_and_go_last_among_the_columns(cells):
    found = write(cells, cells, {"score": np.array([7, 8, 9])}, {"old": np.zeros((3, 4))})
    assert list(found.obs) == ["system", "score"]
    found = write(cells, cells, {"system": np.array([1, 2, 3])})
    assert list(found.obs) == ["score", "system"]
    assert found.obs["score"].tolist() == [7, 8, 9]
    assert found.obs["system"].tolist() == [1, 2, 3]
    assert found.obsm["old"].shape == (3, 4)


def test_none_removes_what_is_there(cells):
    found = write(cells, cells, {"system": None, "score": None, "absent": None}, {"old": None, "absent": None})
    assert list(found.obs) == []
    assert list(found.obs_names) == ["x", "y", "z"]
    assert list(found.obsm) == []
    found = write(cells, cells, {"first": np.arange(3)})  # the list of columns is empty
    assert list(found.obs) == ["first"]


@pytest.mark.filterwarnings("ignore:.*without encoding metadata", "ignore:.*very old version of AnnData")
def test_a_file_of_an_old_anndata_is_converted(tmp_path):
    path = tmp_path / "old.h5ad"
    with h5py.File(path, "w") as file:
        file["X"] = np.ones((3, 2), np.float32)
        file["obs"] = np.array([(b"x", 0), (b"y", 1), (b"z", 0)], dtype=[("index", "S4"), ("system", "i1")])
        file["var"] = np.array([(b"g1",), (b"g2",)], dtype=[("index", "S4")])
        file["uns/system_categories"] = np.array([b"a", b"b"], dtype="S1")
        file["obsm"] = np.array([((1.0, 2.0),)] * 3, dtype=[("X_pca", "f4", (2,))])
    found = write(path, tmp_path / "new.h5ad", {"support": np.arange(3)}, {"z": np.zeros((3, 1))})
    assert found.obs["system"].tolist() == ["a", "b", "a"]
    assert found.obs["support"].tolist() == [0, 1, 2]
    assert set(found.obsm) == {"X_pca", "z"}
    assert found.X.sum() == 6
    assert list(read_h5ad(tmp_path / "new.h5ad").obs) == ["system", "support"]


def test_failure_leaves_no_file(cells, tmp_path):
    with pytest.raises(InputError, match="Cannot write into the folder"):
        write(cells, tmp_path / "absent" / "out.h5ad")
    with pytest.raises(Exception, match="object"):  # anndata's
        write(cells, tmp_path / "out.h5ad", {"bad": object()})
    assert [path.name for path in tmp_path.iterdir()] == ["cells.h5ad"]


@pytest.mark.parametrize("names", [["z", "y", "x"], ["x", "y"], ["x", "y", "other"]], ids=["order", "number", "name"])
def test_results_of_other_cells_are_refused(cells, tmp_path, names):
    with pytest.raises(OtherCellsError, match=r"cells\.h5ad was changed during the run"):
        write(cells, tmp_path / "out.h5ad", {"support": np.arange(len(names))}, cells=names)
    assert [path.name for path in tmp_path.iterdir()] == ["cells.h5ad"]


def test_a_symbolic_link_is_written_through(cells, tmp_path):
    (tmp_path / "store").mkdir()
    (tmp_path / "out.h5ad").symlink_to(tmp_path / "store" / "real.h5ad")  # not there yet
    for support in (np.arange(3), np.arange(3)[::-1]):
        write(cells, tmp_path / "out.h5ad", {"support": support})
        assert (tmp_path / "out.h5ad").is_symlink()
        assert anndata.read_h5ad(tmp_path / "store" / "real.h5ad").obs["support"].tolist() == support.tolist()
    assert [path.name for path in (tmp_path / "store").iterdir()] == ["real.h5ad"]


@pytest.fixture
def sparse_cells(tmp_path):
    """An h5ad file with expression of all kinds."""
    x = np.random.default_rng(0).poisson(1.0, (40, 30)).astype(np.float32)
    adata = anndata.AnnData(
        sparse.csr_matrix(x), obs=pd.DataFrame({"system": pd.Categorical(["a", "b"] * 20)}, index=map(str, range(40)))
    )
    adata.var_names = [f"gene{i}" for i in range(30)]
    adata.layers.update(csc=sparse.csc_matrix(x), dense=x)
    adata.obsm["sparse"] = sparse.csr_matrix(x[:, :3])
    adata.write_h5ad(tmp_path / "cells.h5ad", compression="gzip")
    return tmp_path / "cells.h5ad"


def put(name, position, value):
    def change(file):
        file[name][position] = value

    return change


def set_shape(name, shape):
    def change(file):
        file[name].attrs["shape"] = shape

    return change


def claim(name, shape):
    return lambda file: file.create_dataset(name, shape, "f8", chunks=(1,) * (len(shape) - 1) + (1024,))


POINTERS = "has an indptr that does not rise from 0 to its number of values"
DAMAGES = [
    (put("X/indptr", 20, 10**6), rf"/X {POINTERS}"),
    (put("X/indptr", 20, -5), rf"/X {POINTERS}"),
    (put("X/indptr", -1, 10**6), rf"/X {POINTERS}"),
    (put("X/indptr", 0, 1), rf"/X {POINTERS}"),
    (put("layers/csc/indptr", 3, 10**6), rf"/layers/csc {POINTERS}"),
    (put("obsm/sparse/indptr", 3, 10**6), rf"/obsm/sparse {POINTERS}"),
    (set_shape("X", [40, 2**40]), r"/X is of shape \(40, 1099511627776\), but there are 40 cells and 30 genes"),
    (set_shape("X", [-40, 30]), r"/X is of shape \(-40, 30\), but"),
    (set_shape("obsm/sparse", [2**40, 3]), r"/obsm/sparse is of shape .*, which its indptr does not have"),
    (replace("layers/dense", np.ones((3, 3))), r"/layers/dense is of shape \(3, 3\), but"),
    (replace("X/indices", np.ones(3)), r"/X has indices that are no whole numbers"),
    (replace("X/indices", np.ones(3, int)), r"/X has \(\d+,\) values, but indices of \(3,\)"),
    (replace("obs/system/codes", np.zeros(3, np.int8)), r"/obs/system has \(3,\) values for 40 rows"),
    (claim("obs/big", (2**40,)), r"/obs/big claims to hold more values than the file can"),
    (claim("obsm/big", (40, 2**40)), r"/obsm/big claims to hold more values than the file can"),
]


@pytest.mark.parametrize(("damage", "message"), DAMAGES, ids=[message for _, message in DAMAGES])
def test_a_damaged_structure_is_refused_before_use(sparse_cells, damage, message):
    with h5py.File(sparse_cells, "r+") as file:
        damage(file)
    with pytest.raises(InputError, match=rf"cells\.h5ad cannot be read as an h5ad file: {message}"):
        read_h5ad(sparse_cells)


@pytest.mark.parametrize("index", [10**6, -3])
@pytest.mark.parametrize("layer", [None, "csc"])
def test_a_damaged_index_is_refused_before_use(sparse_cells, layer, index):
    with h5py.File(sparse_cells, "r+") as file:
        file["X/indices" if layer is None else f"layers/{layer}/indices"][5] = index
    with pytest.raises(InputError, match=r"expression is damaged: the indices of its CS. matrix are out of range"):
        prepare(read_h5ad(sparse_cells), "system", layer=layer)
    in_memory = anndata.read_h5ad(sparse_cells)  # by anndata, which notices nothing
    with pytest.raises(InputError, match="expression is damaged"):
        prepare(in_memory, "system", layer=layer)


@pytest.mark.parametrize("compression", [None, "gzip", "lzf"])
def test_large_files_of_few_values_are_intact(tmp_path, compression):
    """Zeros compress to a thousandth."""
    n = 400_000
    obs = pd.DataFrame({"system": pd.Categorical(["a"] * n), "zero": np.zeros(n)}, index=np.arange(n).astype(str))
    path = tmp_path / "cells.h5ad"
    anndata.AnnData(sparse.csr_matrix((n, 3)), obs=obs, obsm={"Z": np.zeros((n, 30))}).write_h5ad(
        path, compression=compression
    )
    assert read_h5ad(path).shape == (n, 3)


@pytest.mark.parametrize("callback", ["readinto", "write", "truncate", "seek"])
def test_an_interrupt_while_hdf5_calls_the_file_leaves_nothing_open(cells, tmp_path, monkeypatch, callback, capfd):
    """A signal arrives in each of the callbacks in turn; HDF5 cannot be interrupted there."""
    adata = anndata.read_h5ad(cells)
    original = getattr(h5ad._ShieldedFile, callback)
    arrives_at = n_calls = 0

    def call(self, *args):
        nonlocal n_calls
        if n_calls == arrives_at:
            signal.raise_signal(signal.SIGTERM)
        n_calls += 1
        return original(self, *args)

    monkeypatch.setattr(h5ad._ShieldedFile, callback, call)
    before = h5py.h5f.get_obj_count(h5py.h5f.OBJ_ALL, h5py.h5f.OBJ_FILE)
    with raise_interrupts():
        while True:
            n_calls = 0
            try:
                h5ad.write_anndata(tmp_path / "out.h5ad", adata)
            except KeyboardInterrupt:
                assert h5py.h5f.get_obj_count(h5py.h5f.OBJ_ALL, h5py.h5f.OBJ_FILE) == before
                arrives_at += 1
                continue
            break
    assert arrives_at == n_calls, "an interrupt was lost"
    assert capfd.readouterr().err == ""
    assert n_calls > 0 or callback == "readinto"
    assert anndata.read_h5ad(tmp_path / "out.h5ad").shape == adata.shape
