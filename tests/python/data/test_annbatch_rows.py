"""Rows that annbatch reads. It needs Python 3.12: where the tests run on an older one, in an environment of its own."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

import sysvi
from sysvi.comparison.interpreters import NoInterpreter, find_interpreter

SCRIPT = Path(__file__).with_name("rows_by_annbatch.py")
REQUIREMENTS = ("annbatch[zarrs]==0.3.1", "lazy-loader")  # of the script, which needs no torch


@pytest.fixture(scope="module")
def python(tmp_path_factory):
    """A Python that has annbatch; CI must have one that can be given it."""
    if find_spec("annbatch") is not None:
        return sys.executable
    try:
        interpreter = find_interpreter(">=3.12").path
    except NoInterpreter as error:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(f"annbatch was not tested: {error}")
    folder = tmp_path_factory.mktemp("annbatch")
    subprocess.run([interpreter, "-m", "venv", folder], check=True)
    python = folder / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *REQUIREMENTS]
    subprocess.run(install, check=True, timeout=600)
    return python


@pytest.mark.slow
def test_annbatch_reads_the_rows_of_the_matrix(python, tmp_path):
    environment = os.environ | {"PYTHONPATH": str(Path(sysvi.__file__).parents[1])}
    done = subprocess.run(
        [python, SCRIPT, tmp_path], env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "equal\n"
