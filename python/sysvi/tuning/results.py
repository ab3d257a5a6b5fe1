"""The results of the runs of a tuning, kept in memory or in a folder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from anndata import AnnData

from sysvi.api.ensemble import Ensemble
from sysvi.api.sysvi import SysVI
from sysvi.api.train_many import Combination, Run
from sysvi.tuning.criterion import Criterion
from sysvi.tuning.run_store import RunStore

SETTING = ["cycle_weight", "kl_weight", "prior"]  # columns that make up a setting; its runs differ in the seed


class RunKey(NamedTuple):
    """Setting and seed, which identify a run of a tuning; weights are those at the end of training."""

    cycle_weight: float
    kl_weight: float
    prior: str
    seed: int

    @classmethod
    def from_combination(cls, combination: Combination) -> RunKey:
        """The key of a run that is to be made."""
        return cls(combination.cycle_weight.value, combination.kl_weight.value, combination.prior, combination.seed)

    @classmethod
    def from_run(cls, run: Run) -> RunKey:
        """The key of a run that has ended."""
        return cls(run.cycle_weight, run.kl_weight, run.prior, run.seed)

    @property
    def name(self) -> str:
        """Name of the run and of its folder."""
        weights = f"cycle{_format_weight(self.cycle_weight)}_kl{_format_weight(self.kl_weight)}"
        return f"{self.prior}_{weights}_seed{self.seed}"


class RunResult(NamedTuple):
    """How a run ended, its metrics (none if it failed or was interrupted), and why it failed."""

    status: str
    metrics: dict[str, float]
    reason: str = ""


class RunResults:
    """Results of runs by their keys.

    Parameters
    ----------
    adata
        Cells of the tuning.
    criterion
        Criterion by which embeddings are measured.
    store
        Folder in which runs are kept; None to keep them in memory.
    """

    def __init__(self, adata: AnnData, criterion: Criterion, store: RunStore | None):
        self.adata, self.criterion, self.store = adata, criterion, store
        self.results: dict[RunKey, RunResult] = {}
        self.models: dict[RunKey, SysVI] = {}  # if there is no folder

    def read_finished(self, keys: Sequence[RunKey]) -> None:
        """Read the finished runs among `keys` from the folder; measure those measured by another criterion."""
        if self.store is None:
            return
        for key in keys:
            stored = self.store.read(key.name, self.criterion.fingerprint)
            if stored is None:
                continue
            metrics = stored.metrics
            if metrics is None:
                metrics = self.criterion.measure(stored.embedding)
                self.store.write_result(key.name, stored.status, self.criterion.fingerprint, metrics)
            self.results[key] = RunResult(stored.status, metrics)

    def add(self, run: Run) -> None:
        """Keep and measure a run that has just ended; one that failed or was interrupted is only listed."""
        key = RunKey.from_run(run)
        metrics: dict[str, float] = {}
        if run.status in ("finished", "stopped_early"):
            embedding = np.asarray(run.model.get_latent_representation())
            if self.store is None:
                self.models[key] = run.model
            else:
                self.store.write_model(key.name, run.model, embedding)
            metrics = self.criterion.measure(embedding)
            if self.store is not None:
                self.store.write_result(key.name, run.status, self.criterion.fingerprint, metrics)
        self.results[key] = RunResult(run.status, metrics, "" if run.error is None else str(run.error))

    def table(self, keys: Sequence[RunKey]) -> pd.DataFrame:
        """One row for each of the runs `keys`: setting, seed, status, why it failed, and metrics."""
        results = [(key, self.results[key]) for key in keys]
        return pd.DataFrame(
            [
                {**key._asdict(), "status": result.status, "reason": result.reason, **result.metrics}
                for key, result in results
            ]
        )

    def model(self, keys: Sequence[RunKey], seed: int, device: str) -> SysVI | Ensemble:
        """The ensemble of finished runs, with a seed of its own; the run's model if it is a single run."""
        if self.store is None:
            models = [self.models[key] for key in keys]
        else:
            models = self.store.load_models([key.name for key in keys], self.adata, device)
        return models[0] if len(models) == 1 else Ensemble(models, seed)


def _format_weight(weight: float) -> str:
    """The shortest text that distinguishes a weight from every other number."""
    return f"{weight:g}" if float(f"{weight:g}") == weight else repr(weight)
