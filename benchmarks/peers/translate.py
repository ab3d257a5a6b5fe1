"""Decode a query in another system with scvi-tools' SysVI; runs in the environment of the peers.

python benchmarks/peers/translate.py reference.h5ad query.h5ad system result.npy [--seed 0] [--epochs N]

Both files have the same genes, log-normalised expression in X, and the columns system and batch. SysVI is trained on
the reference at its defaults, the batches of the query are added by surgery as in surgery.py, and the mean embedding of
each cell of the query is decoded as its cycle does: in the other system, with the cell's own batch. (The argument
transform_batch of its get_normalized_expression does not reach the decoder.) The result is the mean of the likelihood,
(cells, genes) float32. Prints one line of JSON: time and memory.
"""

import argparse
import json
import warnings

import anndata
import numpy as np
import scvi
import torch
from scvi import REGISTRY_KEYS
from sysvi_surgery import train_and_map
from usage import Usage

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("reference")
parser.add_argument("query")
parser.add_argument("system", help="the system in which cells of the query are decoded")
parser.add_argument("result")
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--epochs", type=int, help="passes over the reference; default: chosen by scvi-tools")
args = parser.parse_args()

warnings.filterwarnings("ignore")
scvi.settings.seed = args.seed
usage = Usage()
reference, query = (anndata.read_h5ad(path) for path in (args.reference, args.query))
usage.start()
_, mapped = train_and_map(reference, query, args.epochs)
systems = list(mapped.adata_manager.get_state_registry(REGISTRY_KEYS.BATCH_KEY).categorical_mapping)
module, blocks = mapped.module.eval(), []
with torch.inference_mode():
    for tensors in mapped._make_data_loader(adata=mapped.adata, batch_size=512):
        embedded = module.inference(**module._get_inference_input(tensors))["qz"].loc
        covariates = module._get_cov(tensors)
        own = tensors[REGISTRY_KEYS.BATCH_KEY]
        decoded = module.generative(
            embedded,
            own,
            covariates["continuous"],
            covariates["categorical"],
            cycle_batch=torch.full_like(own, systems.index(args.system)),
            compute_original=False,
        )
        blocks.append(decoded["px_cycle"].loc.numpy())
used = usage.stop()
np.save(args.result, np.concatenate(blocks).astype(np.float32))
print(json.dumps(used | {"scvi-tools": scvi.__version__}))
