"""Row blocks on a Dask cluster of processes and in threads: the bits of a single thread; errors in a sentence."""

import os
import threading
import time

import anndata
import dask
import distributed
import numpy as np
import pytest
import scipy.sparse as sp
from click.testing import CliRunner

import sysvi
from sysvi.cli import main
from sysvi.data import block_map, prepare_files
from sysvi.data.block_map import active_client, connected, in_threads, on_cluster
from sysvi.data.prepare import read_preparation
from sysvi.data.stores import open_cells

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:Only .* genes remain", "ignore:Writing zarr v2", "ignore:Consolidated metadata"),
]
ARGUMENTS = {"system_key": "system", "batch_key": "batch", "min_cells": 3, "n_top_genes": 90}


@pytest.fixture(scope="module")
def cluster():
    """Two processes with two threads each."""
    options = {"dashboard_address": None, "memory_limit": 0}
    with distributed.LocalCluster(n_workers=2, threads_per_worker=2, processes=True, **options) as cluster:
        yield cluster


@pytest.fixture
def client(cluster):
    """The active client."""
    with distributed.Client(cluster) as client:
        yield client


@pytest.fixture(scope="module", autouse=True)
def small_blocks():
    """Row blocks and windows of few cells, so that there are many of both."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sysvi.data.row_blocks.BLOCK_VALUES", 3000)
        patch.setattr(prepare_files, "_shuffled_windows", windows_of_90)
        yield


def windows_of_90(n_cells, n_values, seed):
    return np.array_split(np.random.default_rng(seed).permutation(n_cells), n_cells // 90)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Counts of 600 cells of two systems, in files of four kinds with other orders of genes."""
    cells = sysvi.datasets.simulate_systems(600, 260, seed=1)
    folder, rng, paths = tmp_path_factory.mktemp("files"), np.random.default_rng(0), []
    for i, name in enumerate(("csr.h5ad", "csr.zarr", "csc.h5ad", "dense.h5ad")):
        part = cells[i::4, rng.permutation(cells.n_vars)[: 260 - i]]
        x = {"csc.h5ad": sp.csc_matrix, "dense.h5ad": sp.csr_matrix.toarray}.get(name, sp.csr_matrix)(part.X)
        part = anndata.AnnData(x, obs=part.obs, var=part.var[[]])
        (part.write_zarr if name.endswith("zarr") else part.write_h5ad)(folder / name)
        paths.append(folder / name)
    return paths


def contents(path):
    """All that a prepared file holds, and the bits of its numbers."""
    cells = open_cells(path)
    x = cells.X.to_memory()
    arrays = [x.data, x.indices, x.indptr, cells.uns["sysvi_totals"]["shares"]]
    return [array.tobytes() for array in arrays], list(cells.var_names), cells.obs.to_csv(), read_preparation(cells)


