"""The environments that methods run in: the current one if it has what a method needs, else one made for the method."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import Requirement

from sysvi._core.events import Event, OnEvent
from sysvi._core.records import read_record, write_record
from sysvi.comparison.interpreters import Interpreter, NoInterpreter, find_interpreter
from sysvi.comparison.methods import Method

VERSIONS_FILE = "installed.json"  # version of each package; written last, so that it marks a complete environment
IMPORT_MODULES = "import importlib, sys\nfor name in sys.argv[1:]:\n    importlib.import_module(name)"
R_PACKAGE_VERSIONS = """
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
# Each source is copied first, as it would be compiled in its own folder; what it depends on is installed before it.
R_INSTALL_SOURCES = """
given <- commandArgs(trailingOnly = TRUE)
.libPaths(c(given[1], .libPaths()))
options(warning.length = 500L)
for (folder in given[-1]) {
  fields <- read.dcf(file.path(folder, "DESCRIPTION"), c("Depends", "Imports", "LinkingTo"))
  needed <- trimws(sub("[(].*", "", unlist(strsplit(fields[!is.na(fields)], ","))))
  missing <- setdiff(needed, c("R", rownames(utils::installed.packages())))
  if (length(missing)) try(utils::install.packages(missing, lib = given[1]))
  copy <- tempfile("source")
  dir.create(copy)
  file.copy(folder, copy, recursive = TRUE)
  utils::install.packages(file.path(copy, basename(folder)), lib = given[1], repos = NULL, type = "source")
}
"""


class MethodNotAvailable(Exception):
    """A method cannot be run on this machine; the message is the reason in one line."""


@dataclass(frozen=True)
class Environment:
    """An interpreter with packages, in which an adapter runs.

    Parameters
    ----------
    command
        Interpreter and its options; the adapter and its arguments follow.
    versions
        Version of each installed package, by its name in lower case, and that of ``python`` or ``r``.
    variables
        Environment variables of the process that differ from those of the current one; None removes a variable.
    """

    command: tuple[str, ...]
    versions: dict[str, str]
    variables: dict[str, str | None]

    def version_of(self, package: str) -> str:
        """Version of a package; empty if it is not installed."""
        return self.versions.get(package.lower(), "")

    def process_variables(self) -> dict[str, str]:
        """All environment variables of the process."""
        merged: dict[str, str | None] = {**os.environ, **self.variables}
        return {name: value for name, value in merged.items() if value is not None}


def default_folder() -> Path:
    """Folder that environments are kept in by default: the user's cache.

    These are the folders that the package platformdirs would name; it is not worth a further dependency.
    """
    try:
        home = Path.home()
    except RuntimeError:  # a user without a home, as of a container
        home = Path(tempfile.gettempdir())
    by_platform = {
        "darwin": home / "Library/Caches",
        "win32": Path(os.environ.get("LOCALAPPDATA", home / "AppData/Local")),
    }
    cache = os.environ.get("XDG_CACHE_HOME") or by_platform.get(sys.platform, home / ".cache")
    return Path(cache) / "sysvi" / "environments"


def get_environments(
    methods: Sequence[Method], has_counts: bool, folder: Path, constraint: Path | None, on_event: OnEvent
) -> tuple[dict[str, Environment], dict[str, str]]:
    """The environments of the methods that can be run, and the reasons why the others cannot, both by method name.

    Methods with the same requirements share an environment. The other parameters are those of `get_environment`.
    """
    environments: dict[str, Environment] = {}
    reasons: dict[str, str] = {}
    by_requirements: dict[tuple[object, ...], Environment | str] = {}  # environment, or why there is none
    for method in methods:
        requirements = (
            method.requires_python,
            method.dependencies,
            method.imports,
            tuple(method.paths),
            tuple(method.sources),
        )
        if method.counts and not has_counts:
            found: Environment | str = "it needs counts, and the input has none"
        else:
            if requirements not in by_requirements:
                try:
                    by_requirements[requirements] = get_environment(
                        method, folder, constraint, lambda line: on_event(Event("environment", line))
                    )
                except MethodNotAvailable as error:
                    by_requirements[requirements] = str(error)
            found = by_requirements[requirements]
        if isinstance(found, Environment):
            environments[method.name] = found
        else:
            reasons[method.name] = found
            values = {"method": method.name, "reason": found}
            on_event(Event("environment", f"{method.name} is not available: {found}", values))
    return environments, reasons


