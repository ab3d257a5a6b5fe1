"""The training loop: epochs, validation, early stopping, interrupts and events. No training framework is involved.

Shapes: n cells, B cells of a minibatch.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from torch import Tensor

from sysvi._core.device import describe_device
from sysvi._core.errors import InputError
from sysvi._core.events import Event, OnEvent, ignore_event
from sysvi._core.interrupts import by_signal, catch_interrupts
from sysvi._core.memory import check_memory, retain_freed_memory
from sysvi._core.parallel import PairExecutor, dedicated_stream, pair_executor
from sysvi._core.progress import closing_bar
from sysvi._core.ranks import Ranks, current_ranks
from sysvi._core.seeds import generator
from sysvi._core.settings import RAMPS, TrainSettings, default_batch_size, default_lr, default_max_epochs
from sysvi.data.cells import Cells, Minibatch, minibatches, n_minibatches
from sysvi.kernels.plan import ComputePlan, choose_compute_plan, for_ranks, without_graph
from sysvi.model.cvae import Model
from sysvi.model.networks import Discriminator, TrainingContext
from sysvi.model.objective import Losses, Objective
from sysvi.training.early_stopping import EarlyStopping
from sysvi.training.epochs import Epochs, Generators, PlainEpochs
from sysvi.training.gradient import explain_gradient
from sysvi.training.graphs import CannotCaptureError, GraphEpochs
from sysvi.training.optimiser import Adam
from sysvi.training.state import StateFile, TrainingState
from sysvi.training.step import Stepper, loss_weights

TERMS = Losses._fields
N_PROBE_CELLS = 16  # enough to see whether the weights give finite losses


class NonFiniteLossError(FloatingPointError):
    """The loss became NaN or infinite; the model holds the weights of the last good epoch.

    Attributes
    ----------
    run
        The training up to then.
    """

    run: TrainingRun | None = None


@dataclass
class TrainingRun:
    """Record of a training.

    Parameters
    ----------
    settings
        The settings, with epochs, minibatch size and learning rate decided.
    history
        Values per epoch by loss term: ``"<term>_train"`` and, with held-out cells, ``"<term>_validation"``.
    status
        ``"finished"``, ``"stopped_early"``, ``"interrupted"`` or ``"failed"``.
    seconds
        Wall time of the loop.
    cells_per_second
        Training cells processed per second.
    kernels, device
        The compute plan, with its reasons; and the device, for people.
    train_index, validation_index
        Rows that were trained on and held out.
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
        """Epochs that were completed."""
        return len(self.history.get("total_train", []))

    @property
    def steps_per_epoch(self) -> int:
        """Minibatches in an epoch."""
        assert self.settings.batch_size is not None
        return n_minibatches(len(self.train_index), self.settings.batch_size)

    @property
    def usual_epochs(self) -> int:
        """Number of epochs that the defaults would give such a training."""
        usual = resolve_settings(replace(self.settings, max_epochs=None), len(self.train_index)).max_epochs
        assert usual is not None
        return usual


