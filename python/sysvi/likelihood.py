"""The Gaussian likelihood of expression, written plainly and from per-gene statistics.

Shapes: B cells of a minibatch, G genes, H hidden units. Both forms give the same value and gradients; the second
writes nothing of size B x G. It needs a linear mean head and one variance per gene.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sysvi.expression import Sparse, gene_sums

LOG_2PI = math.log(2 * math.pi)


def gaussian_nll(x: Tensor, mean: Tensor, var: Tensor) -> Tensor:
    """-log N(x; mean, var), summed over genes: (B, G), (B, G), (G,) or (B, G) -> (B,)."""
    return 0.5 * ((x - mean).square() / var + var.log() + LOG_2PI).sum(1)


def gaussian_nll_total(
    x: Tensor | Sparse, h: Tensor, weight: Tensor, bias: Tensor, var: Tensor, w: Tensor | None = None
) -> Tensor:
    """Sum over cells of w_i times `gaussian_nll` for mean = h W' + b, without forming the mean.

    The squared residuals of gene g sum to S_g = Σ_i w_i (x_ig - b_g - h_i·W_g)², which expands to statistics of the
    minibatch: Σ w x², X'(w∘h) (G, H) and h'(w∘h) (H, H). With v_g the gene's variance and n = Σ w_i,
    the sum is ½ Σ_g (S_g / v_g + n log 2πv_g).

    Parameters
    ----------
    x
        Expression, (B, G). Gets no gradient.
    h
        Hidden layer before the mean head, (B, H).
    weight, bias
        The mean head: (G, H) and (G,).
    var
        Variance per gene, (G,).
    w
        Weight of each cell, (B,); None means 1.

    Returns
    -------
    A scalar.
    """
    return _GaussianTotal.apply(x, h, weight, bias, var, w)


class _GaussianTotal(torch.autograd.Function):
    """With m the mean: R = Σ w (m - x) h' (G, H) and Q = Σ w (m - x) (G,) carry both the value and the gradients."""

    @staticmethod
    def forward(ctx, x, h, weight, bias, var, w):  # type: ignore[no-untyped-def]
        w = h.new_ones(len(h)) if w is None else w
        wh, n = w[:, None] * h, w.sum()
        cross = x.T @ wh  # (G, H)
        sum_h = wh.sum(0)  # (H,)
        sum_x, sum_xx = gene_sums(x, w)  # (G,)
        r = torch.addmm(cross, weight, h.T @ wh, beta=-1).addr_(bias, sum_h)  # (G, H)
        q = torch.addmv(n * bias - sum_x, weight, sum_h)  # (G,)
        rss = sum_xx + torch.linalg.vecdot(weight, r - cross) + bias * (q - sum_x)  # (G,) = S_g
        rss = rss.clamp_min(0)  # squares cannot sum below 0, whatever float32 says
        ctx.x, ctx.n, ctx.w = x, n, w
        ctx.save_for_backward(h, weight, bias, var, r, q, rss)
        return 0.5 * (rss / var + n * (var.log() + LOG_2PI)).sum()

    @staticmethod
    def backward(ctx, grad):  # type: ignore[no-untyped-def]
        x, (h, weight, bias, var, r, q, rss) = ctx.x, ctx.saved_tensors
        precision = grad / var  # (G,)
        scaled = precision[:, None] * weight  # (G, H)
        d_h = torch.addmm(bias @ scaled, h, weight.T @ scaled).sub_(x @ scaled)  # (B, H)
        d_h *= ctx.w[:, None]
        d_var = 0.5 * precision * (ctx.n - rss / var)
        return None, d_h, precision[:, None] * r, precision * q, d_var, None
