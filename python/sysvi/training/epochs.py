"""Training's epochs, step by step."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from sysvi.data.cells import Minibatch, minibatches, n_minibatches
from sysvi.model.objective import Losses
from sysvi.training.step import Stepper

Stop = Callable[[], bool]


class Epochs(Protocol):
    """Goes through the training cells again and again."""

    def take(self, stop: Stop) -> tuple[Tensor, int]:
        """One epoch, or the steps of it until `stop` says so: sums of the loss terms over cells, and steps taken."""
        ...

    def again(self, look: Callable[[], Tensor]) -> Callable[[], Tensor]:
        """The fastest way to call again and again what changes nothing, draws nothing, and gives a tensor."""
        ...

    def close(self) -> None:
        """There will be no more epochs."""
        ...


class PlainEpochs:
    """Steps taken one by one; the next minibatch is made prefetch.

    Parameters
    ----------
    stepper
        Takes the steps.
    minibatch
        Makes the minibatch of some rows.
    index
        Rows to train on, on the device of the cells.
    order
        Shuffles them at each epoch.
    """

    def __init__(
        self, stepper: Stepper, minibatch: Callable[[Tensor], Minibatch], index: Tensor, order: torch.Generator
    ):
        settings = stepper.settings
        assert settings.max_epochs is not None
        assert settings.batch_size is not None
        self.stepper, self.device = stepper, index.device
        self.steps_per_epoch = n_minibatches(len(index), settings.batch_size)
        self.n_steps, self.step = settings.max_epochs * self.steps_per_epoch, 0
        rows = (minibatches(index, settings.batch_size, order) for _ in range(settings.max_epochs))
        self.batches = map(minibatch, itertools.chain.from_iterable(rows))
        self.batch: Minibatch | None = None  # the next one

    def take(self, stop: Stop) -> tuple[Tensor, int]:
        """See `Epochs`."""
        sums, first = torch.zeros(len(Losses._fields), device=self.device), self.step
        if self.batch is None:
            self._make_next()
        for _ in range(self.steps_per_epoch):
            batch = self.batch
            assert batch is not None
            sums += len(batch) * self.stepper.step(batch, self.step / self.n_steps, self._make_next)
            self.step += 1
            if stop():
                break
        return sums, self.step - first

    def _make_next(self) -> None:
        self.batch = next(self.batches, None)

    def again(self, look: Callable[[], Tensor]) -> Callable[[], Tensor]:
        """See `Epochs`."""
        return look

    def close(self) -> None:
        """See `Epochs`."""
