"""Several ranks in one process, for the tests: each is a thread, and sums wait for all."""

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import torch

from sysvi._core.ranks import Ranks


@dataclass(frozen=True)
class ThreadRanks(Ranks):
    """Ranks that exchange values over a list, between two waits at a barrier."""

    board: list[Any] | None = None
    barrier: threading.Barrier | None = None

    def gather(self, value):
        self.board[self.rank] = value
        self.barrier.wait(60)
        values = list(self.board)
        self.barrier.wait(60)
        return values

    def total(self, x):
        return x.copy_(torch.stack(self.gather(x.clone())).sum(0))

    def any(self, flag):
        return any(self.gather(flag))


def in_ranks(size, function):
    """Results of `function(ranks)` in each of so many ranks; if one fails, all do."""
    board, barrier = [None] * size, threading.Barrier(size)

    def run(rank):
        try:
            return function(ThreadRanks(rank, size, board, barrier))
        except BaseException:
            barrier.abort()
            raise

    with ThreadPoolExecutor(size) as pool:
        futures = [pool.submit(run, rank) for rank in range(size)]
        errors = [error for future in futures if (error := future.exception()) is not None]
        for error in sorted(errors, key=lambda error: isinstance(error, threading.BrokenBarrierError)):
            raise error
        return [future.result() for future in futures]
