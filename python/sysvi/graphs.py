"""Training's steps on a graphics card: recorded once, then replayed.

A step is some hundreds of short operations, which a card computes sooner than Python can start them. A CUDA graph
starts all at once. What differs from step to step lies in tensors that keep their place: the rows of the cells, the
learning rate and the weights, the seeds of dropout. The generators on the card are told by the replay how far to go on.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from itertools import product
from typing import NamedTuple

import torch
from torch import Tensor

from sysvi.adam import Adam
from sysvi.cells import Minibatch
from sysvi.networks import Layer, Training
from sysvi.objective import Objective, Weights
from sysvi.settings import TrainSettings
from sysvi.step import learning_rate, update, weights_at

TOLERANCE = 0.1  # by which a replayed step may differ from one that is not: a broken one differs by far more

_recording = threading.Lock()  # what waits for the whole card, as the start of a recording does, ends one under way

Step = Callable[[], Tensor]  # gives the loss terms
Recorder = Callable[[Step, Sequence[torch.Generator]], Step]


class CannotRecordError(RuntimeError):
    """Steps cannot be recorded here, or their replay is not the same step."""


class _Recorded(NamedTuple):
    rows: Tensor  # (B,) of the cells, to be filled in
    n_seeds: int
    replay: Step


def cuda_graph(step: Step, generators: Sequence[torch.Generator]) -> Step:
    """Record a step, without taking it, on the device of the generators."""
    device = generators[0].device
    states = [generator.clone_state() for generator in generators]
    with _recording, torch.cuda.device(device):  # torch's own stream for recording is of the device that first recorded
        stream, graph = torch.cuda.Stream(device), torch.cuda.CUDAGraph()
        for generator in generators:
            graph.register_generator_state(generator)
        try:
            with torch.cuda.stream(stream), torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
                terms = step()
        except RuntimeError:
            for generator, state in zip(generators, states, strict=True):
                generator.graphsafe_set_state(state)  # its own still counts as being recorded
            raise

    def replay() -> Tensor:
        graph.replay()
        return terms

    return replay


class GraphedSteps:
    """As `train_step` on the minibatch of some cells, replayed.

    Parameters
    ----------
    objective, optimiser
        What is trained.
    minibatch
        Makes the minibatch of some rows, on the device and without waiting for it.
    settings
        How to train; decided.
    training
        As of the eager steps; `seeds` is a generator on the CPU.
    generators
        All that a step draws from on the device.
    examples
        Rows of a minibatch for each size that minibatches have.
    record
        How to record a step.

    Raises
    ------
    CannotRecordError
        If recording fails, or a replayed step differs from one taken operation by operation. Nothing has changed then.
    """

    def __init__(
        self,
        objective: Objective,
        optimiser: Adam,
        minibatch: Callable[[Tensor], Minibatch],
        settings: TrainSettings,
        training: Training,
        generators: Sequence[torch.Generator],
        examples: Iterable[Tensor],
        record: Recorder = cuda_graph,
    ):
        assert isinstance(training.seeds, torch.Generator)
        self.objective, self.optimiser, self.minibatch, self.settings = objective, optimiser, minibatch, settings
        self.training, self.seed_source = training, training.seeds
        n_dropouts = sum(isinstance(m, Layer) and m.dropout_rate > 0 for m in objective.modules())
        device = optimiser.n_steps.device
        self.numbers = torch.zeros(1 + len(Weights._fields), device=device)  # learning rate, then the weights
        self.seeds = torch.zeros(2 * n_dropouts, dtype=torch.int64, device=device)
        self.recorded: dict[tuple[int, bool], _Recorded] = {}
        moments = {self._cycles(progress): progress for progress in (0.0, 1.0)}
        restore = _restorer(objective, optimiser, (*generators, self.seed_source))
        try:
            for example, (cycle, progress) in product(examples, moments.items()):
                rows, n_seeds = example.clone(), n_dropouts * (2 if cycle else 1)
                replay = record(self._step(rows, cycle), generators)
                self.recorded[len(rows), cycle] = _Recorded(rows, n_seeds, replay)
                self._check(example, progress, restore)
        except RuntimeError as error:
            restore()
            raise CannotRecordError(str(error).partition("\n")[0]) from error

    def __call__(self, index: Tensor, progress: float) -> Tensor:
        """Take a step on the cells in `index`, (B,), at `progress` in [0, 1) of training; the loss terms."""
        weights, lr = weights_at(self.settings, progress), learning_rate(self.settings, progress)
        recorded = self.recorded[len(index), self._cycles(progress)]
        seeds = torch.empty(recorded.n_seeds, dtype=torch.int64).random_(generator=self.seed_source)
        recorded.rows.copy_(index)
        _send(torch.tensor([lr, *weights]), self.numbers)
        _send(seeds, self.seeds[: len(seeds)])
        return recorded.replay()

    def _cycles(self, progress: float) -> bool:
        return self.settings.cycle_weight.at(progress) > 0

    def _step(self, rows: Tensor, cycle: bool) -> Step:
        """A step that takes all that changes from this object's tensors."""

        def step() -> Tensor:
            lr, *weights = self.numbers.unbind()
            now = Weights(*weights) if cycle else Weights(*weights)._replace(cycle=0.0)
            training = self.training._replace(seeds=iter(self.seeds.unbind()))
            batch = self.minibatch(rows)
            return update(self.objective, self.optimiser, batch, now, lr, self.settings.clip_norm, training)

        return step

    def _check(self, index: Tensor, progress: float, restore: Callable[[], None]) -> None:
        """Take a step either way from the same state, to which all returns."""

        def outcome(take: Step) -> Tensor:
            """Loss terms, and how far the parameters went."""
            before = [p.detach().clone() for p in self.optimiser.parameters]
            try:
                terms = take().clone()
                moved = [(p.detach() - b).norm() for p, b in zip(self.optimiser.parameters, before, strict=True)]
            finally:
                restore()
            return torch.cat([terms, torch.stack(moved)])

        weights, lr = weights_at(self.settings, progress), learning_rate(self.settings, progress)
        clip_norm = self.settings.clip_norm
        replayed = outcome(lambda: self(index, progress))
        eager = outcome(
            lambda: update(self.objective, self.optimiser, self.minibatch(index), weights, lr, clip_norm, self.training)
        )
        if not torch.allclose(replayed, eager, rtol=TOLERANCE, atol=1e-6):
            raise CannotRecordError("a replayed step differed from one taken operation by operation")


def _send(values: Tensor, place: Tensor) -> None:
    """Copy from the CPU without waiting for the card, which may be some steps behind."""
    place.copy_(values.pin_memory() if place.is_cuda else values, non_blocking=True)


def _restorer(objective: Objective, optimiser: Adam, sources: Sequence[torch.Generator]) -> Callable[[], None]:
    """What brings all that a step changes back to the state of now."""
    parts = [*objective.state_dict().values(), *optimiser.first, *optimiser.second, optimiser.n_steps]
    kept, states = [part.clone() for part in parts], [source.get_state() for source in sources]

    def restore() -> None:
        for part, old in zip(parts, kept, strict=True):
            part.copy_(old)
        for source, state in zip(sources, states, strict=True):
            source.set_state(state)
        for p in optimiser.parameters:
            p.grad = None

    return restore
