"""Map a query onto a reference by surgery (scArches) with scvi-tools; runs in the environment of the peers.

python benchmarks/peers/surgery.py {sysvi,scanvi} reference.h5ad query.h5ad result.npz [--seed 0] [--epochs N]

Both files have the same genes, log-normalised expression in X and counts in a layer, and the columns system, batch and
cell_type. The labels of the query are not used. The result has the arrays `reference` and `query`, embeddings, and of
scANVI `label`, the labels that it predicts for the query. Settings are those of the tutorials of scvi-tools; donors are
the batches of scANVI, as its surgery adds batches only. Prints one line of JSON: time and memory.
"""

import argparse
import json
import warnings

import anndata
import numpy as np
import scvi
from sysvi_surgery import QUERY_EPOCHS, SURGERY, train_and_map
from usage import Usage

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("method", choices=["sysvi", "scanvi"])
parser.add_argument("reference")
parser.add_argument("query")
parser.add_argument("result")
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--epochs", type=int, help="passes over the reference; default: chosen by scvi-tools")
args = parser.parse_args()

warnings.filterwarnings("ignore")
scvi.settings.seed = args.seed
usage = Usage()
reference, query = (anndata.read_h5ad(path) for path in (args.reference, args.query))
reference.obs["label"], query.obs["label"] = reference.obs["cell_type"].astype(str), "Unknown"
usage.start()
if args.method == "sysvi":
    model, mapped = train_and_map(reference, query, args.epochs)
    label = {}
else:
    scvi.model.SCVI.setup_anndata(reference, layer="counts", batch_key="batch")
    first = scvi.model.SCVI(
        reference, n_layers=2, encode_covariates=True, dropout_rate=0.2, use_layer_norm="both", use_batch_norm="none"
    )
    first.train(max_epochs=args.epochs, enable_progress_bar=False, accelerator="cpu")
    model = scvi.model.SCANVI.from_scvi_model(first, unlabeled_category="Unknown", labels_key="label")
    model.train(max_epochs=20, n_samples_per_label=100, enable_progress_bar=False, accelerator="cpu")
    scvi.model.SCANVI.prepare_query_anndata(query, model)
    mapped = scvi.model.SCANVI.load_query_data(query, model)
    mapped.train(max_epochs=QUERY_EPOCHS, **SURGERY)
    label = {"label": np.asarray(mapped.predict(), str)}
used = usage.stop()
z, z_new = model.get_latent_representation(), mapped.get_latent_representation()
np.savez(args.result, reference=z.astype(np.float32), query=z_new.astype(np.float32), **label)
print(json.dumps(used | {"scvi-tools": scvi.__version__}))
