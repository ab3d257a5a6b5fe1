"""The training loop: sampler, optimiser, schedules, events; no framework.

Shapes: n cells, B cells of a minibatch.
"""

from __future__ import annotations

import copy
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from sysvi._core.device import describe_device
from sysvi._core.errors import InputError
from sysvi._core.events import Event, OnEvent, ignore_event
from sysvi._core.memory import retain_freed_memory
from sysvi._core.parallel import PairExecutor, dedicated_stream, pair_executor
from sysvi._core.seeds import generator
from sysvi._core.settings import RAMPS, TrainSettings, default_batch_size, default_lr, default_max_epochs
from sysvi.data.cells import Cells, Minibatch, minibatches, n_minibatches
from sysvi.kernels.plan import ComputePlan, choose_compute_plan
from sysvi.model.cvae import Model
from sysvi.model.networks import Discriminator, Training
from sysvi.model.objective import Losses, Objective
from sysvi.training.epochs import Epochs, PlainEpochs
from sysvi.training.graphs import CannotRecordError, GraphedEpochs
from sysvi.training.optimiser import Adam
from sysvi.training.step import Stepper, loss_weights

TERMS = Losses._fields
PROBE_CELLS = 16  # enough to see whether new weights give finite losses


class NonFiniteLossError(FloatingPointError):
    """The loss became NaN or infinite; the model holds the last good weights. `run`: what was done before."""

    run: TrainingRun | None = None


@dataclass
class TrainingRun:
    """What training did.

    Parameters
    ----------
    settings
        The settings with everything decided: epochs, minibatch.
    history
        Loss term -> value per epoch, ``"<term>_train"`` and, with held-out cells, ``"<term>_validation"``.
    status
        ``"finished"``, ``"stopped_early"``, ``"interrupted"`` or ``"failed"``.
    seconds
        Wall time of the loop.
    cells_per_second
        Training cells processed per second.
    kernels, device
        How it was computed, and why so, and where.
    train_index, validation_index
        Which cells were trained on and held out.
    """

    settings: TrainSettings
    history: dict[str, list[float]] = field(default_factory=dict)
    status: str = "finished"
    seconds: float = 0.0
    cells_per_second: float = 0.0
    kernels: ComputePlan | None = None
    device: str = ""
    train_index: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))
    validation_index: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))

    @property
    def n_epochs(self) -> int:
        """Epochs that were ended."""
        return len(self.history.get("total_train", []))

    @property
    def steps_per_epoch(self) -> int:
        """Minibatches of an epoch."""
        assert self.settings.batch_size is not None
        return n_minibatches(len(self.train_index), self.settings.batch_size)

    @property
    def usual_epochs(self) -> int:
        """Epochs of such a training by default."""
        usual = decide(replace(self.settings, max_epochs=None), len(self.train_index)).max_epochs
        assert usual is not None
        return usual


def train(
    model: Model,
    cells: Cells,
    settings: TrainSettings,
    on_event: OnEvent = ignore_event,
    stop: Callable[[], bool] | None = None,
) -> TrainingRun:
    """Train `model` on `cells`, in place.

    Ctrl-C (or a KeyboardInterrupt that `on_event` raises at an epoch) ends training after the current step; the model
    is usable and the run is marked "interrupted".

    Parameters
    ----------
    model
        On the same device as `cells`.
    cells
        The data.
    settings
        How to train; undecided epochs and minibatch are chosen from the number of cells.
    on_event
        Called with "plan", each "epoch" and the "end".
    stop
        Asked after each step instead of listening to Ctrl-C: True ends training as Ctrl-C does.

    Returns
    -------
    TrainingRun

    Raises
    ------
    NonFiniteLossError
        If the loss is not finite; the model then holds the weights of the last good epoch.
    """
    train_index, validation_index = split(cells.n_cells, settings)
    settings = decide(settings, len(train_index))
    kernels = choose_compute_plan(cells.device, cells.density, fused=True, precision=settings.precision)
    run = TrainingRun(
        settings,
        kernels=kernels,
        device=describe_device(cells.device),
        train_index=train_index,
        validation_index=validation_index,
    )
    with retain_freed_memory(), dedicated_stream(cells.device), pair_executor(cells.device, kernels.beside) as beside:
        objective = make_objective(model, cells, settings)
        epochs = _make_epochs(run, objective, cells, beside, on_event)
        with closing(epochs), catch_interrupts() if stop is None else nullcontext(stop) as interrupted:
            _train(run, objective, cells, epochs, on_event, interrupted)
    on_event(_end(run))
    return run


