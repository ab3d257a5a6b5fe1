"""Reading rows of a zarr store during training from disk, with annbatch and without it.

    python benchmarks/reading.py [--cells 1000000] [--rounds 5]

The store is the one that scale_disk.py prepares (simulated cells x 2,000 genes), made here if it is not there. Both
read the same rows, decoded by zarrs: windows of 10,000 cells in row blocks of 512 and 2,500 cells, and 20,000 random
cells, as the linear model of the start needs them. They are read by sysvi without annbatch, by sysvi with annbatch,
which needs Python 3.12, and by annbatch's loader alone. Each measurement is a process of its own, in turn; the store is
in the operating system's cache. annbatch gets an environment of its own, by a Python of this machine that suits.
Writes medians to results/reading.csv.
"""

import argparse
import itertools
import json
import os
import subprocess
import sys
import time

import numpy as np
import pandas as pd
from common import CACHE, HERE, RESULTS, machine, make_environment, n_cores

REQUIREMENTS = ("annbatch[zarrs]==0.3.1", "lazy-loader")
WINDOW = 10_000  # cells
READERS, WHAT = ("sysvi", "sysvi with annbatch", "annbatch"), ("512", "2500", "random")


def main() -> None:
    """Measure in turn."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--read", nargs=3, help=argparse.SUPPRESS)  # one measurement, in a process of its own
    args = parser.parse_args()
    if args.read:
        print(json.dumps(measure(*args.read, args.cells)))
        return
    from scale_disk import step

    print(machine(n_cores()), flush=True)
    CACHE.mkdir(exist_ok=True)
    store = CACHE / f"disk_{args.cells}.zarr"
    if not store.exists():
        files = [CACHE / f"disk_{args.cells}_4_{i}.h5ad" for i in range(4)]
        step("counts", args.cells, *files)
        step("prepare", store, *files)
    python = str(make_environment(CACHE / "venv-annbatch", REQUIREMENTS, ">=3.12"))
    pythons = dict.fromkeys(READERS, python) | {"sysvi": sys.executable}
    environment = os.environ | {"PYTHONPATH": str(HERE.parent / "python")}
    rows = []
    for _, what, reader in itertools.product(range(args.rounds), WHAT, READERS):
        command = [pythons[reader], __file__, "--cells", str(args.cells), "--read", reader, what, str(store)]
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        if done.returncode:
            raise SystemExit(done.stderr[-2000:])
        rows.append({"what": what, "reader": reader, **json.loads(done.stdout.splitlines()[-1])})
    table = pd.DataFrame(rows).groupby(["what", "reader"], sort=False).median().reset_index()
    table.insert(0, "cells", args.cells)
    table.to_csv(RESULTS / "reading.csv", index=False, float_format="%.3f")
    print(table.to_string())


def measure(reader: str, what: str, store: str, n_cells: int) -> dict:
    """Read up to 25 windows, or the random cells; microseconds for each cell."""
    rng = np.random.default_rng(0)
    if what == "random":
        requests = [np.sort(rng.choice(n_cells, 20_000, replace=False))]
    else:
        block = int(what)
        starts = rng.permutation(n_cells // block) * block
        n_blocks = WINDOW // block
        n_windows = min(25, len(starts) // n_blocks)
        windows = np.sort(starts[: n_windows * n_blocks].reshape(n_windows, n_blocks))  # first cells of row blocks
        requests = [np.concatenate([np.arange(start, start + block) for start in window]) for window in windows]
    read = (read_by_annbatch if reader == "annbatch" else read_by_sysvi)(store, requests)
    seconds, cpu_seconds = time.perf_counter(), time.process_time()
    shapes = [x.shape[0] for x in read]
    cpu_seconds, seconds = time.process_time() - cpu_seconds, time.perf_counter() - seconds
    assert shapes == [len(rows) for rows in requests]
    n = sum(shapes)
    return {"microseconds": 1e6 * seconds / n, "cpu_microseconds": 1e6 * cpu_seconds / n}


def read_by_sysvi(store: str, requests: list[np.ndarray]):
    """Matrices of the rows, as training from disk reads them."""
    from sysvi.data.row_blocks import read_rows, row_sliceable
    from sysvi.data.stores import open_cells

    matrix = row_sliceable(open_cells(store).X)
    return (read_rows(matrix, rows) for rows in requests)


def read_by_annbatch(store: str, requests: list[np.ndarray]):
    """Matrices of the same rows from annbatch's loader."""
    import anndata
    import zarr
    from annbatch import Loader
    from annbatch.abc import Sampler

    class Given(Sampler):
        batch_size = shuffle = None

        def validate(self, n_obs):
            pass

        def n_batches(self, n_obs):
            return len(requests)

        def _sample(self, n_obs):
            for rows in requests:
                yield {"requests": rows, "splits": [np.arange(len(rows))]}

    zarr.config.set({"codec_pipeline.path": "zarrs.ZarrsCodecPipeline"})
    loader = Loader(batch_sampler=Given(), to=None)
    loader.add_dataset(anndata.io.sparse_dataset(zarr.open_group(store, mode="r")["X"]))
    return (batch["X"] for batch in loader)


if __name__ == "__main__":
    main()
