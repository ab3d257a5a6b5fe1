"""Training several models in parallel on one copy of the cells."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import product, starmap, zip_longest
from queue import SimpleQueue
from typing import Any, NamedTuple, TypeVar

import torch
from anndata import AnnData

from sysvi._core.arguments import check_types
from sysvi._core.device import choose_device
from sysvi._core.errors import InputError
from sysvi._core.events import Event, OnEvent
from sysvi._core.interrupts import by_signal, catch_interrupts
from sysvi._core.parallel import n_parallel_workers, single_thread_pool
from sysvi._core.progress import as_callback, closing_bar
from sysvi._core.ranks import ALONE
from sysvi._core.settings import ModelSettings, Ramp, TrainSettings, as_ramp, random_seed
from sysvi.api.arguments import split_settings
from sysvi.api.sysvi import SysVI
from sysvi.data.columns import Columns
from sysvi.data.from_anndata import ModelData, check_writable, read_data, write_setup
from sysvi.training.loop import NonFiniteLossError
from sysvi.training.state import StateFile

MODELS_PER_GPU = 12  # trained in parallel: the short operations of one model's step leave most of a GPU idle

Value = TypeVar("Value", bound=Hashable)


class Combination(NamedTuple):
    """The seed and the settings in which the models of `train_many` differ."""

    seed: int
    cycle_weight: Ramp
    kl_weight: Ramp
    prior: str


def common_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that are not part of a combination, so that all models have them in common."""
    return {name: value for name, value in settings.items() if name not in Combination._fields}


@dataclass
class Run:
    """One of several models, with its seed and weights.

    Parameters
    ----------
    seed
        Random seed of the model.
    cycle_weight, kl_weight
        Loss weights at the end of training.
    model
        The model.
    error
        The error that ended training because the loss became non-finite; None: training did not fail. The model holds
        the weights of the last good epoch; without one it is untrained.
    """

    seed: int
    cycle_weight: float
    kl_weight: float
    model: SysVI
    error: NonFiniteLossError | None = None

    @property
    def prior(self) -> str:
        """Prior of the model."""
        return self.model.model_settings.prior

    @property
    def status(self) -> str:
        """How training ended: ``"finished"``, ``"stopped_early"``, ``"interrupted"`` or ``"failed"``."""
        return self.model.status if self.error is None else "failed"


def train_many(
    adata: AnnData,
    system_key: str,
    batch_key: str | None = None,
    *,
    seeds: Sequence[int] = (0, 1, 2),
    cycle_weights: Sequence[float | Ramp] = (TrainSettings.cycle_weight,),
    kl_weights: Sequence[float | Ramp] = (TrainSettings.kl_weight,),
    priors: Sequence[str] = (ModelSettings.prior,),
    layer: str | None = None,
    categorical_covariate_keys: Sequence[str] | None = None,
    continuous_covariate_keys: Sequence[str] | None = None,
    weight_systems: bool = False,
    device: str = "auto",
    progress: bool | OnEvent = True,
    on_run: Callable[[Run], object] = lambda run: None,
    **settings: Any,
) -> list[Run]:
    """Train a model for every combination of seed, cycle weight, KL weight and prior, on one copy of the data.

    On a CPU as many models are trained in parallel as torch has threads, each in one thread: several models keep all
    cores busy, but a single one is trained faster by :func:`sysvi.integrate` with ``members=1``. On an NVIDIA GPU up to
    twelve models are trained in parallel on the same cells, each in its own CUDA streams (measured with three).

    Each model equals that of :func:`sysvi.integrate` with ``members=1``, ``preset="mixing"`` (whose settings are the
    defaults of a single model) and the same settings, in every bit if torch has up to three threads. With more threads
    sums are rounded differently: models start equal up to rounding, and training amplifies these differences.

    Parameters
    ----------
    adata
        Log-normalised expression of all systems, cells x genes, as :func:`sysvi.prepare` returns it. The columns are
        written into ``uns["sysvi_setup"]``; no embedding is written.
    system_key, batch_key
        Columns of ``adata.obs`` with the systems and with the batches.
    seeds, cycle_weights, kl_weights, priors
        Values to combine. A weight is a number or a :class:`sysvi.Ramp`, as ``cycle_weight`` and ``kl_weight`` of
        :func:`sysvi.integrate`; a prior is ``"vamp"``, ``"gmm"`` or ``"standard_normal"``.
    layer, categorical_covariate_keys, continuous_covariate_keys, weight_systems, device
        As in :func:`sysvi.integrate`.
    progress
        True draws one progress bar for all models, False is silent, a function is called with each
        :class:`sysvi.Event` in the thread of the caller. Epochs, cells per second and seconds are totals of all models;
        an ``"epoch"`` event has the losses of one model, and its number, seed, weights and prior. A ``"model"`` event
        reports the end of one model.
    on_run
        Function called with each run when it ends, in the thread of the caller; for example to save the model.
    **settings
        Any other setting of :func:`sysvi.integrate`, the same for all models.

    Returns
    -------
    list of Run
        A run for each combination, by seed, then cycle weight, KL weight and prior, in the order given. A run that
        failed has an `error`; it does not end the others.

    Raises
    ------
    InputError
        For data or settings that cannot be used, before any training.

    Notes
    -----
    Ctrl-C (or a KeyboardInterrupt raised by `progress` or `on_run`) stops all models after their current step. They
    can be used and have ``status == "interrupted"``; models whose training had not begun are left out of the list. A
    second Ctrl-C raises KeyboardInterrupt, and no list is returned.

    Examples
    --------
    >>> import sysvi
    >>> adata = sysvi.prepare(sysvi.datasets.simulate_systems(300, 200, seed=1), "system", "batch", min_cells=3)
    >>> runs = sysvi.train_many(
    ...     adata, "system", "batch", seeds=[0, 1], cycle_weights=[2, 10], max_epochs=2, progress=False
    ... )
    >>> [(run.seed, run.cycle_weight) for run in runs]
    [(0, 2.0), (0, 10.0), (1, 2.0), (1, 10.0)]
    >>> runs[0].model.get_latent_representation().shape
    (300, 15)
    """
    check_types(train_many, on_run=on_run)
    refuse_single_values("train_many", settings)
    model_kwargs, train_kwargs = split_settings("train_many", settings)
    grid = combinations(seeds, cycle_weights, kl_weights, priors)
    columns = Columns.from_arguments(
        system_key,
        batch_key,
        layer=layer,
        categorical_covariate_keys=categorical_covariate_keys,
        continuous_covariate_keys=continuous_covariate_keys,
        weight_systems=weight_systems,
    )
    check_writable(adata)
    data = read_data(adata, columns)
    write_setup(adata, columns)
    return train_each(adata, data, grid, model_kwargs, train_kwargs, device, as_callback(progress), on_run)


