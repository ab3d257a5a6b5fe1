"""Training's hidden layer written by hand: few passes over memory, short matrix products; on the CPU with numba.

Shapes: B cells of a minibatch, I inputs, H units, C covariate width.
"""

from __future__ import annotations

import numpy as np
import torch
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic, overload
from torch import Tensor

from sysvi.dropout import GAMMA, MIX_1, MIX_2, dropped, kept_share, threshold

BN_MOMENTUM, BN_EPS = 0.01, 1e-3


class TrainingLayer(torch.autograd.Function):
    """dropout(relu(batchnorm(x W + c U + b))) with the minibatch's statistics.

    Dropout's factor 1 / (1 - rate) goes into the batch norm's slope and offset, which commutes with the ReLU. The
    result is 0 exactly where ReLU or dropout made it so, which is all that the way back must know. The mean over the
    minibatch takes the bias away again, so its gradient is 0.

    `out` is the type of the result. The type of x is that of its products with W (bfloat16 ones are summed in float32);
    sparse expression is multiplied in the type of the result.
    """

    @staticmethod
    def forward(ctx, x, weight, bias, c, cov_weight, scale, shift, running_mean, running_var, rate, seed, out):  # type: ignore[no-untyped-def]
        """(B, I) by (I, H), (H,), (B, C), (C, H), ... -> (B, H)."""
        products = x.dtype if isinstance(x, Tensor) else out
        x, weight, c = x.to(products), weight.to(products), c.contiguous()
        a = x @ weight  # (B, H), from here without the bias, which only the running mean must know
        normalise = _normalise_cpu if a.device.type == "cpu" else _normalise_torch
        y, moments = normalise(a, c, cov_weight, scale, shift, rate, seed, out)
        running_mean.lerp_(moments[0] + bias, BN_MOMENTUM)
        running_var.lerp_(moments[1] * (len(a) / (len(a) - 1)), BN_MOMENTUM)
        ctx.x, ctx.rate = x, rate
        ctx.save_for_backward(weight, c, cov_weight, scale, a, y, moments)
        return y

    @staticmethod
    def backward(ctx, grad):  # type: ignore[no-untyped-def]
        """Gradients of all but the running statistics and what is no tensor."""
        weight, c, cov_weight, scale, a, y, moments = ctx.saved_tensors
        back = _back_cpu if a.device.type == "cpu" else _back_torch
        d_a, d_cov_weight, d_scale, d_shift = back(grad, y, a, c, moments, scale, ctx.rate)
        d_x = d_a @ weight.T if ctx.needs_input_grad[0] else None
        d_weight = (ctx.x.T @ d_a).to(scale.dtype)
        d_bias = torch.zeros_like(d_shift)
        d_c = d_a.to(scale.dtype) @ cov_weight.T if ctx.needs_input_grad[3] else None
        return d_x, d_weight, d_bias, d_c, d_cov_weight, d_scale, d_shift, *[None] * 5


class CrossProduct(torch.autograd.Function):
    """a' b and its gradients, with the factors rounded to `products`."""

    @staticmethod
    def forward(ctx, a, b, products):  # type: ignore[no-untyped-def]
        """(G, H) by (G, K) -> (H, K)."""
        ctx.dtype, a, b = a.dtype, a.to(products), b.to(products)
        ctx.save_for_backward(a, b)
        return (a.T @ b).to(ctx.dtype)

    @staticmethod
    def backward(ctx, grad):  # type: ignore[no-untyped-def]
        """Gradients of a and b."""
        a, b = ctx.saved_tensors
        grad = grad.to(a.dtype)
        return (b @ grad.T).to(ctx.dtype), (a @ grad).to(ctx.dtype), None


def _normalise_torch(
    a: Tensor,
    c: Tensor,
    cov_weight: Tensor,
    scale: Tensor,
    shift: Tensor,
    rate: float,
    seed: int | Tensor,
    out: torch.dtype,
) -> tuple[Tensor, ...]:
    """Add c U to a, in place; dropout(relu(batchnorm(a))) as type `out`, and the moments of a.

    These are (3, H): mean, variance and 1 / deviation.
    """
    a += (c @ cov_weight).to(a.dtype)
    a = a.to(scale.dtype)
    var, mean = torch.var_mean(a, 0, correction=0)
    rstd = (var + BN_EPS).rsqrt()
    factor = 1 / kept_share(rate)
    y = ((a - mean) * (rstd * (factor * scale)) + factor * shift).clamp_min_(0)
    if rate > 0:
        y.masked_fill_(dropped((len(a), len(scale)), rate, seed, a.device), 0)
    return y.to(out), torch.stack([mean, var, rstd])


def _back_torch(
    grad: Tensor, y: Tensor, a: Tensor, c: Tensor, moments: Tensor, scale: Tensor, rate: float
) -> tuple[Tensor, ...]:
    """Gradients of a, U, scale and shift from that of y."""
    dtype, a, (mean, _, rstd) = a.dtype, a.to(scale.dtype), moments
    grad = torch.ops.aten.threshold_backward(grad, y, 0).to(scale.dtype) / kept_share(rate)
    centred = (a - mean) * rstd
    d_shift, d_scale = grad.sum(0), (grad * centred).sum(0)
    d_a = (grad - d_shift / len(a) - centred * (d_scale / len(a))) * (rstd * scale)
    return d_a.to(dtype), c.T @ d_a, d_scale, d_shift


