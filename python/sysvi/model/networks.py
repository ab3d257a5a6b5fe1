"""Encoder, decoder and discriminator: multilayer perceptrons with the covariates injected into every layer.

Shapes: B cells of a minibatch, G genes, H hidden units, L latent dimensions, C covariate width, S systems.

Whether a pass is one of training is an argument, not a hidden state of the modules: with a `TrainingContext` a layer
uses the statistics of the minibatch, and dropout; with None it uses the running statistics, and no dropout.
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
from sysvi.kernels.sparse import SparseExpression
from sysvi.kernels.torch_backend import BN_EPS

BN_MOMENTUM = 0.01
VAR_EPS = 1e-4
MAX_LOG_VAR = 80.0  # exp(80) is about as large as a float32 can be and still be squared and summed


def uniform_parameter(shape: tuple[int, ...], fan_in: int, init: torch.Generator) -> nn.Parameter:
    """A parameter uniform in ±1/sqrt(fan_in), torch's default for linear layers, drawn from our own generator."""
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


class TrainingContext(NamedTuple):
    """Random generators and number types of a pass in training; passes of evaluation have none.

    Attributes
    ----------
    noise
        Generator of the samples of z, on the device.
    matmul_dtype
        Type of the values that hidden layers pass on and multiply; None: the type of the parameters.
    dropout_seeds
        Source of dropout seeds: a CPU generator (which avoids waiting for the device) or an iterator over seeds that
        were drawn beforehand and lie on the device. Defaults to `noise`.
    frozen_layers
        Whether hidden layers compute as in evaluation, with the running statistics and without dropout, as they must if
        only the weights of new covariates are trained: statistics of a minibatch of one batch would hide its effect.
    """

    noise: torch.Generator
    matmul_dtype: torch.dtype | None = None
    dropout_seeds: torch.Generator | Iterator[Tensor] | None = None
    frozen_layers: bool = False

    def draw_dropout_seed(self) -> int | Tensor:
        """The next dropout seed, 63 bits."""
        if isinstance(self.dropout_seeds, Iterator):
            return next(self.dropout_seeds)
        source = self.noise if self.dropout_seeds is None else self.dropout_seeds
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

    def forward(self, x: Tensor | SparseExpression, c: Tensor, context: TrainingContext | None) -> Tensor:
        """(B, n_in), (B, C) -> (B, n_out), in torch's own operations."""
        a = x @ self.weight + (c @ self.cov_weight + self.bias)
        training = context is not None
        a = F.batch_norm(a, self.running_mean, self.running_var, self.scale, self.shift, training, BN_MOMENTUM, BN_EPS)
        y = F.relu(a)
        if context is None or self.dropout_rate == 0:
            return y
        off = dropped((len(x), len(self.bias)), self.dropout_rate, context.draw_dropout_seed(), y.device)
        return y.masked_fill(off, 0) / kept_share(self.dropout_rate)

    def fold_batchnorm(self) -> Callable[[Tensor | SparseExpression, Tensor], Tensor]:
        """`forward` of evaluation as relu(x W + c U + b), with the running statistics folded into W, U and b."""
        slope = self.scale * torch.rsqrt(self.running_var + BN_EPS)
        weight, cov_weight = self.weight * slope, self.cov_weight * slope
        bias = (self.bias - self.running_mean) * slope + self.shift
        return lambda x, c: (x @ weight).addmm_(c, cov_weight).add_(bias).relu_()


def make_layers(
    n_in: int, n_cov: int, n_hidden: int, n_layers: int, dropout_rate: float, init: torch.Generator
) -> nn.ModuleList:
    """Hidden layers of one width."""
    widths = [n_in] + [n_hidden] * n_layers
    return nn.ModuleList(Layer(a, n_cov, b, dropout_rate, init) for a, b in itertools.pairwise(widths))


