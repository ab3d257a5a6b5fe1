"""Recognising processes that were forked from one with threads of computation, which such a child waits for forever."""

from __future__ import annotations

import os

import torch

from sysvi._core.errors import InputError

_has_threads = False  # whether this process has computed with several threads
_lacks_threads = False  # whether it was forked from one that has


def check_fork() -> None:
    """Check that this process can compute; to be called before any computation.

    The threads of OpenMP, which torch uses, do not exist in the child of a fork, but the child waits for them.

    Raises
    ------
    InputError
        If this process was forked from one that has computed with several threads.
    """
    global _has_threads
    if _lacks_threads:
        raise InputError(
            "This process was forked from one in which torch has computed with several threads, and would wait for "
            "them forever: start it with multiprocessing.get_context('spawn') instead."
        )
    _has_threads = _has_threads or torch.get_num_threads() > 1


def _note_fork() -> None:
    global _lacks_threads
    _lacks_threads = _lacks_threads or _has_threads


if hasattr(os, "register_at_fork"):  # not on Windows, which has no forks
    os.register_at_fork(after_in_child=_note_fork)
