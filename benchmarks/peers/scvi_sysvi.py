"""Train scvi-tools' SysVI at its defaults on prepared data; runs in the environment of the peers.

python benchmarks/peers/scvi_sysvi.py prepared.h5ad embedding.npy [--seed 0] [--epochs N] [--threads N] [--train-size F]

Prints one line of JSON: clock readings when the data are in memory and when the embedding is computed ("span"), at the
start of training and at the end of each epoch ("marks"); its own number of epochs ("default_epochs"); the minibatch
size; CPU seconds of all threads; peak memory.
"""

import argparse
import json
import time
import warnings

import anndata
import numpy as np
import scvi
import torch
from lightning.pytorch.callbacks import Callback
from scvi.external import SysVI
from scvi.model._utils import get_max_epochs_heuristic
from usage import Usage

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("prepared")
parser.add_argument("embedding")
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--epochs", type=int, help="number of epochs; default: chosen by scvi-tools")
parser.add_argument("--threads", type=int)
parser.add_argument("--train-size", type=float, help="share of the cells to train on; default: 0.9, as in scvi-tools")
args = parser.parse_args()


class Marks(Callback):
    """Reads the clock at the start of training and at the end of each epoch."""

    def __init__(self):
        self.marks = []

    def on_train_start(self, trainer, module):
        """Note the start of training."""
        self.marks.append(time.perf_counter())

    def on_train_epoch_end(self, trainer, module):
        """Note the end of an epoch."""
        self.marks.append(time.perf_counter())


warnings.filterwarnings("ignore")
if args.threads:
    torch.set_num_threads(args.threads)
scvi.settings.seed = args.seed
usage = Usage()
adata = anndata.read_h5ad(args.prepared)
usage.start()
SysVI.setup_anndata(adata, batch_key="system", categorical_covariate_keys=["batch"])
model = SysVI(adata)
times = Marks()
model.train(
    max_epochs=args.epochs,
    accelerator="cpu",
    train_size=args.train_size,
    enable_progress_bar=False,
    callbacks=[times],
)
embedding = model.get_latent_representation().astype(np.float32)
used = usage.stop()
np.save(args.embedding, embedding)
batch_size = model.trainer.train_dataloader.sampler.batch_size
default_epochs = get_max_epochs_heuristic(adata.n_obs)
print(json.dumps({"marks": times.marks, "default_epochs": default_epochs, "batch_size": batch_size, **used}))
