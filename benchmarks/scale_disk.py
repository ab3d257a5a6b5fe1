"""Training with the expression on disk, compared with memory: speed, peak memory and quality, on the CPU.

    python benchmarks/scale_disk.py [--cells 50000 200000] [--epochs 2] [--stores zarr h5ad] [--files 4]
    python benchmarks/scale_disk.py --quality [--sets baron hard] [--seeds 0 1 2 3 4]       (baron needs SYSVI_DATA)

Simulated cells of two systems x 2,000 genes, 11 % of the values non-zero, are written as files of counts, which
`sysvi.prepare_files` joins, shuffles and writes as a zarr store or an h5ad file, in a process of its own. (More than
200,000 cells repeat the 200,000 that are simulated.) Then one model is trained from each, in a process of its own and
the default minibatch: in memory, and from disk with so little memory that windows have 10,000 cells. Peak memory is the
resident memory of the whole process, with Python and its libraries. On a busy machine, compare CPU seconds, not
seconds. Rows are written to results/scale_disk.csv as they are measured, in place of those of the same size, number of
files and store; a measurement that fails, for example for lack of memory, ends the script. `--what` chooses some of the
measurements (prepare comes first).

--quality trains on Baron's islets and on the hard simulation at the defaults, in memory and from disk in windows of a
fifth of the cells, and writes the metrics of sysvi.evaluate to results/scale_disk_quality.csv. Runs whose rows are
there are not repeated.
"""

import argparse
import itertools
import json
import resource
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
from common import CACHE, RESULTS, machine, n_cores

GENES, SIMULATED = 2_000, 200_000
TABLE, QUALITY = RESULTS / "scale_disk.csv", RESULTS / "scale_disk_quality.csv"
IDENTITY = ["cells", "files", "store", "what"]
WHAT = ("prepare", "memory", "disk")
WINDOW = 10_000  # cells


