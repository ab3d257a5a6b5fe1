"""The methods that can be compared: what the adapters in a folder declare of themselves.

An adapter is a script, Python or R, that is run by the interpreter of its own environment, which need not have sysvi:

    adapter INPUT OUTPUT RUN

INPUT is what `sysvi.comparison.cells` writes (Python: an h5ad, R: a folder), OUTPUT the .npy to write (cells x
dimensions), RUN a JSON text: "settings", "seed" and "epochs" (null: the method's own number). It declares itself in
comment lines at its head, as Python's inline script metadata (PEP 723):

    # /// script
    # dependencies = ["harmonypy==2.1.0"]     what its environment must have; none: this one
    #
    # [tool.sysvi]
    # package = "harmonypy"                   whose version is reported
    # imports = ["harmonypy"]                 must be loadable, or the method is not available
    #
    # [tool.sysvi.paths]                      environment variables with files that no registry has
    # NAME = "what it must hold"
    #
    # [tool.sysvi.methods.harmony]
    # title = "Harmony"
    # settings = { theta = 2 }                the paper's
    # grid = { theta = [1, 2, 5] }            values that are tried, a parameter at a time
    # counts = false                          whether it needs counts
    # labels = false                          whether it is given the cell types
    # epochs = false                          whether it is trained
    # deterministic = false                   whether one seed is enough
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

from sysvi._core.checks import listing
from sysvi._core.errors import InputError

ADAPTERS = Path(__file__).parent / "adapters"
ORDER = ["sysvi", "cvae", "vamp", "cyc", "adv", "pca", "harmony", "scvi", "scvi-sysvi", "glue"]
ORDER += ["seurat-cca", "seurat-rpca", "harmony-r", "scmgca", "scgen", "saturn"]  # further methods follow
HEADER = re.compile(r"^# /// script$(.*?)^# ///$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True, eq=False)
class Method:
    """A method as its adapter declares it; the fields are those of the header."""

    name: str
    script: Path
    title: str
    package: str
    dependencies: tuple[str, ...] = ()
    imports: tuple[str, ...] = ()
    paths: dict[str, str] = field(default_factory=dict)
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
    def digest(self) -> str:
        """Of the adapter's text, and of what it shares with others: another text, another run."""
        texts = [self.script, *self.script.parent.glob(f"common{self.script.suffix}")]
        return hashlib.sha256(b"".join(text.read_bytes() for text in texts)).hexdigest()[:16]

    def points(self, grid: Literal["full", "default"]) -> list[tuple[str, Any]]:
        """Parameter and value of each point of the grid; the first parameter at its default, or ("", None)."""
        if not self.grid:
            return [("", None)]
        if grid == "default":
            first = next(iter(self.grid))
            return [(first, self.settings[first])]
        return [(name, value) for name, values in self.grid.items() for value in values]


def read_methods(folders: Sequence[Path] = (ADAPTERS,)) -> dict[str, Method]:
    """Methods by name, in their usual order; an adapter of a later folder takes the place of an earlier one's.

    Raises
    ------
    InputError
        If a folder does not exist or a header cannot be read.
    """
    found: dict[str, Method] = {}
    for folder in folders:
        if not folder.is_dir():
            raise InputError(f"There is no folder {folder} with adapters.")
        for script in sorted([*folder.glob("*.py"), *folder.glob("*.R")]):
            found |= {method.name: method for method in _declared(script)}
    names = [name for name in ORDER if name in found] + [name for name in found if name not in ORDER]
    return {name: found[name] for name in names}


def choose_methods(known: dict[str, Method], names: str | Sequence[str]) -> list[Method]:
    """The methods asked for, each once; ``"all"`` for all.

    Raises
    ------
    InputError
        If there is no such method.
    """
    if names == "all":
        return list(known.values())
    wanted = [names] if isinstance(names, str) else list(names)
    if unknown := [name for name in wanted if name not in known]:
        raise InputError(f"There is no method {listing(unknown)}; choose of: {listing(known, len(known))}.")
    if not wanted:
        raise InputError("methods is empty: name at least one, or 'all'.")
    return [known[name] for name in dict.fromkeys(wanted)]


def _declared(script: Path) -> Iterator[Method]:
    """The methods of an adapter; none of a script without a header."""
    header = HEADER.search(script.read_text())
    if header is None:
        return
    try:
        table = tomllib.loads(re.sub(r"^# ?", "", header.group(1), flags=re.MULTILINE))
        own = table["tool"]["sysvi"]
        for name, declared in own["methods"].items():
            method = Method(
                name,
                script,
                package=own["package"],
                dependencies=tuple(table.get("dependencies", ())),
                imports=tuple(own.get("imports", ())),
                paths=own.get("paths", {}),
                **{"title": name, **declared},
            )
            if missing := set(method.grid) - set(method.settings):
                raise InputError(f"the grid of {name} has {listing(missing)}, which its settings do not have.")
            json.dumps(method.settings)
            yield method
    except (tomllib.TOMLDecodeError, KeyError, TypeError, InputError) as error:
        raise InputError(f"The header of the adapter {script} cannot be read: {error}") from error
