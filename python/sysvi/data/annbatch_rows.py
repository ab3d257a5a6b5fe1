"""Reading rows of a zarr store by annbatch, which reads many runs of rows at the same time.

It needs Python 3.12 and the extra ``sysvi[atlas]``. Without it, rows are read run by run (`sysvi.data.row_blocks`),
with the same result.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib import import_module
from threading import Lock
from typing import Any

import h5py
import numpy as np
from anndata.abc import CSRDataset
from scipy import sparse

ReadRows = Callable[[np.ndarray], sparse.csr_matrix]


def annbatch_reader(dataset: CSRDataset) -> ReadRows | None:
    """Give a function that reads rows of a matrix by annbatch.

    Parameters
    ----------
    dataset
        The matrix, (n_cells, n_genes).

    Returns
    -------
    callable or None
        Row numbers, (n_rows,) -> their expression, (n_rows, n_genes), as it is stored. Threads that call it at the same
        time wait for each other. None if annbatch is not installed, or the matrix is in an h5ad file, which annbatch
        does not read.
    """
    if isinstance(dataset.group, h5py.Group):
        return None
    try:
        annbatch, base = import_module("annbatch"), import_module("annbatch.abc").Sampler
    except ImportError:
        return None

    class Requested(base):  # type: ignore[misc, valid-type]
        """Asks for the rows that were requested, in one batch."""

        batch_size = shuffle = None
        rows = np.zeros(0, np.int64)

        def validate(self, n_obs: int) -> None:
            """Any rows suit."""

        def n_batches(self, n_obs: int) -> int:
            """One batch has all rows."""
            return 1

        def _sample(self, n_obs: int) -> Iterator[dict[str, Any]]:
            yield {"requests": self.rows, "splits": [np.arange(len(self.rows))]}

    requested, lock = Requested(), Lock()
    loader = annbatch.Loader(batch_sampler=requested, preload_to_gpu=False)
    loader.add_dataset(dataset)

    def read(rows: np.ndarray) -> sparse.csr_matrix:
        with lock:
            requested.rows = rows
            (batch,) = loader
        return sparse.csr_matrix(batch["X"])

    return read