def _make_epochs(
    run: TrainingRun, objective: Objective, cells: Cells, beside: PairExecutor, on_event: OnEvent
) -> Epochs:
    """Decides how steps are taken and tells the plan."""
    settings, kernels, device = run.settings, run.kernels, cells.device
    assert settings.max_epochs is not None
    assert settings.batch_size is not None
    assert kernels is not None
    index = run.train_index.to(device)
    order, swap = generator(settings.seed, "order"), generator(settings.seed, "swap", device)
    noise, dropout = generator(settings.seed, "noise", device), generator(settings.seed, "dropout")

    def minibatch(rows: Tensor) -> Minibatch:
        return cells.minibatch(rows, settings.swapped_covariates, swap, **kernels.of_expression)

    def stepper(objective: Objective, training: Training) -> Stepper:
        optimiser = Adam(objective.parameters(), settings.eps, settings.weight_decay)
        return Stepper(objective, optimiser, settings, training, kernels.fused, beside)

    trial = stepper(copy.deepcopy(objective), Training(generator(settings.seed, "trial", device), kernels.products))
    step_seconds = _time_step(trial, cells, index, kernels)
    real = stepper(objective, Training(noise, kernels.products, dropout))
    epochs: Epochs = PlainEpochs(real, minibatch, index, order)
    if kernels.graph:
        try:
            replayed = GraphedEpochs(real, minibatch, index, order, (noise, swap))
            epochs, step_seconds = replayed, replayed.step_seconds
        except CannotRecordError as error:
            why = (*kernels.why[:-1], f"steps one by one: they could not be recorded ({error})")
            run.kernels = replace(kernels, graph=False, why=why)
    on_event(_plan(run, cells, step_seconds))
    return epochs


def _train(
    run: TrainingRun,
    objective: Objective,
    cells: Cells,
    epochs: Epochs,
    on_event: OnEvent,
    interrupted: Callable[[], bool],
) -> None:
    """All epochs, or those until training ends for another reason."""
    model, settings, validates = objective.model, run.settings, len(run.validation_index) > 0
    assert settings.max_epochs is not None
    validation = Validation(
        objective, cells, run.validation_index if validates else run.train_index[:PROBE_CELLS], settings
    )
    validate = epochs.again(validation) if validation.kept else validation
    last_good = copy.deepcopy(model.state_dict())
    watch = EarlyStopping(settings.patience)
    n_steps = 0
    start = time.perf_counter()
    for epoch in range(settings.max_epochs):
        sums, taken = epochs.take(interrupted)
        n_steps += taken
        # The losses say that the weights were good before the last step; the check, after it too.
        checked = validate()
        _check_finite(model, sums + checked, last_good, run)
        if interrupted():
            run.status = "interrupted"
            break
        with torch.no_grad():  # in place: a copy's new memory is slow to get
            torch._foreach_copy_([*last_good.values()], [*model.state_dict().values()])
        _record(run.history, "train", sums / len(run.train_index))
        if validates:
            _record(run.history, "validation", checked)
        if settings.early_stopping and (epoch + 1) / settings.max_epochs >= _last_ramp_end(settings):
            watch.see(run.history["total_validation"][-1], last_good)
            if watch.epochs_since_best >= watch.patience:
                run.status = "stopped_early"
        try:
            on_event(_epoch(run, epoch, time.perf_counter() - start, cells))
        except KeyboardInterrupt:
            run.status = "interrupted"
        if run.status != "finished":
            break
    if watch.best is not None:
        model.load_state_dict(watch.best)
    run.seconds = time.perf_counter() - start
    run.cells_per_second = n_steps / run.steps_per_epoch * len(run.train_index) / run.seconds