def train(
    model: Model,
    cells: Cells,
    settings: TrainSettings,
    on_event: OnEvent = ignore_event,
    stop: Callable[[], bool] | None = None,
    only: Mapping[str, Tensor] | None = None,
    state_file: StateFile | None = None,
) -> TrainingRun:
    """Train `model` on `cells`, in place.

    Ctrl-C, another stop signal (SIGTERM, SIGHUP, SIGUSR1) or a KeyboardInterrupt that `on_event` raises at an epoch
    ends training after the current step; the model can be used, and the run is marked "interrupted".

    Parameters
    ----------
    model
        A model on the same device as `cells`.
    cells
        The data.
    settings
        Training settings. Epochs, minibatch size and learning rate that are None are chosen from the number of cells.
    on_event
        Called with the events "plan", "epoch" (after each one) and "end".
    stop
        Called after each step, instead of listening for Ctrl-C; training ends when it returns True.
    only
        The weights to train: masks, 1 or 0, by the names of the model's parameters. All other weights and the running
        statistics stay as they are; layers compute as in evaluation, and there is no weight decay. By default, all
        weights are trained.
    state_file
        File in which the state of training is kept: every two minutes, when training is asked to stop, and at its end.
        If it has a state, training goes on from there; on a CPU, with the bits of a training without interruption.

    Returns
    -------
    TrainingRun

    Raises
    ------
    InputError
        If the state cannot be written, is damaged, or is that of another training.
    NonFiniteLossError
        If the loss is NaN or infinite; the model then holds the weights of the last good epoch.
    """
    ranks = cells.ranks
    if ranks.size == 1 and current_ranks().size > 1:
        raise InputError(
            "Several processes train one model with sysvi.integrate only: call it, or train in a single process."
        )
    train_rows, validation_rows = split_cells(cells.n_cells, settings)
    settings = resolve_settings(settings, len(train_rows))
    gradient = explain_gradient(model)
    if only is not None:
        settings = replace(settings, weight_decay=0.0, precision="float32")
        gradient = "gradient by autograd: only the weights of new covariates are trained"
    assert settings.batch_size is not None
    n = min(settings.batch_size, len(train_rows))
    check_memory(  # the means of a minibatch and their gradient, float32
        8 * n * cells.n_genes,
        f"A minibatch of {n:,} cells and {cells.n_genes:,} genes",
        "lower batch_size, or use fewer genes",
        cells.device,
    )
    plan = choose_compute_plan(cells.device, cells.density, precision=settings.precision)
    if only is not None:
        plan = replace(plan, graph=False)
    if cells.is_stored:
        plan = without_graph(plan, "the expression is on disk")
    plan = for_ranks(plan, ranks)
    run = TrainingRun(
        settings,
        kernels=replace(plan, why=(*plan.why, gradient)),
        device=describe_device(cells.device),
        train_index=train_rows,
        validation_index=validation_rows,
    )
    with (
        closing_bar(on_event),
        retain_freed_memory(),
        dedicated_stream(cells.device),
        pair_executor(cells.device, plan.concurrent) as run_pair,
        nullcontext() if only is None else train_only(model, only),
    ):
        objective = make_objective(model, cells, settings)
        epochs = _make_epochs(run, objective, cells, run_pair, on_event, frozen_layers=only is not None)
        with closing(epochs), catch_interrupts() if stop is None else nullcontext(stop) as interrupted:
            _train(run, objective, cells, epochs, on_event, lambda: ranks.any(interrupted()), state_file)
    on_event(_end_event(run))
    return run


@contextmanager
def train_only(model: Model, masks: Mapping[str, Tensor]) -> Iterator[None]:
    """Let only some weights have gradients: masks, 1 or 0, by the names of parameters."""
    required = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    hooks = []
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in masks)
        if name in masks:
            hooks.append(parameter.register_hook(partial(torch.mul, masks[name].to(parameter.device))))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        for parameter, requires_grad in required:
            parameter.requires_grad_(requires_grad)


def _make_epochs(
    run: TrainingRun,
    objective: Objective,
    cells: Cells,
    run_pair: PairExecutor,
    on_event: OnEvent,
    *,
    frozen_layers: bool = False,
) -> Epochs:
    """Decide how steps are taken, and send the "plan" event."""
    settings, plan, device = run.settings, run.kernels, cells.device
    assert plan is not None
    rows = run.train_index.to(device)
    generators = Generators(
        order=generator(settings.seed, "order"),
        swap=generator(settings.seed, "swap", device),
        noise=generator(settings.seed, "noise", device),
        dropout=generator(settings.seed, "dropout"),
    )

    def make_minibatch(cells: Cells, rows: Tensor) -> Minibatch:
        return cells.minibatch(rows, settings.swapped_covariates, generators.swap, **plan.minibatch_arguments)

    def make_stepper(objective: Objective, context: TrainingContext) -> Stepper:
        optimiser = Adam(objective.parameters(), settings.eps, settings.weight_decay)
        return Stepper(objective, optimiser, settings, context, run_pair)

    trial_noise = generator(settings.seed, "trial", device)
    trial_context = TrainingContext(trial_noise, plan.matmul_dtype, frozen_layers=frozen_layers)
    step_seconds = _time_step(make_stepper(copy.deepcopy(objective), trial_context), cells, rows, plan)
    context = TrainingContext(generators.noise, plan.matmul_dtype, generators.dropout, frozen_layers)
    stepper = make_stepper(objective, context)
    epochs: Epochs = PlainEpochs(stepper, make_minibatch, cells, rows, generators)
    if plan.graph:
        try:
            graph_epochs = GraphEpochs(stepper, partial(make_minibatch, cells), rows, generators)
            epochs, step_seconds = graph_epochs, graph_epochs.step_seconds
        except CannotCaptureError as error:
            run.kernels = without_graph(plan, f"they cannot be captured ({error})")
    on_event(_plan_event(run, cells, step_seconds))
    return epochs


