"""Training's steps on a graphics card: recorded once, then replayed.

A step is some hundreds of short operations, which a card computes sooner than Python can start them. A CUDA graph
starts all at once. What differs from step to step lies in tables on the card, written once an epoch: the order of the
cells, the learning rates and weights, the seeds of dropout. A counter, which the step itself moves on, says which row
is meant; so Python only says "again". The generators on the card are told by the replay how far to go on.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from itertools import accumulate, product
from typing import NamedTuple

import torch
from torch import Tensor

from sysvi.cells import Minibatch, minibatches, shuffled
from sysvi.epochs import Stop
from sysvi.gradient import n_seeds
from sysvi.objective import Losses, Weights
from sysvi.step import Stepper, learning_rate, weights_at

TOLERANCE = 0.1  # by which a replayed step may differ from one that is not: a broken one differs by far more

_recording = threading.Lock()  # what waits for the whole card, as the start of a recording does, ends one under way

Recorder = Callable[[Callable[[], None], Sequence[torch.Generator]], Callable[[], None]]


class CannotRecordError(RuntimeError):
    """Steps cannot be recorded here, or their replay is not the same step."""


def cuda_graph(step: Callable[[], None], generators: Sequence[torch.Generator]) -> Callable[[], None]:
    """Record a step, without taking it, on the device of the generators; what takes it."""
    device = generators[0].device
    states = [generator.clone_state() for generator in generators]
    with _recording, torch.cuda.device(device):  # torch's own stream for recording is of the device that first recorded
        stream, graph = torch.cuda.Stream(device), torch.cuda.CUDAGraph()
        for generator in generators:
            graph.register_generator_state(generator)
        try:
            with torch.cuda.stream(stream), torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
                step()
        except RuntimeError:
            for generator, state in zip(generators, states, strict=True):
                generator.graphsafe_set_state(state)  # its own still counts as being recorded
            raise
    return graph.replay


class _Kind(NamedTuple):
    """What makes one recording differ from another."""

    n_cells: int
    cycles: bool


class GraphedEpochs:
    """As `sysvi.epochs.PlainEpochs`, replayed.

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
        settings, device = stepper.settings, index.device
        assert settings.max_epochs is not None
        assert settings.batch_size is not None
        assert isinstance(stepper.training.seeds, torch.Generator)
        self.stepper, self.minibatch, self.index, self.order = stepper, minibatch, index, order
        self.seed_source = stepper.training.seeds
        self.sizes = [len(rows) for rows in minibatches(index, settings.batch_size)]
        self.step, self.n_steps = 0, settings.max_epochs * len(self.sizes)

        n = len(self.sizes)
        self.at = torch.zeros(1, dtype=torch.int64, device=device)  # which step of the epoch is next
        self.starts = torch.tensor([0, *accumulate(self.sizes)][:-1], device=device)  # (n,) in the rows
        self.rows = index.clone()  # of the cells, in the epoch's order
        self.numbers = torch.zeros(n, 1 + len(Weights._fields), device=device)  # learning rate and weights
        self.seeds = torch.zeros(n, n_seeds(stepper.objective.model, True), dtype=torch.int64, device=device)
        self.sums = torch.zeros(len(Losses._fields), device=device)  # of the loss terms, over the epoch's cells

        restore = _restorer(stepper, (*generators, self.seed_source))
        moments = {self._cycles(progress): progress for progress in (0.0, 1.0)}
        places = {size: i for i, size in enumerate(self.sizes)}
        self.replays: dict[_Kind, Callable[[], None]] = {}
        try:
            for (size, place), (cycles, progress) in product(places.items(), moments.items()):
                kind = _Kind(size, cycles)
                self.replays[kind] = record(self._step(kind), generators)
                self._check(kind, place, progress, restore)
        except RuntimeError as error:
            restore()
            raise CannotRecordError(str(error).partition("\n")[0]) from error

    def take(self, stop: Stop) -> tuple[Tensor, int]:
        """See `sysvi.epochs.Epochs`."""
        moments = [(self.step + i) / self.n_steps for i in range(len(self.sizes))]
        self._write(shuffled(self.index, self.order), moments)
        taken = 0
        for size, progress in zip(self.sizes, moments, strict=True):
            self.replays[_Kind(size, self._cycles(progress))]()
            taken += 1
            if stop():
                break
        self.step += taken
        return self.sums.clone(), taken

    def _cycles(self, progress: float) -> bool:
        return self.stepper.settings.cycle_weight.at(progress) > 0

    def _write(self, rows: Tensor, moments: Sequence[float]) -> None:
        """The tables of an epoch whose steps are at these moments of training."""
        settings = self.stepper.settings
        numbers = torch.tensor([[learning_rate(settings, at), *weights_at(settings, at)] for at in moments])
        seeds = torch.zeros(self.seeds.shape, dtype=torch.int64)
        for row, at in zip(seeds, moments, strict=True):
            row[: n_seeds(self.stepper.objective.model, self._cycles(at))].random_(generator=self.seed_source)
        for values, place in ((rows, self.rows), (numbers, self.numbers), (seeds, self.seeds)):
            # Without waiting for the card, which may be many steps behind.
            place.copy_(values.pin_memory() if place.is_cuda and not values.is_cuda else values, non_blocking=True)
        self.at.zero_()
        self.sums.zero_()

    def _step(self, kind: _Kind) -> Callable[[], None]:
        """A step that takes all that changes from the tables."""
        places = torch.arange(kind.n_cells, device=self.at.device)

        def step() -> None:
            lr, *now = self.numbers[self.at][0].unbind()
            weights = Weights(*now) if kind.cycles else Weights(*now)._replace(cycle=0.0)
            training = self.stepper.training._replace(seeds=iter(self.seeds[self.at][0].unbind()))
            batch = self.minibatch(self.rows[self.starts[self.at] + places])
            self.sums.add_(self.stepper.update(batch, weights, lr, training), alpha=kind.n_cells)
            self.at += 1

        return step

    def _check(self, kind: _Kind, place: int, progress: float, restore: Callable[[], None]) -> None:
        """Take a step either way from the same state, to which all returns."""
        self._write(self.index, [progress] * len(self.sizes))
        parameters = self.stepper.optimiser.parameters

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
            self.at.fill_(place)
            self.replays[kind]()
            return self.sums / kind.n_cells

        def eager() -> Tensor:
            settings, training = self.stepper.settings, self.stepper.training
            rows = self.index[int(self.starts[place]) :][: kind.n_cells]
            weights, lr = weights_at(settings, progress), learning_rate(settings, progress)
            seeds = iter(self.seeds[place].unbind())
            return self.stepper.update(self.minibatch(rows), weights, lr, training._replace(seeds=seeds))

        ours, expected = outcome(replayed), outcome(eager)
        if not torch.allclose(ours, expected, rtol=TOLERANCE, atol=1e-6):
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
