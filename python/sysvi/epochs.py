"""Training's epochs, step by step."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Generator, Iterator
from typing import Protocol

import torch
from torch import Tensor

from sysvi.cells import Minibatch, minibatches, n_minibatches, one_ahead
from sysvi.objective import Losses
from sysvi.step import Stepper

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
    """Steps taken one by one; the next minibatch is made meanwhile.

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
        ahead = one_ahead if index.device.type == "cpu" else map  # a card is told ahead anyway, and by one thread
        self.batches: Iterator[Minibatch] = ahead(minibatch, itertools.chain.from_iterable(rows))

    def take(self, stop: Stop) -> tuple[Tensor, int]:
        """See `Epochs`."""
        sums, first = torch.zeros(len(Losses._fields), device=self.device), self.step
        for batch in itertools.islice(self.batches, self.steps_per_epoch):
            sums += len(batch) * self.stepper.step(batch, self.step / self.n_steps)
            self.step += 1
            if stop():
                break
        return sums, self.step - first

    def again(self, look: Callable[[], Tensor]) -> Callable[[], Tensor]:
        """See `Epochs`."""
        return look

    def close(self) -> None:
        """See `Epochs`."""
        if isinstance(self.batches, Generator):
            self.batches.close()
