"""Encoder, decoder and discriminator: multilayer perceptrons with the covariates injected into every layer.

Shapes: B cells of a minibatch, G genes, H hidden units, L latent dimensions, C covariate width, S systems.

Training and evaluation are told apart by the `noise` generator: with one, a layer uses the minibatch's statistics
and dropout; with None, the running statistics and no dropout. No module carries a hidden train/eval state.
"""

from __future__ import annotations

import itertools
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

BN_MOMENTUM, BN_EPS = 0.01, 1e-3
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


class Layer(nn.Module):
    """dropout(relu(batchnorm(x W' + c U' + b))), with covariates c."""

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, n_in: int, n_cov: int, n_out: int, dropout_rate: float, init: torch.Generator):
        super().__init__()
        self.weight = uniform_parameter((n_out, n_in), n_in + n_cov, init)
        self.cov_weight = uniform_parameter((n_out, n_cov), n_in + n_cov, init)
        self.bias = uniform_parameter((n_out,), n_in + n_cov, init)
        self.scale = nn.Parameter(torch.ones(n_out))
        self.shift = nn.Parameter(torch.zeros(n_out))
        self.register_buffer("running_mean", torch.zeros(n_out))
        self.register_buffer("running_var", torch.ones(n_out))
        self.dropout_rate = dropout_rate

    def forward(self, x: Tensor, c: Tensor, noise: torch.Generator | None) -> Tensor:
        """(B, n_in), (B, C) -> (B, n_out)."""
        return self.activate(x @ self.weight.T, c, noise)

    def activate(self, xw: Tensor, c: Tensor, noise: torch.Generator | None) -> Tensor:
        """The layer from x W' on, for callers that have this product already (the fused cycle)."""
        h = xw + F.linear(c, self.cov_weight, self.bias)
        h = F.batch_norm(
            h, self.running_mean, self.running_var, self.scale, self.shift, noise is not None, BN_MOMENTUM, BN_EPS
        )
        return dropout(F.relu(h), self.dropout_rate, noise)


def dropout(h: Tensor, rate: float, noise: torch.Generator | None) -> Tensor:
    """Dropout from our own generator (torch's own draws from global state)."""
    if noise is None or rate == 0:
        return h
    # Sixteen random bits decide one unit, so the rate is a multiple of 2^-16; four units share one 64-bit draw.
    draws = torch.empty(-(-h.numel() // 4), dtype=torch.int64, device=h.device).random_(-(2**63), None, generator=noise)
    dropped = round(rate * 2**16)
    keep = draws.view(torch.int16)[: h.numel()].view_as(h) >= dropped - 2**15
    return h * keep.float().mul_(1 / (1 - dropped / 2**16))


def positive(log_var: Tensor) -> Tensor:
    """A variance from its unconstrained logarithm, clipped so that exp never overflows."""
    return log_var.clamp(-LOG_VAR_CLIP, LOG_VAR_CLIP).exp() + VAR_EPS


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
        self.mean = Linear(n_hidden, n_latent, init)
        self.log_var = Linear(n_hidden, n_latent, init)

    @property
    def first_weight(self) -> Tensor:
        """W_1 of the gene-facing layer, (H, G)."""
        return self.layers[0].weight  # type: ignore[return-value]

    def forward(self, x: Tensor, c: Tensor, noise: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Expression (B, G) and covariates (B, C) -> mean and variance of q, each (B, L)."""
        return self.from_projection(x @ self.first_weight.T, c, noise)

    def from_projection(self, xw: Tensor, c: Tensor, noise: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """As forward, from x W_1' (B, H) instead of x."""
        first, *others = self.layers
        h = first.activate(xw, c, noise)  # type: ignore[operator]
        for layer in others:
            h = layer(h, c, noise)
        return self.mean(h), positive(self.log_var(h))


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

    def hidden(self, z: Tensor, c: Tensor, noise: torch.Generator | None = None) -> Tensor:
        """(B, L), (B, C) -> (B, H)."""
        h = z
        for layer in self.layers:
            h = layer(h, c, noise)
        return h

    def variance(self, h: Tensor) -> Tensor:
        """(G,) when per gene, else (B, G)."""
        return positive(self.log_var if self.per_gene else self.log_var_head(h))

    def forward(self, z: Tensor, c: Tensor, noise: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Latent (B, L) and covariates (B, C) -> mean (B, G) and variance (G,) or (B, G)."""
        h = self.hidden(z, c, noise)
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
