"""Time of each stage and peak memory, from an h5ad file of counts to one with the embedding.

    python benchmarks/in_and_out.py [--cells 100000] [--genes 20000] [--epochs 2 | --full]

Simulated counts of two systems with four batches each, 10 % of the values non-zero, in an uncompressed file and in one
compressed with gzip. Two pipelines are compared: "sysvi" calls the functions that `sysvi integrate` calls; "scanpy"
does the same by scanpy's functions (the whole file in memory, a copy of each system to find its variable genes). Both
must choose the same genes. Training is the same for both and measured in the first only: over a few epochs,
extrapolated to the default number ("extrapolated" in the table), or completely with --full.

Each pipeline runs in a separate process. Peak memory is that of the process until the end of the stage, minus what it
held after its imports. Time in which the whole machine stood still is subtracted. Writes results/in_and_out.csv.
"""

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
from anndata.io import sparse_dataset, write_elem
from common import CACHE, RESULTS, machine, n_cores, ours
from peers.usage import peak_mb
from scipy import sparse

TABLE = RESULTS / "in_and_out.csv"
FILES = {"plain": None, "gzip": "gzip"}  # name -> compression


def main() -> None:
    """Run both pipelines on both files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=100_000)
    parser.add_argument("--genes", type=int, default=20_000)
    parser.add_argument("--epochs", type=int, default=2, help="epochs to measure")
    parser.add_argument("--full", action="store_true", help="train for the default number of epochs")
    parser.add_argument("--threads", type=int, default=n_cores(), help="default: all cores")
    parser.add_argument("--run", nargs=2, metavar=("TASK", "FILE"), help=argparse.SUPPRESS)  # in a separate process
    args = parser.parse_args()
    if args.run:
        task, path = args.run[0], Path(args.run[1])
        if task == "make":
            make(path, args.cells, args.genes)
        else:
            result = {"sysvi": by_sysvi, "scanpy": by_scanpy}[task](path, None if args.full else args.epochs)
            print(json.dumps(result))
        return

    print(machine(args.threads), flush=True)
    RESULTS.mkdir(exist_ok=True)
    tables = []
    for file in FILES:
        path = CACHE / f"counts_{args.cells}_{args.genes}_{file}.h5ad"
        if not path.exists():
            run("make", path, args)
        results = {pipeline: run(pipeline, path, args) for pipeline in ("sysvi", "scanpy")}
        if results["sysvi"]["genes"] != results["scanpy"]["genes"]:
            raise SystemExit("The two pipelines chose different genes.")
        for pipeline, result in results.items():
            table = pd.DataFrame(result["stages"], columns=["stage", "peak_mb", "epochs", "of_epochs"])
            table.insert(1, "seconds", result["epoch_seconds"])
            table["seconds"] *= table["of_epochs"] / table["epochs"]
            table["extrapolated"] = table.pop("of_epochs") != table.pop("epochs")
            tables.append(table.assign(file=file, way=pipeline, prepared_mb=result["prepared_mb"]))
    table = pd.concat(tables)[["file", "way", "stage", "seconds", "extrapolated", "peak_mb", "prepared_mb"]]
    table.to_csv(TABLE, index=False, float_format="%.2f")
    print(table.round(1).to_string(index=False))


def run(task: str, path: Path, args: argparse.Namespace) -> dict:
    """Run this script in a separate process, for one pipeline or to make the file."""
    options = ["--cells", args.cells, "--genes", args.genes, "--epochs", args.epochs, *["--full"] * args.full]
    return ours("in_and_out.py", "--run", task, path, *options, threads=args.threads)


class Stages:
    """Clock readings and peak memory at the ends of the stages."""

    def __init__(self) -> None:
        self.base = peak_mb()
        self.marks = [time.perf_counter()]
        self.stages: list[tuple[str, float, int, int]] = []

    def done(self, stage: str, epochs: int = 1, of_epochs: int = 1) -> None:
        """Note the end of a stage, in which `epochs` of its `of_epochs` epochs were measured."""
        self.marks.append(time.perf_counter())
        self.stages.append((stage, peak_mb() - self.base, epochs, of_epochs))


def by_sysvi(path: Path, epochs: int | None) -> dict:
    """The pipeline of `sysvi integrate`."""
    import sysvi
    from sysvi.data.ensure_prepared import ensure_prepared
    from sysvi.data.h5ad import read_h5ad, write_with_embedding
    from sysvi.training.loop import decide

    stages = Stages()
    adata = read_h5ad(path)
    stages.done("open")
    ends = {"The input looks like": "pass 1: genes seen", "Genes variable in every": "pass 2: variable genes"}

    def report(line: str) -> None:
        for start, stage in ends.items():
            if line.startswith(start):
                stages.done(stage)

    prepared, _ = ensure_prepared(adata, "system", "batch", report=report)
    stages.done("pass 3: expression of these")
    default = decide(sysvi.TrainSettings(), prepared.n_obs).max_epochs
    measured = epochs or default

    def progress(event: sysvi.Event) -> None:
        if event.stage == "plan":
            stages.done("checks")
        elif event.stage == "epoch" and event.values["epoch"] == measured:
            stages.done("training", measured, default)

    model = sysvi.integrate(prepared, "system", "batch", max_epochs=measured, device="cpu", progress=progress)
    stages.done("embedding")
    target = path.with_suffix(".out.h5ad")
    write_with_embedding(path, target, {"X_sysVI": prepared.obsm["X_sysVI"]}, {"sysvi": model.record()})
    stages.done("write")
    target.unlink()
    return result_of(stages, prepared)


def by_scanpy(path: Path, epochs: int | None) -> dict:
    """The same by scanpy's functions, without training."""
    import anndata
    import scanpy as sc

    stages = Stages()
    adata = anndata.read_h5ad(path)
    stages.done("read")
    seen = [sc.pp.filter_genes(adata[cells], min_cells=21, inplace=False)[0] for cells in systems_of(adata)]
    prepared = adata[:, np.logical_and.reduce(seen)].copy()
    stages.done("genes seen")
    sc.pp.normalize_total(prepared, target_sum=1e4)
    sc.pp.log1p(prepared)
    stages.done("log-normalised")
    variable = [
        sc.pp.highly_variable_genes(
            prepared[cells], n_top_genes=3000, flavor="cell_ranger", batch_key="batch", inplace=False
        )["highly_variable"]
        for cells in systems_of(prepared)
    ]
    prepared = prepared[:, np.logical_and.reduce(variable)].copy()
    stages.done("variable genes")
    adata.obsm["X_sysVI"] = np.zeros((adata.n_obs, 15), np.float32)
    target = path.with_suffix(".out.h5ad")
    adata.write_h5ad(target, compression=FILES[path.stem.split("_")[-1]])
    stages.done("write")
    target.unlink()
    return result_of(stages, prepared)


