"""A file that changes while it is read is noticed, and so is one that was damaged before."""

import os
import shutil

import anndata
import numpy as np
import pytest
import scipy.sparse as sp
import torch
import zarr

import sysvi
from sysvi.data.file_changes import check_unchanged, file_state
from sysvi.data.stored import StoredExpression
from sysvi.data.stores import open_cells

pytestmark = pytest.mark.filterwarnings("ignore:Only .* genes remain", "ignore:Writing zarr v2", "ignore:Consolidated")
KINDS = ("h5ad", "zarr2", "zarr3", "sharded", "dense3")  # in the last one, folders of chunks lie in folders


def write(path, kind, seed=0):
    """Write 300 cells."""
    x = sp.random(300, 20, 0.5, format="csr", dtype=np.float32, rng=np.random.default_rng(seed))
    adata = anndata.AnnData(x.toarray() if kind == "dense3" else x)
    if kind == "h5ad":
        adata.write_h5ad(path)
        return
    with anndata.settings.override(zarr_write_format=2 if kind == "zarr2" else 3):
        adata.write_zarr(path)
    if kind == "sharded":
        root = zarr.open_group(path, mode="r+", use_consolidated=False)
        for name in ("data", "indices"):
            values, attributes = root[f"X/{name}"][:], dict(root[f"X/{name}"].attrs)
            array = root.create_array(f"X/{name}", data=values, chunks=(100,), shards=(400,), overwrite=True)
            array.attrs.update(attributes)
        zarr.consolidate_metadata(str(path))


@pytest.mark.parametrize("kind", KINDS)
def test_reading_changes_nothing_and_results_may_be_added(tmp_path, kind):
    path = tmp_path / "cells"
    write(path, kind)
    matrix = open_cells(path).X
    state = file_state(matrix)
    assert state
    assert matrix[:].shape == (300, 20)
    if kind != "h5ad":
        zarr.open_group(path, mode="r+").create_group("obsm2")
    check_unchanged(matrix, state)


@pytest.mark.parametrize("kind", ["zarr2", "zarr3", "sharded"])
def test_a_store_that_is_removed_or_moved_is_noticed(tmp_path, kind):
    """zarr would read its chunks as zeros."""
    path = tmp_path / "cells"
    write(path, kind)
    stored = StoredExpression(open_cells(path).X, 100)
    path.rename(tmp_path / "moved")
    with pytest.raises(sysvi.InputError, match="changed on disk while it was read, or removed"):
        stored[np.array([7])]
    (tmp_path / "moved").rename(path)
    assert stored[np.array([7])].shape == (1, 20)


@pytest.mark.parametrize("kind", KINDS[:-1])
def test_a_change_of_values_is_noticed(tmp_path, kind):
    path = tmp_path / "cells"
    write(path, kind)
    stored = StoredExpression(open_cells(path).X, 100)
    assert stored[np.array([7])].shape == (1, 20)
    if kind == "h5ad":
        with open(path, "r+b") as file:  # HDF5 itself refuses to write an open file
            file.seek(-1, os.SEEK_END)
            last = file.read(1)
            file.seek(-1, os.SEEK_END)
            file.write(last)
    else:
        zarr.open_group(path, mode="r+")["X/data"][:1] = 5
    with pytest.raises(sysvi.InputError, match="was changed on disk while it was read"):
        stored[np.array([7])]
    with pytest.raises(sysvi.InputError, match="was changed on disk while it was read"):
        list(stored.read_ahead([[torch.arange(5)]]))


