"""The result of a metric, the statement of how it is defined, and the checks of its inputs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from sysvi._core.checks import is_missing
from sysvi._core.errors import InputError

MAX_COORDINATE = 1e15  # of an embedding: squared distances in float32 stay finite, and in float64 precise

MetricFunction = TypeVar("MetricFunction", bound=Callable[..., Any])


@dataclass(frozen=True)
class Score:
    """Result of a metric: its value and, where it has them, the values by label and by cell.

    Parameters
    ----------
    value
        Aggregate over the cells; NaN where the metric is not defined for them (see the metric's docstring).
    per_label
        Value of each label that could be measured, indexed by label in sorted order; None if the metric has none.
    per_cell
        Value of each cell, (n,); NaN for cells that could not be measured. None if the metric has none.

    Examples
    --------
    >>> float(Score(0.5))
    0.5
    """

    value: float
    per_label: pd.Series | None = None
    per_cell: np.ndarray | None = None

    def __float__(self) -> float:
        return float(self.value)


def convention(text: str) -> Callable[[MetricFunction], MetricFunction]:
    """Decorate a metric with one line that defines its number, for the column ``convention`` of an evaluation.

    Values of the same name differ between tools, so that a number means little without it.

    Examples
    --------
    >>> @convention("share of cells of the first label")
    ... def share(label):
    ...     return Score(float(np.mean(np.asarray(label) == label[0])))
    >>> share.convention
    'share of cells of the first label'
    """

    def add_convention(function: MetricFunction) -> MetricFunction:
        function.convention = text  # type: ignore[attr-defined]
        return function

    return add_convention


def encode_categories(values: ArrayLike, name: str, n: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Represent categories by integers.

    Parameters
    ----------
    values
        Category of each cell: strings, numbers, or a pandas column.
    name
        Name of the argument for error messages, such as ``"label"``.
    n
        Number of cells that `values` must have; None: any.

    Returns
    -------
    codes
        (n,) int64, position of each cell's category in `names`.
    names
        Categories that occur, as strings in sorted order.

    Raises
    ------
    InputError
        If the length is not n, or a value is missing (`is_missing`).

    Examples
    --------
    >>> encode_categories(["beta", "alpha", "beta"], "label", 3)
    (array([1, 0, 1]), array(['alpha', 'beta'], dtype=object))
    """
    array = np.asarray(values, dtype=object)
    n = len(array) if n is None and array.ndim == 1 else n
    if array.shape != (n,):
        shape = f"{len(array)} values" if array.ndim == 1 else f"the shape {array.shape}"
        if n is None:
            raise InputError(f"{name} has {shape}: give a list with one value per cell.")
        raise InputError(f"{name} has {shape} for {n} cells: give one value per cell.")
    column = pd.Series(array)
    missing = int(is_missing(column).sum())
    if missing:
        raise InputError(f"{name} is missing for {missing} of {n} cells: remove these cells or fill in the values.")
    names, codes = np.unique(column.astype(str).to_numpy(dtype=object), return_inverse=True)
    return codes.astype(np.int64), names


def check_embedding(embedding: ArrayLike) -> np.ndarray:
    """Convert an embedding to a float array of shape (n, dimensions) and check it.

    Raises
    ------
    InputError
        If it is not a matrix of cells x dimensions, has no cells, or holds a value that is not a real, finite number,
        or is too large for distances.

    Examples
    --------
    >>> check_embedding([[0, 1], [2, 3]]).shape
    (2, 2)
    """
    points = np.asarray(embedding)
    if points.dtype.kind != "f":
        try:
            points = points.astype(np.float64, casting="same_kind" if points.dtype.kind == "c" else "unsafe")
        except (TypeError, ValueError):
            raise InputError(f"An embedding must hold real numbers; this one is of type {points.dtype}.") from None
    if points.ndim != 2 or 0 in points.shape:
        raise InputError(
            f"An embedding must be a matrix of cells x dimensions that is not empty; this one has shape {points.shape}."
        )
    bad = int((~np.isfinite(points)).any(1).sum())
    if bad:
        raise InputError(f"The embedding of {bad} of {len(points)} cells is not finite: repair or remove these cells.")
    largest = np.abs(points).max()
    if largest > MAX_COORDINATE:
        raise InputError(f"The embedding has values up to {largest:g}, too large for distances: scale or repair it.")
    return points
