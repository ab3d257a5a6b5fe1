"""Kernels for graphics cards, in Triton, which comes with torch's CUDA builds for Linux.

Each takes the place of tens of torch's operations, of which a card needs longer to start one than to compute it.
Shapes: B cells of a minibatch, H units, C covariate width, G genes.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from sysvi.dropout import UNITS_A_DRAW, kept_share, threshold

MOST_ROWS = 2048  # in registers at once


def probe(device: torch.device) -> None:
    """Compile and run a kernel; an error says why kernels cannot be had."""
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
    eps: float,
) -> tuple[Tensor, Tensor]:
    """As `sysvi.fused.normalise`."""
    n_rows, n_units = a.shape
    y, moments = torch.empty_like(a, dtype=out), scale.new_empty(3, n_units)
    seed = torch.as_tensor(seed, device=a.device)
    factor, least = 1 / kept_share(rate), threshold(rate)
    n_draws = triton.cdiv(n_units, UNITS_A_DRAW)
    rows = min(triton.next_power_of_2(n_rows), MOST_ROWS)
    arrays = a, c @ cov_weight, scale, shift, seed, y, moments
    _normalise[(n_draws,)](*arrays, n_rows, n_units, n_draws, least, factor, eps, ROWS=rows, UNITS=UNITS_A_DRAW)
    return y, moments


def back(
    grad: Tensor, y: Tensor, a: Tensor, c: Tensor, moments: Tensor, scale: Tensor, rate: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """As `sysvi.fused.back`; the gradient of U is of the rounded one of a."""
    n_rows, n_units = a.shape
    d_a, d_norm = torch.empty_like(a), scale.new_empty(2, n_units)
    rows = min(triton.next_power_of_2(n_rows), MOST_ROWS)
    arrays = grad.contiguous(), y, a, moments, scale, d_a, d_norm
    grid = (triton.cdiv(n_units, UNITS_A_DRAW),)
    _back[grid](*arrays, n_rows, n_units, 1 / kept_share(rate), ROWS=rows, UNITS=UNITS_A_DRAW)
    d_scale, d_shift = d_norm
    return d_a, (c.T.to(a.dtype) @ d_a).to(scale.dtype), d_scale, d_shift


def gene_sums(x: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
    """As `sysvi.expression.gene_sums`, of dense expression (B, G)."""
    sums = w.new_empty(2, x.shape[1])
    _gene_sums[(triton.cdiv(x.shape[1], 16),)](x, w, sums, *x.shape, ROWS=256, GENES=16)
    sum_x, sum_xx = sums
    return sum_x, sum_xx


def dense(starts: Tensor, places: Tensor, values: Tensor, index: Tensor, n_genes: int, dtype: torch.dtype) -> Tensor:
    """Rows `index` (B,) of CSR expression as a dense (B, n_genes); no gene may be stored twice in a cell."""
    x = torch.zeros(len(index), n_genes, dtype=dtype, device=index.device)
    _dense[(len(index),)](starts, places, values, index, x, n_genes, VALUES=256)
    return x


@triton.jit
def _normalise(  # type: ignore[no-untyped-def]
    a,
    cu,
    scale,
    shift,
    seed,
    y,
    moments,
    n_rows,
    n_units,
    n_draws,
    least,
    factor,
    eps,
    ROWS: tl.constexpr,
    UNITS: tl.constexpr,
):
    """A few units of all cells: c U comes in, statistics around the first cell, batch norm, ReLU, dropout."""
    draw = tl.program_id(0)
    unit = draw * UNITS + tl.arange(0, UNITS)
    is_unit = unit < n_units
    origin = tl.load(a + unit, mask=is_unit, other=0).to(tl.float32)
    total, squares = tl.zeros((UNITS,), tl.float32), tl.zeros((UNITS,), tl.float32)
    for first in range(0, n_rows, ROWS):
        row = first + tl.arange(0, ROWS)
        inside = (row < n_rows)[:, None] & is_unit[None, :]
        at = row[:, None] * n_units + unit[None, :]
        v = tl.load(a + at, mask=inside, other=0).to(tl.float32) + tl.load(cu + at, mask=inside, other=0)
        v = v.to(a.dtype.element_ty)
        tl.store(a + at, v, mask=inside)
        d = tl.where(inside, v.to(tl.float32) - origin[None, :], 0)
        total += tl.sum(d, 0)
        squares += tl.sum(d * d, 0)
    d = total / n_rows
    mean = d + origin
    var = squares / n_rows - d * d
    var = tl.where(var < 0, 0, var)  # not a maximum, which would hide NaN
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
        z = start + (row * n_draws + draw + 1).to(tl.uint64) * 0x9E3779B97F4A7C15  # as in `sysvi.dropout`
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB
        z = z ^ (z >> 31)
        bits = (z[:, None] >> (16 * tl.arange(0, UNITS)).to(tl.uint64)[None, :]) & 0xFFFF
        off = (v <= 0) | (bits.to(tl.int32) < least)
        tl.store(y + at, tl.where(off, 0, v), mask=inside)


@triton.jit
def _back(  # type: ignore[no-untyped-def]
    grad, y, a, moments, scale, d_a, d_norm, n_rows, n_units, factor, ROWS: tl.constexpr, UNITS: tl.constexpr
):
    """A few units of all cells: from the gradient of y those of a, scale and shift."""
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
        tl.store(d_a + at, (factor * slope)[None, :] * g + tilt[None, :] * v + offset[None, :], mask=inside)


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
def _dense(starts, places, values, index, x, n_genes, VALUES: tl.constexpr):  # type: ignore[no-untyped-def]
    cell = tl.program_id(0)
    row = tl.load(index + cell)
    start, end = tl.load(starts + row), tl.load(starts + row + 1)
    for first in range(start, end, VALUES):
        k = first + tl.arange(0, VALUES)
        gene = tl.load(places + k, mask=k < end, other=0)
        tl.store(x + cell * n_genes + gene, tl.load(values + k, mask=k < end, other=0), mask=k < end)
