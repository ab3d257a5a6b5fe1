"""What the scripts of the paper's findings share: models trained once, embeddings kept, and how they are measured."""

import hashlib
import sys
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).parents[1]))  # the other benchmarks' modules

import data
from common import CACHE, RESULTS

import sysvi
from sysvi.yardstick import Yardstick

FOLDER = CACHE / "paper"
MIN_CELLS = {"baron": 200, "kang": 60, "hard": 100}  # of a group for Moran's I
EPOCHS = {"baron": 150, "kang": 150, "hard": 120}  # shorter than by default, the same for all models of a data set
TITLES = {"baron": "Baron islets, human and mouse", "kang": "Kang, control and stimulated", "hard": "hard simulation"}


class DataSet:
    """A data set, its labels, and models of it."""

    def __init__(self, name: str):
        self.name = name
        self.adata = anndata.read_h5ad(getattr(data, name)())
        self.system, self.batch, self.label = (
            self.adata.obs[key].to_numpy().astype(str).astype(object) for key in ("system", "batch", "cell_type")
        )
        rows = np.arange(self.adata.n_obs)
        self.yardstick = Yardstick.of(
            self.adata.X, rows, self.system, self.batch, self.label, min_cells=MIN_CELLS[name]
        )

    def embeddings(self, seeds: tuple[int, ...], variant: str = "", **settings: Any) -> list[np.ndarray]:
        """One embedding a seed, trained side by side where the cache has none; `variant` names what settings do not."""
        settings = {"max_epochs": EPOCHS[self.name], **settings}
        what = hashlib.sha256(repr((variant, sorted(settings.items()))).encode()).hexdigest()[:10]
        paths = {seed: FOLDER / f"{self.name}_{what}_{seed}.npy" for seed in seeds}
        missing = [seed for seed, path in paths.items() if not path.exists()]
        if missing:
            FOLDER.mkdir(parents=True, exist_ok=True)
            weights = {f"{name}s": [settings.pop(name)] for name in ("cycle_weight", "kl_weight") if name in settings}

            def keep(run: sysvi.Run) -> None:
                np.save(paths[run.seed], run.model.get_latent_representation())

            sysvi.train_many(
                self.adata, "system", "batch", seeds=missing, progress=False, on_run=keep, **weights, **settings
            )
        return [np.load(path) for path in paths.values()]

    def measured(self, seeds: tuple[int, ...], named: dict[str, Any], **settings: Any) -> list[dict[str, Any]]:
        """A row a seed: what the row is called by, and its measures."""
        embeddings = self.embeddings(seeds, **settings)
        rows = []
        for seed, z in zip(seeds, embeddings, strict=True):
            rows.append({"data": self.name, **named, "seed": seed, **self.yardstick.measure(z)})
            print({name: round(v, 3) if isinstance(v, float) else v for name, v in rows[-1].items()}, flush=True)
        return rows


def save(rows: list[dict[str, Any]], name: str) -> pd.DataFrame:
    """Write results/paper_<name>.csv."""
    table = pd.DataFrame(rows)
    table.to_csv(RESULTS / f"paper_{name}.csv", index=False, float_format="%.4f")
    return table
