"""Random generators: one independent stream per use, all derived from the user's seed, none global."""

from __future__ import annotations

import zlib

import numpy as np
import torch


def generator(seed: int, stream: str, device: torch.device | str = "cpu") -> torch.Generator:
    """A torch generator for `stream` ("weights", "order", "noise", ...), determined by `seed` alone.

    Streams do not depend on one another: drawing more noise never changes the order of the cells.
    """
    state = np.random.SeedSequence([seed, zlib.crc32(stream.encode())]).generate_state(1, np.uint64)[0]
    return torch.Generator(device=device).manual_seed(int(state) & (2**63 - 1))
