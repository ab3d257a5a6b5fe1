"""The cells that a report draws: a sample of them, the columns that colour them, and their UMAPs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from anndata import AnnData
from pandas.api.types import is_bool_dtype, is_numeric_dtype

from sysvi._core.checks import get_obs_column, is_missing, listing
from sysvi._core.errors import InputError

MAX_COLUMNS = 20  # that a report offers by itself
MAX_CATEGORIES = 60  # of a column that a report offers by itself


@dataclass(frozen=True)
class Column:
    """A column of n cells: categories, or numbers.

    Parameters
    ----------
    name
        Name of the column.
    values
        Codes of categories with -1 for missing values, or numbers with NaN, (n,).
    categories
        Names of the categories; None for numbers.
    """

    name: str
    values: np.ndarray
    categories: tuple[str, ...] | None


def choose_columns(obs: pd.DataFrame, first: Sequence[str], given: Sequence[str] | None) -> list[str]:
    """Names of the columns that colour the cells.

    Parameters
    ----------
    obs
        Columns of the cells.
    first
        Columns to begin with.
    given
        Columns that the user wants besides; None to choose them: those of numbers, and of two to 60 categories, up to
        20 columns in all.

    Raises
    ------
    InputError
        If `given` names a column that is missing.

    Examples
    --------
    >>> obs = pd.DataFrame({"system": ["a", "b"], "note": ["x", "x"], "age": [1.0, 2.0]})
    >>> choose_columns(obs, ["system"], None), choose_columns(obs, ["system"], [])
    (['system', 'age'], ['system'])
    """
    if given is not None:
        if missing := [name for name in given if name not in obs]:
            raise InputError(
                f"adata.obs has no column {listing(map(repr, missing))} (colors): choose some of {listing(obs)}."
            )
        return list(dict.fromkeys([*first, *given]))
    unique = obs.loc[:, ~obs.columns.duplicated(keep=False)]
    offered = [name for name in unique if name not in first and _can_colour(obs[name])]
    return [*dict.fromkeys(first), *map(str, offered)][: max(MAX_COLUMNS, len(first))]


def _can_colour(column: pd.Series) -> bool:
    """Whether the values of a column differ, and are numbers or few categories."""
    n = column.nunique()
    return n > 1 and (n <= MAX_CATEGORIES or (is_numeric_dtype(column) and not is_bool_dtype(column)))


def read_column(adata: AnnData, name: str, as_categories: bool) -> Column:
    """A column of ``adata.obs``; `as_categories` also if it has numbers.

    Examples
    --------
    >>> adata = AnnData(obs=pd.DataFrame({"sex": ["f", None, "m"]}, index=["cell1", "cell2", "cell3"]))
    >>> column = read_column(adata, "sex", True)
    >>> column.categories, column.values.tolist()
    (('f', 'm'), [0, -1, 1])
    """
    column = get_obs_column(adata, name, "colors")
    if not as_categories and is_numeric_dtype(column) and not is_bool_dtype(column):
        values = pd.to_numeric(column, errors="coerce").to_numpy(np.float32, na_value=np.nan)
        return Column(name, np.where(np.isfinite(values), values, np.nan), None)
    missing = is_missing(column)
    ordered = (
        column.cat.categories if isinstance(column.dtype, pd.CategoricalDtype) else sorted(column[~missing].unique())
    )
    texts = column.astype(str).where(~missing)
    present = set(texts.dropna())
    categories = [name for name in dict.fromkeys(map(str, ordered)) if name in present]
    return Column(name, pd.Categorical(texts, categories).codes.astype(np.int32), tuple(categories))
