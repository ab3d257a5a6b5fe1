"""Train ours at its defaults on prepared data, on the CPU; the counterpart of peers/scvi_sysvi.py.

python benchmarks/ours.py prepared.h5ad embedding.npy [--seed 0] [--epochs N]

Prints one JSON line: readings of the clock when the data is in memory and when the embedding is ("span"), and when
training begins and each epoch ends ("marks"); the minibatch; seconds of all threads; peak memory.
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
parser.add_argument("--epochs", type=int, help="default: what sysvi chooses")
args = parser.parse_args()

marks: list[float] = []


def mark(event: sysvi.Event) -> None:
    """Take the time at the start of training and at the end of each epoch."""
    if event.stage in ("plan", "epoch"):
        marks.append(time.perf_counter())


usage = Usage()
adata = anndata.read_h5ad(args.prepared)
usage.start()
model = sysvi.integrate(adata, "system", "batch", max_epochs=args.epochs, seed=args.seed, device="cpu", progress=mark)
used = usage.stop()
np.save(args.embedding, adata.obsm["X_sysVI"])
print(json.dumps({"marks": marks, "batch_size": model.run.settings.batch_size, **used}))