def _train(
    run: TrainingRun,
    objective: Objective,
    cells: Cells,
    epochs: Epochs,
    on_event: OnEvent,
    interrupted: Callable[[], bool],
    state_file: StateFile | None,
) -> None:
    """Run all epochs that are left, or those until training ends for another reason."""
    model, settings, has_validation = objective.model, run.settings, len(run.validation_index) > 0
    assert settings.max_epochs is not None
    # Without held-out cells, a few training cells show whether the weights after the last step give finite losses.
    checked_rows = run.validation_index if has_validation else run.train_index[:N_PROBE_CELLS]
    validation = Validation(objective, cells, checked_rows, settings)
    validate = epochs.capture(validation) if validation.batches is not None else validation
    last_good = copy.deepcopy(model.state_dict())
    early_stopping = EarlyStopping(settings.patience)
    state = TrainingState(epochs, early_stopping, last_good, run.history)
    if state_file is not None:
        state.restore(state_file)
        if len(set(cells.ranks.gather(epochs.n_done))) > 1:
            raise InputError(
                f"{state_file.path} is not the same for all processes: put the checkpoint on a disk that they share."
            )
    start = time.perf_counter()
    while run.status == "finished" and run.n_epochs < settings.max_epochs and not early_stopping.is_reached:
        epoch = run.n_epochs
        sums = _run_epoch(epochs, (epoch + 1) * run.steps_per_epoch, interrupted, state, state_file, start, cells.ranks)
        validation_losses = validate()
        _check_finite(model, sums + validation_losses, last_good, run)
        if interrupted():
            run.status = "interrupted"
            break
        with torch.no_grad():  # in place: allocating a new copy is slow
            torch._foreach_copy_([*last_good.values()], [*model.state_dict().values()])
        _record(run.history, "train", sums / len(run.train_index))
        if has_validation:
            _record(run.history, "validation", validation_losses)
        if settings.early_stopping and (epoch + 1) / settings.max_epochs >= _last_ramp_end(settings):
            early_stopping.update(run.history["total_validation"][-1], last_good)
        try:
            on_event(_epoch_event(run, state.seconds + time.perf_counter() - start))
        except KeyboardInterrupt:
            run.status = "interrupted"
        if cells.ranks.any(run.status == "interrupted"):
            run.status = "interrupted"
    seconds = time.perf_counter() - start
    if state_file is not None:
        state.write(state_file, seconds)
    if early_stopping.is_reached and run.status == "finished":
        run.status = "stopped_early"
    if early_stopping.best_weights is not None:
        model.load_state_dict(early_stopping.best_weights)
    run.seconds = state.seconds + seconds
    run.cells_per_second = epochs.n_done / run.steps_per_epoch * len(run.train_index) / run.seconds


def _run_epoch(
    epochs: Epochs,
    last_step: int,
    interrupted: Callable[[], bool],
    state: TrainingState,
    state_file: StateFile | None,
    start: float,
    ranks: Ranks,
) -> Tensor:
    """Take the steps up to `last_step`, unless interrupted, and write the state from time to time; the sums so far."""
    if state_file is None:
        return epochs.run_epoch(interrupted)
    while epochs.n_done < last_step:
        epochs.run_epoch(lambda: interrupted() or ranks.any(state_file.is_due))
        if interrupted() or ranks.any(state_file.is_due):
            state.write(state_file, time.perf_counter() - start)
        if interrupted():
            break
    return epochs.sums.clone()


def resolve_settings(settings: TrainSettings, n_cells: int) -> TrainSettings:
    """Choose epochs, minibatch size and learning rate from the number of training cells, where they are None."""
    batch_size = settings.batch_size or default_batch_size(n_cells)
    lr = settings.lr or default_lr(batch_size)
    max_epochs = settings.max_epochs or default_max_epochs(n_cells, n_minibatches(n_cells, batch_size))
    return replace(settings, max_epochs=max_epochs, batch_size=batch_size, lr=lr)


def split_cells(n_cells: int, settings: TrainSettings) -> tuple[Tensor, Tensor]:
    """Rows to train on and rows to hold out, each sorted."""
    n_train = max(2, round(settings.train_size * n_cells))
    if n_train >= n_cells:
        if settings.early_stopping:
            raise InputError(f"train_size={settings.train_size} of {n_cells} cells holds none out: make it smaller.")
        return torch.arange(n_cells), torch.empty(0, dtype=torch.int64)
    shuffled = torch.randperm(n_cells, generator=generator(settings.seed, "split"))
    return shuffled[:n_train].sort().values, shuffled[n_train:].sort().values


