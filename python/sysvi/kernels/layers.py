"""A hidden layer of training but for its matrix products, written by hand: few passes over memory; numba on the CPU.

Shapes: B cells of a minibatch, H units, C covariate width.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import numpy as np
import torch
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic, overload
from torch import Tensor

from sysvi._core.compilation import ensure_numba_cache
from sysvi.kernels.dropout import GAMMA, MIX_1, MIX_2, dropped, kept_share, threshold

BN_EPS = 1e-3


class CardKernels(NamedTuple):
    """`sysvi.kernels.triton_kernels`, or why it cannot be used."""

    module: Any
    why_not: str = ""


@cache
def card_kernels(device: torch.device) -> CardKernels:
    """Kernels written for a graphics card, where Triton is installed and can compile (for which it needs a C compiler).

    Elsewhere torch's operations take their place.
    """
    if device.type != "cuda":
        return CardKernels(None, f"they are for CUDA cards, and this is a {device.type} device")
    try:
        from sysvi.kernels.plan import triton_kernels

        triton_kernels.probe(device)
    except Exception as error:  # whatever it is, there is another way
        return CardKernels(None, f"{type(error).__name__}: {str(error).partition(chr(10))[0]}")
    return CardKernels(triton_kernels)


def normalise(
    a: Tensor,
    c: Tensor,
    cov_weight: Tensor,
    scale: Tensor,
    shift: Tensor,
    rate: float,
    seed: int | Tensor,
    out: torch.dtype,
) -> tuple[Tensor, Tensor]:
    """dropout(relu(batchnorm(a + c U))) with the minibatch's statistics, for a = x W; c U is added in place.

    Dropout's factor 1 / (1 - rate) goes into the batch norm's slope and offset, which commutes with the ReLU. The
    result is 0 exactly where ReLU or dropout made it so, which is all that the way back must know.

    Parameters
    ----------
    a
        (B, H), float32, float64 or bfloat16.
    c, cov_weight
        Covariates (B, C) and their weights (C, H).
    scale, shift
        Of the batch norm, (H,).
    rate, seed
        Of dropout.
    out
        Type of the result.

    Returns
    -------
    y
        (B, H).
    moments
        Mean, variance and 1 / deviation of a + c U, (3, H).
    """
    arguments = a, c, cov_weight, scale, shift, rate, seed, out
    if a.device.type == "cpu":
        return _normalise_cpu(*arguments)
    triton = card_kernels(a.device).module
    return _normalise_torch(*arguments) if triton is None else triton.normalise(*arguments, BN_EPS)


def back(
    grad: Tensor, y: Tensor, a: Tensor, c: Tensor, moments: Tensor, scale: Tensor, rate: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of a, U, scale and shift from that of y = `normalise` (a, c, U, ...), (B, H)."""
    arguments = grad, y, a, c, moments, scale, rate
    if a.device.type == "cpu":
        return _back_cpu(*arguments)
    triton = card_kernels(a.device).module
    return _back_torch(*arguments) if triton is None else triton.back(*arguments)


def _normalise_torch(
    a: Tensor,
    c: Tensor,
    cov_weight: Tensor,
    scale: Tensor,
    shift: Tensor,
    rate: float,
    seed: int | Tensor,
    out: torch.dtype,
) -> tuple[Tensor, Tensor]:
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
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
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
) -> tuple[Tensor, Tensor]:
    y, moments = torch.empty_like(a, dtype=out), scale.new_empty(3, len(scale))
    factor, dropout = _number(scale.dtype, 1 / kept_share(rate)), (np.uint16(threshold(rate)), np.uint64(int(seed)))
    arguments = *map(_array, (a, c, cov_weight, scale, shift)), factor, *dropout, _array(y), _array(moments)
    _normalise(*arguments)
    return y, moments


def _back_cpu(
    grad: Tensor, y: Tensor, a: Tensor, c: Tensor, moments: Tensor, scale: Tensor, rate: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
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


ensure_numba_cache()
# Allow reordered sums, and nothing that would change NaN or infinity.
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
