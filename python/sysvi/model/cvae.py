"""The conditional variational autoencoder: covariate code, encoder, decoder, likelihood and prior.

Shapes: n cells, B cells of a minibatch, G genes, L latent dimensions, C covariate width, S systems, K prior components.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor, nn

from sysvi._core.parallel import one_thread, single_thread_pool
from sysvi._core.ranks import Part
from sysvi._core.settings import LIKELIHOODS, PRIORS, ModelSettings
from sysvi.data.cells import Cells, Covariates, Vocabulary
from sysvi.data.summary import MIN_VARIANCE
from sysvi.kernels.plan import prefer_sparse_products
from sysvi.model.likelihoods import Likelihood
from sysvi.model.networks import Decoder, Encoder
from sysvi.model.own_genes import OwnGenes
from sysvi.model.priors import Prior

MIN_SHARE = 0.1  # of the variance along an axis that counts as signal, however large the noise seems
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
        self.n_systems, self.n_categories, self.n_continuous, self.embed = n_systems, n_categories, n_continuous, embed
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

    def from_one_hot(self) -> Tensor:
        """The linear map from one-hot codes (and continuous covariates) to c: (D, C), the identity without `embed`."""
        categories = [table.detach() for table in self.tables] if self.embed else map(torch.eye, self.n_categories)
        return torch.block_diag(torch.eye(self.n_systems), *categories, torch.eye(self.n_continuous))


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
    own_genes
        Whether each system has each gene, (S, G) bool; None: all have all. The likelihood of a cell covers the genes of
        its system, and the encoder sees these alone: measured expression is 0 in all others, and decoded expression is
        set to 0 there.
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
        own_genes: np.ndarray | None = None,
    ):
        super().__init__()
        s = self.settings = settings
        self.code = CovariateCode(
            n_systems, n_categories, n_continuous, s.embed_categorical_covariates, s.embedding_dim, init
        )
        width = self.code.width
        self.encoder = Encoder(n_genes, width, s.n_hidden, s.n_layers, s.n_latent, s.dropout_rate, init)
        sees = s.covariates_in_hidden, s.covariates_in_mean
        self.decoder = Decoder(s.n_latent, width, s.n_hidden, s.n_layers, s.dropout_rate, *sees, init)
        self.likelihood = LIKELIHOODS[s.likelihood](s, self.decoder.n_outputs, n_genes, init)
        self.prior = PRIORS[s.prior](s, n_genes, width)
        self.own_genes = None if own_genes is None else OwnGenes(own_genes)

    @classmethod
    def of_vocabulary(cls, settings: ModelSettings, vocabulary: Vocabulary, init: torch.Generator) -> Model:
        """A new model for the genes, systems and covariates of a vocabulary."""
        v = vocabulary
        return cls(settings, len(v.genes), len(v.systems), v.n_categories, len(v.continuous), init, v.own_genes)

    @classmethod
    def shapes(cls, settings: ModelSettings, vocabulary: Vocabulary) -> dict[str, Tensor]:
        """Parameters and buffers of such a model by name, as tensors on torch's "meta" device, which take no memory."""
        with torch.device("meta"):
            # The genes of each system are no tensors of the model.
            return cls.of_vocabulary(settings, replace(vocabulary, lacking={}), torch.Generator()).state_dict()

    def nll(self, x: Tensor, h: Tensor, system: Tensor) -> Tensor:
        """Negative log-likelihood of each cell, summed over the genes of its system: (B, G), (B, H), (B,) -> (B,)."""
        if self.own_genes is None:
            return self.likelihood.nll(x, h)
        return self.likelihood.nll(x, h, self.own_genes.of_cells(system))

    def mean(self, h: Tensor, system: Tensor) -> Tensor:
        """Expected expression, 0 in genes that the system lacks: (B, H), (B,) -> (B, G)."""
        mean = self.likelihood.mean(h)
        return mean if self.own_genes is None else torch.where(self.own_genes.of_cells(system), mean, 0.0)

    @one_thread()
    @torch.no_grad()
    def start_at_data(self, cells: Cells, init: torch.Generator) -> None:
        """Set the initial weights from a linear model of the expression (`sysvi.data.summary`).

        The likelihood starts with the effects of systems and other covariates, and with the mean and variance of each
        gene. From random weights, these are found slowly and after the latent space was formed, which then carries the
        systems, or lacks cell types. The hidden layers start with principal components from which these effects are
        subtracted: with random combinations of them (``initialisation="data"``), or such that the whole model is
        probabilistic principal component analysis (``"linear"``; Tipping and Bishop, 1999).
        """
        summary = cells.summary(self.code.n_categories)
        axes, sd, effects, mean, variance = (
            torch.from_numpy(np.ascontiguousarray(part, np.float32))
            for part in (summary.axes, summary.sd, summary.effects, summary.mean, summary.variance)
        )
        if self.own_genes is not None:  # the summary is over all cells, also those without the gene, which have 0
            share = self.own_genes.share(cells.system_size.cpu()).clamp_min(1e-6)
            variance = variance / share
            mean = mean if self.decoder.passes_covariates else mean / share  # else corrected by the systems' effects
        effects = torch.linalg.pinv(self.code.from_one_hot()) @ effects  # (C, G)
        hidden = None
        if len(sd):
            self.encoder.start_at(axes, sd, effects, init)
            if self.settings.initialisation == "linear":
                hidden, variance = self._start_linear(axes, sd, effects, variance)
            else:
                n_hidden = self.settings.n_hidden
                hidden = axes * sd @ torch.randn(len(sd), n_hidden, generator=init) / n_hidden**0.5
        self.likelihood.start_at(mean, effects if self.decoder.passes_covariates else None, variance, hidden)

    def _start_linear(self, axes: Tensor, sd: Tensor, effects: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
        """Let encoder and decoder start as probabilistic PCA; as many dimensions as half of the hidden units can carry.

        In dimension k it has loadings W = axis · sqrt(sd² - noise), posterior mean W'x / sd² and posterior variance
        noise / sd². Returns the effects of the decoder's hidden units on the genes, (G, H), and the rest of the
        variance of each gene, (G,).
        """
        k = min(len(sd), self.settings.n_latent, self.settings.n_hidden // 2)
        axes, sd = axes[:, :k], sd[:k]
        noise = (variance.sum() - sd.square().sum()) / max(1, len(variance) - k)
        share = (1 - noise / sd.square()).clamp(min=MIN_SHARE)  # of the variance along each axis that is not noise
        self.encoder.start_linear(axes / sd, -effects @ axes / sd, share.sqrt(), 1 - share)
        loadings = axes * sd * share.sqrt()  # (G, k)
        rest = (variance - loadings.square().sum(dim=1)).clamp(min=MIN_VARIANCE)
        return loadings @ self.decoder.start_linear(k).T, rest

    @one_thread()
    @torch.no_grad()
    def init_prior(self, cells: Cells, rows: Tensor | None, init: torch.Generator) -> None:
        """Set the prior's initial components from the cells in `rows`, (K,), or from random draws if there are none."""
        if rows is None:
            self.prior.start_at_random(init)
        else:
            x = torch.from_numpy(cells.x[rows.cpu().numpy()].toarray()).to(cells.device)
            self.prior.start_at_cells(x, self.code(cells.covariates.select(rows)), self.encoder)

    def embed(self, cells: Cells, rows: Tensor | None = None, batch_size: int | None = None) -> tuple[Tensor, Tensor]:
        """Mean and variance of q(z | x, c) of the cells in `rows` (default: all), (n, L) float32 each, on the CPU."""
        return embed([self], cells, rows, batch_size)[0]

    def sample(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Refuse, as the module of scvi-tools' SysVI does: expected expression is decoded, none is drawn."""
        raise NotImplementedError(
            "Expression is not drawn: get_normalized_expression and sysvi.translate decode expected expression."
        )


@torch.no_grad()
def embed(
    models: Sequence[Model], cells: Cells, rows: Tensor | None = None, batch_size: int | None = None
) -> list[tuple[Tensor, Tensor]]:
    """Embed cells with each of several models on the device of the cells, in one pass over the expression.

    Parameters
    ----------
    models
        Models with the genes and covariates of the cells.
    cells
        The cells, in memory or on disk.
    rows
        Rows of the cells to embed, (n,); all by default.
    batch_size
        Number of cells that are encoded at a time; by default chosen for the device.

    Of several processes, each embeds its own cells, and all get the embeddings of all.

    Returns
    -------
    list of tuple
        For each model mean and variance of q(z | x, c), (n, L) float32 each, on the CPU.
    """
    device = cells.device
    rows = torch.arange(cells.n_cells, device=device) if rows is None else rows.to(device)
    part = None if cells.share is None else cells.share.part(rows)
    rows = rows if part is None else rows[part.places]
    sparse = prefer_sparse_products(device, cells.density)
    n = batch_size or (EMBED_BLOCK_CPU if device.type == "cpu" else EMBED_BLOCK_GPU)
    results = [torch.empty(2, len(rows), model.settings.n_latent, device=device) for model in models]
    encoders = [model.encoder.fold_batchnorm() for model in models]

    @torch.no_grad()  # gradients are switched off for each thread by itself
    def embed_block(start: int, block: Tensor, loaded: Cells) -> None:
        place, covariates = slice(start, start + n), cells.covariates.select(block)
        x = loaded.expression(block, sparse=sparse)
        for model, encode, (mean, var) in zip(models, encoders, results, strict=True):
            mean[place], var[place] = encode(x, model.code(covariates))

    def embed_all(run: Callable[..., Iterator[None]]) -> None:
        start, batches = 0, torch.split(rows, n) if len(rows) else ()
        for loaded, group in cells.load(cells.group_in_order(batches)):
            blocks = list(group)
            starts = range(start, start + n * len(blocks), n)
            deque(run(partial(embed_block, loaded=loaded), starts, blocks), maxlen=0)
            start += n * len(blocks)

    if device.type == "cpu":
        with single_thread_pool(device) as pool:
            embed_all(pool.map)
    else:  # a GPU works through a queue anyway, and its stream belongs to this thread
        embed_all(map)
    found = (result.cpu() if part is None else _of_all_cells(result.cpu(), part) for result in results)
    return [(mean, var) for mean, var in found]


def _of_all_cells(own: Tensor, part: Part) -> Tensor:
    """Means and variances of all cells, (2, n, L), from those of the cells that each process has embedded."""
    found = own.new_zeros(2, part.n_cells, own.shape[2])
    found[:, part.places.cpu()] = own
    return part.ranks.total(found)
