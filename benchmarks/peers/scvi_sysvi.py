"""Train scvi-tools' SysVI at its defaults on prepared data. Runs in the peers' own environment.

python benchmarks/peers/scvi_sysvi.py prepared.h5ad embedding.npy [--seed 0] [--epochs N] [--threads N] [--train-size F]

Prints one JSON line: seconds of training, epochs, seconds an epoch.
"""

import argparse
import json
import time
import warnings

import anndata
import numpy as np
import scvi
import torch
from scvi.external import SysVI

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("prepared")
parser.add_argument("embedding")
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--epochs", type=int, help="default: what scvi-tools chooses")
parser.add_argument("--threads", type=int)
parser.add_argument("--train-size", type=float, help="default: scvi-tools' 0.9")
args = parser.parse_args()

warnings.filterwarnings("ignore")
if args.threads:
    torch.set_num_threads(args.threads)
scvi.settings.seed = args.seed
adata = anndata.read_h5ad(args.prepared)
SysVI.setup_anndata(adata, batch_key="system", categorical_covariate_keys=["batch"])
model = SysVI(adata)
start = time.perf_counter()
model.train(max_epochs=args.epochs, accelerator="cpu", train_size=args.train_size, enable_progress_bar=False)
seconds = time.perf_counter() - start
epochs = model.trainer.current_epoch
np.save(args.embedding, model.get_latent_representation().astype(np.float32))
print(json.dumps({"seconds": seconds, "epochs": epochs, "seconds_per_epoch": seconds / epochs}))