def refuse_single_values(function: str, settings: Mapping[str, Any]) -> None:
    """An InputError if a setting that takes a list here, such as `seeds`, is given as a single value, `seed`."""
    for name in Combination._fields:
        if name in settings:
            raise InputError(f"{function} has no setting {name}: give a list, {name}s=[{settings[name]!r}].")


def combinations(
    seeds: Sequence[int],
    cycle_weights: Sequence[float | Ramp],
    kl_weights: Sequence[float | Ramp],
    priors: Sequence[str],
) -> list[Combination]:
    """Every combination of seed, cycle weight, KL weight and prior.

    Raises
    ------
    InputError
        If one of them is not a list, is empty, has a value twice or one that is not allowed.

    Examples
    --------
    >>> [(c.seed, c.cycle_weight.value) for c in combinations([0, 1], [2, 5], [1], ["vamp"])]
    [(0, 2.0), (0, 5.0), (1, 2.0), (1, 5.0)]
    """
    values = product(
        _distinct("seeds", seeds, lambda seed: random_seed(seed)),
        _distinct("cycle_weights", cycle_weights, lambda w: as_ramp(w, TrainSettings.cycle_weight, "cycle_weight")),
        _distinct("kl_weights", kl_weights, lambda w: as_ramp(w, TrainSettings.kl_weight, "kl_weight")),
        _distinct("priors", priors, lambda prior: ModelSettings(prior=prior).prior),
    )
    return list(starmap(Combination, values))


