"""Signals that ask the program to stop: Ctrl-C, and those of terminals, containers and batch systems such as SLURM."""

from __future__ import annotations

import _thread
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

STOP_SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1") if hasattr(signal, name)]
TO_BE_CONTINUED = 75  # exit status of a program that goes on when it is run again: EX_TEMPFAIL of sysexits.h
SECONDS_BETWEEN_ATTEMPTS = 0.1  # to raise an interrupt again that was lost
_last = signal.SIGINT  # the stop signal that arrived last
_postponed: set[int] = set()  # stop signals that have arrived in `postpone_interrupts`


@contextmanager
def catch_interrupts() -> Iterator[Callable[[], bool]]:
    """Give a function that says whether a stop signal has arrived; the program is not ended by it.

    A second Ctrl-C raises KeyboardInterrupt at once. Signals that the program ignores (as after ``nohup``) or handles
    in its own way are left alone. Python delivers signals to the main thread only; in other threads the function always
    returns False.
    """
    arrived: set[int] = set()

    def take_note(signum: int, frame: FrameType | None) -> None:
        if signum == signal.SIGINT and signum in arrived:
            _raise_interrupt(signum, frame)
        _remember(signum)
        arrived.add(signum)

    with _handled_by(take_note):
        yield lambda: bool(arrived)


@contextmanager
def raise_interrupts() -> Iterator[None]:
    """Let every stop signal raise KeyboardInterrupt, so that the program cleans up before it ends.

    An interrupt that arrives while compiled code calls back into Python is lost there; it is raised again.
    """
    report = sys.unraisablehook

    def raise_again(lost: sys.UnraisableHookArgs) -> None:
        if isinstance(lost.exc_value, KeyboardInterrupt):
            threading.Timer(SECONDS_BETWEEN_ATTEMPTS, _thread.interrupt_main, [_last]).start()
        else:
            report(lost)

    _remember(signal.SIGINT)
    with _handled_by(_raise_interrupt):
        sys.unraisablehook = raise_again
        try:
            yield
        finally:
            sys.unraisablehook = report


@contextmanager
def postpone_interrupts() -> Iterator[None]:
    """Keep stop signals from raising KeyboardInterrupt until `raise_postponed` is called or the block ends.

    This is for compiled code that calls back into Python, and is left in a broken state if such a call raises. A second
    Ctrl-C raises at once.
    """
    with _handled_by(_postpone, unless_caught=True):
        try:
            yield
        finally:
            raise_postponed()


def raise_postponed() -> None:
    """Raise KeyboardInterrupt if a stop signal has arrived in `postpone_interrupts`."""
    if _postponed and threading.current_thread() is threading.main_thread():
        _postponed.clear()
        raise KeyboardInterrupt


def exit_status(goes_on: bool = False) -> int:
    """Exit status of a program that a stop signal has ended: 128 and the signal's number, as shells count.

    Of a program that `goes_on` when it is run again it is 75, but for Ctrl-C.
    """
    return TO_BE_CONTINUED if goes_on and stopped_from_outside() else 128 + _last


def stopped_from_outside() -> bool:
    """Whether the last stop signal was not Ctrl-C but another one, as batch systems send them."""
    return _last != signal.SIGINT


def by_signal() -> str:
    """What interrupted the program, for messages: " by SIGTERM" or another signal; nothing for Ctrl-C."""
    return "" if _last == signal.SIGINT else f" by {_last.name}"


def _remember(signum: int) -> None:
    global _last
    _last = signal.Signals(signum)


def _raise_interrupt(signum: int, frame: FrameType | None) -> None:
    _remember(signum)
    raise KeyboardInterrupt


def _postpone(signum: int, frame: FrameType | None) -> None:
    if signum == signal.SIGINT and signum in _postponed:
        _postponed.clear()
        _raise_interrupt(signum, frame)
    _remember(signum)
    _postponed.add(signum)


@contextmanager
def _handled_by(handler: Callable[[int, FrameType | None], None], *, unless_caught: bool = False) -> Iterator[None]:
    """Let `handler` handle Ctrl-C, and the other stop signals where the program has no handler of its own.

    With `unless_caught`, it does not handle Ctrl-C either where the program catches it already.
    """
    before = {}
    raising = (signal.SIG_DFL, signal.default_int_handler, _raise_interrupt)
    if threading.current_thread() is threading.main_thread():
        for number in STOP_SIGNALS:
            if (number == signal.SIGINT and not unless_caught) or signal.getsignal(number) in raising:
                before[number] = signal.signal(number, handler)
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)
