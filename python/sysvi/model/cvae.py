"""The model: encoder, decoder and prior around one covariate code.

Shapes: B cells, G genes, L latent dimensions, C covariate width, S systems, K prior components.
"""

from __future__ import annotations

from collections import deque

import torch
from torch import Tensor, nn

from sysvi._core.parallel import single_thread_pool
from sysvi._core.settings import ModelSettings
from sysvi.data.cells import Cells, Covariates
from sysvi.kernels.plan import multiplies_sparse
from sysvi.model.networks import VAR_EPS, Decoder, Encoder
from sysvi.model.priors import GaussianMixture, StandardNormal, VampPrior

AT_ONCE, AT_ONCE_ON_A_CARD = 1024, 16_384  # cells that are embedded


class CovariateCode(nn.Module):
    """Turns codes into the vector c that every layer sees: one-hot system | covariates | continuous values.

    With `embed`, a covariate of many categories is a learned vector instead of a one-hot one; the system never is.
    A code of -1 stands for "no category" and gives zeros.
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
    """(B,) codes -> (B, n) zeros and ones, all zeros where the code is -1."""
    return (code[:, None] == torch.arange(n, device=code.device)).float()


class Model(nn.Module):
    """The conditional VAE with its prior. Losses are in :mod:`sysvi.model.objective`, the loop in :mod:`sysvi.train`.

    Parameters
    ----------
    settings
        What to build.
    n_genes, n_systems, n_categories, n_continuous
        Sizes of the input.
    init
        Generator of the initial weights (on the CPU).
    """

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
        self.decoder = Decoder(s.n_latent, width, s.n_hidden, s.n_layers, n_genes, s.dropout_rate, s.out_var_mode, init)
        self.prior: StandardNormal | VampPrior | GaussianMixture = self._empty_prior(n_genes, width)

    def _empty_prior(self, n_genes: int, width: int) -> StandardNormal | VampPrior | GaussianMixture:
        """The prior with the right shapes; `init_prior` or a saved file fills it."""
        s = self.settings
        if s.prior == "standard_normal":
            return StandardNormal()
        k = s.n_prior_components
        if s.prior == "vamp":
            return VampPrior(torch.zeros(k, n_genes), torch.zeros(k, width), s.mixture, s.trainable_priors)
        return GaussianMixture(torch.zeros(k, s.n_latent), torch.ones(k, s.n_latent), s.mixture, s.trainable_priors)

    @torch.no_grad()
    def init_prior(self, cells: Cells, index: Tensor | None, init: torch.Generator) -> None:
        """Start the prior's components at the cells in `index` (K,), or at standard normal draws for None."""
        if isinstance(self.prior, StandardNormal):
            return
        if index is None:
            assert isinstance(self.prior, GaussianMixture)
            self.prior.mean.normal_(generator=init)
            return
        x, c = cells.dense(index), self.code(cells.covariates.select(index))
        if isinstance(self.prior, VampPrior):
            self.prior.x.copy_(x)
            self.prior.c.copy_(c)
        else:
            mean, var = self.encoder(x, c)
            self.prior.mean.copy_(mean)
            self.prior.log_var.copy_((var - VAR_EPS).clamp_min(1e-8).log())

    @torch.no_grad()
    def embed(self, cells: Cells, index: Tensor | None = None, batch_size: int | None = None) -> tuple[Tensor, Tensor]:
        """Mean and variance of q(z | x, c) of the cells in `index`, each (n, L) float32 on the CPU."""
        device = cells.device
        index = torch.arange(cells.n_cells, device=device) if index is None else index.to(device)
        sparse = multiplies_sparse(device, cells.density)
        n = batch_size or (AT_ONCE if device.type == "cpu" else AT_ONCE_ON_A_CARD)
        mean, var = torch.empty(2, len(index), self.settings.n_latent, device=device)
        encode = self.encoder.folded()

        @torch.no_grad()  # which each thread has for itself
        def embed_from(start: int) -> None:
            rows, here = index[start : start + n], slice(start, start + n)
            x = cells.expression(rows, sparse=sparse)
            mean[here], var[here] = encode(x, self.code(cells.covariates.select(rows)))

        starts = range(0, len(index), n)
        if device.type == "cpu":
            with single_thread_pool(device) as pool:
                deque(pool.map(embed_from, starts), maxlen=0)
        else:  # a card is told ahead anyway, and its stream is that of this thread
            deque(map(embed_from, starts), maxlen=0)
        return mean.cpu(), var.cpu()
