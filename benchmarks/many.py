"""Time to train twelve models by `train_many`, twelve one after the other, and one.

    python benchmarks/many.py [--rounds 3] [--epochs 4] [--device cpu]

Simulated cells of the size of Baron's islets: 5,500 cells x 1,600 genes. The three are timed in turn; the table has
medians over rounds. Writes benchmarks/results/many.csv, or many_cuda.csv for an NVIDIA GPU (with, say, --epochs 100, as
capturing the CUDA graphs takes a while).
"""

import argparse
import itertools
import statistics
import time

import anndata
import data
import pandas as pd
import torch
from common import RESULTS

import sysvi
from sysvi._core.device import describe_device

SEEDS, CYCLE_WEIGHTS = (0, 1, 2), (2.0, 5.0, 10.0, 20.0)


def main() -> None:
    """Time the three in turn and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    args = parser.parse_args()
    adata = anndata.read_h5ad(data.simulated(5_500, 1_600))
    settings = {"max_epochs": args.epochs, "device": args.device, "progress": False}

    def train_one(seed: int = 0, weight: float = 5.0) -> None:
        sysvi.integrate(adata, "system", "batch", seed=seed, cycle_weight=weight, **settings)

    def train_in_turn() -> None:
        for seed, weight in itertools.product(SEEDS, CYCLE_WEIGHTS):
            train_one(seed, weight)

    def train_together() -> None:
        sysvi.train_many(adata, "system", "batch", seeds=SEEDS, cycle_weights=CYCLE_WEIGHTS, **settings)

    tasks = {"one model": train_one, "twelve in turn": train_in_turn, "twelve by train_many": train_together}
    seconds: dict[str, list[float]] = {name: [] for name in tasks}
    train_one()  # warm-up: compiles kernels
    for _ in range(args.rounds):
        for name, task in tasks.items():
            start = time.perf_counter()
            task()
            seconds[name].append(time.perf_counter() - start)
    base = statistics.median(seconds["one model"])
    rows = [(name, statistics.median(s), min(s), max(s), statistics.median(s) / base) for name, s in seconds.items()]
    table = pd.DataFrame(rows, columns=["way", "median_s", "min_s", "max_s", "times_one_model"])
    name = "many" if args.device == "cpu" else f"many_{args.device}"
    table.to_csv(RESULTS / f"{name}.csv", index=False, float_format="%.3f")
    print(
        f"{adata.n_obs} cells x {adata.n_vars} genes, {args.epochs} epochs, "
        f"{describe_device(torch.device(args.device))}"
    )
    print(table.round(2).to_string(index=False))


if __name__ == "__main__":
    main()
