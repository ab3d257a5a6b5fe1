"""Epochs on an NVIDIA GPU: each kind of step is captured once as a CUDA graph, and then replayed.

A step is some hundreds of short operations, which the GPU computes faster than Python can launch them. Replaying a CUDA
graph launches all of them at once. A replay takes no arguments, so what differs between steps lies in tables on the
GPU: learning rates, loss weights and dropout seeds, written once for the whole training, and the order of the cells,
written once an epoch. A counter on the GPU, which the step itself increments, selects the row of the tables. The random
generators of the GPU are advanced by the replay.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from sysvi._core.parallel import Task
from sysvi.data.cells import Minibatch, minibatches, shuffle
from sysvi.model.objective import Losses, Weights
from sysvi.training.epochs import Generators, Stop
from sysvi.training.gradient import n_dropout_seeds
from sysvi.training.step import Stepper, learning_rate, loss_weights

TOLERANCE = 0.1  # relative difference allowed between a replayed step and an ordinary one; a broken replay exceeds it

# Captures begin and end one at a time: torch's generators keep lists of graphs that threads must not change at once.
_capture_lock = threading.Lock()

Capture = Callable[[Task, torch.device, Sequence[torch.Generator]], Task]


class CannotCaptureError(RuntimeError):
    """Steps cannot be captured on this device, or their replay computes something else."""


def cuda_graph(task: Task, device: torch.device, generators: Sequence[torch.Generator] = ()) -> Task:
    """Capture `task` as a CUDA graph without executing it; return a callable that replays it.

    Parameters
    ----------
    task
        Launches work on the current stream, which must not be the device's default stream. The caller must keep the
        tensors that it reads: the graph owns only those that are made during the capture.
    device
        The GPU.
    generators
        Random generators on the GPU that `task` draws from.
    """
    states = [generator.clone_state() for generator in generators]
    with _capture_lock, torch.cuda.device(device):
        graph = torch.cuda.CUDAGraph()
        for generator in generators:
            graph.register_generator_state(generator)
        # `torch.cuda.graph` would collect garbage and empty caches first, which takes longer than everything else here.
        graph.capture_begin(capture_error_mode="thread_local")
        try:
            task()
        except RuntimeError:
            for generator, state in zip(generators, states, strict=True):
                generator.graphsafe_set_state(state)  # the generator's own state still counts as being captured
            raise
        finally:
            graph.capture_end()
    return graph.replay


class _StepKind(NamedTuple):
    """What makes a graph of its own necessary: the number of cells, and whether the cycle is computed."""

    n_cells: int
    cycles: bool


class GraphEpochs:
    """Epochs as in `sysvi.training.epochs.PlainEpochs`, of steps that are captured and replayed.

    Parameters
    ----------
    stepper
        Takes the steps; its context has a CPU generator of dropout seeds.
    make_minibatch
        Makes the minibatch of some rows on the device, without waiting for the device.
    rows
        Rows to train on, (n,), on the device.
    generators
        All generators of the training. `noise` and `swap`, on the device, are those that a step draws from.
    capture
        Captures a step.

    Attributes
    ----------
    step_seconds
        Upper bound of the time of a replay, in seconds.

    Raises
    ------
    CannotCaptureError
        If capturing fails, or a replayed step differs from an ordinary one. Model and generators are unchanged then.
    """

    step_seconds = 0.0

    def __init__(
        self,
        stepper: Stepper,
        make_minibatch: Callable[[Tensor], Minibatch],
        rows: Tensor,
        generators: Generators,
        capture: Capture = cuda_graph,
    ):
        settings, device = stepper.settings, rows.device
        seed_source, on_device = generators.dropout, (generators.noise, generators.swap)
        assert settings.max_epochs is not None
        assert settings.batch_size is not None
        self.stepper, self.make_minibatch, self.generators = stepper, make_minibatch, generators
        self.train_rows = rows.cpu()
        self.sizes = [len(batch) for batch in minibatches(rows, settings.batch_size)]
        self.steps_per_epoch = len(self.sizes)
        n_steps = settings.max_epochs * len(self.sizes)
        progress = [step / n_steps for step in range(n_steps)]
        sizes = itertools.cycle(self.sizes)
        self.kinds = [_StepKind(next(sizes), settings.cycle_weight.value_at(p) > 0) for p in progress]
        self.n_done = 0

        restore = _snapshot(stepper, (*on_device, seed_source))
        schedule = [[learning_rate(settings, p), *loss_weights(settings, p)] for p in progress]
        model = stepper.objective.model
        seeds = torch.zeros(n_steps, n_dropout_seeds(model, True), dtype=torch.int64)
        for row, kind in zip(seeds, self.kinds, strict=True):
            row[: n_dropout_seeds(model, kind.cycles)].random_(generator=seed_source)
        # Tables on the device: learning rate and loss weights of each step, dropout seeds of each step, first position
        # of each minibatch in an epoch, positions within a minibatch, and the rows in the order of the present epoch.
        self.schedule = torch.tensor(schedule, device=device)
        self.seeds = seeds.to(device)
        self.starts = torch.tensor([0, *itertools.accumulate(self.sizes)][:-1], device=device)
        self.offsets = torch.arange(max(self.sizes), device=device)
        self.rows = rows.clone()
        self.counter = torch.zeros(1, dtype=torch.int64, device=device)  # the next step
        self.sums = torch.zeros(len(Losses._fields), device=device)  # loss terms, summed over the cells of the epoch

        self._capture, self.device = capture, device
        self.replays: dict[Hashable, Task] = {}
        first_of_kind = {kind: step for step, kind in reversed([*enumerate(self.kinds)])}
        try:
            for kind, step in first_of_kind.items():
                self.counter.fill_(step)
                self.replays[kind] = capture(self._step_task(kind), device, on_device)
                self._check(kind, step, restore)
        except RuntimeError as error:
            restore()
            self.close()
            raise CannotCaptureError(str(error).partition("\n")[0]) from error
        self.order_states: dict[int, Tensor] = {}  # before each of the epochs whose rows were shuffled, by epoch
        self.next_rows: Tensor | None = None

    def run_epoch(self, stop: Stop) -> Tensor:
        """See `sysvi.training.epochs.Epochs`."""
        epoch, of_epoch = divmod(self.n_done, len(self.sizes))
        if of_epoch == 0:
            rows = self._shuffle_rows(epoch) if self.next_rows is None else self.next_rows
            self.rows.copy_(rows, non_blocking=True)
            self.sums.zero_()
        self.counter.fill_(self.n_done)
        for kind in self.kinds[self.n_done : (epoch + 1) * len(self.sizes)]:
            self.replays[kind]()
            self.n_done += 1
            if stop():
                break
        if self.n_done == (epoch + 1) * len(self.sizes) < len(self.kinds):
            self.next_rows = self._shuffle_rows(epoch + 1)  # while the GPU computes
        return self.sums.clone()

    def generator_states(self) -> dict[str, Tensor]:
        """See `sysvi.training.epochs.Epochs`."""
        order = self.order_states.get(self.n_done // len(self.sizes))
        return self.generators.states() | ({} if order is None else {"order": order})

    def go_on(self, n_done: int, states: Mapping[str, Tensor]) -> None:
        """See `sysvi.training.epochs.Epochs`; the dropout seeds of all steps have been drawn already."""
        self.generators.restore(states)
        self.n_done, self.next_rows = n_done, None
        epoch, of_epoch = divmod(n_done, len(self.sizes))
        if of_epoch > 0:
            self.rows.copy_(self._shuffle_rows(epoch))

    def capture(self, function: Callable[[], Tensor]) -> Callable[[], Tensor]:
        """See `sysvi.training.epochs.Epochs`."""
        result = function()
        try:
            self.replays[function] = self._capture(lambda: result.copy_(function()), self.device, ())
        except RuntimeError:
            return function

        def replay() -> Tensor:
            self.replays[function]()
            return result.clone()

        return replay

    def close(self) -> None:
        """See `sysvi.training.epochs.Epochs`."""
        with _capture_lock:
            self.replays.clear()

    def _shuffle_rows(self, epoch: int) -> Tensor:
        self.order_states = {epoch: self.generators.order.get_state()}
        rows = shuffle(self.train_rows, self.generators.order)
        return rows.pin_memory() if self.rows.is_cuda else rows  # pinned memory is copied without waiting

    def _step_task(self, kind: _StepKind) -> Task:
        """A step that reads everything that changes between steps from the tables."""

        def task() -> None:
            lr, *values = self.schedule[self.counter][0].unbind()
            weights = Weights(*values) if kind.cycles else Weights(*values)._replace(cycle=0.0)
            context = self.stepper.context._replace(dropout_seeds=iter(self.seeds[self.counter][0].unbind()))
            start = self.starts[self.counter % len(self.sizes)]
            batch = self.make_minibatch(self.rows[start + self.offsets[: kind.n_cells]])
            self.sums.add_(self.stepper.update(batch, weights, lr, context), alpha=kind.n_cells)
            self.counter += 1

        return task

    def _check(self, kind: _StepKind, step: int, restore: Callable[[], None]) -> None:
        """Take a step replayed and one as usual from the same state, compare them, and restore the state."""
        parameters, settings = self.stepper.optimiser.parameters, self.stepper.settings

        def outcome(take_step: Callable[[], Tensor]) -> Tensor:
            """Loss terms, and the distance that each parameter moved."""
            before = [p.detach().clone() for p in parameters]
            try:
                terms = take_step().clone()
                moved = [(p.detach() - b).norm() for p, b in zip(parameters, before, strict=True)]
            finally:
                restore()
            return torch.cat([terms, torch.stack(moved)])

        def replayed() -> Tensor:
            self.counter.fill_(step)
            self.sums.zero_()
            self.replays[kind]()
            return self.sums / kind.n_cells

        def ordinary() -> Tensor:
            start, progress = int(self.starts[step % len(self.sizes)]), step / len(self.kinds)
            batch = self.make_minibatch(self.rows[start : start + kind.n_cells])
            context = self.stepper.context._replace(dropout_seeds=iter(self.seeds[step].unbind()))
            weights, lr = loss_weights(settings, progress), learning_rate(settings, progress)
            return self.stepper.update(batch, weights, lr, context)

        if not torch.allclose(outcome(replayed), outcome(ordinary), rtol=TOLERANCE, atol=1e-6):
            raise CannotCaptureError("a replayed step differed from an ordinary one")
        start = time.perf_counter()
        outcome(replayed)[0].item()  # waits for the GPU
        self.step_seconds = time.perf_counter() - start


def _snapshot(stepper: Stepper, generators: Sequence[torch.Generator]) -> Callable[[], None]:
    """Snapshot all mutable training state; return a function that restores it."""
    optimiser = stepper.optimiser
    tensors = [*stepper.objective.state_dict().values(), *optimiser.state_tensors()]
    saved, states = [tensor.clone() for tensor in tensors], [generator.get_state() for generator in generators]

    def restore() -> None:
        for tensor, value in zip(tensors, saved, strict=True):
            tensor.copy_(value)
        for generator, state in zip(generators, states, strict=True):
            generator.set_state(state)
        for p in optimiser.parameters:
            p.grad = None

    return restore