def get_environment(
    method: Method, folder: Path, constraint: Path | None, report: Callable[[str], None]
) -> Environment:
    """The environment of a method, created if there is none yet.

    A Python environment is made from the current interpreter, or from the newest one on this machine that suits the
    method (`find_interpreter`): by uv where a ``uv`` executable is on the PATH, as it is much faster, and otherwise (or
    if uv fails) by venv and pip. uv reads its own settings and ``UV_`` variables: it knows neither pip's configuration
    and ``PIP_`` variables nor its ``find-links``.

    Parameters
    ----------
    method
        Method with the requirements that its adapter declares.
    folder
        Folder in which environments are kept.
    constraint
        File with version constraints in pip's format, for example with the build of torch to install.
    report
        Function that is called with a line of text before each step that takes long.

    Raises
    ------
    MethodNotAvailable
        If no interpreter suits or the environment cannot be created; the message is what the installer gives as the
        reason.
    """
    for name, content in method.paths.items():
        if name not in os.environ:
            raise MethodNotAvailable(f"the environment variable {name} is not set; set it to the path of {content}")
        if not Path(os.environ[name]).exists():
            raise MethodNotAvailable(
                f"{name}={os.environ[name]} does not exist; set this environment variable to the path of {content}"
            )
    try:
        if method.is_r:
            return _r_environment(method, folder, report)
        return _python_environment(method, folder, constraint, report)
    except OSError as error:
        raise MethodNotAvailable(
            f"its environment cannot be created or read in {folder} ({error.strerror or error})"
        ) from error


def satisfied_here(dependencies: Sequence[str]) -> bool:
    """Whether the current environment has these packages in these versions.

    Examples
    --------
    >>> satisfied_here(["numpy>=1.0"]), satisfied_here(["numpy<1.0"]), satisfied_here(["no-such-package"])
    (True, False, False)
    """
    for dependency in dependencies:
        requirement = Requirement(dependency)
        try:
            if importlib.metadata.version(requirement.name) not in requirement.specifier:
                return False
        except importlib.metadata.PackageNotFoundError:
            return False
    return True


def _python_environment(
    method: Method, folder: Path, constraint: Path | None, report: Callable[[str], None]
) -> Environment:
    """The current environment or one of the method's own, after a check that its modules can be imported."""
    try:
        interpreter = find_interpreter(method.requires_python)
    except NoInterpreter as error:
        raise MethodNotAvailable(str(error)) from error
    if interpreter.path == sys.executable and satisfied_here(method.dependencies):
        python, variables = Path(sys.executable), dict[str, str | None]()
        versions = {name.lower(): found.version for found in importlib.metadata.distributions() if (name := found.name)}
    else:
        python, versions = _python_of_its_own(method, interpreter, folder, constraint, report)
        variables = {"PYTHONPATH": None, "PYTHONHOME": None}
    versions = {"python": interpreter.version} | versions
    # -P: the adapter's folder is no place to import from, as an adapter may be called scvi.py
    environment = Environment((str(python), "-P"), versions, variables)
    _run(environment, ["-c", IMPORT_MODULES, *method.imports])
    return environment


