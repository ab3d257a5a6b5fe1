"""What every metric returns, and how it reads labels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from sysvi._core.errors import InputError


@dataclass(frozen=True)
class Score:
    """A metric's value, with the parts it was made from where there are any.

    Parameters
    ----------
    value
        The aggregate; NaN where the metric is not defined on these cells (its docstring says when).
    per_label
        A value for each label it could be measured on, in sorted order.
    per_cell
        A value for each cell, (n,); NaN for cells it could not be measured on.

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


def encode(values: ArrayLike, what: str, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Categories as integers.

    Parameters
    ----------
    values
        A category for each cell: strings, numbers, or a pandas column.
    what
        What they are, for the message, such as ``"label"``.
    n
        Number of cells there must be.

    Returns
    -------
    codes
        (n,) int64, each an index of `names`.
    names
        The categories that occur, as strings in sorted order.

    Raises
    ------
    InputError
        If the length is not n, or a value is missing.

    Examples
    --------
    >>> encode(["beta", "alpha", "beta"], "label", 3)
    (array([1, 0, 1]), array(['alpha', 'beta'], dtype=object))
    """
    array = np.asarray(values, dtype=object)
    if array.shape != (n,):
        shape = f"{len(array)} values" if array.ndim == 1 else f"the shape {array.shape}"
        raise InputError(f"{what} has {shape} for {n} cells: give one for each cell.")
    column = pd.Series(array)
    missing = int(column.isna().sum())
    if missing:
        raise InputError(f"{what} is missing for {missing} of {n} cells: leave these cells out or fill it in.")
    names, codes = np.unique(column.astype(str).to_numpy(dtype=object), return_inverse=True)
    return codes.astype(np.int64), names


def check_embedding(embedding: ArrayLike) -> np.ndarray:
    """Coordinates as a float array of shape (n, dimensions).

    Raises
    ------
    InputError
        If it is not cells x dimensions, has no cells, or holds a value that is not finite.

    Examples
    --------
    >>> check_embedding([[0, 1], [2, 3]]).shape
    (2, 2)
    """
    points = np.asarray(embedding)
    if points.dtype.kind != "f":
        points = points.astype(np.float64)
    if points.ndim != 2 or 0 in points.shape:
        raise InputError(f"An embedding is cells x dimensions; this has the shape {points.shape}.")
    bad = int((~np.isfinite(points)).any(1).sum())
    if bad:
        raise InputError(
            f"The embedding of {bad} of {len(points)} cells is not finite: repair or leave these cells out."
        )
    return points
