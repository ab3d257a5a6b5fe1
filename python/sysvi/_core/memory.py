"""Settings of the C library's memory allocator during training."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Iterator
from contextlib import contextmanager

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # parameters of mallopt, from glibc's malloc.h
_lock = threading.Lock()
_n_trainings = 0  # trainings in progress that retain freed memory


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
