"""Expression that stays on disk: row blocks are read when they are needed, the next window ahead of its use.

A window is the part of the expression that is in memory: many row blocks from all over the store, whose cells are
shuffled. Minibatches are drawn from one window after the other.

Shapes: n cells, G genes, W cells of a window, B cells of a minibatch.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from sysvi._core.errors import InputError
from sysvi._core.ranks import BLOCK_CELLS, Share
from sysvi.data.file_changes import check_unchanged, file_state
from sysvi.data.row_blocks import PART_ROWS, n_stored_values, read_rows, row_sliceable

BLOCKS_IF_SORTED = 64  # at least, of a window where neighbouring cells are alike, so that it has cells of all kinds
BLOCKS_IF_SHUFFLED = 4  # of a window where the cells are in random order: long blocks are read faster
WINDOWS_IN_MEMORY = 4  # one in use, the next, which is being read, and the parts of which it is put together
BYTES_PER_VALUE = 8  # of CSR: a float32 and an int32


class StoredExpression:
    """Log-normalised expression, CSR or dense on disk, of which only some rows are in memory.

    Indexing with rows reads them, as of a CSR matrix in memory. If the matrix was changed on disk since this object was
    made, an InputError says so.

    Parameters
    ----------
    matrix
        Matrix on disk from which rows can be sliced, (n, G).
    window_cells
        Cells of a window, W.
    share
        The cells that one of several processes reads; None: all.
    is_shuffled
        Whether the cells were written in random order.

    Attributes
    ----------
    shape, nnz
        Number of cells and genes, and number of stored values.
    """

    def __init__(self, matrix: Any, window_cells: int, share: Share | None = None, is_shuffled: bool = False):
        self._state = file_state(matrix)  # before any of its values are read
        self.matrix, self.window_cells, self.share = row_sliceable(matrix), window_cells, share
        self.is_shuffled = is_shuffled
        self.shape: tuple[int, int] = (int(matrix.shape[0]), int(matrix.shape[1]))
        self.nnz = n_stored_values(matrix)

    def __getitem__(self, rows: np.ndarray) -> sp.csr_matrix:
        """Read some cells, in any order, (B,) -> (B, G). Of several processes, each reads its own for all."""
        return self.read_own(rows) if self.share is None else self.share.gather_rows(rows, self.read_own)

    def read_own(self, rows: np.ndarray) -> sp.csr_matrix:
        """Read some cells, in any order, (B,) -> (B, G)."""
        distinct, position = np.unique(rows, return_inverse=True)
        return self._read(distinct)[position]

    def read_ahead(self, groups: Iterable[Iterable[Tensor]]) -> Iterator[tuple[Window, list[Tensor]]]:
        """Read the cells of each group of minibatches; a thread reads those of the next group meanwhile."""
        ahead: tuple[Future[Window], list[Tensor]] | None = None
        with ThreadPoolExecutor(1, "sysvi reader") as reader:
            for group in groups:
                batches = list(group)
                following = reader.submit(self._read_window, batches), batches
                if ahead is not None:
                    yield ahead[0].result(), ahead[1]
                ahead = following
            if ahead is not None:
                yield ahead[0].result(), ahead[1]

    def _read_window(self, group: list[Tensor]) -> Window:
        rows = np.unique(torch.cat(group).cpu().numpy())
        rows = rows if self.share is None else rows[self.share.owns(rows)]
        return Window(self._read(rows), rows)

    def _read(self, rows: np.ndarray) -> sp.csr_matrix:
        """Read some cells, in rising order."""
        x = read_rows(self.matrix, rows)
        check_unchanged(self.matrix, self._state)
        return x


class SharedExpression:
    """Log-normalised expression in memory of which each of several processes holds its own cells.

    Indexing with rows gives that of any cells, in all processes.

    Parameters
    ----------
    own
        Expression of the cells of this process, CSR, (cells of the process, G).
    n_cells
        Number of all cells, n.
    share
        Which cells these are.

    Attributes
    ----------
    shape, nnz
        Number of cells and genes, and number of stored values, of all processes.
    """

    def __init__(self, own: sp.csr_matrix, n_cells: int, share: Share):
        self.own, self.share = Window(own, share.rows(n_cells)), share
        self.shape: tuple[int, int] = (n_cells, int(own.shape[1]))
        self.nnz = sum(share.ranks.gather(int(own.nnz)))

    def __getitem__(self, rows: Any) -> sp.csr_matrix:
        """Expression of some cells, in any order, (B,) -> (B, G)."""
        if not isinstance(rows, np.ndarray):
            raise InputError(
                "The expression is shared out among several processes, and this needs that of all cells: save the "
                "model, load it with the cells in a single process, and go on there."
            )
        return self.share.gather_rows(rows, self.read_own)

    def read_own(self, rows: np.ndarray) -> sp.csr_matrix:
        """Expression of some cells of this process, in any order, (B,) -> (B, G)."""
        return self.own.x[self.own.positions(torch.from_numpy(rows)).numpy()]


class Window:
    """Expression of some of the cells, in memory, which are still called by their rows among all cells.

    Parameters
    ----------
    x
        Their expression, CSR, (W, G).
    rows
        Their rows among all cells, rising, (W,).
    """

    def __init__(self, x: sp.csr_matrix, rows: np.ndarray | Tensor):
        self.x, self.rows = x, torch.as_tensor(rows)

    def positions(self, index: Tensor) -> Tensor:
        """Positions in the window of cells that are in it, (B,)."""
        return torch.searchsorted(self.rows, index)


def is_sorted(codes: Tensor) -> bool:
    """Whether neighbouring cells are alike, as in a file sorted by system, and not as in a shuffled one.

    Parameters
    ----------
    codes
        Codes of the cells, in the order of the file, one column for each covariate, (n, covariates).

    Examples
    --------
    >>> sorted_by_system = torch.tensor([0, 1]).repeat_interleave(500)[:, None]
    >>> is_sorted(sorted_by_system), is_sorted(sorted_by_system[torch.randperm(1000)])
    (True, False)
    """
    for column in codes.T:
        by_chance = float((torch.bincount(column) / len(column)).square().sum())
        alike = float((column[1:] == column[:-1]).float().mean())
        if alike - by_chance > 0.1 * (1 - by_chance):
            return True
    return False


def n_cells_of_block(window_cells: int, *, sorted_cells: bool, is_shuffled: bool) -> int:
    """Number of consecutive cells that are read at a time for a window.

    Long blocks are read faster, but a window of few blocks has few kinds of cells if neighbouring cells are alike.

    Parameters
    ----------
    window_cells
        Cells of a window.
    sorted_cells
        Whether neighbouring cells are alike (`is_sorted`). A window then has at least 64 blocks.
    is_shuffled
        Whether the cells were written in random order. A window then has about 4 blocks, of at most 4,096 cells.

    Examples
    --------
    >>> n_cells_of_block(16_000, sorted_cells=True, is_shuffled=False)
    250
    >>> n_cells_of_block(16_000, sorted_cells=False, is_shuffled=True)
    4000
    """
    if sorted_cells:
        return min(BLOCK_CELLS, max(1, window_cells // BLOCKS_IF_SORTED))
    return min(PART_ROWS, max(BLOCK_CELLS, window_cells // BLOCKS_IF_SHUFFLED)) if is_shuffled else BLOCK_CELLS


def epoch_groups(
    index: Tensor, n_batches: int, window_cells: int, order: torch.Generator, block_cells: int = BLOCK_CELLS
) -> Iterator[list[Tensor]]:
    """Shuffle cells such that their expression can be read in row blocks, and split them into minibatches, in groups.

    Row blocks are put into random order, and cut into windows of whole minibatches; within a window, all cells are
    shuffled. If all cells are in one window, this is an ordinary shuffle of all.

    Parameters
    ----------
    index
        Rows of the cells of an epoch, rising, (n,).
    n_batches
        Number of minibatches, whose sizes differ by one at most.
    window_cells
        Largest number of cells of a window, if a minibatch is not larger.
    order
        Generator on the CPU.
    block_cells
        Number of cells of a row block.

    Yields
    ------
    list of torch.Tensor
        Minibatches of a window, rows of their cells, (B,) each.

    Examples
    --------
    >>> groups = list(epoch_groups(torch.arange(4000), 40, 1000, torch.Generator()))
    >>> [len(group) for group in groups], torch.cat(groups[0]).unique().diff().eq(1).float().mean().item() > 0.9
    ([10, 10, 10, 10], True)
    """
    n_in_window = max(1, window_cells // -(-len(index) // n_batches))
    if n_in_window < n_batches:
        blocks = torch.split(index, block_cells)
        index = torch.cat([blocks[i] for i in torch.randperm(len(blocks), generator=order).tolist()])
    sizes = [len(batch) for batch in torch.tensor_split(torch.empty(len(index), 0), n_batches)]
    start = 0
    for first in range(0, n_batches, n_in_window):
        of_window = sizes[first : first + n_in_window]
        cells = index[start : start + sum(of_window)]
        start += len(cells)
        yield list(torch.split(cells[torch.randperm(len(cells), generator=order).to(cells.device)], of_window))
