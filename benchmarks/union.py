"""Genes that one system lacks: integration of Baron's islets with the genes that both species have, and with the union.

    python benchmarks/union.py [--seeds 0 1 2 3 4] [--members 2]
    python benchmarks/union.py --steps      CPU seconds of a step of training with and without genes that systems lack

The two files of Baron's islets with the genes of each species (from SYSVI_DATA) are joined by the table of one-to-one
orthologues and, since that has no others, the pairs INS-Ins1 and INS-Ins2. They are prepared with `genes="shared"` and
`genes="union"` (otherwise with the defaults, but at most 4000 variable genes of each species) and integrated with the
defaults and `--members` models. One row for each in results/union.csv; rows that are there are not made again.

Columns: number of genes, how many of them one species lacks, `accuracy` of labels of types that both species have,
taken from the 15 nearest cells of the other species (mean over types and both directions), `shared_neighbors`
(`sysvi.metrics.shared_neighbors`, mean over types), `nmi` (`sysvi.evaluate`), and seconds of training.

With --steps, results/union_steps.csv has the processor seconds of a step on random cells, 3000 genes of which 15 % are
not 0, in minibatches of 512: all genes of both systems, or 1500 of both and 750 of each, by the hand-written gradient
and by autograd. Processor seconds depend less than wall time on what else the machine does.
"""

import argparse
import os
import time
import warnings
from dataclasses import replace
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import torch
from common import RESULTS
from scipy import sparse
from sklearn.metrics import recall_score
from sklearn.neighbors import KNeighborsClassifier

import sysvi
from sysvi.data.cells import Cells
from sysvi.kernels.plan import choose_compute_plan
from sysvi.metrics import shared_neighbors
from sysvi.model.cvae import Model
from sysvi.model.networks import TrainingContext
from sysvi.model.objective import Objective, Weights
from sysvi.training.gradient import backpropagate

TABLE = RESULTS / "union.csv"
WEIGHTS = Weights(1.0, 1.0, 10.0, 0.0)
KEY = ["genes", "members", "seed"]
K = 15


def joined() -> anndata.AnnData:
    """Counts of both species with all genes."""
    folder = Path(os.environ["SYSVI_DATA"])
    table = pd.read_csv(folder / "human_mouse_one2one.tsv.gz", sep="\t")[["human_symbol", "mouse_symbol"]]
    table = pd.concat([table, pd.DataFrame({"human_symbol": "INS", "mouse_symbol": ["Ins1", "Ins2"]})])
    cells = {}
    for species in ("human", "mouse"):
        cells[species] = anndata.read_h5ad(folder / f"baron_pancreas_{species}.h5ad")
        cells[species].obs["batch"] = species + " " + cells[species].obs["batch"].astype(str)
    return sysvi.join_systems(cells, "species", genes="union", orthologs={"mouse": table}, report=print)


def accuracy(z: np.ndarray, system: np.ndarray, label: np.ndarray) -> float:
    """Mean accuracy over types and directions of labels from the nearest cells of the other system."""
    found = []
    of_both = set(label[system == "human"]) & set(label[system == "mouse"])
    for reference, query in (("human", "mouse"), ("mouse", "human")):
        train, test = (system == reference), (system == query) & np.isin(label, [*of_both])
        predicted = KNeighborsClassifier(K).fit(z[train], label[train]).predict(z[test])
        found.append(recall_score(label[test], predicted, labels=sorted(of_both), average="macro", zero_division=0))
    return float(np.mean(found))


def measure(adata: anndata.AnnData, members: int, seed: int) -> dict[str, float]:
    """Integrate prepared cells and measure the embedding."""
    start = time.perf_counter()
    model = sysvi.integrate(adata, "species", "batch", members=members, seed=seed, device="cpu", progress=False)
    seconds = time.perf_counter() - start
    z, system, label = adata.obsm["X_sysVI"], *(adata.obs[c].astype(str).to_numpy() for c in ("species", "cell_type"))
    own_genes = model.members[0].vocabulary.own_genes
    nmi = sysvi.evaluate(adata, "X_sysVI", system_key="species", label_key="cell_type", metrics=["NMI"], progress=False)
    return {
        "n_genes": adata.n_vars,
        "n_lacking": 0 if own_genes is None else int((~own_genes.all(axis=0)).sum()),
        "accuracy": accuracy(z, system, label),
        "shared_neighbors": float(shared_neighbors(z, system, label).mean()),
        "nmi": float(nmi.loc["NMI", "X_sysVI"]),
        "seconds": seconds,
    }


def measure_steps(n_steps: int = 10) -> pd.DataFrame:
    """Processor seconds of a step with and without genes that systems lack."""
    rng, init = np.random.default_rng(0), torch.Generator().manual_seed(0)
    system = rng.integers(0, 2, 512)
    half = np.ones((2, 3000), bool)
    half[0, 1500:2250] = half[1, 2250:] = False
    rows = []
    for genes, own_genes in (("all of both", None), ("half of both", half)):
        x = sparse.random(512, 3000, 0.15, format="csr", dtype=np.float32, random_state=1).toarray()
        x = sparse.csr_matrix(x if own_genes is None else x * own_genes[system])
        cells = Cells(x, system, n_systems=2)
        objective = Objective(Model(sysvi.ModelSettings(), 3000, 2, [], 0, init, own_genes))
        objective.model.init_prior(cells, torch.arange(objective.model.settings.n_prior_components), init)
        plan = choose_compute_plan(torch.device("cpu"), cells.density)
        batch = cells.minibatch(torch.arange(512), "resampled", init, **plan.minibatch_arguments)
        context = TrainingContext(init, plan.matmul_dtype)
        for gradient in ("by hand", "autograd"):
            for i in range(n_steps + 2):
                if i == 2:  # the first ones compile
                    start = time.process_time()
                if gradient == "by hand":
                    backpropagate(objective, batch, WEIGHTS, context)
                else:
                    objective(replace(batch, x=batch.x.to_dense()), WEIGHTS, context).total.backward()
            rows.append({"genes": genes, "gradient": gradient, "seconds": (time.process_time() - start) / n_steps})
    return pd.DataFrame(rows)


def main() -> None:
    """Make the rows that are missing, and print the means over seeds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--members", type=int, default=2)
    parser.add_argument("--steps", action="store_true")
    options = parser.parse_args()
    if options.steps:
        table = measure_steps()
        table.to_csv(RESULTS / "union_steps.csv", index=False, float_format="%.4f")
        print(table)
        return
    warnings.simplefilter("ignore")
    rows = pd.read_csv(TABLE) if TABLE.exists() else pd.DataFrame(columns=KEY)
    done = set(rows[KEY].itertuples(index=False, name=None))
    wanted = [(genes, options.members, seed) for seed in options.seeds for genes in ("shared", "union")]
    missing = [key for key in wanted if key not in done]
    if missing:
        counts = joined()
        prepared = {
            genes: sysvi.prepare(counts, "species", "batch", genes=genes, n_top_genes=4000)
            for genes in sorted({genes for genes, *_ in missing})
        }
        for genes, members, seed in missing:
            row = dict(zip(KEY, (genes, members, seed), strict=True)) | measure(prepared[genes].copy(), members, seed)
            rows = pd.concat([rows, pd.DataFrame([row])], ignore_index=True)
            rows.to_csv(TABLE, index=False, float_format="%.4f")
            print(row, flush=True)
    print(rows.groupby(["genes", "members"]).mean(numeric_only=True).drop(columns="seed").round(3))


if __name__ == "__main__":
    main()
