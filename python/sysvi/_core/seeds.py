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
    return torch.Generator(device=device).manual_seed(integer_seed(seed, stream))


def seed_of_32_bits(seed: int) -> int:
    """The seed for libraries that take no seed of 2^32 or more (scikit-learn, UMAP): smaller ones stay as they are.

    Examples
    --------
    >>> seed_of_32_bits(7), seed_of_32_bits(2**32) < 2**32
    (7, True)
    """
    return seed if seed < 2**32 else integer_seed(seed, "32 bits") >> 31


def integer_seed(seed: int, stream: str) -> int:
    """The seed of one stream as a whole number below 2^63.

    Examples
    --------
    >>> integer_seed(0, "noise") == integer_seed(0, "noise"), integer_seed(0, "noise") == integer_seed(1, "noise")
    (True, False)
    """
    state = np.random.SeedSequence([seed, zlib.crc32(stream.encode())]).generate_state(1, np.uint64)[0]
    return int(state) & (2**63 - 1)


def member_seeds(seed: int, stream: str, n: int) -> list[int]:
    """A seed for each of n models that are trained from one seed: 31 bits, which fit R's integers.

    Examples
    --------
    >>> seeds = member_seeds(0, "member", 3)
    >>> seeds[:2] == member_seeds(0, "member", 2), max(seeds) < 2**31
    (True, True)
    """
    return [integer_seed(seed, f"{stream} {i}") >> 32 for i in range(n)]
