import ctypes
import signal
import sys
import threading
import time

import pytest

from sysvi._core.interrupts import (
    STOP_SIGNALS,
    by_signal,
    catch_interrupts,
    exit_status,
    postpone_interrupts,
    raise_interrupts,
    raise_postponed,
)


@pytest.fixture(autouse=True)
def handlers_are_restored(default_hangup_handler):
    """Signals have their handlers again afterwards."""
    before = [signal.getsignal(number) for number in STOP_SIGNALS]
    hook = sys.unraisablehook
    yield
    assert [signal.getsignal(number) for number in STOP_SIGNALS] == before
    assert sys.unraisablehook is hook


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_a_stop_signal_is_noted(number):
    with catch_interrupts() as interrupted:
        assert not interrupted()
        signal.raise_signal(number)
        assert interrupted()
    assert exit_status() == 128 + number
    assert by_signal() == ("" if number == signal.SIGINT else f" by {number.name}")


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_a_stop_signal_raises(number):
    with pytest.raises(KeyboardInterrupt), raise_interrupts():
        signal.raise_signal(number)
    assert exit_status() == 128 + number


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_training_in_a_program_that_raises_takes_note(number):
    with raise_interrupts():
        with catch_interrupts() as interrupted:
            signal.raise_signal(number)
        assert interrupted()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(number)


@pytest.mark.parametrize("number", STOP_SIGNALS)
@pytest.mark.parametrize("asked", [False, True])
def test_a_postponed_stop_signal_raises_when_asked_for_or_at_the_end(number, asked):
    reached = []

    def work():
        with postpone_interrupts():
            raise_postponed()
            signal.raise_signal(number)
            reached.append("after the signal")
            if asked:
                raise_postponed()
                reached.append("after asking")

    with raise_interrupts():
        raise_postponed()  # nothing was postponed
        with pytest.raises(KeyboardInterrupt):
            work()
        raise_postponed()  # no longer
        assert reached == ["after the signal"]
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(number)
    assert exit_status() == 128 + number


def test_a_second_ctrl_c_is_not_postponed():
    reached = []

    def work():
        with raise_interrupts(), postpone_interrupts():  # what runs in the background ignores Ctrl-C
            signal.raise_signal(signal.SIGTERM)
            signal.raise_signal(signal.SIGINT)
            reached.append("after the first")
            signal.raise_signal(signal.SIGINT)
            reached.append("after the second")

    with pytest.raises(KeyboardInterrupt):
        work()
    assert reached == ["after the first"]
    raise_postponed()


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_what_is_caught_is_not_postponed(number):
    with raise_interrupts(), catch_interrupts() as interrupted:
        with postpone_interrupts():
            signal.raise_signal(number)
        assert interrupted()


def test_other_threads_do_not_raise_what_was_postponed():
    raised = []

    def ask():
        try:
            raise_postponed()
        except KeyboardInterrupt:
            raised.append(True)

    def work():
        with raise_interrupts(), postpone_interrupts():
            signal.raise_signal(signal.SIGINT)
            thread = threading.Thread(target=ask)
            thread.start()
            thread.join()

    with pytest.raises(KeyboardInterrupt):
        work()
    assert not raised


def test_only_a_second_ctrl_c_raises():
    with catch_interrupts():
        for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGINT):
            signal.raise_signal(number)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize("handler", [signal.SIG_IGN, lambda *args: handled.append(args)], ids=["ignored", "own"])
def test_signals_with_a_handler_of_the_program_are_left_alone(handler):
    handled.clear()
    before = signal.signal(signal.SIGTERM, handler)
    try:
        with raise_interrupts(), catch_interrupts() as interrupted:
            signal.raise_signal(signal.SIGTERM)
            assert not interrupted()
        assert len(handled) == (handler is not signal.SIG_IGN)
    finally:
        signal.signal(signal.SIGTERM, before)


handled: list = []


def test_other_threads_note_nothing():
    found = []

    def work():
        with catch_interrupts() as interrupted, raise_interrupts():
            found.append(interrupted())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [False]


def test_an_interrupt_that_compiled_code_loses_is_raised_again():
    """As in callbacks of numba: an exception in a callback of C is lost."""

    def compute():
        ctypes.CFUNCTYPE(None)(lambda: signal.raise_signal(signal.SIGTERM))()
        deadline = time.monotonic() + 600
        while time.monotonic() < deadline:
            time.sleep(0.01)

    with pytest.raises(KeyboardInterrupt), raise_interrupts():
        compute()
    assert exit_status() == 128 + signal.SIGTERM


def test_other_lost_exceptions_are_still_reported(monkeypatch):
    reported = []
    monkeypatch.setattr(sys, "unraisablehook", lambda lost: reported.append(lost.exc_type))
    callback = ctypes.CFUNCTYPE(None)(lambda: 1 / 0)
    with raise_interrupts():
        callback()
    assert reported == [ZeroDivisionError]
