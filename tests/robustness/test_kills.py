"""Runs that are killed or asked to stop at random moments: nothing that was there is lost, and nothing is damaged."""

import random
import re
import shutil
import signal
import subprocess
import sys
import time

import anndata
import numpy as np
import pytest
from soak import N_ROUNDS, PATIENCE, files_in

import sysvi

pytestmark = pytest.mark.slow

# Options of each command, and about how many lines of JSON it prints.
COLUMNS = "--system system --batch batch --json"
LABEL = f"{COLUMNS} --label cell_type"
COMMANDS = {
    "integrate": (f"{COLUMNS} --members 2 --epochs 5 -o out.h5ad --overwrite", 22),
    "prepare": (f"{COLUMNS} --min-cells 3 -o out.h5ad --overwrite", 8),
    "tune": (f"{LABEL} --cycle-weight 0 --cycle-weight 5 --seeds 1 --epochs 5 -o out", 30),
    "compare": (f"{LABEL} --methods pca --seeds 1 -o out", 8),
}
SAVE = """
import sys, sysvi
model = sysvi.load("model")
for i in range(200):
    model.save("out", overwrite=True)
    print(i, flush=True)
"""


@pytest.fixture(scope="module")
def model_folder(counts, tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved") / "model"
    prepared = sysvi.prepare(anndata.read_h5ad(counts), "system", "batch", min_cells=3)
    sysvi.integrate(prepared, "system", "batch", members=2, max_epochs=1, progress=False).save(folder)
    return folder


def stop_at_random(process, sent, n_lines, rng):
    """Send a signal after a random line of output and a random time; returns the whole output."""
    lines = []
    for _ in range(rng.randrange(n_lines)):
        lines.append(process.stdout.readline())
    time.sleep(rng.random() ** 3)
    process.send_signal(sent)
    rest, _ = process.communicate(timeout=PATIENCE)
    return "".join(lines) + rest


def check_output(folder, command, before):
    """Whatever there is of the output is whole: the old file, or a new one that can be read."""
    if command in ("integrate", "prepare"):
        content = (folder / "out.h5ad").read_bytes()
        if content != before:
            found = anndata.read_h5ad(folder / "out.h5ad")
            assert found.n_obs == 200
            assert "X_sysVI" in found.obsm or command == "prepare"
    for file in (folder / "out").rglob("[!.]*"):
        if file.suffix == ".npy":
            assert np.isfinite(np.load(file)).all()
        elif file.suffix == ".safetensors":
            sysvi.load(file)
        elif file.suffix == ".h5ad":
            anndata.read_h5ad(file)


@pytest.mark.parametrize("round_number", range(N_ROUNDS))
@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGTERM], ids=lambda sent: sent.name)
@pytest.mark.parametrize("command", COMMANDS)
def test_a_stopped_command_damages_nothing_and_can_be_run_again(
    counts, tmp_path, start_sysvi, run_sysvi, command, sent, round_number
):
    rng = random.Random(f"{command} {sent} {round_number}")
    text, n_lines = COMMANDS[command]
    options = text.split()
    shutil.copyfile(counts, tmp_path / "in.h5ad")
    before = b"old"
    if command in ("integrate", "prepare"):
        (tmp_path / "out.h5ad").write_bytes(before)
    output = stop_at_random(start_sysvi(command, "in.h5ad", *options), sent, n_lines, rng)
    check_output(tmp_path, command, before)
    if sent == signal.SIGTERM:
        assert "Traceback" not in output, output
        assert not re.search(r"\.part$", "\n".join(files_in(tmp_path)), re.MULTILINE)
    status, output = run_sysvi(command, "in.h5ad", *options)
    assert status == 0, output
    check_output(tmp_path, command, b"")
    assert not [name for name in files_in(tmp_path) if re.search(r"(^|/)\.", name)]
    assert (tmp_path / "in.h5ad").read_bytes() == counts.read_bytes()


@pytest.mark.parametrize("round_number", range(2 * N_ROUNDS))
def test_a_model_that_is_saved_is_the_old_or_the_new_one(model_folder, tmp_path, round_number):
    rng = random.Random(f"save {round_number}")
    shutil.copytree(model_folder, tmp_path / "model")
    saving = subprocess.Popen([sys.executable, "-c", SAVE], cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    stop_at_random(saving, signal.SIGKILL, 100, rng)
    if (tmp_path / "out" / "model.safetensors").exists():
        assert (tmp_path / "out" / "model.safetensors").read_bytes() == (
            model_folder / "model.safetensors"
        ).read_bytes()
    sysvi.load(model_folder).save(tmp_path / "out", overwrite=True)
    assert files_in(tmp_path / "out") == {"model.safetensors"}


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGINT], ids=lambda s: s.name)
def test_a_stop_signal_in_training_keeps_what_was_trained(counts, tmp_path, start_sysvi, sent):
    options = f"{COLUMNS} --members 2 --epochs 100000 -o out.h5ad"
    process = start_sysvi("integrate", counts, *options.split())
    lines = []
    while '"stage": "epoch"' not in (lines or [""])[-1]:
        lines.append(process.stdout.readline())
        assert lines[-1], "".join(lines)  # else it has ended
    process.send_signal(sent)
    rest, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 128 + sent, rest
    assert f"Interrupted{'' if sent == signal.SIGINT else f' by {sent.name}'}" in rest
    assert "Traceback" not in rest
    assert anndata.read_h5ad(tmp_path / "out.h5ad").obsm["X_sysVI"].shape == (200, 15)
    assert files_in(tmp_path) == {"out.h5ad"}


INTERRUPTED = """
import os, runpy, signal, sys
from importlib.abc import MetaPathFinder

class Interrupt(MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == interrupted:
            sys.meta_path.remove(self)
            os.kill(os.getpid(), signal.SIGINT)

interrupted = sys.argv.pop(1)
signal.signal(signal.SIGINT, signal.default_int_handler)  # what runs in the background ignores Ctrl-C
sys.meta_path.insert(0, Interrupt())
runpy.run_module("sysvi", run_name="__main__", alter_sys=True)
"""


@pytest.mark.parametrize("module", ["sysvi.cli", "click", "numpy.linalg", "anndata", "torch.nn"])
def test_ctrl_c_while_libraries_are_imported_prints_no_traceback(counts, tmp_path, module):
    """Python interrupts itself, at the import of a module."""
    command = [sys.executable, "-c", INTERRUPTED, module, "evaluate", counts, "--system", "system"]
    command += ["--embedding", "X_pca"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 130, done
    assert "Traceback" not in done.stdout + done.stderr
    assert files_in(tmp_path) == set()
