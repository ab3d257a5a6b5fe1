"""Mapping new cells onto a model (`sysvi.map_query`), compared with training on all cells.

    python benchmarks/mapping.py [--parts donors,system,retrained,peers,...] [--seeds 0,1]

Needs SYSVI_DATA. Rows of finished runs are kept in benchmarks/results/mapping.csv, and trained models in .cache, so
that an interrupted call continues; the table that is printed has the means over seeds. The column `defaults` names the
preset that `sysvi.integrate` had by default; "former" are rows of the time when it trained four models.

donors     A donor of each species of Baron's islets is held out, and mapped onto a model of the others.
system     Mouse is mapped as a new system onto a model of the human cells, whose systems are the donors.
retrained  All cells are integrated by species, for comparison with both.
peers      Other methods on the cells of both: surgery of SysVI (which refuses new systems) and scANVI of scvi-tools,
           and Harmony on principal components of all cells, in the environment of the peers; and Seurat's MapQuery,
           in R. Those that are not installed are left out.
third      A system of three is mapped as new onto a model of the other two, on the simulation `held_out` of data.py.
sets       The same on further sets of paper/trust_sets.py: of Kang's cells and the simulation `hard`, the last batch of
           each system; of malaria parasites and of four protocols, the last system.
genes      As `donors`, from a query that lacks 5, 10 or 30 % of the model's genes, with what stands for these genes: 0;
           the reference's mean; or the expression that is decoded from an embedding with this mean, as `map_query`
           does. And from a query with the model's genes only. "uncorrected": decoded, but counts are normalised as if
           no gene were missing.
scale      As `system`, of a query in which each gene is scaled to its mean in the reference.
time       Seconds to map 10,000 simulated cells of a new donor (2,000 genes) onto a default ensemble.
known      Seconds to map 100,000 simulated cells of known batches, and to embed the same cells when they are prepared.

Columns: accuracy, the share of held-out cells whose cell type is that of most of their 15 nearest cells of the
reference (types of the reference only), for human and mouse cells, or for all; labels, the same of labels that the
method predicts itself (of ours, the candidates of `sysvi.transfer_labels`); shared, the neighbours that both species
share within types (`sysvi.metrics.shared_neighbors`); distance to the embedding of the unharmed query, relative to the
spread of the reference; seconds, and cpu_seconds of all threads.
"""

import argparse
import os
import shutil
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import anndata
import data
import numpy as np
import pandas as pd
from anndata import AnnData
from common import CACHE, PEER_PYTHON, PEERS, RESULTS, Failed, peer
from scipy import sparse
from sklearn.neighbors import KNeighborsClassifier

sys.path.insert(0, str(Path(__file__).parent / "paper"))  # for the data sets

import trust_sets

import sysvi
import sysvi.api.query
import sysvi.data.query
from sysvi._core.settings import DEFAULT_PRESET, PRESETS
from sysvi.comparison.cells import write_cells
from sysvi.metrics import shared_neighbors

TABLE = RESULTS / "mapping.csv"
HELD_OUT = ("human3", "mouse1")
SETS = {"kang": "batch", "hard": "batch", "malaria_part": "system", "protocols": "system"}
KEYS = ["defaults", "part", "setting", "seed"]
DEFAULTS = next(name for name, preset in PRESETS.items() if preset is DEFAULT_PRESET)
SURGERY = {"scvi-tools SysVI": "sysvi", "scANVI": "scanvi"}