@pytest.fixture(scope="module")
def expected(files, tmp_path_factory):
    """What one thread writes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prepare_files, "in_threads", lambda n_threads: map)
        return contents(sysvi.prepare_files(files, tmp_path_factory.mktemp("one") / "all.h5ad", **ARGUMENTS))


def test_threads_give_the_bits_of_one(files, expected, tmp_path, monkeypatch):
    monkeypatch.setattr(prepare_files, "in_threads", lambda n_threads: in_threads(3))
    assert contents(sysvi.prepare_files(files, tmp_path / "all.h5ad", **ARGUMENTS)) == expected


def test_processes_of_the_active_cluster_give_the_bits_of_one_thread(files, expected, client, tmp_path):
    assert active_client() is client
    lines = []
    path = sysvi.prepare_files(files, tmp_path / "all.h5ad", report=lines.append, **ARGUMENTS)
    assert contents(path) == expected
    assert f"The files are read on the Dask cluster at {client.scheduler.address}" in lines


def test_the_command_connects_to_a_cluster(files, expected, cluster, tmp_path):
    arguments = ["prepare", *files, "--system", "system", "--batch", "batch", "--min-cells", 3, "--genes", 90]
    arguments += ["--dask", cluster.scheduler_address, "-o", tmp_path / "all.zarr"]
    result = CliRunner().invoke(main, [str(a) for a in arguments])
    assert result.exit_code == 0, result.output
    assert f"on the Dask cluster at {cluster.scheduler_address}" in result.output
    assert contents(tmp_path / "all.zarr") == expected
    assert active_client() is None


def test_work_is_done_on_the_workers(client):
    found = set(on_cluster(client)(lambda i: os.getpid(), range(40)))
    assert found <= set(client.run(os.getpid).values())
    assert os.getpid() not in found


@pytest.mark.parametrize("kind", ["threads", "cluster"])
def test_results_come_in_order_and_items_are_taken_as_needed(kind, client):
    taken = []

    def items():
        for i in range(200):
            taken.append(i)
            yield i

    def slowly_negative(i):
        time.sleep(0.02 * (i % 3 == 0))  # so that later items end before earlier ones
        return -i

    map_blocks = in_threads(3) if kind == "threads" else on_cluster(client)
    results = map_blocks(slowly_negative, items())
    assert [next(results) for _ in range(5)] == [0, -1, -2, -3, -4]
    assert len(taken) <= 5 + block_map.TASKS_AHEAD * 4 + 1
    results.close()  # as after an error: what is left is cancelled
    assert len(taken) < 50


def test_threads_compute_at_the_same_time():
    barrier = threading.Barrier(2, timeout=600)
    assert list(in_threads(2)(lambda i: barrier.wait() >= 0, range(6))) == [True] * 6


# -- errors -----------------------------------------------------------------------------------------------------------


def damage(path, tmp_path, position=0.5):
    """A copy of an h5ad file, one of whose column indices in the middle is out of range."""
    import h5py

    copy = tmp_path / path.name
    copy.write_bytes(path.read_bytes())
    with h5py.File(copy, "r+") as file:
        indices = file["X/indices"]
        indices[int(position * len(indices))] = 10_000
    return copy


@pytest.mark.parametrize("where", ["threads", "cluster"])
def test_a_damaged_file_is_named_wherever_it_is_read(files, where, request, tmp_path):
    if where == "cluster":
        request.getfixturevalue("client")
    damaged = damage(files[0], tmp_path)
    with pytest.raises(sysvi.InputError, match=r"csr\.h5ad: The expression is damaged"):
        sysvi.prepare_files([damaged, *files[1:]], tmp_path / "all.zarr", **ARGUMENTS)
    assert [path.name for path in tmp_path.iterdir()] == ["csr.h5ad"]


def test_a_bad_value_is_named_with_its_cell_and_gene(files, client, tmp_path):
    cells = anndata.read_h5ad(files[0])
    cells.X[100, 7] = -3
    cells.write_h5ad(tmp_path / "bad.h5ad")
    message = (
        rf"bad\.h5ad: adata\.X has a negative value \(-3 in gene '{cells.var_names[7]}', cell '{cells.obs_names[100]}'"
    )
    with pytest.raises(sysvi.InputError, match=message):
        sysvi.prepare_files([tmp_path / "bad.h5ad", *files[1:]], tmp_path / "all.zarr", **ARGUMENTS)


def test_workers_of_another_version_are_refused(client, monkeypatch):
    monkeypatch.setattr(block_map, "__version__", "0.0.1")
    with pytest.raises(
        sysvi.InputError, match=r"The Dask worker tcp://.* has sysvi .*, but this process has sysvi 0\.0\.1"
    ):
        on_cluster(client)


def test_a_cluster_without_workers_or_scheduler(monkeypatch, tmp_path):
    monkeypatch.setattr(block_map, "WORKERS_TIMEOUT", 0.1)
    with (
        distributed.LocalCluster(n_workers=0, dashboard_address=None, processes=False) as empty,
        distributed.Client(empty) as client,
        pytest.raises(sysvi.InputError, match=r"The Dask cluster at .* failed \(.*worker"),
    ):
        on_cluster(client)
    with (
        dask.config.set({"distributed.comm.timeouts.connect": "100ms"}),
        pytest.raises(sysvi.InputError, match=r"No Dask scheduler answers at tcp://127\.0\.0\.1:9"),
        connected("tcp://127.0.0.1:9"),
    ):
        pass


def test_a_cluster_that_loses_its_workers_is_not_waited_for_without_end(monkeypatch):
    monkeypatch.setattr(block_map, "WORKERS_TIMEOUT", 0.1)
    monkeypatch.setattr(block_map, "_check_workers", lambda client: None)  # as if there were some at the beginning
    with (
        distributed.LocalCluster(n_workers=0, dashboard_address=None, processes=False) as empty,
        distributed.Client(empty) as client,
        pytest.raises(sysvi.InputError, match=r"The Dask cluster at .* failed \(.*worker"),
    ):
        list(on_cluster(client)(abs, range(3)))


def test_workers_that_die(tmp_path):
    """The task of a worker that dies is done by the next one; a task that kills every worker is given up."""
    flag = tmp_path / "died"

    def die_once(i):
        if i == 3 and not flag.exists():
            flag.touch()
            os._exit(1)
        return i

    options = {"dashboard_address": None, "memory_limit": 0}
    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 1}),
        distributed.LocalCluster(n_workers=1, threads_per_worker=1, processes=True, **options) as cluster,
        distributed.Client(cluster) as client,
    ):
        assert list(on_cluster(client)(die_once, range(6))) == [0, 1, 2, 3, 4, 5]
        assert flag.exists()
        with pytest.raises(sysvi.InputError, match=r"The Dask cluster at tcp://.* failed \(.*died"):
            list(on_cluster(client)(lambda i: os._exit(1), range(3)))
