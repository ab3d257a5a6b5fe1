"""Environments that methods run in: this one if it has what they need, else one of their own, made on demand."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import Requirement

from sysvi.comparison.methods import Method

INSTALLED = "installed.json"  # name and version of each package; written last
NAMED = "import importlib, sys\nfor name in sys.argv[1:]:\n    importlib.import_module(name)"
R_VERSIONS = """
given <- commandArgs(trailingOnly = TRUE)
.libPaths(c(given[1], .libPaths()))
for (name in given[-1]) {
  if (requireNamespace(name, quietly = TRUE)) cat("has", name, as.character(utils::packageVersion(name)), "\\n")
}
"""
R_INSTALL = """
given <- commandArgs(trailingOnly = TRUE)
.libPaths(c(given[1], .libPaths()))
options(warning.length = 500L)
utils::install.packages(given[-1], lib = given[1])
"""


class MethodNotAvailable(Exception):
    """A method cannot be run here; the message is the reason in one line."""


@dataclass(frozen=True)
class Environment:
    """Where an adapter runs.

    Parameters
    ----------
    command
        The interpreter with its options; the adapter and its arguments follow.
    versions
        Of its packages, by name in lower case.
    variables
        For the process, over those of this one; None removes one.
    """

    command: tuple[str, ...]
    versions: dict[str, str]
    variables: dict[str, str | None]

    def version_of(self, package: str) -> str:
        """Version of a package, empty if it is not there."""
        return self.versions.get(package.lower(), "")

    def process_variables(self) -> dict[str, str]:
        """All environment variables of the process."""
        merged: dict[str, str | None] = {**os.environ, **self.variables}
        return {name: value for name, value in merged.items() if value is not None}


def default_folder() -> Path:
    """Where environments are kept: the user's cache."""
    home = Path.home()
    system = {"darwin": home / "Library/Caches", "win32": Path(os.environ.get("LOCALAPPDATA", home / "AppData/Local"))}
    base = os.environ.get("XDG_CACHE_HOME") or system.get(sys.platform, home / ".cache")
    return Path(base) / "sysvi" / "environments"


def get_environment(
    method: Method, folder: Path, constraint: Path | None, report: Callable[[str], None]
) -> Environment:
    """The environment of a method, made if need be.

    Parameters
    ----------
    method
        What its adapter declares.
    folder
        Where environments are kept.
    constraint
        pip's constraint file, for example with the build of torch to take. pip's own settings and PIP_ variables hold
        too.
    report
        Called with a line of text before what takes long.

    Raises
    ------
    MethodNotAvailable
        With the tool's last line where it cannot be had.
    """
    for name, content in method.paths.items():
        if name not in os.environ:
            raise MethodNotAvailable(f"the environment variable {name} is not set; it must hold {content}")
        if not Path(os.environ[name]).exists():
            raise MethodNotAvailable(f"{name}={os.environ[name]} does not exist; it must hold {content}")
    try:
        return _r(method, folder, report) if method.is_r else _python(method, folder, constraint, report)
    except OSError as error:
        raise MethodNotAvailable(
            f"its environment cannot be made or read in {folder} ({error.strerror or error})"
        ) from error


def _python(method: Method, folder: Path, constraint: Path | None, report: Callable[[str], None]) -> Environment:
    """Python with what the method needs."""
    python, versions = _interpreter(method, folder, constraint, report)
    own = python == Path(sys.executable)
    environment = Environment((str(python),), versions, {} if own else {"PYTHONPATH": None, "PYTHONHOME": None})
    _run(environment, ["-P", "-c", NAMED, *method.imports])
    return Environment((str(python), "-P"), versions, environment.variables)  # -P: an adapter may be called scvi.py


def satisfied_here(dependencies: Sequence[str]) -> bool:
    """Whether this environment has these packages in these versions.

    Examples
    --------
    >>> satisfied_here(["numpy>=1.0"]), satisfied_here(["numpy<1.0"]), satisfied_here(["no-such-package"])
    (True, False, False)
    """
    for text in dependencies:
        requirement = Requirement(text)
        try:
            if importlib.metadata.version(requirement.name) not in requirement.specifier:
                return False
        except importlib.metadata.PackageNotFoundError:
            return False
    return True


