"""Integration of cells whose expression stays on disk, against the same cells in memory."""

import anndata
import numpy as np
import pytest
import scipy.sparse as sp

import sysvi
import sysvi.api.integrate as module
from sysvi.api.storage import Storage, choose_storage
from sysvi.data.stores import open_cells

TINY = {"max_epochs": 3, "n_hidden": 16, "progress": False}


@pytest.fixture(scope="module")
def prepared():
    """Shared: do not modify."""
    return sysvi.prepare(sysvi.datasets.simulate_systems(700, 200, seed=1), "system", "batch", min_cells=3)


@pytest.fixture(scope="module", params=["h5ad", "zarr"])
def path(request, prepared, tmp_path_factory):
    path = tmp_path_factory.mktemp("cells") / f"prepared.{request.param}"
    prepared.write_h5ad(path) if request.param == "h5ad" else prepared.write_zarr(path)
    return path


@pytest.fixture
def windows_of(monkeypatch):
    """Function after which every integration with `memory` reads windows of so many cells."""

    def choose(n):
        monkeypatch.setattr(module, "choose_storage", lambda *arguments: Storage(n, 0.0, "a test"))

    return choose


def weights(model):
    return [t.numpy() for member in model.members for t in member.module.state_dict().values()]


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        {"members": 2},
        {"members": 1, "train_size": 0.8, "early_stopping": True, "weight_systems": True},
        {"members": 1, "preset": "paper", "prior": "gmm", "batch_size": 50},
        {"members": 1, "categorical_covariate_keys": ["cell_type"], "continuous_covariate_keys": ["programme_1"]},
    ],
    ids=["ensemble", "held-out cells", "paper", "covariates"],
)
def test_one_window_gives_the_bits_of_memory(path, prepared, windows_of, settings):
    """With all cells in one window their order is that of memory, so everything must be equal."""
    memory = prepared.copy()
    expected = sysvi.integrate(memory, "system", "batch", **TINY, **settings)
    windows_of(10_000)
    found = sysvi.integrate(path, "system", "batch", memory="1GB", **TINY, **settings)
    assert found.members[0].cells.is_stored
    for ours, theirs in zip(weights(found), weights(expected), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_array_equal(found.adata.obsm["X_sysVI"], memory.obsm["X_sysVI"])
    assert list(found.adata.obs) == list(memory.obs)
    if "sysvi_support" in memory.obs:
        np.testing.assert_array_equal(found.adata.obs["sysvi_support"], memory.obs["sysvi_support"])
    ours, theirs = found.members[0].reference, expected.members[0].reference
    np.testing.assert_array_equal(ours.gene_means, theirs.gene_means)


@pytest.mark.slow
def test_windows_train_the_same_model_twice(path, windows_of):
    windows_of(150)
    one, two = (
        sysvi.integrate(path, "system", "batch", memory="1GB", members=2, batch_size=50, seed=3, **TINY)
        for _ in range(2)
    )
    for a, b in zip(weights(one), weights(two), strict=True):
        np.testing.assert_array_equal(a, b)
    assert np.isfinite(one.adata.obsm["X_sysVI"]).all()
    assert one.members[0].run.steps_per_epoch == 14


@pytest.mark.slow
def test_windows_learn_as_well_as_memory(tmp_path, prepared, windows_of):
    """The loss of the last epoch is that of training in memory, up to the noise between seeds."""
    settings = {"members": 1, "max_epochs": 12, "n_hidden": 16, "batch_size": 50, "progress": False}
    path = tmp_path / "prepared.h5ad"
    prepared.write_h5ad(path)

    def last_loss(adata, seed, **memory):
        model = sysvi.integrate(adata, "system", "batch", seed=seed, **settings, **memory)
        return model.history["reconstruction_loss_train"].iloc[-1, 0]

    in_memory = [last_loss(prepared.copy(), seed) for seed in range(2)]
    windows_of(100)
    on_disk = [last_loss(path, seed, memory="1GB") for seed in range(2)]
    assert abs(np.mean(on_disk) - np.mean(in_memory)) < 0.02 * np.mean(in_memory)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda x: np.expm1(x).round(), "looks like raw counts; run adata = sysvi.prepare"),
        (lambda x: np.where(np.arange(len(x)) == 77, np.nan, x), "a value that is not finite"),
        (lambda x: np.where(np.arange(len(x)) == 77, -1, x), "a negative value"),
        (lambda x: x * 100, "too large for log-normalised expression"),
        (lambda x: 0 * x, "is zero in all cells"),
    ],
)
def test_bad_values_have_the_messages_of_memory(tmp_path, prepared, windows_of, damage, message):
    bad = anndata.AnnData(prepared.X.copy(), obs=prepared.obs[["system", "batch"]], var=prepared.var[[]])
    bad.X.data = damage(bad.X.data).astype(np.float32)
    bad.X.eliminate_zeros()
    bad.write_h5ad(tmp_path / "bad.h5ad")
    with pytest.raises(sysvi.InputError, match=message) as in_memory:
        sysvi.integrate(bad, "system", "batch", **TINY)
    windows_of(100)
    with pytest.raises(sysvi.InputError, match=message) as on_disk:
        sysvi.integrate(tmp_path / "bad.h5ad", "system", "batch", memory="1GB", **TINY)
    assert str(on_disk.value) == str(in_memory.value)