def carry(layer: Layer, weight: Tensor, cov_weight: Tensor | None = None) -> None:
    """Let the first 2K units of a layer carry K linear functions of its input, and their negatives.

    relu(a) - relu(-a) is a, so that the next layer can read the functions from the differences of pairs of units.
    Batch normalisation scales them to a variance of 1.

    Parameters
    ----------
    layer
        The layer; its other units stay as they are.
    weight
        The functions, (n_in, K).
    cov_weight
        Their dependence on the covariates, (C, K); none by default.
    """
    n = 2 * weight.shape[1]
    layer.weight[:, :n] = torch.cat([weight, -weight], dim=1)
    layer.cov_weight[:, :n] = 0.0 if cov_weight is None else torch.cat([cov_weight, -cov_weight], dim=1)
    layer.bias[:n] = 0.0


def carry_through(layers: Iterable[nn.Module], weight: Tensor, cov_weight: Tensor | None = None) -> Tensor:
    """Let all layers of an encoder or decoder carry K linear functions of the input of the first.

    Parameters
    ----------
    layers, weight, cov_weight
        The layers, of H units each, and the functions as in `carry`.

    Returns
    -------
    Tensor
        Weights, (H, K), that read the functions from the last layer.
    """
    first, *others = cast("list[Layer]", list(layers))
    carry(first, weight, cov_weight)
    n_hidden, k = first.weight.shape[1], weight.shape[1]
    differences = torch.eye(n_hidden, k) - torch.roll(torch.eye(n_hidden, k), k, dims=0)
    for layer in others:
        carry(layer, differences)
    return differences


def apply_layers(
    layers: Iterable[Callable[..., Tensor]], x: Tensor | SparseExpression, c: Tensor, *context: TrainingContext | None
) -> Any:
    """Pass x through the layers, giving each the covariates c."""
    for layer in layers:
        x = layer(x, c, *context)
    return x


def variance_from_log(log_var: Tensor) -> Tensor:
    """A variance from its unconstrained logarithm, which is clipped so that exp never overflows."""
    return log_var.clamp(-MAX_LOG_VAR, MAX_LOG_VAR).exp() + VAR_EPS


def variance_slope(log_var: Tensor) -> Tensor:
    """The derivative of `variance_from_log`."""
    return torch.where(log_var.abs() <= MAX_LOG_VAR, log_var.exp(), 0)


