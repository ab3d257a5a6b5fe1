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

    Dropout's factor 1 / (1 - rate) goes into the batch norm's scale and shift, which commutes with the ReLU. The
    result is 0 exactly where ReLU or dropout made it so, which is all that the way back must know. The mean over the
    minibatch takes the bias away again, so its gradient is 0.

    `out` is the type of the result. The type of x is that of its products with W (bfloat16 ones are summed in float32);
    sparse expression is multiplied in the type of the result.
    """

    @staticmethod
    def forward(ctx, x, weight, bias, c, cov_weight, scale, shift, running_mean, running_var, rate, seed, out):  # type: ignore[no-untyped-def]
        """(B, I) by (I, H), (H,), (B, C), (C, H), ... -> (B, H)."""
        a = torch.addmm(bias, c, cov_weight)  # (B, H)
        if not isinstance(x, Tensor):  # sparse expression
            x, weight = x.to(out), weight.to(out)
            a = (x @ weight).add_(a.to(out))
        else:
            weight = weight.to(x.dtype)
            a = a.to(x.dtype).addmm_(x, weight)
        factor = 1 / kept_share(rate)
        normalise = _normalise_cpu if a.device.type == "cpu" else _normalise_torch
        y, mean, var, rstd = normalise(a, factor * scale, factor * shift, rate, seed, out)
        running_mean.mul_(1 - BN_MOMENTUM).add_(mean, alpha=BN_MOMENTUM)
        running_var.mul_(1 - BN_MOMENTUM).add_(var, alpha=BN_MOMENTUM * len(a) / (len(a) - 1))
        ctx.x, ctx.factor = x, factor
        ctx.save_for_backward(weight, c, cov_weight, scale, a, y, mean, rstd)
        return y

    @staticmethod
    def backward(ctx, grad):  # type: ignore[no-untyped-def]
        """Gradients of all but the running statistics and what is no tensor."""
        weight, c, cov_weight, scale, a, y, mean, rstd = ctx.saved_tensors
        back = _back_cpu if a.device.type == "cpu" else _back_torch
        d_a, d_scale, d_shift = back(grad, y, a, mean, rstd, ctx.factor * scale)
        d_x = d_a @ weight.T if ctx.needs_input_grad[0] else None
        d_weight = (ctx.x.T @ d_a).to(scale.dtype)
        d_a = d_a.to(scale.dtype)
        d_c = d_a @ cov_weight.T if ctx.needs_input_grad[3] else None
        d_bias = torch.zeros_like(d_shift)
        return d_x, d_weight, d_bias, d_c, c.T @ d_a, ctx.factor * d_scale, ctx.factor * d_shift, *[None] * 5


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
    a: Tensor, scale: Tensor, shift: Tensor, rate: float, seed: int, out: torch.dtype
) -> tuple[Tensor, ...]:
    a = a.to(scale.dtype)
    var, mean = torch.var_mean(a, 0, correction=0)
    rstd = (var + BN_EPS).rsqrt()
    y = ((a - mean) * (rstd * scale) + shift).clamp_min_(0)
    if rate > 0:
        y.masked_fill_(dropped((len(a), len(scale)), rate, seed, a.device), 0)
    return y.to(out), mean, var, rstd


def _back_torch(grad: Tensor, y: Tensor, a: Tensor, mean: Tensor, rstd: Tensor, scale: Tensor) -> tuple[Tensor, ...]:
    dtype, a = a.dtype, a.to(scale.dtype)
    grad = torch.ops.aten.threshold_backward(grad, y, 0).to(scale.dtype)
    centred = (a - mean) * rstd
    d_shift, d_scale = grad.sum(0), (grad * centred).sum(0)
    d_a = (grad - d_shift / len(a) - centred * (d_scale / len(a))) * (rstd * scale)
    return d_a.to(dtype), d_scale, d_shift


def _normalise_cpu(
    a: Tensor, scale: Tensor, shift: Tensor, rate: float, seed: int, out: torch.dtype
) -> tuple[Tensor, ...]:
    y, mean, var = torch.empty_like(a, dtype=out), torch.empty_like(shift), torch.empty_like(shift)
    _mean_and_var(_array(a), mean.numpy(), var.numpy())
    rstd = (var + BN_EPS).rsqrt()
    slope = rstd * scale
    offset = shift - mean * slope
    least = np.uint16(threshold(rate))
    _relu_dropout(_array(a), slope.numpy(), offset.numpy(), least, np.uint64(seed), _array(y))
    return y, mean, var, rstd


def _back_cpu(grad: Tensor, y: Tensor, a: Tensor, mean: Tensor, rstd: Tensor, scale: Tensor) -> tuple[Tensor, ...]:
    d_a, d_scale, d_shift = torch.empty_like(a), torch.empty_like(scale), torch.empty_like(scale)
    _back(*map(_array, (grad.contiguous(), y, a, mean, rstd, scale, d_a, d_scale, d_shift)))
    return d_a, d_scale, d_shift


def _array(x: Tensor) -> np.ndarray:
    """The same memory for numba, which knows no bfloat16: it gets the bits."""
    x = x.detach()
    return (x.view(torch.uint16) if x.dtype == torch.bfloat16 else x).numpy()


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
def _mean_and_var(a, mean, var):  # type: ignore[no-untyped-def]
    """Of each column of a (B, H), around the first row so that little cancels."""
    n_rows, n_units = a.shape
    origin = np.empty_like(mean)
    for j in range(n_units):
        origin[j] = _load(a[0, j])
        mean[j] = var[j] = 0
    for i in range(n_rows):
        for j in range(n_units):
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
def _back(grad, y, a, mean, rstd, scale, d_a, d_scale, d_shift):  # type: ignore[no-untyped-def]
    """Gradients of a, and of the batch norm's scale and shift, from that of y = dropout(relu(batchnorm(a)))."""
    n_rows, n_units = a.shape
    d_scale[:] = 0
    d_shift[:] = 0
    zero = mean.dtype.type(0)
    for i in range(n_rows):
        for j in range(n_units):
            g = _load(grad[i, j]) if y[i, j] != 0 else zero
            d_shift[j] += g
            d_scale[j] += g * (_load(a[i, j]) - mean[j])
    slope, tilt, offset = np.empty_like(mean), np.empty_like(mean), np.empty_like(mean)
    for j in range(n_units):
        d_scale[j] *= rstd[j]
        slope[j] = scale[j] * rstd[j]
        tilt[j] = -slope[j] * d_scale[j] * rstd[j] / n_rows
        offset[j] = -slope[j] * d_shift[j] / n_rows - tilt[j] * mean[j]
    for i in range(n_rows):
        for j in range(n_units):
            g = _load(grad[i, j]) if y[i, j] != 0 else zero
            d_a[i, j] = _store(d_a[i, j], slope[j] * g + tilt[j] * _load(a[i, j]) + offset[j])
