"""Where the expression is during an integration, in memory or on disk, and how much memory either takes.

Shapes: n cells, G genes, W cells of a window.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from anndata import AnnData
from anndata.abc import CSCDataset
from scipy import sparse

from sysvi._core.checks import get_expression
from sysvi._core.errors import InputError
from sysvi._core.memory import memory_in_bytes
from sysvi._core.settings import default_batch_size
from sysvi.api.train_many import n_parallel_models
from sysvi.data.row_blocks import n_stored_values
from sysvi.data.stored import BYTES_PER_VALUE, WINDOWS_IN_MEMORY
from sysvi.data.summary import MAX_CELLS

MIN_WINDOW_CELLS, MAX_WINDOW_CELLS = 8_192, 131_072
# Cautious numbers of bytes (benchmarks/scale_disk.py measures less): Python with its libraries and a small integration;
# what is kept of a cell besides its expression (obs, codes), and of each member's embedding of it; what the linear
# model at the start takes for each value of its sample; what training takes for each value of a dense minibatch.
OF_LIBRARIES, OF_A_CELL, OF_AN_EMBEDDING, OF_A_SAMPLED_VALUE, OF_A_MINIBATCH = 620e6, 300, 500, 24, 24


@dataclass(frozen=True)
class Storage:
    """Where the expression is, and the memory that is expected.

    Parameters
    ----------
    window_cells
        Cells whose expression is in memory at a time, W; None: that of all is.
    n_bytes
        Memory that the process is expected to take at most, in bytes.
    why
        What was chosen and why, a sentence.
    """

    window_cells: int | None
    n_bytes: float
    why: str


def choose_storage(
    adata: AnnData, layer: str | None, memory: str | float | None, n_members: int, device: torch.device
) -> Storage:
    """Choose whether the expression is read into memory or stays on disk.

    Parameters
    ----------
    adata
        Log-normalised cells, in memory or on disk.
    layer
        Layer with the expression; None for ``adata.X``.
    memory
        What the process may take, in bytes or such as ``"4GB"``; None: as much as it needs.
    n_members
        Number of models.
    device
        Where they are trained, which decides how many at the same time.

    Raises
    ------
    InputError
        If `memory` is too small for either, or the expression cannot be read by cells.
    """
    where, matrix = get_expression(adata, layer)
    n, n_genes = adata.shape
    n_parallel = min(n_members, n_parallel_models(device))
    of_values = BYTES_PER_VALUE * n_stored_values(matrix)  # of all cells
    of_training = n_parallel * OF_A_MINIBATCH * default_batch_size(n) * n_genes
    of_sample = OF_A_SAMPLED_VALUE * min(1.0, MAX_CELLS / max(n, 1)) * of_values / BYTES_PER_VALUE
    of_cells = n * (OF_A_CELL + n_members * OF_AN_EMBEDDING)
    fixed = OF_LIBRARIES + max(of_training, of_sample) + of_cells
    whole = fixed + of_values
    if memory is None:
        return Storage(None, whole, "The expression is read into memory: no limit of memory was given.")
    limit = memory_in_bytes(memory)
    if isinstance(matrix, np.ndarray) or sparse.issparse(matrix):
        return Storage(None, whole, f"The expression of {n:,} cells is in memory already.")
    if whole <= limit:
        why = (
            f"The expression is read into memory: with it the run takes about {_amount(whole)}, and {_amount(limit)} "
            "are given."
        )
        return Storage(None, whole, why)
    if isinstance(matrix, CSCDataset):
        raise InputError(
            f"{where} is stored by genes (CSC), so that cells cannot be read from disk without the others: write it "
            "again with sysvi.prepare, or give more memory."
        )
    per_cell = n_parallel * WINDOWS_IN_MEMORY * of_values / max(n, 1)
    on_disk = fixed + min(MIN_WINDOW_CELLS, n) * per_cell
    if on_disk > limit:  # few cells may take less in memory
        models = f"{n_members} {'model' if n_members == 1 else 'models'}"
        raise InputError(
            f"memory={memory!r} is too little: {n:,} cells and {models} take about {_amount(min(whole, on_disk))}, "
            f"with the expression {'in memory' if whole < on_disk else 'on disk'}. Give more, or fewer members."
        )
    window = int(min(MAX_WINDOW_CELLS, n, (limit - fixed) / per_cell))
    n_bytes = fixed + window * per_cell
    why = (
        f"The expression stays on disk: in memory, the run would take about {_amount(whole)}, and {_amount(limit)} are "
        f"given. It is read in windows of {window:,} cells, with about {_amount(n_bytes)} in all."
    )
    return Storage(window, n_bytes, why)


def storage_values(storage: Storage) -> dict[str, Any]:
    """Plain values for events."""
    return {"on_disk": storage.window_cells is not None, "window_cells": storage.window_cells, "bytes": storage.n_bytes}


def _amount(n_bytes: float) -> str:
    """An amount of memory in words, rounded up.

    Examples
    --------
    >>> _amount(612.3e6), _amount(12.31e9)
    ('613 MB', '12.4 GB')
    """
    return f"{math.ceil(n_bytes / 1e6):,} MB" if n_bytes < 10e9 else f"{math.ceil(n_bytes / 1e8) / 10:,.1f} GB"