def _normalise_cpu(
    a: Tensor,
    c: Tensor,
    cov_weight: Tensor,
    scale: Tensor,
    shift: Tensor,
    rate: float,
    seed: int | Tensor,
    out: torch.dtype,
) -> tuple[Tensor, ...]:
    y, moments = torch.empty_like(a, dtype=out), scale.new_empty(3, len(scale))
    factor, dropout = _number(scale.dtype, 1 / kept_share(rate)), (np.uint16(threshold(rate)), np.uint64(int(seed)))
    arguments = *map(_array, (a, c, cov_weight, scale, shift)), factor, *dropout, _array(y), _array(moments)
    _normalise(*arguments)
    return y, moments


def _back_cpu(
    grad: Tensor, y: Tensor, a: Tensor, c: Tensor, moments: Tensor, scale: Tensor, rate: float
) -> tuple[Tensor, ...]:
    d_a, d_cov_weight = torch.empty_like(a), scale.new_empty(c.shape[1], len(scale))
    d_scale, d_shift = torch.empty_like(scale), torch.empty_like(scale)
    given, made = (grad.contiguous(), y, a, c, moments, scale), (d_a, d_cov_weight, d_scale, d_shift)
    arguments = *map(_array, given), _number(scale.dtype, 1 / kept_share(rate)), *map(_array, made)
    _back(*arguments)
    return d_a, d_cov_weight, d_scale, d_shift


def _number(dtype: torch.dtype, x: float) -> np.floating:
    """A number of the type, lest the kernels compute in another."""
    return np.float64(x) if dtype == torch.float64 else np.float32(x)


def _array(x: Tensor) -> np.ndarray:
    """The same memory for numba, which knows no bfloat16: it gets the bits."""
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
    """A number, or the one that the bits of a bfloat16 stand for."""


@overload(_load, inline="always")
def _load_of_type(x):  # type: ignore[no-untyped-def]
    if isinstance(x, types.Integer):
        return lambda x: _float_of(np.uint32(x) << np.uint32(16))
    return lambda x: x


def _store(place, x):  # type: ignore[no-untyped-def]
    """What to write in place of `place`: x, or the bits of its nearest bfloat16."""


@overload(_store, inline="always")
def _store_of_type(place, x):  # type: ignore[no-untyped-def]
    if isinstance(place, types.Integer):

        def nearest(place, x):  # type: ignore[no-untyped-def]
            bits = _bits_of(x) if x == x else np.uint32(0x7FC00000)
            even = (bits >> np.uint32(16)) & np.uint32(1)
            return np.uint16((bits + np.uint32(0x7FFF) + even) >> np.uint32(16))

        return nearest
    return lambda place, x: x


# Sums in any order, and no more: NaN and infinity must come through.
kernel = njit(fastmath={"reassoc", "contract", "nsz"}, nogil=True, cache=True)


@kernel
def _normalise(a, c, cov_weight, scale, shift, factor, least, seed, y, moments):  # type: ignore[no-untyped-def]
    """As `_normalise_torch`; `least` and `seed` as of `_relu_dropout`."""
    mean, var, rstd = moments[0], moments[1], moments[2]
    _add_covariates(a, c, cov_weight, mean, var)
    slope, offset = np.empty_like(mean), np.empty_like(mean)
    for j in range(len(mean)):
        rstd[j] = 1 / np.sqrt(var[j] + mean.dtype.type(BN_EPS))
        slope[j] = factor * scale[j] * rstd[j]
        offset[j] = factor * shift[j] - mean[j] * slope[j]
    _relu_dropout(a, slope, offset, least, seed, y)


@kernel
def _add_covariates(a, c, cov_weight, mean, var):  # type: ignore[no-untyped-def]
    """Add c U, most of c being zeros, and take the mean and variance of each column of the sum (B, H).

    These are taken around the first row, so that little cancels.
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
def _relu_dropout(a, slope, offset, least, seed, y):  # type: ignore[no-untyped-def]
    """Y = max(a slope + offset, 0) where a unit's sixteen bits reach `least`, else 0; the bits of `dropped`."""
    n_rows, n_units = a.shape
    n_draws = (n_units + 3) // 4
    draws = np.empty(n_draws, np.uint64)
    bits = draws.view(np.uint16)
    zero = slope.dtype.type(0)
    for i in range(n_rows):
        for k in range(n_draws):
            z = seed + np.uint64(i * n_draws + k + 1) * np.uint64(GAMMA)
            z = (z ^ (z >> np.uint64(30))) * np.uint64(MIX_1)
            z = (z ^ (z >> np.uint64(27))) * np.uint64(MIX_2)
            draws[k] = z ^ (z >> np.uint64(31))
        for j in range(n_units):
            v = _load(a[i, j]) * slope[j] + offset[j]
            y[i, j] = _store(y[i, j], zero if (v <= 0) | (bits[j] < least) else v)


@kernel
def _back(grad, y, a, c, moments, scale, factor, d_a, d_cov_weight, d_scale, d_shift):  # type: ignore[no-untyped-def]
    """As `_back_torch`."""
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
