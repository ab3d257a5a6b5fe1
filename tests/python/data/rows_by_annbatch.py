"""Rows of a store read by annbatch and run by run: `python rows_by_annbatch.py FOLDER`, where annbatch is installed."""

import sys
import threading
from pathlib import Path

import h5py
import numpy as np
import scipy.sparse as sp
import zarr
from anndata.io import sparse_dataset, write_elem

import sysvi.data.row_blocks as module
from sysvi._core.errors import InputError


def main():
    folder = Path(sys.argv[1])
    x = sp.random(3000, 40, 0.3, format="csr", dtype=np.float32, rng=np.random.default_rng(0))
    x.data[x.data < 0.1] = 0  # stored zeros, which row blocks do not have
    for zarr_format in (2, 3):
        group = zarr.open_group(folder / f"{zarr_format}.zarr", mode="w", zarr_format=zarr_format)
        write_elem(group, "x", x, dataset_kwargs={"chunks": (1000,)})
        compare(x, sparse_dataset(group["x"]))
    with h5py.File(folder / "x.h5", "w") as file:
        write_elem(file, "x", x)
        assert module.row_sliceable(sparse_dataset(file["x"])).by_annbatch is None
    damaged(folder / "3.zarr")
    print("equal")


def compare(x, dataset):
    """All kinds of rows are those of the matrix, and annbatch has read the long runs."""
    matrix = module.row_sliceable(dataset)
    calls, read = [], matrix.by_annbatch
    matrix.by_annbatch = lambda rows: calls.append(len(rows)) or read(rows)
    expected = x.copy()
    expected.eliminate_zeros()
    runs = np.concatenate([np.arange(0, 512), np.arange(1024, 1700), np.arange(2500, 3000)])
    for rows, n_calls in (
        (runs, 1),
        (np.arange(3000), 1),
        (np.arange(700, 701), 0),
        (np.arange(0, 3000, 500), 0),
        (np.arange(0, 3000, 3), 0),
    ):
        calls.clear()
        found = module.read_rows(matrix, rows)
        assert len(calls) == n_calls
        assert found.dtype == np.float32
        assert found.has_sorted_indices
        for name in ("data", "indices", "indptr"):
            np.testing.assert_array_equal(getattr(found, name), getattr(expected[rows], name))
    found = {}
    threads = [
        threading.Thread(target=lambda i=i: found.update({i: module.read_rows(matrix, np.arange(i, i + 900))}))
        for i in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all((found[i] != expected[i : i + 900]).nnz == 0 for i in range(6))


def damaged(path):
    """Indices out of range are noticed."""
    group = zarr.open_group(path, mode="r+")
    group["x/indices"][5] = 40
    message = ""
    try:
        module.read_rows(sparse_dataset(group["x"]), np.arange(3000))
    except InputError as error:
        message = str(error)
    assert "out of range" in message


if __name__ == "__main__":
    main()
