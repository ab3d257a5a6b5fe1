"""Two processes with one thread each, compared with one process with two threads and one with one, on the CPU.

    python benchmarks/ranks.py [--rounds 5] [--cells 50000] [--genes 2000] [--epochs 3] [--minibatches 1024 ...]

One model is trained on simulated cells, 11 % of the values non-zero, at several sizes of the minibatch. Each
measurement has processes of its own, which communicate by gloo on this machine; the three are measured in turn. What
counts is the speed of the training loop. The losses of the last epoch show that all compute the same. Rows are written
to results/ranks.csv as they are measured; a further call goes on where the table ends, and prints medians and ratios.
"""

import argparse
import itertools
import json
import os
import socket
import subprocess
import sys
import warnings

import pandas as pd
from common import CACHE, RESULTS, machine, n_cores

TABLE = RESULTS / "ranks.csv"
SETUPS = {"1 process x 2 threads": (1, 2), "2 processes x 1 thread": (2, 1), "1 process x 1 thread": (1, 1)}
KEY = ["cells", "genes", "epochs", "minibatch", "setup", "round"]


def main() -> None:
    """Measure what the table lacks, in turn, and print medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--cells", type=int, default=50_000)
    parser.add_argument("--genes", type=int, default=2_000)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--minibatches", type=int, nargs="+", default=[1024, 4096, 16384])
    parser.add_argument("--train", help=argparse.SUPPRESS)  # one process of a measurement
    args = parser.parse_args()
    if args.train:
        train(args.train, args.epochs, *args.minibatches)
        return
    print(machine(n_cores()), flush=True)
    path = CACHE / f"ranks_{args.cells}_{args.genes}.h5ad"
    if not path.exists():
        simulate(path, args.cells, args.genes)
    for number, minibatch, setup in itertools.product(range(args.rounds), args.minibatches, SETUPS):
        row = dict(zip(KEY, (args.cells, args.genes, args.epochs, minibatch, setup, number), strict=True))
        table = pd.read_csv(TABLE) if TABLE.exists() else pd.DataFrame(columns=KEY)
        if (table[KEY] == pd.Series(row)).all(axis=1).any():
            continue
        row |= launch(path, args.epochs, minibatch, *SETUPS[setup])
        pd.DataFrame([*table.to_dict("records"), row]).to_csv(TABLE, index=False, float_format="%.6g")
    table = pd.read_csv(TABLE)
    table = table[(table[KEY[:3]] == [args.cells, args.genes, args.epochs]).all(axis=1)]
    summary = table.groupby(["minibatch", "setup"], sort=False).agg(
        cells_per_second=("cells_per_second", "median"),
        lowest=("cells_per_second", "min"),
        highest=("cells_per_second", "max"),
        loss=("loss", "median"),
        rounds=("round", "count"),
    )
    speed = summary["cells_per_second"].unstack("setup")
    summary["times_2_threads"] = speed.div(speed["1 process x 2 threads"], axis=0).stack().reindex(summary.index)
    print(summary.to_string())


def simulate(path: os.PathLike[str], cells: int, genes: int) -> None:
    """Write prepared cells."""
    import sysvi

    CACHE.mkdir(exist_ok=True)
    counts = sysvi.datasets.simulate_systems(cells, genes, depth=0.22 * genes, seed=0)
    prepared = sysvi.prepare(counts, "system", "batch", n_top_genes=genes, keep_counts=False)
    prepared.write_h5ad(path)


def launch(path: os.PathLike[str], epochs: int, minibatch: int, n: int, threads: int) -> dict:
    """Train in n processes; what the first of them measured."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    environment = os.environ | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(n)}
    environment |= dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"), str(threads))
    command = [sys.executable, __file__, "--train", str(path), "--epochs", str(epochs), "--minibatches", str(minibatch)]
    started = [
        subprocess.Popen(
            command,
            env=environment | {"RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(n)
    ]
    ends = [process.communicate() for process in started]
    for process, (_, error) in zip(started, ends, strict=True):
        if process.returncode:
            raise SystemExit(error[-2000:])
    return json.loads(ends[0][0].splitlines()[-1])


def train(path: str, epochs: int, minibatch: int) -> None:
    """Train in this process, together with the others if there are several, and print what was measured."""
    import torch.distributed as dist

    import sysvi

    n = int(os.environ["WORLD_SIZE"])
    if n > 1:
        dist.init_process_group("gloo")
    events: list[sysvi.Event] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # few epochs leave systems apart
        settings = {"members": 1, "max_epochs": epochs, "batch_size": minibatch, "device": "cpu"}
        settings["progress"] = events.append
        model = sysvi.integrate(path, "system", "batch", **settings)
    if n > 1:
        dist.destroy_process_group()
    speed = [event.values["cells_per_second"] for event in events if event.stage == "end"]
    losses = model.members[0].run.history["total_train"]
    print(json.dumps({"cells_per_second": speed[0] if speed else None, "loss": losses[-1]}))


if __name__ == "__main__":
    main()
