"""The Gaussian likelihood of expression, written plainly and from per-gene statistics.

Shapes: B cells of a minibatch, G genes, H hidden units. Both forms give the same value and gradients; the second
writes nothing of size B x G. It needs a linear mean head and one variance per gene.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from sysvi.kernels.layers import kernel
from sysvi.kernels.sparse import Sparse, gene_sums, long_product

LOG_2PI = math.log(2 * math.pi)


def gaussian_nll(x: Tensor, mean: Tensor, var: Tensor) -> Tensor:
    """-log N(x; mean, var), summed over genes: (B, G), (B, G), (G,) or (B, G) -> (B,)."""
    return 0.5 * ((x - mean).square() / var + var.log() + LOG_2PI).sum(1)


class Fit(NamedTuple):
    """Negative logarithm of a likelihood, and its gradients."""

    total: Tensor  # ()
    h: Tensor  # (B, H)
    weight: Tensor  # (G, H)
    bias: Tensor  # (G,)
    var: Tensor  # (G,)


class GeneStatistics:
    """Σ_i w_i `gaussian_nll` for mean = h W' + b, and factor times its gradients, without forming the mean.

    The squared residuals of gene g sum to S_g = Σ_i w_i (x_ig - b_g - h_i·W_g)², which expands to statistics of the
    minibatch: Σ w x², X'(w∘h) (G, H) and h'(w∘h) (H, H). With v_g the gene's variance and n = Σ w_i, the sum is
    ½ Σ_g (S_g / v_g + n log 2πv_g). With m the mean, R = Σ w (m - x) h' (G, H) and Q = Σ w (m - x) (G,) carry both the
    value and the gradients.

    What does not wait for h is computed at once: sums over x, and -X V⁻¹W, a part of the gradient of h, which is
    w∘(m - x) V⁻¹W.

    Parameters
    ----------
    x
        Expression, (B, G).
    weight, bias
        The mean head: (G, H) and (G,).
    var
        Variance per gene, (G,).
    factor
        Of the gradients.
    w
        Weight of each cell, (B,); None means 1.
    short
        Expression in the type of the values that are multiplied for the gradient of h, which goes on through hidden
        layers; None: x. The value and the other gradients are of small differences of large sums, and never of a
        shorter type than x has.
    """

    def __init__(
        self,
        x: Tensor | Sparse,
        weight: Tensor,
        bias: Tensor,
        var: Tensor,
        factor: float | Tensor = 1.0,
        w: Tensor | None = None,
        short: Tensor | Sparse | None = None,
    ):
        self.x, self.weight, self.bias, self.var, self.factor, self.w = x, weight, bias, var, factor, w
        short = x if short is None else short
        self.precision = factor / var  # (G,)
        scaled = self.precision[:, None] * weight  # (G, H)
        self.of_bias = bias @ scaled  # (H,)
        self.scaled = scaled.to(short.dtype)
        self.of_x = short @ self.scaled  # (B, H)
        weights = var.new_ones(len(x)) if w is None else w
        self.n, self.sums = weights.sum(), gene_sums(x, weights)

    def __call__(self, h: Tensor) -> Fit:
        """The hidden layer before the mean head, (B, H)."""
        x, weight, bias, var, w, n = self.x, self.weight, self.bias, self.var, self.w, self.n
        rounded = h.to(x.dtype)  # all statistics are of the same numbers
        wh = rounded if w is None else (w[:, None] * rounded).to(x.dtype)
        r = weight @ long_product(rounded.T, wh)  # (G, H), so far without bias and x
        residuals = _residuals_cpu if r.device.type == "cpu" else _residuals_torch
        sum_h = wh.sum(0, dtype=h.dtype)
        q, rss = residuals(r, long_product(x.T, wh), weight, bias, self.precision, n, sum_h, *self.sums)
        total = 0.5 * (rss / var + n * (var.log() + LOG_2PI)).sum()
        of_h = weight.to(self.scaled.dtype).T @ self.scaled  # (H, H)
        d_h = (h.to(of_h.dtype) @ of_h).to(h.dtype).add_(self.of_bias).sub_(self.of_x)
        if w is not None:
            d_h *= w[:, None]
        d_var = 0.5 * self.precision * (n - rss / var)
        return Fit(total, d_h, r, self.precision * q, d_var)


def _residuals_torch(
    r: Tensor,
    cross: Tensor,
    weight: Tensor,
    bias: Tensor,
    precision: Tensor,
    n: Tensor,
    sum_h: Tensor,
    sum_x: Tensor,
    sum_xx: Tensor,
) -> tuple[Tensor, Tensor]:
    """Complete R, times precision, in place, given X'(w∘h) (G, H); return Q and S, (G,) each.

    Squares cannot sum below 0, whatever float32 says.
    """
    r.addr_(bias, sum_h).sub_(cross)
    q = torch.addmv(n * bias - sum_x, weight, sum_h)
    rss = sum_xx + torch.linalg.vecdot(weight, r - cross) + bias * (q - sum_x)
    r *= precision[:, None]
    return q, rss.clamp_min_(0)


def _residuals_cpu(
    r: Tensor, cross: Tensor, weight: Tensor, bias: Tensor, precision: Tensor, n: Tensor, *sums: Tensor
) -> tuple[Tensor, Tensor]:
    q, rss = torch.empty_like(bias), torch.empty_like(bias)
    arrays = r, cross, weight, bias, precision, *sums, q, rss
    _residuals(n.item(), *(part.numpy() for part in arrays))
    return q, rss


@kernel
def _residuals(n, r, cross, weight, bias, precision, sum_h, sum_x, sum_xx, q, rss):  # type: ignore[no-untyped-def]
    """As `_residuals_torch` in one pass; sums in float64."""
    for g in range(len(bias)):
        predicted = products = 0.0
        for j in range(len(sum_h)):
            residual = r[g, j] + bias[g] * sum_h[j] - cross[g, j]
            predicted += np.float64(weight[g, j]) * sum_h[j]
            products += np.float64(weight[g, j]) * (residual - cross[g, j])
            r[g, j] = precision[g] * residual
        total = n * bias[g] - sum_x[g] + predicted
        q[g], rss[g] = total, max(sum_xx[g] + products + bias[g] * (total - sum_x[g]), 0.0)
