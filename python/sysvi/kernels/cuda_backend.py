"""The training kernels for NVIDIA GPUs, in Triton, which comes with torch's CUDA builds for Linux.

Each replaces tens of torch's operations, which a GPU computes faster than they can be launched. The functions are
documented in `sysvi.kernels.backend.Backend`. Shapes: B cells of a minibatch, H hidden units, C covariate width,
G genes, L latent dimensions, K prior components.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from sysvi._core.ranks import Part
from sysvi.kernels import torch_backend
from sysvi.kernels.dropout import UNITS_PER_DRAW, kept_share, threshold
from sysvi.kernels.sparse import SparseExpression
from sysvi.kernels.torch_backend import BN_EPS

MAX_BLOCK_ROWS = 2048  # rows that a block holds in registers
FEW_COVARIATES = 32  # up to this width, c U and its gradient are summed inside the layer's kernels


def compile_probe(device: torch.device) -> None:
    """Compile and run a small kernel; it raises where Triton cannot be used."""
    _gene_sums[(1,)](*torch.ones(3, 2, 2, device=device), 2, 2, ROWS=2, GENES=2)


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
    if part is not None:  # the sum over processes lies between two halves of this kernel
        return torch_backend.normalise(a, c, cov_weight, scale, shift, rate, seed, out, part)
    n_rows, n_units = a.shape
    y, moments = torch.empty_like(a, dtype=out), scale.new_empty(3, n_units)
    seed = _on_device(seed, a, torch.int64)
    few = c.shape[1] <= FEW_COVARIATES
    covariates = (c.contiguous(), cov_weight) if few else (c @ cov_weight, cov_weight)
    n_draws = triton.cdiv(n_units, UNITS_PER_DRAW)
    sizes = n_rows, n_units, c.shape[1], n_draws
    dropout = threshold(rate), 1 / kept_share(rate)
    arrays = a, *covariates, scale, shift, seed, y, moments
    _normalise[(n_draws,)](*arrays, *sizes, *dropout, BN_EPS, FEW=few, UNITS=UNITS_PER_DRAW, **_row_block(n_rows))
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
    if part is not None:
        return torch_backend.normalise_backward(grad, y, a, c, moments, scale, rate, part)
    n_rows, n_units = a.shape
    few = c.shape[1] <= FEW_COVARIATES
    d_a, d_cov_weight, d_norm = torch.empty_like(a), scale.new_empty(c.shape[1], n_units), scale.new_empty(2, n_units)
    arrays = grad.contiguous(), y, a, c.contiguous(), moments, scale, d_a, d_cov_weight, d_norm
    sizes = n_rows, n_units, c.shape[1]
    grid = (triton.cdiv(n_units, UNITS_PER_DRAW),)
    _normalise_backward[grid](
        *arrays, *sizes, 1 / kept_share(rate), FEW=few, UNITS=UNITS_PER_DRAW, **_row_block(n_rows)
    )
    if not few:
        d_cov_weight = (c.T.to(a.dtype) @ d_a).to(scale.dtype)
    d_scale, d_shift = d_norm
    return d_a, d_cov_weight, d_scale, d_shift


def gene_sums(x: Tensor | SparseExpression, w: Tensor) -> tuple[Tensor, Tensor]:
    """See `Backend.gene_sums`; expression on a GPU is dense."""
    assert isinstance(x, Tensor)
    sums = w.new_empty(2, x.shape[1])
    _gene_sums[(triton.cdiv(x.shape[1], 16),)](x, w, sums, *x.shape, ROWS=256, GENES=16)
    sum_x, sum_xx = sums
    return sum_x, sum_xx


# A few large operations, for which a kernel would gain nothing.
gene_residuals = torch_backend.gene_residuals


def mixture_kl(
    mean: Tensor, var: Tensor, z: Tensor, means: Tensor, variances: Tensor, log_w: Tensor, share: float | Tensor
) -> Tensor:
    """See `Backend.mixture_kl`."""
    return _MixtureKL.apply(mean, var, z, means, variances, log_w, share)


def dense_rows(
    starts: Tensor, columns: Tensor, values: Tensor, rows: Tensor, n_genes: int, max_stored: int, dtype: torch.dtype
) -> Tensor:
    """See `Backend.dense_rows`; no gene may be stored twice in a cell."""
    x = torch.zeros(len(rows), n_genes, dtype=dtype, device=rows.device)
    _dense_rows[(len(rows),)](starts, columns, values, rows, x, n_genes, VALUES=256)
    return x


class _MixtureKL(torch.autograd.Function):
    @staticmethod
    def forward(ctx, mean, var, z, means, variances, log_w, share):  # type: ignore[no-untyped-def]
        """(B, L), (B, L), (B, L), (K, L), (K, L), (K,), number -> (B,)."""
        share = _on_device(share, z, z.dtype)
        inputs = [part.contiguous() for part in (mean, var, z, means, variances, log_w, share)]
        ctx.save_for_backward(*inputs)
        kl = z.new_empty(len(z))
        _mixture_kl[(triton.cdiv(len(z), 32),)](*inputs, kl, *z.shape, len(log_w), **_latent_block(z))
        return kl

    @staticmethod
    def backward(ctx, grad):  # type: ignore[no-untyped-def]
        """Gradients of all arguments but the share."""
        inputs = ctx.saved_tensors
        z, means, log_w = inputs[2], inputs[3], inputs[5]
        blocks = triton.cdiv(len(z), 32)
        d_latent = z.new_empty(3, *z.shape)
        d_mixture, d_log_w = z.new_empty(blocks, 2, *means.shape), z.new_empty(blocks, len(log_w))
        arrays = *inputs, grad.contiguous(), d_latent, d_mixture, d_log_w
        _mixture_kl_backward[(blocks,)](*arrays, *z.shape, len(log_w), **_latent_block(z))
        return *d_latent, *d_mixture.sum(0), d_log_w.sum(0), None


def _on_device(number: float | Tensor, like: Tensor, dtype: torch.dtype) -> Tensor:
    """A number as a tensor on the device; filled there, since a copy from the host cannot be captured in a graph."""
    return number if isinstance(number, Tensor) else torch.full((), number, dtype=dtype, device=like.device)


def _row_block(n_rows: int) -> dict[str, int]:
    """Rows of a block and the number of warps that work on it."""
    rows = min(triton.next_power_of_2(n_rows), MAX_BLOCK_ROWS)
    return {"ROWS": rows, "num_warps": min(max(rows // 128, 1), 16)}


def _latent_block(z: Tensor) -> dict[str, int]:
    """Cells and latent dimensions of a block."""
    return {"CELLS": 32, "DIMS": triton.next_power_of_2(z.shape[1])}


@triton.jit
def _log_density(z, mean, var):  # type: ignore[no-untyped-def]
    d = z - mean
    return -0.5 * (tl.log(var) + d * d / var) - 0.9189385332046727  # log(2π) / 2


@triton.jit
def _log_mixture(z, means, variances, log_w, at_dim, is_dim, n_dims, n_components):  # type: ignore[no-untyped-def]
    """Log-density of the mixture in each dimension, by a running log-sum-exp over the components."""
    most = tl.full(z.shape, float("-inf"), tl.float32)
    total = tl.zeros(z.shape, tl.float32)
    for k in range(n_components):
        m = tl.load(means + k * n_dims + at_dim, mask=is_dim, other=0)[None, :]
        v = tl.load(variances + k * n_dims + at_dim, mask=is_dim, other=1)[None, :]
        term = tl.load(log_w + k) + _log_density(z, m, v)
        new = tl.where(term > most, term, most)
        total = total * tl.exp(most - new) + tl.exp(term - new)
        most = new
    return most + tl.log(total)


@triton.jit
def _mixture_kl(  # type: ignore[no-untyped-def]
    mean,
    var,
    z,
    means,
    variances,
    log_w,
    share,
    kl,
    n_cells,
    n_dims,
    n_components,
    CELLS: tl.constexpr,
    DIMS: tl.constexpr,
):
    cell = tl.program_id(0) * CELLS + tl.arange(0, CELLS)
    dim = tl.arange(0, DIMS)
    is_dim = dim < n_dims
    inside = (cell < n_cells)[:, None] & is_dim[None, :]
    at = cell[:, None] * n_dims + dim[None, :]
    q_mean, q_var = tl.load(mean + at, mask=inside, other=0), tl.load(var + at, mask=inside, other=1)
    x = tl.load(z + at, mask=inside, other=0)
    s = tl.load(share)
    log_p = _log_mixture(x, means, variances, log_w, dim, is_dim, n_dims, n_components)
    kl_mixture = _log_density(x, q_mean, q_var) - log_p
    kl_normal = 0.5 * (q_var + q_mean * q_mean - 1 - tl.log(q_var))
    value = s * kl_mixture + (1 - s) * kl_normal
    tl.store(kl + cell, tl.sum(tl.where(inside, value, 0), 1), mask=cell < n_cells)


@triton.jit
def _mixture_kl_backward(  # type: ignore[no-untyped-def]
    mean,
    var,
    z,
    means,
    variances,
    log_w,
    share,
    grad,
    d_latent,
    d_mixture,
    d_log_w,
    n_cells,
    n_dims,
    n_components,
    CELLS: tl.constexpr,
    DIMS: tl.constexpr,
):
    block = tl.program_id(0)
    cell = block * CELLS + tl.arange(0, CELLS)
    dim = tl.arange(0, DIMS)
    is_dim = dim < n_dims
    inside = (cell < n_cells)[:, None] & is_dim[None, :]
    at = cell[:, None] * n_dims + dim[None, :]
    q_mean, q_var = tl.load(mean + at, mask=inside, other=0), tl.load(var + at, mask=inside, other=1)
    x = tl.load(z + at, mask=inside, other=0)
    g = tl.load(grad + cell, mask=cell < n_cells, other=0)[:, None]
    s = tl.load(share)
    log_p = _log_mixture(x, means, variances, log_w, dim, is_dim, n_dims, n_components)
    d = (x - q_mean) / q_var
    d_z = -d
    for k in range(n_components):
        m = tl.load(means + k * n_dims + dim, mask=is_dim, other=0)[None, :]
        v = tl.load(variances + k * n_dims + dim, mask=is_dim, other=1)[None, :]
        r = tl.exp(
            tl.load(log_w + k) + _log_density(x, m, v) - log_p
        )  # responsibility of the component in this dimension
        e = (x - m) / v
        d_z += r * e
        place = (block * 2 * n_components + k) * n_dims + dim
        weight = tl.where(inside, -s * g * r, 0)
        tl.store(d_mixture + place, tl.sum(weight * e, 0), mask=is_dim)
        tl.store(d_mixture + place + n_components * n_dims, tl.sum(weight * 0.5 * (e * e - 1 / v), 0), mask=is_dim)
        tl.store(d_log_w + block * n_components + k, tl.sum(weight))
    n = n_cells * n_dims
    tl.store(d_latent + at, g * (s * d + (1 - s) * q_mean), mask=inside)
    tl.store(d_latent + n + at, 0.5 * g * (s * (d * d - 1 / q_var) + (1 - s) * (1 - 1 / q_var)), mask=inside)
    tl.store(d_latent + 2 * n + at, s * g * d_z, mask=inside)


@triton.jit
def _normalise(  # type: ignore[no-untyped-def]
    a,
    c,
    cov_weight,
    scale,
    shift,
    seed,
    y,
    moments,
    n_rows,
    n_units,
    n_cov,
    n_draws,
    least,
    factor,
    eps,
    FEW: tl.constexpr,
    UNITS: tl.constexpr,
    ROWS: tl.constexpr,
):
    """Compute a few units of all cells: add c U, batch normalisation, ReLU, dropout.

    The statistics are taken relative to the first cell, so that little cancels. Without FEW, `c` is c U already.
    """
    draw = tl.program_id(0)
    unit = draw * UNITS + tl.arange(0, UNITS)
    is_unit = unit < n_units
    origin = tl.load(a + unit, mask=is_unit, other=0).to(tl.float32)
    total, squares = tl.zeros((UNITS,), tl.float32), tl.zeros((UNITS,), tl.float32)
    for first in range(0, n_rows, ROWS):
        row = first + tl.arange(0, ROWS)
        inside = (row < n_rows)[:, None] & is_unit[None, :]
        at = row[:, None] * n_units + unit[None, :]
        v = tl.load(a + at, mask=inside, other=0).to(tl.float32)
        if FEW:
            for k in range(n_cov):
                u = tl.load(cov_weight + k * n_units + unit, mask=is_unit, other=0)
                v += tl.load(c + row * n_cov + k, mask=row < n_rows, other=0)[:, None] * u[None, :]
        else:
            v += tl.load(c + at, mask=inside, other=0)
        rounded = v.to(a.dtype.element_ty)
        tl.store(a + at, rounded, mask=inside)
        d = tl.where(inside, rounded.to(tl.float32) - origin[None, :], 0)
        total += tl.sum(d, 0)
        squares += tl.sum(d * d, 0)
    d = total / n_rows
    mean = d + origin
    var = squares / n_rows - d * d
    var = tl.where(var < 0, 0, var)  # tl.maximum would turn NaN into 0
    rstd = 1 / tl.sqrt(var + eps)
    tl.store(moments + unit, mean, mask=is_unit)
    tl.store(moments + n_units + unit, var, mask=is_unit)
    tl.store(moments + 2 * n_units + unit, rstd, mask=is_unit)
    slope = factor * tl.load(scale + unit, mask=is_unit, other=0) * rstd
    offset = factor * tl.load(shift + unit, mask=is_unit, other=0) - mean * slope
    start = tl.load(seed).to(tl.uint64)
    tl.debug_barrier()
    for first in range(0, n_rows, ROWS):
        row = first + tl.arange(0, ROWS)
        inside = (row < n_rows)[:, None] & is_unit[None, :]
        at = row[:, None] * n_units + unit[None, :]
        v = tl.load(a + at, mask=inside, other=0).to(tl.float32) * slope[None, :] + offset[None, :]
        z = start + (row * n_draws + draw + 1).to(tl.uint64) * 0x9E3779B97F4A7C15  # as in `dropped`
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB
        z = z ^ (z >> 31)
        bits = (z[:, None] >> (16 * tl.arange(0, UNITS)).to(tl.uint64)[None, :]) & 0xFFFF
        off = (v <= 0) | (bits.to(tl.int32) < least)
        tl.store(y + at, tl.where(off, 0, v), mask=inside)


@triton.jit
def _normalise_backward(  # type: ignore[no-untyped-def]
    grad,
    y,
    a,
    c,
    moments,
    scale,
    d_a,
    d_cov_weight,
    d_norm,
    n_rows,
    n_units,
    n_cov,
    factor,
    FEW: tl.constexpr,
    UNITS: tl.constexpr,
    ROWS: tl.constexpr,
):
    """Compute the gradients of a, scale, shift and, with FEW, of U for a few units of all cells."""
    unit = tl.program_id(0) * UNITS + tl.arange(0, UNITS)
    is_unit = unit < n_units
    mean = tl.load(moments + unit, mask=is_unit, other=0)
    rstd = tl.load(moments + 2 * n_units + unit, mask=is_unit, other=0)
    d_scale, d_shift = tl.zeros((UNITS,), tl.float32), tl.zeros((UNITS,), tl.float32)
    for first in range(0, n_rows, ROWS):
        row = first + tl.arange(0, ROWS)
        inside = (row < n_rows)[:, None] & is_unit[None, :]
        at = row[:, None] * n_units + unit[None, :]
        g = tl.load(grad + at, mask=inside, other=0).to(tl.float32)
        g = tl.where(tl.load(y + at, mask=inside, other=0).to(tl.float32) != 0, g, 0)
        d = tl.where(inside, tl.load(a + at, mask=inside, other=0).to(tl.float32) - mean[None, :], 0)
        d_shift += tl.sum(g, 0)
        d_scale += tl.sum(g * d, 0)
    d_shift *= factor
    d_scale *= factor * rstd
    tl.store(d_norm + unit, d_scale, mask=is_unit)
    tl.store(d_norm + n_units + unit, d_shift, mask=is_unit)
    slope = tl.load(scale + unit, mask=is_unit, other=0) * rstd
    tilt = -slope * d_scale * rstd / n_rows
    offset = -slope * d_shift / n_rows - tilt * mean
    for first in range(0, n_rows, ROWS):
        row = first + tl.arange(0, ROWS)
        inside = (row < n_rows)[:, None] & is_unit[None, :]
        at = row[:, None] * n_units + unit[None, :]
        g = tl.load(grad + at, mask=inside, other=0).to(tl.float32)
        g = tl.where(tl.load(y + at, mask=inside, other=0).to(tl.float32) != 0, g, 0)
        v = tl.load(a + at, mask=inside, other=0).to(tl.float32)
        d = (factor * slope)[None, :] * g + tilt[None, :] * v + offset[None, :]
        tl.store(d_a + at, d, mask=inside)
        if FEW:
            tl.debug_barrier()  # other threads read the sums of the previous block than wrote them
            for k in range(n_cov):
                w = tl.load(c + row * n_cov + k, mask=row < n_rows, other=0)
                place = d_cov_weight + k * n_units + unit
                so_far = tl.load(place, mask=is_unit & (first > 0), other=0)
                tl.store(place, so_far + tl.sum(w[:, None] * tl.where(inside, d, 0), 0), mask=is_unit)


@triton.jit
def _gene_sums(x, w, sums, n_cells, n_genes, ROWS: tl.constexpr, GENES: tl.constexpr):  # type: ignore[no-untyped-def]
    gene = tl.program_id(0) * GENES + tl.arange(0, GENES)
    is_gene = gene < n_genes
    total, squares = tl.zeros((GENES,), tl.float32), tl.zeros((GENES,), tl.float32)
    for first in range(0, n_cells, ROWS):
        cell = first + tl.arange(0, ROWS)
        inside = (cell < n_cells)[:, None] & is_gene[None, :]
        v = tl.load(x + cell[:, None] * n_genes + gene[None, :], mask=inside, other=0).to(tl.float32)
        wv = tl.load(w + cell, mask=cell < n_cells, other=0)[:, None] * v
        total += tl.sum(wv, 0)
        squares += tl.sum(wv * v, 0)
    tl.store(sums + gene, total, mask=is_gene)
    tl.store(sums + n_genes + gene, squares, mask=is_gene)


@triton.jit
def _dense_rows(starts, columns, values, rows, x, n_genes, VALUES: tl.constexpr):  # type: ignore[no-untyped-def]
    cell = tl.program_id(0)
    row = tl.load(rows + cell)
    start, end = tl.load(starts + row), tl.load(starts + row + 1)
    for first in range(start, end, VALUES):
        k = first + tl.arange(0, VALUES)
        gene = tl.load(columns + k, mask=k < end, other=0)
        tl.store(x + cell * n_genes + gene, tl.load(values + k, mask=k < end, other=0), mask=k < end)
