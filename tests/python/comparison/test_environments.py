"""Environments of methods (the current one, one created by pip or uv, R), runs in them, and the cells they read."""

import base64
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
from scipy import sparse

from sysvi.comparison.cells import fingerprint_cells, prepared_cells, write_cells
from sysvi.comparison.environments import MethodNotAvailable, default_folder, get_environment, satisfied_here
from sysvi.comparison.methods import ADAPTERS, Method
from sysvi.comparison.runs import MethodRun, RunFailed, Runner


def method(script, **arguments):
    return Method("tiny", Path(script), "tiny", **({"package": "tiny"} | arguments))


def wheel(folder, version):
    """Write a wheel of the package `tiny`, which has no dependencies."""
    name = f"tiny-{version}.dist-info"
    files = {
        "tiny.py": f"VERSION = {version!r}\n",
        f"{name}/METADATA": f"Metadata-Version: 2.1\nName: tiny\nVersion: {version}\n",
        f"{name}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = ""
    for path, text in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
        record += f"{path},sha256={digest},{len(text)}\n"
    with zipfile.ZipFile(folder / f"tiny-{version}-py3-none-any.whl", "w") as file:
        for path, text in files.items():
            file.writestr(path, text)
        file.writestr(f"{name}/RECORD", record + f"{name}/RECORD,,\n")


FAKE_UV = """#!{python}
import json, subprocess, sys

arguments = sys.argv[1:]
with open({log!r}, "a") as file:
    file.write(json.dumps(arguments) + "\\n")
if arguments[0] == {failing!r}:
    print("error: no such option", file=sys.stderr)
    sys.exit(2)
place = arguments.index("--python")
python = arguments[place + 1]
if arguments[0] == "venv":
    command = [python, "-m", "venv", arguments[-1]]
else:
    command = [python, "-m", *arguments[:place], *arguments[place + 2 :]]
sys.exit(subprocess.run(command).returncode)
"""


@pytest.fixture(autouse=True)
def _without_uv(monkeypatch):
    """Environments are created by pip, even where uv is installed."""
    which = shutil.which
    monkeypatch.setattr(shutil, "which", lambda name: None if name == "uv" else which(name))


def fake_uv(folder, monkeypatch, failing=None):
    """Put a `uv` on the PATH that logs its arguments and calls venv and pip; its command `failing` fails."""
    (folder / "bin").mkdir()
    script = folder / "bin" / "uv"
    script.write_text(FAKE_UV.format(python=sys.executable, log=str(folder / "uv.log"), failing=failing))
    script.chmod(0o755)
    monkeypatch.undo()  # of the fixture above
    monkeypatch.setenv("PATH", str(folder / "bin"), prepend=os.pathsep)


def only_local_wheels(folder, monkeypatch):
    """Let pip install only `tiny`, of which the folder gets two versions."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    for version in ("1.0", "2.0"):
        wheel(folder, version)


def test_the_current_environment_is_used_if_it_has_the_requirements(tmp_path):
    lines = []
    found = get_environment(
        method("a.py", dependencies=("numpy>=1",), imports=("numpy",)), tmp_path, None, lines.append
    )
    assert found.command[0] == sys.executable
    assert found.version_of("NumPy") == np.__version__
    assert not lines
    assert not satisfied_here(["numpy>=1", "numpy<1"])


@pytest.mark.slow
def test_an_environment_is_created_once_and_is_complete_or_missing(tmp_path, monkeypatch):
    only_local_wheels(tmp_path, monkeypatch)
    monkeypatch.setenv("PYTHONPATH", "/of/this/environment")
    folder, lines = tmp_path / "environments", []
    tiny = method("a.py", dependencies=("tiny",), imports=("tiny",))
    constraint = tmp_path / "constraint.txt"
    constraint.write_text("tiny==1.0\n")
    found = get_environment(tiny, folder, constraint, lines.append)
    assert found.version_of("tiny") == "1.0"
    assert [line.split()[0] for line in lines] == ["Installing", "Installed"]
    probe = "import sys, tiny; print(tiny.VERSION, '/of/this/environment' in sys.path)"
    command = [*found.command, "-c", probe]
    assert subprocess.check_output(command, env=found.process_variables(), text=True).split() == ["1.0", "False"]
    lines.clear()
    assert get_environment(tiny, folder, constraint, lines.append) == found
    assert not lines
    with pytest.raises(MethodNotAvailable, match=r"No module named 'huge'"):
        get_environment(method("a.py", dependencies=("tiny",), imports=("huge",)), folder, constraint, lines.append)
    (place,) = folder.iterdir()
    for damage in ("cut", "changed", "gone"):
        lines.clear()
        if damage == "cut":
            (place / "installed.json").write_text("{")
        elif damage == "changed":
            text = (place / "installed.json").read_text()
            (place / "installed.json").write_text(text.replace('"tiny": "1.0"', '"tiny": "2.0"'))
        else:
            python = next(path for path in place.rglob("python*") if path.name in ("python", "python.exe"))
            python.unlink()
            python.symlink_to(tmp_path / "a python that is gone")
        assert get_environment(tiny, folder, constraint, lines.append) == found
        assert lines
    monkeypatch.setattr(sys.modules["sysvi.comparison.environments"], "_run", fail)
    (place / "installed.json").unlink()  # as if it had not been finished
    with pytest.raises(MethodNotAvailable, match="no network"):
        get_environment(tiny, folder, constraint, lines.append)
    assert not [path for path in folder.iterdir() if path != place]  # nothing of the attempt is left


@pytest.mark.slow
def test_uv_creates_environments_where_it_is_on_the_path(tmp_path, monkeypatch):
    fake_uv(tmp_path, monkeypatch)
    only_local_wheels(tmp_path, monkeypatch)
    constraint = tmp_path / "constraint.txt"
    constraint.write_text("tiny==1.0\n")
    tiny = method("a.py", dependencies=("tiny>=0.5", "tiny<3"), imports=("tiny",))
    lines = []
    found = get_environment(tiny, tmp_path / "environments", constraint, lines.append)
    assert [line.split()[0] for line in lines] == ["Installing", "Installed"]
    assert found.version_of("tiny") == "1.0"
    assert found.version_of("pip")
    created, installed = (json.loads(line) for line in (tmp_path / "uv.log").read_text().splitlines())
    assert created[:2] == ["venv", "--seed"]
    assert created[created.index("--python") + 1] == sys.executable
    unfinished = Path(created[-1])
    assert installed[:2] == ["pip", "install"]
    assert Path(installed[installed.index("--python") + 1]).is_relative_to(unfinished)
    assert installed[installed.index("--constraint") + 1] == str(constraint)
    assert installed[-2:] == ["tiny>=0.5", "tiny<3"]
    assert not unfinished.parent.exists()
    assert list((tmp_path / "environments").iterdir()) == [Path(found.command[0]).parents[1]]
    assert get_environment(tiny, tmp_path / "environments", constraint, lines.append) == found
    assert len((tmp_path / "uv.log").read_text().splitlines()) == 2  # it is not created again


@pytest.mark.slow
@pytest.mark.parametrize("failing", ["venv", "pip"])
def test_where_uv_fails_pip_is_used(tmp_path, monkeypatch, failing):
    fake_uv(tmp_path, monkeypatch, failing)
    only_local_wheels(tmp_path, monkeypatch)
    lines = []
    tiny = method("a.py", dependencies=("tiny==2.0",), imports=("tiny",))
    found = get_environment(tiny, tmp_path / "environments", None, lines.append)
    assert lines[1] == "uv failed (error: no such option); trying pip"
    assert [line.split()[0] for line in lines] == ["Installing", "uv", "Installed"]
    assert found.version_of("tiny") == "2.0"
    command = [*found.command, "-c", "import tiny; print(tiny.VERSION)"]
    assert subprocess.check_output(command, env=found.process_variables(), text=True).strip() == "2.0"


def test_a_folder_that_cannot_be_written_makes_a_method_unavailable(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(MethodNotAvailable, match=r"cannot be created or read in .*file"):
        get_environment(method("a.py", dependencies=("no-such-package",)), tmp_path / "file", None, print)


def fail(*arguments):
    raise MethodNotAvailable("no network")


def test_paths_that_a_method_needs(tmp_path, monkeypatch):
    needy = method("a.py", paths={"TINY_CODE": "its code"})
    monkeypatch.delenv("TINY_CODE", raising=False)
    with pytest.raises(MethodNotAvailable, match="TINY_CODE is not set; set it to the path of its code"):
        get_environment(needy, tmp_path, None, print)
    monkeypatch.setenv("TINY_CODE", str(tmp_path / "nowhere"))
    with pytest.raises(MethodNotAvailable, match="nowhere does not exist"):
        get_environment(needy, tmp_path, None, print)
    monkeypatch.setenv("TINY_CODE", str(tmp_path))
    get_environment(needy, tmp_path, None, print)


def test_default_folder_is_in_the_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_folder() == tmp_path / "sysvi" / "environments"


# -- runs -------------------------------------------------------------------------------------------------------------


def make(tmp_path, script, n_cells=4, **arguments):
    environment = get_environment(method(script), tmp_path, None, print)
    run = MethodRun(method(script, **arguments), "", None, 0, None, "cells", "1")
    return Runner(tmp_path / "runs", tmp_path, n_cells, None).make(run, environment), tmp_path / "runs" / run.name


@pytest.mark.slow
def test_time_and_memory_are_those_of_the_method(tmp_path):
    ballast = np.ones(40_000_000)  # 320 MB here
    script = tmp_path / "lean.py"
    script.write_text("import sys, time, numpy as np\ntime.sleep(0.5)\nnp.save(sys.argv[2], np.ones((4, 2)))\n")
    start = time.perf_counter()
    lean, folder = make(tmp_path, script)
    assert 0.5 < lean["seconds"] < time.perf_counter() - start
    assert lean["peak_mb"] < 150
    script.write_text("import sys, numpy as np\nx = np.ones(30_000_000)\nnp.save(sys.argv[2], np.ones((4, 2)))\n")
    assert make(tmp_path, script)[0]["peak_mb"] > lean["peak_mb"] + 200
    assert sorted(path.name for path in folder.iterdir()) == ["embedding.npy", "log.txt", "run.json"]
    assert ballast.sum() == len(ballast)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("raise MemoryError('of a box')", "MemoryError: of a box"),
        ("sys.stderr.write('first\\nlast words\\n'); sys.exit(3)", "last words"),
        ("sys.exit(3)", "ended with exit status 3"),
        ("import os; os.kill(os.getpid(), 9)", "was killed"),
        ("np.save(sys.argv[2], np.ones(4))", r"shape \(4,\)"),
        ("open(sys.argv[2], 'w').write('text')", "wrote no embedding"),
        ("open(sys.argv[2], 'w')", "wrote no embedding"),
        ("np.save(sys.argv[2], np.full((4, 2), 'a'))", "not an array of numbers"),
    ],
)
def test_why_a_run_failed(tmp_path, body, reason):
    script = tmp_path / "bad.py"
    script.write_text(f"import sys, numpy as np\n{body}\n")
    with pytest.raises(RunFailed, match=reason):
        make(tmp_path, script)
    assert [path.suffix for path in (tmp_path / "runs").iterdir()] == [".log"]


def test_a_run_that_takes_too_long_is_ended(tmp_path):
    script = tmp_path / "slow.py"
    script.write_text("import time\ntime.sleep(100)\n")
    environment = get_environment(method(script), tmp_path, None, print)
    runner = Runner(tmp_path / "runs", tmp_path, 4, timeout=2)
    with pytest.raises(RunFailed, match="took longer than 2 s"):
        runner.make(MethodRun(method(script), "", None, 0, None, "cells", "1"), environment)
    assert not runner.processes


def test_what_identifies_a_run():
    def name(
        script=__file__, settings=None, parameter="k", value=1, seed=0, epochs=None, cells="c", version="1", **arguments
    ):
        tiny = method(script, settings=settings or {"k": 1, "m": 2}, **arguments)
        return MethodRun(tiny, parameter, value, seed, epochs, cells, version).name

    assert name() == name(parameter="", value=None) == name(epochs=5)  # a method without epochs
    others = [name(value=2), name(seed=1), name(cells="d"), name(version="2"), name(settings={"k": 1, "m": 3})]
    others += [name(script=ADAPTERS / "own.py"), name(value=1.5)]
    assert len({name(), *others}) == len(others) + 1


# -- cells and R ------------------------------------------------------------------------------------------------------


@pytest.fixture
def cells(make_adata):
    adata = make_adata()
    adata.uns["sysvi_prepare"] = {}
    adata.obs["cell_type"] = adata.obs["cell_type"].astype(str).where(np.arange(adata.n_obs) > 4)  # some have none
    return prepared_cells(adata, "system", "batch", "cell_type", None, lambda event: None)


def test_cells_given_to_methods(make_adata, cells):
    adata = make_adata()
    assert list(cells.obs) == ["system", "batch", "label"]
    assert (cells.obs["label"][:5] == "unlabelled").all()
    np.testing.assert_array_equal(cells.X.toarray(), adata.X.toarray().astype(np.float32))
    np.testing.assert_array_equal(cells.layers["counts"].toarray(), adata.layers["counts"].toarray())


def test_counts_in_a_layer_of_expression_that_was_normalised_elsewhere(make_adata):
    adata = make_adata()  # without the mark of `prepare`, counts in a layer
    cells = prepared_cells(adata, "system", "batch", "cell_type", None, lambda event: None)
    np.testing.assert_array_equal(
        cells.layers["counts"].toarray(), adata[:, cells.var_names].layers["counts"].toarray()
    )


@pytest.mark.slow
def test_fingerprint_tells_cells_apart(cells):
    first = fingerprint_cells(cells)
    assert fingerprint_cells(cells.copy()) == first
    changed = [cells[::-1].copy(), cells[:, ::-1].copy(), cells[:-1].copy(), cells.copy(), cells.copy(), cells.copy()]
    changed[3].X.data[7] += 0.5
    changed[4].obs["label"] = changed[4].obs["label"].astype(str).to_numpy()[::-1]
    del changed[5].layers["counts"]
    for other in changed:
        other.X = sparse.csr_matrix(other.X)
        if "counts" in other.layers:
            other.layers["counts"] = sparse.csr_matrix(other.layers["counts"])
    assert len({first, *map(fingerprint_cells, changed)}) == 1 + len(changed)


@pytest.fixture(scope="module")
def r():
    """R with what the adapters read with; CI must have it."""
    ask = 'quit(status = !all(c("Matrix", "jsonlite") %in% rownames(installed.packages())))'
    if shutil.which("Rscript") is None or subprocess.run(["Rscript", "-e", ask], capture_output=True).returncode:
        without = pytest.fail if os.environ.get("CI") == "true" else pytest.skip
        without("Needs R with Matrix and jsonlite.")


@pytest.mark.slow
@pytest.mark.usefixtures("r")
def test_r_reads_the_cells_and_writes_the_embedding(cells, tmp_path):
    write_cells(cells, tmp_path, for_r=True)
    script = tmp_path / "tiny.R"
    script.write_text(
        f'source("{(ADAPTERS / "common.R").as_posix()}")\n'
        "given <- arguments()\ncells <- read_cells(given$source)\n"
        'stopifnot(identical(names(cells$obs), c("system", "batch", "label")), given$run$seed == 0)\n'
        f'stopifnot(identical(colnames(cells$expression)[2], "{cells.obs_names[1]}"))\n'
        f'stopifnot(identical(rownames(cells$expression)[3], "{cells.var_names[2]}"))\n'
        f'stopifnot(identical(cells$obs$label[7], "{cells.obs["label"].iloc[6]}"))\n'
        "write_npy(as.matrix(Matrix::t(cells$expression)), given$target)\n"
    )
    written, folder = make(tmp_path, script, cells.n_obs, dependencies=("Matrix", "jsonlite"))
    np.testing.assert_array_equal(np.load(folder / "embedding.npy"), cells.X.toarray())
    assert written["peak_mb"] > 10


@pytest.mark.slow
@pytest.mark.usefixtures("r")
def test_a_package_that_r_cannot_install_is_named(tmp_path):
    missing = method("a.R", dependencies=("sysviNoSuchPackage",))
    with pytest.MonkeyPatch.context() as patch:
        profile = tmp_path / "profile.R"
        profile.write_text(f'options(repos = c(CRAN = "file://{tmp_path.as_posix()}"))\n')  # no network
        patch.setenv("R_PROFILE_USER", str(profile))
        with pytest.raises(MethodNotAvailable, match=r"sysviNoSuchPackage cannot be installed: .+"):
            get_environment(missing, tmp_path / "environments", None, print)


@pytest.mark.slow
@pytest.mark.usefixtures("r")
def test_an_r_package_is_installed_from_its_source_if_the_user_gives_it(tmp_path, monkeypatch):
    profile = tmp_path / "profile.R"
    profile.write_text(f'options(repos = c(CRAN = "file://{tmp_path.as_posix()}"))\n')  # no network
    monkeypatch.setenv("R_PROFILE_USER", str(profile))
    monkeypatch.delenv("TINY_SOURCE", raising=False)
    tiny = method("a.R", dependencies=("Matrix", "sysviTiny"), sources={"TINY_SOURCE": "sysviTiny"})
    folder, lines = tmp_path / "environments", []
    with pytest.raises(
        MethodNotAvailable, match=r"sysviTiny cannot be installed: .+; or set the environment variable TINY_SOURCE"
    ):
        get_environment(tiny, folder, None, lines.append)
    monkeypatch.setenv("TINY_SOURCE", str(tmp_path))
    with pytest.raises(MethodNotAvailable, match=r"TINY_SOURCE=.* is not the source of the R package sysviTiny"):
        get_environment(tiny, folder, None, lines.append)

    source = tmp_path / "tiny source"
    (source / "R").mkdir(parents=True)
    (source / "R" / "version.R").write_text('answer <- function() "from the source"\n')
    (source / "NAMESPACE").write_text("export(answer)\n")
    description = "Package: sysviTiny\nTitle: Tiny\nVersion: {}\nDescription: Tiny.\nLicense: GPL-3\nImports: utils{}\n"
    (source / "DESCRIPTION").write_text(description.format("1.2", ", sysviNoSuchPackage (>= 1.0)"))
    monkeypatch.setenv("TINY_SOURCE", str(source))
    with pytest.raises(
        MethodNotAvailable, match=r"sysviTiny cannot be installed: ERROR: dependenc.*sysviNoSuchPackage"
    ):
        get_environment(tiny, folder, None, lines.append)
    (source / "DESCRIPTION").write_text(description.format("1.3", ""))
    before = sorted(source.rglob("*"))
    found = get_environment(tiny, folder, None, lines.append)
    assert found.version_of("sysviTiny") == "1.3"
    assert sorted(source.rglob("*")) == before
    command = [*found.command, "-e", "cat(sysviTiny::answer())"]
    assert subprocess.check_output(command, env=found.process_variables(), text=True) == "from the source"
    lines.clear()
    assert get_environment(tiny, folder, None, lines.append) == found
    assert not lines
