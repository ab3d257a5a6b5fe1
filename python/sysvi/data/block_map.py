"""A function of many row blocks, computed one after another, in threads, or on a Dask cluster.

A pass over expression is such a map, whose results are summed in the order of the blocks. So the sums have the same
bits wherever they are computed.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any, Protocol, TypeVar

from sysvi._core.errors import InputError
from sysvi._version import __version__

Item = TypeVar("Item")
Result = TypeVar("Result")
TASKS_AHEAD = 2  # for each thread of a cluster: one is computed, the next waits
WORKERS_TIMEOUT = 60  # seconds for which a cluster may be without workers


class BlockMap(Protocol):
    """Computes a function of each item, as the builtin ``map``, which is one: results come in the order of the items.

    Items are taken as they are needed, so that neither they nor the results gather in memory.
    """

    def __call__(self, function: Callable[[Item], Result], items: Iterable[Item], /) -> Iterator[Result]:
        """Compute the function of each item."""


def in_threads(n_threads: int) -> BlockMap:
    """Map in threads of this process; as many results as threads are computed ahead of their use.

    Examples
    --------
    >>> list(in_threads(2)(abs, [-1, 2, -3]))
    [1, 2, 3]
    """

    def compute(function: Callable[[Item], Result], items: Iterable[Item], /) -> Iterator[Result]:
        with ThreadPoolExecutor(n_threads, "sysvi row blocks") as pool:
            try:
                yield from _ordered(lambda item: pool.submit(function, item), items, n_threads)
            finally:
                pool.shutdown(cancel_futures=True)

    return compute


def on_cluster(client: Any) -> BlockMap:
    """Map on a Dask cluster, whose workers must see the same files under the same paths.

    Parameters
    ----------
    client
        Client of the cluster, a ``distributed.Client``.

    Raises
    ------
    InputError
        If the cluster has no workers, another version of sysvi is installed there, or it cannot be reached any more.
    """
    _check_workers(client)

    def compute(function: Callable[[Item], Result], items: Iterable[Item], /) -> Iterator[Result]:
        with _cluster_errors(client):
            # Sent once for all items; as the result of a task, it is made again if the worker that has it dies.
            shared = client.submit(_identity, function, pure=False)
            n_ahead = TASKS_AHEAD * max(1, sum(client.nthreads().values()))
            submit = partial(client.submit, _apply, shared, pure=False)
            yield from _ordered(submit, items, n_ahead, partial(_result_of, client))

    return compute


def active_client() -> Any:
    """The Dask client that is active in this program, a ``distributed.Client``; None if there is none."""
    distributed = sys.modules.get("distributed")  # without it there is no client
    if distributed is None:
        return None
    try:
        client = distributed.Client.current()
    except ValueError:
        return None
    return client if client.status == "running" and not client.asynchronous else None


@contextmanager
def connected(address: str) -> Iterator[None]:
    """Make the cluster of a scheduler's address the active one.

    Parameters
    ----------
    address
        Address such as ``"tcp://node1:8786"``, or the path of a file that ``dask scheduler --scheduler-file`` wrote.

    Raises
    ------
    InputError
        If Dask is not installed, or no scheduler answers.
    """
    try:
        import distributed
    except ImportError as error:
        raise InputError("A Dask cluster needs the package distributed: pip install 'sysvi[dask]'.") from error
    is_file = address.endswith(".json")
    try:
        client = distributed.Client(**{"scheduler_file" if is_file else "address": address})
    except (OSError, ValueError) as error:
        raise InputError(
            f"No Dask scheduler answers at {address} ({_first_line(error)}): start one with `dask scheduler`, and its "
            "workers with `dask worker`, and give the address that it prints."
        ) from error
    with client:
        yield


def _identity(function: Callable[[Item], Result]) -> Callable[[Item], Result]:
    return function


def _apply(function: Callable[[Item], Result], item: Item) -> Result:
    return function(item)


def _result_of(client: Any, future: Any) -> Any:
    """The result of a task on a cluster, which without workers would be waited for without end."""
    import distributed

    while True:
        try:
            distributed.wait(future, timeout=WORKERS_TIMEOUT)
        except TimeoutError:
            client.wait_for_workers(1, timeout=WORKERS_TIMEOUT)
        else:
            return future.result()


def _ordered(
    submit: Callable[[Item], Any],
    items: Iterable[Item],
    n_ahead: int,
    result_of: Callable[[Any], Any] = lambda future: future.result(),
) -> Iterator[Any]:
    """Results in the order of the items, of which so many are submitted ahead of their use."""
    pending: deque[Any] = deque()
    try:
        for item in items:
            pending.append(submit(item))
            if len(pending) > n_ahead:
                yield result_of(pending.popleft())
        while pending:
            yield result_of(pending.popleft())
    finally:
        for future in pending:
            future.cancel()


def _check_workers(client: Any) -> None:
    """Wait until there is a worker, and check that all have this version of sysvi."""
    with _cluster_errors(client):
        client.wait_for_workers(1, timeout=WORKERS_TIMEOUT)
        versions = client.run(_installed_version)
    others = {address: version for address, version in versions.items() if version != __version__}
    if others:
        address, version = next(iter(others.items()))
        raise InputError(
            f"The Dask worker {address} has sysvi {version}, but this process has sysvi {__version__}: install one "
            "version on all workers."
        )


def _installed_version() -> str:
    return __version__


@contextmanager
def _cluster_errors(client: Any) -> Iterator[None]:
    """Say in one sentence that a cluster failed."""
    import distributed

    try:
        yield
    except InputError:
        raise
    except (OSError, distributed.KilledWorker, distributed.CancelledError, ImportError) as error:
        raise InputError(
            f"The Dask cluster at {client.scheduler_info().get('address', 'an unknown address')} failed "
            f"({_first_line(error)}): check that its scheduler and workers run, have enough memory, and have the same "
            "packages as this process."
        ) from error


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
