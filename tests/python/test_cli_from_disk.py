"""`sysvi integrate` of cells that stay on disk, `--dry-run`, and zarr stores as input."""

import json

import anndata
import numpy as np
import pytest
from click.testing import CliRunner

import sysvi
import sysvi.api.storage as storage
from sysvi.cli import main

COLUMNS = ["--system", "system", "--batch", "batch", "--device", "cpu"]
FAST = [*COLUMNS, "--members", "1", "--epochs", "2"]

pytestmark = pytest.mark.filterwarnings("ignore:Only .* genes remain", "ignore:Writing zarr v2")


def run(*arguments, code=0):
    result = CliRunner().invoke(main, [str(a) for a in arguments])
    assert result.exit_code == code, result.output
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result


@pytest.fixture(scope="module")
def cells():
    """Counts of 500 cells. Shared: do not modify."""
    return sysvi.datasets.simulate_systems(500, 150, seed=1)


@pytest.fixture(scope="module", params=["h5ad", "zarr"])
def prepared(request, cells, tmp_path_factory):
    adata = sysvi.prepare(cells, "system", "batch", min_cells=3)
    path = tmp_path_factory.mktemp("input") / f"prepared.{request.param}"
    adata.write_h5ad(path) if request.param == "h5ad" else adata.write_zarr(path)
    return path


@pytest.fixture
def little_memory(monkeypatch):
    """Let everything but the expression count for nothing, and windows be small: 60 kB are too little for all cells."""
    for name in ("OF_LIBRARIES", "OF_A_CELL", "OF_AN_EMBEDDING", "OF_A_SAMPLED_VALUE", "OF_A_MINIBATCH"):
        monkeypatch.setattr(storage, name, 0)
    monkeypatch.setattr(storage, "MIN_WINDOW_CELLS", 10)
    return ["--memory", "60kB"]


def test_the_output_has_the_results_without_expression(prepared, little_memory, tmp_path):
    output = tmp_path / "out.h5ad"
    run("integrate", prepared, *FAST, *little_memory, "-o", output, "--save-model", tmp_path / "model")
    found = anndata.read_h5ad(output)
    source = sysvi.data.stores.open_cells(prepared)
    assert found.X is None
    assert not found.layers
    assert found.obsm["X_sysVI"].shape == (500, 15)
    assert list(found.obs_names) == list(source.obs_names)
    assert list(found.obs["batch"]) == list(source.obs["batch"])
    assert list(found.uns["sysvi"]["genes"]) == list(source.var_names)
    again = sysvi.load(tmp_path / "model").get_latent_representation(source)
    np.testing.assert_array_equal(found.obsm["X_sysVI"], again)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model", "out.h5ad"]


def test_what_was_chosen_is_said(prepared, little_memory, tmp_path):
    lines = run("integrate", prepared, *FAST, *little_memory, "-o", tmp_path / "out.h5ad", "--json").stdout.splitlines()
    (event,) = [event for event in map(json.loads, lines) if event["stage"] == "storage"]
    assert event["on_disk"] is True
    assert 10 <= event["window_cells"] < 500
    assert event["message"].startswith("The expression stays on disk: ")
    lines = run(
        "integrate", prepared, *FAST, "--memory", "4GB", "-o", tmp_path / "2.h5ad", "--json"
    ).stdout.splitlines()
    (event,) = [event for event in map(json.loads, lines) if event["stage"] == "storage"]
    assert event["on_disk"] is False
    assert event["message"].startswith("The expression is read into memory: ")


def test_copy_is_the_whole_file(prepared, little_memory, tmp_path):
    output = tmp_path / "out.h5ad"
    if prepared.is_dir():
        result = run("integrate", prepared, *FAST, *little_memory, "--copy", "-o", output, code=1)
        assert (
            result.stderr == "Error: --copy copies h5ad files, but the input is a zarr store: leave the option out.\n"
        )
        return
    run("integrate", prepared, *FAST, *little_memory, "--copy", "-o", output)
    found, source = anndata.read_h5ad(output), anndata.read_h5ad(prepared)
    assert (found.X != source.X).nnz == 0
    assert found.obsm["X_sysVI"].shape == (500, 15)