def main() -> None:
    """Run what is missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--seeds", default="0,1")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    CACHE.mkdir(exist_ok=True)
    for seed in map(int, args.seeds.split(",")):
        for part in args.parts.split(","):
            PARTS[part](seed)
    table = pd.read_csv(TABLE)
    print(table.groupby(KEYS[:3], sort=False).mean(numeric_only=True).drop(columns="seed").round(3).to_string())


def donors(seed: int) -> None:
    """A donor of each species is held out."""
    if done("donors", "mapped", seed):
        return
    query, reference, model, z = held_out(seed)
    with stopwatch() as took:
        mapped = sysvi.map_query(model, query, seed=seed, progress=False)
    found = score(reference.obs, z, query.obs, mapped.obsm["X_sysVI"]) | own_labels(reference, z, mapped)
    record("donors", "mapped", seed, found | took)


def system(seed: int) -> None:
    """Mouse cells are of a system that the model does not know."""
    if done("system", "mapped", seed):
        return
    query, reference, model, z = mouse_and_human(seed)
    with stopwatch() as took:
        sysvi.map_query(model, query, "donor", seed=seed, progress=False)
    found = score(reference.obs, z, query.obs, query.obsm["X_sysVI"]) | own_labels(reference, z, query)
    record("system", "mapped", seed, found | took)


def retrained(seed: int) -> None:
    """All cells are integrated by species, for comparison with `donors` and `system`."""
    if done("donors", "retrained", seed) and done("system", "retrained", seed):
        return
    full = sysvi.prepare(baron(), "system", "batch")
    _, z = cached(f"full_{seed}", full, lambda: sysvi.integrate(full, "system", "batch", seed=seed, progress=False))
    splits = {"donors": full.obs["batch"].isin(HELD_OUT), "system": full.obs["system"] == "mouse"}
    for part, is_new in splits.items():
        new = is_new.to_numpy()
        labelled = full[new].copy()
        labelled.obsm["X_sysVI"] = z[new]
        labels = own_labels(full[~new], z[~new], labelled)
        record(part, "retrained", seed, score(full.obs[~new], z[~new], full.obs[new], z[new]) | labels)


def peers(seed: int) -> None:
    """Other methods on the cells of `donors` and `system`."""
    for split, make in (("donors", donor_cells), ("system", species_cells)):
        query, reference = make()
        paths = [CACHE / f"mapping_{split}_{part}.h5ad" for part in ("reference", "query", "all")]
        if not all(path.exists() for path in paths):
            query = normalised(query, reference)
            for path, cells in zip(paths, (reference, query, anndata.concat([reference, query])), strict=True):
                cells.write_h5ad(path)
        query = anndata.read_h5ad(paths[1])
        result = CACHE / "mapping_peer.npz"
        for method in ("PCA and Harmony", "Seurat MapQuery", *SURGERY):
            in_r = method.startswith("Seurat")
            impossible = split == "system" and method == "scvi-tools SysVI"
            installed = shutil.which("Rscript") if in_r else PEER_PYTHON.exists()
            if done(split, method, seed) or impossible or not installed:
                continue
            label = None
            try:
                if in_r:
                    z, z_new, label = in_seurat(reference, query, seed)
                elif method in SURGERY:
                    peer("surgery.py", SURGERY[method], *paths[:2], result, "--seed", seed)
                    found = np.load(result)
                    z, z_new, label = found["reference"], found["query"], found.get("label")
                else:
                    peer("harmony.py", paths[2], result.with_suffix(".npy"))
                    z, z_new = np.split(np.load(result.with_suffix(".npy")), [reference.n_obs])
            except (Failed, subprocess.CalledProcessError) as error:
                print(split, method, "has no result:", getattr(error, "stderr", None) or error, flush=True)
                continue
            values = score(reference.obs, z, query.obs, z_new)
            if label is not None:
                values |= by_species(np.asarray(label, str), query.obs, reference.obs, "labels")
            record(split, method, seed, values)


def in_seurat(reference: AnnData, query: AnnData, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Embedding of the reference, that of the query, and labels of the query by Seurat's MapQuery."""
    folder = CACHE / "mapping_seurat"
    for name, part in (("reference", reference), ("query", query)):
        write_cells(AnnData(part.X.tocsr(), obs=part.obs, var=part.var[[]]), folder / name, for_r=True)
    subprocess.run(["Rscript", PEERS / "map_query.R", folder, str(seed)], check=True, capture_output=True, text=True)
    z = pd.read_csv(folder / "reference.csv", index_col=0).loc[reference.obs_names]
    z_new = pd.read_csv(folder / "query.csv", index_col=0).loc[query.obs_names]
    label = z_new.pop("label")
    return z.to_numpy(), z_new.to_numpy(), label.to_numpy()


def scale(seed: int) -> None:
    """Mouse cells whose genes are scaled to the reference, which a new system could learn."""
    if done("system", "mapped, genes scaled", seed):
        return
    query, reference, model, z = mouse_and_human(seed)
    query = normalised(query, reference)
    mean, own = (np.asarray(part.X.mean(axis=0)).ravel() for part in (reference, query))
    ratio = np.clip((mean + 0.01) / (own + 0.01), 0.2, 5)
    query.X = sparse.csr_matrix(query.X @ sparse.diags(ratio.astype(np.float32)))
    query.X.data = query.X.data.clip(max=reference.X.max())
    sysvi.map_query(model, query, "donor", seed=seed, progress=False)
    found = score(reference.obs, z, query.obs, query.obsm["X_sysVI"]) | own_labels(reference, z, query)
    record("system", "mapped, genes scaled", seed, found)


def third(seed: int) -> None:
    """A simulated system is new to a model of two others."""
    cells = anndata.read_h5ad(data.held_out())
    hold_out("third", cells, last(cells, "system"), seed)