def _interpreter(
    method: Method, folder: Path, constraint: Path | None, report: Callable[[str], None]
) -> tuple[Path, dict[str, str]]:
    """Interpreter and versions of a Python environment."""
    if satisfied_here(method.dependencies):
        here = {name.lower(): found.version for found in importlib.metadata.distributions() if (name := found.name)}
        return Path(sys.executable), here
    asked = [f"python {platform.python_version()}", *sorted(method.dependencies)]
    asked += constraint.read_text().splitlines() if constraint else []
    place = folder / f"{method.package}-{_digest(asked)}"
    python = place / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    versions = _installed(place) if python.exists() else None
    if versions is None:
        shutil.rmtree(place, ignore_errors=True)  # a damaged one, or of a Python that is gone
        report(f"Installing {', '.join(method.dependencies)} into {place}")
        began = time.perf_counter()
        with _in_the_making(place) as part:
            maker = part / python.relative_to(place)
            plain = Environment((sys.executable,), {}, {})
            _run(plain, ["-m", "venv", str(part)])
            pip = Environment((str(maker), "-m", "pip", "--disable-pip-version-check"), {}, {"PYTHONPATH": None})
            limits = ["--constraint", str(constraint)] if constraint else []
            _run(pip, ["install", "--quiet", *limits, *method.dependencies])
            listed = json.loads(_run(pip, ["list", "--format", "json"]))
            versions = {package["name"].lower(): package["version"] for package in listed}
            (part / INSTALLED).write_text(json.dumps(versions, indent=1) + "\n")
        seconds = time.perf_counter() - began
        report(f"Installed {method.package} {versions.get(method.package.lower(), '')} in {seconds:.0f} s")
    return python, versions


def _installed(place: Path) -> dict[str, str] | None:
    """Versions of the packages of an environment; None if it is not there or damaged."""
    try:
        return dict(json.loads((place / INSTALLED).read_text()))
    except (OSError, ValueError, TypeError):
        return None


def _r(method: Method, folder: Path, report: Callable[[str], None]) -> Environment:
    """R, with the packages that its library lacks in one of the method's own."""
    rscript = shutil.which("Rscript")
    if rscript is None:
        raise MethodNotAvailable("Rscript is not on the PATH: install R")
    plain = Environment((rscript,), {}, {})  # with the user's profile, which may name libraries and a repository
    version = _run(plain, ["-e", 'cat("\\n", as.character(getRversion()), sep = "")']).splitlines()[-1]
    library = folder / f"R-{version}-{method.package}-{_digest(sorted(method.dependencies))}"
    versions = _r_versions(plain, library, method.dependencies)
    missing = [name for name in method.dependencies if name not in versions]
    if missing:
        report(f"Installing {', '.join(missing)} into {library}")
        library.mkdir(parents=True, exist_ok=True)
        try:
            said = _run(plain, ["-e", R_INSTALL, str(library), *missing], with_errors=True)
        except MethodNotAvailable as error:
            said = str(error)
        versions = _r_versions(plain, library, method.dependencies)
        if still := [name for name in missing if name not in versions]:
            raise MethodNotAvailable(f"{', '.join(still)} cannot be installed: {_reason(said)}")
    variables: dict[str, str | None] = {
        "R_LIBS": os.pathsep.join(filter(None, [str(library), os.environ.get("R_LIBS")]))
    }
    named = {"r": version} | {name.lower(): found for name, found in versions.items()}
    return Environment((rscript,), named, variables)


def _r_versions(r: Environment, library: Path, names: Sequence[str]) -> dict[str, str]:
    lines = [line.split() for line in _run(r, ["-e", R_VERSIONS, str(library), *names]).splitlines()]
    return {line[1]: line[2] for line in lines if len(line) == 3 and line[0] == "has"}


class _in_the_making:
    """A temporary folder beside `place` that takes its name when all went well: nobody sees half an environment."""

    def __init__(self, place: Path):
        self.place = place

    def __enter__(self) -> Path:
        self.place.parent.mkdir(parents=True, exist_ok=True)
        self.part = Path(tempfile.mkdtemp(prefix=f".{self.place.name}.", dir=self.place.parent))
        return self.part

    def __exit__(self, kind: object, *rest: object) -> None:
        if kind is None and not (self.place / INSTALLED).is_file():  # another process may have been faster
            self.part.rename(self.place)
        shutil.rmtree(self.part, ignore_errors=True)


def _run(environment: Environment, arguments: Sequence[str], with_errors: bool = False) -> str:
    """What a command prints (with what it says of errors, if asked for); MethodNotAvailable if it fails."""
    command = [*environment.command, *arguments]
    done = subprocess.run(
        command, capture_output=True, text=True, env=environment.process_variables(), stdin=subprocess.DEVNULL
    )
    if done.returncode != 0:
        raise MethodNotAvailable(_reason(done.stderr or done.stdout))
    return done.stdout + done.stderr if with_errors else done.stdout


def _reason(said: str) -> str:
    """The line of an output that says why: the last one of an error, else the last one."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    telling = [line for line in lines if line.lower().startswith(("error", "warning: unable", "cannot open"))]
    return ((telling or lines or ["no reason given"])[-1])[:300]


def _digest(lines: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:8]
