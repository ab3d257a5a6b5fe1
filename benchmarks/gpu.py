"""Training on an NVIDIA GPU: time, memory and rates against the GPU's ceilings, and what they depend on.

    python benchmarks/gpu.py [--parts steps sizes peer baron] [--cells 500000] [--genes 3000] [--epochs 20]

Expression is made up (10 % non-zero), as speed alone is measured; Baron is real and shows that the result is as on a
CPU. Every part is a table in benchmarks/results:

- steps: milliseconds a step, with each optimisation on and off; losses must agree (gpu_steps.csv);
- sizes: from the AnnData to the embedding for that size, four times as many cells, and with one thing changed at a time
  (gpu.csv);
- peer: an epoch of scvi-tools' SysVI and of ours on a fifth of the cells, at their defaults, on this GPU, where
  scvi-tools is installed beside sysvi (gpu_peer.csv);
- baron: embeddings of Baron islets at the defaults, five seeds, into --out, and the time of each (gpu_baron.csv).
"""

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import ClassVar
from unittest.mock import patch

import anndata
import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch
from common import RESULTS
from steps import by_autograd

import sysvi
from sysvi._core.device import describe_device
from sysvi.kernels import backend as backend_module
from sysvi.kernels import torch_backend
from sysvi.kernels.plan import ComputePlan, choose_compute_plan
from sysvi.training import loop as train_module
from sysvi.training import step as step_module

DENSITY = 0.1
BLOCK = 50_000
N_TYPES = 20


def main() -> None:
    """Run the parts and print their tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", default=["steps", "sizes", "peer", "baron"])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--cells", type=int, default=500_000)
    parser.add_argument("--genes", type=int, default=3_000)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--baron", type=Path, help="prepared cells, as benchmarks/data.py makes them")
    parser.add_argument("--out", type=Path, default=Path("."), help="folder for Baron's embeddings")
    args = parser.parse_args()
    device = torch.device(args.device)
    rates = ceilings(device)
    print(describe_device(device), f"torch {torch.__version__}", rates, sep="\n", flush=True)
    if "steps" in args.parts:
        keep("gpu_steps", steps(args, device), device)
    if "sizes" in args.parts:
        keep("gpu", sizes(args, device, rates), device)
    if "peer" in args.parts:
        keep("gpu_peer", peer(args, device), device)
    if "baron" in args.parts:
        keep("gpu_baron", baron(args, device), device)


def keep(name: str, rows: Iterator[dict], device: torch.device) -> None:
    """Write and print a table, row by row: what is measured is kept if the rest is interrupted."""
    so_far: list[dict] = []
    for row in rows:
        so_far.append({"device": describe_device(device), **row})
        table = pd.DataFrame(so_far)
        table.to_csv(RESULTS / f"{name}.csv", index=False, float_format="%.5g")
        print(table.tail(1).to_string(index=False, float_format="{:.4g}".format), flush=True)
    print(table.to_string(index=False, float_format="{:.4g}".format), flush=True)


# -- a step with each optimisation on and off -------------------------------------------------------------------------


def steps(args: argparse.Namespace, device: torch.device) -> Iterator[dict]:
    """Milliseconds of a step and losses of training with one thing changed."""
    adata = random_cells(args.cells // 10, args.genes, 2)
    changes: dict[str, dict] = {
        "all on": {},
        "layers and dense expression by torch's operations": {"triton": False},
        "one stream": {"concurrent": False},
        "float32 products": {"matmul_dtype": torch.float32, "expression": torch.float32},
        "steps one by one": {"graph": False},
        "steps one by one, by torch's operations": {"graph": False, "triton": False},
        "plain: autograd, float32, one by one": {"autograd": True},
    }
    for name, change in changes.items():
        few = not change.get("graph", True) or change.get("autograd", False)
        with changed(**change):
            model = train_(adata, device, max_epochs=4 if few else 20)
        run = model.run
        n_steps = len(run.history["total_train"]) * run.steps_per_epoch
        row = {"step": name, "minibatch": run.settings.batch_size, "ms": 1e3 * run.seconds / n_steps}
        yield row | {
            "first_loss": run.history["total_train"][0],
            "peak_gb": peak(device),
            "why": "; ".join(run.kernels.why),
        }


@contextmanager
def changed(*, triton: bool = True, autograd: bool = False, **change: object) -> Iterator[None]:
    """Let training compute otherwise than it would choose."""
    if autograd:
        change |= {"graph": False, "concurrent": False, "matmul_dtype": torch.float32, "expression": torch.float32}

    def plan(*args: object, **kwargs: object) -> ComputePlan:
        return replace(choose_compute_plan(*args, **kwargs), **change)

    with ExitStack() as stack:
        stack.enter_context(patch.object(train_module, "choose_compute_plan", plan))
        if autograd:
            stack.enter_context(patch.object(step_module, "backpropagate", by_autograd))
        if not triton:
            switched_off = (torch_backend, "torch's operations: Triton is switched off")
            stack.enter_context(patch.object(backend_module, "_choose", lambda device: switched_off))
        yield


def train_(adata: anndata.AnnData, device: torch.device, **settings: object) -> sysvi.SysVI:
    """Train a model; the GPU's peak memory is measured from here on."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    sysvi.SysVI.setup_anndata(adata, "system")
    model = sysvi.SysVI(adata)
    model.train(device=str(device), progress=False, **settings)
    return model


