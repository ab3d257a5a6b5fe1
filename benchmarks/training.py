"""Seconds an epoch of training on the CPU: ours beside scvi-tools 1.4.2's SysVI, each at its defaults.

    python benchmarks/training.py            all data sets, about 15 minutes; writes results/training.csv
    python benchmarks/training.py --quick    the smaller ones in fewer rounds, under 5 minutes; only prints

Both train on all cells of the same prepared file, in turns, each time in a new process and with the same number of
threads. An epoch lasts from the end of the one before to its own end. The first, with all that is done only once, is
left out on both sides; a round's value is the median of the others (of ours these are epochs with the cycle, which is
off in the first tenth of training). Ratios are of the two processes of a round. Where the whole machine stood still for
a while (a virtual one that its host stopped), that is taken off and said.

Baron islets need SYSVI_DATA and are left out without it. The peers' environment (.venv-bench) is made on demand; where
it cannot be made, --quick shows ours alone.
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

OURS, THEIRS = "sysvi", "scvi-tools SysVI"


@dataclass(frozen=True)
class Case:
    """A data set and how long it is trained on: epochs by method, the first of which is left out."""

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
    """Measure the data sets one after the other and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="+", choices=[*CASES], default=[*CASES], help="the others keep their old rows")
    parser.add_argument("--quick", action="store_true", help="the smaller data sets in fewer rounds; only prints")
    parser.add_argument("--rounds", type=int, help="of each data set")
    parser.add_argument("--threads", type=int, default=n_cores(), help="default: all cores")
    args = parser.parse_args()
    methods = [OURS, THEIRS]
    try:
        make_peer_environment()
    except (OSError, subprocess.CalledProcessError) as error:
        if not args.quick:
            raise
        print(f"scvi-tools could not be installed, so ours is measured alone: {error}")
        methods = [OURS]
    cases = [CASES[name] for name in args.sets if not (args.quick and CASES[name] is LARGE)]
    if BARON in cases and not data.has_baron():
        cases.remove(BARON)
        print("Baron islets are left out: SYSVI_DATA does not hold them.")
    print(machine(args.threads), flush=True)
    rows: list[dict] = []
    for case in cases:
        rounds = args.rounds or (QUICK_ROUNDS if args.quick else case.rounds)
        rows += measure(case, methods, rounds, args.threads)
        if not args.quick:  # after each data set: what is measured is kept if the rest is interrupted
            keep(pd.DataFrame(rows))
    table = pd.DataFrame(rows)
    print(summary(table).to_string(index=False))
    if still := table["stood still, s"].sum():
        print(f"The machine stood still for {still:.0f} s prefetch, which is taken off.")


def keep(rows: pd.DataFrame) -> None:
    """Write the rows, in place of older ones of the same data sets."""
    path = RESULTS / "training.csv"
    if path.exists():
        old = pd.read_csv(path)
        rows = pd.concat([old[~old["cells"].isin(rows["cells"])], rows])
    RESULTS.mkdir(exist_ok=True)
    rows.sort_values(["cells", "round"]).to_csv(path, float_format="%.4f", index=False)


def measure(case: Case, methods: list[str], rounds: int, threads: int) -> list[dict]:
    """Seconds an epoch of each method in each round: one row a round."""
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
        print(f"{case.name}, {size.cells:,} x {size.genes:,}, round {i + 1} of {rounds}: {times} an epoch", flush=True)
        rows.append(row)
    return rows


def train(method: str, prepared: Path, epochs: int, threads: int) -> dict:
    """Train one of the two on all cells, for a number of epochs, in a process of its own."""
    arguments = (prepared, CACHE / "embedding.npy", "--epochs", epochs)
    if method == OURS:
        return ours("ours.py", *arguments, threads=threads)
    return peer("scvi_sysvi.py", *arguments, "--train-size", 1.0, threads=threads)


def summary(rows: pd.DataFrame) -> pd.DataFrame:
    """One line a data set: medians over the rounds, with the smallest and the largest value."""

    def spread(values: pd.Series, digits: int) -> str:
        return f"{values.median():.{digits}f} ({values.min():.{digits}f} - {values.max():.{digits}f})"

    table = []
    for (name, cells, genes), of_case in rows.groupby(["data", "cells", "genes"], sort=False):
        line = {"data": f"{name}, {cells:,} x {genes:,}, {of_case['density'].iloc[0]:.0%} non-zero"}
        for method in (OURS, THEIRS):
            if method in of_case:
                minibatch = of_case[f"minibatch of {method}"].iloc[0]
                line[f"{method}, s an epoch"] = f"{spread(of_case[method], 3)}, minibatch {minibatch}"
        if "times as fast" in of_case:
            line["times as fast"] = spread(of_case["times as fast"], 1)
        table.append(line)
    return pd.DataFrame(table)


if __name__ == "__main__":
    main()
