"""Before and after of each optimisation of the training step, interleaved in one run.

    python benchmarks/steps.py [--cells 4000] [--genes 1600] [--threads 2]

Simulated cells; medians over rounds in milliseconds; writes benchmarks/results/steps.csv.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import torch

import sysvi
from sysvi import networks
from sysvi.anndata_cells import Columns, cells_of, vocabulary_of
from sysvi.cells import Cells, Vocabulary
from sysvi.model import Model
from sysvi.objective import Objective, Weights
from sysvi.seeds import generator

ROUNDS = 15


def main() -> None:
    """Time a whole step (minibatch, loss, backward, Adam) with one thing changed at a time."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=4000)
    parser.add_argument("--genes", type=int, default=1600)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    counts = sysvi.datasets.simulate_systems(args.cells, args.genes, seed=0)
    adata = sysvi.prepare(counts, "system", "batch", n_top_genes=args.genes)
    columns = Columns("system", categorical=("batch",))
    vocabulary = vocabulary_of(adata, columns)
    cells = cells_of(adata, columns, vocabulary)

    rows = []
    for batch_size in (128, 256, 512, 1024):
        variants = {
            "all on": stepper(cells, vocabulary, batch_size),
            "plain losses only": stepper(cells, vocabulary, batch_size, fused=False),
            "Bernoulli dropout instead of 16 random bits": stepper(cells, vocabulary, batch_size, dropout=bernoulli),
            "Adam foreach instead of fused": stepper(cells, vocabulary, batch_size, fused_adam=False),
            "minibatch by index_put instead of scatter": stepper(cells, vocabulary, batch_size, dense=index_put),
        }
        times: dict[str, list[float]] = {name: [] for name in variants}
        for _ in range(ROUNDS):
            for name, step in variants.items():
                start = time.perf_counter()
                step()
                times[name].append(1e3 * (time.perf_counter() - start))
        base = statistics.median(times["all on"])
        for name, values in times.items():
            median = statistics.median(values)
            rows.append((batch_size, name, median, min(values), max(values), median / base))
    table = pd.DataFrame(rows, columns=["minibatch", "step", "median_ms", "min_ms", "max_ms", "relative"])
    (Path(__file__).parent / "results").mkdir(exist_ok=True)
    table.to_csv(Path(__file__).parent / "results" / "steps.csv", index=False, float_format="%.3f")
    print(f"{cells.n_cells} cells x {cells.n_genes} genes, {args.threads} threads, torch {torch.__version__}")
    print(table.round(2).to_string(index=False))


def stepper(
    cells: Cells,
    vocabulary: Vocabulary,
    batch_size: int,
    *,
    fused: bool = True,
    dropout: Callable | None = None,
    fused_adam: bool = True,
    dense: Callable | None = None,
) -> Callable[[], None]:
    """A training step on a model of its own."""
    init, noise = generator(0, "weights"), generator(0, "noise")
    model = Model(sysvi.ModelSettings(), cells.n_genes, cells.n_systems, vocabulary.n_categories, 0, init)
    model.init_prior(cells, torch.arange(5), init)
    objective = Objective(model, fused=fused)
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-3, eps=0.01, fused=fused_adam, foreach=not fused_adam)
    our_dropout, our_dense = networks.dropout, Cells.dense

    def step() -> None:
        networks.dropout, Cells.dense = dropout or our_dropout, dense or our_dense
        index = torch.randint(0, cells.n_cells, (batch_size,), generator=noise)
        losses = objective(cells.minibatch(index, "resampled", noise), Weights(1, 1, 5, 0), noise)
        losses.total.backward()
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        networks.dropout, Cells.dense = our_dropout, our_dense

    return step


def bernoulli(h: torch.Tensor, rate: float, noise: torch.Generator | None) -> torch.Tensor:
    """Dropout the obvious way, one draw a unit."""
    if noise is None:
        return h
    return h * torch.empty_like(h).bernoulli_(1 - rate, generator=noise).div_(1 - rate)


def index_put(cells: Cells, index: torch.Tensor) -> torch.Tensor:
    """The minibatch the obvious way, by row and column of each stored value."""
    start = cells.indptr[index]
    length = cells.indptr[index + 1] - start
    row = torch.repeat_interleave(torch.arange(len(index)), length)
    source = torch.arange(len(row)) + (start - (torch.cumsum(length, 0) - length))[row]
    x = torch.zeros(len(index), cells.n_genes)
    x[row, cells.indices[source].long()] = cells.values[source]
    return x


if __name__ == "__main__":
    main()
