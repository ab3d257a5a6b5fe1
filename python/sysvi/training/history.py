"""The loss terms of a training in short, for records that travel with the cells."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

MAX_EPOCHS = 200  # that a record keeps; of a longer training, as many at equal distances
DIGITS = 5  # significant ones


def summarise_losses(history: Mapping[str, Sequence[float]]) -> dict[str, list[float | None]]:
    """Loss terms of at most 200 epochs, with five significant digits.

    Parameters
    ----------
    history
        Loss terms of each epoch, by name: ``"total_train"``, ``"kl_validation"``, ...

    Returns
    -------
    dict
        ``"epoch"``, counted from 1, and the terms by their names; None for values that are not finite.

    Examples
    --------
    >>> summarise_losses({"kl_train": [2.0, 1.2345678]})
    {'epoch': [1, 2], 'kl_train': [2.0, 1.2346]}
    >>> len(summarise_losses({"kl_train": [0.0] * 1000})["epoch"])
    200
    """
    n = max(map(len, history.values()), default=0)
    kept = np.unique(np.linspace(0, n - 1, min(n, MAX_EPOCHS)).round().astype(int)).tolist()

    def shorten(value: float | None) -> float | None:
        return float(f"{value:.{DIGITS}g}") if value is not None and math.isfinite(value) else None

    terms = {
        name: [shorten(values[i]) for i in kept] for name, values in history.items() if len(values) == n
    }  # a term that was held out in some trainings only has no value for each epoch
    return {"epoch": [i + 1 for i in kept], **terms}
