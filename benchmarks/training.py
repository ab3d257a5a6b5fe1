"""Seconds per epoch of training on the CPU: one model of sysvi's default and scvi-tools 1.5.1's SysVI.

    python benchmarks/training.py            all data sets, about 15 minutes; writes results/training.csv
    python benchmarks/training.py --quick    the smaller ones in fewer rounds, under 5 minutes; only prints

Both train on all cells of the same prepared file, in turns, each time in a new process and with the same number of
threads: scvi-tools at its defaults, sysvi one of the eight models of its default (total_time.py measures all eight).
An epoch is timed from the end of the previous one to its own end. The first epoch, which includes everything done only
once, is left out for both; the value of a round is the median of the others. (For sysvi these are epochs with the cycle
loss, which is off in the first tenth of training.) Ratios are between the two processes of a round. Time in which the
whole machine stood still (a virtual one whose host stopped it) is subtracted and reported.

Baron's islets need SYSVI_DATA and are left out without it. The environment of the peers (.venv-bench) is created if
need be; where it cannot be created, --quick shows sysvi alone.
"""

import argparse
import statistics
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import data
import pandas as pd
from common import CACHE, RESULTS, machine, make_peer_environment, n_cores, ours, peer

from sysvi.comparison.interpreters import NoInterpreter

OURS, THEIRS = "sysvi", "scvi-tools SysVI"


@dataclass(frozen=True)
class Case:
    """A data set, the number of rounds, and the number of epochs of each method (the first one is left out)."""

    name: str
    prepared: Callable[[], Path]
    rounds: int
    epochs: dict[str, int]


BARON = Case("Baron islets", data.baron, 5, {OURS: 41, THEIRS: 6})
SMALL = Case("simulated", lambda: data.simulated(20_000, 3_000), 5, {OURS: 6, THEIRS: 2})
LARGE = Case("simulated", lambda: data.simulated(100_000, 2_000), 3, {OURS: 6, THEIRS: 2})
CASES = {"baron": BARON, "20000": SMALL, "100000": LARGE}
QUICK_ROUNDS = 2


def main() -> None:
    """Measure the data sets in turn and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--sets", nargs="+", choices=[*CASES], default=[*CASES], help="data sets; the rows of others are kept"
    )
    parser.add_argument("--quick", action="store_true", help="the smaller data sets in fewer rounds; only prints")
    parser.add_argument("--rounds", type=int, help="number of rounds for each data set")
    parser.add_argument("--threads", type=int, default=n_cores(), help="number of threads; default: all cores")
    args = parser.parse_args()
    methods = [OURS, THEIRS]
    try:
        make_peer_environment()
    except (OSError, NoInterpreter, subprocess.CalledProcessError) as error:
        if not args.quick:
            raise
        print(f"scvi-tools could not be installed, so sysvi is measured alone: {error}")
        methods = [OURS]
    cases = [CASES[name] for name in args.sets if not (args.quick and CASES[name] is LARGE)]
    if BARON in cases and not data.has_baron():
        cases.remove(BARON)
        print("Baron's islets are left out: SYSVI_DATA does not contain them.")
    print(machine(args.threads), flush=True)
    rows: list[dict] = []
    for case in cases:
        rounds = args.rounds or (QUICK_ROUNDS if args.quick else case.rounds)
        rows += measure(case, methods, rounds, args.threads)
        if not args.quick:  # after each data set, so that an interrupt loses little
            write_rows(pd.DataFrame(rows))
    table = pd.DataFrame(rows)
    print(summary(table).to_string(index=False))
    if still := table["stood still, s"].sum():
        print(f"The machine stood still for {still:.0f} s in total, which is subtracted.")


def write_rows(rows: pd.DataFrame) -> None:
    """Write the rows; older ones of the same data sets are replaced."""
    path = RESULTS / "training.csv"
    if path.exists():
        old = pd.read_csv(path)
        rows = pd.concat([old[~old["cells"].isin(rows["cells"])], rows])
    RESULTS.mkdir(exist_ok=True)
    rows.sort_values(["cells", "round"]).to_csv(path, float_format="%.4f", index=False)


def measure(case: Case, methods: list[str], rounds: int, threads: int) -> list[dict]:
    """Measure the seconds per epoch of each method; one row for each round."""
    prepared = case.prepared()
    size = data.size(prepared)
    rows = []
    for i in range(rounds):
        row = {"data": case.name, "cells": size.cells, "genes": size.genes, "density": size.density}
        row |= {"threads": threads, "round": i, "stood still, s": 0.0}
        for method in methods if i % 2 == 0 else reversed(methods):
            result = train(method, prepared, case.epochs[method], threads)
            row[method] = statistics.median(result["epoch_seconds"][1:])
            row[f"minibatch of {method}"] = result["batch_size"]
            row["stood still, s"] += result["still_seconds"]
        if THEIRS in methods:
            row["times as fast"] = row[THEIRS] / row[OURS]
        times = ", ".join(f"{method} {row[method]:.3f} s" for method in methods)
        print(f"{case.name}, {size.cells:,} x {size.genes:,}, round {i + 1} of {rounds}: {times} per epoch", flush=True)
        rows.append(row)
    return rows


def train(method: str, prepared: Path, epochs: int, threads: int) -> dict:
    """Train one of the methods on all cells in a separate process."""
    arguments = (prepared, CACHE / "embedding.npy", "--epochs", epochs)
    if method == OURS:
        return ours("ours.py", *arguments, "--members", 1, threads=threads)
    return peer("scvi_sysvi.py", *arguments, "--train-size", 1.0, threads=threads)


def summary(rows: pd.DataFrame) -> pd.DataFrame:
    """One row for each data set: medians over the rounds, with the smallest and the largest value."""

    def spread(values: pd.Series, digits: int) -> str:
        return f"{values.median():.{digits}f} ({values.min():.{digits}f} - {values.max():.{digits}f})"

    table = []
    for (name, cells, genes), of_set in rows.groupby(["data", "cells", "genes"], sort=False):
        line = {"data": f"{name}, {cells:,} x {genes:,}, {of_set['density'].iloc[0]:.0%} non-zero"}
        for method in (OURS, THEIRS):
            if method in of_set:
                minibatch = of_set[f"minibatch of {method}"].iloc[0]
                line[f"{method}, s per epoch"] = f"{spread(of_set[method], 3)}, minibatch {minibatch}"
        if "times as fast" in of_set:
            line["times as fast"] = spread(of_set["times as fast"], 1)
        table.append(line)
    return pd.DataFrame(table)


if __name__ == "__main__":
    main()
