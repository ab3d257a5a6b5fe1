"""The conditional variational autoencoder: covariate code, encoder, decoder, likelihood and prior.

Shapes: n cells, B cells of a minibatch, G genes, L latent dimensions, C covariate width, S systems, K prior components.
"""

from __future__ import annotations

from collections import deque

import torch
from torch import Tensor, nn

from sysvi._core.parallel import single_thread_pool
from sysvi._core.settings import LIKELIHOODS, PRIORS, ModelSettings
from sysvi.data.cells import Cells, Covariates
from sysvi.kernels.plan import prefer_sparse_products
from sysvi.model.likelihoods import Likelihood
from sysvi.model.networks import Decoder, Encoder
from sysvi.model.priors import Prior

EMBED_BLOCK_CPU, EMBED_BLOCK_GPU = 1024, 16_384  # cells that are embedded at a time


class CovariateCode(nn.Module):
    """Turns covariates into the vector c that every layer sees: one-hot system | categorical | continuous covariates.

    Parameters
    ----------
    n_systems, n_categories, n_continuous
        Number of systems, of categories of each categorical covariate, and of continuous covariates.
    embed
        Represent each category by a learned vector instead of a one-hot code. The system is always one-hot.
    embedding_dim
        Length of the learned vectors.
    init
        Generator of the initial vectors.
    """

    def __init__(
        self,
        n_systems: int,
        n_categories: list[int],
        n_continuous: int,
        embed: bool,
        embedding_dim: int,
        init: torch.Generator,
    ):
        super().__init__()
        self.n_systems, self.n_categories, self.embed = n_systems, n_categories, embed
        if embed:
            self.tables = nn.ParameterList(
                nn.Parameter(torch.randn(n, embedding_dim, generator=init)) for n in n_categories
            )
        width = embedding_dim * len(n_categories) if embed else sum(n_categories)
        self.width = n_systems + width + n_continuous

    def forward(self, covariates: Covariates) -> Tensor:
        """Covariates of B cells -> (B, C)."""
        parts = [one_hot(covariates.system, self.n_systems)]
        for p, n in enumerate(self.n_categories):
            category = one_hot(covariates.categorical[:, p], n)
            parts.append(category @ self.tables[p] if self.embed else category)
        return torch.cat([*parts, covariates.continuous], dim=1)


def one_hot(code: Tensor, n: int) -> Tensor:
    """One-hot codes, (B,) -> (B, n); a code of -1 ("no category") gives zeros."""
    return (code[:, None] == torch.arange(n, device=code.device)).float()


class Model(nn.Module):
    """The conditional VAE. Its losses are in :mod:`sysvi.model.objective`, the training loop in `sysvi.training.loop`.

    Parameters
    ----------
    settings
        Sizes, prior and likelihood.
    n_genes, n_systems, n_categories, n_continuous
        Sizes of the input.
    init
        Generator of the initial weights, on the CPU.
    """

    prior: Prior
    likelihood: Likelihood

    def __init__(
        self,
        settings: ModelSettings,
        n_genes: int,
        n_systems: int,
        n_categories: list[int],
        n_continuous: int,
        init: torch.Generator,
    ):
        super().__init__()
        s = self.settings = settings
        self.code = CovariateCode(
            n_systems, n_categories, n_continuous, s.embed_categorical_covariates, s.embedding_dim, init
        )
        width = self.code.width
        self.encoder = Encoder(n_genes, width, s.n_hidden, s.n_layers, s.n_latent, s.dropout_rate, init)
        self.decoder = Decoder(s.n_latent, width, s.n_hidden, s.n_layers, s.dropout_rate, init)
        self.likelihood = LIKELIHOODS[s.likelihood](s, n_genes, init)
        self.prior = PRIORS[s.prior](s, n_genes, width)

    @torch.no_grad()
    def init_prior(self, cells: Cells, rows: Tensor | None, init: torch.Generator) -> None:
        """Set the prior's initial components from the cells in `rows`, (K,), or from random draws if there are none."""
        if rows is None:
            self.prior.start_at_random(init)
        else:
            self.prior.start_at_cells(cells.dense(rows), self.code(cells.covariates.select(rows)), self.encoder)

    @torch.no_grad()
    def embed(self, cells: Cells, rows: Tensor | None = None, batch_size: int | None = None) -> tuple[Tensor, Tensor]:
        """Mean and variance of q(z | x, c) of the cells in `rows` (default: all), (n, L) float32 each, on the CPU."""
        device = cells.device
        rows = torch.arange(cells.n_cells, device=device) if rows is None else rows.to(device)
        sparse = prefer_sparse_products(device, cells.density)
        n = batch_size or (EMBED_BLOCK_CPU if device.type == "cpu" else EMBED_BLOCK_GPU)
        mean, var = torch.empty(2, len(rows), self.settings.n_latent, device=device)
        encode = self.encoder.fold_batchnorm()

        @torch.no_grad()  # gradients are switched off for each thread by itself
        def embed_block(start: int) -> None:
            block, place = rows[start : start + n], slice(start, start + n)
            x = cells.expression(block, sparse=sparse)
            mean[place], var[place] = encode(x, self.code(cells.covariates.select(block)))

        starts = range(0, len(rows), n)
        if device.type == "cpu":
            with single_thread_pool(device) as pool:
                deque(pool.map(embed_block, starts), maxlen=0)
        else:  # a GPU works through a queue anyway, and its stream belongs to this thread
            deque(map(embed_block, starts), maxlen=0)
        return mean.cpu(), var.cpu()
