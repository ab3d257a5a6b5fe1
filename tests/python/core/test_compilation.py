import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import sysvi

CHECK = """
import sysvi
from numba import njit
from sysvi.kernels.cpu_backend import kernel

@njit(cache=True)  # as packages do whose folder cannot be written either
def double(x):
    return 2 * x

@kernel
def triple(x):
    return 3 * x

print(double(2), triple(2), sysvi.SysVI.__name__)
"""


@pytest.fixture
def unwritable_package(tmp_path):
    """Folder with a copy of the package in which no folder for caches can be made, not even by root."""
    copy = tmp_path / "copy" / "sysvi"
    shutil.copytree(Path(sysvi.__file__).parent, copy, ignore=shutil.ignore_patterns("__pycache__"))
    for folder in [copy.parent, *(path for path in copy.rglob("*") if path.is_dir()), copy]:
        (folder / "__pycache__").write_text("")  # a file in its place
    return copy.parent


def run(script, environment):
    return subprocess.run([sys.executable, script], capture_output=True, text=True, env=environment, timeout=600)


@pytest.mark.slow
def test_package_works_where_neither_its_folder_nor_the_home_folder_can_be_written(unwritable_package, tmp_path):
    script = unwritable_package / "check.py"
    script.write_text(CHECK)
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("NUMBA_CACHE", "XDG", "MPLCONFIG"))}
    nowhere = "/dev/null/none"
    environment |= {"HOME": nowhere, "XDG_CACHE_HOME": nowhere, "PYTHONPATH": str(unwritable_package)}
    environment |= {"TMPDIR": str(temporary), "PYTHONDONTWRITEBYTECODE": "1"}
    done = run(script, environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "4 6 SysVI\n"
    assert not list(temporary.glob("sysvi-numba-*"))  # the temporary cache is deleted at exit


@pytest.mark.slow
@pytest.mark.parametrize("chosen", [False, True])
def test_usual_cache_is_kept_where_it_can_be_written(tmp_path, chosen):
    code = "import os, sysvi.kernels.cpu_backend; print(os.environ.get('NUMBA_CACHE_DIR'))"
    script = tmp_path / "check.py"
    script.write_text(code)
    environment = {k: v for k, v in os.environ.items() if k != "NUMBA_CACHE_DIR"}
    environment["PYTHONPATH"] = str(Path(sysvi.__file__).parents[1])
    if chosen:
        environment["NUMBA_CACHE_DIR"] = str(tmp_path / "cache")
    assert run(script, environment).stdout.strip() == (str(tmp_path / "cache") if chosen else "None")
