"""Random generators: an independent stream for each purpose, all derived from the user's seed."""

from __future__ import annotations

import zlib

import numpy as np
import torch


def generator(seed: int, stream: str, device: torch.device | str = "cpu") -> torch.Generator:
    """Create the random generator of one stream.

    Streams are independent: drawing more numbers from "noise" does not change the order of the cells. The global
    generators of torch and NumPy are neither used nor changed.

    Parameters
    ----------
    seed
        The user's seed.
    stream
        Purpose of the random numbers, such as ``"weights"``, ``"order"`` or ``"noise"``.
    device
        Device on which the numbers are drawn.

    Examples
    --------
    >>> first, second = (torch.rand(1, generator=generator(0, "noise")) for _ in range(2))
    >>> bool(first == second)
    True
    """
    state = np.random.SeedSequence([seed, zlib.crc32(stream.encode())]).generate_state(1, np.uint64)[0]
    return torch.Generator(device=device).manual_seed(int(state) & (2**63 - 1))