def main() -> None:
    """Measure each size, or the quality."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, nargs="+", default=(50_000, 200_000), help="numbers of cells")
    parser.add_argument("--epochs", type=int, default=2, help="epochs of each training")
    parser.add_argument("--stores", nargs="+", choices=("zarr", "h5ad"), default=("zarr", "h5ad"))
    parser.add_argument("--files", type=int, nargs="+", default=(4,), help="numbers of files that are prepared")
    parser.add_argument("--what", nargs="+", choices=WHAT, default=WHAT, help="what is measured")
    parser.add_argument("--quality", action="store_true", help="measure the quality instead")
    parser.add_argument(
        "--sets", nargs="+", choices=("baron", "hard"), default=("baron", "hard"), help="sets of the quality"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=(0, 1, 2, 3, 4), help="seeds of the quality")
    parser.add_argument("--step", nargs="+", help=argparse.SUPPRESS)  # one measurement, in a process of its own
    args = parser.parse_args()
    if args.step:
        print(json.dumps({"counts": counts, "prepare": prepare, "train": train}[args.step[0]](*args.step[1:])))
        return
    print(machine(n_cores()), flush=True)
    CACHE.mkdir(exist_ok=True)
    if args.quality:
        quality(args.sets, args.seeds)
        return
    for cells, n_files, kind in itertools.product(args.cells, args.files, args.stores):
        files = [CACHE / f"disk_{cells}_{n_files}_{i}.h5ad" for i in range(n_files)]
        store = CACHE / f"disk_{cells}.{kind}"
        for what in args.what:
            if what == "prepare" and not all(file.exists() for file in files):
                step("counts", cells, *files)
            measured = step("prepare", store, *files) if what == "prepare" else step("train", store, what, args.epochs)
            save({"cells": cells, "files": n_files, "store": kind, "what": what, **measured})
    print(pd.read_csv(TABLE).to_string())


def save(row: dict) -> None:
    """Write a row into the table, in place of the former one of the same measurement."""
    table = pd.read_csv(TABLE) if TABLE.exists() else pd.DataFrame(columns=IDENTITY)
    same = (table[IDENTITY] == [row[key] for key in IDENTITY]).all(axis=1)
    table = pd.DataFrame([*table[~same].to_dict("records"), row])
    table.sort_values(IDENTITY[:3], kind="stable").to_csv(TABLE, float_format="%.1f", index=False)


def step(*arguments: object) -> dict:
    """Run one measurement in a process of its own."""
    command = [sys.executable, __file__, "--step", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr[-2000:])
    return json.loads(done.stdout.splitlines()[-1])


def counts(cells: str, *files: str) -> dict:
    """Simulate counts and write them as several files, each with cells of both systems."""
    import sysvi

    simulated = sysvi.datasets.simulate_systems(min(int(cells), SIMULATED), GENES, depth=0.22 * GENES, seed=0)
    for i, file in enumerate(files):
        rows = np.arange(i, int(cells), len(files))
        part = simulated[rows % simulated.n_obs].copy()
        part.obs_names = rows.astype(str)
        part.uns, part.varm = {}, {}
        part.write_h5ad(file)
    return {}


def prepare(store: str, *files: str) -> dict:
    """Prepare the files, all of whose genes are kept."""
    import sysvi

    start = time.perf_counter()
    sysvi.prepare_files(files, store, "system", "batch", overwrite=True)
    seconds = time.perf_counter() - start
    path = Path(store)
    size = sum(f.stat().st_size for f in path.rglob("*") if f.is_file()) if path.is_dir() else path.stat().st_size
    return {"seconds": seconds, "cpu_seconds": cpu_seconds(), "peak_mb": peak_mb(), "store_mb": size / 1e6}


def train(store: str, where: str, epochs: str) -> dict:
    """Train one model in memory or from disk."""
    import torch

    import sysvi
    from sysvi.api.storage import choose_storage
    from sysvi.data.row_blocks import n_stored_values
    from sysvi.data.stored import BYTES_PER_VALUE, WINDOWS_IN_MEMORY
    from sysvi.data.stores import open_cells

    events: list[sysvi.Event] = []
    memory = None
    if where == "disk":  # so little that windows have 10,000 cells
        cells = open_cells(store)
        whole = choose_storage(cells, None, None, 1, torch.device("cpu")).n_bytes
        of_values = BYTES_PER_VALUE * n_stored_values(cells.X)
        memory = whole - of_values * (1 - WINDOWS_IN_MEMORY * WINDOW / cells.n_obs)
    start = time.perf_counter()
    settings = {"members": 1, "max_epochs": int(epochs), "device": "cpu"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # few epochs leave systems apart
        sysvi.integrate(store, "system", "batch", memory=memory, progress=events.append, **settings)
    seconds = time.perf_counter() - start
    (end,) = [event for event in events if event.stage == "end"]
    (plan,) = [event for event in events if event.stage == "plan"]
    storage = [event.values for event in events if event.stage == "storage"]
    return {
        "epochs": int(epochs),
        "seconds": seconds,
        "cpu_seconds": cpu_seconds(),
        "peak_mb": peak_mb(),
        "cells_per_second": end.values["cells_per_second"],
        "batch_size": plan.values["batch_size"],
        "window_cells": storage[0]["window_cells"] if storage else None,
        "expected_mb": storage[0]["bytes"] / 1e6 if storage else None,
    }


def cpu_seconds() -> float:
    """CPU time of all threads of this process, with its imports."""
    return time.process_time()


def peak_mb() -> float:
    """Largest resident memory of this process so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def quality(sets: list[str], seeds: list[int]) -> None:
    """Metrics of embeddings from memory and from disk; the two of one seed follow each other."""
    import anndata
    import data

    import sysvi
    import sysvi.api.integrate as module
    from sysvi.api.storage import Storage

    keys = {"system_key": "system", "batch_key": "batch", "label_key": "cell_type"}
    for name, seed, where in itertools.product(sets, seeds, ("memory", "disk")):
        identity = {"set": name, "seed": seed, "where": where}
        table = pd.read_csv(QUALITY) if QUALITY.exists() else pd.DataFrame(columns=[*identity])
        if (table[[*identity]] == [*identity.values()]).all(axis=1).any():
            continue
        path = {"baron": data.baron, "hard": data.hard}[name]()
        adata = anndata.read_h5ad(path)
        window = Storage(-(-adata.n_obs // 5), 0.0, "windows of a fifth of the cells")
        module.choose_storage = lambda *arguments, window=window: window
        memory = "1GB" if where == "disk" else None
        model = sysvi.integrate(path, "system", "batch", seed=seed, memory=memory, progress=False)
        adata.obsm["X_sysVI"] = model.adata.obsm["X_sysVI"]
        found = sysvi.evaluate(adata, "X_sysVI", **keys, progress=False)["X_sysVI"]
        row = {**identity, "members": len(model.members), **found.to_dict()}
        pd.DataFrame([*table.to_dict("records"), row]).to_csv(QUALITY, float_format="%.4f", index=False)
    found = pd.read_csv(QUALITY).drop(columns=["seed", "members"]).groupby(["set", "where"]).agg(["mean", "min", "max"])
    print(found.T.round(3).to_string())


if __name__ == "__main__":
    main()
