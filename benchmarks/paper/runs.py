"""What the scripts of the paper's findings share: models trained once, embeddings kept, measures, and panels."""

import hashlib
import sys
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

sys.path.insert(0, str(Path(__file__).parents[1]))  # the other benchmarks' modules

import data
from common import CACHE, RESULTS

import sysvi
from sysvi._core.settings import ModelSettings, TrainSettings, default_batch_size, default_lr, default_max_epochs
from sysvi.data.cells import n_minibatches
from sysvi.model.priors import StandardNormal
from sysvi.tuning.criterion import Criterion

FOLDER, FIGURES = CACHE / "paper", Path(__file__).parent / "figures"
KL_RAMP = sysvi.Ramp(1.0, 0.0, 0.1)  # the KL weight rises over the first tenth of training
AT_ONCE = {"mixture_share": sysvi.Ramp(1.0)}  # the prior is the mixture from the first step, as in the paper
MIN_CELLS = {"baron": 200, "kang": 60, "hard": 100, "held_out": 100, "demo": 50}  # of a group for Moran's I
TITLES = {
    "baron": "Baron islets, human and mouse",
    "kang": "Kang, control and stimulated",
    "hard": "hard simulation",
    "held_out": "held-out simulation, three systems",
    "demo": "the demo's cells",
}


class DataSet:
    """A data set, its labels, and models of it."""

    def __init__(self, name: str):
        self.name = name
        self.adata = anndata.read_h5ad(getattr(data, name)())
        self.system, self.batch, self.label = (
            self.adata.obs[key].to_numpy().astype(str).astype(object) for key in ("system", "batch", "cell_type")
        )
        rows = np.arange(self.adata.n_obs)
        self.criterion = Criterion.of(
            self.adata.X, rows, self.system, self.batch, self.label, min_cells=MIN_CELLS[name]
        )

    def embeddings(
        self, seeds: tuple[int, ...], variant: str = "", length: float = 1.0, **settings: Any
    ) -> list[np.ndarray]:
        """One embedding a seed, trained side by side where the cache has none.

        `variant` names what settings do not; `length` is that of training, over the default.
        """
        paths = self._paths(seeds, variant, length, settings)
        missing = [seed for seed, path in paths.items() if not path.exists()]
        if missing:
            FOLDER.mkdir(parents=True, exist_ok=True)
            others = {**settings, "max_epochs": self._epochs(length, settings)}
            weights = {
                f"{name}s": [others.pop(name)] for name in ("cycle_weight", "kl_weight", "prior") if name in others
            }

            def keep(run: sysvi.Run) -> None:
                if not isinstance(run.model.module.prior, StandardNormal):
                    found = sysvi.prior_components(run.model, self.adata, "cell_type")
                    found.table.to_csv(paths[run.seed].with_suffix(".csv"))
                np.save(paths[run.seed], run.model.get_latent_representation())

            sysvi.train_many(
                self.adata, "system", "batch", seeds=missing, progress=False, on_run=keep, **weights, **others
            )
        return [np.load(path) for path in paths.values()]

    def components(self, seeds: tuple[int, ...], length: float = 1.0, **settings: Any) -> list[pd.DataFrame]:
        """Of each model of `embeddings`, a row for each component of its prior."""
        self.embeddings(seeds, "", length, **settings)
        return [pd.read_csv(path.with_suffix(".csv")) for path in self._paths(seeds, "", length, settings).values()]

    def _epochs(self, length: float, settings: dict[str, Any]) -> int:
        batch_size = settings.get("batch_size", default_batch_size(self.adata.n_obs))
        steps = n_minibatches(self.adata.n_obs, batch_size)
        return round(length * default_max_epochs(steps, default_lr(batch_size)))

    def _paths(self, seeds: tuple[int, ...], variant: str, length: float, settings: dict[str, Any]) -> dict[int, Path]:
        settings = {**settings, "max_epochs": self._epochs(length, settings)}
        of_model = {name: value for name, value in settings.items() if name in ModelSettings.__dataclass_fields__}
        of_training = {name: value for name, value in settings.items() if name not in of_model}
        everything = variant, ModelSettings(**of_model), TrainSettings(**of_training)  # so that a new default is seen
        what = hashlib.sha256(repr(everything).encode()).hexdigest()[:10]
        return {seed: FOLDER / f"{self.name}_{what}_{seed}.npy" for seed in seeds}

    def private_mixed(self, z: np.ndarray) -> float:
        """Neighbours from other systems of cells whose type is in one system only: 1 is full mixing, 0 is right."""
        private = self.criterion.private_groups(z)
        return float((private["foreign"] * private["cells"]).sum() / max(private["cells"].sum(), 1))

    def measured(self, seeds: tuple[int, ...], named: dict[str, Any], **settings: Any) -> list[dict[str, Any]]:
        """A row a seed: what the row is called by, and its measures."""
        embeddings = self.embeddings(seeds, **settings)
        rows = []
        for seed, z in zip(seeds, embeddings, strict=True):
            rows.append({"data": self.name, **named, "seed": seed, **self.criterion.measure(z)})
            print({name: round(v, 3) if isinstance(v, float) else v for name, v in rows[-1].items()}, flush=True)
        return rows


def panels(names: list[str], n_rows: int, **options: Any) -> tuple[Figure, np.ndarray]:
    """A figure with a column of axes for each data set, titled; axes are (n_rows, sets)."""
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


def mark(ax: Axes, weights: tuple[float, ...]) -> None:
    """Ticks at the weights and nowhere else, on a logarithmic scale."""
    ax.set_xscale("log")
    ax.set_xticks(weights, [f"{w:g}" for w in weights])
    ax.set_xticks([], minor=True)


def draw(figure: Figure, name: str) -> None:
    """Write figures/<name>.png."""
    FIGURES.mkdir(exist_ok=True)
    figure.savefig(FIGURES / f"{name}.png", dpi=110)


def save(rows: list[dict[str, Any]] | pd.DataFrame, name: str) -> pd.DataFrame:
    """Write results/paper_<name>.csv, a row a run."""
    table = pd.DataFrame(rows)
    table.to_csv(RESULTS / f"paper_{name}.csv", index=False, float_format="%.4f")
    return table
