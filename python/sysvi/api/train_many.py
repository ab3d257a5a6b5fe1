"""Several models at once, over one copy of the cells."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import product, starmap
from queue import SimpleQueue
from typing import Any, NamedTuple, TypeVar

import torch
from anndata import AnnData

from sysvi._core.device import choose_device
from sysvi._core.errors import InputError
from sysvi._core.events import Event, OnEvent
from sysvi._core.parallel import n_parallel_workers, single_thread_pool
from sysvi._core.progress import as_callback
from sysvi._core.settings import ModelSettings, Prior, Ramp, TrainSettings, as_ramp, whole_number
from sysvi.api.integrate import split_settings, with_batch
from sysvi.api.sysvi import SysVI
from sysvi.training.loop import NonFiniteLossError, catch_interrupts

MODELS_ON_A_CARD = 12  # side by side: the short operations of one model's step leave most of a card idle

Value = TypeVar("Value", bound=Hashable)


class Combination(NamedTuple):
    """What models differ in."""

    seed: int
    cycle_weight: Ramp
    kl_weight: Ramp
    prior: Prior


@dataclass
class Run:
    """One of several models, and what is its own.

    Parameters
    ----------
    seed
        The model's seed.
    cycle_weight, kl_weight
        The weights at the end of training.
    model
        The model.
    error
        Why training failed: the loss became non-finite. The model is then of the last good epoch; if there was none,
        it is untrained.
    """

    seed: int
    cycle_weight: float
    kl_weight: float
    model: SysVI
    error: NonFiniteLossError | None = None

    @property
    def prior(self) -> Prior:
        """The model's prior."""
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
    priors: Sequence[Prior] = (ModelSettings.prior,),
    layer: str | None = None,
    categorical_covariate_keys: Sequence[str] | None = None,
    continuous_covariate_keys: Sequence[str] | None = None,
    weight_systems: bool = False,
    device: str = "auto",
    progress: bool | OnEvent = True,
    on_run: Callable[[Run], object] = lambda run: None,
    **settings: Any,
) -> list[Run]:
    """Train a model for every seed, cycle weight, KL weight and prior, over one copy of the data.

    On a CPU as many models train side by side as torch has threads, each in one thread, so that no core waits for
    another: several models keep all cores busy, but a single one trains sooner by :func:`sysvi.integrate`. On an
    NVIDIA card up to twelve train side by side from the same cells there, each in streams of its own (three were
    tried).

    Each model is the one that :func:`sysvi.integrate` gives with the same settings, to the bit where torch has up to
    three threads. With more threads sums are rounded otherwise: models start equal to rounding, and training makes
    such differences larger.

    Parameters
    ----------
    adata
        Log-normalised expression of all systems, cells x genes, as :func:`sysvi.prepare` gives it. Gets
        ``uns["sysvi_setup"]`` and no embedding.
    system_key, batch_key
        Columns of ``adata.obs`` with the systems and with the batches.
    seeds, cycle_weights, kl_weights, priors
        What the models differ in. A weight is a number or a :class:`sysvi.Ramp`, as the ``cycle_weight`` and the
        ``kl_weight`` of :func:`sysvi.integrate`; a prior is ``"vamp"``, ``"gmm"`` or ``"standard_normal"``.
    layer, categorical_covariate_keys, continuous_covariate_keys, weight_systems, device
        As in :func:`sysvi.integrate`.
    progress
        True draws one progress bar for all models, False is silent, a function gets each :class:`sysvi.Event` in the
        thread of the caller. Epochs, cells per second and seconds are those of all models together; an ``"epoch"``
        has the losses of the model that did it, and its number, seed, weights and prior. ``"model"`` tells that one
        ended.
    on_run
        Called with each run as it ends, in the thread of the caller; for instance to save it.
    **settings
        Any other setting of :func:`sysvi.integrate`, the same for all models.

    Returns
    -------
    list of Run
        One for each combination, by seed, then cycle weight, KL weight and prior, in the order given. A run that failed
        has its `error`; it does not end the others.

    Raises
    ------
    InputError
        For data or settings that cannot be used, before any training.

    Notes
    -----
    Ctrl-C (or a KeyboardInterrupt that `progress` or `on_run` raises) stops all models after their current step: they
    are usable, with ``status == "interrupted"``; models not yet begun are left out of the list. A second one raises
    KeyboardInterrupt and gives no list.

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
    refuse_single_values("train_many", settings)
    of_model, of_training = split_settings("train_many", settings)
    runs = combinations(seeds, cycle_weights, kl_weights, priors)
    categorical = with_batch(batch_key, categorical_covariate_keys)
    SysVI.setup_anndata(adata, system_key, layer, categorical, continuous_covariate_keys, weight_systems)
    return train_each(adata, runs, of_model, of_training, device, as_callback(progress), on_run)


def refuse_single_values(function: str, settings: Mapping[str, Any]) -> None:
    """An InputError where a setting that models differ in is given as a single one."""
    for one in Combination._fields:
        if one in settings:
            raise InputError(f"{function} has no setting {one}: give a list, {one}s=[{settings[one]!r}].")


def combinations(
    seeds: Sequence[int],
    cycle_weights: Sequence[float | Ramp],
    kl_weights: Sequence[float | Ramp],
    priors: Sequence[Prior],
) -> list[Combination]:
    """Every seed with every cycle weight, every KL weight and every prior, checked.

    Examples
    --------
    >>> [(one.seed, one.cycle_weight.value) for one in combinations([0, 1], [2, 5], [1], ["vamp"])]
    [(0, 2.0), (0, 5.0), (1, 2.0), (1, 5.0)]
    """
    return list(
        starmap(
            Combination,
            product(
                _different("seeds", seeds, lambda seed: whole_number("seed", seed, 0)),
                _different(
                    "cycle_weights", cycle_weights, lambda w: as_ramp(w, TrainSettings.cycle_weight, "cycle_weight")
                ),
                _different("kl_weights", kl_weights, lambda w: as_ramp(w, TrainSettings.kl_weight, "kl_weight")),
                _different("priors", priors, lambda prior: ModelSettings(prior=prior).prior),
            ),
        )
    )


def train_each(
    adata: AnnData,
    grid: Iterable[Combination],
    of_model: Mapping[str, Any],
    of_training: Mapping[str, Any],
    device: str,
    on_event: OnEvent,
    on_run: Callable[[Run], object],
) -> list[Run]:
    """The models of `train_many`, of any combinations: `adata` is set up, and settings are sorted."""
    chosen = choose_device(device)
    runs: list[Run] = []
    trainers: list[Callable[..., None]] = []
    at_once = n_parallel_models(chosen)
    with single_thread_pool(chosen, at_once) as pool:
        # Models start in one thread too: a mixture's components are encoded cells.
        for seed, cycle, kl, prior in grid:
            model = SysVI(adata, seed=seed, prior=prior, _beside=runs[0].model if runs else None, **of_model)
            runs.append(Run(seed, cycle.value, kl.value, model))
            own = {**of_training, "device": str(chosen), "cycle_weight": cycle, "kl_weight": kl}
            trainers.append(partial(model.train, **own))
        runs[0].model.to_device(chosen)  # and the cells, once for all
        story = _Story(runs, min(at_once, len(runs)), on_event)
        return _train(pool, runs, trainers, story, on_run)


def n_parallel_models(device: torch.device) -> int:
    """How many models train side by side on a device.

    Examples
    --------
    >>> n_parallel_models(torch.device("cpu")) == torch.get_num_threads(), n_parallel_models(torch.device("cuda"))
    (True, 12)
    """
    return MODELS_ON_A_CARD if device.type == "cuda" else n_parallel_workers(device)


def _train(
    pool: ThreadPoolExecutor,
    runs: Sequence[Run],
    trainers: Sequence[Callable[..., None]],
    story: _Story,
    on_run: Callable[[Run], object],
) -> list[Run]:
    """Call the trainer of each run in a thread of the pool; the runs that were begun, always the first ones."""
    happened: SimpleQueue[tuple[int, Event | Future[bool]]] = SimpleQueue()  # number of the run, event or its end
    told_to_stop = threading.Event()
    n_begun, n_open = 0, len(runs)
    with catch_interrupts() as interrupted:

        def stop() -> bool:
            return told_to_stop.is_set() or interrupted()

        def work(i: int) -> bool:
            """Whether the run was begun."""
            if stop():
                return False
            try:
                trainers[i](progress=lambda event: happened.put((i, event)), stop=stop)
            except NonFiniteLossError as error:
                runs[i].error = error
            return True

        try:
            for i in range(len(runs)):
                pool.submit(work, i).add_done_callback(partial(lambda i, end: happened.put((i, end)), i))
            while n_open:
                i, what = happened.get()
                try:
                    if isinstance(what, Future):
                        n_open -= 1
                        if what.result():
                            n_begun += 1
                            on_run(runs[i])  # first: an interrupt at the event must not lose it
                            story.model_ends(i)
                    elif not stop():
                        story.goes_on(i, what)
                except KeyboardInterrupt:
                    if stop():
                        raise
                    told_to_stop.set()
        finally:
            told_to_stop.set()  # also when this ends by an error
    story.ends(n_begun)
    return list(runs[:n_begun])


class _Story:
    """Events of single runs in, events of all together out."""

    def __init__(self, runs: Sequence[Run], at_once: int, on_event: OnEvent):
        self.runs, self.at_once, self.on_event = runs, at_once, on_event
        self.start = time.perf_counter()
        self.epochs = 0  # of one run
        self.cells = 0  # that an epoch trains on
        self.done = [0] * len(runs)  # epochs of each run

    def goes_on(self, i: int, event: Event) -> None:
        """Run i has told its plan or an epoch."""
        if event.stage == "plan" and not self.epochs:
            self._plan(event.values)
        elif event.stage == "epoch":
            self.done[i] = event.values["epoch"]
            self._epoch(i, event.values["losses"])

    def _plan(self, values: dict[str, Any]) -> None:
        n, self.epochs, self.cells = len(self.runs), values["epochs"], values["cells"]
        seconds = values["expected_seconds"] * -(-n // self.at_once)
        message = (
            f"Training {n} models, {self.at_once} at a time, on {self.cells:,} cells x {values['genes']:,} genes of "
            f"{values['systems']} systems: {self.epochs} epochs each of {values['steps_per_epoch']} minibatches of up "
            f"to {values['batch_size']} cells, about {seconds:.0f} s."
        )
        of_all = {"epochs": n * self.epochs, "expected_seconds": seconds, "models": n, "at_once": self.at_once}
        self.on_event(Event("plan", message, values | of_all))

    def _epoch(self, i: int, losses: dict[str, float]) -> None:
        done, seconds = sum(self.done), time.perf_counter() - self.start
        epochs = len(self.runs) * self.epochs
        values = {
            "epoch": done,
            "epochs": epochs,
            "losses": losses,
            "cells_per_second": done * self.cells / seconds,
            "seconds_left": seconds / done * (epochs - done),
        }
        self.on_event(Event("epoch", values=values | self._which(i)))

    def model_ends(self, i: int) -> None:
        """Run i has ended."""
        run = self.runs[i]
        self.done[i] = self.epochs  # early stopping leaves out the rest
        message = (
            f"Model {i + 1} of {len(self.runs)} (seed {run.seed}, cycle weight {run.cycle_weight:g}, "
            f"KL weight {run.kl_weight:g}, prior {run.prior}): {run.status.replace('_', ' ')}"
        )
        message += "." if run.error is None else f". {run.error}"
        self.on_event(Event("model", message, self._which(i) | {"status": run.status}))

    def ends(self, n_begun: int) -> None:
        """All runs have ended, or will not begin."""
        n, seconds = len(self.runs), time.perf_counter() - self.start
        counts = Counter(run.status for run in self.runs[:n_begun])
        how = ", ".join(f"{count} {status.replace('_', ' ')}" for status, count in counts.items())
        status = "interrupted" if counts["interrupted"] or n_begun < n else "finished"
        message = f"{n_begun} of {n} models in {seconds:.1f} s: {how}."
        values = {"status": status, "models": n, "begun": n_begun, "failed": counts["failed"], "seconds": seconds}
        self.on_event(Event("end", message, values))

    def _which(self, i: int) -> dict[str, Any]:
        run = self.runs[i]
        own = {"seed": run.seed, "cycle_weight": run.cycle_weight, "kl_weight": run.kl_weight, "prior": run.prior}
        return {"model": i + 1, "models": len(self.runs)} | own


def _different(name: str, values: Iterable, read: Callable[[Any], Value]) -> list[Value]:
    """The values of a list, each read by `read`; an InputError where there are none or some twice."""
    if isinstance(values, (str, Ramp)) or not isinstance(values, Iterable):
        raise InputError(f"{name} is {values!r}; give a list: {name}=[{values!r}].")
    known = [read(value) for value in values]
    if not known or len(set(known)) < len(known):
        raise InputError(f"{name} is {values!r}; give at least one value, and none twice.")
    return known
