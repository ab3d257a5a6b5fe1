"""Environments with less than usual: folders that cannot be written, another run at work, a process that was forked."""

import errno
import fcntl
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import anndata
import numba
import pytest
from soak import PATIENCE, files_in

import sysvi
from sysvi._core import compilation
from sysvi._core.files import check_folder, locked_folder, write_atomically, write_folder_atomically

NO_HOME = {"HOME": "/dev/null/none", "XDG_CACHE_HOME": "/dev/null/none", "XDG_CONFIG_HOME": "/dev/null/none"}
CACHES = ("NUMBA_CACHE_DIR", "MPLCONFIGDIR")


@pytest.mark.slow
def test_neither_package_nor_home_can_be_written(counts, tmp_path, run_sysvi):
    """As in a container with a read-only image; a file in the place of each cache is as good as a read-only folder."""
    package = tmp_path / "package" / "sysvi"
    shutil.copytree(os.path.dirname(sysvi.__file__), package, ignore=shutil.ignore_patterns("__pycache__"))
    for folder in [package, *(path for path in package.rglob("*") if path.is_dir())]:
        (folder / "__pycache__").write_text("")
    variables = {name: value for name, value in os.environ.items() if name not in CACHES}
    variables |= NO_HOME | {"PYTHONPATH": str(package.parent), "TMPDIR": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"}
    assert run_sysvi("--version", env=variables) == (0, f"sysvi, version {sysvi.__version__}\n")
    options = "--system system --batch batch --members 1 --epochs 1 --quiet -o out.h5ad"
    status, output = run_sysvi("integrate", counts, *options.split(), env=variables)
    assert (status, output) == (0, "")
    assert "X_sysVI" in anndata.read_h5ad(tmp_path / "out.h5ad").obsm


@pytest.mark.parametrize("command", ["evaluate", "integrate"])
def test_a_backend_that_matplotlib_does_not_know(counts, tmp_path, run_sysvi, command):
    options = "--system system --embedding X_pca" if command == "evaluate" else "--system system -o out.h5ad"
    status, output = run_sysvi(command, counts, *options.split(), env=os.environ | {"MPLBACKEND": "nonsense"})
    assert status == 1
    assert output.startswith("Error: The environment variable MPLBACKEND is 'nonsense', which is no backend of")
    assert output.count("\n") == 1
    assert files_in(tmp_path) == set()


def test_without_any_folder_for_temporary_files_functions_are_compiled_without_a_cache(monkeypatch):
    def refuse(*args, **kwargs):
        raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found")

    def no_locator(self):
        raise RuntimeError("cannot cache function: no locator available")

    monkeypatch.setattr(numba.core.dispatcher.Dispatcher, "enable_caching", no_locator)
    monkeypatch.setattr(tempfile, "mkdtemp", refuse)
    compilation.ensure_numba_cache.__wrapped__()
    assert numba.njit(cache=True)(lambda x: x + 1)(1) == 2


def test_leftovers_of_a_killed_run_are_removed_and_files_being_written_are_not(tmp_path):
    (tmp_path / ".a.txt.killed.part").touch()
    with open(tmp_path / ".a.txt.alive.part", "w") as alive:
        fcntl.flock(alive, fcntl.LOCK_EX)
        write_atomically(tmp_path / "a.txt", lambda path: path.write_text("new"))
        assert files_in(tmp_path) == {"a.txt", ".a.txt.alive.part"}
    write_atomically(tmp_path / "a.txt", lambda path: path.write_text("newer"))
    assert files_in(tmp_path) == {"a.txt"}


@pytest.mark.parametrize("links", [True, False])
def test_a_file_that_appeared_meanwhile_is_kept_and_so_is_the_result(tmp_path, monkeypatch, links):
    def no_links(*args):
        raise OSError(errno.EPERM, "Operation not permitted")

    if not links:
        monkeypatch.setattr(os, "link", no_links)
    path = tmp_path / "out.h5ad"
    (tmp_path / "out-1.h5ad").write_text("there already")

    def write(temporary):
        temporary.write_text("second")
        path.write_text("first")  # as another run does at the same time

    with pytest.raises(sysvi.InputError, match=r"out.h5ad was written by another run .* in .*out-2.h5ad"):
        write_atomically(path, write, overwrite=False)
    content = {file.name: file.read_text() for file in tmp_path.iterdir()}
    assert content == {"out.h5ad": "first", "out-1.h5ad": "there already", "out-2.h5ad": "second"}


def test_files_are_on_the_disk_before_they_get_their_name(tmp_path, monkeypatch):
    done = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda handle: (done.append("fsync"), fsync(handle)))
    monkeypatch.setattr(os, "replace", lambda *args, **kwargs: (done.append("replace"), replace(*args, **kwargs)))
    write_atomically(tmp_path / "a.txt", lambda path: path.write_text("new"))
    assert done == ["fsync", "replace", "fsync"]


def test_a_folder_is_locked_by_one_run_only(tmp_path):
    another = pytest.raises(sysvi.InputError, match="Another run is working in the folder")
    with locked_folder(tmp_path), another, locked_folder(tmp_path):
        pass
    with locked_folder(tmp_path):
        pass
    assert files_in(tmp_path) == set()


