"""Train sysvi at its defaults on prepared data, on the CPU; the counterpart of peers/scvi_sysvi.py.

python benchmarks/ours.py prepared.h5ad embedding.npy [--seed 0] [--epochs N] [--members N]

Prints one line of JSON: clock readings when the data are in memory and when the embedding is computed ("span"), at the
start of training and at the end of each epoch of each model ("marks"); the number of epochs of one model; the minibatch
size; CPU seconds of all threads; peak memory.
"""

import argparse
import json
import time

import anndata
import numpy as np
from peers.usage import Usage

import sysvi

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("prepared")
parser.add_argument("embedding")
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--epochs", type=int, help="number of epochs; default: chosen by sysvi")
parser.add_argument("--members", type=int, help="number of models in the ensemble; default: chosen by sysvi")
args = parser.parse_args()

marks: list[float] = []
plan: dict = {}


def mark(event: sysvi.Event) -> None:
    """Read the clock at the start of training and at the end of each epoch."""
    if event.stage == "plan":
        plan.update(event.values)
    if event.stage in ("plan", "epoch"):
        marks.append(time.perf_counter())


usage = Usage()
adata = anndata.read_h5ad(args.prepared)
usage.start()
settings = {} if args.members is None else {"members": args.members}
model = sysvi.integrate(
    adata, "system", "batch", max_epochs=args.epochs, seed=args.seed, device="cpu", progress=mark, **settings
)
used = usage.stop()
np.save(args.embedding, adata.obsm["X_sysVI"])
epochs = plan["epochs"] // plan.get("models", 1)
print(json.dumps({"marks": marks, "epochs": epochs, "batch_size": plan["batch_size"], **used}))
