"""The training kernels in torch's own operations: for every device, and the reference of the other backends' tests.

The functions are documented in `sysvi.kernels.backend.Backend`. Shapes: B cells, H hidden units, G genes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sysvi._core.ranks import Part
from sysvi.kernels.densities import kl_standard_normal, normal_log_density
from sysvi.kernels.dropout import dropped, kept_share
from sysvi.kernels.sparse import SparseExpression

BN_EPS = 1e-3  # added to the variance in batch normalisation, as in the paper


def normalise(
    a: Tensor,
    c: Tensor,
    cov_weight: Tensor,
    scale: Tensor,
    shift: Tensor,
    rate: float,
    seed: int | Tensor,
    out: torch.dtype,
    part: Part | None = None,
) -> tuple[Tensor, Tensor]:
    """See `Backend.normalise`."""
    a += (c @ cov_weight).to(a.dtype)
    a = a.to(scale.dtype)
    var, mean = torch.var_mean(a, 0, correction=0) if part is None else pooled_moments(a, part)
    rstd = (var + BN_EPS).rsqrt()
    factor = 1 / kept_share(rate)
    y = ((a - mean) * (rstd * (factor * scale)) + factor * shift).clamp_min_(0)
    if rate > 0:
        y.masked_fill_(dropped((len(a), len(scale)), rate, seed, a.device, None if part is None else part.places), 0)
    return y.to(out), torch.stack([mean, var, rstd])


def normalise_backward(
    grad: Tensor,
    y: Tensor,
    a: Tensor,
    c: Tensor,
    moments: Tensor,
    scale: Tensor,
    rate: float,
    part: Part | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """See `Backend.normalise_backward`."""
    dtype, a, (mean, _, rstd) = a.dtype, a.to(scale.dtype), moments
    grad = torch.ops.aten.threshold_backward(grad, y, 0).to(scale.dtype) / kept_share(rate)
    centred = (a - mean) * rstd
    d_shift, d_scale = grad.sum(0), (grad * centred).sum(0)
    n, (all_shift, all_scale) = len(a), (d_shift, d_scale)
    if part is not None:
        n, (all_shift, all_scale) = part.n_cells, part.ranks.total(torch.stack([d_shift, d_scale]))
    d_a = (grad - all_shift / n - centred * (all_scale / n)) * (rstd * scale)
    return d_a.to(dtype), c.T @ d_a, d_scale, d_shift


def pooled_moments(a: Tensor, part: Part) -> tuple[Tensor, Tensor]:
    """Variance and mean of each column over all parts of a minibatch, from one of them, (B, H), which may be empty."""
    dtype, a = a.dtype, a.double()  # so that nothing cancels in the difference of sums
    mean, mean_square = part.ranks.total(torch.stack([a.sum(0), a.square().sum(0)])) / part.n_cells
    var = (mean_square - mean.square()).clamp_min_(0)
    return var.to(dtype), mean.to(dtype)


def gene_sums(x: Tensor | SparseExpression, w: Tensor) -> tuple[Tensor, Tensor]:
    """See `Backend.gene_sums`."""
    x = x.to_dense().to(w.dtype)
    wx = w[:, None] * x
    return wx.sum(0), torch.linalg.vecdot(x, wx, dim=0)


def gene_residuals(
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
    """See `Backend.gene_residuals`."""
    r.addr_(bias, sum_h).sub_(cross)
    q = torch.addmv(n * bias - sum_x, weight, sum_h)
    rss = sum_xx + torch.linalg.vecdot(weight, r - cross) + bias * (q - sum_x)
    r *= precision[:, None]
    return q, rss.clamp_min_(0)


def mixture_kl(
    mean: Tensor, var: Tensor, z: Tensor, means: Tensor, variances: Tensor, log_w: Tensor, share: float | Tensor
) -> Tensor:
    """See `Backend.mixture_kl`."""
    log_q = normal_log_density(z, mean, var).sum(1)
    log_p = (normal_log_density(z[:, None], means, variances) + log_w[:, None]).logsumexp(1).sum(1)
    return kl_standard_normal(mean, var).lerp(log_q - log_p, share)


def dense_rows(
    starts: Tensor, columns: Tensor, values: Tensor, rows: Tensor, n_genes: int, max_stored: int, dtype: torch.dtype
) -> Tensor:
    """See `Backend.dense_rows`."""
    x = torch.zeros(len(rows), n_genes, dtype=dtype, device=rows.device)
    if max_stored == 0:
        return x
    start = starts[rows, None]  # (B, 1)
    source = start + torch.arange(max_stored, device=rows.device)  # (B, max_stored)
    inside = source < starts[rows + 1, None]
    source = torch.where(inside, source, start.clamp_max(len(values) - 1))
    # Every row is read as if it were as long as the longest, and what lies beyond its end adds 0. So no shape depends
    # on the cells: the host never waits for the device, and the step can be captured as a CUDA graph.
    column = torch.where(inside, columns[source].long(), 0)
    return x.scatter_add_(1, column, torch.where(inside, values[source], 0).to(dtype))
