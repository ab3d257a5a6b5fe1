"""Tables as CSV files that spreadsheets can open without running anything."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")  # with which a spreadsheet takes text for a formula


def write_csv(table: pd.DataFrame, path: Path, **options: Any) -> None:
    """Write a table as CSV; text that a spreadsheet would take for a formula gets an apostrophe in front.

    Names of cell types, cells and genes come from files of other people, and ``=HYPERLINK(...)`` is such a name.

    Parameters
    ----------
    table
        Any table; names of rows and columns are treated as its values.
    path
        File to write.
    **options
        Of ``pandas.DataFrame.to_csv``.
    """
    safe = table.copy()
    for i, dtype in enumerate(table.dtypes):
        if not pd.api.types.is_numeric_dtype(dtype):
            escaped = np.empty(len(table), dtype=object)  # pandas would turn 1 beside 1.5 into 1.0
            escaped[:] = [escape_formula(value) for value in table.iloc[:, i].astype(object)]
            safe.isetitem(i, escaped)
    safe.columns = table.columns.map(_escape_names)
    if len(table):  # pandas would reduce several levels without names to one
        safe.index = table.index.map(_escape_names).set_names(table.index.names)
    safe.to_csv(path, **options)


def escape_formula(value: Any) -> Any:
    """Text with an apostrophe in front if it looks like a formula; anything else as it is.

    Examples
    --------
    >>> escape_formula("=1+1"), escape_formula("CD4+"), escape_formula(-1)
    ("'=1+1", 'CD4+', -1)
    """
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA_STARTS) else value


def _escape_names(name: Any) -> Any:
    """The name of a row or column, or the tuple of names of several levels."""
    return tuple(map(escape_formula, name)) if isinstance(name, tuple) else escape_formula(name)
