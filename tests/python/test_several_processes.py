"""`sysvi.integrate` and `sysvi integrate` in several processes, which communicate by gloo."""

import json
import signal
import socket
import subprocess
import sys

import anndata
import numpy as np
import processes
import pytest
import torch
from click.testing import CliRunner
from scipy.linalg import orthogonal_procrustes

import sysvi
from sysvi.cli import main
from sysvi.kernels.plan import _has_bfloat16

COLUMNS = ["--system", "system", "--batch", "batch", "--device", "cpu"]
FAST = [*COLUMNS, "--members", "2", "--epochs", "3", "--batch-size", "64", "--precision", "float32"]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings(
        "ignore:Only .* genes remain", "ignore:The integration leaves", "ignore:Some cells have no"
    ),
]


def difference_up_to_rotation(found, expected):
    """Relative difference of two embeddings; rounding rotates principal components of nearly the same variance.

    It is a few millionths, but for runs in which rounding decides whether a hidden unit is above zero, or which cells
    are anchors: both are steps, not continuous.
    """
    rotation, _ = orthogonal_procrustes(found, expected)
    return np.linalg.norm(found @ rotation - expected) / np.linalg.norm(expected)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    adata = sysvi.prepare(sysvi.datasets.simulate_systems(500, 150, seed=1), "system", "batch", min_cells=3)
    path = tmp_path_factory.mktemp("input") / "prepared.h5ad"
    adata.write_h5ad(path)
    return path


@pytest.fixture(scope="module")
def alone(prepared):
    """Results of each scenario in this process."""
    with pytest.MonkeyPatch.context() as patch:
        return processes.run_scenarios(prepared, patch.setattr)


def command(*arguments):
    return ["-m", "sysvi", *arguments]


@pytest.mark.parametrize("size", [2, 4])
def test_losses_and_embedding_do_not_depend_on_the_number_of_processes(prepared, alone, size, tmp_path):
    started = processes.start([[processes.__file__, prepared, tmp_path]] * size)
    codes, _, errors = processes.finish(started)
    assert codes == [0] * size, errors
    ranks = [np.load(tmp_path / f"rank{rank}-of-{size}.npz") for rank in range(size)]
    assert len(alone) > 50
    of_models, of_ensembles = [], []  # differences of the embeddings
    for name, expected in alone.items():
        for found in ranks[1:]:
            np.testing.assert_array_equal(found[name], ranks[0][name], err_msg=name)
        # The products of hidden layers are rounded to bfloat16 by default, where the processor has such instructions.
        # Then losses are close, but single values of the embedding are not.
        if name == "defaults.embedding":
            assert np.corrcoef(ranks[0][name].ravel(), expected.ravel())[0, 1] > 0.95
            continue
        rtol, atol = (0.02, 0.5) if name.startswith("defaults") else (2e-3, 2e-2)
        if name.endswith("embedding"):
            is_model = processes.SCENARIOS[name.split(".")[0]]["members"] == 1
            differences = of_models if is_model else of_ensembles
            differences.append(difference_up_to_rotation(ranks[0][name], expected))
            continue
        if name.endswith("support"):  # which cells are neighbours can depend on rounding
            atol = max(atol, 0.15)
        np.testing.assert_allclose(ranks[0][name], expected, rtol=rtol, atol=atol, err_msg=name)
        if name.endswith("total_train"):
            rounded = name.startswith("defaults") and _has_bfloat16(torch.device("cpu"))
            rtol = 3e-3 if rounded else 1e-3
            np.testing.assert_allclose(ranks[0][name], expected, rtol=rtol, err_msg=name)
    assert len(of_models) == len(of_ensembles) == 2
    assert min(of_models) < 1e-5, of_models
    assert max(of_models + of_ensembles) < 0.1, (of_models, of_ensembles)


