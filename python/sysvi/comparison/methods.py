"""The methods that can be compared, as declared in the headers of their adapters.

An adapter is a Python or R script that integrates the cells with one or several methods. It is run by the interpreter
of its own environment, which need not contain sysvi:

    adapter INPUT OUTPUT RUN

INPUT is what `sysvi.comparison.cells.write_cells` writes (an h5ad file for Python, a folder for R). OUTPUT is the .npy
file to write the embedding to (cells x latent dimensions). RUN is a JSON object with "settings", "seed" and "epochs"
(null: the method's own number of epochs). Comment lines at the head of the script describe it, in the format of
Python's inline script metadata (PEP 723):

    # /// script
    # requires-python = ">=3.12"              versions of Python that suit; left out: the current one
    # dependencies = ["harmonypy==2.1.0"]     packages that its environment must have; empty: the current environment
    #
    # [tool.sysvi]
    # package = "harmonypy"                   package whose version is reported
    # imports = ["harmonypy"]                 modules that must be importable, or the method is not available
    #
    # [tool.sysvi.paths]                      environment variables that name files which no package registry offers
    # NAME = "what it is the path of"
    #
    # [tool.sysvi.sources]                    environment variables that may name the folder of an R package's source:
    # NAME = "package"                        the package is then installed from there instead of CRAN
    #
    # [tool.sysvi.methods.harmony]
    # title = "Harmony"
    # settings = { theta = 2 }                default settings (those of the paper)
    # grid = { theta = [1, 2, 5] }            values to try, one parameter varied at a time
    # counts = false                          whether the method needs counts
    # labels = false                          whether the method uses the cell type labels
    # epochs = false                          whether the method is trained in epochs
    # deterministic = false                   whether the result is the same for every seed
    # ///
"""

from __future__ import annotations

import hashlib
import json
import re
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from packaging.specifiers import SpecifierSet

from sysvi._core.checks import listing
from sysvi._core.errors import InputError

ADAPTERS = Path(__file__).parent / "adapters"
# The order of tables; methods of other adapters follow.
METHOD_ORDER = [
    "sysvi",
    "cvae",
    "vamp",
    "cyc",
    "adv",
    "pca",
    "harmony",
    "scvi",
    "scvi-sysvi",
    "drvi",
    "glue",
    "concord",
]
METHOD_ORDER += ["scvital", "seurat-cca", "seurat-rpca", "harmony-r", "stacas", "scmgca", "scgen", "scanvi", "saturn"]
NOT_ADAPTERS = {"common", "__init__"}  # scripts with code that adapters share
HEADER = re.compile(r"^# /// script$(.*?)^# ///$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True, eq=False)
class Method:
    """A method as its adapter declares it; the module's docstring describes the fields."""

    name: str
    script: Path
    title: str
    package: str
    requires_python: str = ""
    dependencies: tuple[str, ...] = ()
    imports: tuple[str, ...] = ()
    paths: dict[str, str] = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    grid: dict[str, list[Any]] = field(default_factory=dict)
    counts: bool = False
    labels: bool = False
    epochs: bool = False
    deterministic: bool = False

    @property
    def is_r(self) -> bool:
        """Whether the adapter is written in R."""
        return self.script.suffix == ".R"

    @property
    def adapter_digest(self) -> str:
        """Digest of the source of the adapter and of what it shares with others; other digests are other runs."""
        sources = [self.script, *self.script.parent.glob(f"common{self.script.suffix}")]
        return hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()[:16]

    def grid_points(self, grid: Literal["full", "default"]) -> list[tuple[str, Any]]:
        """The varied parameter and its value, for each setting to run.

        ``"full"`` gives all values of the grid, ``"default"`` the first parameter at its default value. A method
        without a grid has the single point ``("", None)``.
        """
        if not self.grid:
            return [("", None)]
        if grid == "default":
            first = next(iter(self.grid))
            return [(first, self.settings[first])]
        return [(name, value) for name, values in self.grid.items() for value in values]


def read_methods(folders: Sequence[Path] = (ADAPTERS,)) -> dict[str, Method]:
    """Read the methods that the adapters in some folders declare.

    Parameters
    ----------
    folders
        Folders with adapters. A method of a later folder replaces one of the same name of an earlier folder.

    Returns
    -------
    dict
        Methods by name, in the order of tables.

    Raises
    ------
    InputError
        If a folder does not exist or an adapter's header is invalid.
    """
    methods: dict[str, Method] = {}
    for folder in folders:
        if not folder.is_dir():
            raise InputError(f"The folder {folder} (adapters) does not exist.")
        scripts = sorted([*folder.glob("*.py"), *folder.glob("*.R")])
        for script in (script for script in scripts if script.stem not in NOT_ADAPTERS):
            methods |= {method.name: method for method in _read_header(script)}
    names = [name for name in METHOD_ORDER if name in methods] + [name for name in methods if name not in METHOD_ORDER]
    return {name: methods[name] for name in names}


def choose_methods(known: dict[str, Method], names: str | Sequence[str]) -> list[Method]:
    """The methods of the given names, each once; ``"all"`` gives all.

    Raises
    ------
    InputError
        If a name is unknown or none is given.
    """
    if names == "all":
        return list(known.values())
    wanted = [names] if isinstance(names, str) else list(names)
    if unknown := [name for name in wanted if name not in known]:
        raise InputError(f"There is no method {listing(unknown)}: choose from {listing(known, len(known))}.")
    if not wanted:
        raise InputError("methods is empty: name at least one method, or use 'all'.")
    return [known[name] for name in dict.fromkeys(wanted)]


def _read_header(script: Path) -> Iterator[Method]:
    """The methods that a script declares."""
    try:
        header = HEADER.search(script.read_text("utf-8"))
        if header is None:
            raise InputError(
                "it has none, which begins with `# /// script` and ends with `# ///` (code that adapters share is kept "
                f"in a file named common{script.suffix})."
            )
        table = tomllib.loads(re.sub(r"^# ?", "", header.group(1), flags=re.MULTILINE))
        declaration = table["tool"]["sysvi"]
        requires_python = str(SpecifierSet(table.get("requires-python", "")))  # fails for what is no specifier
        for name, declared in declaration["methods"].items():
            method = Method(
                name,
                script,
                package=declaration["package"],
                requires_python=requires_python,
                dependencies=tuple(table.get("dependencies", ())),
                imports=tuple(declaration.get("imports", ())),
                paths=declaration.get("paths", {}),
                sources=declaration.get("sources", {}),
                **{"title": name, **declared},
            )
            if unknown := set(method.sources.values()) - set(method.dependencies if method.is_r else ()):
                raise InputError(f"its sources name {listing(unknown)}, which is no R package among its dependencies.")
            if missing := set(method.grid) - set(method.settings):
                raise InputError(f"the grid of {name} varies {listing(missing)}, which its settings lack.")
            json.dumps(method.settings)  # fails for settings that cannot be passed on
            yield method
    except (OSError, AttributeError, KeyError, TypeError, ValueError) as error:  # InputError is a ValueError
        raise InputError(f"The header of the adapter {script} is invalid: {error}") from error
