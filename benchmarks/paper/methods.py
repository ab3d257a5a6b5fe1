"""Finding 4 (Fig. 5): every method over its grid on every open set, three seeds, beside VAMP, CYC and the cVAE.

    python benchmarks/paper/methods.py [--sets protocols kang ...] [--methods harmony,sysvi,...] [--seeds 3]
        [--grid full] [--hours H] [--timeout 7200] [--jobs 1] [--environments FOLDER] [--constraint FILE]

Runs `sysvi compare` on each set. Each run has one thread, and with more than one job, times are to be read as ratios
only. A method and seed whose rows are all in the table of the set is not run again: remove its rows after a change of
the engine. Within a machine, runs are also kept in benchmarks/.cache/compare (remove that folder too). So a call
continues where another one stopped, by itself after `--hours`, or interrupted, also on another day and machine. Writes
for each set, after each seed of some methods, results/paper_fig5_<set>.csv (one row for each run),
_methods.csv (one for each method: version, or the reason why there is no result), _tests.csv (Welch's tests of sysVI
against each other method, corrected) and figures/fig5_<set>.png.
"""

from __future__ import annotations

import _thread
import argparse
import os
import threading
from pathlib import Path

import numpy as np
import pandas as pd
from runs import CACHE, FIGURES, MIN_CELLS, RESULTS, DataSet

from sysvi.comparison.compare import compare
from sysvi.comparison.figures import plot_comparison
from sysvi.comparison.files import DRAWN_METRICS
from sysvi.comparison.methods import choose_methods, read_methods
from sysvi.comparison.tables import RUN_COLUMNS, scored_runs, summary_table, tests_table

SETS = ["protocols", "kang", "hard", "held_out", "baron", "malaria"]
# The order in which they are run: those that take seconds first.
METHODS = (
    "pca,harmony,harmony-r,seurat-rpca,seurat-cca,stacas,sysvi,concord,scvital,scvi-sysvi,scvi,drvi,cvae,cyc,vamp,adv,"
    "scmgca,glue,saturn,scgen,scanvi"
)
NOT_METRICS = {*RUN_COLUMNS, "score", "chosen", "representative", "overall"}
IDENTITY = ["method", "parameter", "value", "seed"]  # the columns that identify a run
TEXT = {"parameter": "", "value": "", "reason": ""}  # columns of text, which CSV cannot tell from missing values
TESTED = ["overall", "iLISI", "CiLISI", "NMI", "Moran", "kNN purity", "Jaccard", "private mixed"]


