"""What torchrun, and other launchers of several processes that set the same variables, say of this process."""

from __future__ import annotations

import os


def n_launched() -> int:
    """Number of processes that were launched together; 1 without a launcher."""
    return _launched()[1]


def launched_rank() -> int:
    """Number of this process among them, from 0."""
    return _launched()[0]


def _launched() -> tuple[int, int]:
    rank, size = (os.environ.get(name, "") for name in ("RANK", "WORLD_SIZE"))
    return (int(rank), int(size)) if rank.isdecimal() and size.isdecimal() else (0, 1)