def _python_of_its_own(
    method: Method, interpreter: Interpreter, folder: Path, constraint: Path | None, report: Callable[[str], None]
) -> tuple[Path, dict[str, str]]:
    """Python and package versions of the method's own environment, which is created from an interpreter if need be."""
    requirements = [f"python {interpreter.version}", *sorted(method.dependencies)]
    requirements += constraint.read_text().splitlines() if constraint else []
    location = folder / f"{method.package}-{_digest(requirements)}"
    versions = _read_versions(location) if _python_in(location).exists() else None
    if versions is None:
        shutil.rmtree(location, ignore_errors=True)  # damaged, or of a Python that was removed
        report(f"Installing {', '.join(method.dependencies)} for Python {interpreter.version} into {location}")
        start = time.perf_counter()
        versions = _create(location, interpreter, method.dependencies, constraint, report)
        seconds = time.perf_counter() - start
        report(f"Installed {method.package} {versions.get(method.package.lower(), '')} in {seconds:.0f} s")
    return _python_in(location), versions


def _create(
    location: Path,
    interpreter: Interpreter,
    dependencies: Sequence[str],
    constraint: Path | None,
    report: Callable[[str], None],
) -> dict[str, str]:
    """Create a Python environment; its package versions.

    It is made in a temporary folder and moved to its place when it is complete, so that no other process sees an
    incomplete one.
    """
    location.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(
        prefix=f".{location.name}.", dir=location.parent, ignore_cleanup_errors=True
    ) as temporary:
        unfinished = Path(temporary) / "environment"
        if uv := shutil.which("uv"):
            try:
                _install_with_uv(uv, unfinished, interpreter, dependencies, constraint)
            except MethodNotAvailable as error:
                report(f"uv failed ({error}); trying pip")
                _install_with_pip(unfinished, interpreter, dependencies, constraint)
        else:
            _install_with_pip(unfinished, interpreter, dependencies, constraint)
        listed = json.loads(_run(_pip(unfinished), ["list", "--format", "json"]))
        versions = {package["name"].lower(): package["version"] for package in listed}
        write_record(unfinished / VERSIONS_FILE, {"versions": versions})
        if _read_versions(location) is None:  # another process may have been faster
            unfinished.rename(location)
    return versions


def _install_with_uv(
    uv: str, location: Path, interpreter: Interpreter, dependencies: Sequence[str], constraint: Path | None
) -> None:
    """Create a virtual environment with pip in it (``--seed``) and install packages, all by uv."""
    command = Environment((uv,), {}, {"PYTHONPATH": None, "VIRTUAL_ENV": None})
    _run(command, ["venv", "--seed", "--quiet", "--python", interpreter.path, str(location)])
    python = str(_python_in(location))
    _run(command, ["pip", "install", "--quiet", "--python", python, *_constrained(constraint), *dependencies])


def _install_with_pip(
    location: Path, interpreter: Interpreter, dependencies: Sequence[str], constraint: Path | None
) -> None:
    """Create a virtual environment by venv, in place of one that may be there, and install packages by pip."""
    command = Environment((interpreter.path, "-I"), {}, {})  # -I: PYTHONPATH is that of the current interpreter
    _run(command, ["-m", "venv", "--clear", str(location)])
    _run(_pip(location), ["install", "--quiet", *_constrained(constraint), *dependencies])


def _pip(location: Path) -> Environment:
    """The pip of a virtual environment."""
    command = (str(_python_in(location)), "-m", "pip", "--disable-pip-version-check")
    return Environment(command, {}, {"PYTHONPATH": None})


def _constrained(constraint: Path | None) -> list[str]:
    """The option with the constraint file, the same for pip and uv."""
    return ["--constraint", str(constraint)] if constraint else []


def _python_in(location: Path) -> Path:
    """The interpreter of a virtual environment."""
    return location / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")


def _read_versions(location: Path) -> dict[str, str] | None:
    """Package versions of an environment; None if it is incomplete or damaged."""
    record = read_record(location / VERSIONS_FILE)
    return None if record is None else record["versions"]


