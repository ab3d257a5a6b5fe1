"""Early stopping: the weights of the best epoch."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass

from torch import Tensor


@dataclass
class EarlyStopping:
    """Keeps the weights of the epoch with the lowest loss, and counts the epochs since.

    Parameters
    ----------
    patience
        Epochs without improvement after which training stops.
    best_loss, best_weights
        Lowest loss so far, and the weights of its epoch by name; None before the first update.
    n_epochs_since_best
        Epochs since then.

    Examples
    --------
    >>> stopping = EarlyStopping(patience=2)
    >>> for loss in (3.0, 4.0, 5.0):
    ...     stopping.update(loss, {})
    >>> stopping.best_loss, stopping.is_reached
    (3.0, True)
    """

    patience: int
    best_loss: float = math.inf
    best_weights: dict[str, Tensor] | None = None
    n_epochs_since_best: int = 0

    def update(self, loss: float, weights: dict[str, Tensor]) -> None:
        """Take the loss on held-out cells after an epoch, and copy the weights if it is the lowest so far."""
        if loss < self.best_loss:
            self.best_loss, self.best_weights, self.n_epochs_since_best = loss, copy.deepcopy(weights), 0
        else:
            self.n_epochs_since_best += 1

    @property
    def is_reached(self) -> bool:
        """Whether training is to stop."""
        return self.n_epochs_since_best >= self.patience