def sets(seed: int) -> None:
    """The last batch of each system, or the last system, of further sets is held out."""
    for name, unit in SETS.items():
        cells = anndata.read_h5ad(trust_sets.path(name))
        hold_out(f"{unit} of {name}", cells, last(cells, unit), seed)


def last(cells: AnnData, unit: str) -> np.ndarray:
    """The cells of the last system by name, or of the last batch of each system that has several, (n,) bool."""
    system, batch = (cells.obs[key].astype(str) for key in ("system", "batch"))
    if unit == "system":
        return (system == system.max()).to_numpy()
    batches = batch.groupby(system)
    return ((batch == batches.transform("max")) & (batches.transform("nunique") > 1)).to_numpy()


def hold_out(part: str, cells: AnnData, new: np.ndarray, seed: int) -> None:
    """Map some of the cells onto a model of the others, and compare with training on all."""
    if done(part, "mapped", seed) and done(part, "retrained", seed):
        return
    reference, query = cells[~new].copy(), cells[new].copy()
    sysvi.integrate(cells, "system", "batch", seed=seed, progress=False)
    model = sysvi.integrate(reference, "system", "batch", seed=seed, progress=False)
    sysvi.map_query(model, query, seed=seed, progress=False)
    z, z_new, z_all = (adata.obsm["X_sysVI"] for adata in (reference, query, cells))
    for setting, old, mapped in (("mapped", z, z_new), ("retrained", z_all[~new], z_all[new])):
        query.obsm["X_sysVI"] = mapped
        found = score(reference.obs, old, query.obs, mapped) | own_labels(reference, old, query)
        record(part, setting, seed, found)


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
    with stopwatch() as took:
        sysvi.map_query(model, query, seed=seed, progress=False)
    record("time", f"{query.n_obs:,} cells of a new donor", seed, took)


def known(seed: int) -> None:
    """100,000 cells of known batches."""
    if done("known", "100,000 cells, mapped", seed):
        return
    cells = sysvi.datasets.simulate_systems(100_000, 2_000, n_samples=2, seed=seed)
    rows = np.random.default_rng(seed).permutation(cells.n_obs)[:10_000]
    reference = sysvi.prepare(cells[rows].copy(), "system", "batch")
    model = sysvi.integrate(reference, "system", "batch", max_epochs=2, seed=seed, progress=False)
    with stopwatch() as took:
        mapped = sysvi.extend_model(model, cells, seed=seed, progress=False)
        mapped.get_latent_representation()
    record("known", "100,000 cells, mapped", seed, took)
    with stopwatch() as took:
        model.get_latent_representation(mapped.adata)
    record("known", "100,000 cells, embedded", seed, took)


@contextmanager
def stopwatch() -> Iterator[dict[str, float]]:
    """Seconds of a block, and CPU seconds of all threads, which other programs on the machine hardly change."""
    took: dict[str, float] = {}
    start, cpu = time.perf_counter(), time.process_time()
    yield took
    took |= {"seconds": time.perf_counter() - start, "cpu_seconds": time.process_time() - cpu}


def baron() -> AnnData:
    """Counts of Baron's islets; the column "donor" has the donors as systems."""
    cells = anndata.read_h5ad(Path(os.environ["SYSVI_DATA"]) / "baron_pancreas.h5ad")
    cells.obs["donor"] = cells.obs["batch"].astype(str)
    return cells


def donor_cells() -> tuple[AnnData, AnnData]:
    """Counts of the held-out donors, and the prepared cells of the others."""
    cells = baron()
    held = cells.obs["batch"].isin(HELD_OUT)
    return cells[held].copy(), sysvi.prepare(cells[~held].copy(), "system", "batch")


def species_cells() -> tuple[AnnData, AnnData]:
    """Counts of the mouse, and the prepared human cells."""
    cells = baron()
    human = cells.obs["system"] == "human"
    return cells[~human].copy(), sysvi.prepare(cells[human].copy(), "donor", n_top_genes=4000, min_cells=5)


def held_out(seed: int) -> tuple[AnnData, AnnData, sysvi.Ensemble, np.ndarray]:
    """`donor_cells`, with a model of the reference and its embedding."""
    query, reference = donor_cells()
    train = cached(
        f"donors_{seed}", reference, lambda: sysvi.integrate(reference, "system", "batch", seed=seed, progress=False)
    )
    return query, reference, *train


