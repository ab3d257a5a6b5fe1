"""Training's steps on a graphics card: recorded once, then replayed.

A step is some hundreds of short operations, which a card computes sooner than Python can start them. A CUDA graph
starts all at once. What differs from step to step lies in tables on the card: learning rates, weights and seeds of
dropout, written once; the order of the cells, once an epoch. A counter, which the step itself moves on, says which row
is meant; so Python only says "again". The generators on the card are told by the replay how far to go on.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Hashable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from sysvi.data.cells import Minibatch, minibatches, shuffled
from sysvi.model.objective import Losses, Weights
from sysvi.training.epochs import Stop
from sysvi.training.gradient import n_seeds
from sysvi.training.step import Stepper, learning_rate, loss_weights

TOLERANCE = 0.1  # by which a replayed step may differ from one that is not: a broken one differs by far more

# Recordings begin and end one at a time: torch's generators keep lists of them that threads must not change at once.
_recording = threading.Lock()

Task = Callable[[], object]
Recorder = Callable[[Task, torch.device, Sequence[torch.Generator]], Task]


class CannotRecordError(RuntimeError):
    """Steps cannot be recorded here, or their replay is not the same step."""


def cuda_graph(task: Task, device: torch.device, generators: Sequence[torch.Generator] = ()) -> Task:
    """Record what is done on a device, without doing it; what does it. Not on a device's default stream.

    Tensors that it reads must be kept: a recording holds those alone that were made in it.
    """
    states = [generator.clone_state() for generator in generators]
    with _recording, torch.cuda.device(device):
        graph = torch.cuda.CUDAGraph()
        for generator in generators:
            graph.register_generator_state(generator)
        # Not by torch.cuda.graph, which collects garbage and empties caches first: that takes longer than the rest.
        graph.capture_begin(capture_error_mode="thread_local")
        try:
            task()
        except RuntimeError:
            for generator, state in zip(generators, states, strict=True):
                generator.graphsafe_set_state(state)  # its own still counts as being recorded
            raise
        finally:
            graph.capture_end()
    return graph.replay


class _Kind(NamedTuple):
    """What makes one recording differ from another."""

    n_cells: int
    cycles: bool


class GraphedEpochs:
    """As `sysvi.training.epochs.PlainEpochs`, replayed.

    Parameters
    ----------
    stepper
        Takes the steps, by hand-written gradients; its `training` has a generator on the CPU for `seeds`.
    minibatch
        Makes the minibatch of some rows, on the device and without waiting for it.
    index
        Rows to train on, (n,), on the device.
    order
        Shuffles them at each epoch.
    generators
        All that a step draws from on the device.
    record
        How to record a step.

    Raises
    ------
    CannotRecordError
        If recording fails, or a replayed step differs from one taken operation by operation. Nothing has changed then.

    Attributes
    ----------
    step_seconds
        Of one replay, at most.
    """

    step_seconds = 0.0

    def __init__(
        self,
        stepper: Stepper,
        minibatch: Callable[[Tensor], Minibatch],
        index: Tensor,
        order: torch.Generator,
        generators: Sequence[torch.Generator],
        record: Recorder = cuda_graph,
    ):
        settings, device, seeds = stepper.settings, index.device, stepper.training.seeds
        assert settings.max_epochs is not None
        assert settings.batch_size is not None
        assert isinstance(seeds, torch.Generator)
        self.stepper, self.minibatch, self.index, self.order = stepper, minibatch, index.cpu(), order
        self.sizes = [len(rows) for rows in minibatches(index, settings.batch_size)]
        n_steps = settings.max_epochs * len(self.sizes)
        moments = [step / n_steps for step in range(n_steps)]
        sizes = itertools.cycle(self.sizes)
        self.kinds = [_Kind(next(sizes), settings.cycle_weight.value_at(moment) > 0) for moment in moments]
        self.step = 0  # of all

        restore = _restorer(stepper, (*generators, seeds))
        numbers = [[learning_rate(settings, moment), *loss_weights(settings, moment)] for moment in moments]
        drawn = torch.zeros(n_steps, n_seeds(stepper.objective.model, True), dtype=torch.int64)
        for row, kind in zip(drawn, self.kinds, strict=True):
            row[: n_seeds(stepper.objective.model, kind.cycles)].random_(generator=seeds)
        self.numbers = torch.tensor(numbers, device=device)  # learning rate and weights of each step
        self.seeds = drawn.to(device)  # of each step
        self.starts = torch.tensor([0, *itertools.accumulate(self.sizes)][:-1], device=device)  # of minibatches in rows
        self.places = torch.arange(max(self.sizes), device=device)  # in a minibatch
        self.rows = index.clone()  # of the cells, in the epoch's order
        self.at = torch.zeros(1, dtype=torch.int64, device=device)  # which step is next
        self.sums = torch.zeros(len(Losses._fields), device=device)  # of the loss terms, over the epoch's cells

        self.record, self.device = record, device
        self.replays: dict[Hashable, Task] = {}
        try:
            for kind, step in {kind: step for step, kind in reversed([*enumerate(self.kinds)])}.items():
                self.at.fill_(step)
                self.replays[kind] = record(self._task(kind), device, generators)
                self._check(kind, step, restore)
        except RuntimeError as error:
            restore()
            self.close()
            raise CannotRecordError(str(error).partition("\n")[0]) from error
        self.next_rows: Tensor | None = None

    def take(self, stop: Stop) -> tuple[Tensor, int]:
        """See `sysvi.training.epochs.Epochs`."""
        self.rows.copy_(self._shuffled() if self.next_rows is None else self.next_rows, non_blocking=True)
        self.at.fill_(self.step)
        self.sums.zero_()
        first = self.step
        for kind in self.kinds[first : first + len(self.sizes)]:
            self.replays[kind]()
            self.step += 1
            if stop():
                break
        if self.step < len(self.kinds):
            self.next_rows = self._shuffled()  # while the card computes
        return self.sums.clone(), self.step - first

    def again(self, look: Callable[[], Tensor]) -> Callable[[], Tensor]:
        """See `sysvi.training.epochs.Epochs`."""
        result = look()
        try:
            self.replays[look] = self.record(lambda: result.copy_(look()), self.device, ())
        except RuntimeError:
            return look

        def replayed() -> Tensor:
            self.replays[look]()
            return result.clone()

        return replayed

    def close(self) -> None:
        """See `sysvi.training.epochs.Epochs`."""
        with _recording:
            self.replays.clear()

    def _shuffled(self) -> Tensor:
        rows = shuffled(self.index, self.order)
        return rows.pin_memory() if self.rows.is_cuda else rows  # from there it is copied without waiting

    def _task(self, kind: _Kind) -> Task:
        """A step that takes all that changes from the tables."""

        def task() -> None:
            lr, *now = self.numbers[self.at][0].unbind()
            weights = Weights(*now) if kind.cycles else Weights(*now)._replace(cycle=0.0)
            training = self.stepper.training._replace(seeds=iter(self.seeds[self.at][0].unbind()))
            start = self.starts[self.at % len(self.sizes)]
            batch = self.minibatch(self.rows[start + self.places[: kind.n_cells]])
            self.sums.add_(self.stepper.update(batch, weights, lr, training), alpha=kind.n_cells)
            self.at += 1

        return task

    def _check(self, kind: _Kind, step: int, restore: Callable[[], None]) -> None:
        """Take a step either way from the same state, to which all returns."""
        parameters, settings = self.stepper.optimiser.parameters, self.stepper.settings

        def outcome(take: Callable[[], Tensor]) -> Tensor:
            """Loss terms, and how far the parameters went."""
            before = [p.detach().clone() for p in parameters]
            try:
                terms = take().clone()
                moved = [(p.detach() - b).norm() for p, b in zip(parameters, before, strict=True)]
            finally:
                restore()
            return torch.cat([terms, torch.stack(moved)])

        def replayed() -> Tensor:
            self.at.fill_(step)
            self.sums.zero_()
            self.replays[kind]()
            return self.sums / kind.n_cells

        def eager() -> Tensor:
            start, moment = int(self.starts[step % len(self.sizes)]), step / len(self.kinds)
            batch = self.minibatch(self.rows[start : start + kind.n_cells])
            training = self.stepper.training._replace(seeds=iter(self.seeds[step].unbind()))
            weights, lr = loss_weights(settings, moment), learning_rate(settings, moment)
            return self.stepper.update(batch, weights, lr, training)

        if not torch.allclose(outcome(replayed), outcome(eager), rtol=TOLERANCE, atol=1e-6):
            raise CannotRecordError("a replayed step differed from one taken operation by operation")
        start = time.perf_counter()
        outcome(replayed)[0].item()  # waits for the card
        self.step_seconds = time.perf_counter() - start


def _restorer(stepper: Stepper, sources: Sequence[torch.Generator]) -> Callable[[], None]:
    """What brings all that a step changes back to the state of now."""
    optimiser = stepper.optimiser
    parts = [*stepper.objective.state_dict().values(), *optimiser.first, *optimiser.second, optimiser.n_steps]
    kept, states = [part.clone() for part in parts], [source.get_state() for source in sources]

    def restore() -> None:
        for part, old in zip(parts, kept, strict=True):
            part.copy_(old)
        for source, state in zip(sources, states, strict=True):
            source.set_state(state)
        for p in optimiser.parameters:
            p.grad = None

    return restore
