"""Training on a graphics card: time, memory and rates against the card's ceilings, and what they depend on.

    python benchmarks/gpu.py [--device cuda] [--cells 500000] [--genes 3000] [--epochs 20]

First one run of that size, with steps replayed as a CUDA graph and then one by one (their losses must agree), then runs
with one thing changed at a time: cells, genes, latent dimensions, systems, prior components. Expression is random (10 %
non-zero): speed alone is measured, from the AnnData to the embedding. Writes benchmarks/results/gpu.csv, row by row.
"""

import argparse
import statistics
import time
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import anndata
import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch
from floor import flops

import sysvi
import sysvi.train
from sysvi.kernels import choose_kernels

DENSITY = 0.1


def main() -> None:
    """Run all and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--cells", type=int, default=500_000)
    parser.add_argument("--genes", type=int, default=3_000)
    parser.add_argument("--epochs", type=int, default=20)
    args = parser.parse_args()
    device = torch.device(args.device)
    print(ceilings(device))
    base = {
        "graph": True,
        "cells": args.cells,
        "genes": args.genes,
        "systems": 2,
        "n_latent": 15,
        "n_prior_components": 5,
    }
    changes: list[dict] = [
        {},
        {"graph": False},
        {"cells": args.cells // 4},
        {"cells": args.cells // 2},
        {"cells": 4 * args.cells},
    ]
    changes += [{"genes": args.genes // 3}, {"n_latent": 60}, {"systems": 8}, {"n_prior_components": 100}]
    rows = []
    for change in changes:
        rows.append(measure(base | change, args.epochs, device))
        table = pd.DataFrame(rows)
        table.to_csv(Path(__file__).parent / "results" / "gpu.csv", index=False, float_format="%.5g")
        print(table.tail(1).to_string(index=False, float_format="{:.4g}".format), flush=True)


def measure(size: dict[str, int], epochs: int, device: torch.device) -> dict[str, float]:
    """One training of `epochs` and the embedding of all cells."""
    adata = random_cells(size["cells"], size["genes"], size["systems"])
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()

    def kernels(*args, **kwargs):
        chosen = choose_kernels(*args, **kwargs)
        return replace(chosen, graph=chosen.graph and size["graph"])

    settings = {name: size[name] for name in ("n_latent", "n_prior_components")}
    start = time.perf_counter()
    with patch.object(sysvi.train, "choose_kernels", kernels):
        model = sysvi.integrate(adata, "system", max_epochs=epochs, device=str(device), progress=False, **settings)
    seconds = time.perf_counter() - start
    run, cells = model.run, model._cells
    assert run is not None
    assert cells is not None
    batch_size = run.settings.batch_size
    steps = epochs * -(-size["cells"] // batch_size)
    dense = 0 if run.kernels.sparse else 4 * 2 * batch_size * size["genes"] * model.model_settings.n_hidden
    n_flops = steps * (sum(flops(cells, model.module, batch_size)) + dense)
    return size | {
        "epochs": epochs,
        "batch_size": batch_size,
        "replayed": run.kernels.graph,
        "last_loss": run.history["total_train"][-1],
        "products": str(run.kernels.products),
        "training_s": run.seconds,
        "all_s": seconds,
        "cells_per_s": run.cells_per_second,
        "flops_per_s": n_flops / run.seconds,
        "peak_gb": torch.cuda.max_memory_allocated() / 1e9 if device.type == "cuda" else float("nan"),
    }


def random_cells(n_cells: int, n_genes: int, n_systems: int) -> anndata.AnnData:
    """Log-normalised-looking values at random places, a block of cells at a time."""
    rng = np.random.default_rng(0)
    n_stored = int(DENSITY * n_genes)
    blocks = []
    for first in range(0, n_cells, 50_000):
        rows = min(50_000, n_cells - first)
        genes = rng.integers(0, n_genes // n_stored, (rows, n_stored)) + np.arange(n_stored) * (n_genes // n_stored)
        values = rng.gamma(2.0, 0.7, genes.size).astype(np.float32)
        starts = np.arange(0, genes.size + 1, n_stored)
        blocks.append(sp.csr_matrix((values, genes.ravel().astype(np.int32), starts), shape=(rows, n_genes)))
    obs = pd.DataFrame(
        {"system": rng.integers(0, n_systems, n_cells).astype(str)}, index=np.arange(n_cells).astype(str)
    )
    return anndata.AnnData(sp.vstack(blocks, format="csr"), obs=obs)


def ceilings(device: torch.device) -> str:
    """Measured rates of large products and of a large copy."""
    a, big = torch.randn(4096, 4096, device=device), torch.empty(2**27, device=device)
    a16, target = a.bfloat16(), torch.empty_like(big)
    lines = []
    for name, work, amount in (
        ("float32 product, FLOP/s", lambda: a @ a, 2 * 4096**3),
        ("bfloat16 product, FLOP/s", lambda: a16 @ a16, 2 * 4096**3),
        ("copy, bytes/s", lambda: target.copy_(big), 8 * 2**27),
    ):
        seconds = []
        for _ in range(7):
            start = time.perf_counter()
            work()
            if device.type == "cuda":
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - start)
        lines.append(f"{name}: {amount / statistics.median(seconds):.3g}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
