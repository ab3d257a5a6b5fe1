"""The C library's allocator while models train."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Iterator
from contextlib import contextmanager

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
_keeping = threading.Lock()
_n_keeping = 0  # trainings for which freed memory is kept


@contextmanager
def retain_freed_memory() -> Iterator[None]:
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