def make_objective(model: Model, cells: Cells, settings: TrainSettings) -> Objective:
    """The loss, with a discriminator if the adversary has a weight."""
    discriminator = None
    if settings.adversarial_weight.value > 0:
        s = model.settings
        discriminator = Discriminator(s.n_latent, s.n_hidden, cells.n_systems, generator(settings.seed, "adversary"))
    return Objective(model, discriminator).to(cells.device)


class Validation:
    """Loss terms on held-out cells with the final loss weights: z at its mean, no dropout, running statistics.

    Attributes
    ----------
    batches
        The minibatches, kept because they are few; None where they are made anew at each call.
    """

    def __init__(self, objective: Objective, cells: Cells, rows: Tensor, settings: TrainSettings):
        self.objective, self.cells, self.rows, self.settings = objective, cells, rows.to(cells.device), settings
        self.weights = loss_weights(settings, 1.0)
        self.batches = list(self._make_batches()) if len(rows) <= N_PROBE_CELLS else None

    def _make_batches(self) -> Iterator[Minibatch]:
        settings = self.settings
        assert settings.batch_size is not None
        swap = generator(settings.seed, "validation", self.cells.device)  # the same swaps at every epoch
        batches = minibatches(self.rows, settings.batch_size) if len(self.rows) > 1 else [self.rows]
        for cells, group in self.cells.load([batch] for batch in batches):
            for rows in group:
                yield cells.minibatch(rows, settings.swapped_covariates, swap)

    @torch.no_grad()
    def __call__(self) -> Tensor:
        """Means over the cells, (6,), in the order of `Losses`."""
        sums = torch.zeros(len(TERMS), device=self.cells.device)
        for batch in self.batches or self._make_batches():
            sums += len(batch) * torch.stack(list(self.objective(batch, self.weights, None)))
        return self.cells.ranks.total(sums) / len(self.rows)


def _time_step(stepper: Stepper, cells: Cells, rows: Tensor, plan: ComputePlan) -> float:
    """Seconds of one step, measured with a copy of the model so that the real one stays as it is."""
    settings, noise = stepper.settings, stepper.context.noise
    assert settings.batch_size is not None
    batch_rows = next(iter(minibatches(rows, settings.batch_size)))
    [(cells, _)] = cells.load([[batch_rows]])
    seconds = []
    for _ in range(4):  # the first one compiles
        start = time.perf_counter()
        batch = cells.minibatch(batch_rows, settings.swapped_covariates, noise, **plan.minibatch_arguments)
        stepper.step(batch, 1.0)[0].item()  # waits for the device
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def _record(history: dict[str, list[float]], kind: str, means: Tensor) -> None:
    for name, value in zip(TERMS, means.tolist(), strict=True):
        history.setdefault(f"{name}_{kind}", []).append(value)


def _check_finite(model: Model, sums: Tensor, last_good: dict[str, Tensor], run: TrainingRun) -> None:
    """Restore the last good weights and raise, if a loss term is not finite."""
    if torch.isfinite(sums).all():
        return
    model.load_state_dict(last_good)
    bad = [name for name, value in zip(TERMS, sums.tolist(), strict=True) if not math.isfinite(value)]
    error = NonFiniteLossError(
        f"The loss became non-finite in epoch {run.n_epochs + 1} (terms: {', '.join(bad)}); the model holds the "
        f"weights {'of the epoch before' if run.n_epochs else 'before training'}. Likely causes: a learning rate "
        "that is too high (try lr=3e-4), expression that is not log-normalised (run sysvi.prepare), or a very large "
        "cycle or KL weight."
    )
    run.status, error.run = "failed", run
    raise error


def _last_ramp_end(settings: TrainSettings) -> float:
    """Fraction of training after which all loss weights are constant."""
    return max(getattr(settings, name).end for name in RAMPS)


def _plan_event(run: TrainingRun, cells: Cells, step_seconds: float) -> Event:
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


def _epoch_event(run: TrainingRun, seconds: float) -> Event:
    assert run.settings.max_epochs is not None
    done = run.n_epochs
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


def _end_event(run: TrainingRun) -> Event:
    word = {
        "finished": "Trained",
        "stopped_early": "Stopped early after",
        "interrupted": f"Interrupted{by_signal()} after",
    }
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