def train_each(
    adata: AnnData,
    data: ModelData,
    grid: Iterable[Combination],
    model_kwargs: Mapping[str, Any],
    train_kwargs: Mapping[str, Any],
    device: str,
    on_event: OnEvent,
    on_run: Callable[[Run], object] = lambda run: None,
    state_files: Iterable[StateFile | None] = (),
) -> list[Run]:
    """Train a model for each combination in `grid`, all on the same cells.

    Parameters
    ----------
    adata
        The AnnData from which `data` were read.
    data
        Columns, vocabulary and cells, as :func:`sysvi.data.from_anndata.read_data` returns them.
    grid
        Seed, weights and prior of each model.
    model_kwargs, train_kwargs
        Arguments of the models and of their training that all have in common.
    device, on_event, on_run
        As in :func:`train_many`.
    state_files
        The file of each model from which its training goes on and in which its state is kept; by default none.

    Returns
    -------
    list of Run
        A run for each combination whose training began, in the order of `grid`.
    """
    chosen = choose_device(device)
    runs: list[Run] = []
    trainers: list[Callable[..., None]] = []
    # Several processes train one model after the other, each together.
    n_parallel = n_parallel_models(chosen) if data.cells.ranks.size == 1 else 1
    with single_thread_pool(chosen, n_parallel) as pool:
        # Models are created with one torch thread too, as they encode the cells at which components of a mixture start.
        for (seed, cycle_weight, kl_weight, prior), state_file in zip_longest(grid, state_files):
            model = SysVI.from_data(adata, data, seed=seed, prior=prior, **model_kwargs)
            runs.append(Run(seed, cycle_weight.value, kl_weight.value, model))
            weights = {"cycle_weight": cycle_weight, "kl_weight": kl_weight}
            own = {"device": str(chosen), "state_file": state_file, **weights}
            trainers.append(partial(model.train, **{**train_kwargs, **own}))
        runs[0].model.to_device(chosen)  # moves the cells, which all models share
        events = _CombinedEvents(runs, min(n_parallel, len(runs)), on_event)
        return _train(pool, runs, trainers, events, on_run)


def train_extended(models: Sequence[SysVI], train_kwargs: Mapping[str, Any], device: str, on_event: OnEvent) -> None:
    """Train the new weights of extended models in parallel.

    After Ctrl-C, all have the status ``"interrupted"``; weights whose training had not begun are where they started.

    Raises
    ------
    sysvi.NonFiniteLossError
        If the loss of one of them is not finite.
    """
    chosen = choose_device(device)
    weights = [model.surgery.settings for model in models if model.surgery is not None]
    runs = [
        Run(model.seed, of_model["cycle_weight"].value, of_model["kl_weight"].value, model)
        for model, of_model in zip(models, weights, strict=True)
    ]
    trainers: list[Callable[..., None]] = [partial(model.train, device=str(chosen), **train_kwargs) for model in models]
    n_parallel = n_parallel_models(chosen)
    with single_thread_pool(chosen, n_parallel) as pool:
        runs[0].model.to_device(chosen)  # moves the cells, which all models share
        events = _CombinedEvents(runs, min(n_parallel, len(runs)), on_event)
        begun = _train(pool, runs, trainers, events, lambda run: None)
    if error := next((run.error for run in begun if run.error is not None), None):
        raise error
    if len(begun) < len(runs) or any(run.status == "interrupted" for run in runs):
        for model in models:
            model.status = "interrupted"


def n_parallel_models(device: torch.device) -> int:
    """How many models are trained in parallel on a device.

    Examples
    --------
    >>> n_parallel_models(torch.device("cpu")) == torch.get_num_threads(), n_parallel_models(torch.device("cuda"))
    (True, 12)
    """
    return MODELS_PER_GPU if device.type == "cuda" else n_parallel_workers(device)


def _train(
    pool: ThreadPoolExecutor,
    runs: Sequence[Run],
    trainers: Sequence[Callable[..., None]],
    events: _CombinedEvents,
    on_run: Callable[[Run], object],
) -> list[Run]:
    """Train each run in a thread of the pool; return the runs that began, which are always the first ones.

    The threads put events and ends of training into a queue; this thread reads it, so that callbacks are called here.
    """
    queue: SimpleQueue[tuple[int, Event | Future[bool]]] = SimpleQueue()  # number of a run, with its event or its end
    stop_requested = threading.Event()
    n_begun, n_unfinished = 0, len(runs)
    cells = runs[0].model.cells
    ranks = ALONE if cells is None else cells.ranks
    with closing_bar(events.on_event), catch_interrupts() as interrupted:

        def stop() -> bool:
            return stop_requested.is_set() or interrupted()

        def train_run(i: int) -> bool:
            """Train run `i`; returns whether training began."""
            if ranks.any(stop()):
                return False
            try:
                trainers[i](progress=lambda event: queue.put((i, event)), stop=stop)
            except NonFiniteLossError as error:
                runs[i].error = error
            return True

        try:
            for i in range(len(runs)):
                pool.submit(train_run, i).add_done_callback(partial(lambda i, future: queue.put((i, future)), i))
            while n_unfinished:
                i, item = queue.get()
                try:
                    if isinstance(item, Future):
                        n_unfinished -= 1
                        if item.result():
                            n_begun += 1
                            on_run(runs[i])  # before the event, so that an interrupt there does not lose the run
                            events.end_of_model(i)
                    elif not stop():
                        events.event_of_model(i, item)
                except KeyboardInterrupt:
                    if stop():
                        raise
                    stop_requested.set()
        finally:
            stop_requested.set()  # also after an error
    events.end(n_begun)
    return list(runs[:n_begun])


