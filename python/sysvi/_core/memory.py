"""Memory: how much is free, and settings of the C library's allocator during training."""

from __future__ import annotations

import ctypes
import math
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch

from sysvi._core.errors import InputError

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

UNITS = {"": 1, "B": 1, "KB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # parameters of mallopt, from glibc's malloc.h
_lock = threading.Lock()
_n_trainings = 0  # trainings in progress that retain freed memory


def memory_in_bytes(memory: str | float) -> float:
    """Read an amount of memory: a number of bytes, or a string with a unit, such as ``"4GB"`` or ``"500 MB"``.

    Raises
    ------
    InputError
        If it is something else.

    Examples
    --------
    >>> memory_in_bytes("4GB"), memory_in_bytes("0.5 GiB"), memory_in_bytes(2e9)
    (4000000000.0, 536870912.0, 2000000000.0)
    """
    found = re.fullmatch(r"\s*([0-9.]+(?:e[0-9]+)?)\s*([a-z]*)\s*", str(memory), re.IGNORECASE)
    n_bytes = math.nan
    if found is not None and found[2].upper() in UNITS and not isinstance(memory, bool):
        with suppress(ValueError):  # two points
            n_bytes = float(found[1]) * UNITS[found[2].upper()]
    if not 0 < n_bytes < math.inf:
        raise InputError(
            f"memory is {memory!r}; it must be an amount of memory above 0, such as '4GB' (KB, MB, GB, TB, KiB, MiB or "
            "GiB)."
        )
    return n_bytes


def check_memory(n_bytes: float, purpose: str, advice: str, device: torch.device | None = None) -> None:
    """Check, before it is taken, that there is memory for what is known to be needed at least.

    Parameters
    ----------
    n_bytes
        Memory that is needed at least.
    purpose, advice
        For the message: what needs it, and what to do.
    device
        Device whose memory is needed; by default the CPU.

    Raises
    ------
    InputError
        If less is free.

    Examples
    --------
    >>> check_memory(1e6, "Training", "lower n_hidden")
    """
    free = free_memory(torch.device("cpu") if device is None else device)
    if n_bytes > free:
        needed, left = (f"{n / 1e9:,.1f} GB" for n in (n_bytes, free))
        raise InputError(f"{purpose} takes at least {needed} of memory, but only {left} are free: {advice}.")


def free_memory(device: torch.device) -> float:
    """Memory that can still be had on a device, in bytes; infinite where it is not known.

    For the CPU, what the operating system can take back from its caches, and swap, count as free. The memory of a
    process may be limited by a control group (containers, SLURM) or by ``ulimit -v``.

    Examples
    --------
    >>> free_memory(torch.device("cpu")) > 0
    True
    """
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    if device.type != "cpu":
        return math.inf
    free = [math.inf, *_limits()]
    with suppress(OSError, KeyError):  # not Linux
        numbers = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        free.append(1024 * sum(int(numbers[name].split()[0]) for name in ("MemAvailable", "SwapFree")))
    return min(free)


def _limits() -> Iterator[float]:
    """Limits of the memory of this process, in bytes."""
    if resource is not None and (limit := resource.getrlimit(resource.RLIMIT_AS)[0]) != resource.RLIM_INFINITY:
        yield limit
    with suppress(OSError):  # not Linux
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            _, controllers, group = line.split(":", 2)
            if controllers in ("", "memory"):  # version 2 and version 1 of control groups
                name = "memory.limit_in_bytes" if controllers else "memory.max"
                folder = Path("/sys/fs/cgroup", controllers, group.lstrip("/"))
                for level in (folder, *folder.parents):
                    with suppress(OSError, ValueError):  # "max": no limit
                        yield int((level / name).read_text())


@contextmanager
def retain_freed_memory() -> Iterator[None]:
    """Let the C library keep freed memory for later allocations instead of returning it to the operating system.

    Every training step allocates and frees the same megabytes. If the operating system has to map and zero them each
    time, that costs a tenth of a step, and a third on some virtual machines. Only glibc needs this; with other C
    libraries nothing happens. When the last of several trainings ends, glibc's default thresholds are restored.
    """
    global _n_trainings
    try:
        set_threshold = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):  # not glibc
        yield
        return
    with _lock:
        _n_trainings += 1
        set_threshold(M_MMAP_THRESHOLD, 32 * 2**20)
        set_threshold(M_TRIM_THRESHOLD, 2**31 - 1)
    try:
        yield
    finally:
        with _lock:
            _n_trainings -= 1
            if _n_trainings == 0:
                set_threshold(M_MMAP_THRESHOLD, 128 * 2**10)
                set_threshold(M_TRIM_THRESHOLD, 128 * 2**10)