@dataclass
class EarlyStopping:
    """Remembers the weights of the best epoch and how long ago it was."""

    patience: int
    best_loss: float = math.inf
    best: dict[str, Tensor] | None = None
    epochs_since_best: int = 0

    def see(self, loss: float, weights: dict[str, Tensor]) -> None:
        """Take note of an epoch's loss on held-out cells and, where it is the best, of a copy of its weights."""
        if loss < self.best_loss:
            self.best_loss, self.best, self.epochs_since_best = loss, copy.deepcopy(weights), 0
        else:
            self.epochs_since_best += 1


def decide(settings: TrainSettings, n_cells: int) -> TrainSettings:
    """Fill in epochs, minibatch and learning rate from the number of training cells."""
    batch_size = settings.batch_size or default_batch_size(n_cells)
    lr = settings.lr or default_lr(batch_size)
    max_epochs = settings.max_epochs or default_max_epochs(n_minibatches(n_cells, batch_size), lr)
    return replace(settings, max_epochs=max_epochs, batch_size=batch_size, lr=lr)


def split(n_cells: int, settings: TrainSettings) -> tuple[Tensor, Tensor]:
    """Rows to train on and rows to hold out, each sorted."""
    n_train = max(2, round(settings.train_size * n_cells))
    if n_train >= n_cells:
        if settings.early_stopping:
            raise InputError(f"train_size={settings.train_size} of {n_cells} cells holds none out: make it smaller.")
        return torch.arange(n_cells), torch.empty(0, dtype=torch.int64)
    shuffled = torch.randperm(n_cells, generator=generator(settings.seed, "split"))
    return shuffled[:n_train].sort().values, shuffled[n_train:].sort().values


def make_objective(model: Model, cells: Cells, settings: TrainSettings) -> Objective:
    """The loss, with a discriminator where an adversary is asked for."""
    discriminator = None
    if settings.adversarial_weight.value > 0:
        s = model.settings
        discriminator = Discriminator(s.n_latent, s.n_hidden, cells.n_systems, generator(settings.seed, "adversary"))
    return Objective(model, discriminator).to(cells.device)


class Validation:
    """Loss terms on held-out cells at the final weights: z at its mean, no dropout, running statistics."""

    def __init__(self, objective: Objective, cells: Cells, index: Tensor, settings: TrainSettings):
        self.objective, self.cells, self.index, self.settings = objective, cells, index.to(cells.device), settings
        self.weights = loss_weights(settings, 1.0)
        few = len(index) <= PROBE_CELLS
        self.kept = list(self._minibatches()) if few else None

    def _minibatches(self) -> Iterator[Minibatch]:
        settings = self.settings
        assert settings.batch_size is not None
        swap = generator(settings.seed, "validation", self.cells.device)  # the same swaps at every epoch
        for rows in minibatches(self.index, settings.batch_size) if len(self.index) > 1 else [self.index]:
            yield self.cells.minibatch(rows, settings.swapped_covariates, swap)

    @torch.no_grad()
    def __call__(self) -> Tensor:
        """Means over the cells, as `TERMS`."""
        sums = torch.zeros(len(TERMS), device=self.cells.device)
        for batch in self.kept or self._minibatches():
            sums += len(batch) * torch.stack(list(self.objective(batch, self.weights, None)))
        return sums / len(self.index)


