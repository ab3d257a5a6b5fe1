"""Expression on disk: rows, the order of an epoch, windows; and models that are trained from it."""

import sys

import h5py
import numpy as np
import pytest
import scipy.sparse as sp
import torch
from anndata.io import sparse_dataset, write_elem
from hypothesis import given, settings
from hypothesis import strategies as st

from sysvi._core.errors import InputError
from sysvi._core.seeds import generator
from sysvi.data import stored
from sysvi.data.cells import Cells, minibatches, n_minibatches
from sysvi.data.prepare import prepare, was_shuffled
from sysvi.data.prepare_files import prepare_files
from sysvi.data.row_blocks import read_rows, row_sliceable
from sysvi.data.simulate import simulate_systems
from sysvi.data.stored import StoredExpression, epoch_groups, is_sorted, n_cells_of_block
from sysvi.data.stores import open_cells


def on_disk(folder, x, kind):
    """The matrix x, CSR, as a matrix on disk of some kind."""
    if kind.startswith("h5"):
        group = h5py.File(folder / f"{kind}.h5", "w")
    else:
        zarr = pytest.importorskip("zarr")
        group = zarr.open_group(folder / f"{kind}.zarr", mode="w", zarr_format=int(kind[-1]))
    write_elem(group, "x", x.toarray() if "dense" in kind else x)
    if isinstance(group, h5py.File):
        group.flush()  # what is written later would be taken for a change
    return group["x"] if "dense" in kind else sparse_dataset(group["x"])


@pytest.mark.parametrize("decoder", ["zarr", "zarrs"])
@pytest.mark.parametrize("kind", ["h5", "h5 dense", "zarr 2", "zarr 3", "zarr dense 3"])
def test_rows_are_those_of_the_matrix(tmp_path, kind, decoder, monkeypatch):
    x = sp.random(700, 9, 0.3, format="csr", dtype=np.float32, rng=np.random.default_rng(0))
    matrix = on_disk(tmp_path, x, kind)
    if decoder == "zarr":
        monkeypatch.setitem(sys.modules, "zarrs", None)  # as if it were not installed
    rng = np.random.default_rng(1)
    for size in (1, 5, 200, 700):
        rows = np.sort(rng.choice(700, size, replace=False))
        np.testing.assert_array_equal(read_rows(matrix, rows).toarray(), x.toarray()[rows])
        mixed = rng.choice(700, size)  # in any order, some of them twice
        np.testing.assert_array_equal(StoredExpression(matrix, 10)[mixed].toarray(), x.toarray()[mixed])
    assert read_rows(matrix, np.array([], int)).shape == (0, 9)


@pytest.mark.parametrize("is_installed", [True, False])
def test_arrays_of_a_store_are_decoded_by_zarrs_if_it_is_installed(tmp_path, is_installed, monkeypatch):
    pytest.importorskip("zarrs")
    matrix = on_disk(tmp_path, sp.eye(20, format="csr", dtype=np.float32), "zarr 3")
    if not is_installed:
        monkeypatch.setitem(sys.modules, "zarrs", None)
    matrix = row_sliceable(matrix)
    pipelines = {type(array.async_array.codec_pipeline).__module__ for array in (matrix.data, matrix.indices)}
    assert pipelines == {"zarrs" if is_installed else "zarr.core.codec_pipeline"}


@pytest.mark.parametrize("rows", [slice(3, 9), slice(9, 3), slice(-4, None), slice(0, 20, 3), np.array([7, 2, 7])])
def test_rows_of_csr_on_disk_are_indexed_as_in_memory(tmp_path, rows):
    x = sp.random(20, 9, 0.3, format="csr", dtype=np.float32, rng=np.random.default_rng(0))
    matrix = row_sliceable(on_disk(tmp_path, x, "h5"))
    assert (matrix.shape, matrix.nnz) == ((20, 9), x.nnz)
    np.testing.assert_array_equal(matrix[rows].toarray(), x.toarray()[rows])


def test_distant_rows_are_not_read_together():
    class Spy:
        """A matrix that remembers which of its rows were read."""

        shape = (20_000, 2)

        def __init__(self):
            self.read = []

        def __getitem__(self, rows):
            self.read.append((rows.start, rows.stop))
            return np.ones((rows.stop - rows.start, 2))

    spy = Spy()
    assert read_rows(spy, np.array([3, 5, 1000, 4095, 4096])).shape == (5, 2)
    assert spy.read == [(3, 6), (1000, 1001), (4095, 4096), (4096, 4097)]