class Encoder(nn.Module):
    """q(z | x, c) = N(mean, diag var)."""

    def __init__(
        self,
        n_genes: int,
        n_cov: int,
        n_hidden: int,
        n_layers: int,
        n_latent: int,
        dropout_rate: float,
        init: torch.Generator,
    ):
        super().__init__()
        self.layers = make_layers(n_genes, n_cov, n_hidden, n_layers, dropout_rate, init)
        self.head = Linear(n_hidden, 2 * n_latent, init)  # mean and log-variance, side by side

    def forward(
        self, x: Tensor | SparseExpression, c: Tensor, context: TrainingContext | None = None
    ) -> tuple[Tensor, Tensor]:
        """Expression (B, G) and covariates (B, C) -> mean and variance of q, (B, L) each."""
        return self._mean_and_variance(apply_layers(self.layers, x, c, context))

    @torch.no_grad()
    def start_at(self, axes: Tensor, sd: Tensor, effects: Tensor, init: torch.Generator) -> None:
        """Let the first layer start with random combinations of principal components without effects of covariates.

        Axes are divided by the square root of the standard deviation along them, so that the first ones do not
        outweigh all others.

        Parameters
        ----------
        axes, sd
            Principal axes, (G, k), and standard deviations along them, (k,).
        effects
            Effects of the covariates on expression, (C, G).
        init
            Generator of the combinations.
        """
        first = cast(Layer, self.layers[0])
        weight = (axes / sd.sqrt()) @ torch.randn(len(sd), first.weight.shape[1], generator=init)  # (G, H)
        first.weight.copy_(weight * (first.weight.norm(dim=0) / weight.norm(dim=0)))
        first.cov_weight.copy_(-effects @ first.weight)

    @torch.no_grad()
    def start_linear(self, weight: Tensor, cov_weight: Tensor, sd: Tensor, variance: Tensor) -> None:
        """Let q start with linear functions of expression and covariates as its mean.

        Parameters
        ----------
        weight, cov_weight
            The functions, (G, K) and (C, K), for the first K <= L dimensions; the others start at 0.
        sd
            Standard deviation of the mean in each of these dimensions, (K,).
        variance
            Variance of q in these dimensions, (K,).
        """
        read = carry_through(self.layers, weight, cov_weight)
        self.head.weight.zero_()
        self.head.bias.zero_()
        self.head.weight[: len(sd)] = (read * sd).T
        self.head.bias[len(self.head.bias) // 2 :][: len(sd)] = variance.log()

    def fold_batchnorm(self) -> Callable[[Tensor | SparseExpression, Tensor], tuple[Tensor, Tensor]]:
        """`forward` of evaluation for many cells, with the present weights and the running statistics folded in."""
        layers = [layer.fold_batchnorm() for layer in cast("Iterable[Layer]", self.layers)]
        return lambda x, c: self._mean_and_variance(apply_layers(layers, x, c))

    def _mean_and_variance(self, h: Tensor) -> tuple[Tensor, Tensor]:
        """(B, H) -> (B, L), (B, L)."""
        mean, log_var = self.head(h).chunk(2, dim=1)
        return mean, variance_from_log(log_var)


class Decoder(nn.Module):
    """The decoder's hidden layers; the likelihood turns its output into a distribution of expression.

    With `passes_covariates` the output is the last hidden layer and the covariates side by side, (B, H + C), so that a
    linear mean has an effect of each covariate on each gene; otherwise it is the last hidden layer, (B, H). Without
    `layers_see_covariates` the hidden layers see z alone.
    """

    def __init__(
        self,
        n_latent: int,
        n_cov: int,
        n_hidden: int,
        n_layers: int,
        dropout_rate: float,
        layers_see_covariates: bool,
        passes_covariates: bool,
        init: torch.Generator,
    ):
        super().__init__()
        n_seen = n_cov if layers_see_covariates else 0
        self.layers = make_layers(n_latent, n_seen, n_hidden, n_layers, dropout_rate, init)
        self.layers_see_covariates, self.passes_covariates = layers_see_covariates, passes_covariates
        self.n_outputs = n_hidden + (n_cov if passes_covariates else 0)

    @torch.no_grad()
    def start_linear(self, k: int) -> Tensor:
        """Let the hidden layers carry the first k latent dimensions, and return the weights that read them, (H, k)."""
        n_latent = cast(Layer, self.layers[0]).weight.shape[0]
        return carry_through(self.layers, torch.eye(n_latent, k))

    def seen_by_layers(self, c: Tensor) -> Tensor:
        """Those of the covariates, (B, C), that the hidden layers see: all, or none, (B, 0)."""
        return c if self.layers_see_covariates else c.new_empty(len(c), 0)

    def forward(self, z: Tensor, c: Tensor, context: TrainingContext | None = None) -> Tensor:
        """Latent variables (B, L) and covariates (B, C) -> (B, H + C) or (B, H)."""
        h = apply_layers(self.layers, z, self.seen_by_layers(c), context)
        return torch.cat([h, c], dim=1) if self.passes_covariates else h


class Discriminator(nn.Module):
    """Predicts the system of a cell from its z, for the ADV baseline."""

    def __init__(self, n_latent: int, n_hidden: int, n_systems: int, init: torch.Generator):
        super().__init__()
        self.hidden = Linear(n_latent, n_hidden, init)
        self.logits = Linear(n_hidden, n_systems, init)

    def forward(self, z: Tensor) -> Tensor:
        """(B, L) -> unnormalised log-probabilities (B, S)."""
        return self.logits(F.relu(self.hidden(z)))