def test_a_store_that_is_replaced_is_noticed_and_an_h5ad_file_is_read_to_its_end(tmp_path):
    for kind in ("zarr3", "h5ad"):
        for name, seed in (("cells", 0), ("other", 1)):
            write(tmp_path / f"{name}.{kind}", kind, seed)
    stored, path = StoredExpression(open_cells(tmp_path / "cells.zarr3").X, 100), tmp_path / "cells.zarr3"
    shutil.rmtree(path)
    (tmp_path / "other.zarr3").rename(path)
    with pytest.raises(sysvi.InputError, match=r"was changed|damaged"):
        stored[np.array([7])]
    path = tmp_path / "cells.h5ad"
    expected = open_cells(path).X[:].toarray()
    stored = StoredExpression(open_cells(path).X, 100)
    (tmp_path / "other.h5ad").replace(path)
    np.testing.assert_array_equal(stored[np.array([7])].toarray()[0], expected[7])


@pytest.mark.parametrize("line", ["The files hold counts", "Genes variable in every system"])
@pytest.mark.parametrize("kind", ["h5ad", "zarr3"])
def test_a_file_that_changes_between_the_passes_of_a_preparation_is_named(tmp_path, line, kind):
    cells = sysvi.datasets.simulate_systems(300, 120, seed=1)
    paths = [tmp_path / f"{name}.{kind}" for name in "ab"]
    for i, path in enumerate(paths):
        part = anndata.AnnData(cells[i::2].X, obs=cells[i::2].obs, var=cells.var[[]])
        part.write_h5ad(path) if kind == "h5ad" else part.write_zarr(path)

    def change(text):
        if text.startswith(line):
            chunk = paths[1] if kind == "h5ad" else next((paths[1] / "X" / "data").rglob("0"))
            content = chunk.read_bytes()
            if kind == "h5ad":
                os.utime(chunk)
            else:
                (chunk.parent / "new").write_bytes(content)
                (chunk.parent / "new").replace(chunk)

    with pytest.raises(sysvi.InputError, match=rf"b\.{kind}: The expression was changed on disk while it was read"):
        sysvi.prepare_files(paths, tmp_path / "out.zarr", "system", min_cells=3, report=change)
    assert not (tmp_path / "out.zarr").exists()


# -- damage -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def sharded(tmp_path, monkeypatch):
    """A prepared store whose expression lies in several shards of several chunks."""
    monkeypatch.setattr("sysvi.data.store_writer.CHUNK_VALUES", 500)
    monkeypatch.setattr("sysvi.data.store_writer.SHARD_CHUNKS", 4)
    sysvi.datasets.simulate_systems(300, 120, seed=1).write_h5ad(tmp_path / "cells.h5ad")
    sysvi.prepare_files([tmp_path / "cells.h5ad"], tmp_path / "plain.h5ad", "system", min_cells=3)
    return sysvi.prepare_files([tmp_path / "cells.h5ad"], tmp_path / "cells.zarr", "system", min_cells=3)


def test_stores_are_written_in_shards(sharded, tmp_path):
    found = open_cells(sharded).X
    data = found.group["data"]
    assert (data.chunks, data.shards) == ((500,), (2000,))
    assert len(list((sharded / "X" / "data" / "c").iterdir())) == -(-data.shape[0] // 2000) >= 3
    expected = open_cells(tmp_path / "plain.h5ad").X
    for name in ("data", "indices", "indptr"):
        np.testing.assert_array_equal(found.group[name][:], expected.group[name][:])


def test_a_damaged_shard_is_found_before_training(sharded):
    shard = sharded / "X" / "data" / "c" / "1"
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    events = []
    with pytest.raises(sysvi.InputError, match="The expression cannot be read; its file is damaged"):
        sysvi.integrate(sharded, "system", members=1, max_epochs=1, memory=1e12, progress=events.append)
    assert not [event for event in events if event.stage in ("plan", "train", "epoch", "end")]


@pytest.mark.parametrize("name", ["data", "indices"])
def test_a_missing_shard_is_found_when_the_store_is_opened(sharded, name):
    (sharded / "X" / name / "c" / "1").unlink()
    with pytest.raises(sysvi.InputError, match=rf"is damaged: X/{name} has .* of .* chunks"):
        open_cells(sharded)
