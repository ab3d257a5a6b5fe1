"""Several processes that train one model together: plain torch.distributed, as torchrun and SLURM start it.

All processes take the same steps with the same weights. A process computes its own cells of each minibatch, and what
depends on all of them is summed over the processes. With one process nothing of this module has an effect.

Shapes: n cells, B cells of a minibatch.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from scipy import sparse
from torch import Tensor
from torch.distributed.rendezvous import rendezvous

from sysvi._core.errors import InputError, LostProcessError
from sysvi._core.events import OnEvent, ignore_event
from sysvi._core.launcher import n_launched

SECONDS_TO_JOIN = 120.0  # in which all processes must have started
BLOCK_CELLS = 512  # consecutive cells that belong to one process, as row blocks on disk
BLOCKS_PER_RANK = 32  # at least, of few cells, so that minibatches are shared out evenly
SHORT_VALUES = 2**15  # up to so many, of all processes, are gathered and then summed, which is faster than gloo's sum
FAILURES = "sysvi/failures"


@dataclass(frozen=True)
class Ranks:
    """The processes of a run, and which of them this is. This class is that of a single process.

    Parameters
    ----------
    rank
        Number of this process, from 0.
    size
        Number of processes.
    """

    rank: int = 0
    size: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this process writes, prints and shows progress."""
        return self.rank == 0

    def total(self, x: Tensor) -> Tensor:
        """Sum a tensor over the processes, in place."""
        return x

    def gather(self, value: Any) -> list[Any]:
        """The values of all processes, in the order of their numbers."""
        return [value]

    def any(self, flag: bool) -> bool:
        """Whether it is so in any process."""
        return flag

    def sum_numbers(self, x: np.ndarray) -> np.ndarray:
        """Sum an array of numbers over the processes."""
        return x if self.size == 1 else self.total(torch.from_numpy(x.copy())).numpy()

    def only_first(self, on_event: OnEvent) -> OnEvent:
        """The callback of the first process; in others, one that shows nothing but listens if that of the first does.

        Work that is left out if nobody listens is then left out by all processes or by none.
        """
        if self.size == 1:
            return on_event
        listens = self.gather(on_event is not ignore_event)[0]
        return (on_event if self.is_first else lambda event: None) if listens else ignore_event

    def only_first_warns(self) -> AbstractContextManager[object]:
        """Show no warnings in other processes than the first."""
        return nullcontext() if self.is_first else warnings.catch_warnings(action="ignore")


ALONE = Ranks()


@dataclass(frozen=True)
class ProcessRanks(Ranks):
    """The processes of torch's process group.

    Parameters
    ----------
    rank, size
        As in `Ranks`.
    on_cpu
        Group that sums what is on the CPU, by gloo; tensors on other devices are summed by the process group itself.
    """

    on_cpu: dist.ProcessGroup | None = None

    def total(self, x: Tensor) -> Tensor:
        """See `Ranks`."""
        with _lost_process_as_error(self.size):
            if x.device.type != "cpu":
                dist.all_reduce(x)
            elif self.size * x.numel() > SHORT_VALUES:
                dist.all_reduce(x, group=self.on_cpu)
            else:
                all_values = [torch.empty_like(x) for _ in range(self.size)]
                dist.all_gather(all_values, x, group=self.on_cpu)
                torch.sum(torch.stack(all_values), 0, out=x)  # in the same order in each process
        return x

    def gather(self, value: Any) -> list[Any]:
        """See `Ranks`."""
        values: list[Any] = [None] * self.size
        with _lost_process_as_error(self.size):
            dist.all_gather_object(values, value, group=self.on_cpu)
        return values

    def any(self, flag: bool) -> bool:
        """See `Ranks`."""
        return bool(self.total(torch.tensor(int(flag))) > 0)


@contextmanager
def _lost_process_as_error(size: int) -> Iterator[None]:
    """Turn the error of a communication that failed into one sentence."""
    try:
        yield
    except RuntimeError as error:
        raise LostProcessError(
            f"One of the {size} processes has ended or cannot be reached, so that all end; start all of them again."
        ) from error


# -- the process group ------------------------------------------------------------------------------------------------

_known: tuple[dist.ProcessGroup, Ranks] | None = None  # of the present process group


def current_ranks() -> Ranks:
    """The processes of the process group that was initialised; a single one without any."""
    global _known
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return ALONE
    world = dist.group.WORLD
    assert world is not None
    if _known is None or _known[0] is not world:
        with _lost_process_as_error(dist.get_world_size()):
            _known = world, ProcessRanks(dist.get_rank(), dist.get_world_size(), dist.new_group(backend="gloo"))
    return _known[1]


