"""The committed tables in benchmarks/results, and how numbers and tables are written as Markdown."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from pathlib import Path

import pandas as pd

RESULTS = Path(__file__).parents[1] / "results"


@functools.cache
def read(name: str) -> pd.DataFrame:
    """The committed table of this name."""
    return pd.read_csv(RESULTS / f"{name}.csv")


def markdown(header: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    """A table in Markdown; missing values are empty."""
    header = list(header)
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join("" if pd.isna(cell) else str(cell) for cell in line) + " |" for line in lines)


def number(value: float, digits: int = 2) -> str:
    """A number with `digits` decimal places and separated thousands; empty if it is missing."""
    return "" if pd.isna(value) else f"{value:,.{digits}f}"


def span(values: pd.Series, digits: int = 2) -> str:
    """The mean, with the lowest and highest value in brackets."""
    return f"{number(values.mean(), digits)} ({number(values.min(), digits)} - {number(values.max(), digits)})"


def beside(value: float, other: float, digits: int = 2) -> str:
    """A number, with another one in brackets; empty if the first is missing."""
    return "" if pd.isna(value) else f"{number(value, digits)} ({number(other, digits)})"
