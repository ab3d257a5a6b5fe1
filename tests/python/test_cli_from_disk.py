"""`sysvi integrate` of cells that stay on disk, `--dry-run`, `--checkpoint`, `--in-place`, and zarr stores as input.

Zarr stores are also the input of `sysvi report` and `sysvi evaluate`.
"""

import json
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
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


def test_the_output_may_be_a_store(prepared, little_memory, tmp_path):
    output, file = tmp_path / "out.zarr", tmp_path / "out.h5ad"
    run("integrate", prepared, *FAST, *little_memory, "-o", output)
    run("integrate", prepared, *FAST, *little_memory, "-o", file)
    found, expected = anndata.read_zarr(output), anndata.read_h5ad(file)
    assert found.X is None
    pd.testing.assert_frame_equal(found.obs, expected.obs)
    np.testing.assert_array_equal(found.obsm["X_sysVI"], expected.obsm["X_sysVI"])
    assert list(found.uns["sysvi"]["genes"]) == list(expected.uns["sysvi"]["genes"])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out.h5ad", "out.zarr"]
    for path in (output, file):  # as the command suggests
        run(
            "evaluate",
            path,
            *COLUMNS[:4],
            "--label",
            "cell_type",
            "--embedding",
            "X_sysVI",
            "-o",
            tmp_path / path.suffix,
        )
    refused = run("integrate", prepared, *FAST, *little_memory, "-o", output, code=1)
    assert "exists already" in refused.stderr


@pytest.fixture(scope="module")
def parts(cells, tmp_path_factory):
    """Counts in a file of each system, one of them without the column of the system, and the options that name it."""
    folder = tmp_path_factory.mktemp("parts")
    for name in ("system1", "system2"):
        cells[cells.obs["system"] == name].copy().write_h5ad(folder / f"{name}.h5ad")
    part = anndata.read_h5ad(folder / "system2.h5ad")
    del part.obs["system"]
    part.write_zarr(folder / "other.zarr")
    (folder / "system2.h5ad").unlink()
    return [
        folder / "system1.h5ad",
        folder / "other.zarr",
        "--system-of-file",
        "other.zarr=system2",
        "--min-cells",
        "3",
    ]


