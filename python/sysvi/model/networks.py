"""Encoder, decoder and discriminator: multilayer perceptrons with the covariates injected into every layer.

Shapes: B cells of a minibatch, G genes, H hidden units, L latent dimensions, C covariate width, S systems.

Training and evaluation are told apart by an argument: with a `Training`, a layer uses the minibatch's statistics and
dropout; with None, the running statistics and no dropout. No module carries a hidden train/eval state.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sysvi.kernels.dropout import dropped, kept_share
from sysvi.kernels.layers import BN_EPS
from sysvi.kernels.sparse import Sparse

BN_MOMENTUM = 0.01
VAR_EPS = 1e-4
LOG_VAR_CLIP = 80.0  # exp(80) is the largest round power that float32 holds with room for a sum of squares


def uniform_parameter(shape: tuple[int, ...], fan_in: int, init: torch.Generator) -> nn.Parameter:
    """Uniform in ±1/sqrt(fan_in), torch's own default for a linear layer, from our generator."""
    bound = 1 / math.sqrt(fan_in)
    return nn.Parameter(torch.empty(shape).uniform_(-bound, bound, generator=init))


class Linear(nn.Module):
    """y = x W' + b."""

    def __init__(self, n_in: int, n_out: int, init: torch.Generator):
        super().__init__()
        self.weight = uniform_parameter((n_out, n_in), n_in, init)
        self.bias = uniform_parameter((n_out,), n_in, init)

    def forward(self, x: Tensor) -> Tensor:
        """(B, n_in) -> (B, n_out)."""
        return F.linear(x, self.weight, self.bias)


class Training(NamedTuple):
    """How a pass of training runs; a pass of evaluation has none of it."""

    noise: torch.Generator
    products: torch.dtype | None = None  # type of what hidden layers pass on and multiply; None: of the parameters

    # Of dropout, on the CPU so that no device is waited for, or made already, on the device; None: `noise`.
    seeds: torch.Generator | Iterator[Tensor] | None = None

    def seed(self) -> int | Tensor:
        """A new seed for dropout, 63 bits."""
        if isinstance(self.seeds, Iterator):
            return next(self.seeds)
        source = self.noise if self.seeds is None else self.seeds
        return int(torch.empty((), dtype=torch.int64, device=source.device).random_(generator=source))


class Layer(nn.Module):
    """dropout(relu(batchnorm(x W + c U + b))), with covariates c."""

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, n_in: int, n_cov: int, n_out: int, dropout_rate: float, init: torch.Generator):
        super().__init__()
        self.weight = uniform_parameter((n_in, n_out), n_in + n_cov, init)
        self.cov_weight = uniform_parameter((n_cov, n_out), n_in + n_cov, init)
        self.bias = uniform_parameter((n_out,), n_in + n_cov, init)
        self.scale = nn.Parameter(torch.ones(n_out))
        self.shift = nn.Parameter(torch.zeros(n_out))
        self.register_buffer("running_mean", torch.zeros(n_out))
        self.register_buffer("running_var", torch.ones(n_out))
        self.dropout_rate = dropout_rate

    def forward(self, x: Tensor | Sparse, c: Tensor, training: Training | None) -> Tensor:
        """(B, n_in), (B, C) -> (B, n_out), by torch's operations one by one."""
        a = x @ self.weight + (c @ self.cov_weight + self.bias)
        a = F.batch_norm(
            a, self.running_mean, self.running_var, self.scale, self.shift, training is not None, BN_MOMENTUM, BN_EPS
        )
        y = F.relu(a)
        if training is None or self.dropout_rate == 0:
            return y
        off = dropped((len(x), len(self.bias)), self.dropout_rate, training.seed(), y.device)
        return y.masked_fill(off, 0) / kept_share(self.dropout_rate)

    def folded(self) -> Callable[[Tensor | Sparse, Tensor], Tensor]:
        """`forward` outside training as relu(x W + c U + b), the running statistics made part of W, U and b."""
        slope = self.scale * torch.rsqrt(self.running_var + BN_EPS)
        weight, cov_weight = self.weight * slope, self.cov_weight * slope
        bias = (self.bias - self.running_mean) * slope + self.shift
        return lambda x, c: (x @ weight).addmm_(c, cov_weight).add_(bias).relu_()