@settings(max_examples=60, deadline=None)
@given(n=st.integers(2, 3000), batch_size=st.integers(1, 300), window=st.integers(1, 4000), seed=st.integers(0, 9))
def test_an_epoch_has_every_cell_once(n, batch_size, window, seed):
    index = torch.arange(n) * 3  # rows of training cells, among which others are held out
    n_batches = n_minibatches(n, batch_size)
    groups = list(epoch_groups(index, n_batches, window, generator(seed, "order")))
    batches = [batch for group in groups for batch in group]
    assert [len(batch) for batch in batches] == [len(batch) for batch in minibatches(index, batch_size)]
    assert torch.equal(torch.cat(batches).sort().values, index)
    assert all(sum(map(len, group)) <= max(window, len(group[0])) for group in groups)
    again = epoch_groups(index, n_batches, window, generator(seed, "order"))
    assert all(torch.equal(a, b) for a, b in zip(batches, (b for group in again for b in group), strict=True))


def test_a_window_is_read_in_blocks_and_mixed():
    n, window = 100_000, 10_000
    groups = list(epoch_groups(torch.arange(n), 100, window, generator(0, "order")))
    assert len(groups) == 10
    for group in groups:
        rows = torch.cat(group)
        n_blocks = 1 + (rows.sort().values.diff() > 1).sum().item()
        assert n_blocks <= window / stored.BLOCK_CELLS + 3
        assert rows.diff().eq(1).float().mean() < 0.01  # shuffled
        assert rows.min() < 0.3 * n < 0.7 * n < rows.max()  # from the whole store
        starts = torch.stack([batch.float().mean() for batch in group])
        assert starts.std() < 0.05 * n  # each minibatch from the whole window


def test_small_windows_of_a_sorted_store_have_cells_from_all_of_it():
    """Each minibatch has cells of both systems, in about the same shares; with blocks of 512 cells it would not."""
    index, system = torch.arange(5000), torch.arange(5000) >= 3000

    def worst_share(sorted_cells):
        n = n_cells_of_block(1000, sorted_cells=sorted_cells, is_shuffled=False)
        groups = [group for seed in range(5) for group in epoch_groups(index, 10, 1000, generator(seed, "a"), n)]
        assert {len(group) for group in groups} == {2}
        return max(abs(float(system[batch].float().mean()) - 0.4) for group in groups for batch in group)

    assert worst_share(sorted_cells=True) < 0.25 < worst_share(sorted_cells=False)


