"""From an h5ad file of counts to one with the embedding: time of each stage and peak memory.

    python benchmarks/in_and_out.py [--cells 100000] [--genes 20000] [--epochs 2 | --full]

Simulated counts of two systems with four batches each, 10 % of the values above zero, plain and compressed by gzip. Two
ways in and out: "sysvi" calls what `sysvi integrate` calls; "scanpy" is what one does without it (the whole file in
memory, scanpy's functions, a copy of each system for its variable genes). Both must choose the same genes. Training is
the same for both and measured in the first only: over a few epochs, reckoned for as many as the default has
("extrapolated" in the table), or whole with --full.

Each way runs in a process of its own. Peak memory is that of the process until the end of the stage, over what it held
after its imports. Times that the whole machine stood still are taken off. Writes results/in_and_out.csv.
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
    """Both ways on both files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=100_000)
    parser.add_argument("--genes", type=int, default=20_000)
    parser.add_argument("--epochs", type=int, default=2, help="epochs to measure")
    parser.add_argument("--full", action="store_true", help="train to the end")
    parser.add_argument("--threads", type=int, default=n_cores(), help="default: all cores")
    parser.add_argument("--run", nargs=2, metavar=("WHAT", "FILE"), help=argparse.SUPPRESS)  # in a process of its own
    args = parser.parse_args()
    if args.run:
        what, path = args.run[0], Path(args.run[1])
        if what == "make":
            make(path, args.cells, args.genes)
        else:
            result = {"sysvi": by_sysvi, "scanpy": by_scanpy}[what](path, None if args.full else args.epochs)
            print(json.dumps(result))
        return

    print(machine(args.threads), flush=True)
    RESULTS.mkdir(exist_ok=True)
    tables = []
    for file in FILES:
        path = CACHE / f"counts_{args.cells}_{args.genes}_{file}.h5ad"
        if not path.exists():
            run("make", path, args)
        found = {way: run(way, path, args) for way in ("sysvi", "scanpy")}
        if found["sysvi"]["genes"] != found["scanpy"]["genes"]:
            raise SystemExit("The two ways chose different genes.")
        for way, result in found.items():
            table = pd.DataFrame(result["stages"], columns=["stage", "peak_mb", "epochs", "of_epochs"])
            table.insert(1, "seconds", result["epoch_seconds"])
            table["seconds"] *= table["of_epochs"] / table["epochs"]
            table["extrapolated"] = table.pop("of_epochs") != table.pop("epochs")
            tables.append(table.assign(file=file, way=way, prepared_mb=result["prepared_mb"]))
    table = pd.concat(tables)[["file", "way", "stage", "seconds", "extrapolated", "peak_mb", "prepared_mb"]]
    table.to_csv(TABLE, index=False, float_format="%.2f")
    print(table.round(1).to_string(index=False))


def run(what: str, path: Path, args: argparse.Namespace) -> dict:
    """Run this script in a process of its own."""
    options = ["--cells", args.cells, "--genes", args.genes, "--epochs", args.epochs, *["--full"] * args.full]
    return ours("in_and_out.py", "--run", what, path, *options, threads=args.threads)


class Stages:
    """What is done when: readings of the clock at the ends of the stages, and the peak memory until then."""

    def __init__(self) -> None:
        self.base = peak_mb()
        self.marks = [time.perf_counter()]
        self.stages: list[tuple[str, float, int, int]] = []

    def done(self, stage: str, epochs: int = 1, of_epochs: int = 1) -> None:
        """A stage ends here; of its epochs, some were measured."""
        self.marks.append(time.perf_counter())
        self.stages.append((stage, peak_mb() - self.base, epochs, of_epochs))


def by_sysvi(path: Path, epochs: int | None) -> dict:
    """What `sysvi integrate` does."""
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
    return answer(stages, prepared)


def by_scanpy(path: Path, epochs: int | None) -> dict:
    """What one does without it; training is left out."""
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
    return answer(stages, prepared)


def systems_of(adata) -> list:
    """Masks of the cells of each system."""
    return [(adata.obs["system"] == name).to_numpy() for name in sorted(adata.obs["system"].unique())]


def answer(stages: Stages, prepared) -> dict:
    """What a process tells."""
    n_bytes = sum(part.nbytes for part in (prepared.X.data, prepared.X.indices, prepared.X.indptr))
    return {
        "marks": stages.marks,
        "stages": stages.stages,
        "genes": list(prepared.var_names),
        "prepared_mb": n_bytes / 1e6,
    }


def make(path: Path, n_cells: int, n_genes: int) -> None:
    """A file of counts, written block by block."""
    rng = np.random.default_rng(0)
    n_systems, n_batches, n_types = 2, 4, 10
    types = rng.normal(0, 1, (n_types, n_genes)) * (rng.random((n_types, n_genes)) < 0.1)  # a tenth mark a type
    batches = rng.normal(0, 0.3, (n_systems * n_batches, n_genes))
    batches += np.repeat(rng.normal(0, 0.5, (n_systems, n_genes)), n_batches, axis=0)
    profile = np.exp(rng.normal(0, 2, n_genes) + types + batches[:, None])  # (batches, types, genes)
    profile /= profile.sum(axis=2, keepdims=True)
    batch = rng.integers(0, n_systems * n_batches, n_cells)
    cell_type = rng.integers(0, n_types, n_cells)

    def blocks(n_rows: int = 1000) -> Iterator[sparse.csr_matrix]:
        for start in range(0, n_cells, n_rows):
            of = slice(start, start + n_rows)
            depth = rng.lognormal(np.log(4000), 0.35, len(batch[of]))
            counts = rng.poisson(profile[batch[of], cell_type[of]] * depth[:, None])
            yield sparse.csr_matrix(counts, dtype=np.float32)

    path.parent.mkdir(exist_ok=True)
    unfinished = path.with_suffix(".part")
    # chunks as long as h5py makes them of a matrix of this size that is written whole
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