def main() -> None:
    """Make the missing runs on each data set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", default=METHODS)
    parser.add_argument("--sets", nargs="+", choices=SETS, default=SETS)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--grid", choices=["full", "default"], default="full")
    parser.add_argument("--hours", type=float, help="stop after this time and write what is finished")
    parser.add_argument("--timeout", type=float, help="longest time of a run, seconds")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--environments", type=Path)
    parser.add_argument("--constraint", type=Path)
    args = parser.parse_args()
    os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"), "1")  # for each run
    if args.hours is not None:
        timer = threading.Timer(args.hours * 3600, _thread.interrupt_main)
        timer.daemon = True
        timer.start()
    for name in args.sets:
        for seeds, methods in missing(name, args.methods.split(","), args.grid, args.seeds).items():
            try:
                run(name, methods, seeds, args)
            finally:  # what is finished, after an interrupt too
                write(name)


def missing(name: str, methods: list[str], grid: str, n_seeds: int) -> dict[tuple[int, ...], list[str]]:
    """Methods without all rows of their grid in the table of a set, by the seeds that they lack."""
    runs = read_runs(result(name))
    there = set() if runs.empty else set(runs[IDENTITY].itertuples(index=False, name=None))
    lacking: dict[tuple[int, ...], list[str]] = {}
    for method in choose_methods(read_methods(), methods):
        points = [(parameter, "" if value is None else str(value)) for parameter, value in method.grid_points(grid)]
        seeds = tuple(
            seed
            for seed in range(1 if method.deterministic else n_seeds)
            if not all((method.name, *point, seed) in there for point in points)
        )
        if seeds:
            lacking.setdefault(seeds, []).append(method.name)
    return lacking


def run(name: str, methods: list[str], seeds: tuple[int, ...], args: argparse.Namespace) -> None:
    """Make the runs of some methods with some seeds on one set; those in the cache are reused."""
    compare(
        DataSet(name).adata,
        CACHE / "compare" / name,
        system_key="system",
        batch_key="batch",
        label_key="cell_type",
        methods=methods,
        grid=args.grid,
        seeds=seeds,
        jobs=args.jobs,
        timeout=args.timeout,
        min_cells=MIN_CELLS[name],
        environments=args.environments,
        constraint=args.constraint,
    )


def write(name: str) -> None:
    """Add the tables of the last comparison on one set to those in results/, and draw the figure."""
    folder = CACHE / "compare" / name
    if not (folder / "runs.csv").exists():
        return
    cells, new = DataSet(name), read_runs(folder / "runs.csv")
    new = new[new["status"] != "not run"].copy()
    for row, of_run in new.loc[new["status"] == "finished", "run"].items():
        new.loc[row, "private mixed"] = cells.private_mixed(np.load(folder / "runs" / of_run / "embedding.npy"))
    runs = scored_runs(merged(new, read_runs(result(name)), IDENTITY))
    runs.to_csv(result(name), index=False, float_format="%.5g")
    methods = merged(pd.read_csv(folder / "methods.csv"), _read(result(name, "_methods")), ["method"])
    counts = runs.groupby(["method", "status"]).size().unstack(fill_value=0).reindex(methods["method"], fill_value=0)
    for status in ("finished", "failed"):
        methods[status] = counts[status].to_numpy() if status in counts else 0
    methods.to_csv(result(name, "_methods"), index=False)
    if not runs["chosen"].any():
        return
    of_sysvi(tests_table(runs, TESTED)).to_csv(result(name, "_tests"), index=False, float_format="%.4g")
    table = summary_table(runs, metrics_of(runs))
    without = methods.loc[~methods["method"].isin(table["method"]), "title"]
    drawn = ["overall", *DRAWN_METRICS, "private mixed"]
    FIGURES.mkdir(exist_ok=True)
    plot_comparison(
        runs, table, drawn, FIGURES / f"fig5_{name}.png", without_result=[f"{title} (no result)" for title in without]
    )


def result(name: str, suffix: str = "") -> Path:
    """Path of a table of one set."""
    return RESULTS / f"paper_fig5_{name}{suffix}.csv"


def read_runs(path: Path) -> pd.DataFrame:
    """A table of runs; empty if there is none."""
    table = _read(path)
    return table.fillna({column: text for column, text in TEXT.items() if column in table})


def _read(path: Path) -> pd.DataFrame:
    # Values of parameters are kept as they are written: 1 and 1.5, or a name.
    return pd.read_csv(path, dtype={"value": str}) if path.exists() else pd.DataFrame()


def merged(new: pd.DataFrame, old: pd.DataFrame, identity: list[str]) -> pd.DataFrame:
    """The new rows, and those of the old ones that they do not replace."""
    if old.empty or new.empty:
        return old if new.empty else new
    kept = old[~old.set_index(identity).index.isin(new.set_index(identity).index)]
    return pd.concat([kept, new], ignore_index=True)


def metrics_of(runs: pd.DataFrame) -> list[str]:
    """Names of the metrics in a table of runs."""
    return [name for name in runs if name not in NOT_METRICS]


def of_sysvi(tests: pd.DataFrame) -> pd.DataFrame:
    """The tests of sysVI against the others, with the difference as sysVI minus the other."""
    other = tests["method_a"].where(tests["method_b"] == "sysvi", tests["method_b"])
    sign = np.where(tests["method_a"] == "sysvi", 1, -1)
    mine = (tests["method_a"] == "sysvi") | (tests["method_b"] == "sysvi")
    columns = {"metric": tests["metric"], "method": other}
    if "difference" in tests:
        columns |= {"difference": sign * tests["difference"], "p": tests["p"], "p_adjusted": tests["p_adjusted"]}
        columns |= {"note": tests["note"]}
    return pd.DataFrame(columns)[mine]


if __name__ == "__main__":
    main()