@pytest.mark.parametrize("memory", [[], ["--memory", "60kB"]], ids=["in memory", "from disk"])
def test_several_inputs_are_prepared_and_integrated(parts, little_memory, memory, tmp_path):
    prepared, output, expected = tmp_path / "prepared.zarr", tmp_path / "out.h5ad", tmp_path / "expected.h5ad"
    run("prepare", *parts, *COLUMNS[:4], "-o", prepared)
    run("integrate", prepared, *FAST, *memory, "-o", expected)
    call = ["integrate", *parts, *FAST, *memory, "-o", output, "--checkpoint", tmp_path / "kept"]
    result = run(*call, "--save-model", tmp_path / "model", "--report", tmp_path / "r.html", code=1 if memory else 0)
    if memory:
        assert "--report needs the expression in memory" in result.stderr
        run(*call, "--save-model", tmp_path / "model")
    names = ["expected.h5ad", "kept", "model", "out.h5ad", "prepared.zarr"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names + ([] if memory else ["r.html"])
    found, expected = anndata.read_h5ad(output), anndata.read_h5ad(expected)
    assert found.X is None
    pd.testing.assert_frame_equal(found.obs, expected.obs)
    np.testing.assert_array_equal(found.obsm["X_sysVI"], expected.obsm["X_sysVI"])
    again = run(*call, "--overwrite")  # the same cells in the same order, so that training has ended already
    assert "goes on from the checkpoint" in again.stderr or "goes on from the checkpoint" in again.stdout
    np.testing.assert_array_equal(anndata.read_h5ad(output).obsm["X_sysVI"], expected.obsm["X_sysVI"])


def test_what_several_inputs_do_not_have(parts, tmp_path):
    call, output = ["integrate", *parts, *FAST], ["-o", tmp_path / "out.h5ad"]
    for option in ("--copy", "--raw", "--all-genes"):
        assert f"{option} is for a single INPUT" in run(*call, *output, option, code=2).stderr
    assert "--in-place is for a single INPUT" in run(*call, "--in-place", code=2).stderr
    assert "--dry-run is for prepared cells: run sysvi prepare" in run(*call, *output, "--dry-run", code=1).stderr
    (tmp_path / "out.h5ad").write_text("old")
    assert "exists already" in run(*call, *output, code=1).stderr
    message = run("integrate", *parts[:2], *FAST, *output, "--overwrite", code=1).stderr
    assert "other.zarr: --system 'system' is not a column of obs" in message
    assert "If all its cells are of one system, name it in --system-of-file." in message
    assert [path.name for path in tmp_path.iterdir()] == ["out.h5ad"]


def test_a_copy_of_a_file_is_no_store(prepared, tmp_path):
    code = 0 if prepared.is_dir() else 1
    result = run("integrate", prepared, *FAST, "-o", tmp_path / "out.zarr", code=code)
    assert "the output is a copy of an h5ad file: name it .h5ad" in result.stderr or prepared.is_dir()
    result = run("report", prepared, "-o", tmp_path / "report.zarr", code=1)
    assert "has the name of a zarr store, but a file is written" in result.stderr


def test_a_damaged_chunk_of_a_store_is_one_sentence(cells, tmp_path):
    """Tasks of zarr that are pending after the error print nothing at the end of the process."""
    cells.write_h5ad(tmp_path / "counts.h5ad")
    path = sysvi.prepare_files([tmp_path / "counts.h5ad"], tmp_path / "cells.zarr", "system", "batch", min_cells=3)
    chunk = path / "X" / "data" / "c" / "0"
    content = bytearray(chunk.read_bytes())
    content[len(content) // 3 : len(content) // 3 + 8] = b"zzzzzzzz"
    chunk.write_bytes(content)
    command = [sys.executable, "-m", "sysvi", "integrate", path, *FAST, "-o", tmp_path / "out.h5ad"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 1, done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("Error: ")
    assert "damaged" in last
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out.h5ad").exists()


def test_memory_that_is_too_little_names_the_least_that_is_enough(prepared, tmp_path):
    call = ["integrate", prepared, *FAST, "-o", tmp_path / "out.h5ad", "--dry-run", "--memory"]
    message = run(*call, "100MB", code=1).stderr
    least = re.search(r"take about ([\d,]+ MB)", message)[1].replace(",", "")
    run(*call, least)
    assert "is too little" in run(*call, f"{int(least.split()[0]) - 2} MB", code=1).stderr


def test_a_folder_of_other_files_is_no_checkpoint(prepared, tmp_path):
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "text.txt").write_text("mine")
    call = ["integrate", prepared, *FAST, "-o", tmp_path / "out.h5ad", "--checkpoint", tmp_path / "notes"]
    assert "has no checkpoint but other files (text.txt)" in run(*call, code=1).stderr
    assert [path.name for path in (tmp_path / "notes").iterdir()] == ["text.txt"]


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
        result = run("integrate", prepared, *FAST, *little_memory, "-o", prepared, "--overwrite", code=1)
        assert "is the input, and the output" in result.stderr
        assert "or use --in-place" in result.stderr
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
    shortest, longest = event["expected_seconds"]
    assert 0 < shortest < longest
    assert "It would take roughly " in text
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


# -- checkpoints ------------------------------------------------------------------------------------------------------


def test_the_same_command_goes_on_from_its_checkpoint(prepared, little_memory, tmp_path):
    command = ["integrate", prepared, *FAST, *little_memory, "--checkpoint", tmp_path / "kept", "--json"]
    run(*command, "-o", tmp_path / "first.h5ad")
    lines = run(*command, "-o", tmp_path / "second.h5ad").stdout.splitlines()
    stages = [json.loads(line)["stage"] for line in lines]
    assert "checkpoint" in stages
    assert "epoch" not in stages
    first, second = (anndata.read_h5ad(tmp_path / f"{name}.h5ad").obsm["X_sysVI"] for name in ("first", "second"))
    np.testing.assert_array_equal(first, second)


def test_a_checkpoint_of_another_run_is_refused_in_words_of_options(prepared, tmp_path):
    kept = ["--checkpoint", tmp_path / "kept", "-o", tmp_path / "out.h5ad"]
    run("integrate", prepared, *FAST, *kept)
    result = run("integrate", prepared, *COLUMNS, "--members", 1, "--epochs", 3, *kept, "--overwrite", code=1)
    assert result.stderr.splitlines()[-1] == (
        f"Error: The folder {tmp_path / 'kept'} holds the checkpoint of another run (setting --epochs: 2 there, 3 "
        "here): choose another folder, or remove this one to begin again."
    )


def test_a_stop_signal_ends_the_command_to_be_continued(prepared, tmp_path, monkeypatch, default_hangup_handler):
    from sysvi._core import progress

    write = progress.JsonLines.__call__

    def send(self, event):
        write(self, event)
        if event.stage == "epoch":
            signal.raise_signal(signal.SIGUSR1)

    monkeypatch.setattr(progress.JsonLines, "__call__", send)
    kept = ["--checkpoint", tmp_path / "kept", "-o", tmp_path / "out.h5ad", "--json"]
    result = run("integrate", prepared, *FAST, *kept, code=75)
    assert json.loads(result.stdout.splitlines()[-1])["message"] == (
        f"Stopped by SIGUSR1. When it is run again, it goes on from the checkpoint in {tmp_path / 'kept'}."
    )
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


# -- in place ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def store(prepared, tmp_path):
    """A copy of the cells that tests may change."""
    if not prepared.is_dir():
        pytest.skip("h5ad files are refused, which has a test of its own")
    return Path(shutil.copytree(prepared, tmp_path / "cells.zarr"))


@pytest.mark.parametrize("members", [1, 2])
@pytest.mark.parametrize("on_disk", [False, True], ids=["memory", "disk"])
def test_in_place_adds_what_an_output_has(store, little_memory, tmp_path, members, on_disk):
    options = [*COLUMNS, "--epochs", 2, "--members", members, *(little_memory if on_disk else [])]
    before = anndata.read_zarr(store)
    run("integrate", store, *options, "-o", tmp_path / "out.h5ad")
    result = run("integrate", store, *options, "--in-place")
    assert f"Wrote {store}: obsm['X_sysVI'], 500 x 15" in result.stderr
    found, expected = anndata.read_zarr(store), anndata.read_h5ad(tmp_path / "out.h5ad")
    assert (found.X != before.X).nnz == 0
    assert list(found.obs) == list(expected.obs)
    assert set(found.obsm) == set(expected.obsm)
    np.testing.assert_array_equal(found.obsm["X_sysVI"], expected.obsm["X_sysVI"])
    assert set(found.uns["sysvi"]) == set(expected.uns["sysvi"])
    assert found.uns["sysvi"]["model_settings"] == expected.uns["sysvi"]["model_settings"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cells.zarr", "out.h5ad"]


def test_in_place_replaces_an_embedding_if_told_so(store):
    run("integrate", store, *FAST, "--in-place")
    result = run("integrate", store, *FAST, "--seed", 1, "--in-place", code=1)
    assert (
        f"Error: obsm['X_sysVI'] of {store} exists already: pass --overwrite to replace it, or give another --key."
        in (result.stderr)
    )
    run("integrate", store, *FAST, "--seed", 1, "--in-place", "--overwrite")
    run("integrate", store, *FAST, "--key", "X_other", "--in-place")
    found = anndata.read_zarr(store)
    assert {"X_sysVI", "X_other"} <= set(found.obsm)
    assert not np.array_equal(found.obsm["X_sysVI"], found.obsm["X_other"])


def test_in_place_is_for_stores(prepared, tmp_path):
    if prepared.is_dir():
        return
    before = prepared.read_bytes()
    result = run("integrate", prepared, *FAST, "--in-place", code=1)
    assert "is no zarr store, and --in-place adds the embedding to stores only: give --output instead" in result.stderr
    assert prepared.read_bytes() == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "Give either --output, a file to write, or --in-place"),
        (["--in-place", "-o", "out.h5ad"], "Give either --output, a file to write, or --in-place"),
        (["--in-place", "--copy"], "--copy is for --output: with --in-place, the expression stays where it is."),
    ],
)
def test_in_place_takes_the_place_of_an_output(prepared, options, message):
    assert message in run("integrate", prepared, *FAST, *options, code=2).stderr


