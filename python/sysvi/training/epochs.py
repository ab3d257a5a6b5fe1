"""Epochs of training, taken step by step."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from sysvi.data.cells import Cells, Minibatch, n_minibatches
from sysvi.model.objective import Losses
from sysvi.training.step import Stepper

Stop = Callable[[], bool]


class Epochs(Protocol):
    """Runs the epochs of a training, one call each.

    Attributes
    ----------
    stepper
        Takes the steps.
    steps_per_epoch
        Number of minibatches of an epoch.
    n_done
        Number of steps taken since the beginning of the training.
    sums
        Loss terms of the present epoch, summed over its cells so far, (6,), as in `Losses`.
    """

    stepper: Stepper
    steps_per_epoch: int
    n_done: int
    sums: Tensor

    def run_epoch(self, stop: Stop) -> Tensor:
        """Run the next epoch, or its steps until `stop` returns True; a further call takes the rest of its steps.

        Returns
        -------
        torch.Tensor
            Loss terms summed over the cells of the epoch so far, (6,), as in `Losses`.
        """
        ...

    def generator_states(self) -> dict[str, Tensor]:
        """States of the random generators from which `go_on` draws what the next step needs, by name.

        That of the order of the cells is its state before the epoch.
        """
        ...

    def go_on(self, n_done: int, states: Mapping[str, Tensor]) -> None:
        """Let the next step be that after `n_done` steps, with these states; `sums` are restored already."""
        ...

    def capture(self, function: Callable[[], Tensor]) -> Callable[[], Tensor]:
        """The fastest way to call repeatedly a function without side effects or random draws that returns a tensor."""
        ...

    def close(self) -> None:
        """Release what the epochs hold; there will be no more."""
        ...


class Generators(NamedTuple):
    """The random generators of a training.

    Attributes
    ----------
    order
        Shuffles the cells at each epoch; on the CPU.
    swap
        Draws the systems and covariates of the cycle, when a minibatch is made; on the device.
    noise
        Draws the samples of z; on the device.
    dropout
        Draws the seeds of dropout; on the CPU.
    """

    order: torch.Generator
    swap: torch.Generator
    noise: torch.Generator
    dropout: torch.Generator

    def states(self) -> dict[str, Tensor]:
        """The present states, by name."""
        return {name: generator.get_state() for name, generator in self._asdict().items()}

    def restore(self, states: Mapping[str, Tensor]) -> None:
        """Set the states that are given, by name."""
        for name, state in states.items():
            getattr(self, name).set_state(state)


class PlainEpochs:
    """Steps started one by one from Python; the next minibatch is made during the step before.

    So `order` and `swap` are ahead of the steps. Their states from which the next step could be made again are kept.

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
    generators
        The generators that make the minibatches and those of the stepper.
    """

    def __init__(
        self,
        stepper: Stepper,
        make_minibatch: Callable[[Cells, Tensor], Minibatch],
        cells: Cells,
        rows: Tensor,
        generators: Generators,
    ):
        settings = stepper.settings
        assert settings.max_epochs is not None
        assert settings.batch_size is not None
        self.stepper, self.make_minibatch, self.cells, self.rows = stepper, make_minibatch, cells, rows
        self.generators, self.max_epochs, self.batch_size = generators, settings.max_epochs, settings.batch_size
        self.steps_per_epoch = n_minibatches(len(rows), settings.batch_size)
        self.n_done = 0
        self.sums = torch.zeros(len(Losses._fields), device=rows.device)
        self._start_batches()

    def run_epoch(self, stop: Stop) -> Tensor:
        """See `Epochs`."""
        n_steps, of_epoch = self.max_epochs * self.steps_per_epoch, self.n_done % self.steps_per_epoch
        if of_epoch == 0:
            self.sums.zero_()
        if self.next_batch is None:
            self._make_next_batch()
        for _ in range(of_epoch, self.steps_per_epoch):
            batch = self.next_batch
            assert batch is not None
            self.sums += len(batch) * self.stepper.step(batch, self.n_done / n_steps, self._make_next_batch)
            self.n_done += 1
            if stop():
                break
        return self.sums.clone()

    def generator_states(self) -> dict[str, Tensor]:
        """See `Epochs`."""
        epoch = self.n_done // self.steps_per_epoch
        before = {"order": self.order_states.get(epoch), "swap": self.swap_state}
        return self.generators.states() | {name: state for name, state in before.items() if state is not None}

    def go_on(self, n_done: int, states: Mapping[str, Tensor]) -> None:
        """See `Epochs`."""
        self.generators.restore(states)
        self.n_done = n_done
        self._start_batches()

    def _start_batches(self) -> None:
        """Make minibatches from the step `n_done` on; the first one is made when it is needed."""
        self.order_states: dict[int, Tensor] = {}  # before each of the epochs that have begun, by epoch
        self.swap_state: Tensor | None = None  # before the next minibatch was made
        self.next_batch: Minibatch | None = None
        groups = self.cells.load(self._groups())
        self.batches = (self.make_minibatch(loaded, batch) for loaded, group in groups for batch in group)

    def _groups(self) -> Iterator[Iterable[Tensor]]:
        """Rows of the minibatches of all remaining steps, in groups as `Cells.load` takes them."""
        first, n_skipped = divmod(self.n_done, self.steps_per_epoch)
        for epoch in range(first, self.max_epochs):
            self.order_states.pop(epoch - 3, None)  # a group ahead of the step is less than two epochs ahead
            self.order_states[epoch] = self.generators.order.get_state()
            for group in self.cells.groups(self.rows, self.batch_size, self.generators.order):
                batches = list(group)
                n_left_out = min(n_skipped, len(batches))
                n_skipped -= n_left_out
                if n_left_out < len(batches):
                    yield batches[n_left_out:]

    def _make_next_batch(self) -> None:
        self.swap_state = self.generators.swap.get_state()
        self.next_batch = next(self.batches, None)

    def capture(self, function: Callable[[], Tensor]) -> Callable[[], Tensor]:
        """See `Epochs`."""
        return function

    def close(self) -> None:
        """See `Epochs`."""
        self.batches.close()  # also ends the reading of cells on disk