def peak(device: torch.device) -> float:
    """Peak memory in use on the GPU, in GB."""
    return torch.cuda.max_memory_allocated() / 1e9 if device.type == "cuda" else float("nan")


# -- from the data to the embedding -----------------------------------------------------------------------------------


def sizes(args: argparse.Namespace, device: torch.device, rates: pd.Series) -> Iterator[dict]:
    """Whole calls, with one thing changed at a time."""
    base = {"cells": args.cells, "genes": args.genes, "systems": 2, "n_latent": 15, "n_prior_components": 5}
    changes: list[dict] = [{}, {"cells": 4 * args.cells}, {"cells": args.cells // 2}, {"cells": args.cells // 4}]
    changes += [{"genes": args.genes // 3}, {"n_latent": 60}, {"systems": 8}, {"n_prior_components": 100}]
    for change in changes:
        size = base | change
        yield size | whole_call(size, args.epochs, device, rates)


def whole_call(size: dict[str, int], epochs: int, device: torch.device, rates: pd.Series) -> dict[str, object]:
    """`sysvi.integrate`, stage by stage."""
    adata = random_cells(size["cells"], size["genes"], size["systems"])
    marks = [time.perf_counter()]

    def mark(event: sysvi.Event) -> None:
        if event.stage in ("plan", "end"):
            marks.append(time.perf_counter())

    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    settings = {name: size[name] for name in ("n_latent", "n_prior_components")}
    model = sysvi.integrate(adata, "system", max_epochs=epochs, device=str(device), progress=mark, **settings)
    marks.append(time.perf_counter())
    run, s = model.run, model.model_settings
    assert run is not None
    n_steps = epochs * run.steps_per_epoch
    b, g, h = run.settings.batch_size, size["genes"], s.n_hidden
    n_parameters = sum(p.numel() for p in model.module.parameters())
    width = 2 if run.kernels.expression == torch.bfloat16 else 4
    n_flops = 4 * 2 * b * g * h + 5 * 2 * g * h * h + (3 * 5 + 2) * 2 * b * h * h  # expression; genes; hidden layers
    # Stored values; dense expression written once and read five times; Adam's parameters, gradients and moments.
    n_bytes = 8 * DENSITY * b * g + 6 * width * b * g + 7 * 4 * n_parameters
    before, training, after = np.diff(marks)
    return {
        "epochs": epochs,
        "minibatch": b,
        "replayed": run.kernels.graph,
        "before_s": before,
        "training_s": training,
        "after_s": after,
        "all_s": before + training + after,
        "cells_per_s": run.cells_per_second,
        "ms_a_step": 1e3 * run.seconds / n_steps,
        "flop_per_s": n_flops * n_steps / run.seconds,
        "of_bfloat16_ceiling": n_flops * n_steps / run.seconds / rates["bfloat16 product, FLOP/s"],
        "bytes_per_s": n_bytes * n_steps / run.seconds,
        "of_copy_ceiling": n_bytes * n_steps / run.seconds / rates["copy, bytes/s"],
        "peak_gb": peak(device),
        "last_loss": run.history["total_train"][-1],
    }


def random_cells(n_cells: int, n_genes: int, n_systems: int) -> anndata.AnnData:
    """Log-normalised-looking cells of 20 types, blocks of cells side by side.

    A tenth of the genes are stored, one of each ten, which a type prefers in seven cells of ten.
    """
    n_stored = int(DENSITY * n_genes)
    apart = n_genes // n_stored
    rng = np.random.default_rng(0)
    preferred = rng.integers(0, apart, (N_TYPES, n_stored), np.int32)
    level = rng.uniform(0.5, 2.5, (N_TYPES, n_stored)).astype(np.float32)
    system = rng.integers(0, n_systems, n_cells)
    genes, values = np.empty((n_cells, n_stored), np.int32), np.empty((n_cells, n_stored), np.float32)

    def fill(first: int) -> None:
        rng, rows = np.random.default_rng(first), slice(first, first + BLOCK)
        shape = genes[rows].shape
        of_type = rng.integers(0, N_TYPES, len(genes[rows]))
        any_gene = rng.integers(0, apart, shape, np.int32)
        genes[rows] = np.where(rng.random(shape, np.float32) < 0.7, preferred[of_type], any_gene)
        genes[rows] += np.arange(n_stored, dtype=np.int32) * apart
        values[rows] = level[of_type] + rng.uniform(0, 2, shape).astype(np.float32)  # log-normalised: never above 10

    with ThreadPoolExecutor() as pool:
        list(pool.map(fill, range(0, n_cells, BLOCK)))
    starts = np.arange(0, genes.size + 1, n_stored, dtype=np.int32 if genes.size < 2**31 else np.int64)
    x = sp.csr_matrix((values.ravel(), genes.ravel(), starts), shape=(n_cells, n_genes))
    obs = pd.DataFrame({"system": system.astype(str)}, index=np.arange(n_cells).astype(str))
    return anndata.AnnData(x, obs=obs)


# -- beside scvi-tools ------------------------------------------------------------------------------------------------


def peer(args: argparse.Namespace, device: torch.device) -> Iterator[dict]:
    """Seconds an epoch of either at its defaults."""
    adata = random_cells(args.cells // 5, args.genes, 2)
    model = train_(adata, device, max_epochs=10)
    row = {"method": "sysvi", "version": sysvi.__version__, "minibatch": model.run.settings.batch_size}
    yield row | {"s_an_epoch": model.run.seconds / 10, "peak_gb": peak(device)}
    from importlib.metadata import version

    from lightning.pytorch.callbacks import Callback
    from scvi.external import SysVI

    class Marks(Callback):
        times: ClassVar[list[float]] = []

        def on_train_epoch_end(self, trainer: object, module: object) -> None:
            self.times.append(time.perf_counter())

    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    accelerator = "gpu" if device.type == "cuda" else "cpu"
    SysVI.setup_anndata(adata, batch_key="system")
    theirs = SysVI(adata)
    how = {"train_size": 1.0, "accelerator": accelerator, "enable_progress_bar": False, "callbacks": [Marks()]}
    theirs.train(max_epochs=3, **how)  # the first warms up
    row = {"method": "SysVI (scvi-tools)", "version": version("scvi-tools"), "minibatch": 128}
    yield row | {"s_an_epoch": statistics.mean(np.diff(Marks.times)), "peak_gb": peak(device)}


# -- real cells -------------------------------------------------------------------------------------------------------


def baron(args: argparse.Namespace, device: torch.device) -> Iterator[dict]:
    """Five seeds at the defaults; their embeddings go to `out`."""
    adata = anndata.read_h5ad(args.baron)
    for seed in range(5):
        start = time.perf_counter()
        model = sysvi.integrate(adata, "system", "batch", seed=seed, device=str(device), progress=False)
        seconds = time.perf_counter() - start
        np.save(args.out / f"baron_{seed}.npy", adata.obsm["X_sysVI"])
        yield {"seed": seed, "epochs": model.run.n_epochs, "training_s": model.run.seconds, "all_s": seconds}


def ceilings(device: torch.device) -> pd.Series:
    """Measured rates of large products and of a large copy."""
    a, big = torch.randn(8192, 8192, device=device), torch.empty(2**28, device=device)
    a16, target = a.bfloat16(), torch.empty_like(big)
    works: dict[str, tuple[Callable[[], object], int]] = {
        "float32 product, FLOP/s": (lambda: a @ a, 2 * 8192**3),
        "bfloat16 product, FLOP/s": (lambda: a16 @ a16, 2 * 8192**3),
        "copy, bytes/s": (lambda: target.copy_(big), 8 * 2**28),
    }
    rates = {}
    for name, (work, amount) in works.items():
        seconds = []
        for _ in range(7):
            start = time.perf_counter()
            work()
            if device.type == "cuda":
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - start)
        rates[name] = amount / statistics.median(seconds)
    return pd.Series(rates)


if __name__ == "__main__":
    main()
