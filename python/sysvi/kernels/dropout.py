"""Which units dropout sets to 0: sixteen random bits for each, the same on every device.

The bits come from a SplitMix64 stream (Steele, Lea and Flood, OOPSLA 2014), in which a value depends on the seed and on
its position alone, so that every kernel can compute the bits that it needs. Shapes: B cells, H hidden units.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

GAMMA, MIX_1, MIX_2 = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
UNITS_PER_DRAW = 4  # a draw has 64 bits


def threshold(rate: float) -> int:
    """The number below which a unit's sixteen bits drop it; so the rate is rounded to a multiple of 2^-16."""
    return min(round(rate * 2**16), 2**16 - 1)


def kept_share(rate: float) -> float:
    """Fraction of units that are kept, by which their values are divided."""
    return 1 - threshold(rate) / 2**16


def dropped(
    shape: tuple[int, int], rate: float, seed: int | Tensor, device: torch.device, places: Tensor | None = None
) -> Tensor:
    """Mask of the units to drop, (B, H). Each row starts with a new draw. The seed may be an int64 tensor.

    `places` are the positions of the rows in the minibatch, (B,); by default 0, 1, ...
    """
    n_rows, n_units = shape
    draws_per_row = -(-n_units // UNITS_PER_DRAW)
    places = torch.arange(n_rows, device=device) if places is None else places
    position = (places[:, None] * draws_per_row + torch.arange(1, draws_per_row + 1, device=device)).flatten()
    # Arithmetic of int64 wraps around as that of uint64 does.
    z = position * _as_int64(GAMMA) + (seed if isinstance(seed, Tensor) else _as_int64(seed))
    z = (z ^ _shift_right(z, 30)) * _as_int64(MIX_1)
    z = (z ^ _shift_right(z, 27)) * _as_int64(MIX_2)
    z = z ^ _shift_right(z, 31)
    bits = torch.stack([_shift_right(z, 16 * k) & 0xFFFF for k in range(UNITS_PER_DRAW)], 1)
    return bits.view(n_rows, UNITS_PER_DRAW * draws_per_row)[:, :n_units] < threshold(rate)


def _shift_right(z: Tensor, n_bits: int) -> Tensor:
    """Shift right without extending the sign, as for unsigned integers."""
    return z if n_bits == 0 else (z >> n_bits) & ((1 << (64 - n_bits)) - 1)


def _as_int64(x: int) -> int:
    """The int64 with the bits of a uint64."""
    return int(np.uint64(x).astype(np.int64))
