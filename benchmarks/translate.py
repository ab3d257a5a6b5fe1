"""Expression translated from human to mouse (`sysvi.translate`), compared with real mouse cells.

    python benchmarks/translate.py [--parts donor,type] [--seeds 0] [--types beta,ductal]

Needs SYSVI_DATA. Rows of finished runs are kept in benchmarks/results/translate.csv, so that an interrupted call
continues; the tables that are printed have means over cell types and seeds.

donor  A human donor of Baron's islets (human3) is held out, mapped onto an ensemble of all other cells, and its cells
       are translated to mouse. For each type with at least 20 cells in this donor and in mouse.
type   All mouse cells of a type are held out: the model has seen the type in human only. Its human cells are
       translated to mouse.

Methods: "none", the human cells as they are; "shift", their expression plus the difference of the means of both species
over all cells of the model; "neighbours", of each cell the mean of the 15 nearest mouse cells in the embedding;
"translate"; in part "donor" "scvi-tools SysVI" (peers/translate.py), where its environment was made; and for
comparison "mouse, denoised", the real mouse cells, decoded in their own system (not in part
"type", where they are new), and "other half", one half of the real mouse cells measured against the other half.

Columns: all, Pearson correlation over genes of the mean profile of the translated cells of a type with that of the real
mouse cells; types, the same after the mean over all types was subtracted from both (in part "type", over the types
that are measured); species, the same as `all` over the 200 genes in which real cells of this type differ most between
the species; change, correlation of the change by the translation with the true difference; error, mean absolute
difference of the profiles; variance, median over genes of the variance of translated cells over that of mouse cells;
detected, share of values that are not 0 (of real mouse cells in `detected_mouse`). For method "translate" also cycle
and cycle_error: translated to mouse and back, correlation with the denoised cells after the mean of each gene was
subtracted, and root mean squared difference relative to the standard deviation of the denoised cells.
"""

import argparse
import os
import warnings
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
from anndata import AnnData
from common import CACHE, PEER_PYTHON, RESULTS, peer
from scipy import sparse
from sklearn.neighbors import NearestNeighbors

import sysvi

TABLE = RESULTS / "translate.csv"
DONOR, LAYER = "human3", "sysvi_translated"
MIN_CELLS, N_NEIGHBORS, N_GENES = 20, 15, 200


def main() -> None:
    """Run what is missing and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", default="donor,type")
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--types", default="alpha,ductal,endothelial", help="Types that part `type` holds out.")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    CACHE.mkdir(exist_ok=True)
    for seed in map(int, args.seeds.split(",")):
        if "donor" in args.parts:
            donor(seed)
        if "type" in args.parts:
            for name in args.types.split(","):
                held_out_type(name, seed)
    table = pd.read_csv(TABLE)
    for part, rows in table.groupby("part", sort=False):
        means = rows.groupby("method", sort=False).mean(numeric_only=True).drop(columns="seed")
        print(f"\n{part}: {rows['type'].nunique()} types\n{means.round(3).to_string()}")


def donor(seed: int) -> None:
    """A human donor is held out."""
    if done("donor", seed):
        return
    cells = baron()
    held = (cells.obs["batch"] == DONOR).to_numpy()
    reference = sysvi.prepare(cells[~held].copy(), "system", "batch")
    model = trained(f"donor_{seed}", reference, seed)
    extended = sysvi.extend_model(model, cells[held].copy(), seed=seed, progress=False)
    query = extended.adata
    query.obs["cell_type"] = cells.obs.loc[query.obs_names, "cell_type"].to_numpy()
    values = methods(extended, reference, query) | peers(reference, query, seed)
    is_mouse = (reference.obs["system"] == "mouse").to_numpy()
    label, own = (adata.obs["cell_type"].astype(str).to_numpy() for adata in (query, reference))
    counts = [pd.Series(names).value_counts() for names in (label, own[is_mouse], own[~is_mouse])]
    types = sorted(name for name in counts[0].index if all(count.get(name, 0) >= MIN_CELLS for count in counts))
    mouse, human = reference.X[is_mouse], reference.X[~is_mouse]
    denoised = sysvi.translate(extended, reference[is_mouse].copy(), progress=False).layers[LAYER]
    cells_of = {"mouse": (mouse, own[is_mouse]), "human": (human, own[~is_mouse])}
    measure("donor", seed, types, values, label, **cells_of, cycled=cycle(extended, query), denoised=denoised)


def held_out_type(name: str, seed: int) -> None:
    """The mouse cells of a type are held out."""
    if done("type", seed, name):
        return
    cells = baron()
    label = cells.obs["cell_type"].astype(str).to_numpy()
    held = ((cells.obs["system"] == "mouse") & (label == name)).to_numpy()
    reference = sysvi.prepare(cells[~held].copy(), "system", "batch")
    model = trained(f"type_{name}_{seed}", reference, seed)
    query = reference[(reference.obs["system"] == "human") & (reference.obs["cell_type"] == name)].copy()
    target = sysvi.extend_model(model, cells[held].copy(), seed=seed, progress=False).adata.X  # prepared alike
    labels = np.repeat(name, query.n_obs), np.repeat(name, held.sum())
    values = methods(model, reference, query)
    cells_of = {"mouse": (target, labels[1]), "human": (query.X, labels[0])}
    measure("type", seed, [name], values, labels[0], **cells_of, cycled=cycle(model, query))


def baron() -> AnnData:
    """Counts of Baron's islets."""
    return anndata.read_h5ad(Path(os.environ["SYSVI_DATA"]) / "baron_pancreas.h5ad")


