"""Mapping new cells onto a model (`sysvi.map_query`), compared with training on all cells.

    python benchmarks/mapping.py [--parts donors,system,third,genes,time] [--seeds 0,1]

Needs SYSVI_DATA. Rows of finished runs are kept in benchmarks/results/mapping.csv, so that an interrupted call
continues; the table that is printed has the means over seeds.

donors  A donor of each species of Baron's islets is held out, and mapped onto a model of the others.
system  Mouse is mapped as a new system onto a model of the human cells, whose systems are the donors.
third   A system of three is mapped as new onto a model of the other two, on the simulation `held_out` of data.py.
genes   As `donors`, from a query that lacks 5, 10 or 30 % of the model's genes, with what stands for these genes: 0;
        the reference's mean; or the expression that is decoded from an embedding with this mean, as `map_query` does.
        And from a query with the model's genes only. "uncorrected": decoded, but counts are normalised as if no gene
        were missing.
time    Seconds to map 10,000 simulated cells of a new donor onto an ensemble of four models.

Columns: accuracy, the share of held-out cells whose cell type is that of most of their 15 nearest cells of the
reference (types of the reference only), for human and mouse cells; shared, the neighbours that both species share
within types (`sysvi.metrics.shared_neighbors`); distance to the embedding of the unharmed query, relative to the spread
of the reference; seconds.
"""

import argparse
import os
import time
import warnings
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest.mock import patch

import anndata
import data
import numpy as np
import pandas as pd
from anndata import AnnData
from common import CACHE, PEER_PYTHON, RESULTS, peer
from scipy import sparse
from sklearn.neighbors import KNeighborsClassifier

import sysvi
import sysvi.api.query
import sysvi.data.query
from sysvi.metrics import shared_neighbors

TABLE = RESULTS / "mapping.csv"
HELD_OUT = ("human3", "mouse1")
KEYS = ["part", "setting", "seed"]


