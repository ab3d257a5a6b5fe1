"""What a user waits for: a script with the default call of sysvi, or of scvi-tools' SysVI, until the embedding.

    python benchmarks/total_time.py [--sets baron kang ...] [--rounds 3] [--threads N] [--extrapolate]
    python benchmarks/total_time.py --quick    one round of the smaller sets, with --extrapolate; only prints

`sysvi.integrate` at its defaults (eight models, which are combined) and scvi-tools' SysVI at its defaults read the same
prepared file, in turns, each time in a new process and with the same number of threads; the order changes from round to
round. Time counts from the start of Python to the embedding: imports and reading the file are among it, as users wait
for them too, but not time in which the whole machine stood still. Three times are compared:

- the whole call;
- an epoch: one pass over the cells, for sysvi of all eight models together;
- the time until the score is that of the peer when it has finished. The score is the paper's without scaling, 0.4 iLISI
  + 0.3 NMI + 0.3 Moran. sysvi is called with an eighth, a quarter and half of its epochs, and all; what counts is the
  whole time of the shortest of these calls whose score is the peer's or higher. If none is, there is no such time.

With --extrapolate the whole time of the peer is extrapolated from ten epochs, and there are no scores. Baron's and
Kang's cells need SYSVI_DATA. Writes results/total_time.csv, one row for each set and round, after each round.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import anndata
import data
import numpy as np
import pandas as pd
from common import CACHE, HERE, RESULTS, machine, make_peer_environment, n_cores, ours, peer

from sysvi.tuning.criterion import Criterion

sys.path.insert(0, str(HERE / "paper"))
import trust_sets

FRACTIONS = (0.125, 0.25, 0.5)  # of the default number of epochs
WEIGHTS = {"iLISI": 0.4, "NMI": 0.3, "Moran": 0.3}
EXTRAPOLATED_FROM = 10  # epochs of the peer, from whose time that of its whole training is computed
TABLE = RESULTS / "total_time.csv"
RATIOS = ["whole call, times", "an epoch, times", "to the peer's score, times"]


@dataclass(frozen=True)
class Case:
    """A data set, and the fewest cells of a group for Moran's I."""

    prepared: Callable[[], Path]
    min_cells: int


CASES = {
    "kang": Case(data.kang, 60),
    "baron_1000": Case(lambda: trust_sets.path("baron_1000"), 50),
    "demo": Case(data.demo, 50),
    "hard": Case(data.hard, 100),
    "baron": Case(data.baron, 200),
}
QUICK = ["kang", "baron_1000"]


