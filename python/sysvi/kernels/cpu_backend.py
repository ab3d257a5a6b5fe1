"""The training kernels for CPUs, compiled by numba: few passes over memory, and nothing allocated in between.

The functions are documented in `sysvi.kernels.backend.Backend`. Shapes: B cells of a minibatch, H hidden units,
C covariate width, G genes, L latent dimensions, K prior components.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic, overload
from torch import Tensor

from sysvi._core.compilation import ensure_numba_cache
from sysvi._core.ranks import Part
from sysvi.kernels import torch_backend
from sysvi.kernels.dropout import GAMMA, MIX_1, MIX_2, kept_share, threshold
from sysvi.kernels.sparse import SparseExpression
from sysvi.kernels.torch_backend import BN_EPS

ensure_numba_cache()
# Sums may be reordered, and nothing more is allowed: NaN and infinity must come through.
kernel: Any = njit(fastmath={"reassoc", "contract", "nsz"}, nogil=True, cache=True)


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
    y, moments = torch.empty_like(a, dtype=out), scale.new_empty(3, len(scale))
    factor = _scalar(scale.dtype, 1 / kept_share(rate))
    dropout = np.uint16(threshold(rate)), np.uint64(int(seed))
    inputs, results = map(_array, (a, c, cov_weight, scale, shift)), map(_array, (y, moments))
    if part is None:
        _normalise(*inputs, factor, *dropout, *results)
        return y, moments
    _, c_array, cov_array, *norm = inputs
    if len(a):
        _add_covariates(_array(a), c_array, cov_array, *_array(moments)[:2])
    _pool_moments(moments, len(a), part)
    _normalise_part(_array(a), *norm, factor, *dropout, part.places.numpy(), *results)
    return y, moments


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
    d_a, d_cov_weight = torch.empty_like(a), scale.new_empty(c.shape[1], len(scale))
    d_scale, d_shift = torch.empty_like(scale), torch.empty_like(scale)
    inputs = *map(_array, (grad.contiguous(), y, a, c, moments, scale)), _scalar(scale.dtype, 1 / kept_share(rate))
    results = [_array(d) for d in (d_a, d_cov_weight, d_scale, d_shift)]
    if part is None:
        _normalise_backward(*inputs, *results)
        return d_a, d_cov_weight, d_scale, d_shift
    _sums_backward(*inputs[:3], inputs[4], *results[2:])
    all_scale, all_shift = part.ranks.total(torch.stack([d_scale, d_shift]))
    _part_backward(*inputs, *map(_array, (all_scale, all_shift)), part.n_cells, *results[:2])
    factor = 1 / kept_share(rate)
    return d_a, d_cov_weight, d_scale * (factor * moments[2]), d_shift * factor


def _pool_moments(moments: Tensor, n: int, part: Part) -> None:
    """Complete the moments, (3, H), of a minibatch from the mean and variance of the n cells of a part of it."""
    mean, var = moments[:2].double() if n else moments.new_zeros(2, moments.shape[1], dtype=torch.float64)
    mean, mean_square = part.ranks.total(n * torch.stack([mean, var + mean.square()])) / part.n_cells
    var = (mean_square - mean.square()).clamp_min_(0)
    for moment, value in zip(moments, (mean, var, (var + BN_EPS).rsqrt()), strict=True):
        moment.copy_(value)


def gene_sums(x: Tensor | SparseExpression, w: Tensor) -> tuple[Tensor, Tensor]:
    """See `Backend.gene_sums`."""
    if not isinstance(x, SparseExpression):
        return torch_backend.gene_sums(x, w)
    sum_x, sum_xx = w.new_empty(2, x.shape[1])
    _gene_sums(*(part.numpy() for part in (*x.T.segments, w, sum_x, sum_xx)))
    return sum_x, sum_xx


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
    q, rss = torch.empty_like(bias), torch.empty_like(bias)
    arrays = r, cross, weight, bias, precision, sum_h, sum_x, sum_xx, q, rss
    _gene_residuals(n.item(), *(part.numpy() for part in arrays))
    return q, rss


def mixture_kl(
    mean: Tensor, var: Tensor, z: Tensor, means: Tensor, variances: Tensor, log_w: Tensor, share: float | Tensor
) -> Tensor:
    """See `Backend.mixture_kl`."""
    return _MixtureKL.apply(mean, var, z, means, variances, log_w, share)


class _MixtureKL(torch.autograd.Function):
    """`mixture_kl` in one pass over the cells, and one pass backward."""

    @staticmethod
    def forward(ctx, mean, var, z, means, variances, log_w, share):  # type: ignore[no-untyped-def]
        """(B, L), (B, L), (B, L), (K, L), (K, L), (K,), number -> (B,)."""
        ctx.share = float(share)
        ctx.save_for_backward(mean, var, z, means, variances, log_w)
        kl, responsibility = z.new_empty(len(z)), z.new_empty(*z.shape, len(log_w))
        _mixture_kl(*_arrays(mean, var, z, means, variances, log_w), ctx.share, *_arrays(kl, responsibility))
        ctx.responsibility = responsibility
        return kl

    @staticmethod
    def backward(ctx, grad):  # type: ignore[no-untyped-def]
        """Gradients of all arguments but the share."""
        mean, var, z, means, variances, log_w = ctx.saved_tensors
        d_latent, d_mixture, d_log_w = z.new_empty(3, *z.shape), z.new_zeros(2, *means.shape), torch.zeros_like(log_w)
        inputs = *_arrays(mean, var, z, means, variances), ctx.share, *_arrays(ctx.responsibility, grad)
        _mixture_kl_backward(*inputs, *_arrays(d_latent, d_mixture, d_log_w))
        return *d_latent, *d_mixture, d_log_w, None


# Expression on a CPU is cut from the SciPy matrix in memory; this serves tests and callers with tensors alone.
dense_rows = torch_backend.dense_rows


def _arrays(*tensors: Tensor) -> list[np.ndarray]:
    return [tensor.detach().contiguous().numpy() for tensor in tensors]


def _scalar(dtype: torch.dtype, x: float) -> np.floating:
    """A number of the given type, so that the kernels compute in that type."""
    return np.float64(x) if dtype == torch.float64 else np.float32(x)


def _array(x: Tensor) -> np.ndarray:
    """The tensor's memory as an array; numba has no bfloat16, so of that type it gets the bits as uint16."""
    return (x.view(torch.uint16) if x.dtype == torch.bfloat16 else x).numpy(force=True)