def _time_step(trial: Stepper, cells: Cells, index: Tensor, kernels: ComputePlan) -> float:
    """Seconds of one step, measured on a copy so that nothing of the real run is touched."""
    settings, noise = trial.settings, trial.training.noise
    assert settings.batch_size is not None
    rows = next(iter(minibatches(index, settings.batch_size)))
    seconds = []
    for _ in range(4):  # the first compiles and warms up
        start = time.perf_counter()
        batch = cells.minibatch(rows, settings.swapped_covariates, noise, **kernels.of_expression)
        trial.step(batch, 1.0)[0].item()  # waits for the device
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def _record(history: dict[str, list[float]], kind: str, means: Tensor) -> None:
    for name, value in zip(TERMS, means.tolist(), strict=True):
        history.setdefault(f"{name}_{kind}", []).append(value)


def _check_finite(model: Model, sums: Tensor, last_good: dict[str, Tensor], run: TrainingRun) -> None:
    if torch.isfinite(sums).all():
        return
    model.load_state_dict(last_good)
    bad = [name for name, value in zip(TERMS, sums.tolist(), strict=True) if not math.isfinite(value)]
    error = NonFiniteLossError(
        f"The loss became non-finite in epoch {run.n_epochs + 1} (terms: {', '.join(bad)}); the model holds the "
        f"weights {'of the epoch before' if run.n_epochs else 'that it began with'}. Likely causes: a learning rate "
        "that is too high (try lr=3e-4), expression that is not log-normalised (run sysvi.prepare), or a very large "
        "cycle or KL weight."
    )
    run.status, error.run = "failed", run
    raise error


def _last_ramp_end(settings: TrainSettings) -> float:
    return max(getattr(settings, name).end for name in RAMPS)


def _plan(run: TrainingRun, cells: Cells, step_seconds: float) -> Event:
    n, s, steps_per_epoch, device = len(run.train_index), run.settings, run.steps_per_epoch, run.device
    assert s.max_epochs is not None
    seconds = step_seconds * s.max_epochs * steps_per_epoch
    return Event(
        "plan",
        f"Training on {n:,} cells x {cells.n_genes:,} genes of {cells.n_systems} systems: {s.max_epochs} epochs of "
        f"{steps_per_epoch} minibatches of up to {s.batch_size} cells on {device}, about {seconds:.0f} s.",
        {
            "cells": n,
            "genes": cells.n_genes,
            "systems": cells.n_systems,
            "epochs": s.max_epochs,
            "batch_size": s.batch_size,
            "lr": s.lr,
            "steps_per_epoch": steps_per_epoch,
            "device": device,
            "kernels": None if run.kernels is None else run.kernels.as_dict(),
            "expected_seconds": seconds,
        },
    )


def _epoch(run: TrainingRun, epoch: int, seconds: float, cells: Cells) -> Event:
    assert run.settings.max_epochs is not None
    done = epoch + 1
    losses = {name: values[-1] for name, values in run.history.items()}
    return Event(
        "epoch",
        values={
            "epoch": done,
            "epochs": run.settings.max_epochs,
            "losses": losses,
            "cells_per_second": done * len(run.train_index) / seconds,
            "seconds_left": seconds / done * (run.settings.max_epochs - done),
        },
    )


def _end(run: TrainingRun) -> Event:
    word = {"finished": "Trained", "stopped_early": "RunStopped early after", "interrupted": "Interrupted after"}
    return Event(
        "end",
        f"{word[run.status]} {run.n_epochs} epochs in {run.seconds:.1f} s ({run.cells_per_second:,.0f} cells/s).",
        {
            "status": run.status,
            "epochs": run.n_epochs,
            "seconds": run.seconds,
            "cells_per_second": run.cells_per_second,
        },
    )


@contextmanager
def catch_interrupts() -> Iterator[Callable[[], bool]]:
    """Turn Ctrl-C into a flag that the loop asks after each step; a second Ctrl-C interrupts at once.

    Outside the main thread Ctrl-C is not heard.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    pressed = False

    def on_sigint(signum: int, frame: object) -> None:
        nonlocal pressed
        if pressed:
            raise KeyboardInterrupt
        pressed = True

    before = signal.signal(signal.SIGINT, on_sigint)
    try:
        yield lambda: pressed
    finally:
        signal.signal(signal.SIGINT, before)
