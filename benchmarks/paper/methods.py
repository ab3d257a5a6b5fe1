"""Finding 4 (Fig. 5): VAMP+CYC against VAMP, CYC, cVAE and established methods, each at its defaults.

    python benchmarks/paper/methods.py [--methods sysvi,scvi,...] [--seeds 5] [--sets baron hard held_out]
                                       [--environments FOLDER] [--constraint FILE] [--jobs 2]

`sysvi compare` on Baron, on the hard simulation and on a held-out one, which nothing was chosen on; one thread a run,
`jobs` runs at a time: read times as ratios only. Runs are kept in benchmarks/.cache/compare and reused as long as the
version of sysvi is the same, so remove the folder after a change of the engine. Rows of methods and seeds that were not
asked for stay, and the figure shows them too: `--seeds 1` with all methods is enough for the UMAPs. Writes
results/paper_methods_<set>.csv (a row a run),
figures/methods_<set>.png and, with all methods, figures/umaps_<set>.png (the median run of those asked for).
"""

import argparse
import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
from runs import CACHE, FIGURES, MIN_CELLS, RESULTS, TITLES, DataSet

from sysvi.comparison.compare import DRAWN, Comparison, compare
from sysvi.comparison.figures import plot_comparison
from sysvi.comparison.tables import USAGE, scored_runs, summary
from sysvi.evaluation.scores import paper_scores

SETS = ["baron", "hard", "held_out"]
METHODS = "sysvi,vamp,cyc,cvae,scvi-sysvi,scvi,harmony,pca"
NO_METRIC = ("overall", *USAGE)
MEASURES = ["overall", "iLISI", "NMI", "Moran"]


def main() -> None:
    """Run, measure, conclude."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", default=METHODS)
    parser.add_argument("--sets", nargs="+", choices=SETS, default=SETS)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--environments", type=Path)
    parser.add_argument("--constraint", type=Path)
    parser.add_argument("--jobs", type=int, default=2)
    args = parser.parse_args()
    os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"), "1")  # of the runs
    keys = {"system_key": "system", "batch_key": "batch", "label_key": "cell_type"}
    for name in args.sets:
        folder, cells = CACHE / "compare" / name, DataSet(name)
        found = compare(
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
        for row, run in found.runs.loc[found.runs["status"] == "finished", "run"].items():
            z = np.load(folder / "runs" / run / "embedding.npy")
            found.runs.loc[row, "private mixed"] = cells.private_mixed(z)
        runs, table = with_known(found, RESULTS / f"paper_methods_{name}.csv")
        FIGURES.mkdir(exist_ok=True)
        plot_comparison(runs, table, ["overall", *DRAWN], FIGURES / f"methods_{name}.png", note=" ".join(found.notes))
        if args.methods == METHODS:
            shutil.copy(folder / "umaps.png", FIGURES / f"umaps_{name}.png")
        table = table.set_index("method")
        print(f"\n{TITLES[name]}", table[[c for m in MEASURES for c in (m, f"{m} sd")]].round(2).to_string(), sep="\n")
        runs = runs.dropna(subset="iLISI")
        scores = paper_scores(runs, batch=["CiLISI"]).groupby(runs["method"])["overall"].mean()
        print("Overall score with mixing measured within cell types (CiLISI):", scores.round(2).to_dict())
        print("Private types mixed:", runs.groupby("method")["private mixed"].mean().round(2).to_dict())
        print(f"iLISI where types lie apart and are fully mixed: {perfect_mixing(cells):.2f}.")
        better = table.index[table["overall"] > table.loc["sysvi", "overall"]]
        print(f"Of a higher overall score than sysVI's defaults: {', '.join(better) or 'none'}.")


def with_known(found: Comparison, path: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """All runs, those of other methods and seeds that `path` holds too, scored and written; and a row a method."""
    runs, run = found.runs, ["method", "seed"]
    if path.exists():
        old = pd.read_csv(path, keep_default_na=False, na_values=[""]).fillna({"parameter": "", "reason": ""})
        again = old.set_index(run).index.isin(runs.set_index(run).index)
        runs = pd.concat([runs, old[~again]], ignore_index=True)
    runs = scored_runs(runs)
    runs.to_csv(path, index=False)
    metrics = [name for name in found.table if name in runs and f"{name} sd" in found.table and name not in NO_METRIC]
    return runs, summary(runs, metrics)


def perfect_mixing(cells: DataSet) -> float:
    """The iLISI of a made-up embedding without fault: types far apart, each with its systems mixed at random."""
    rng = np.random.default_rng(0)
    types, of_cell = np.unique(cells.label, return_inverse=True)
    z = rng.normal(size=(len(types), 15))[of_cell] * 10 + rng.normal(size=(len(of_cell), 15))
    return cells.criterion.measure(z.astype(np.float32))["iLISI"]


if __name__ == "__main__":
    main()
