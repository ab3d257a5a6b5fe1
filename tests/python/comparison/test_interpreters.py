"""Which Python an adapter runs in; scripts that report a version stand in for interpreters."""

import json
import platform
import shutil
import subprocess
import sys

import pytest

from sysvi.comparison.environments import MethodNotAvailable, get_environment
from sysvi.comparison.interpreters import Interpreter, NoInterpreter, find_interpreter
from sysvi.comparison.methods import Method

FUTURE = ">=3.97"
SCRIPT = """#!/bin/sh
[ "$2" = -m ] && exec "{python}" "$@"
echo '{answer}'
"""


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A machine without Python but for the current one: an empty PATH, no pyenv, no uv."""
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path / "pyenv"))
    return tmp_path


def fake(path, version, implementation="CPython", body=None):
    """Write a script that reports a version, and is the current Python otherwise (`python -m venv`)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    answer = json.dumps([implementation, version, str(path)])
    path.write_text(SCRIPT.format(python=sys.executable, answer=answer) if body is None else f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return Interpreter(str(path), version)


def test_the_current_interpreter_comes_first(machine):
    fake(machine / "bin" / "python3.99", "3.99.0")
    current = Interpreter(sys.executable, platform.python_version())
    assert find_interpreter("") == find_interpreter(">=3.11") == current


def test_the_newest_suitable_one_is_taken(machine):
    fake(machine / "bin" / "python3.97", "3.97.4")
    newest = fake(machine / "pyenv" / "versions" / "3.98.10" / "bin" / "python", "3.98.10")
    older = fake(machine / "pyenv" / "versions" / "3.98.9" / "bin" / "python", "3.98.9")
    fake(machine / "pyenv" / "versions" / "pypy" / "bin" / "python", "3.99.0", "PyPy")
    fake(machine / "bin" / "python3.100", "3.100.0rc1")
    assert find_interpreter(FUTURE) == newest
    assert find_interpreter(f"{FUTURE},!=3.98.10") == older
    assert find_interpreter("==3.97.*").version == "3.97.4"


def test_interpreters_that_do_not_work_are_passed_over(machine):
    fake(machine / "bin" / "python3.99", "", body="echo 'pyenv: python3.99: command not found' >&2; exit 127")
    fake(machine / "bin" / "python3", "", body="echo \"No module named 'ensurepip'\" >&2; exit 1")
    fake(machine / "bin" / "python3.98-config", "3.98.1")
    (machine / "bin" / "python3.98").write_text("not executable")
    with pytest.raises(NoInterpreter):
        find_interpreter(FUTURE)
    found = fake(machine / "bin" / "python", "3.97.0")
    assert find_interpreter(FUTURE) == found


def test_those_of_uv_are_found(machine):
    managed = fake(machine / "managed" / "python3.97", "3.97.1")
    log = machine / "arguments"
    fake(machine / "bin" / "uv", "", body=f'echo "$@" > "{log}"\necho "{managed.path}"')
    assert find_interpreter(FUTURE) == managed
    assert log.read_text().split() == ["python", "find", "--system", FUTURE]
    fake(machine / "bin" / "uv", "", body="echo 'error: No interpreter found' >&2; exit 2")
    with pytest.raises(NoInterpreter):
        find_interpreter(FUTURE)


@pytest.mark.parametrize(("requires", "version"), [(">=3.20", "3.20"), ("<3.10", "3.9"), (">=3.20.5,<3.22", "3.20")])
@pytest.mark.usefixtures("machine")
def test_where_there_is_none_the_message_says_how_to_get_it(requires, version):
    with pytest.raises(NoInterpreter) as error:
        find_interpreter(requires)
    assert f"it needs Python {requires}, and this machine has none" in str(error.value)
    for way in (f"`uv python install {version}`", f"`pyenv install {version}`", f"python{version}-venv"):
        assert way in str(error.value)


@pytest.mark.usefixtures("machine")
def test_a_method_without_its_python_is_not_available(tmp_path):
    tiny = Method("tiny", tmp_path / "tiny.py", "tiny", "tiny", requires_python=FUTURE)
    with pytest.raises(MethodNotAvailable, match=r"it needs Python >=3\.97, and this machine has none"):
        get_environment(tiny, tmp_path, None, print)


@pytest.mark.slow
def test_an_environment_belongs_to_the_version_of_its_python(machine):
    """Packages of the current environment do not count for another Python; each version has an environment."""
    tiny = Method("tiny", machine / "tiny.py", "tiny", "tiny", FUTURE, dependencies=("pip",))
    folder, lines = machine / "environments", []
    fake(machine / "bin" / "python3.97", "3.97.4")
    first = get_environment(tiny, folder, None, lines.append)
    assert first.version_of("python") == "3.97.4"
    assert "for Python 3.97.4" in lines[0]
    assert first.command[0] != sys.executable
    assert subprocess.check_output([*first.command, "-c", "print(1)"], text=True) == "1\n"
    assert get_environment(tiny, folder, None, lines.append) == first
    fake(machine / "bin" / "python3.97", "3.97.5")
    second = get_environment(tiny, folder, None, lines.append)
    assert second.version_of("python") == "3.97.5"
    assert second.command[0] != first.command[0]
    assert len(list(folder.iterdir())) == 2
    assert shutil.which("uv") is None  # these were made by venv
