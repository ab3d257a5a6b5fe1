"""Finding 4 (Fig. 5): every method over its grid on every open set, three seeds, beside VAMP, CYC and the cVAE.

    python benchmarks/paper/methods.py [--sets protocols kang ...] [--methods harmony,sysvi,...] [--seeds 3]
        [--grid full] [--hours H] [--timeout 7200] [--jobs 1] [--environments FOLDER] [--constraint FILE]
    python benchmarks/paper/methods.py --report      tables in Markdown, from the results that are there

Runs `sysvi compare` on each set. Each run has one thread, and with more than one job, times are to be read as ratios
only. Runs are kept in benchmarks/.cache/compare, so that a call continues where another one stopped, by itself after
`--hours`, or interrupted. (They are reused as long as the version of sysvi is the same: remove the folder after a
change of the engine.) The tables keep the rows of methods, settings and seeds that are not asked for, so methods can be
run one after the other, on different days. Writes for each set results/paper_fig5_<set>.csv (one row for each run),
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
from runs import CACHE, FIGURES, MIN_CELLS, RESULTS, TITLES, DataSet

from sysvi.comparison.compare import compare
from sysvi.comparison.figures import plot_comparison
from sysvi.comparison.files import DRAWN_METRICS
from sysvi.comparison.tables import RUN_COLUMNS, USAGE, scored_runs, summary_table, tests_table

SETS = ["protocols", "kang", "hard", "held_out", "baron", "malaria"]
# The order in which they are run: those that take seconds first.
METHODS = (
    "pca,harmony,harmony-r,seurat-rpca,seurat-cca,stacas,sysvi,concord,scvital,scvi-sysvi,scvi,drvi,cvae,cyc,vamp,adv,"
    "scmgca,glue,saturn,scgen,scanvi"
)
NOT_METRICS = {*RUN_COLUMNS, "score", "chosen", "representative", "overall"}
IDENTITY = ["method", "parameter", "value", "seed"]
TEXT = {"parameter": "", "value": "", "reason": ""}  # columns of text, which CSV cannot tell from missing values
SHOWN = ["overall", "iLISI", "CiLISI", "NMI", "Moran", "private mixed", "seconds", "peak_mb"]
TESTED = ["overall", "iLISI", "CiLISI", "NMI", "Moran", "kNN purity", "Jaccard", "private mixed"]


def main() -> None:
    """Run the comparison on each data set, or print the report."""
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
    parser.add_argument("--report", action="store_true")
    args = parser.parse_args()
    if args.report:
        report(args.sets)
        return
    os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"), "1")  # for each run
    if args.hours is not None:
        timer = threading.Timer(args.hours * 3600, _thread.interrupt_main)
        timer.daemon = True
        timer.start()
    for name in args.sets:
        try:
            run(name, args)
        finally:  # what is finished, after an interrupt too
            write(name)


def run(name: str, args: argparse.Namespace) -> None:
    """Make the missing runs on one set."""
    compare(
        DataSet(name).adata,
        CACHE / "compare" / name,
        system_key="system",
        batch_key="batch",
        label_key="cell_type",
        methods=args.methods.split(","),
        grid=args.grid,
        seeds=args.seeds,
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


def report(sets: list[str]) -> None:
    """Print for each set the table of methods, where sysVI is behind, and what is missing, in Markdown."""
    for name in sets:
        runs = read_runs(result(name))
        if runs.empty or not runs["chosen"].any():
            print(f"\n## {TITLES[name]}\n\nNot run.")
            continue
        table = summary_table(runs, metrics_of(runs))
        methods = pd.read_csv(result(name, "_methods")).fillna({"reason": ""}).set_index("method")
        tests = pd.read_csv(result(name, "_tests")).fillna({"note": ""})
        shown = [column for column in SHOWN if column in table]
        print(f"\n## {TITLES[name]}\n\n| at its best setting | runs | {' | '.join(shown)} |")
        print("|---" * (2 + len(shown)) + "|")
        for _, row in table.iterrows():
            setting = f", {row['parameter']} {row['value']}" if row["parameter"] else ""
            title = f"**{row['title']}**" if row["method"] == "sysvi" else row["title"]
            values = " | ".join(_shown(column, row[column], row[f"{column} sd"]) for column in shown)
            print(f"| {title}{setting} | {row['runs']} | {values} |")
        if "sysvi" in set(table["method"]):
            print("\n**sysVI is behind** (Welch's test, corrected):\n")
            print("\n".join(behind(tests, table, methods["labels"])) or "- in nothing that was measured.")
        if not (without := methods[(methods["finished"] == 0) & (methods["reason"] != "")]).empty:
            print("\nWithout a result:\n")
            print("\n".join(f"- {row['title']}: {row['reason']}." for _, row in without.iterrows()))
        if missing := [method for method in METHODS.split(",") if method not in methods.index]:
            print(f"\nNot run yet: {', '.join(missing)}.")


def behind(tests: pd.DataFrame, table: pd.DataFrame, uses_labels: pd.Series) -> list[str]:
    """Lines that say in what sysVI is worse than another method that uses no cell types."""
    titles, lines = table.set_index("method")["title"], []
    for method, of_method in tests.groupby("method", sort=False):
        if uses_labels[method]:
            continue
        worse = np.where(of_method["metric"] == "private mixed", 1, -1) * of_method["difference"] > 0
        parts = [
            f"{row['metric']} by {abs(row['difference']):.2f} "
            + (f"(p {row['p_adjusted']:.2g})" if pd.notna(row["p_adjusted"]) else f"({row['note']})")
            for _, row in of_method[worse].iterrows()
        ]
        if parts:
            lines.append(f"- {titles[method]}: {', '.join(parts)}.")
    return lines


def _shown(column: str, value: float, deviation: float) -> str:
    if pd.isna(value):
        return ""
    digits = 0 if column in USAGE else 2
    spread = f" ± {deviation:.2f}" if column == "overall" and pd.notna(deviation) else ""
    return f"{value:,.{digits}f}{spread}"


if __name__ == "__main__":
    main()
