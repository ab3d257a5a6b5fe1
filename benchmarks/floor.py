"""How near a training step comes to the floor of the machine: its operations and bytes over measured ceilings.

    python benchmarks/floor.py [--cells 6000] [--genes 1700] [--threads 2]

Ceilings: products of matrices that fill the machine (float32, bfloat16), weighted sums of table rows (what sparse
products are made of) and a copy larger than any cache. The floor of a step is the sum over its parts of work / ceiling.
Writes benchmarks/results/floor.csv.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import torch
from steps import stepper

import sysvi
from sysvi._core.memory import retain_freed_memory
from sysvi._core.parallel import restore_thread_count, two_thread_executor
from sysvi._core.seeds import generator
from sysvi.data.cells import Cells
from sysvi.data.columns import Columns
from sysvi.data.from_anndata import cells_from_anndata, read_vocabulary
from sysvi.kernels.plan import choose_compute_plan
from sysvi.kernels.sparse import SparseExpression
from sysvi.model.cvae import Model

ROUNDS = 15


def main() -> None:
    """Measure ceilings and steps in turn and print floors beside measured times."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=6000)
    parser.add_argument("--genes", type=int, default=1700)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    counts = sysvi.datasets.simulate_systems(args.cells, args.genes, depth=0.3 * args.genes, seed=0)
    adata = sysvi.prepare(counts, "system", "batch", n_top_genes=args.genes, min_cells=5)
    columns = Columns("system", "batch")
    vocabulary = read_vocabulary(adata, columns)
    cells = cells_from_anndata(adata, columns, vocabulary)
    plan = choose_compute_plan(cells.device, cells.density)
    model = Model(
        sysvi.ModelSettings(), cells.n_genes, cells.n_systems, vocabulary.n_categories, 0, generator(0, "weights")
    )
    n_parameters = sum(p.numel() for p in model.parameters())
    a, b = torch.randn(2, 2048, 2048)
    big, copy = torch.empty(2, 2**26)
    rows = []
    short = plan.matmul_dtype
    a_short, b_short = a.to(short), b.to(short)
    for batch_size in (512, 1024, 2048):
        with retain_freed_memory(), two_thread_executor() as run_pair:
            step = stepper(cells, vocabulary, batch_size, plan=plan, run_pair=run_pair, threads=args.threads)
            x = cells.expression(torch.randperm(cells.n_cells)[:batch_size], sparse=True)
            assert isinstance(x, SparseExpression)
            h = torch.randn(batch_size, model.settings.n_hidden)
            x_short, h_short = x.to(short), h.to(short)
            n_stored = cells.density * batch_size * cells.n_genes
            long_flops, short_flops = flops(cells, model, batch_size)
            work = {
                "float32 products": (lambda: a @ b, 2 * 2048**3, long_flops),
                "short products": (lambda: a_short @ b_short, 2 * 2048**3, short_flops),
                "float32 sparse products": (lambda x=x, h=h: x.T @ h, n_stored, n_stored),
                "short sparse products": (lambda x=x_short, h=h_short: x.T @ h, n_stored, 3 * n_stored),
                "Adam's bytes": (lambda: copy.copy_(big), 2 * 4 * 2**26, 7 * 4 * n_parameters),
            }
            seconds: dict[str, list[float]] = {name: [] for name in ("step", *work)}
            for _ in range(ROUNDS):
                seconds["step"].append(timed(step))
                with restore_thread_count():
                    torch.set_num_threads(args.threads)
                    for name, (probe, _, _) in work.items():
                        seconds[name].append(timed(probe))
        floor = 0.0
        for name, (_, amount, needed) in work.items():
            rate = amount / statistics.median(seconds[name])
            floor += needed / rate
            rows.append((batch_size, name, needed, rate, 1e3 * needed / rate))
        rows.append((batch_size, "floor", None, None, 1e3 * floor))
        rows.append((batch_size, "measured step", None, None, 1e3 * statistics.median(seconds["step"])))
    table = pd.DataFrame(rows, columns=["minibatch", "part", "work_a_step", "ceiling_a_second", "milliseconds"])
    table.to_csv(Path(__file__).parent / "results" / "floor.csv", index=False, float_format="%.4g")
    print(f"{cells.n_cells} cells x {cells.n_genes} genes, {cells.density:.1%} non-zero, {args.threads} threads")
    print(table.to_string(index=False, float_format="{:.4g}".format, na_rep=""))


def flops(cells: Cells, model: Model, batch_size: int) -> tuple[float, float]:
    """Operations of a step's dense products: in float32 always, and in the type of the hidden layers."""
    n_hidden, n_layers, n_latent = model.settings.n_hidden, model.settings.n_layers, model.settings.n_latent
    wide = 2 * cells.n_genes * n_hidden**2  # genes x hidden x hidden
    square = 2 * batch_size * n_hidden**2  # cells x hidden x hidden
    thin = 2 * batch_size * n_hidden * n_latent
    heads = 3 * (2 * thin + 2 * 2 * thin)  # z into two decoders, two encoders' two heads; forward and two gradients
    passes = 4 * (n_layers - 1) + 1  # hidden layers of own and swapped pass, and the matrix between decoder and encoder
    # Of the likelihood: W (h'h) and h'h; for the gradient of h, W'V⁻¹W and its product with h.
    return wide + square + heads, 4 * wide + (3 * passes + 1) * square


def timed(work: Callable[[], object]) -> float:
    """Seconds of the second of two runs."""
    work()
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
