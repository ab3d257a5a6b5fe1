"""Time that a call from R takes in addition to the same call from Python: 20,000 cells x 2,000 genes.

Both calls choose genes and train for a few epochs, in turn, in the same process and on one thread; the embeddings must
be equal. The time of training of default length is extrapolated from the measured epochs. Writes
benchmarks/results/r_overhead.csv.

    OMP_NUM_THREADS=1 NUMBA_NUM_THREADS=1 .venv/bin/python benchmarks/r_overhead.py
"""

import time
from pathlib import Path

import numpy as np
import pandas as pd
import scanpy as sc
import torch  # noqa: F401 (must be loaded before R; otherwise torch would call R's BLAS)
from rpy2 import robjects
from rpy2.robjects import numpy2ri

import sysvi
from sysvi.training.loop import decide

N_CELLS, N_GENES, EPOCHS, ROUNDS = 20_000, 2_000, 3, 4
ROOT = Path(__file__).resolve().parents[1]


def hand_to_r(adata):
    """Create in R a dgCMatrix `x` (genes x cells) and the vectors `system` and `batch`."""
    x = adata.X.sorted_indices()
    r = robjects.globalenv
    r["i"], r["p"] = robjects.IntVector(x.indices), robjects.IntVector(x.indptr)
    r["v"] = robjects.FloatVector(x.data)
    r["genes"], r["cells"] = robjects.StrVector(adata.var_names), robjects.StrVector(adata.obs_names)
    for column in ("system", "batch"):
        r[column] = robjects.StrVector(adata.obs[column].astype(str))
    robjects.r("""
        x <- new("dgCMatrix", i = i, p = p, x = v, Dim = c(length(genes), length(cells)), Dimnames = list(genes, cells))
        names(system) <- names(batch) <- cells
    """)


def in_r():
    z = robjects.r(f"unclass(RunSysVI(x, system, batch, max_epochs = {EPOCHS}, device = 'cpu', verbose = FALSE))")
    return numpy2ri.rpy2py(z)


def in_python(adata):
    prepared = sysvi.prepare(adata, "system", "batch", normalize=False)
    model = sysvi.integrate(prepared, "system", "batch", max_epochs=EPOCHS, device="cpu", progress=False)
    return prepared.obsm["X_sysVI"], model.run.seconds


def main():
    robjects.r(f'suppressPackageStartupMessages(pkgload::load_all("{ROOT}", quiet = TRUE))')
    adata = sysvi.datasets.simulate_systems(N_CELLS, N_GENES, system_effect=0.5, seed=0)
    sc.pp.normalize_total(adata, target_sum=1e4)
    sc.pp.log1p(adata)
    hand_to_r(adata)
    default = decide(sysvi.TrainSettings(), N_CELLS).max_epochs
    rows = []
    for round_ in range(ROUNDS + 1):  # the first round is a warm-up
        start = time.perf_counter()
        of_python, training = in_python(adata)
        middle = time.perf_counter()
        of_r = in_r()
        end = time.perf_counter()
        np.testing.assert_array_equal(of_r, of_python)
        row = {"round": round_, "python_s": middle - start, "r_s": end - middle, "training_s": training}
        row["added_s"] = row["r_s"] - row["python_s"]
        row["default_training_s"] = training / EPOCHS * default
        row["added_share"] = row["added_s"] / row["default_training_s"]
        rows.append(row)
    table = pd.DataFrame(rows[1:]).round(4)
    print(table.to_string(index=False))
    table.to_csv(ROOT / "benchmarks/results/r_overhead.csv", index=False)


if __name__ == "__main__":
    main()
