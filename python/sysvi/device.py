"""The one place that decides where tensors live."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import threading
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from queue import SimpleQueue

import torch

from sysvi.errors import InputError

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
_keeping = threading.Lock()
_n_keeping = 0  # trainings for which freed memory is kept
_lending = threading.Lock()
_streams: defaultdict[torch.device, list[torch.cuda.Stream]] = defaultdict(list)  # given back, by device


def choose_device(device: str | torch.device = "auto") -> torch.device:
    """Turn the user's wish into a device.

    Parameters
    ----------
    device
        ``"auto"`` (CUDA where torch can use it, else the CPU), ``"cpu"``, ``"cuda"``, ``"cuda:1"`` or ``"mps"``
        (Apple; only when asked for by name).

    Raises
    ------
    InputError
        If the device is not there or not known to torch.

    Examples
    --------
    >>> choose_device("cpu")
    device(type='cpu')
    """
    if str(device) == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        if _nvidia_card_present():
            warnings.warn(
                "An NVIDIA card is in this machine, but the installed torch "
                f"({torch.__version__}) cannot use it; training runs on the CPU. "
                "Install a CUDA build of torch (pip install --force-reinstall torch) or update the driver.",
                stacklevel=2,
            )
        return torch.device("cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError:
        raise InputError(f"device {device!r} is not known; use 'auto', 'cpu', 'cuda', 'cuda:0' or 'mps'.") from None
    if chosen.type == "cuda" and (not torch.cuda.is_available() or (chosen.index or 0) >= torch.cuda.device_count()):
        raise InputError(f"device {str(device)!r} was asked for, but torch {torch.__version__} sees no such CUDA card.")
    if chosen.type == "mps" and not torch.backends.mps.is_available():
        raise InputError("device 'mps' was asked for, but this machine or torch build has no Apple GPU support.")
    if chosen.type not in ("cpu", "cuda", "mps"):
        raise InputError(f"device {str(device)!r} is not supported; use 'auto', 'cpu', 'cuda' or 'mps'.")
    return chosen


def double_device(device: str | torch.device = "auto") -> torch.device:
    """As `choose_device`, for work in double precision: Apple's GPUs have none and leave it to the CPU.

    Examples
    --------
    >>> double_device("cpu")
    device(type='cpu')
    """
    chosen = choose_device(device)
    return torch.device("cpu") if chosen.type == "mps" else chosen


def describe(device: torch.device) -> str:
    """Name of the device for people: ``cpu (2 threads)`` or ``cuda:0 (NVIDIA H100)``."""
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    if device.type == "cpu":
        return f"cpu ({torch.get_num_threads()} threads)"
    return str(device)


@contextmanager
def keep_threads() -> Iterator[None]:
    """Give torch its number of threads back: numba, inside scanpy and umap, sets the one they share."""
    threads = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def n_at_once(device: torch.device) -> int:
    """How many Python threads compute side by side: as many as torch has threads, and one for a graphics card."""
    return torch.get_num_threads() if device.type == "cpu" else 1


Task = Callable[[], object]
SideBySide = Callable[[Task, Task], None]  # does two things of which neither waits for the other, and then returns


def nothing() -> None:
    """Not a thing."""


def in_turn(first: Task, second: Task) -> None:
    """One after the other.

    Examples
    --------
    >>> in_turn(lambda: print(1), lambda: print(2))
    1
    2
    """
    first()
    second()


@contextmanager
def in_two_threads() -> Iterator[SideBySide]:
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

    def side_by_side(first: Task, second: Task) -> None:
        tasks.put(second)
        try:
            first()
        finally:
            error = ends.get()  # nothing goes on unseen
        if error is not None:
            raise error

    with keep_threads():
        torch.set_num_threads(max(1, torch.get_num_threads() // 2))
        helper = threading.Thread(target=work, name="sysvi beside", daemon=True)
        helper.start()
        try:
            yield side_by_side
        finally:
            tasks.put(None)
            helper.join()


class OnTwoStreams:
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
def side_by_side(device: torch.device, wanted: bool = True) -> Iterator[SideBySide]:
    """The device's way to do two things at once, or one after the other where that is not wanted."""
    if not wanted:
        yield in_turn
    elif device.type == "cuda":
        with borrowed_stream(device) as second:
            yield OnTwoStreams(second)
    else:
        with in_two_threads() as beside:
            yield beside


@contextmanager
def borrowed_stream(device: torch.device) -> Iterator[torch.cuda.Stream]:
    """A stream that nobody else has meanwhile.

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
def own_stream(device: torch.device) -> Iterator[None]:
    """Let a graphics card do this thread's work beside that of others, after all that it was told to do before.

    At the end the thread waits until the card is done. Elsewhere nothing happens.
    """
    if device.type != "cuda":
        yield
        return
    with borrowed_stream(device) as stream:
        stream.wait_stream(torch.cuda.current_stream(device))
        try:
            with torch.cuda.stream(stream):
                yield
        finally:
            stream.synchronize()


@contextmanager
def keep_freed_memory() -> Iterator[None]:
    """Let the C library keep what is freed for the next allocation, where it would hand it back to the system.

    Training frees and asks for the same megabytes at every step; having the system map and clear them anew costs a
    tenth of a step, and on some virtual machines a third. glibc alone needs telling; when the last of several trainings
    ends, the thresholds are its defaults again.
    """
    global _n_keeping
    try:
        set_threshold = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):  # another system or C library
        yield
        return
    with _keeping:
        _n_keeping += 1
        set_threshold(M_MMAP_THRESHOLD, 32 * 2**20)
        set_threshold(M_TRIM_THRESHOLD, 2**31 - 1)
    try:
        yield
    finally:
        with _keeping:
            _n_keeping -= 1
            if _n_keeping == 0:
                set_threshold(M_MMAP_THRESHOLD, 128 * 2**10)
                set_threshold(M_TRIM_THRESHOLD, 128 * 2**10)


@contextmanager
def threads_of_python(device: torch.device, n_threads: int | None = None) -> Iterator[ThreadPoolExecutor]:
    """A pool of Python threads, `n_at_once` where not said otherwise, in each of which torch has one thread.

    For many small operations: torch's threads wait for one another at the end of each, for long on a busy machine.
    """
    with keep_threads(), ThreadPoolExecutor(n_threads or n_at_once(device)) as pool:
        torch.set_num_threads(1)
        try:
            yield pool
        finally:
            pool.shutdown(cancel_futures=True)  # an error, or Ctrl-C, waits for what has begun and no more


def _nvidia_card_present() -> bool:
    """Whether the NVIDIA driver lists a card, whatever torch thinks."""
    if shutil.which("nvidia-smi") is None:
        return False
    try:
        listing = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return "GPU" in listing.stdout