def test_counts_in_one_system_are_refused(tmp_path, prepared, windows_of):
    bad = anndata.AnnData(prepared.X.copy(), obs=prepared.obs[["system", "batch"]], var=prepared.var[[]])
    name = bad.obs["system"].iloc[0]
    rows = np.repeat((bad.obs["system"] == name).to_numpy(), np.diff(bad.X.indptr))
    bad.X.data[rows] = np.ceil(bad.X.data[rows])
    bad.write_h5ad(tmp_path / "bad.h5ad")
    windows_of(100)
    with pytest.raises(sysvi.InputError, match=f"raw counts in system '{name}'"):
        sysvi.integrate(tmp_path / "bad.h5ad", "system", "batch", memory="1GB", **TINY)


# -- choice -----------------------------------------------------------------------------------------------------------


def large(folder, n_cells=400_000):
    """Cells that would take 1.6 GB in memory, of which the file has none: all rows are empty but in name."""
    import h5py

    obs = anndata.AnnData(sp.csr_matrix((n_cells, 500), dtype=np.float32)).obs
    with h5py.File(folder / "large.h5ad", "w") as file:
        anndata.io.write_elem(file, "obs", obs)
        file.create_group("X").attrs.update(
            {"encoding-type": "csr_matrix", "encoding-version": "0.1.0", "shape": (n_cells, 500)}
        )
        file["X"].create_dataset("indptr", data=np.arange(n_cells + 1) * 500)
        for name, kind in (("data", "f4"), ("indices", "i4")):
            file["X"].create_dataset(name, shape=500 * n_cells, dtype=kind, chunks=(100_000,))
    handle = h5py.File(folder / "large.h5ad")
    return anndata.AnnData(anndata.io.sparse_dataset(handle["X"]), obs=obs)


def test_storage_is_chosen_by_the_memory(tmp_path):
    import torch

    adata, cpu = large(tmp_path), torch.device("cpu")
    generous = choose_storage(adata, None, "64GB", 1, cpu)
    assert generous.window_cells is None
    assert generous.why.startswith("The expression is read into memory: with it the run takes about")
    tight = choose_storage(adata, None, "2GB", 1, cpu)
    assert 8_192 <= tight.window_cells < 400_000
    assert tight.n_bytes <= 2e9 < generous.n_bytes
    assert "stays on disk" in tight.why
    wider = choose_storage(adata, None, "2.3GB", 1, cpu)
    assert wider.window_cells > tight.window_cells
    assert choose_storage(adata, None, None, 1, cpu).window_cells is None
    with pytest.raises(
        sysvi.InputError,
        match="memory='800MB' is too little: 400,000 cells and 1 model take about 1,312 MB, with the expression on",
    ):
        choose_storage(adata, None, "800MB", 1, cpu)


@pytest.mark.parametrize("memory", ["4 bananas", "-1GB", "0", "1.2.3GB", True, float("nan"), "GB", ""])
def test_memory_must_be_an_amount(prepared, memory):
    with pytest.raises(sysvi.InputError, match=r"memory is .*must be an amount of memory"):
        sysvi.integrate(prepared.copy(), "system", memory=memory, **TINY)


def test_what_is_in_memory_stays_there(prepared):
    events = []
    settings = {**TINY, "progress": events.append}
    model = sysvi.integrate(prepared.copy(), "system", memory="2GB", members=1, **settings)
    (event,) = [event for event in events if event.stage == "storage"]
    assert not model.cells.is_stored
    assert "in memory already" in event.message
    assert event.values["on_disk"] is False


def test_a_store_that_lacks_a_chunk_is_found(tmp_path, prepared):
    prepared.write_zarr(tmp_path / "cells.zarr")
    chunk = next(p for p in (tmp_path / "cells.zarr" / "X" / "data").rglob("*") if p.is_file() and p.name == "0")
    chunk.unlink()
    with pytest.raises(sysvi.InputError, match=r"is damaged: X/data has \d of \d chunks"):
        open_cells(tmp_path / "cells.zarr")


def test_a_csc_matrix_is_refused(tmp_path, prepared, monkeypatch):
    monkeypatch.setattr("sysvi.api.storage.OF_LIBRARIES", 0)
    by_genes = anndata.AnnData(sp.csc_matrix(prepared.X), obs=prepared.obs, var=prepared.var)
    by_genes.write_h5ad(tmp_path / "csc.h5ad")
    with pytest.raises(sysvi.InputError, match="stored by genes"):
        sysvi.integrate(tmp_path / "csc.h5ad", "system", memory="1kB", **TINY)
