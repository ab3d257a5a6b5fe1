"""Expected expression of cells, decoded from their embeddings under covariates that need not be their own.

Shapes: n cells, B cells of a row block, G genes, L latent dimensions, P batches that are averaged.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from sysvi._core.parallel import single_thread_pool
from sysvi.data.cells import Covariates
from sysvi.model.cvae import EMBED_BLOCK_CPU, EMBED_BLOCK_GPU, Model


class Batches(NamedTuple):
    """Batches under which cells are decoded; where there are several for a cell, the decoded means are averaged.

    A batch is a category of the first categorical covariate.

    Parameters
    ----------
    codes
        Batches of each choice, (choices, P) int64.
    weights
        Their weights, (choices, P) float32. Each row sums to 1; 0 for places that are not used, at its end.
    choice
        The choice of each cell, (n,) int64.
    """

    codes: Tensor
    weights: Tensor
    choice: Tensor

    @classmethod
    def from_weights(cls, weights: np.ndarray, choice: np.ndarray, device: torch.device) -> Batches:
        """Batches from the weight of every batch in each choice, (choices, batches), whose rows sum to 1."""
        n_used = int((weights > 0).sum(axis=1).max())
        codes = np.argsort(weights <= 0, axis=1, kind="stable")[:, :n_used]  # those with a weight first
        weights = np.take_along_axis(weights, codes, axis=1).astype(np.float32)
        return cls(*(torch.from_numpy(part).to(device) for part in (codes, weights, choice)))

    def of_rows(self, rows: slice) -> Iterator[tuple[Tensor, Tensor]]:
        """For some cells, one batch of each after another with its weight, (B,) and (B,)."""
        choice = self.choice[rows]
        codes, weights = self.codes[choice], self.weights[choice]
        n_used = int((weights > 0).sum(dim=1).max())
        return zip(codes[:, :n_used].T, weights[:, :n_used].T, strict=True)


def block_size(device: torch.device, batch_size: int | None = None) -> int:
    """Number of cells to decode at a time; `batch_size` if it is given."""
    return batch_size or (EMBED_BLOCK_CPU if device.type == "cpu" else EMBED_BLOCK_GPU)


def decode(
    model: Model,
    z: Tensor,
    covariates: Covariates,
    genes: np.ndarray,
    batches: Batches | None = None,
    batch_size: int | None = None,
) -> np.ndarray:
    """Expected expression of some genes: the mean of the likelihood, which can be slightly below 0.

    All genes are computed and then chosen from, so that a value does not depend on which others are asked for.

    Parameters
    ----------
    model
        The model.
    z
        Embeddings, (n, L).
    covariates
        Covariates under which they are decoded, n cells, on the model's device.
    genes
        Positions of the genes, (G,).
    batches
        Batches that take the place of those of `covariates`; None: no others.
    batch_size
        Number of cells to decode at a time; by default chosen for the device.

    Returns
    -------
    numpy.ndarray
        Expected expression, (n, G) float32; NaN for genes that the system lacks.
    """
    device = covariates.system.device
    size = block_size(device, batch_size)
    expected = np.empty((len(z), len(genes)), np.float32)

    @torch.no_grad()  # gradients are switched off for each thread by itself
    def decode_block(start: int) -> None:
        rows = slice(start, start + size)
        block = Covariates(covariates.system[rows], covariates.categorical[rows], covariates.continuous[rows])
        mean = _mean(model, z[rows].to(device), block, None if batches is None else batches.of_rows(rows))
        if model.own_genes is not None:
            mean = torch.where(model.own_genes.of_cells(block.system), mean, torch.nan)
        expected[rows] = mean.cpu().numpy()[:, genes]

    starts = range(0, len(z), size)
    if device.type == "cpu":
        with single_thread_pool(device) as pool:
            deque(pool.map(decode_block, starts), maxlen=0)
    else:
        deque(map(decode_block, starts), maxlen=0)
    return expected


def _mean(model: Model, z: Tensor, covariates: Covariates, batches: Iterator[tuple[Tensor, Tensor]] | None) -> Tensor:
    """Mean expression of all genes, (B, all genes). A linear mean is computed once, from averaged hidden units."""
    if batches is None:
        return model.likelihood.mean(model.decoder(z, model.code(covariates)))
    is_linear = model.likelihood.linear_mean is not None
    total = torch.zeros((), device=z.device)
    for codes, weight in batches:
        categorical = torch.cat([codes[:, None], covariates.categorical[:, 1:]], dim=1)
        h = model.decoder(z, model.code(replace(covariates, categorical=categorical)))
        total = total + weight[:, None] * (h if is_linear else model.likelihood.mean(h))
    return model.likelihood.mean(total) if is_linear else total
