"""Find the Python interpreter that an adapter asks for with ``requires-python``."""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from packaging.specifiers import SpecifierSet
from packaging.version import Version

PROBE = """
import ensurepip, json, platform, sys, venv
print(json.dumps([platform.python_implementation(), platform.python_version(), sys.executable]))
"""
PROBE_SECONDS = 60  # longest time that an interpreter may take to tell its version
NAME = re.compile(r"python(3(\.\d+)?)?(\.exe)?")
MINOR_VERSIONS = range(8, 30)  # of Python 3, to name one that suits


@dataclass(frozen=True)
class Interpreter:
    """A Python interpreter that can make virtual environments."""

    path: str
    version: str


class NoInterpreter(Exception):
    """No suitable interpreter was found; the message says which is needed and how to get one."""


def find_interpreter(requires_python: str) -> Interpreter:
    """The current interpreter if it suits, else the newest suitable one on this machine that can make environments.

    It is looked for on the PATH, among pyenv's versions, and by uv where a ``uv`` executable is on the PATH. Nothing is
    installed. Pre-releases of Python do not suit.

    Parameters
    ----------
    requires_python
        Versions that suit, as in PEP 621: ``">=3.12"``; empty: all.

    Raises
    ------
    NoInterpreter
        If there is none.

    Examples
    --------
    >>> find_interpreter(">=3.11").version == platform.python_version()
    True
    """
    suitable = SpecifierSet(requires_python, prereleases=False)
    if not requires_python or platform.python_version() in suitable:
        return Interpreter(sys.executable, platform.python_version())
    probed = map(_probe, dict.fromkeys(_candidates(requires_python)))
    found = [interpreter for interpreter in probed if interpreter is not None and interpreter.version in suitable]
    if not found:
        version = _nearest_version(suitable)
        raise NoInterpreter(
            f"it needs Python {requires_python}, and this machine has none that can make environments (sysvi runs in "
            f"{platform.python_version()}): install one with `uv python install {version}`, `pyenv install {version}` "
            f"or the system's packages python{version} and python{version}-venv"
        )
    return max(found, key=lambda interpreter: Version(interpreter.version))


def _candidates(requires_python: str) -> Iterator[str]:
    """Paths of executables that may be Python interpreters."""
    for folder in os.environ.get("PATH", os.defpath).split(os.pathsep):
        names = _names_in(Path(folder)) if folder else []
        yield from (str(Path(folder, name)) for name in names if NAME.fullmatch(name))
    root = os.environ.get("PYENV_ROOT") or os.path.expanduser("~/.pyenv")
    versions = Path(root, "versions")
    executable = "python.exe" if sys.platform == "win32" else "bin/python"
    yield from (str(versions / version / executable) for version in _names_in(versions))
    if uv := shutil.which("uv"):
        yield from _output([uv, "python", "find", "--system", requires_python]).splitlines()


def _names_in(folder: Path) -> list[str]:
    """Names of what is in a folder; none if it cannot be read."""
    try:
        return sorted(os.listdir(folder))
    except OSError:
        return []


def _probe(path: str) -> Interpreter | None:
    """The interpreter at a path; None if there is none, or none that can make environments."""
    try:
        implementation, version, executable = json.loads(_output([path, "-I", "-c", PROBE]))
    except ValueError:
        return None
    return Interpreter(executable, version) if implementation == "CPython" else None


def _output(command: list[str]) -> str:
    """Standard output of a command; empty if it fails."""
    variables = {name: value for name, value in os.environ.items() if name not in ("PYTHONHOME", "VIRTUAL_ENV")}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, env=variables, stdin=subprocess.DEVNULL, timeout=PROBE_SECONDS
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""


def _nearest_version(suitable: SpecifierSet) -> str:
    """The suitable minor version of Python that is nearest to the current one."""
    minors = [minor for minor in MINOR_VERSIONS if f"3.{minor}.99" in suitable]
    nearest = min(minors, key=lambda minor: abs(minor - sys.version_info.minor), default=None)
    return "3" if nearest is None else f"3.{nearest}"