@intrinsic
def _bits_of(typing_context, x):  # type: ignore[no-untyped-def]
    def cast(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        return builder.bitcast(arguments[0], ir.IntType(32))

    return types.uint32(types.float32), cast


@intrinsic
def _float_of(typing_context, bits):  # type: ignore[no-untyped-def]
    def cast(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        return builder.bitcast(arguments[0], ir.FloatType())

    return types.float32(types.uint32), cast


def _load(x):  # type: ignore[no-untyped-def]
    """Read a number, or the number that the bits of a bfloat16 represent."""


@overload(_load, inline="always")
def _load_of_type(x):  # type: ignore[no-untyped-def]
    if isinstance(x, types.Integer):
        return lambda x: _float_of(np.uint32(x) << np.uint32(16))
    return lambda x: x


def _store(place, x):  # type: ignore[no-untyped-def]
    """Convert x to the type of `place`: unchanged, or to the bits of the nearest bfloat16."""


@overload(_store, inline="always")
def _store_of_type(place, x):  # type: ignore[no-untyped-def]
    if isinstance(place, types.Integer):

        def nearest(place, x):  # type: ignore[no-untyped-def]
            bits = _bits_of(x) if x == x else np.uint32(0x7FC00000)
            even = (bits >> np.uint32(16)) & np.uint32(1)
            return np.uint16((bits + np.uint32(0x7FFF) + even) >> np.uint32(16))

        return nearest
    return lambda place, x: x


@kernel
def _normalise(a, c, cov_weight, scale, shift, factor, least, seed, y, moments):  # type: ignore[no-untyped-def]
    """Compute `normalise`; `least` and `seed` as in `_relu_dropout`."""
    mean, var, rstd = moments[0], moments[1], moments[2]
    _add_covariates(a, c, cov_weight, mean, var)
    slope, offset = np.empty_like(mean), np.empty_like(mean)
    for j in range(len(mean)):
        rstd[j] = 1 / np.sqrt(var[j] + mean.dtype.type(BN_EPS))
        slope[j] = factor * scale[j] * rstd[j]
        offset[j] = factor * shift[j] - mean[j] * slope[j]
    _relu_dropout(a, slope, offset, least, seed, np.arange(len(a)), y)


@kernel
def _normalise_part(a, scale, shift, factor, least, seed, places, y, moments):  # type: ignore[no-untyped-def]
    """Compute `normalise` where covariates were added and moments are known; `places` as in `_relu_dropout`."""
    slope = factor * scale * moments[2]
    _relu_dropout(a, slope, factor * shift - moments[0] * slope, least, seed, places, y)


@kernel
def _add_covariates(a, c, cov_weight, mean, var):  # type: ignore[no-untyped-def]
    """Add c U to `a`, (B, H), and fill `mean` and `var`, (H,), with the moments of its columns.

    Most of c is 0 (one-hot codes), which is skipped. The sums are taken relative to the first row, so that little
    cancels in the variance.
    """
    n_rows, n_units = a.shape
    origin, own = np.empty_like(mean), np.empty_like(mean)
    mean[:] = 0
    var[:] = 0
    for i in range(n_rows):
        own[:] = 0
        for k in range(c.shape[1]):
            if c[i, k] != 0:
                for j in range(n_units):
                    own[j] += c[i, k] * cov_weight[k, j]
        if i == 0:
            for j in range(n_units):
                origin[j] = _load(a[i, j]) + own[j]
        for j in range(n_units):
            a[i, j] = _store(a[i, j], _load(a[i, j]) + own[j])
            d = _load(a[i, j]) - origin[j]
            mean[j] += d
            var[j] += d * d
    for j in range(n_units):
        d = mean[j] / n_rows
        var[j] = max(var[j] / n_rows - d * d, 0)
        mean[j] = d + origin[j]


@kernel
def _relu_dropout(a, slope, offset, least, seed, places, y):  # type: ignore[no-untyped-def]
    """Set y to max(a slope + offset, 0), but to 0 where a unit's random bits are below `least`, as in `dropped`.

    `places` are the positions of the rows in the minibatch, (B,), on which the bits depend.
    """
    n_rows, n_units = a.shape
    n_draws = (n_units + 3) // 4
    draws = np.empty(n_draws, np.uint64)
    bits = draws.view(np.uint16)
    zero = slope.dtype.type(0)
    for i in range(n_rows):
        for k in range(n_draws):
            z = seed + np.uint64(places[i] * n_draws + k + 1) * np.uint64(GAMMA)
            z = (z ^ (z >> np.uint64(30))) * np.uint64(MIX_1)
            z = (z ^ (z >> np.uint64(27))) * np.uint64(MIX_2)
            draws[k] = z ^ (z >> np.uint64(31))
        for j in range(n_units):
            v = _load(a[i, j]) * slope[j] + offset[j]
            y[i, j] = _store(y[i, j], zero if (v <= 0) | (bits[j] < least) else v)


@kernel
def _normalise_backward(grad, y, a, c, moments, scale, factor, d_a, d_cov_weight, d_scale, d_shift):  # type: ignore[no-untyped-def]
    """Compute `normalise_backward`; `factor` is 1 / (1 - dropout rate)."""
    n_rows, n_units = a.shape
    mean, rstd = moments[0], moments[2]
    d_scale[:] = 0
    d_shift[:] = 0
    d_cov_weight[:] = 0
    zero = mean.dtype.type(0)
    for i in range(n_rows):
        for j in range(n_units):
            g = _load(grad[i, j]) if y[i, j] != 0 else zero
            d_shift[j] += g
            d_scale[j] += g * (_load(a[i, j]) - mean[j])
    slope, tilt, offset, d = np.empty_like(mean), np.empty_like(mean), np.empty_like(mean), np.empty_like(mean)
    for j in range(n_units):
        d_shift[j] *= factor
        d_scale[j] *= factor * rstd[j]
        slope[j] = scale[j] * rstd[j]
        tilt[j] = -slope[j] * d_scale[j] * rstd[j] / n_rows
        offset[j] = -slope[j] * d_shift[j] / n_rows - tilt[j] * mean[j]
        slope[j] *= factor
    for i in range(n_rows):
        for j in range(n_units):
            g = _load(grad[i, j]) if y[i, j] != 0 else zero
            d[j] = slope[j] * g + tilt[j] * _load(a[i, j]) + offset[j]
            d_a[i, j] = _store(d_a[i, j], d[j])
        for k in range(c.shape[1]):
            if c[i, k] != 0:
                for j in range(n_units):
                    d_cov_weight[k, j] += c[i, k] * d[j]


@kernel
def _part_backward(grad, y, a, c, moments, scale, factor, d_scale, d_shift, n, d_a, d_cov_weight):  # type: ignore[no-untyped-def]
    """Gradients of a and U of a part of n cells, from the sums of `_sums_backward` over all parts.

    A kernel of its own, as `_normalise_backward` rounds otherwise when it is put together from two.
    """
    n_rows, n_units = a.shape
    mean, rstd = moments[0], moments[2]
    d_cov_weight[:] = 0
    zero = mean.dtype.type(0)
    slope, tilt, offset, d = np.empty_like(mean), np.empty_like(mean), np.empty_like(mean), np.empty_like(mean)
    for j in range(n_units):
        slope[j] = factor * scale[j] * rstd[j]
        tilt[j] = -slope[j] * d_scale[j] * rstd[j] * rstd[j] / n
        offset[j] = -slope[j] * d_shift[j] / n - tilt[j] * mean[j]
    for i in range(n_rows):
        for j in range(n_units):
            g = _load(grad[i, j]) if y[i, j] != 0 else zero
            d[j] = slope[j] * g + tilt[j] * _load(a[i, j]) + offset[j]
            d_a[i, j] = _store(d_a[i, j], d[j])
        for k in range(c.shape[1]):
            if c[i, k] != 0:
                for j in range(n_units):
                    d_cov_weight[k, j] += c[i, k] * d[j]


@kernel
def _sums_backward(grad, y, a, moments, d_scale, d_shift):  # type: ignore[no-untyped-def]
    """Sums over the cells that make the gradients of scale and shift."""
    n_rows, n_units = a.shape
    mean = moments[0]
    d_scale[:] = 0
    d_shift[:] = 0
    zero = mean.dtype.type(0)
    for i in range(n_rows):
        for j in range(n_units):
            g = _load(grad[i, j]) if y[i, j] != 0 else zero
            d_shift[j] += g
            d_scale[j] += g * (_load(a[i, j]) - mean[j])


@kernel
def _gene_sums(starts, places, values, w, sum_x, sum_xx):  # type: ignore[no-untyped-def]
    """Sum w x and w x² over the stored values of each gene, in float64."""
    places = places.view(np.uint32)  # unsigned indices need no check for negative values
    for g in range(len(starts) - 1):
        segment = slice(starts[g], starts[g + 1])
        x, cell = values[segment], places[segment]
        s = ss = 0.0
        for k in range(len(x)):
            wx = np.float64(w[cell[k]]) * x[k]
            s += wx
            ss += wx * x[k]
        sum_x[g], sum_xx[g] = s, ss


@kernel
def _gene_residuals(n, r, cross, weight, bias, precision, sum_h, sum_x, sum_xx, q, rss):  # type: ignore[no-untyped-def]
    """Compute `gene_residuals` in one pass over genes x hidden units, with sums in float64."""
    for g in range(len(bias)):
        predicted = products = 0.0
        for j in range(len(sum_h)):
            residual = r[g, j] + bias[g] * sum_h[j] - cross[g, j]
            predicted += np.float64(weight[g, j]) * sum_h[j]
            products += np.float64(weight[g, j]) * (residual - cross[g, j])
            r[g, j] = precision[g] * residual
        total = n * bias[g] - sum_x[g] + predicted
        q[g], rss[g] = total, max(sum_xx[g] + products + bias[g] * (total - sum_x[g]), 0.0)


@kernel
def _mixture_kl(mean, var, z, means, variances, log_w, share, kl, r):  # type: ignore[no-untyped-def]
    """Fill `kl` (B,) and `r` (B, L, K), the responsibility of each component for a cell in each dimension."""
    n_components, n_dims = means.shape
    half, zero = z.dtype.type(0.5), z.dtype.type(0)
    precision, offset = np.empty_like(means), np.empty_like(means)
    for k in range(n_components):
        for d in range(n_dims):
            precision[k, d] = 1 / variances[k, d]
            offset[k, d] = log_w[k] - half * np.log(variances[k, d])
    for i in range(len(z)):
        total = 0.0
        for d in range(n_dims):
            most = z.dtype.type(-np.inf)
            for k in range(n_components):
                e = z[i, d] - means[k, d]
                r[i, d, k] = offset[k, d] - half * e * e * precision[k, d]
                most = max(most, r[i, d, k])
            density = zero
            for k in range(n_components):
                r[i, d, k] = np.exp(r[i, d, k] - most)
                density += r[i, d, k]
            for k in range(n_components):
                r[i, d, k] /= density
            log_var, e = np.log(var[i, d]), z[i, d] - mean[i, d]
            kl_mixture = -half * (log_var + e * e / var[i, d]) - most - np.log(density)  # log(2π) / 2 cancels
            kl_normal = half * (var[i, d] + mean[i, d] * mean[i, d] - 1 - log_var)
            total += share * kl_mixture + (1 - share) * kl_normal
        kl[i] = total


@kernel
def _mixture_kl_backward(mean, var, z, means, variances, share, r, grad, d_latent, d_mixture, d_log_w):  # type: ignore[no-untyped-def]
    n_components, n_dims = means.shape
    half, share = z.dtype.type(0.5), z.dtype.type(share)
    rest = 1 - share  # of the standard normal
    for i in range(len(z)):
        for d in range(n_dims):
            precision = 1 / var[i, d]
            e = (z[i, d] - mean[i, d]) * precision
            d_z = -e
            for k in range(n_components):
                precision_k = 1 / variances[k, d]
                u = (z[i, d] - means[k, d]) * precision_k
                d_z += r[i, d, k] * u
                weight = -share * grad[i] * r[i, d, k]
                d_mixture[0, k, d] += weight * u
                d_mixture[1, k, d] += weight * half * (u * u - precision_k)
                d_log_w[k] += weight
            d_latent[0, i, d] = grad[i] * (share * e + rest * mean[i, d])
            d_latent[1, i, d] = grad[i] * half * (share * (e * e - precision) + rest * (1 - precision))
            d_latent[2, i, d] = grad[i] * share * d_z
