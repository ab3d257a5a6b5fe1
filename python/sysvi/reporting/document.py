"""What the pages of all reports share: their frame, scripts and styles in one HTML file that needs no network."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import numpy as np

from sysvi._core.errors import InputError
from sysvi._version import __version__
from sysvi.reporting.findings import Finding

GENERATOR = '<meta name="generator" content="sysvi '  # by which a page is recognised
LEVELS = {"warning": "Warning", "note": "Note", "good": "Good"}  # of findings, in the order of the page


@dataclass(frozen=True)
class Libraries:
    """The libraries of the extra ``sysvi[report]``: a template engine, and the script of plotly.js."""

    environment: Any
    plotly: str


def load_libraries() -> Libraries:
    """Import jinja2 and plotly.

    Raises
    ------
    InputError
        If one of them is not installed.
    """
    try:
        import jinja2
        from plotly.offline import get_plotlyjs
    except ImportError as error:
        raise InputError(
            f'A report needs {error.name}, which is not installed: run pip install "sysvi[report]".'
        ) from error
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(read_template), autoescape=True, undefined=jinja2.StrictUndefined
    )
    environment.filters["heat_class"] = heat_class
    return Libraries(environment, get_plotlyjs())


def read_template(name: str) -> str:
    """A file of the folder ``templates``."""
    return files("sysvi.reporting").joinpath("templates", name).read_text(encoding="utf-8")


def render_page(libraries: Libraries, name: str, data: Mapping[str, Any], variables: Mapping[str, Any]) -> str:
    """Make a page.

    Parameters
    ----------
    libraries
        Result of `load_libraries`.
    name
        Name of the template and of the script, without their endings.
    data
        What the script draws, for JSON.
    variables
        What the template shows.

    Returns
    -------
    str
        HTML. The same content gives the same text.
    """
    from markupsafe import Markup

    script = read_template("shared.js") + read_template(f"{name}.js")
    scripts = [_inside_script(text) for text in (libraries.plotly, script)]
    shared = {
        "version": __version__,
        "policy": content_security_policy(scripts),
        "css": Markup(read_template("report.css")),
        "plotly": Markup(scripts[0]),
        "script": Markup(scripts[1]),
        "data": Markup(_as_json(data)),
        "words": LEVELS,
    }
    return libraries.environment.get_template(f"{name}.html.j2").render(shared | dict(variables))


def content_security_policy(scripts: Iterable[str]) -> str:
    """The policy that lets a browser run these scripts and nothing else, and load nothing from anywhere.

    plotly.js compiles its WebGL programs with ``Function``, hence ``unsafe-eval``.
    """
    hashes = " ".join(f"'sha256-{as_base64(hashlib.sha256(text.encode()).digest())}'" for text in scripts)
    return (
        f"default-src 'none'; script-src {hashes} 'unsafe-eval'; style-src 'unsafe-inline'; img-src data: blob:; "
        "base-uri 'none'; form-action 'none'"
    )


def heat_class(value: float) -> int:
    """Class of the colour of a share, from 0 to 10; shares below 0 or above 1 take the nearest.

    Examples
    --------
    >>> [heat_class(value) for value in (-0.2, 0.0, 0.449, 0.96, 1.3)]
    [0, 0, 4, 10, 10]
    """
    return round(10 * min(1.0, max(0.0, value)))


def _inside_script(text: str) -> str:
    """A script that can stand between script tags: no string in it ends the script or begins a comment."""
    return re.sub(r"<(?=/script|!--)", r"\\x3c", text, flags=re.IGNORECASE)


def _as_json(value: Any) -> str:
    """JSON that can stand between script tags: it has no ``<``."""
    return json.dumps(value, allow_nan=False).replace("<", "\\u003c")


def sorted_findings(findings: Iterable[Finding], translate: Callable[[str], str] = str) -> list[Finding]:
    """Findings in the order of the page, in the words of an interface."""
    translated = [Finding(finding.level, translate(finding.text), translate(finding.advice)) for finding in findings]
    return sorted(translated, key=lambda finding: list(LEVELS).index(finding.level))


def as_base64(content: bytes) -> str:
    """Bytes as text."""
    return base64.b64encode(content).decode("ascii")


def numbers(values: np.ndarray, dtype: str) -> str:
    """Numbers as the script of the page reads them: little-endian bytes in base64."""
    return as_base64(np.ascontiguousarray(values, dtype).tobytes())


def as_hex(colors: np.ndarray) -> list[str]:
    """Colours as ``#rrggbb``, from RGBA values between 0 and 1, (n, 4)."""
    return [
        "#" + "".join(f"{part:02x}" for part in color) for color in (255 * colors[:, :3]).round().astype(int).tolist()
    ]
