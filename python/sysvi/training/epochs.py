"""Epochs of training, taken step by step."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from sysvi.data.cells import Cells, Minibatch, n_minibatches
from sysvi.model.objective import Losses
from sysvi.training.step import Stepper

Stop = Callable[[], bool]


class Epochs(Protocol):
    """Runs the epochs of a training, one call each."""

    def run_epoch(self, stop: Stop) -> tuple[Tensor, int]:
        """Run the next epoch, or its steps until `stop` returns True.

        Returns
        -------
        sums, n_steps
            Loss terms summed over the cells, (6,), as in `Losses`; and the number of steps taken.
        """
        ...

    def capture(self, function: Callable[[], Tensor]) -> Callable[[], Tensor]:
        """The fastest way to call repeatedly a function without side effects or random draws that returns a tensor."""
        ...

    def close(self) -> None:
        """Release what the epochs hold; there will be no more."""
        ...


class PlainEpochs:
    """Steps started one by one from Python; the next minibatch is made during the step before.

    Parameters
    ----------
    stepper
        Takes the steps.
    make_minibatch
        Makes the minibatch of some rows of the cells.
    cells
        The cells, in memory or on disk.
    rows
        Rows to train on, on the device of the cells.
    order
        Generator that shuffles the rows at each epoch.
    """

    def __init__(
        self,
        stepper: Stepper,
        make_minibatch: Callable[[Cells, Tensor], Minibatch],
        cells: Cells,
        rows: Tensor,
        order: torch.Generator,
    ):
        settings = stepper.settings
        assert settings.max_epochs is not None
        assert settings.batch_size is not None
        self.stepper, self.device = stepper, rows.device
        self.steps_per_epoch = n_minibatches(len(rows), settings.batch_size)
        self.n_steps, self.n_done = settings.max_epochs * self.steps_per_epoch, 0
        epochs = (cells.groups(rows, settings.batch_size, order) for _ in range(settings.max_epochs))
        groups = cells.load(itertools.chain.from_iterable(epochs))
        self.batches = (make_minibatch(loaded, batch) for loaded, group in groups for batch in group)
        self.next_batch: Minibatch | None = None

    def run_epoch(self, stop: Stop) -> tuple[Tensor, int]:
        """See `Epochs`."""
        sums, first = torch.zeros(len(Losses._fields), device=self.device), self.n_done
        if self.next_batch is None:
            self._make_next_batch()
        for _ in range(self.steps_per_epoch):
            batch = self.next_batch
            assert batch is not None
            sums += len(batch) * self.stepper.step(batch, self.n_done / self.n_steps, self._make_next_batch)
            self.n_done += 1
            if stop():
                break
        return sums, self.n_done - first

    def _make_next_batch(self) -> None:
        self.next_batch = next(self.batches, None)

    def capture(self, function: Callable[[], Tensor]) -> Callable[[], Tensor]:
        """See `Epochs`."""
        return function

    def close(self) -> None:
        """See `Epochs`."""
        self.batches.close()  # also ends the reading of cells on disk
