"""Data and processes for the tests of robustness."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

for variable in ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS"):  # before torch and numba are imported
    os.environ.setdefault(variable, "1")

sys.path.insert(0, str(Path(__file__).parent))  # tests import soak.py


@pytest.fixture(scope="session")
def counts(tmp_path_factory) -> Path:
    """An h5ad file with counts of 200 cells and 120 genes: two systems, batches and cell types."""
    from sysvi import datasets

    path = tmp_path_factory.mktemp("counts") / "counts.h5ad"
    datasets.simulate_systems(200, 120, n_types=3, n_private=0, n_samples=2, depth=1000, seed=1).write_h5ad(path)
    return path


@pytest.fixture
def start_sysvi(tmp_path, default_hangup_handler):
    """Function that starts the command ``sysvi`` in the test's folder."""

    def start(*arguments, **options) -> subprocess.Popen:
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        command = [sys.executable, "-m", "sysvi", *map(str, arguments)]
        return subprocess.Popen(command, cwd=tmp_path, **{**pipes, **options})

    return start


@pytest.fixture
def run_sysvi(start_sysvi):
    """Function that runs the command ``sysvi``; returns its exit status and its output."""
    from soak import PATIENCE

    def run(*arguments, **options) -> tuple[int, str]:
        process = start_sysvi(*arguments, **options)
        output, _ = process.communicate(timeout=PATIENCE)
        return process.returncode, output

    return run