def main() -> None:
    """Run what is missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", default="donors,system,third,genes,time")
    parser.add_argument("--seeds", default="0,1")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    CACHE.mkdir(exist_ok=True)
    parts = {"donors": donors, "system": system, "third": third, "genes": genes, "time": seconds}
    for seed in map(int, args.seeds.split(",")):
        for part in args.parts.split(","):
            parts[part](seed)
    table = pd.read_csv(TABLE)
    print(table.groupby(KEYS[:2], sort=False).mean(numeric_only=True).drop(columns="seed").round(3).to_string())


def donors(seed: int) -> None:
    """A donor of each species is held out."""
    if all(done("donors", setting, seed) for setting in ("mapped", "retrained")):
        return
    query, reference, model, z = held_out(seed)
    start = time.perf_counter()
    mapped = sysvi.map_query(model, query, seed=seed, progress=False)
    took = time.perf_counter() - start
    record("donors", "mapped", seed, score(reference.obs, z, query.obs, mapped.obsm["X_sysVI"]) | {"seconds": took})
    full, z_full, took = retrained(seed)
    held = full.obs["batch"].isin(HELD_OUT).to_numpy()
    record("donors", "retrained", seed, score(full.obs[~held], z_full[~held], full.obs[held], z_full[held]) | took)


def system(seed: int) -> None:
    """Mouse cells are of a system that the model does not know."""
    if all(done("system", setting, seed) for setting in ("mapped", "retrained")):
        return
    cells = baron()
    human = cells.obs["system"] == "human"
    reference = sysvi.prepare(cells[human].copy(), "donor", n_top_genes=4000, min_cells=5)
    model, z = cached(
        f"human_{seed}", reference, lambda: sysvi.integrate(reference, "donor", seed=seed, progress=False)
    )
    query = cells[~human].copy()
    start = time.perf_counter()
    sysvi.map_query(model, query, "donor", seed=seed, progress=False)
    took = {"seconds": time.perf_counter() - start}
    record("system", "mapped", seed, score(reference.obs, z, query.obs, query.obsm["X_sysVI"]) | took)
    full, z_full, took = retrained(seed)
    human = (full.obs["system"] == "human").to_numpy()
    record("system", "retrained", seed, score(full.obs[human], z_full[human], full.obs[~human], z_full[~human]) | took)
    if PEER_PYTHON.exists():
        path, embedding = CACHE / "mapping_full.h5ad", CACHE / "mapping_harmony.npy"
        full.write_h5ad(path)
        peer("harmony.py", path, embedding)
        h = np.load(embedding)
        record("system", "PCA and Harmony", seed, score(full.obs[human], h[human], full.obs[~human], h[~human]))


def third(seed: int) -> None:
    """A simulated system is new to a model of two others."""
    if all(done("third", setting, seed) for setting in ("mapped", "retrained")):
        return
    cells = anndata.read_h5ad(data.held_out())
    names = cells.obs["system"].astype(str)
    new = (names == names.max()).to_numpy()
    reference, query = cells[~new].copy(), cells[new].copy()
    sysvi.integrate(cells, "system", "batch", seed=seed, progress=False)
    model = sysvi.integrate(reference, "system", "batch", seed=seed, progress=False)
    sysvi.map_query(model, query, seed=seed, progress=False)
    z = {name: part.obsm["X_sysVI"] for name, part in (("reference", reference), ("query", query), ("all", cells))}
    record("third", "mapped", seed, score(reference.obs, z["reference"], query.obs, z["query"]))
    record("third", "retrained", seed, score(reference.obs, z["all"][~new], query.obs, z["all"][new]))


def genes(seed: int) -> None:
    """Genes of the query are missing."""
    query, reference, model, z = held_out(seed)
    whole = sysvi.map_query(model, query.copy(), seed=seed, progress=False).obsm["X_sysVI"]
    spread = np.linalg.norm(z - z.mean(axis=0), axis=1).mean()
    names = np.array(model.vocabulary.genes)
    parts = {"the model's genes only": query.var_names.isin(names)}
    for share in (0.05, 0.1, 0.3):
        lost = np.random.default_rng([seed, round(100 * share)]).choice(names, round(share * len(names)), replace=False)
        parts[f"{share:.0%} missing"] = ~query.var_names.isin(lost)
    for name, kept in parts.items():
        for fill in ("decoded", "uncorrected") if "only" in name else FILLS:
            if not done("genes", setting := f"{name}, {fill}", seed):
                z_new = FILLS[fill](model, query[:, kept], seed)
                distance = float(np.linalg.norm(z_new - whole, axis=1).mean() / spread)
                record("genes", setting, seed, score(reference.obs, z, query.obs, z_new) | {"distance": distance})


def seconds(seed: int) -> None:
    """10,000 cells of a new donor."""
    if done("time", "10,000 cells of a new donor", seed):
        return
    cells = sysvi.datasets.simulate_systems(40_000, 2_000, n_samples=2, seed=seed)
    new = cells.obs["batch"] == cells.obs["batch"].iloc[0]
    reference = sysvi.prepare(cells[~new].copy(), "system", "batch")
    model = sysvi.integrate(reference, "system", "batch", max_epochs=2, seed=seed, progress=False)
    query = cells[np.flatnonzero(new)[:10_000]].copy()
    start = time.perf_counter()
    sysvi.map_query(model, query, seed=seed, progress=False)
    took = time.perf_counter() - start
    record("time", f"{query.n_obs:,} cells of a new donor", seed, {"seconds": took})


def baron() -> AnnData:
    """Counts of Baron's islets; the column "donor" has the donors as systems."""
    cells = anndata.read_h5ad(Path(os.environ["SYSVI_DATA"]) / "baron_pancreas.h5ad")
    cells.obs["donor"] = cells.obs["batch"].astype(str)
    return cells


def held_out(seed: int) -> tuple[AnnData, AnnData, sysvi.Ensemble, np.ndarray]:
    """Counts of the held-out donors; and of the others the prepared cells, their model and embedding."""
    cells = baron()
    held = cells.obs["batch"].isin(HELD_OUT)
    reference = sysvi.prepare(cells[~held].copy(), "system", "batch")
    train = cached(
        f"donors_{seed}", reference, lambda: sysvi.integrate(reference, "system", "batch", seed=seed, progress=False)
    )
    return cells[held].copy(), reference, *train