def test_a_store_that_changes_during_the_run_is_left_alone(store, tmp_path, monkeypatch):
    def change(*args, **kwargs):
        other = anndata.read_zarr(store)[::-1].copy()
        shutil.rmtree(store)
        other.write_zarr(store)
        return integrate(*args, **kwargs)

    integrate = sysvi.integrate
    monkeypatch.setattr(sysvi, "integrate", change)
    result = run("integrate", store, *FAST, "--in-place", code=1)
    assert "was changed during the run" in result.stderr
    assert "X_sysVI" not in anndata.read_zarr(store).obsm
    assert anndata.read_h5ad(tmp_path / "cells.results.h5ad").obsm["X_sysVI"].shape == (500, 15)


# -- stores with an embedding ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def integrated(cells):
    """An integration of 300 cells, with 150 genes."""
    adata = sysvi.prepare(cells[:300], "system", "batch", min_cells=3)
    sysvi.integrate(adata, "system", "batch", members=2, max_epochs=2, device="cpu", progress=False)
    return adata


@pytest.mark.slow
@pytest.mark.parametrize(
    ("expression", "sample"),
    [("sparse", []), ("sparse", ["--max-cells", "200"]), ("dense", ["--max-cells", "200"]), ("none", [])],
    ids=["all cells", "a sample", "a sample of a dense matrix", "no expression"],
)
def test_a_store_is_measured_and_reported_as_an_h5ad_file(integrated, tmp_path, expression, sample):
    adata = integrated.copy()
    if expression == "dense":
        adata.X = adata.X.toarray()
    if expression == "none":
        adata = anndata.AnnData(obs=adata.obs, var=adata.var, obsm=dict(adata.obsm), uns=dict(adata.uns))
    adata.write_h5ad(tmp_path / "cells.h5ad")
    adata.write_zarr(tmp_path / "cells.zarr")
    measured = ["--embedding", "X_sysVI"] if expression == "none" else []
    pages = {}
    for name in ("cells.h5ad", "cells.zarr"):
        options = ["--label", "cell_type", *sample]
        run("evaluate", tmp_path / name, *COLUMNS, *options, *measured, "-o", tmp_path / f"{name}.out")
        run("report", tmp_path / name, *options, "-o", tmp_path / f"{name}.html")
        pages[name] = (tmp_path / f"{name}.html").read_text(encoding="utf-8")
    for file in ("evaluation.csv", "labels.csv", "cells.csv"):
        assert (tmp_path / "cells.zarr.out" / file).read_bytes() == (tmp_path / "cells.h5ad.out" / file).read_bytes()
    assert pages["cells.zarr"] == pages["cells.h5ad"]
    assert "Integration of system1 and system2" in pages["cells.zarr"]


@pytest.mark.slow
def test_the_commands_after_an_integration_in_place_take_its_store(store, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = run("integrate", store, *COLUMNS, "--epochs", 2, "--members", 2, "--in-place")
    lines = result.stderr.replace("CELL_TYPE:", "").replace("CELL_TYPE", "cell_type").splitlines()
    commands = [line.split()[1:] for line in lines if line.strip().startswith("sysvi ")]
    assert [words[0] for words in commands] == ["report", "evaluate"]
    for words in commands:
        run(*words)
    assert {"cells.html", "evaluation"} <= {path.name for path in tmp_path.iterdir()}
