"""Finding 4 (Fig. 5): VAMP+CYC against VAMP, CYC, cVAE and established methods, each at its defaults.

    python benchmarks/paper/methods.py [--methods sysvi,scvi,...] [--seeds 5] [--sets baron hard]
                                       [--environments FOLDER] [--constraint FILE]

`sysvi compare` on Baron and on the hard simulation, one thread a run, two runs at a time: read times as ratios only.
Runs are kept in benchmarks/.cache/compare and reused as long as the version of sysvi is the same, so remove the folder
after a change of the engine. Writes results/paper_methods_<set>.csv (a row a run), figures/methods_<set>.png and
figures/umaps_<set>.png.
"""

import argparse
import os
import shutil
from pathlib import Path

import anndata
from runs import CACHE, FIGURES, MIN_CELLS, RESULTS, TITLES, data

from sysvi.compare import compare

METHODS = "sysvi,vamp,cyc,cvae,scvi-sysvi,scvi,harmony,pca"
MEASURES = ["overall", "iLISI", "NMI", "Moran"]


def main() -> None:
    """Run, measure, conclude."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", default=METHODS)
    parser.add_argument("--sets", nargs="+", choices=["baron", "hard"], default=["baron", "hard"])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--environments", type=Path)
    parser.add_argument("--constraint", type=Path)
    args = parser.parse_args()
    os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"), "1")  # of the runs
    keys = {"system_key": "system", "batch_key": "batch", "label_key": "cell_type"}
    for name in args.sets:
        folder = CACHE / "compare" / name
        found = compare(
            anndata.read_h5ad(getattr(data, name)()),
            folder,
            **keys,
            methods=args.methods.split(","),
            grid="default",
            seeds=args.seeds,
            jobs=2,
            min_cells=MIN_CELLS[name],
            environments=args.environments,
            constraint=args.constraint,
        )
        shutil.copy(folder / "runs.csv", RESULTS / f"paper_methods_{name}.csv")
        FIGURES.mkdir(exist_ok=True)
        for figure, copy in (("comparison", "methods"), ("umaps", "umaps")):
            shutil.copy(folder / f"{figure}.png", FIGURES / f"{copy}_{name}.png")
        table = found.table.set_index("method")
        print(f"\n{TITLES[name]}", table[[c for m in MEASURES for c in (m, f"{m} sd")]].round(2).to_string(), sep="\n")
        better = table.index[table["overall"] > table.loc["sysvi", "overall"]]
        print(f"Of a higher overall score than sysVI's defaults: {', '.join(better) or 'none'}.")


if __name__ == "__main__":
    main()