@pytest.mark.parametrize(("window", "n_cells"), [(100, 512), (10_000, 2500), (100_000, 4096)])
def test_windows_of_a_shuffled_store_have_few_long_blocks(window, n_cells):
    assert n_cells_of_block(window, sorted_cells=False, is_shuffled=True) == n_cells
    assert n_cells_of_block(window, sorted_cells=True, is_shuffled=True) <= window / 64 + 1  # it was changed since
    index = torch.arange(20 * window)
    groups = epoch_groups(index, n_minibatches(len(index), window // 10), window, generator(0, "order"), n_cells)
    for group in groups:
        n_blocks = 1 + (torch.cat(group).sort().values.diff() > 1).sum().item()
        assert n_blocks <= window / n_cells + 3


@pytest.mark.parametrize("joined", [False, True])
def test_whether_cells_were_shuffled_is_in_the_record(joined, tmp_path):
    adata = simulate_systems(200, 60, seed=0)
    if joined:
        adata.write_h5ad(tmp_path / "counts.h5ad")
        path = prepare_files([tmp_path / "counts.h5ad"], tmp_path / "prepared.h5ad", "system", "batch", min_cells=3)
        found = open_cells(path)
    else:
        found = prepare(adata, "system", "batch", min_cells=3)
    assert was_shuffled(found) is joined
    assert not was_shuffled(
        found[np.argsort(found.obs["cell_type"].to_numpy(), kind="stable")].to_memory()
    )  # sorted since
    assert not was_shuffled(adata)


@pytest.mark.parametrize("covariate", ["system", "batch"])
def test_whether_neighbouring_cells_are_alike(covariate):
    rng = np.random.default_rng(0)
    codes = np.stack([rng.integers(0, 2, 2000), rng.integers(0, 30, 2000)], axis=1)
    assert not is_sorted(torch.from_numpy(codes))
    column = ["system", "batch"].index(covariate)
    codes[:, column] = np.sort(codes[:, column])
    assert is_sorted(torch.from_numpy(codes))


def test_cells_of_one_category_are_not_sorted():
    assert not is_sorted(torch.zeros(100, 2, dtype=torch.long))


def test_one_window_has_the_order_of_memory():
    index = torch.arange(50)
    (group,) = epoch_groups(index, n_minibatches(50, 8), 100, generator(3, "order"))
    for a, b in zip(group, minibatches(index, 8, generator(3, "order")), strict=True):
        assert torch.equal(a, b)


def stored_copy(cells, folder, window_cells, kind="h5"):
    """The same cells with their expression on disk."""
    c = cells.covariates
    return Cells(
        StoredExpression(on_disk(folder, cells.x, kind), window_cells),
        c.system.numpy(),
        c.categorical.numpy(),
        c.continuous.numpy(),
        n_systems=cells.n_systems,
        weight_systems=cells.weight is not None,
    )


@pytest.mark.parametrize("sparse", [True, False])
def test_minibatches_are_those_of_memory(tmp_path, make_cells, sparse):
    memory = make_cells(300, weight_systems=True)
    disk = stored_copy(memory, tmp_path, 64)
    groups = list(disk.groups(torch.arange(300), 16, generator(0, "order")))
    swap, same_swap = generator(1, "order"), generator(1, "order")
    seen = 0
    for loaded, group in disk.load(groups):
        assert loaded.x.shape[0] <= 70  # no more than a window is in memory
        for index in group:
            ours = loaded.minibatch(index, "resampled", swap, sparse=sparse)
            theirs = memory.minibatch(index, "resampled", same_swap, sparse=sparse)
            dense = [m.x.to_dense() if sparse else m.x for m in (ours, theirs)]
            assert torch.equal(*dense)
            assert torch.equal(ours.weight, theirs.weight)
            for a, b in ((ours.covariates, theirs.covariates), (ours.swapped_covariates, theirs.swapped_covariates)):
                assert torch.equal(a.system, b.system)
                assert torch.equal(a.categorical, b.categorical)
                assert torch.equal(a.continuous, b.continuous)
            seen += len(index)
    assert seen == 300


def test_what_needs_all_cells_is_that_of_memory(tmp_path, make_cells):
    memory = make_cells(300)
    disk = stored_copy(memory, tmp_path, 64)
    assert (disk.n_cells, disk.n_genes) == (300, 12)
    assert disk.density == memory.density
    for name in ("n_detected", "sums", "n_values", "n_whole"):
        np.testing.assert_array_equal(getattr(disk.scan(), name), getattr(memory.scan(), name))
    for name in ("mean", "effects", "variance", "axes", "sd"):
        np.testing.assert_array_equal(getattr(disk.summary([4, 2]), name), getattr(memory.summary([4, 2]), name))
    chosen = np.array([7, 250, 3])
    np.testing.assert_array_equal(disk.select(chosen).x.toarray(), memory.x.toarray()[chosen])
    np.testing.assert_array_equal(disk.read_genes(np.array([2, 5])).toarray(), memory.x.toarray()[:, [2, 5]])


def test_embeddings_are_those_of_memory(tmp_path, make_cells, make_model):
    memory = make_cells(300)
    model = make_model(memory)
    disk = stored_copy(memory, tmp_path, 64)
    rows = torch.from_numpy(np.random.default_rng(0).permutation(300)[:200])
    for some in (None, rows, rows[:0]):
        for ours, theirs in zip(
            model.embed(disk, some, batch_size=32), model.embed(memory, some, batch_size=32), strict=True
        ):
            assert torch.equal(ours, theirs)


def test_an_error_of_reading_reaches_the_caller(tmp_path, make_cells):
    memory = make_cells(300)
    disk = stored_copy(memory, tmp_path, 64)
    group = disk.x.matrix.group
    group["indices"][-1] = 10_000  # in the last cell: no such gene
    group.file.flush()
    disk.x = StoredExpression(disk.x.matrix, 64)  # which was damaged before it is read
    with pytest.raises(InputError, match="damaged"):
        for _ in disk.load(disk.groups(torch.arange(300), 16, generator(0, "order"))):
            pass
