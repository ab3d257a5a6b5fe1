"""Which genes each system has, for models of genes that some systems lack.

Genes are grouped into blocks: the genes of a block are those of the same systems, such as all that every system has,
and all that only one has. Shapes: B cells of a minibatch, G genes, S systems, P blocks.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn


class GeneBlock(NamedTuple):
    """The genes of a block, and which cells of a minibatch have them."""

    genes: Tensor  # (genes of the block,) int64, positions
    cells: Tensor  # (B,) 1 for cells of the systems that have these genes, 0 for others


class OwnGenes(nn.Module):
    """The genes of each system. It has no parameters, and is not part of the saved tensors.

    Parameters
    ----------
    mask
        Whether each system has each gene, (S, G) bool.

    Examples
    --------
    >>> own = OwnGenes(np.array([[True, True, False], [True, False, True]]))
    >>> own.of_cells(torch.tensor([1, 0])).tolist()
    [[True, False, True], [True, True, False]]
    >>> [(block.genes.tolist(), block.cells.tolist()) for block in own.blocks(torch.tensor([1, 0]), torch.float32)]
    [([2], [1.0, 0.0]), ([1], [0.0, 1.0]), ([0], [1.0, 1.0])]
    """

    mask: Tensor
    has_block: Tensor

    def __init__(self, mask: np.ndarray):
        super().__init__()
        patterns, block = np.unique(mask, axis=1, return_inverse=True)  # (S, P), (G,)
        self.n_blocks = patterns.shape[1]
        self.register_buffer("mask", torch.from_numpy(mask.copy()), persistent=False)
        self.register_buffer("has_block", torch.from_numpy(patterns.copy()), persistent=False)  # (S, P)
        for i in range(self.n_blocks):
            genes = torch.from_numpy(np.flatnonzero(block.ravel() == i))
            self.register_buffer(f"genes{i}", genes, persistent=False)

    def of_cells(self, system: Tensor) -> Tensor:
        """Whether cells of these systems, (B,), have each gene: (B, G) bool."""
        return self.mask[system]

    def blocks(self, system: Tensor, dtype: torch.dtype) -> list[GeneBlock]:
        """The blocks, and which of the cells of these systems, (B,), have their genes."""
        cells = self.has_block[system].to(dtype).T  # (P, B)
        return [GeneBlock(getattr(self, f"genes{i}"), cells[i]) for i in range(self.n_blocks)]

    def share(self, n_cells: Tensor) -> Tensor:
        """Share of all cells that have each gene, (G,), from the number of cells of each system, (S,)."""
        return (n_cells.to(torch.float32) @ self.mask.to(torch.float32)) / n_cells.sum()
