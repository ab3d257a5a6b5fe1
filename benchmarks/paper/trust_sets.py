"""The data sets of the study of trust (trust.py): real cells, parts of them, and a family of random simulations.

    python benchmarks/paper/trust_sets.py            names, sizes and systems of all sets
    python benchmarks/paper/trust_sets.py baron      make one set

Each set is prepared once, as a user would (`sysvi.prepare` at its defaults), and kept in benchmarks/.cache/trust. The
settings of the family are drawn from a fixed seed, which was chosen before any result was seen.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import anndata
import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).parents[1]))  # for the modules of the other benchmarks

import data
from common import CACHE

import sysvi

HERE = Path(__file__).parents[1]
FOLDER = CACHE / "trust"
FAMILY_SEED, FAMILY_SIZE = 20261128, 24


# Few shared types: of Baron's cells, each species keeps five types, and only beta and ductal cells are in both.
FEW_SHARED = {
    "human": ["beta", "ductal", "acinar", "alpha", "gamma"],
    "mouse": ["beta", "ductal", "delta", "endothelial", "macrophage"],
}


def _read(name: str) -> anndata.AnnData:
    return anndata.read_h5ad(data._counts(name))


def _sample(adata: anndata.AnnData, n: int) -> anndata.AnnData:
    return adata[np.sort(np.random.default_rng(0).choice(adata.n_obs, n, replace=False))].copy()


def _few_shared() -> anndata.AnnData:
    adata = _read("baron_pancreas")
    keep = np.zeros(adata.n_obs, bool)
    for system, types in FEW_SHARED.items():
        keep |= ((adata.obs["system"] == system) & adata.obs["cell_type"].isin(types)).to_numpy()
    return _sample(adata[keep].copy(), 1800)


def _malaria_part() -> anndata.AnnData:
    adata = data.malaria_counts()
    few = adata.obs["system"].str.endswith("smartseq2").to_numpy()
    rest = np.random.default_rng(0).choice(np.flatnonzero(~few), 2500, replace=False)
    return adata[np.sort(np.concatenate([np.flatnonzero(few), rest]))].copy()


def _kang() -> anndata.AnnData:
    return _read("kang_ifnb_labelled")


REAL: dict[str, Callable[[], anndata.AnnData]] = {
    "baron": lambda: _read("baron_pancreas"),
    "baron_2500": lambda: _sample(_read("baron_pancreas"), 2500),
    "baron_1000": lambda: _sample(_read("baron_pancreas"), 1000),
    "baron_few_shared": _few_shared,
    "kang": _kang,
    "malaria": data.malaria_counts,
    "malaria_species": lambda: data.malaria_counts("species"),
    "malaria_part": _malaria_part,
    "protocols": lambda: _read("pancreas_human_protocols"),
    "breast": lambda: _read("breast_cell_nucleus_tiny"),
}
SIMULATIONS = {"hard": data.hard, "held_out": data.held_out}


def family_settings() -> dict[str, dict]:
    """Settings of `sysvi.datasets.simulate_systems` for each simulation of the family, by name."""
    rng, settings = np.random.default_rng(FAMILY_SEED), {}
    for i in range(FAMILY_SIZE):
        n_systems = int(rng.choice([2, 2, 3, 4]))
        n_private = int(rng.integers(0, 4))
        n_shared = int(rng.integers(2, 10))
        cells = round(float(np.exp(rng.uniform(np.log(500), np.log(50_000)))), -2)
        settings[f"family_{i:02d}"] = {
            "n_cells": int(max(cells, 500)),
            "n_genes": int(rng.integers(800, 3001)),
            "n_systems": n_systems,
            "n_types": n_shared + n_private * n_systems,
            "n_private": n_private,
            "n_samples": int(rng.integers(1, 4)),
            "system_programmes": int(rng.integers(0, 3)),
            "n_markers": int(rng.integers(20, 70)),
            "marker_effect": float(rng.uniform(0.8, 1.8)),
            "system_effect": float(rng.uniform(0.3, 1.3)),
            "interaction": float(rng.uniform(0.1, 0.5)),
            "imbalance": float(rng.uniform(0, 0.35)),
            "depth": float(np.exp(rng.uniform(np.log(600), np.log(8000)))),
            "seed": i,
        }
    return settings


def names() -> list[str]:
    """Names of all sets."""
    return [*REAL, *SIMULATIONS, *family_settings()]


def path(name: str) -> Path:
    """File of a prepared set; it is made if it does not exist."""
    if name in SIMULATIONS:
        return SIMULATIONS[name]()
    target = FOLDER / f"{name}.h5ad"
    if not target.exists():
        if name in REAL:
            counts = REAL[name]()
        else:
            settings = family_settings()[name]
            counts = sysvi.datasets.simulate_systems(**settings)
        prepared = sysvi.prepare(counts, "system", "batch")
        for extra in [*prepared.varm]:
            del prepared.varm[extra]
        prepared.uns = {}
        prepared.obs = prepared.obs[["system", "batch", "cell_type"]]
        FOLDER.mkdir(parents=True, exist_ok=True)
        prepared.write_h5ad(target.with_suffix(".part"))
        target.with_suffix(".part").rename(target)
    return target


def main() -> None:
    """Make the sets named on the command line, or all, and print a table of them."""
    rows = []
    for name in sys.argv[1:] or names():
        adata = anndata.read_h5ad(path(name))
        counts = pd.crosstab(adata.obs["cell_type"].astype(str), adata.obs["system"].astype(str))
        present = (counts >= 20).sum(axis=1)
        rows.append(
            {
                "set": name,
                "cells": adata.n_obs,
                "genes": adata.n_vars,
                "systems": counts.shape[1],
                "shared types": int((present > 1).sum()),
                "private types": int((present == 1).sum()),
            }
        )
        print(rows[-1], flush=True)


if __name__ == "__main__":
    main()
