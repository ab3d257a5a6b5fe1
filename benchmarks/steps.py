"""Before and after of each optimisation of the training step, interleaved in one run.

    python benchmarks/steps.py [--cells 4000] [--genes 1600] [--threads 2]

Simulated cells; each row is a whole step (minibatch, losses, gradients, Adam) with one thing changed. Medians over
rounds in milliseconds; the rows of a minibatch size are compared with "all on". Writes benchmarks/results/steps.csv.
"""

import argparse
import itertools
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import pandas as pd
import torch

import sysvi
from sysvi._core.memory import retain_freed_memory
from sysvi._core.parallel import (
    PairExecutor,
    Task,
    do_nothing,
    restore_thread_count,
    run_sequentially,
    two_thread_executor,
)
from sysvi._core.seeds import generator
from sysvi.data.cells import Cells, Minibatch, Vocabulary
from sysvi.data.columns import Columns
from sysvi.data.from_anndata import cells_from_anndata, read_vocabulary
from sysvi.kernels import cpu_backend, torch_backend
from sysvi.kernels.plan import ComputePlan, choose_compute_plan
from sysvi.model.cvae import Model
from sysvi.model.networks import TrainingContext
from sysvi.model.objective import Losses, Objective, Weights
from sysvi.training import layer_pass
from sysvi.training import step as step_module
from sysvi.training.gradient import backpropagate
from sysvi.training.optimiser import Adam
from sysvi.training.step import Stepper

ROUNDS = 25
SETTINGS = sysvi.TrainSettings(lr=1e-3, cycle_weight=sysvi.Ramp(5.0))


def main() -> None:
    """Time the variants in turn."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=4000)
    parser.add_argument("--genes", type=int, default=1600)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    counts = sysvi.datasets.simulate_systems(args.cells, args.genes, depth=0.3 * args.genes, seed=0)
    adata = sysvi.prepare(counts, "system", "batch", n_top_genes=args.genes, min_cells=5)
    columns = Columns("system", "batch")
    vocabulary = read_vocabulary(adata, columns)
    cells = cells_from_anndata(adata, columns, vocabulary)
    best = choose_compute_plan(cells.device, cells.density)
    dense = replace(best, sparse=False)
    variants: dict[str, dict] = {
        "all on": {},
        "parts of a step in turn, torch's threads on each": {"concurrent": False},
        "float32 products of hidden layers": {"plan": replace(best, matmul_dtype=torch.float32)},
        "dense expression": {"plan": dense},
        "layers by torch's operations": {"layers_by_torch": True},
        "minibatch made between the steps": {"prefetch": False},
        "torch.optim.Adam (fused)": {"optimiser": TorchAdam},
        "plain: autograd, nothing fused, dense, float32": {
            "plan": choose_compute_plan(cells.device, 1.0, precision="float32"),
            "concurrent": False,
            "autograd": True,
        },
    }
    rows = []
    for batch_size in (256, 512, 1024, 2048):
        with retain_freed_memory(), two_thread_executor() as run_pair:
            shared = {"plan": best, "run_pair": run_pair, "threads": args.threads}
            steps = {
                name: stepper(cells, vocabulary, batch_size, **shared | change) for name, change in variants.items()
            }
            times: dict[str, list[float]] = {name: [] for name in steps}
            for _ in range(ROUNDS):
                for name, step in steps.items():
                    step()  # after another variant's step, caches hold that one's memory
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
    print(f"{cells.n_cells} cells x {cells.n_genes} genes, {cells.density:.1%} non-zero, {args.threads} threads")
    print(*best.why, sep="\n")
    print(table.round(2).to_string(index=False))


class TorchAdam(Adam):
    """torch's own, behind our interface."""

    def __init__(self, parameters: Iterator, eps: float, weight_decay: float):
        self.parameters = list(parameters)
        self.optimiser = torch.optim.Adam(self.parameters, eps=eps, weight_decay=weight_decay, fused=True)

    def step(self, lr: float, run_pair: PairExecutor = run_sequentially) -> None:
        """One update."""
        self.optimiser.param_groups[0]["lr"] = lr
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)


def by_autograd(
    objective: Objective,
    batch: Minibatch,
    weights: Weights,
    context: TrainingContext,
    run_pair: PairExecutor,
    prefetch: Task,
) -> Losses:
    """`backpropagate` as autograd of the plain loss."""
    losses = objective(batch, weights, context)
    losses.total.backward()
    prefetch()
    return losses


def stepper(
    cells: Cells,
    vocabulary: Vocabulary,
    batch_size: int,
    *,
    plan: ComputePlan,
    run_pair: PairExecutor,
    threads: int,
    concurrent: bool = True,
    layers_by_torch: bool = False,
    prefetch: bool = True,
    autograd: bool = False,
    optimiser: type[Adam] = Adam,
) -> Callable[[], None]:
    """A training step on a model of its own; `threads` of torch where its parts are computed one after another."""
    init, swap = generator(0, "weights"), generator(0, "swap")
    model = Model(sysvi.ModelSettings(), cells.n_genes, cells.n_systems, vocabulary.n_categories, 0, init)
    model.init_prior(cells, torch.arange(5), init)
    objective = Objective(model)
    adam = optimiser(objective.parameters(), SETTINGS.eps, SETTINGS.weight_decay)
    context = TrainingContext(generator(0, "noise"), plan.matmul_dtype)
    steps = Stepper(objective, adam, SETTINGS, context, run_pair if concurrent else run_sequentially)
    rows = (torch.randint(0, cells.n_cells, (batch_size,), generator=swap) for _ in itertools.count())
    batches = (cells.minibatch(index, "resampled", swap, **plan.minibatch_arguments) for index in rows)
    following = [next(batches)]
    backend = torch_backend if layers_by_torch else cpu_backend

    def make_next() -> None:
        following[0] = next(batches)

    def step() -> None:
        with (
            restore_thread_count(),
            patch.object(layer_pass, "choose_backend", lambda device: backend),
            patch.object(step_module, "backpropagate", by_autograd if autograd else backpropagate),
        ):
            if not concurrent:
                torch.set_num_threads(threads)
            steps.step(following[0], 1.0, make_next if prefetch else do_nothing)
            if not prefetch:
                make_next()

    return step


if __name__ == "__main__":
    main()