def test_an_input_is_not_replaced_by_a_file_without_expression(prepared, little_memory, tmp_path):
    if prepared.is_dir():
        result = run("integrate", prepared, *FAST, *little_memory, "-o", prepared, "--overwrite", code=2)
        assert "is a directory" in result.stderr
        return
    before = prepared.read_bytes()
    result = run("integrate", prepared, *FAST, *little_memory, "-o", prepared, "--overwrite", code=1)
    assert "is the input, and the output of cells that stay on disk has no expression" in result.stderr
    assert prepared.read_bytes() == before


def test_cells_that_are_not_prepared_are_refused(cells, little_memory, tmp_path):
    cells.write_h5ad(tmp_path / "counts.h5ad")
    result = run("integrate", tmp_path / "counts.h5ad", *FAST, *little_memory, "-o", tmp_path / "out.h5ad", code=1)
    assert (
        "The cells are not prepared, and too many to prepare them in 60kB (--memory): run sysvi prepare"
        in result.stderr
    )
    assert [p.name for p in tmp_path.iterdir()] == ["counts.h5ad"]


def test_a_memory_that_is_none_is_refused(prepared, tmp_path):
    result = run("integrate", prepared, *FAST, "--memory", "much", "-o", tmp_path / "out.h5ad", code=1)
    assert "memory is 'much'; it must be an amount of memory" in result.stderr


def test_dry_run_does_nothing(prepared, little_memory, tmp_path):
    output = tmp_path / "out.h5ad"
    arguments = ["integrate", prepared, *COLUMNS, "-o", output, "--dry-run"]
    text = run(*arguments, *little_memory).stderr
    assert "Cells: 500 x " in text
    assert "stays on disk" in text
    assert "Nothing was done." in text
    (event,) = map(json.loads, run(*arguments, *little_memory, "--json").stdout.splitlines())
    assert event["members"] == 8
    assert event["passes"] == 1 + 8 * event["epochs"] + 2
    (event,) = map(json.loads, run(*arguments, "--json", "--members", 1).stdout.splitlines())
    assert event["on_disk"] is False
    assert event["passes"] == 1
    assert list(tmp_path.iterdir()) == []


def test_dry_run_has_the_settings_of_the_run(prepared, tmp_path):
    output = tmp_path / "out.h5ad"
    settings = [*COLUMNS, "--members", 1, "--epochs", 2, "--batch-size", 70]
    (said,) = map(
        json.loads, run("integrate", prepared, *settings, "-o", output, "--dry-run", "--json").stdout.splitlines()
    )
    lines = run("integrate", prepared, *settings, "-o", output, "--json").stdout.splitlines()
    (done,) = [event for event in map(json.loads, lines) if event["stage"] == "plan"]
    for name in ("cells", "genes", "epochs", "batch_size"):
        assert said[name] == done[name]
    size = output.stat().st_size
    assert 0.2 * size < said["output_bytes"] < 5 * size


@pytest.mark.parametrize(("options", "message"), [(["--system", "absent"], "'absent'"), (["--epochs", 0], "--epochs")])
def test_dry_run_finds_mistakes(prepared, tmp_path, options, message):
    result = CliRunner().invoke(
        main, [str(a) for a in ["integrate", prepared, *COLUMNS, "-o", tmp_path / "o.h5ad", "--dry-run", *options]]
    )
    assert result.exit_code in (1, 2)
    assert message in result.stderr


def test_passes_are_counted(prepared, little_memory, tmp_path, monkeypatch):
    """Windows are read as often as the dry run says; the first pass, for checks and means of genes, reads blocks."""
    from sysvi.data import stored

    read, original = [], stored.StoredExpression._read_window

    def count(self, group):
        read.append(sum(map(len, group)))
        return original(self, group)

    monkeypatch.setattr(stored.StoredExpression, "_read_window", count)
    settings = [*COLUMNS, *little_memory, "--members", 2, "--epochs", 3, "--json"]
    (said,) = map(
        json.loads, run("integrate", prepared, *settings, "-o", tmp_path / "o.h5ad", "--dry-run").stdout.splitlines()
    )
    run("integrate", prepared, *settings, "-o", tmp_path / "o.h5ad")
    assert said["passes"] == 1 + 2 * 3 + 2  # the first one, for checks and means of genes, reads blocks
    windows = sum(read)
    assert (
        500 * (said["passes"] - 1) <= windows <= 500 * (said["passes"] - 1) + 2 * 300
    )  # and a window ahead at the end
