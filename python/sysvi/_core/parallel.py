"""Threads and CUDA streams: who computes what at the same time."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from queue import SimpleQueue

import torch

_lending = threading.Lock()
_streams: defaultdict[torch.device, list[torch.cuda.Stream]] = defaultdict(list)  # given back, by device


@contextmanager
def restore_thread_count() -> Iterator[None]:
    """Give torch its number of threads back: numba, inside scanpy and umap, sets the one they share."""
    threads = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def n_parallel_workers(device: torch.device) -> int:
    """How many Python threads compute side by side: as many as torch has threads, and one for a graphics card."""
    return torch.get_num_threads() if device.type == "cpu" else 1


Task = Callable[[], object]
PairExecutor = Callable[[Task, Task], None]  # does two things of which neither waits for the other, and then returns


def do_nothing() -> None:
    """Not a thing."""


def run_sequentially(first: Task, second: Task) -> None:
    """One after the other.

    Examples
    --------
    >>> run_sequentially(lambda: print(1), lambda: print(2))
    1
    2
    """
    first()
    second()


@contextmanager
def two_thread_executor() -> Iterator[PairExecutor]:
    """One in this thread, the other in a second one; torch's threads are shared out between the two.

    torch's own threads wait for one another at the end of each operation, which is long where operations are short.
    With two of them, each side is left with one: it computes the same bits as without another beside it.
    """
    tasks: SimpleQueue[Task | None] = SimpleQueue()
    ends: SimpleQueue[BaseException | None] = SimpleQueue()

    def work() -> None:
        while (task := tasks.get()) is not None:
            try:
                task()
                ends.put(None)
            except BaseException as error:
                ends.put(error)

    def pair_executor(first: Task, second: Task) -> None:
        tasks.put(second)
        try:
            first()
        finally:
            error = ends.get()  # nothing goes on unseen
        if error is not None:
            raise error

    with restore_thread_count():
        torch.set_num_threads(max(1, torch.get_num_threads() // 2))
        helper = threading.Thread(target=work, name="sysvi beside", daemon=True)
        helper.start()
        try:
            yield pair_executor
        finally:
            tasks.put(None)
            helper.join()


class TwoStreamExecutor:
    """One on the card's present stream, the other on a second one beside it."""

    def __init__(self, second: torch.cuda.Stream):
        self.stream = second

    def __call__(self, first: Task, second: Task) -> None:
        """What the two leave, the present stream may use; what they share must be kept until both have ended."""
        here = torch.cuda.current_stream(self.stream.device)
        self.stream.wait_stream(here)
        with torch.cuda.stream(self.stream):
            second()
        first()
        here.wait_stream(self.stream)


@contextmanager
def pair_executor(device: torch.device, wanted: bool = True) -> Iterator[PairExecutor]:
    """The device's way to do two things at once, or one after the other where that is not wanted."""
    if not wanted:
        yield run_sequentially
    elif device.type == "cuda":
        with borrow_stream(device) as second:
            yield TwoStreamExecutor(second)
    else:
        with two_thread_executor() as beside:
            yield beside


@contextmanager
def borrow_stream(device: torch.device) -> Iterator[torch.cuda.Stream]:
    """A stream that nobody else has prefetch.

    torch hands out the same 32 again and again, whoever still uses them; we come back to those that we gave back.
    """
    with _lending:
        stream = _streams[device].pop() if _streams[device] else torch.cuda.Stream(device)
    try:
        yield stream
    finally:
        with _lending:
            _streams[device].append(stream)


@contextmanager
def dedicated_stream(device: torch.device) -> Iterator[None]:
    """Let a graphics card do this thread's work beside that of others, after all that it was told to do before.

    At the end the thread waits until the card is done. Elsewhere nothing happens.
    """
    if device.type != "cuda":
        yield
        return
    with borrow_stream(device) as stream:
        stream.wait_stream(torch.cuda.current_stream(device))
        try:
            with torch.cuda.stream(stream):
                yield
        finally:
            stream.synchronize()


@contextmanager
def single_thread_pool(device: torch.device, n_threads: int | None = None) -> Iterator[ThreadPoolExecutor]:
    """A pool of Python threads, `n_parallel_workers` where not said otherwise, in each of which torch has one thread.

    For many small operations: torch's threads wait for one another at the end of each, for long on a busy machine.
    """
    with restore_thread_count(), ThreadPoolExecutor(n_threads or n_parallel_workers(device)) as pool:
        torch.set_num_threads(1)
        try:
            yield pool
        finally:
            pool.shutdown(cancel_futures=True)  # an error, or Ctrl-C, waits for what has begun and no more
