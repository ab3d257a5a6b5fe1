"""Finding 4 (Fig. 5): VAMP+CYC compared with VAMP, CYC, cVAE and established methods, each at its defaults.

    python benchmarks/paper/methods.py [--methods sysvi,scvi,...] [--seeds 5] [--sets baron hard held_out]
                                       [--environments FOLDER] [--constraint FILE] [--jobs 2]

Runs `sysvi compare` on Baron, on the hard simulation and on a held-out one, on which nothing was chosen. Each run has
one thread and `jobs` runs are made at the same time, so read times as ratios only. Runs are kept in
benchmarks/.cache/compare and reused as long as the version of sysvi is the same: remove the folder after a change of
the engine. Rows of other methods and seeds in the table are kept and drawn too, so `--seeds 1` with all methods is
enough for the UMAPs. Writes results/paper_methods_<set>.csv (one row for each run), figures/methods_<set>.png and, with
all methods, figures/umaps_<set>.png (the run of median score among those asked for).
"""

import argparse
import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
from runs import CACHE, FIGURES, MIN_CELLS, RESULTS, TITLES, DataSet

from sysvi.comparison.compare import compare
from sysvi.comparison.figures import plot_comparison
from sysvi.comparison.files import DRAWN_METRICS
from sysvi.comparison.result import Comparison
from sysvi.comparison.tables import USAGE, scored_runs, summary_table
from sysvi.evaluation.scores import paper_scores

SETS = ["baron", "hard", "held_out"]
METHODS = "sysvi,vamp,cyc,cvae,scvi-sysvi,scvi,harmony,pca"
NOT_METRICS = ("overall", *USAGE)
MEASURES = ["overall", "iLISI", "NMI", "Moran"]


def main() -> None:
    """Run the comparison on each data set, write table and figures, print the conclusion."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", default=METHODS)
    parser.add_argument("--sets", nargs="+", choices=SETS, default=SETS)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--environments", type=Path)
    parser.add_argument("--constraint", type=Path)
    parser.add_argument("--jobs", type=int, default=2)
    args = parser.parse_args()
    os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"), "1")  # for each run
    keys = {"system_key": "system", "batch_key": "batch", "label_key": "cell_type"}
    for name in args.sets:
        folder, cells = CACHE / "compare" / name, DataSet(name)
        comparison = compare(
            cells.adata,
            folder,
            **keys,
            methods=args.methods.split(","),
            grid="default",
            seeds=args.seeds,
            jobs=args.jobs,
            min_cells=MIN_CELLS[name],
            environments=args.environments,
            constraint=args.constraint,
        )
        for row, run in comparison.runs.loc[comparison.runs["status"] == "finished", "run"].items():
            z = np.load(folder / "runs" / run / "embedding.npy")
            comparison.runs.loc[row, "private mixed"] = cells.private_mixed(z)
        runs, table = merge_known_runs(comparison, RESULTS / f"paper_methods_{name}.csv")
        FIGURES.mkdir(exist_ok=True)
        plot_comparison(
            runs, table, ["overall", *DRAWN_METRICS], FIGURES / f"methods_{name}.png", note=" ".join(comparison.notes)
        )
        if args.methods == METHODS:
            shutil.copy(folder / "umaps.png", FIGURES / f"umaps_{name}.png")
        table = table.set_index("method")
        print(f"\n{TITLES[name]}", table[[c for m in MEASURES for c in (m, f"{m} sd")]].round(2).to_string(), sep="\n")
        runs = runs.dropna(subset="iLISI")
        scores = paper_scores(runs, batch=["CiLISI"]).groupby(runs["method"])["overall"].mean()
        print("Overall score with mixing measured within cell types (CiLISI):", scores.round(2).to_dict())
        print("Private types mixed:", runs.groupby("method")["private mixed"].mean().round(2).to_dict())
        print(f"iLISI of separate, fully mixed cell types: {ilisi_of_ideal_embedding(cells):.2f}.")
        better = table.index[table["overall"] > table.loc["sysvi", "overall"]]
        print(f"Methods with a higher overall score than sysVI: {', '.join(better) or 'none'}.")


def merge_known_runs(comparison: Comparison, path: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Add the runs of other methods and seeds in the table at `path`, which is updated; all runs, and their summary."""
    runs, identity = comparison.runs, ["method", "seed"]
    if path.exists():
        old = pd.read_csv(path, keep_default_na=False, na_values=[""]).fillna({"parameter": "", "reason": ""})
        replaced = old.set_index(identity).index.isin(runs.set_index(identity).index)
        runs = pd.concat([runs, old[~replaced]], ignore_index=True)
    runs = scored_runs(runs)
    runs.to_csv(path, index=False)
    metrics = [
        name
        for name in comparison.table
        if name in runs and f"{name} sd" in comparison.table and name not in NOT_METRICS
    ]
    return runs, summary_table(runs, metrics)


def ilisi_of_ideal_embedding(cells: DataSet) -> float:
    """The iLISI of an ideal embedding: cell types far apart, the systems of each mixed at random."""
    rng = np.random.default_rng(0)
    types, of_cell = np.unique(cells.label, return_inverse=True)
    z = rng.normal(size=(len(types), 15))[of_cell] * 10 + rng.normal(size=(len(of_cell), 15))
    return cells.criterion.measure(z.astype(np.float32))["iLISI"]


if __name__ == "__main__":
    main()