def test_a_folder_that_will_be_created_is_checked_without_creating_it(tmp_path):
    (tmp_path / "file").touch()
    check_folder(tmp_path / "a" / "b", may_be_missing=True)
    with pytest.raises(sysvi.InputError, match="does not exist: create it first"):
        check_folder(tmp_path / "a")
    with pytest.raises(sysvi.InputError, match=r"file/a cannot be created: .*file is not a folder"):
        check_folder(tmp_path / "file" / "a", may_be_missing=True)
    assert files_in(tmp_path) == {"file"}


FORK = """
import os, sysvi, torch, warnings
warnings.simplefilter("ignore")
torch.set_num_threads({threads})
cells = sysvi.prepare(sysvi.datasets.simulate_systems(200, 120, seed=1), "system", "batch", min_cells=3)
model = sysvi.integrate(cells, "system", "batch", members=1, max_epochs=1, device="cpu", progress=False)
for task in (
    lambda: model.get_latent_representation(),
    lambda: model.get_latent_representation(cells[:50].copy()),
    lambda: sysvi.integrate(cells, "system", "batch", members=1, max_epochs=1, device="cpu", progress=False),
    lambda: sysvi.evaluate(cells, system_key="system", metrics=["iLISI"], progress=False),
):
    child = os.fork()
    if not child:
        try:
            task()
            print("done", flush=True)
        except sysvi.InputError as error:
            print(error, flush=True)
        os._exit(0)
    os.waitpid(child, 0)
"""


@pytest.mark.slow
@pytest.mark.parametrize("threads", [1, 2])
def test_a_child_of_a_fork_computes_or_says_at_once_that_it_cannot(threads):
    command = [sys.executable, "-c", FORK.format(threads=threads)]
    variables = os.environ | {"OMP_NUM_THREADS": str(threads)}
    lines = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, env=variables).stdout.splitlines()
    assert len(lines) == 4
    for line in lines:
        assert "multiprocessing.get_context('spawn')" in line if threads > 1 else line == "done"


# -- renamings on network file systems --------------------------------------------------------------------------------


def text(content):
    return lambda path: path.write_text(content)


def folder(content):
    return lambda path: (path / "content").write_text(content)


def content_of(path):
    return (path / "content" if path.is_dir() else path).read_text()


OUTPUTS = {"file": (write_atomically, text), "folder": (write_folder_atomically, folder)}


@pytest.fixture
def replacing(monkeypatch):
    """Function that puts another function in the place of os.replace, without waits between tries."""
    monkeypatch.setattr("sysvi._core.files.WAITS", (0, 0, 0))
    replace = os.replace

    def use(function):
        monkeypatch.setattr(os, "replace", lambda source, target: function(replace, source, target))

    return use


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.EBUSY])
@pytest.mark.parametrize("kind", OUTPUTS)
def test_a_renaming_that_fails_for_a_moment_is_repeated(tmp_path, replacing, kind, number):
    failed = []

    def fail_twice(replace, source, target):
        if len(failed) < 2:
            failed.append(source)
            raise OSError(number, os.strerror(number))
        replace(source, target)

    replacing(fail_twice)
    write, content = OUTPUTS[kind]
    write(tmp_path / "out", content("new"))
    assert content_of(tmp_path / "out") == "new"
    assert len(failed) == 2
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("kind", OUTPUTS)
def test_a_renaming_that_was_done_although_it_reports_an_error(tmp_path, replacing, kind):
    def lose_the_answer(replace, source, target):
        replace(source, target)
        raise FileNotFoundError(errno.ENOENT, "No such file or directory")

    replacing(lose_the_answer)
    write, content = OUTPUTS[kind]
    for version in ("first", "second"):
        write(tmp_path / "out", content(version))
        assert content_of(tmp_path / "out") == version
        assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("before", [None, "earlier"])
@pytest.mark.parametrize("kind", OUTPUTS)
def test_a_renaming_that_always_fails_keeps_the_result_and_what_was_there(tmp_path, replacing, kind, before):
    write, content = OUTPUTS[kind]
    if before:
        write(tmp_path / "out", content(before))

    def fail(replace, source, target):
        raise OSError(errno.EIO, "Input/output error")

    replacing(fail)
    with pytest.raises(sysvi.InputError, match=r"out was written, but could not .*\(Input/output error\)") as caught:
        write(tmp_path / "out", content("new"))
    kept = Path(re.search(r"result is in (\S+\.part)\. Rename it", str(caught.value))[1])
    assert content_of(kept) == "new"
    assert set(tmp_path.iterdir()) == {kept, tmp_path / "out"} - (set() if before else {tmp_path / "out"})
    assert before is None or content_of(tmp_path / "out") == before


def test_a_link_that_was_made_although_it_reports_an_error(tmp_path, monkeypatch):
    link = os.link

    def lose_the_answer(source, target):
        link(source, target)
        raise FileExistsError(errno.EEXIST, "File exists")

    monkeypatch.setattr(os, "link", lose_the_answer)
    write_atomically(tmp_path / "out", text("new"), overwrite=False)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