def retrained(seed: int) -> tuple[AnnData, np.ndarray, dict[str, float]]:
    """All cells, prepared and integrated by species; and the time of the integration, if it was not done before."""
    full = sysvi.prepare(baron(), "system", "batch")
    start = time.perf_counter()
    _, z = cached(f"full_{seed}", full, lambda: sysvi.integrate(full, "system", "batch", seed=seed, progress=False))
    took = time.perf_counter() - start
    return full, z, {"seconds": took} if took > 20 else {}


def cached(name: str, adata: AnnData, train: Callable[[], Any]) -> tuple[Any, np.ndarray]:
    """A model and the embedding of its cells, trained once."""
    folder = CACHE / f"mapping_{name}"
    if not folder.exists():
        train().save(folder)
    model = sysvi.load(folder, adata)
    return model, model.get_latent_representation()


def score(known: pd.DataFrame, z: np.ndarray, new: pd.DataFrame, z_new: np.ndarray) -> dict[str, float]:
    """Transfer of cell types from the reference to the query, and neighbours shared between species."""
    label, new_label = (obs["cell_type"].astype(str).to_numpy() for obs in (known, new))
    species, new_species = (obs["system"].astype(str).to_numpy() for obs in (known, new))
    right = KNeighborsClassifier(15).fit(z, label).predict(z_new) == new_label
    counted = np.isin(new_label, label)
    accuracy = {
        f"accuracy_{name}" if name in ("human", "mouse") else "accuracy": float(
            right[counted & (new_species == name)].mean()
        )
        for name in np.unique(new_species)
    }
    both = np.concatenate([z, z_new]), np.concatenate([species, new_species]), np.concatenate([label, new_label])
    return accuracy | {"shared": float(shared_neighbors(*both).mean())}


def without(**replaced: Callable[..., Any]) -> Callable[[sysvi.Ensemble, AnnData, int], np.ndarray]:
    """A function that maps a query with other functions in place of some that `map_query` calls."""

    def embed(model: sysvi.Ensemble, query: AnnData, seed: int) -> np.ndarray:
        with ExitStack() as stack:
            for name, function in replaced.items():
                module = sysvi.api.query if hasattr(sysvi.api.query, name) else sysvi.data.query
                stack.enter_context(patch.object(module, name, function))
            return sysvi.map_query(model, query.copy(), seed=seed, progress=False).obsm["X_sysVI"]

    return embed


def no_expression(system: np.ndarray, missing: np.ndarray, *others: object) -> sparse.csr_matrix:
    """No expression of missing genes, (cells, genes)."""
    return sparse.csr_matrix((len(system), len(missing)), dtype=np.float32)


def keep(*arguments: object) -> None:
    """Leave the expression of missing genes as it is."""


def totals_as_if_complete(names: pd.Index, reference: Any) -> tuple[np.ndarray, float, float]:
    """The genes over which counts are summed, which count as all."""
    return OWN_TOTALS(names, reference)[0], 1.0, reference.target_sum


OWN_TOTALS = sysvi.data.query._totals
FILLS = {
    "0": without(_fill=no_expression, set_genes=keep),
    "mean": without(set_genes=keep),
    "decoded": without(),
    "uncorrected": without(_totals=totals_as_if_complete),
}


def done(part: str, setting: str, seed: int) -> bool:
    """Whether there is a row of a run."""
    if not TABLE.exists():
        return False
    table = pd.read_csv(TABLE)
    return bool(((table["part"] == part) & (table["setting"] == setting) & (table["seed"] == seed)).any())


def record(part: str, setting: str, seed: int, values: dict[str, float]) -> None:
    """Add the row of a run, or replace it."""
    row = pd.DataFrame([{"part": part, "setting": setting, "seed": seed, **values}])
    if TABLE.exists():
        table = pd.read_csv(TABLE)
        same = (table["part"] == part) & (table["setting"] == setting) & (table["seed"] == seed)
        row = pd.concat([table[~same], row])
    row.to_csv(TABLE, index=False, float_format="%.4f")
    print(part, setting, seed, {name: round(value, 3) for name, value in values.items()}, flush=True)


if __name__ == "__main__":
    main()
