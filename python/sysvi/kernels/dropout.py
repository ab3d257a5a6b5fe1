"""Which units dropout drops: sixteen bits of a SplitMix64 stream for each, the same on every device.

The stream is a function of seed and position alone (Steele, Lea and Flood, OOPSLA 2014), so that a kernel can make its
bits where it needs them. Shapes: B cells, H units.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

GAMMA, MIX_1, MIX_2 = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
UNITS_A_DRAW = 4


def threshold(rate: float) -> int:
    """A unit is dropped when its sixteen bits are below this; so the rate is a multiple of 2^-16."""
    return min(round(rate * 2**16), 2**16 - 1)


def kept_share(rate: float) -> float:
    """Fraction of units kept, by which the kept ones are divided."""
    return 1 - threshold(rate) / 2**16


def dropped(shape: tuple[int, int], rate: float, seed: int | Tensor, device: torch.device) -> Tensor:
    """(B, H) mask of the units to drop. Each row starts at a draw of its own. The seed may be on the device, int64."""
    n_rows, n_units = shape
    draws_a_row = -(-n_units // UNITS_A_DRAW)
    place = torch.arange(1, n_rows * draws_a_row + 1, device=device)
    z = place * _signed(GAMMA) + (
        seed if isinstance(seed, Tensor) else _signed(seed)
    )  # int64 wraps around as uint64 does
    z = (z ^ _shift(z, 30)) * _signed(MIX_1)
    z = (z ^ _shift(z, 27)) * _signed(MIX_2)
    z = z ^ _shift(z, 31)
    bits = torch.stack([_shift(z, 16 * k) & 0xFFFF for k in range(UNITS_A_DRAW)], 1)
    return bits.view(n_rows, -1)[:, :n_units] < threshold(rate)


def _shift(z: Tensor, by: int) -> Tensor:
    """Shift right as of an unsigned number."""
    return z if by == 0 else (z >> by) & ((1 << (64 - by)) - 1)


def _signed(x: int) -> int:
    """The int64 of the same bits."""
    return int(np.uint64(x).astype(np.int64))
