"""Whether `sysvi.tune` chooses the same setting without labels as with them.

    python benchmarks/criterion.py [--sets baron kang hard] [--reuse]

On each of three data sets, 42 models are trained: cycle weights (0, 2, 5, 10, 20, 50) x KL weights (1, 3) x three
seeds, and KL weight 10, which shrinks dimensions, with cycle weights (0, 5). The VampPrior is the prior from the first
step. Training is shorter than by default, as it is enough that the runs differ. Each run gets a score with the cell
types (the paper's rule) and one without (that of `tune`). Writes results/criterion.csv (Spearman's correlation of the
two scores over runs and over settings, the setting that each chooses, and the score with labels of the one chosen
without), results/criterion_runs.csv (a row for each run) and docs/criterion.png.

Embeddings are kept in benchmarks/.cache; --reuse takes those that are there.
"""

import argparse
import itertools
from pathlib import Path

import anndata
import data
import numpy as np
import pandas as pd
from common import CACHE, HERE, RESULTS
from matplotlib.figure import Figure

import sysvi
from sysvi.evaluation.scores import paper_scores
from sysvi.tuning.criterion import Criterion

EPOCHS = 80
MIN_CELLS = {"baron": 200, "kang": 60, "hard": 100}  # fewest cells of a group for Moran's I
TITLES = {"baron": "Baron islets, human and mouse", "kang": "Kang, control and stimulated", "hard": "hard simulation"}
GRID = [*itertools.product((0, 2, 5, 10, 20, 50), (1, 3)), (0, 10), (5, 10)]
SEEDS = (0, 1, 2)
SETTING = ["cycle_weight", "kl_weight"]
FOLDER, FIGURE = CACHE / "criterion", HERE.parent / "docs" / "criterion.png"


