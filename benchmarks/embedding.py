"""Time to embed many cells with a trained model, compared with the least time that its matrix products need.

    python benchmarks/embedding.py [--cells 1000000] [--genes 2000]

Simulated cells; median of 3 runs. The speed of this machine's matrix products is measured as in floor.py, in float32
(embeddings are always computed in float32). Writes benchmarks/results/embedding.csv.
"""

import argparse
import statistics
import time

import anndata
import data
import pandas as pd
import torch
from common import RESULTS
from floor import timed

import sysvi


def main() -> None:
    """Train one epoch on some of the cells, then embed all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=1_000_000)
    parser.add_argument("--genes", type=int, default=2_000)
    args = parser.parse_args()
    adata = anndata.read_h5ad(data.simulated(args.cells, args.genes))
    few = adata[:: max(1, args.cells // 5_000)].copy()
    model = sysvi.integrate(few, "system", "batch", max_epochs=1, device="cpu", progress=False)
    cells = model._cells_for(adata)
    size = model.model_settings
    model.module.embed(cells, torch.arange(5_000))  # warm-up: compiles kernels
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        model.module.embed(cells)
        seconds.append(time.perf_counter() - start)

    median = statistics.median(seconds)
    a, b = torch.randn(2, 2048, 2048)
    x, w = cells.expression(torch.arange(1024), sparse=True), torch.randn(cells.n_genes, size.n_hidden)
    a_product = statistics.median(timed(lambda: a @ b) for _ in range(9))
    a_sparse_product = statistics.median(timed(lambda: x @ w) for _ in range(9))
    flops = 2 * cells.n_cells * size.n_hidden * (size.n_hidden * (size.n_layers - 1) + 2 * size.n_latent)
    floor = flops * a_product / (2 * 2048**3) + cells.n_cells / 1024 * a_sparse_product
    row = {
        "cells": cells.n_cells,
        "genes": cells.n_genes,
        "threads": torch.get_num_threads(),
        "seconds": median,
        "cells_per_s": cells.n_cells / median,
        "floor_s": floor,
        "times_the_floor": median / floor,
    }
    pd.DataFrame([row]).to_csv(RESULTS / "embedding.csv", index=False, float_format="%.4g")
    print(pd.Series(row).to_string(float_format="{:.4g}".format))


if __name__ == "__main__":
    main()
