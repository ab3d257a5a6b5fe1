"""Shared by the scripts of the paper's findings: data sets with cached embeddings, metrics, tables and figures."""

import hashlib
import sys
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

sys.path.insert(0, str(Path(__file__).parents[1]))  # for the modules of the other benchmarks

import data
from common import CACHE, RESULTS

import sysvi
from sysvi._core.settings import ModelSettings, TrainSettings, default_batch_size, default_lr, default_max_epochs
from sysvi.data.cells import n_minibatches
from sysvi.data.labels import read_labels
from sysvi.model.priors import StandardNormal
from sysvi.tuning.criterion import Criterion

FOLDER, FIGURES = CACHE / "paper", Path(__file__).parent / "figures"
KL_RAMP = sysvi.Ramp(1.0, 0.0, 0.1)  # the KL weight rises over the first tenth of training
AT_ONCE = {"mixture_share": sysvi.Ramp(1.0)}  # the mixture prior from the first step, as in the paper
MIN_CELLS = {
    "baron": 200,
    "kang": 60,
    "hard": 100,
    "held_out": 100,
    "demo": 50,
    "malaria": 200,
    "protocols": 20,
}  # fewest cells of a group for Moran's I
TITLES = {
    "baron": "Baron islets, human and mouse",
    "kang": "Kang, control and stimulated",
    "hard": "hard simulation",
    "held_out": "held-out simulation, three systems",
    "demo": "the demo's cells",
    "malaria": "malaria parasites, two species by two protocols",
    "protocols": "human islets, four protocols",
}


class DataSet:
    """A data set, its labels, and the embeddings of models trained on it (cached)."""

    def __init__(self, name: str):
        self.name = name
        self.adata = anndata.read_h5ad(getattr(data, name)())
        self.system, self.batch = (
            self.adata.obs[key].to_numpy().astype(str).astype(object) for key in ("system", "batch")
        )
        label, is_labelled = read_labels(self.adata, "cell_type")
        self.label = np.where(is_labelled, label, "").astype(object)
        rows = np.arange(self.adata.n_obs)
        self.criterion = Criterion.from_cells(
            self.adata.X, rows, self.system, self.batch, self.label, min_cells=MIN_CELLS[name]
        )

    def embeddings(
        self, seeds: tuple[int, ...], variant: str = "", length: float = 1.0, **settings: Any
    ) -> list[np.ndarray]:
        """Embeddings (cells x latent dimensions) of models with some settings, one for each seed.

        Models that the cache lacks are trained, several at a time. `variant` distinguishes models that differ in more
        than their settings; `length` is the number of epochs relative to the default.
        """
        paths = self._paths(seeds, variant, length, settings)
        missing = [seed for seed, path in paths.items() if not path.exists()]
        if missing:
            FOLDER.mkdir(parents=True, exist_ok=True)
            others = {**settings, "max_epochs": self._epochs(length, settings)}
            weights = {
                f"{name}s": [others.pop(name)] for name in ("cycle_weight", "kl_weight", "prior") if name in others
            }

            def write_run(run: sysvi.Run) -> None:
                if not isinstance(run.model.module.prior, StandardNormal):
                    components = sysvi.prior_components(run.model, self.adata, "cell_type")
                    components.table.to_csv(paths[run.seed].with_suffix(".csv"))
                np.save(paths[run.seed], run.model.get_latent_representation())

            sysvi.train_many(
                self.adata, "system", "batch", seeds=missing, progress=False, on_run=write_run, **weights, **others
            )
        return [np.load(path) for path in paths.values()]

    def components(self, seeds: tuple[int, ...], length: float = 1.0, **settings: Any) -> list[pd.DataFrame]:
        """For each model of `embeddings`, a table with a row for each component of its prior."""
        self.embeddings(seeds, "", length, **settings)
        return [pd.read_csv(path.with_suffix(".csv")) for path in self._paths(seeds, "", length, settings).values()]

    def _epochs(self, length: float, settings: dict[str, Any]) -> int:
        batch_size = settings.get("batch_size", default_batch_size(self.adata.n_obs))
        steps = n_minibatches(self.adata.n_obs, batch_size)
        return round(length * default_max_epochs(steps, default_lr(batch_size)))

    def _paths(self, seeds: tuple[int, ...], variant: str, length: float, settings: dict[str, Any]) -> dict[int, Path]:
        settings = {**settings, "max_epochs": self._epochs(length, settings)}
        model = {name: value for name, value in settings.items() if name in ModelSettings.__dataclass_fields__}
        training = {name: value for name, value in settings.items() if name not in model}
        everything = variant, ModelSettings(**model), TrainSettings(**training)  # with defaults, which may change
        digest = hashlib.sha256(repr(everything).encode()).hexdigest()[:10]
        return {seed: FOLDER / f"{self.name}_{digest}_{seed}.npy" for seed in seeds}

    def private_mixed(self, z: np.ndarray) -> float:
        """How far private cell types are mixed with other systems: 0 (not at all, as they should) to 1 (fully).

        NaN if there is no private type.
        """
        private = self.criterion.private_groups(z)
        if private.empty:
            return float("nan")
        return float((private["foreign_neighbors"] * private["n_cells"]).sum() / private["n_cells"].sum())

    def measured(self, seeds: tuple[int, ...], named: dict[str, Any], **settings: Any) -> list[dict[str, Any]]:
        """One row for each seed: data set, the columns `named`, seed and metrics."""
        embeddings = self.embeddings(seeds, **settings)
        rows = []
        for seed, z in zip(seeds, embeddings, strict=True):
            rows.append({"data": self.name, **named, "seed": seed, **self.criterion.measure(z)})
            print({name: round(v, 3) if isinstance(v, float) else v for name, v in rows[-1].items()}, flush=True)
        return rows


def panels(names: list[str], n_rows: int, **options: Any) -> tuple[Figure, np.ndarray]:
    """A figure with a titled column of axes for each data set; the axes have shape (n_rows, data sets)."""
    height = options.pop("height", 2.9 * n_rows)
    figure = Figure(figsize=(4.2 * len(names), height), layout="constrained")
    axes = figure.subplots(n_rows, len(names), squeeze=False, **options)
    for ax in axes.flat:
        ax.grid(color="0.92")
        ax.set_axisbelow(True)
        ax.spines[["top", "right"]].set_visible(False)
    for ax, name in zip(axes[0], names, strict=True):
        ax.set_title(TITLES[name])
    return figure, axes


def set_log_ticks(ax: Axes, values: tuple[float, ...]) -> None:
    """Use a logarithmic x axis with ticks at the given values only."""
    ax.set_xscale("log")
    ax.set_xticks(values, [f"{value:g}" for value in values])
    ax.set_xticks([], minor=True)


def save_figure(figure: Figure, name: str) -> None:
    """Write figures/<name>.png."""
    FIGURES.mkdir(exist_ok=True)
    figure.savefig(FIGURES / f"{name}.png", dpi=110)


def save_table(rows: list[dict[str, Any]] | pd.DataFrame, name: str) -> pd.DataFrame:
    """Write results/paper_<name>.csv, one row for each run."""
    table = pd.DataFrame(rows)
    table.to_csv(RESULTS / f"paper_{name}.csv", index=False, float_format="%.4f")
    return table