def main() -> None:
    """Train missing models, measure all, compare the scores."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--sets", nargs="+", choices=[*TITLES], default=[*TITLES], help="data sets; the rows of others are kept"
    )
    parser.add_argument("--reuse", action="store_true", help="reuse embeddings from the cache")
    args = parser.parse_args()
    FOLDER.mkdir(parents=True, exist_ok=True)
    tables = []
    for name in args.sets:
        adata = anndata.read_h5ad(getattr(data, name)())
        train(name, adata, args.reuse)
        tables.append(measure(name, adata))
    path = RESULTS / "criterion_runs.csv"
    if path.exists():
        old = pd.read_csv(path)
        tables.append(old[~old["data"].isin(args.sets)])
    runs = pd.concat(tables, ignore_index=True)
    runs.to_csv(path, index=False, float_format="%.4f")
    names = [name for name in TITLES if (runs["data"] == name).any()]
    table = pd.DataFrame([agreement(runs[runs["data"] == name]) for name in names], index=names)
    table.to_csv(RESULTS / "criterion.csv", index_label="data", float_format="%.3f")
    print(table.round(2).T.to_string())
    plot(runs, FIGURE)


def embedding_path(name: str, cycle_weight: float, kl_weight: float, seed: int) -> Path:
    """File with the embedding of a run."""
    return FOLDER / f"{name}_{EPOCHS}_{cycle_weight:g}_{kl_weight:g}_{seed}.npy"


def train(name: str, adata: anndata.AnnData, reuse: bool) -> None:
    """Train all models and write their embeddings."""

    def write_embedding(run: sysvi.Run) -> None:
        path = embedding_path(name, run.cycle_weight, run.kl_weight, run.seed)
        np.save(path, run.model.get_latent_representation())
        print(f"{path.stem} {run.status}", flush=True)

    for kl_weight in dict.fromkeys(kl for _, kl in GRID):
        for seed in SEEDS:
            wanted = [c for c, kl in GRID if kl == kl_weight]
            missing = [c for c in wanted if not (reuse and embedding_path(name, c, kl_weight, seed).exists())]
            if missing:
                settings = {
                    "max_epochs": EPOCHS,
                    "progress": False,
                    "on_run": write_embedding,
                    "mixture_share": sysvi.Ramp(1.0),
                }
                weights = {"cycle_weights": missing, "kl_weights": [kl_weight], "seeds": [seed]}
                sysvi.train_many(adata, "system", "batch", **weights, **settings)


def measure(name: str, adata: anndata.AnnData) -> pd.DataFrame:
    """One row for each run: metrics and scores with and without labels."""
    system, batch, label = (adata.obs[key].to_numpy().astype(str) for key in ("system", "batch", "cell_type"))
    rows = np.arange(adata.n_obs)
    tables = {}
    for kind, given in (("with labels", label.astype(object)), ("without labels", None)):
        criterion = Criterion.from_cells(adata.X, rows, system, batch, given, min_cells=MIN_CELLS[name])
        print(f"{name}, {kind}: {criterion.describe()}", flush=True)
        measured = [
            {"cycle_weight": c, "kl_weight": kl, "seed": seed}
            | criterion.measure(np.load(embedding_path(name, c, kl, seed)))
            for (c, kl), seed in itertools.product(GRID, SEEDS)
        ]
        tables[kind] = paper_scores(pd.DataFrame(measured), batch=[criterion.mixing_metric])
    ours, paper = tables["without labels"], tables["with labels"]
    runs = paper[[*SETTING, "seed", "iLISI", "NMI", "Moran"]].assign(**{"with labels": paper["overall"]})
    states = {"shared mixing": ours["shared mixing"], "NMI of states": ours["NMI"], "Moran of states": ours["Moran"]}
    return runs.assign(**states, **{"without labels": ours["overall"]}).assign(data=name)


def agreement(runs: pd.DataFrame) -> dict:
    """How well the scores with and without labels agree on a data set."""
    both = ["with labels", "without labels"]
    means = runs.groupby(SETTING)[both].mean()
    chosen = {kind: means[kind].idxmax() for kind in both}
    ranks = [runs[runs["seed"] == seed].set_index(SETTING)[both].rank() for seed in SEEDS]
    between = [a["with labels"].corr(b["with labels"]) for a, b in itertools.combinations(ranks, 2)]
    return {
        "runs": len(runs),
        "correlation over runs": runs[both].corr("spearman").iloc[0, 1],
        "correlation over settings": means.corr("spearman").iloc[0, 1],
        "correlation of the score with labels between seeds": np.mean(between),
        "chosen with labels": "cycle {:g}, KL {:g}".format(*chosen["with labels"]),
        "chosen without": "cycle {:g}, KL {:g}".format(*chosen["without labels"]),
        "best score with labels": means["with labels"].max(),
        "score with labels of what is chosen without": means["with labels"][chosen["without labels"]],
        "score with labels of the default, cycle 5": means["with labels"][5, 1],
        "median score with labels": means["with labels"].median(),
    }


def plot(runs: pd.DataFrame, path: Path) -> None:
    """Draw the score without labels against the score with labels, a panel for each data set."""
    from matplotlib import colormaps

    names = [name for name in TITLES if (runs["data"] == name).any()]
    weights = sorted(runs["cycle_weight"].unique())
    colors = dict(zip(weights, colormaps["viridis"](np.linspace(0, 0.92, len(weights))), strict=True))
    markers = {1: "o", 3: "s", 10: "^"}
    figure = Figure(figsize=(4.0 * len(names) + 1.2, 4.0), layout="constrained")
    axes = figure.subplots(1, len(names), squeeze=False)[0]
    for ax, name in zip(axes, names, strict=True):
        subset = runs[runs["data"] == name]
        for (cycle_weight, kl_weight), points in subset.groupby(SETTING):
            style = {"color": colors[cycle_weight], "marker": markers[kl_weight], "alpha": 0.75, "linewidths": 0}
            ax.scatter(points["with labels"], points["without labels"], 36, **style)
        rank = subset[["with labels", "without labels"]].corr("spearman").iloc[0, 1]
        ax.set_title(f"{TITLES[name]}\nrank correlation {rank:.2f}", fontsize=10)
        ax.set(xlabel="score with labels", ylabel="score without labels", xlim=(-0.05, 1.05), ylim=(-0.05, 1.05))
        ax.grid(color="0.92")
        ax.set_axisbelow(True)
        ax.spines[["top", "right"]].set_visible(False)
    dot = {"linestyle": "", "markersize": 6}
    handles = [axes[0].plot([], [], "o", color=c, label=f"cycle {w:g}", **dot)[0] for w, c in colors.items()]
    handles += [axes[0].plot([], [], m, color="0.5", label=f"KL {w:g}", **dot)[0] for w, m in markers.items()]
    figure.legend(handles=handles, loc="outside right center", frameon=False, fontsize=9)
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