class _CombinedEvents:
    """Turns the events of single models into events of all models together."""

    def __init__(self, runs: Sequence[Run], n_parallel: int, on_event: OnEvent):
        self.runs, self.n_parallel, self.on_event = runs, n_parallel, on_event
        self.start = time.perf_counter()
        self.n_epochs = 0  # of one model
        self.n_cells = 0  # trained on in an epoch
        self.epochs_done = [0] * len(runs)  # by model
        self.epochs_here = 0  # of all models, without those before a training went on

    def event_of_model(self, i: int, event: Event) -> None:
        """Report the plan of the first model, and each epoch of model `i`."""
        if event.stage == "plan" and not self.n_epochs:
            self._report_plan(event.values)
        elif event.stage == "epoch":
            self.epochs_done[i] = event.values["epoch"]
            self.epochs_here += 1
            self._report_epoch(i, event.values["losses"])

    def _report_plan(self, plan: dict[str, Any]) -> None:
        n, self.n_epochs, self.n_cells = len(self.runs), plan["epochs"], plan["cells"]
        seconds = plan["expected_seconds"] * -(-n // self.n_parallel)
        message = (
            f"Training {n} models, {self.n_parallel} at a time, on {self.n_cells:,} cells x {plan['genes']:,} genes of "
            f"{plan['systems']} systems: {self.n_epochs} epochs each of {plan['steps_per_epoch']} minibatches of up "
            f"to {plan['batch_size']} cells, about {seconds:.0f} s."
        )
        totals = {
            "epochs": n * self.n_epochs,
            "expected_seconds": seconds,
            "models": n,
            "at_once": self.n_parallel,
        }
        self.on_event(Event("plan", message, plan | totals))

    def _report_epoch(self, i: int, losses: dict[str, float]) -> None:
        done, seconds = sum(self.epochs_done), time.perf_counter() - self.start
        total = len(self.runs) * self.n_epochs
        values = {
            "epoch": done,
            "epochs": total,
            "losses": losses,
            "cells_per_second": self.epochs_here * self.n_cells / seconds,
            "seconds_left": seconds / self.epochs_here * (total - done),
        }
        self.on_event(Event("epoch", values=values | self._describe(i)))

    def end_of_model(self, i: int) -> None:
        """Report that training of model `i` ended."""
        run = self.runs[i]
        self.epochs_done[i] = self.n_epochs  # epochs that early stopping left out count as done
        message = (
            f"Model {i + 1} of {len(self.runs)} (seed {run.seed}, cycle weight {run.cycle_weight:g}, "
            f"KL weight {run.kl_weight:g}, prior {run.prior}): {run.status.replace('_', ' ')}"
        )
        message += "." if run.error is None else f". {run.error}"
        self.on_event(Event("model", message, self._describe(i) | {"status": run.status}))

    def end(self, n_begun: int) -> None:
        """Report that all training ended, after `n_begun` models had begun."""
        n, seconds = len(self.runs), time.perf_counter() - self.start
        counts = Counter(run.status for run in self.runs[:n_begun])
        summary = ", ".join(f"{count} {status.replace('_', ' ')}" for status, count in counts.items())
        status = "interrupted" if counts["interrupted"] or n_begun < n else "finished"
        message = f"{n_begun} of {n} models in {seconds:.1f} s: {summary}."
        if status == "interrupted":
            message = f"Interrupted{by_signal()}: {message}"
        values = {"status": status, "models": n, "begun": n_begun, "failed": counts["failed"], "seconds": seconds}
        self.on_event(Event("end", message, values))

    def _describe(self, i: int) -> dict[str, Any]:
        """Number of model `i`, its seed, weights and prior."""
        run = self.runs[i]
        settings = {"seed": run.seed, "cycle_weight": run.cycle_weight, "kl_weight": run.kl_weight, "prior": run.prior}
        return {"model": i + 1, "models": len(self.runs)} | settings


def _distinct(name: str, values: Iterable, read: Callable[[Any], Value]) -> list[Value]:
    """The values of list `name`, each checked by `read`; an InputError if there are none or one occurs twice."""
    if isinstance(values, (str, Ramp)) or not isinstance(values, Iterable):
        raise InputError(f"{name} is {values!r}; give a list: {name}=[{values!r}].")
    checked = [read(value) for value in values]
    if not checked or len(set(checked)) < len(checked):
        raise InputError(f"{name} is {values!r}; give at least one value, and none twice.")
    return checked