def main() -> None:
    """Measure the sets in turn and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="+", choices=[*CASES], default=[*CASES])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--extrapolate", action="store_true")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--threads", type=int, default=n_cores())
    args = parser.parse_args()
    make_peer_environment()
    CACHE.mkdir(exist_ok=True)
    print(machine(args.threads), flush=True)
    if args.quick:
        rows = pd.DataFrame([measure(name, 0, args.threads, EXTRAPOLATED_FROM) for name in QUICK])
    else:
        for i in range(args.rounds):
            for name in args.sets:
                write(measure(name, i, args.threads, EXTRAPOLATED_FROM if args.extrapolate else None))
        rows = pd.read_csv(TABLE)
    print(summary(rows).to_string())


def measure(name: str, i: int, threads: int, peer_epochs: int | None) -> dict:
    """One round on one set."""
    case = CASES[name]
    prepared = case.prepared()
    of_peer, of_ours = CACHE / "total_time_peer.npy", CACHE / "total_time_ours.npy"
    call = ("--seed", i)

    def train_peer() -> dict:
        epochs = () if peer_epochs is None else ("--epochs", peer_epochs)
        return peer("scvi_sysvi.py", prepared, of_peer, *call, *epochs, threads=threads)

    def train_ours(*epochs: object) -> dict:
        return ours("ours.py", prepared, of_ours, *call, *epochs, threads=threads)

    if i % 2 == 0:
        mine, theirs = train_ours(), train_peer()
    else:
        theirs, mine = train_peer(), train_ours()
    row = {"set": name, "round": i, "threads": threads, "still, s": mine["still_seconds"] + theirs["still_seconds"]}
    row |= {"sysvi epochs": mine["epochs"], "sysvi, s": mine["process_seconds"]}
    row |= {"sysvi, s an epoch": sum(mine["epoch_seconds"]) / mine["epochs"]}
    row |= {"peer epochs": theirs["default_epochs"], "peer, s an epoch": float(np.median(theirs["epoch_seconds"][1:]))}
    missing = theirs["default_epochs"] - len(theirs["epoch_seconds"])  # none unless the time is extrapolated
    row["peer epochs trained"] = len(theirs["epoch_seconds"])
    row["peer, s"] = theirs["process_seconds"] + missing * row["peer, s an epoch"]
    if peer_epochs is None:
        row |= time_to_score(case, prepared, of_peer, of_ours, mine, train_ours)
    row["whole call, times"] = row["peer, s"] / row["sysvi, s"]
    row["an epoch, times"] = row["peer, s an epoch"] / row["sysvi, s an epoch"]
    row["to the peer's score, times"] = row["peer, s"] / row.get("to the peer's score, s", np.nan)
    print({key: round(value, 3) if isinstance(value, float) else value for key, value in row.items()}, flush=True)
    return row


def time_to_score(
    case: Case, prepared: Path, of_peer: Path, of_ours: Path, whole: dict, train_ours: Callable[..., dict]
) -> dict:
    """Scores of both embeddings, and the time of the shortest call of sysvi whose score is the peer's or higher."""
    adata = anndata.read_h5ad(prepared)
    system, batch, label = (
        adata.obs[key].to_numpy().astype(str).astype(object) for key in ("system", "batch", "cell_type")
    )
    criterion = Criterion.from_cells(adata.X, np.arange(adata.n_obs), system, batch, label, min_cells=case.min_cells)

    def score(path: Path) -> float:
        measured = criterion.measure(np.load(path))
        return sum(weight * measured[name] for name, weight in WEIGHTS.items())

    row = {"peer score": score(of_peer), "sysvi score": score(of_ours)}
    for fraction in FRACTIONS:
        epochs = max(1, round(fraction * whole["epochs"]))
        shorter = train_ours("--epochs", epochs)
        row[f"sysvi score, {epochs / whole['epochs']:.0%} of the epochs"] = reached = score(of_ours)
        if reached >= row["peer score"]:
            return row | {"to the peer's score, epochs": epochs, "to the peer's score, s": shorter["process_seconds"]}
    if row["sysvi score"] >= row["peer score"]:
        return row | {
            "to the peer's score, epochs": whole["epochs"],
            "to the peer's score, s": whole["process_seconds"],
        }
    return row


def write(row: dict) -> None:
    """Add a row to the table, in place of one of the same set and round."""
    rows = pd.DataFrame([row])
    if TABLE.exists():
        old = pd.read_csv(TABLE)
        rows = pd.concat([old[~((old["set"] == row["set"]) & (old["round"] == row["round"]))], rows])
    RESULTS.mkdir(exist_ok=True)
    rows.sort_values(["set", "round"]).to_csv(TABLE, index=False, float_format="%.4f")


def summary(rows: pd.DataFrame) -> pd.DataFrame:
    """One row for each set: medians over rounds, with lowest and highest ratio."""
    table = {}
    for name, of_set in rows.groupby("set", sort=False):
        seconds = {key: f"{of_set[key].median():.1f}" for key in ("sysvi, s", "peer, s")}
        ratios = {
            key: f"{values.median():.1f} ({values.min():.1f} - {values.max():.1f})" if len(values) else "not reached"
            for key in RATIOS
            for values in [of_set[key].dropna()]
        }
        table[name] = {"rounds": len(of_set), **seconds, **ratios}
    return pd.DataFrame(table).T


if __name__ == "__main__":
    main()