def systems_of(adata) -> list:
    """Boolean mask of the cells of each system."""
    return [(adata.obs["system"] == name).to_numpy() for name in sorted(adata.obs["system"].unique())]


def result_of(stages: Stages, prepared) -> dict:
    """The result of a process, for JSON."""
    n_bytes = sum(part.nbytes for part in (prepared.X.data, prepared.X.indices, prepared.X.indptr))
    return {
        "marks": stages.marks,
        "stages": stages.stages,
        "genes": list(prepared.var_names),
        "prepared_mb": n_bytes / 1e6,
    }


def make(path: Path, n_cells: int, n_genes: int) -> None:
    """Write a file of simulated counts, a block of cells at a time."""
    rng = np.random.default_rng(0)
    n_systems, n_batches, n_types = 2, 4, 10
    types = rng.normal(0, 1, (n_types, n_genes)) * (rng.random((n_types, n_genes)) < 0.1)  # markers: a tenth
    batches = rng.normal(0, 0.3, (n_systems * n_batches, n_genes))
    batches += np.repeat(rng.normal(0, 0.5, (n_systems, n_genes)), n_batches, axis=0)
    profile = np.exp(rng.normal(0, 2, n_genes) + types + batches[:, None])  # (batches, types, genes)
    profile /= profile.sum(axis=2, keepdims=True)
    batch = rng.integers(0, n_systems * n_batches, n_cells)
    cell_type = rng.integers(0, n_types, n_cells)

    def blocks(n_rows: int = 1000) -> Iterator[sparse.csr_matrix]:
        for start in range(0, n_cells, n_rows):
            rows = slice(start, start + n_rows)
            depth = rng.lognormal(np.log(4000), 0.35, len(batch[rows]))
            counts = rng.poisson(profile[batch[rows], cell_type[rows]] * depth[:, None])
            yield sparse.csr_matrix(counts, dtype=np.float32)

    path.parent.mkdir(exist_ok=True)
    unfinished = path.with_suffix(".part")
    # the chunk length that h5py chooses for a matrix of this size when it is written at once
    storage = {"compression": FILES[path.stem.split("_")[-1]], "chunks": (24_000,)}
    with h5py.File(unfinished, "w") as file:
        for block in blocks():
            if "X" in file:
                sparse_dataset(file["X"]).append(block)
            else:
                write_elem(file, "X", block, dataset_kwargs=storage)
        obs = pd.DataFrame(index=[f"cell{i}" for i in range(n_cells)])
        obs["system"] = pd.Categorical.from_codes(batch // n_batches, ["human", "mouse"])
        obs["batch"] = pd.Categorical.from_codes(batch, [f"donor{b}" for b in range(n_systems * n_batches)])
        obs["cell_type"] = pd.Categorical.from_codes(cell_type, [f"type{t}" for t in range(n_types)])
        write_elem(file, "obs", obs)
        write_elem(file, "var", pd.DataFrame(index=[f"gene{i}" for i in range(n_genes)]))
    unfinished.rename(path)
    print("{}")


if __name__ == "__main__":
    main()