def test_torchrun_writes_one_output_and_goes_on_from_a_checkpoint(prepared, tmp_path):
    output, kept, model = tmp_path / "out.h5ad", tmp_path / "kept", tmp_path / "model"
    call = ["integrate", prepared, *FAST, "-o", output, "--overwrite", "--checkpoint", kept, "--save-model", model]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    launcher += ["--master-port", str(processes.free_port())]

    def run():
        done = subprocess.run(
            [*launcher, *map(str, command(*call))],
            env=processes.environment(),
            capture_output=True,
            text=True,
            timeout=processes.LIMIT,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stderr

    shown = run()
    assert shown.count("Wrote ") == 2  # output and model
    assert shown.count("Integrated 500 cells") == 1
    assert shown.count("Training 2 models") == 1
    found = anndata.read_h5ad(output)
    single = tmp_path / "single.h5ad"
    result = CliRunner().invoke(main, [str(x) for x in ["integrate", prepared, *FAST, "-o", single]])
    assert result.exit_code == 0, result.output
    expected = anndata.read_h5ad(single)
    assert difference_up_to_rotation(found.obsm["X_sysVI"], expected.obsm["X_sysVI"]) < 0.1
    np.testing.assert_allclose(found.obs["sysvi_support"], expected.obs["sysvi_support"], atol=0.15)
    assert found.X.nnz == expected.X.nnz > 0
    loaded = sysvi.load(model).get_latent_representation(found)
    np.testing.assert_allclose(loaded, found.obsm["X_sysVI"], atol=1e-3)
    call.remove("--save-model")
    call.remove(model)
    assert "Training goes on from the checkpoint" in run()
    np.testing.assert_array_equal(anndata.read_h5ad(output).obsm["X_sysVI"], found.obsm["X_sysVI"])


def only_error(errors):
    """The single line that starts with "Error: " of all processes."""
    lines = [line for err in errors for line in err.splitlines() if line.startswith("Error: ")]
    assert len(lines) == 1, errors
    assert not any("Traceback" in err for err in errors), errors
    return lines[0]


@pytest.mark.parametrize(
    ("further", "message"),
    [
        ([["--seed", "1"], []], "of process 1 and process 0 differ: seed: 0 in 1, 1 in 0"),
        ([[], ["--cycle-weight", "3"]], "setting --cycle-weight: 3.0 in 1, the default in 0"),
        ([["--batch", "label"], []], "other columns"),
        ([["--system", "nonsense"], ["--system", "nonsense"]], r"'nonsense'"),
        ([["--system", "nonsense"], []], "other columns"),
        ([[], ["-o", "missing/out.h5ad"]], "missing"),
    ],
    ids=["seed", "setting", "column", "same error in all", "column of one", "error in one"],
)
def test_processes_that_differ_end_with_one_message(prepared, tmp_path, further, message):
    output = tmp_path / "out.h5ad"
    calls = [command("integrate", prepared, *FAST, "-o", output, *more) for more in further]
    codes, _, errors = processes.finish(processes.start(calls))
    assert codes == [1, 1], errors
    assert message in only_error(errors)
    assert list(tmp_path.iterdir()) == []


def test_processes_with_other_cells_end_with_one_message(prepared, tmp_path):
    adata = anndata.read_h5ad(prepared)
    adata.X.data[adata.X.data > 0] *= 1.01
    other = tmp_path / "other.h5ad"
    adata.write_h5ad(other)
    calls = [command("integrate", path, *FAST, "-o", tmp_path / "out.h5ad") for path in (prepared, other)]
    codes, _, errors = processes.finish(processes.start(calls))
    assert codes == [1, 1], errors
    assert "other expression" in only_error(errors)
    assert list(tmp_path.iterdir()) == [other]


@pytest.mark.parametrize("dead", [0, 1])
def test_a_process_that_dies_ends_all(prepared, tmp_path, dead):
    call = command("integrate", prepared, *FAST, "--epochs", "100000", "-o", tmp_path / "out.h5ad", "--json")
    started = processes.start([call] * 2)
    wait_for(started[0], "epoch")
    started[dead].kill()
    codes, outputs, errors = processes.finish(started)
    assert codes[dead] == -signal.SIGKILL
    assert codes[1 - dead] == 1, errors
    (message,) = [event["message"] for event in events(outputs[1 - dead]) if event["stage"] == "error"]
    assert "One of the 2 processes has ended" in message
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_stop_signal_to_one_process_stops_all(prepared, tmp_path, name):
    output, kept = tmp_path / "out.h5ad", tmp_path / "kept"
    call = command("integrate", prepared, *FAST, "--epochs", "100000", "-o", output, "--json", "--checkpoint", kept)
    started = processes.start([call] * 2)
    wait_for(started[0], "epoch")
    started[1].send_signal(getattr(signal, name))
    codes, outputs, errors = processes.finish(started)
    if name == "SIGINT":  # as in a single process, what was trained is written
        assert codes == [130, 130], errors
        assert anndata.read_h5ad(output).obsm["X_sysVI"].shape == (500, 15)
    else:
        assert codes == [75, 75], errors
        assert not output.exists()
        assert sum(event["stage"] == "checkpoint" for event in events(outputs[0])) == 1
    assert (kept / "member-0.safetensors").exists()


def wait_for(process, stage):
    """Read events until one of this stage."""
    for line in process.stdout:
        if json.loads(line)["stage"] == stage:
            return
    raise AssertionError(process.stderr.read())


def events(output):
    return [json.loads(line) for line in output.splitlines()]


def test_a_port_that_is_taken_is_said(prepared, tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        first, second = processes.start(
            [command("integrate", prepared, *FAST, "-o", tmp_path / "out.h5ad")] * 2, taken.getsockname()[1]
        )
        codes, _, errors = processes.finish([first])
        second.kill()  # it would wait for two minutes
        second.communicate()
    assert codes == [1]
    error = only_error(errors)
    assert error.startswith("Error: The 2 processes cannot be joined at 127.0.0.1:")
    assert "torchrun --master-port" in error
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (["tune", "cells.h5ad", "--system", "s", "-o", "out"], "sysvi tune works in a single process"),
        (["integrate", "counts.h5ad", *FAST, "-o", "out.h5ad"], "run sysvi prepare first"),
        (["integrate", "prepared", *FAST, "-o", "out.h5ad", "--report", "r.html"], "for a single process"),
        (["integrate", "prepared", *FAST, "-o", "out.h5ad", "--dry-run"], "for a single process"),
    ],
    ids=["command", "counts", "report", "dry run"],
)
def test_what_several_processes_cannot_do_is_refused(prepared, tmp_path, monkeypatch, call, message):
    monkeypatch.chdir(tmp_path)
    sysvi.datasets.simulate_systems(100, 50, seed=1).write_h5ad("counts.h5ad")
    call = [prepared if word == "prepared" else word for word in call]
    codes, _, errors = processes.finish(processes.start([command(*call)] * 2))
    assert codes == [1, 1]
    assert message in only_error(errors)


def test_other_trainings_in_a_process_group_are_refused(monkeypatch, prepared):
    import sysvi.training.loop as loop
    from sysvi._core.ranks import Ranks

    monkeypatch.setattr(loop, "current_ranks", lambda: Ranks(0, 2))
    adata = anndata.read_h5ad(prepared)
    sysvi.SysVI.setup_anndata(adata, "system")
    with pytest.raises(sysvi.InputError, match=r"with sysvi\.integrate only"):
        sysvi.SysVI(adata).train(max_epochs=1, progress=False)