def mouse_and_human(seed: int) -> tuple[AnnData, AnnData, sysvi.Ensemble, np.ndarray]:
    """`species_cells`, with a model of the reference, whose systems are the donors, and its embedding."""
    query, reference = species_cells()
    train = cached(f"human_{seed}", reference, lambda: sysvi.integrate(reference, "donor", seed=seed, progress=False))
    return query, reference, *train


def normalised(query: AnnData, reference: AnnData) -> AnnData:
    """Cells with the genes of the reference, normalised as these; their counts are in a layer."""
    totals = reference.uns["sysvi_totals"]
    cells = query[:, reference.var_names].copy()
    cells.layers["counts"] = sparse.csr_matrix(cells.X, dtype=np.float32)
    total = np.asarray(query[:, totals["genes"]].X.sum(axis=1)).reshape(-1, 1)
    cells.X = sparse.csr_matrix(cells.layers["counts"].multiply(totals["target_sum"] / total), dtype=np.float32).log1p()
    return cells


def cached(name: str, adata: AnnData, train: Callable[[], Any]) -> tuple[Any, np.ndarray]:
    """A model and the embedding of its cells, trained once."""
    folder = CACHE / f"mapping_{DEFAULTS}_{name}"
    if not folder.exists():
        train().save(folder)
    model = sysvi.load(folder, adata)
    return model, model.get_latent_representation()


def score(known: pd.DataFrame, z: np.ndarray, new: pd.DataFrame, z_new: np.ndarray) -> dict[str, float]:
    """Transfer of cell types from the reference to the query, and neighbours shared between species."""
    label, new_label = (obs["cell_type"].astype(str).to_numpy() for obs in (known, new))
    species, new_species = (obs["system"].astype(str).to_numpy() for obs in (known, new))
    accuracy = by_species(KNeighborsClassifier(15).fit(z, label).predict(z_new), new, known, "accuracy")
    both = np.concatenate([z, z_new]), np.concatenate([species, new_species]), np.concatenate([label, new_label])
    return accuracy | {"shared": float(shared_neighbors(*both).mean())}


def by_species(found: np.ndarray, new: pd.DataFrame, known: pd.DataFrame, column: str) -> dict[str, float]:
    """Share of new cells of each species, with a type that is known, whose label was found."""
    label, system = (new[key].astype(str).to_numpy() for key in ("cell_type", "system"))
    counted = np.isin(label, [name for name in known["cell_type"].astype(str).unique() if name != "unknown"])
    species = np.where(np.isin(system, ["human", "mouse"]), system, "")
    return {
        f"{column}_{name}" if name else column: float((found == label)[counted & (species == name)].mean())
        for name in np.unique(species)
    }


def own_labels(reference: AnnData, z: np.ndarray, mapped: AnnData) -> dict[str, float]:
    """Accuracy of the candidates of `sysvi.transfer_labels`."""
    labelled = AnnData(obs=reference.obs[["system", "batch", "cell_type"]], obsm={"X_sysVI": np.asarray(z)})
    new = AnnData(obs=mapped.obs[["cell_type"]], obsm={"X_sysVI": mapped.obsm["X_sysVI"]})
    found = sysvi.transfer_labels(labelled, new, "cell_type", system_key="system", batch_key="batch")
    return by_species(found.cells["candidate"].to_numpy(), mapped.obs, reference.obs, "labels")


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


PARTS = {
    "donors": donors,
    "system": system,
    "retrained": retrained,
    "peers": peers,
    "third": third,
    "sets": sets,
    "genes": genes,
}
PARTS |= {"scale": scale, "time": seconds, "known": known}


def done(part: str, setting: str, seed: int) -> bool:
    """Whether there is a row of a run."""
    if not TABLE.exists():
        return False
    return bool(_same(pd.read_csv(TABLE), part, setting, seed).any())


def record(part: str, setting: str, seed: int, values: dict[str, float]) -> None:
    """Add the row of a run, or replace it."""
    row = pd.DataFrame([{"defaults": DEFAULTS, "part": part, "setting": setting, "seed": seed, **values}])
    if TABLE.exists():
        table = pd.read_csv(TABLE)
        row = pd.concat([table[~_same(table, part, setting, seed)], row])
    row.to_csv(TABLE, index=False, float_format="%.4f")
    print(part, setting, seed, {name: round(value, 3) for name, value in values.items()}, flush=True)


def _same(table: pd.DataFrame, part: str, setting: str, seed: int) -> pd.Series:
    """Which rows are of a run."""
    wanted = dict(zip(KEYS, (DEFAULTS, part, setting, seed), strict=True))
    return (table[KEYS] == pd.Series(wanted)).all(axis=1)


if __name__ == "__main__":
    main()
