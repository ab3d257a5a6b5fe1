"""Checkpointed runs of the command line that are killed or told to stop: the same command goes on to the same bits."""

import random
import shlex
import signal
import subprocess
import sys

import anndata
import numpy as np
import pytest
from soak import N_ROUNDS, PATIENCE, files_in

pytestmark = pytest.mark.slow

OPTIONS = shlex.split("--system system --batch batch --device cpu --members 2 --epochs 12 --json -o out.h5ad")
# The command, which here writes the state after each step.
OFTEN = """
from sysvi.training import state
state.SECONDS_BETWEEN_WRITES = 0
from sysvi.cli import main
main()
"""


@pytest.fixture(scope="module")
def expected(counts, tmp_path_factory):
    """The embedding of a run without interruption."""
    folder = tmp_path_factory.mktemp("whole")
    subprocess.run([sys.executable, "-m", "sysvi", "integrate", counts, *OPTIONS], cwd=folder, check=True)
    return anndata.read_h5ad(folder / "out.h5ad").obsm["X_sysVI"]


@pytest.fixture
def start(counts, tmp_path):
    """Function that starts the command with a checkpoint."""

    def start_command():
        command = [sys.executable, "-c", OFTEN, "integrate", str(counts), *OPTIONS, "--checkpoint", "kept"]
        return subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    return start_command


def finish(process, folder, expected):
    """Let a run come to its end, and compare its result."""
    output, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, output
    np.testing.assert_array_equal(anndata.read_h5ad(folder / "out.h5ad").obsm["X_sysVI"], expected)
    assert files_in(folder) == {"out.h5ad", "kept/run.json", "kept/member-0.safetensors", "kept/member-1.safetensors"}
    return output


@pytest.mark.parametrize("round_number", range(N_ROUNDS))
def test_a_killed_run_goes_on_to_the_same_bits(start, tmp_path, expected, round_number):
    rng = random.Random(f"checkpoint {round_number}")
    for _ in range(2):
        process = start()
        n_epochs = rng.randrange(1, 6)  # before the kill; further ones may follow while the signal is on its way
        for line in process.stdout:
            n_epochs -= '"stage": "epoch"' in line
            if not n_epochs:
                break
        assert not n_epochs  # else it has ended
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=PATIENCE)
        assert not (tmp_path / "out.h5ad").exists()
    assert '"stage": "checkpoint", "message": "Training goes on from the checkpoint in kept: ' in finish(
        start(), tmp_path, expected
    )


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGUSR1], ids=lambda sent: sent.name)
def test_a_run_that_is_told_to_stop_is_to_be_continued(start, tmp_path, expected, default_hangup_handler, sent):
    process = start()
    for line in process.stdout:
        if '"stage": "epoch"' in line:
            process.send_signal(sent)
            break
    output, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 75, output
    assert f"Stopped by {sent.name}. When it is run again, it goes on from the checkpoint in kept." in output
    assert "Traceback" not in output
    assert not (tmp_path / "out.h5ad").exists()
    finish(start(), tmp_path, expected)


def test_a_signal_before_training_is_to_be_continued_too(start, tmp_path, default_hangup_handler):
    process = start()
    for line in process.stdout:
        if '"stage": "prepare"' in line:
            process.send_signal(signal.SIGTERM)
            break
    output, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 75, output
    assert "Traceback" not in output
