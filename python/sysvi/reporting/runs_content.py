"""What a report of many runs shows, of a tuning or of a comparison, as plain data: nothing here knows of HTML."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from sysvi.reporting.findings import Finding
from sysvi.reporting.recipe import Recipe


@dataclass(frozen=True)
class Table:
    """A table of texts.

    Parameters
    ----------
    caption
        What it shows.
    columns
        Names of the columns; the first one names the rows.
    rows
        Texts, one for each column.
    numbers
        Positions of columns with numbers.
    marked
        Positions of rows that stand out.
    """

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numbers: frozenset[int] = frozenset()
    marked: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Point:
    """A run, or the mean over the runs of a setting, in the trade-off figure.

    Parameters
    ----------
    name
        Text beside the point and under the pointer.
    values, spreads
        Value on each axis, and standard deviation over seeds; NaN if it is not known.
    chosen
        Whether the point is marked.
    """

    name: str
    values: tuple[float, ...]
    spreads: tuple[float, ...] = ()
    chosen: bool = False


@dataclass(frozen=True)
class Series:
    """Points of one colour: `means`, joined by a line in their order, and the single `runs`."""

    name: str
    means: tuple[Point, ...]
    runs: tuple[Point, ...]


@dataclass(frozen=True)
class RunsContent:
    """What a report of many runs shows.

    Parameters
    ----------
    title
        Title of the page.
    facts
        Names and values at the top.
    findings
        What a reader should know first.
    notes
        Sentences about what was measured.
    axes
        Names of the numbers that can be drawn against each other; the first is mixing, the second biology.
    series
        Points of the trade-off figure.
    figure_text
        Sentences about the figure.
    choices
        Heading, text and table of what was compared: settings or methods, best first.
    further
        Headings, texts and tables that follow it.
    runs
        Table of all runs.
    failures
        Runs without a result, with the reason.
    cells, settings
        Cells of each system and batch; settings of the run.
    versions
        Versions of libraries, a sentence each.
    recipes
        The command and the code that make it again.
    """

    title: str
    facts: tuple[tuple[str, str], ...]
    findings: tuple[Finding, ...]
    notes: tuple[str, ...]
    axes: tuple[str, ...]
    series: tuple[Series, ...]
    figure_text: str
    choices: tuple[str, str, Table]
    further: tuple[tuple[str, str, Table], ...]
    runs: Table
    failures: Table
    cells: Table
    settings: Table
    versions: tuple[str, ...]
    recipes: tuple[Recipe, ...]


def number(value: Any, digits: int = 3) -> str:
    """A number as text, with a hyphen for a missing one.

    Examples
    --------
    >>> number(0.12345), number(float("nan")), number(12345.6, 0), number(-1e-9)
    ('0.123', '-', '12,346', '0.000')
    """
    return "-" if pd.isna(value) else f"{round(float(value), digits) + 0.0:,.{digits}f}"  # 0.0: never "-0"


def with_spread(mean: Any, spread: Any, digits: int = 3) -> str:
    """A mean with its standard deviation over seeds, if that is known.

    Examples
    --------
    >>> with_spread(0.5, 0.012), with_spread(0.5, float("nan"))
    ('0.500 ± 0.012', '0.500')
    """
    return number(mean, digits) if pd.isna(spread) else f"{number(mean, digits)} ± {number(spread, digits)}"


def mean_point(name: str, runs: pd.DataFrame, axes: Sequence[str], chosen: bool) -> Point:
    """The point of the mean over runs of one setting, with their standard deviations."""
    values = runs[list(axes)].astype(float)
    return Point(name, tuple(values.mean()), tuple(values.std()), chosen)


def run_points(names: Sequence[str], runs: pd.DataFrame, axes: Sequence[str]) -> tuple[Point, ...]:
    """The points of single runs."""
    values = runs[list(axes)].astype(float).to_numpy()
    return tuple(Point(name, tuple(row)) for name, row in zip(names, values.tolist(), strict=True))


def cells_table(groups: Sequence[dict[str, Any]], system_key: str, batch_key: str | None) -> Table:
    """Cells of each system, or of each system and batch: entries system, batch, cells."""
    names = [f"System ({system_key})", *([] if batch_key is None else [f"Batch ({batch_key})"]), "Cells"]
    keys = ["system", *([] if batch_key is None else ["batch"])]
    rows = tuple((*(str(group[key]) for key in keys), f"{group['cells']:,}") for group in groups)
    return Table("Number of cells", tuple(names), rows, frozenset({len(keys)}))


def systems_of(groups: Sequence[dict[str, Any]]) -> list[str]:
    """Names of the systems, each once."""
    return list(dict.fromkeys(str(group["system"]) for group in groups))


def at_edge(chosen: float, tried: Sequence[float]) -> bool:
    """Whether the largest of several numbers was chosen.

    Examples
    --------
    >>> at_edge(30, [0, 10, 30]), at_edge(10, [0, 10, 30]), at_edge(5, [5])
    (True, False, False)
    """
    return len(tried) > 1 and bool(np.isclose(chosen, max(tried)))