def _r_environment(method: Method, folder: Path, report: Callable[[str], None]) -> Environment:
    """R with the method's packages; those that the user's libraries lack are installed into one of the method's own."""
    rscript = shutil.which("Rscript")
    if rscript is None:
        raise MethodNotAvailable("Rscript is not on the PATH: install R")
    sources = _r_sources(method)
    requirements = [*sorted(method.dependencies), *(f"{path}\n{text}" for path, text in sources.values())]
    r = Environment((rscript,), {}, {})  # reads the user's profile, which may set libraries and a repository
    r_version = _run(r, ["-e", 'cat("\\n", as.character(getRversion()), sep = "")']).splitlines()[-1]
    library = folder / f"R-{r_version}-{method.package}-{_digest(requirements)}"
    versions = _r_package_versions(r, library, method.dependencies)
    from_source = [name for name in sources if not (library / name).exists()]
    missing = [name for name in method.dependencies if name not in versions and name not in sources]
    if missing or from_source:
        report(f"Installing {', '.join(missing + from_source)} into {library}")
        library.mkdir(parents=True, exist_ok=True)
        output = _install_in_r(r, R_INSTALL, library, missing)
        output += _install_in_r(r, R_INSTALL_SOURCES, library, [sources[name][0] for name in from_source])
        versions = _r_package_versions(r, library, method.dependencies)
        failed = [name for name in missing if name not in versions]
        failed += [name for name in from_source if not (library / name).exists()]
        if failed:
            hints = [
                f"; or set the environment variable {variable} to the folder of the source of {name}"
                for variable, name in method.sources.items()
                if name in failed and name not in sources
            ]
            raise MethodNotAvailable(f"{', '.join(failed)} cannot be installed: {_reason(output)}{''.join(hints)}")
    variables: dict[str, str | None] = {
        "R_LIBS": os.pathsep.join(filter(None, [str(library), os.environ.get("R_LIBS")]))
    }
    by_lower_case = {"r": r_version} | {name.lower(): version for name, version in versions.items()}
    return Environment((rscript,), by_lower_case, variables)


def _r_sources(method: Method) -> dict[str, tuple[str, str]]:
    """Folder and DESCRIPTION of the R packages whose source the user gives in environment variables, by package."""
    sources = {}
    for variable, package in method.sources.items():
        if folder := os.environ.get(variable):
            path = Path(folder).resolve()
            try:
                description = (path / "DESCRIPTION").read_text("utf-8")
            except (OSError, UnicodeDecodeError):
                description = ""
            if f"Package: {package}" not in description.splitlines():
                raise MethodNotAvailable(
                    f"{variable}={folder} is not the source of the R package {package}: set it to the folder with its "
                    "file DESCRIPTION"
                )
            sources[package] = (str(path), description)
    return sources


def _install_in_r(r: Environment, script: str, library: Path, packages: Sequence[str]) -> str:
    """Install packages (or folders with their source) into a library; all output, whether it succeeds or not."""
    if not packages:
        return ""
    try:
        return _run(r, ["-e", script, str(library), *packages], with_errors=True)
    except MethodNotAvailable as error:
        return str(error)


def _r_package_versions(r: Environment, library: Path, names: Sequence[str]) -> dict[str, str]:
    """Versions of those R packages that can be loaded."""
    lines = [line.split() for line in _run(r, ["-e", R_PACKAGE_VERSIONS, str(library), *names]).splitlines()]
    return {line[1]: line[2] for line in lines if len(line) == 3 and line[0] == "has"}


def _run(environment: Environment, arguments: Sequence[str], with_errors: bool = False) -> str:
    """Standard output of a command (with its standard error, if asked for).

    Raises
    ------
    MethodNotAvailable
        If the command fails; the message is the line of its output that tells why.
    """
    command = [*environment.command, *arguments]
    done = subprocess.run(
        command, capture_output=True, text=True, env=environment.process_variables(), stdin=subprocess.DEVNULL
    )
    if done.returncode != 0:
        raise MethodNotAvailable(_reason(done.stderr or done.stdout))
    return done.stdout + done.stderr if with_errors else done.stdout


def _reason(output: str) -> str:
    """The line of a command's output that tells why it failed: the last error message, else the last line."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line for line in lines if line.lower().startswith(("error", "warning: unable", "cannot open"))]
    return ((errors or lines or ["no reason given"])[-1])[:300]


def _digest(lines: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:8]
