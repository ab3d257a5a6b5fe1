"""Arguments of public functions: their types, checked by annotations in one place, and choices of rows and genes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from operator import index
from os import PathLike
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import numpy as np
import pandas as pd
from anndata import AnnData

from sysvi._core.checks import check_anndata, listing
from sysvi._core.errors import InputError
from sysvi._core.settings import flag


def check_types(function: Callable[..., Any], **arguments: Any) -> None:
    """Check arguments of a function by the types that its annotations give.

    Parameters
    ----------
    function
        The function.
    **arguments
        Arguments to check, by name. Those that have a check of their own, of their range for example, need none here.

    Raises
    ------
    InputError
        If an argument is of another type; the message names it and says what it must be.

    Examples
    --------
    >>> def integrate(layer: str | None, seeds: Sequence[int]) -> None:
    ...     check_types(integrate, layer=layer, seeds=seeds)
    >>> integrate(None, [1, 2])
    >>> integrate(None, 3)
    Traceback (most recent call last):
        ...
    sysvi._core.errors.InputError: seeds is 3; it must be a list of whole numbers.
    """
    hints = _hints(function)
    for name, value in arguments.items():
        hint = hints.get(name, Any)  # a wrapper of a function may have no annotations
        if hint is AnnData:
            check_anndata(value)
        elif hint is bool:
            flag(name, value)
        elif isinstance(value, str) and not _fits(value, hint) and _fits([value], hint):
            raise InputError(f"{name} is the string {value!r}; it must be {_describe(hint)}: [{value!r}].")
        elif not _fits(value, hint):
            is_short = isinstance(value, str | int | float | NoneType)
            shown = repr(value) if is_short else f"of type {type(value).__name__}"
            raise InputError(f"{name} is {shown}; it must be {_describe(hint)}.")


@cache
def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    """Annotations of a function."""
    return get_type_hints(function)


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value is of an annotated type."""
    kind, parts = get_origin(hint) or hint, get_args(hint)
    if kind is Any:
        return True
    if kind in (Union, UnionType):
        return any(_fits(value, part) for part in parts)
    if kind is Literal:
        return isinstance(value, str) and value in parts
    if kind is Callable:
        return callable(value)
    if kind is bool:
        return isinstance(value, np.bool_) or (_is_whole(value) and index(value) in (0, 1))
    if kind is int:
        return _is_whole(value)
    if kind is float:
        return isinstance(value, int | float | np.integer | np.floating)
    if kind in (Sequence, Iterable):
        is_list = isinstance(value, Iterable) and not isinstance(value, str | bytes | Mapping | AnnData)
        return is_list and all(_fits(item, parts[0]) for item in (value if isinstance(value, Sequence) else ()))
    if kind is tuple:
        fits = isinstance(value, tuple | list) and len(value) == len(parts)
        return fits and all(_fits(item, part) for item, part in zip(value, parts, strict=True))
    return isinstance(value, kind)


def _is_whole(value: Any) -> bool:
    try:
        index(value)
    except TypeError:
        return False
    return True


# Names of types in messages, and of several values of a type.
NAMES = {
    str: ("a string", "strings"),
    int: ("a whole number", "whole numbers"),
    float: ("a number", "numbers"),
    bool: ("True or False", "True or False"),
    NoneType: ("None", "None"),
    Callable: ("a function", "functions"),
    PathLike: ("a path", "paths"),
}


def _describe(hint: Any, many: bool = False) -> str:
    """An annotation in words."""
    kind, parts = get_origin(hint) or hint, get_args(hint)
    if kind in (Union, UnionType):
        return " or ".join(dict.fromkeys(_describe(part, many) for part in parts))
    if kind is Literal:
        return f"one of {', '.join(map(repr, parts))}"
    if kind in (Sequence, Iterable):
        return f"a list of {_describe(parts[0], many=True)}"
    if kind is tuple:
        return f"{len(parts)} {_describe(parts[0], many=True)}"
    if isinstance(kind, type) and issubclass(kind, PathLike):
        kind = PathLike
    if kind in NAMES:
        return NAMES[kind][many]
    if isinstance(kind, type) and issubclass(kind, Mapping):
        return "a dictionary"
    return f"an object of the class {kind.__name__}"


def row_numbers(indices: Sequence[int] | np.ndarray | None, n_cells: int, argument: str = "indices") -> np.ndarray:
    """Turn `indices` into row numbers: None stands for all rows, a mask for its rows, -1 for the last row."""
    if indices is None:
        return np.arange(n_cells)
    if not isinstance(indices, Iterable):
        raise InputError(f"{argument} is of type {type(indices).__name__}; give a list of rows or a mask.")
    rows = np.asarray(indices)
    if rows.dtype == bool:
        if rows.shape != (n_cells,):
            raise InputError(f"{argument} is a mask of shape {rows.shape}, but there are {n_cells} cells.")
        return np.flatnonzero(rows)
    if rows.size and not np.issubdtype(rows.dtype, np.integer):
        raise InputError(f"{argument} are of type {rows.dtype}; they must be whole numbers or a mask.")
    if rows.ndim != 1:
        raise InputError(f"{argument} are of shape {rows.shape}; give a list of rows, [3] for one.")
    rows = rows.astype(np.int64)
    if rows.size and not -n_cells <= rows.min() <= rows.max() < n_cells:
        raise InputError(f"{argument} reach from {rows.min()} to {rows.max()}, but there are {n_cells} cells.")
    return np.where(rows < 0, rows + n_cells, rows)


def gene_positions(known: Sequence[str], names: Sequence[str] | None, argument: str) -> np.ndarray:
    """Positions of genes of a model, in the order in which they are named; all for None.

    Raises
    ------
    InputError
        If there are none, one is named twice, or the model lacks one.
    """
    if names is None:
        return np.arange(len(known))
    names = list(names)
    if not names:
        raise InputError(f"{argument} is empty: name some of the model's genes, or leave it out for all of them.")
    if len(set(names)) < len(names):
        twice = next(name for i, name in enumerate(names) if name in names[:i])
        raise InputError(f"{argument} names gene {twice!r} twice: name each gene once.")
    positions = pd.Index(known).get_indexer(pd.Index(names))
    if missing := [name for name, i in zip(names, positions, strict=True) if i < 0]:
        raise InputError(
            f"The model lacks {len(missing)} of the {len(names)} genes that were asked for ({listing(missing, 5)}): it "
            f"decodes only the {len(known)} genes it was trained on, such as {listing(known, 3)}."
        )
    return positions