@dataclass(frozen=True)
class Launched:
    """The processes that a launcher has started, joined or not.

    Parameters
    ----------
    store
        Where they meet; None for a single process.
    """

    store: dist.Store | None = None

    def is_first_to_fail(self) -> bool:
        """Whether this process is the first that fails, which therefore says why; counts the failure."""
        if self.store is None:
            return True
        try:
            return self.store.add(FAILURES, 1) == 1
        except RuntimeError:  # the process that kept the store has ended without a word
            return True


@contextmanager
def join_launched() -> Iterator[Launched]:
    """Join the processes that a launcher has started into a process group.

    Raises
    ------
    InputError
        If they do not find each other within two minutes, or the port is taken.
    """
    if n_launched() == 1 or dist.is_initialized():
        yield Launched()
        return
    where = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
    limit = timedelta(seconds=SECONDS_TO_JOIN)
    try:
        store, rank, size = next(rendezvous("env://", timeout=limit))
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        dist.init_process_group(backend, store=dist.PrefixStore("sysvi", store), rank=rank, world_size=size)
        current_ranks()
    except (RuntimeError, ValueError, LostProcessError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"The {n_launched()} processes cannot be joined at {where} ({reason}): check that all were started with "
            "the same address and that its port is free, or choose another one (torchrun --master-port)."
        ) from error
    yield Launched(store)
    dist.destroy_process_group()  # not after an error: others may wait for this process, and notice its end


# -- what a process has of the cells ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Share:
    """Which cells belong to a process: blocks of consecutive cells, in turn.

    Parameters
    ----------
    ranks
        The processes.
    block
        Number of cells of a block.

    Examples
    --------
    >>> share = Share(Ranks(rank=1, size=2), block=3)
    >>> share.rows(10).tolist(), share.owns(np.array([8, 9])).tolist()
    ([3, 4, 5, 9], [False, True])
    """

    ranks: Ranks
    block: int

    @classmethod
    def of(cls, ranks: Ranks, n_cells: int) -> Share | None:
        """The share of this process in n cells; None if there is one process."""
        if ranks.size == 1:
            return None
        return cls(ranks, max(1, min(BLOCK_CELLS, n_cells // (BLOCKS_PER_RANK * ranks.size))))

    def owns(self, rows: Any) -> Any:
        """Whether cells belong to this process: an array or tensor, (B,) -> (B,) bool."""
        return rows // self.block % self.ranks.size == self.ranks.rank

    def runs(self, n_cells: int) -> Iterator[tuple[int, int]]:
        """First cell, and last + 1, of each block of this process."""
        for start in range(self.ranks.rank * self.block, n_cells, self.ranks.size * self.block):
            yield start, min(start + self.block, n_cells)

    def rows(self, n_cells: int) -> np.ndarray:
        """All cells of this process, rising."""
        return np.flatnonzero(self.owns(np.arange(n_cells)))

    def part(self, index: Tensor) -> Part:
        """The part of this process in a minibatch of the cells in `index`, (B,)."""
        return Part(self.ranks, self.owns(index).nonzero()[:, 0], len(index))

    def gather_rows(self, rows: np.ndarray, read: Callable[[np.ndarray], sparse.csr_matrix]) -> sparse.csr_matrix:
        """Expression of any cells, in any order, for all processes; each reads its own with `read`."""
        places = np.flatnonzero(self.owns(rows))
        parts = self.ranks.gather((places, read(rows[places])))
        order = np.argsort(np.concatenate([places for places, _ in parts]))
        return sparse.csr_matrix(sparse.vstack([x for _, x in parts], format="csr")[order])


@dataclass(frozen=True)
class Part:
    """The cells of a minibatch that one of several processes computes.

    Parameters
    ----------
    ranks
        The processes.
    places
        Positions of these cells in the minibatch, rising, (cells of the process,) int64.
    n_cells
        Number of cells of the whole minibatch, B.
    """

    ranks: Ranks
    places: Tensor
    n_cells: int

    def total(self, x: Tensor) -> Tensor:
        """Sum over the processes; a new tensor, through which gradients pass."""
        return _Total.apply(x, self.ranks)


class _Total(torch.autograd.Function):
    """The sum over processes. Each process adds its own terms to the loss, so that gradients are summed too."""

    @staticmethod
    def forward(ctx, x, ranks):  # type: ignore[no-untyped-def]
        """A tensor -> its sum."""
        ctx.ranks = ranks
        return ranks.total(x.clone())

    @staticmethod
    def backward(ctx, grad):  # type: ignore[no-untyped-def]
        """Gradient of the sum -> gradient of this process's tensor."""
        return ctx.ranks.total(grad.clone()), None
