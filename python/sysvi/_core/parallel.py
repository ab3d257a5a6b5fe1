"""Threads and CUDA streams: running work concurrently on the CPU or on a GPU."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from queue import SimpleQueue

import torch
from threadpoolctl import threadpool_limits

one_blas_thread = threadpool_limits.wrap(limits=1, user_api="blas")  # the same bits of NumPy on any number of cores

_stream_lock = threading.Lock()
_idle_streams: defaultdict[torch.device, list[torch.cuda.Stream]] = defaultdict(list)

Task = Callable[[], object]
PairExecutor = Callable[[Task, Task], None]  # runs two independent tasks and returns when both are done


@contextmanager
def restore_thread_count() -> Iterator[None]:
    """Restore torch's number of threads on exit: numba, used by scanpy and umap-learn, changes this shared setting."""
    threads = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch use one thread, so that results have the same bits whatever its number of threads."""
    with restore_thread_count():
        torch.set_num_threads(1)
        yield


def n_parallel_workers(device: torch.device) -> int:
    """Number of Python threads that may compute at the same time: torch's number of threads on the CPU, 1 on a GPU."""
    return torch.get_num_threads() if device.type == "cpu" else 1


def do_nothing() -> None:
    """Task without any work: the default where a task is optional."""


def run_sequentially(first: Task, second: Task) -> None:
    """Pair executor that runs one task after the other.

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
    """Create a pair executor that runs the second task in a helper thread, with torch's threads split between both.

    torch's threads synchronise at the end of each operation, which is slow for short operations. With two threads in
    all, each task has one: no synchronisation, and the same bits as without the other task.
    """
    tasks: SimpleQueue[Task | None] = SimpleQueue()
    outcomes: SimpleQueue[BaseException | None] = SimpleQueue()

    def run_tasks() -> None:
        while (task := tasks.get()) is not None:
            try:
                task()
                outcomes.put(None)
            except BaseException as error:
                outcomes.put(error)

    def run_pair(first: Task, second: Task) -> None:
        tasks.put(second)
        try:
            first()
        finally:
            error = outcomes.get()  # always wait for the second task, also if the first one fails
        if error is not None:
            raise error

    with restore_thread_count():
        torch.set_num_threads(max(1, torch.get_num_threads() // 2))
        helper = threading.Thread(target=run_tasks, name="sysvi second task", daemon=True)
        helper.start()
        try:
            yield run_pair
        finally:
            tasks.put(None)
            helper.join()


class TwoStreamExecutor:
    """Pair executor that enqueues the first task on the current CUDA stream and the second on another one.

    The current stream waits for the second task, so later operations may use the results of both. Tensors that both
    tasks use must not be freed before both have ended.

    Parameters
    ----------
    second_stream
        CUDA stream for the second task.
    """

    def __init__(self, second_stream: torch.cuda.Stream):
        self.second_stream = second_stream

    def __call__(self, first: Task, second: Task) -> None:
        """Run both tasks."""
        current = torch.cuda.current_stream(self.second_stream.device)
        self.second_stream.wait_stream(current)
        with torch.cuda.stream(self.second_stream):
            second()
        first()
        current.wait_stream(self.second_stream)


@contextmanager
def pair_executor(device: torch.device, concurrent: bool = True) -> Iterator[PairExecutor]:
    """Create the pair executor for a device: two threads on the CPU, two CUDA streams on a GPU.

    Parameters
    ----------
    device
        Device on which the tasks compute.
    concurrent
        False to run the two tasks one after the other.
    """
    if not concurrent:
        yield run_sequentially
    elif device.type == "cuda":
        with borrow_stream(device) as second_stream:
            yield TwoStreamExecutor(second_stream)
    else:
        with two_thread_executor() as executor:
            yield executor


@contextmanager
def borrow_stream(device: torch.device) -> Iterator[torch.cuda.Stream]:
    """Provide a CUDA stream that no other borrower uses at the same time.

    torch creates 32 streams per device and hands them out in turn, whether they are in use or not. Streams that were
    returned are therefore kept and reused before torch is asked for another one.
    """
    with _stream_lock:
        stream = _idle_streams[device].pop() if _idle_streams[device] else torch.cuda.Stream(device)
    try:
        yield stream
    finally:
        with _stream_lock:
            _idle_streams[device].append(stream)


@contextmanager
def dedicated_stream(device: torch.device) -> Iterator[None]:
    """Run this thread's GPU work on a CUDA stream of its own, concurrently with that of other threads.

    Work enqueued before is finished first; on exit the thread waits until the stream is done. Without effect on other
    devices.
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
    """Create a pool of Python threads in each of which torch uses one thread.

    For many small operations: torch's threads synchronise at the end of each one, which takes long on a busy machine.

    Parameters
    ----------
    device
        Device on which the threads compute.
    n_threads
        Number of threads; by default `n_parallel_workers` of the device.
    """
    n_workers = n_threads or n_parallel_workers(device)
    with one_thread(), ThreadPoolExecutor(n_workers) as pool:
        try:
            yield pool
        finally:
            pool.shutdown(cancel_futures=True)  # after an error or Ctrl-C, wait only for tasks that have begun