def positive(log_var: Tensor) -> Tensor:
    """A variance from its unconstrained logarithm, clipped so that exp never overflows."""
    return log_var.clamp(-LOG_VAR_CLIP, LOG_VAR_CLIP).exp() + VAR_EPS


def positive_slope(log_var: Tensor) -> Tensor:
    """The derivative of `positive`."""
    return torch.where(log_var.abs() <= LOG_VAR_CLIP, log_var.exp(), 0)


class Encoder(nn.Module):
    """q(z | x, c) = N(mean, diag var)."""

    def __init__(
        self,
        n_genes: int,
        n_cov: int,
        n_hidden: int,
        n_layers: int,
        n_latent: int,
        dropout: float,
        init: torch.Generator,
    ):
        super().__init__()
        widths = [n_genes] + [n_hidden] * n_layers
        self.layers = nn.ModuleList(Layer(a, n_cov, b, dropout, init) for a, b in itertools.pairwise(widths))
        self.head = Linear(n_hidden, 2 * n_latent, init)  # mean | log_var

    def forward(self, x: Tensor | Sparse, c: Tensor, training: Training | None = None) -> tuple[Tensor, Tensor]:
        """Expression (B, G) and covariates (B, C) -> mean and variance of q, each (B, L)."""
        return self._distribution(through(self.layers, x, c, training))

    def folded(self) -> Callable[[Tensor | Sparse, Tensor], tuple[Tensor, Tensor]]:
        """`forward` outside training, of the weights as they are now, for many cells."""
        layers = [layer.folded() for layer in cast("Iterable[Layer]", self.layers)]
        return lambda x, c: self._distribution(through(layers, x, c))

    def _distribution(self, h: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance of q, each (B, L), from hidden units (B, H)."""
        mean, log_var = self.head(h).chunk(2, dim=1)
        return mean, positive(log_var)


def through(layers: Iterable[Callable[..., Tensor]], x: Tensor | Sparse, c: Tensor, *how: Training | None) -> Any:
    """Pass x through the layers, each of which sees the covariates c."""
    for layer in layers:
        x = layer(x, c, *how)
    return x


class Decoder(nn.Module):
    """p(x | z, c) = N(h W_o' + b_o, v), h = hidden(z, c); v per gene, or per cell and gene."""

    def __init__(
        self,
        n_latent: int,
        n_cov: int,
        n_hidden: int,
        n_layers: int,
        n_genes: int,
        dropout: float,
        var_mode: str,
        init: torch.Generator,
    ):
        super().__init__()
        widths = [n_latent] + [n_hidden] * n_layers
        self.layers = nn.ModuleList(Layer(a, n_cov, b, dropout, init) for a, b in itertools.pairwise(widths))
        self.mean = Linear(n_hidden, n_genes, init)
        self.per_gene = var_mode == "feature"
        if self.per_gene:
            self.log_var = nn.Parameter(torch.zeros(n_genes))
        else:
            self.log_var_head = Linear(n_hidden, n_genes, init)

    def hidden(self, z: Tensor, c: Tensor, training: Training | None = None) -> Tensor:
        """(B, L), (B, C) -> (B, H)."""
        return through(self.layers, z, c, training)

    def variance(self, h: Tensor) -> Tensor:
        """(G,) when per gene, else (B, G)."""
        return positive(self.log_var if self.per_gene else self.log_var_head(h))

    def forward(self, z: Tensor, c: Tensor, training: Training | None = None) -> tuple[Tensor, Tensor]:
        """Latent (B, L) and covariates (B, C) -> mean (B, G) and variance (G,) or (B, G)."""
        h = self.hidden(z, c, training)
        return self.mean(h), self.variance(h)


class Discriminator(nn.Module):
    """Guesses the system of a cell from its z, for the ADV baseline."""

    def __init__(self, n_latent: int, n_hidden: int, n_systems: int, init: torch.Generator):
        super().__init__()
        self.hidden = Linear(n_latent, n_hidden, init)
        self.logits = Linear(n_hidden, n_systems, init)

    def forward(self, z: Tensor) -> Tensor:
        """(B, L) -> (B, S) unnormalised log-probabilities."""
        return self.logits(F.relu(self.hidden(z)))