def trained(name: str, adata: AnnData, seed: int) -> sysvi.Ensemble:
    """The model of some cells with the default settings, trained once."""
    folder = CACHE / f"translate_{name}"
    if not folder.exists():
        sysvi.integrate(adata, "system", "batch", seed=seed, progress=False).save(folder)
    return sysvi.load(folder, adata)


def methods(model: sysvi.Ensemble, reference: AnnData, query: AnnData) -> dict[str, np.ndarray]:
    """Expression of the human cells of the query in mouse by each method, (n, genes)."""
    measured = query.X.toarray()
    is_mouse = (reference.obs["system"] == "mouse").to_numpy()
    mouse, human = reference.X[is_mouse], reference.X[~is_mouse]
    z, z_new = (np.asarray(model.get_latent_representation(cells)) for cells in (reference, query))
    _, nearest = NearestNeighbors(n_neighbors=N_NEIGHBORS).fit(z[is_mouse]).kneighbors(z_new)
    rows = np.repeat(np.arange(len(nearest)), N_NEIGHBORS)
    average = sparse.csr_matrix(
        (np.full(rows.size, 1 / N_NEIGHBORS), (rows, nearest.ravel())), (len(nearest), mouse.shape[0])
    )
    translated = sysvi.translate(model, query, "mouse", progress=False)
    return {
        "none": measured,
        "shift": (measured + np.asarray(mouse.mean(axis=0) - human.mean(axis=0))).clip(min=0),
        "neighbours": (average @ mouse).toarray(),
        "translate": translated.layers[LAYER],
    }


def peers(reference: AnnData, query: AnnData, seed: int) -> dict[str, np.ndarray]:
    """Expression of the query in mouse by scvi-tools' SysVI, if its environment was made."""
    if not PEER_PYTHON.exists():
        return {}
    paths = [CACHE / f"translate_{name}" for name in ("reference.h5ad", "query.h5ad", f"scvi_{seed}.npy")]
    if not paths[2].exists():
        for path, cells in zip(paths, (reference, query), strict=False):
            AnnData(cells.X, obs=cells.obs[["system", "batch"]], var=cells.var[[]]).write_h5ad(path)
        peer("translate.py", *paths[:2], "mouse", paths[2], "--seed", seed)
    return {"scvi-tools SysVI": np.load(paths[2]).clip(min=0)}


def cycle(model: sysvi.Ensemble, query: AnnData) -> dict[str, np.ndarray]:
    """The cells of the query denoised, and translated to the largest batch of mouse and back."""
    batches = model.vocabulary.categorical["batch"]
    systems = model.vocabulary.systems
    sizes = model.members[0].reference.n_cells[0][systems.index("mouse")]
    batch = batches[int(sizes.argmax())]
    there = sysvi.translate(model, query, "mouse", batch, progress=False)
    there.X = sparse.csr_matrix(there.layers[LAYER])
    there.obs["system"], there.obs["batch"] = "mouse", batch
    back = np.empty(query.shape, np.float32)
    for name in query.obs["batch"].unique():
        rows = (query.obs["batch"] == name).to_numpy()
        back[rows] = sysvi.translate(model, there[rows].copy(), "human", str(name), progress=False).layers[LAYER]
    return {"denoised": sysvi.translate(model, query, progress=False).layers[LAYER], "back": back}


def measure(
    part: str,
    seed: int,
    types: list[str],
    values: dict[str, np.ndarray],
    label: np.ndarray,
    mouse: tuple[sparse.csr_matrix, np.ndarray],
    human: tuple[sparse.csr_matrix, np.ndarray],
    cycled: dict[str, np.ndarray],
    denoised: np.ndarray | None = None,
) -> None:
    """Add a row for each type and method; `denoised` are the real mouse cells without noise."""
    real = {name: mouse[0][mouse[1] == name].toarray() for name in types}
    halves = {name: halve(x, seed) for name, x in real.items()}
    made = {method: {name: x[label == name] for name in types} for method, x in values.items()}
    if denoised is not None:
        made["mouse, denoised"] = {name: denoised[mouse[1] == name] for name in types}
    made["other half"] = {name: half for name, (half, _) in halves.items()}
    rows = []
    for method in made:
        goal = {name: halves[name][1] if method == "other half" else real[name] for name in types}
        profile = {name: x.mean(axis=0) for name, x in made[method].items()}
        wanted = {name: x.mean(axis=0) for name, x in goal.items()}
        centre, wanted_centre = (np.mean(list(means.values()), axis=0) for means in (profile, wanted))
        for name in types:
            before = made["none"][name].mean(axis=0)
            difference = real[name].mean(axis=0) - np.asarray(human[0][human[1] == name].mean(axis=0)).ravel()
            most = np.argsort(-np.abs(difference))[:N_GENES]
            variance, real_variance = made[method][name].var(axis=0), goal[name].var(axis=0)
            seen = real_variance > 0.01
            row = {
                "part": part,
                "method": method,
                "seed": seed,
                "type": name,
                "cells": len(made[method][name]),
                "mouse_cells": len(goal[name]),
                "all": correlation(profile[name], wanted[name]),
                "types": correlation(profile[name] - centre, wanted[name] - wanted_centre)
                if len(types) > 1
                else np.nan,
                "species": correlation(profile[name][most], wanted[name][most]),
                "change": np.nan if method == "none" else correlation(profile[name] - before, wanted[name] - before),
                "error": float(np.abs(profile[name] - wanted[name]).mean()),
                "variance": float(np.median(variance[seen] / real_variance[seen])),
                "detected": float((made[method][name] > 0).mean()),
                "detected_mouse": float((real[name] > 0).mean()),
            }
            if method == "translate":
                before, back = (cycled[key][label == name] for key in ("denoised", "back"))
                mean = cycled["denoised"].mean(axis=0)
                row["cycle"] = correlation((before - mean).ravel(), (back - mean).ravel())
                row["cycle_error"] = float(np.sqrt(((back - before) ** 2).mean() / ((before - mean) ** 2).mean()))
            rows.append(row)
    table = pd.DataFrame(rows)
    if TABLE.exists():
        table = pd.concat([pd.read_csv(TABLE), table])
    table.to_csv(TABLE, index=False, float_format="%.4f")


def halve(x: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Two random halves of some cells."""
    order = np.random.default_rng(seed).permutation(len(x))
    return x[order[: len(x) // 2]], x[order[len(x) // 2 :]]


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Pearson correlation."""
    return float(np.corrcoef(a, b)[0, 1])


def done(part: str, seed: int, name: str | None = None) -> bool:
    """Whether there are rows of a run."""
    if not TABLE.exists():
        return False
    table = pd.read_csv(TABLE)
    rows = (table["part"] == part) & (table["seed"] == seed)
    return bool((rows if name is None else rows & (table["type"] == name)).any())


if __name__ == "__main__":
    main()
