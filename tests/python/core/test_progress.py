import fcntl
import json
import logging
import os
import pty
import re
import struct
import subprocess
import sys
import termios

import pytest

from sysvi._core.events import Event, ignore_event
from sysvi._core.log import TerminalHandler, logger
from sysvi._core.progress import JsonLines, ProgressBar, as_callback, closing_bar

LOSSES = {"reconstruction_train": 1523.4, "kl_train": 8.0, "cycle_train": 3.9}


@pytest.fixture(autouse=True)
def unconfigured_logger(monkeypatch):
    """The logger as it is after the import of the package."""
    monkeypatch.setattr(logger, "handlers", [logging.NullHandler()])
    monkeypatch.setattr(logger, "propagate", True)
    level = logger.level
    logger.setLevel(logging.NOTSET)
    yield
    logger.setLevel(level)


def epoch(number, epochs=3, **values):
    values |= {"epoch": number, "epochs": epochs, "losses": LOSSES}
    return Event("epoch", "", values | {"cells_per_second": 2649.0, "seconds_left": 75.0})


class ListHandler(logging.Handler):
    """Handler that collects levels and messages."""

    def __init__(self):
        super().__init__()
        self.records = []

    def emit(self, record):
        self.records.append((record.levelname, record.getMessage()))


def test_messages_are_shown_on_standard_error(capsys):
    show = ProgressBar()
    show(Event("plan", "Training on 100% of 30 cells"))
    show(Event("choice", "", {"best": 1}))
    show(Event("warning", "Warning: few cells"))
    assert capsys.readouterr() == ("", "Training on 100% of 30 cells\nWarning: few cells\n")


def test_second_progress_bar_shows_messages_once(capsys):
    ProgressBar()
    ProgressBar()(Event("end", "Trained"))
    assert capsys.readouterr().err == "Trained\n"


def test_root_logger_does_not_show_messages_again(capsys):
    root = ListHandler()
    logging.getLogger().addHandler(root)
    try:
        ProgressBar()(Event("end", "Trained"))
    finally:
        logging.getLogger().removeHandler(root)
    assert root.records == []
    assert capsys.readouterr().err == "Trained\n"


WORDS = "reconstruction loss 1523, KL divergence 8, cycle loss 3.9, 2,649 cells/s"


def test_without_a_terminal_each_tenth_is_a_line(capsys):
    show = ProgressBar()
    for number in range(1, 1001):
        show(epoch(number, 1000))
    show(Event("end", "Trained"))
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == f"Training: 10%, 100 of 1,000 epochs, {WORDS}, 1 min 15 s left"
    assert lines[9] == f"Training: 100%, 1,000 of 1,000 epochs, {WORDS}"
    assert [line.split(",")[0] for line in lines] == [f"Training: {k}0%" for k in range(1, 11)] + ["Trained"]


def test_short_trainings_have_a_line_for_each_epoch_and_begin_anew(capsys):
    show = ProgressBar()
    for _ in range(2):
        for number in (1, 2, 3):
            show(epoch(number))
        show(Event("end", "Trained"))
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(",")[0] for line in lines] == ["Training: 33%", "Training: 66%", "Training: 100%", "Trained"] * 2


def test_finished_models_are_counted(capsys):
    show = ProgressBar()
    show(epoch(1, models=2))
    show(Event("model", "Model 2 of 2: finished.", {"model": 2}))
    show(epoch(3, models=2))
    assert re.findall(r"\d of \d models finished|Model 2 of 2: finished\.", capsys.readouterr().err) == [
        "0 of 2 models finished",
        "Model 2 of 2: finished.",
        "1 of 2 models finished",
    ]


class NotebookStream:
    """Standard error of a notebook's kernel: no terminal, no file, and text only."""

    def __init__(self):
        self.text = ""

    def write(self, text):
        self.text += text

    def flush(self):
        pass

    def isatty(self):
        return False


def test_notebooks_get_lines(monkeypatch):
    stream = NotebookStream()
    monkeypatch.setattr(sys, "stderr", stream)
    show = ProgressBar()
    show(Event("plan", "Training on 30 cells"))
    show(epoch(3))
    assert stream.text == f"Training on 30 cells\nTraining: 100%, 3 of 3 epochs, {WORDS}\n"


def test_no_standard_error_is_no_error(monkeypatch):
    monkeypatch.setattr(sys, "stderr", None)  # as in programs without a console
    monkeypatch.setattr(logging, "raiseExceptions", False)
    show = ProgressBar()
    show(epoch(3))
    show(Event("end", "Trained"))


SCRIPT = f"""
import sys, time
from sysvi._core.events import Event
from sysvi._core.progress import ProgressBar, closing_bar
values = {{"epochs": 40, "losses": {LOSSES}, "cells_per_second": 2649.0, "seconds_left": 75.0, "models": 2}}
show = ProgressBar()
show(Event("plan", "Training on 30 cells"))
"""
TRAINING = """
for number in range(1, 41):
    show(Event("epoch", "", values | {"epoch": number, "model": 1}))
    show.bar.live.refresh()
    if number == 20:
        show(Event("model", "Model 1 of 2: finished.", {"model": 1}))
        print("a result")
show(Event("end", "Trained 40 epochs"))
"""
ERROR = """
with closing_bar(show):
    show(Event("epoch", "", values | {"epoch": 1, "model": 1}))
    raise SystemExit("it failed")
"""


def in_terminal(code, columns, **environment):
    """What Python prints on standard output, a pipe, and on standard error, a terminal of so many columns."""
    controller, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    fixed = {"TERM": "xterm-256color", "PYTHONIOENCODING": "utf-8", "COLUMNS": "", "LINES": ""}
    child = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=terminal, env=os.environ | fixed | environment
    )
    os.close(terminal)
    shown = b""
    while True:
        try:
            block = os.read(controller, 65536)
        except OSError:  # Linux reports the end of a terminal so
            break
        if not block:
            break
        shown += block
    os.close(controller)
    printed = child.stdout.read().decode()
    child.stdout.close()
    child.wait(600)
    return printed, shown.decode().replace("\r\n", "\n")


def plain(shown):
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown)


def screen(shown, columns):
    """The lines that a terminal shows in the end: a small emulation of those sequences that rich uses."""
    lines, row, column = [""], 0, 0
    for part in re.findall(r"\x1b\[[0-9;?]*[A-Za-z]|[\r\n]|[^\x1b\r\n]+", shown):
        if part == "\n":
            row, column = row + 1, 0
        elif part == "\r":
            column = 0
        elif part.endswith("A") and part[0] == "\x1b":
            row -= int(part[2:-1] or 1)
        elif part == "\x1b[2K":
            lines[row] = ""
        elif part[0] != "\x1b":
            assert column + len(part) <= columns  # no line is broken by the terminal
            lines[row] = lines[row][:column].ljust(column) + part + lines[row][column + len(part) :]
            column += len(part)
        while row >= len(lines):
            lines.append("")
    return [line.rstrip() for line in lines]


@pytest.mark.parametrize("columns", [24, 40, 80, 200])
def test_a_terminal_gets_a_bar_that_goes_when_the_work_is_done(columns):
    printed, shown = in_terminal(SCRIPT + TRAINING, columns)
    assert printed == "a result\n"
    words = " ".join(plain(shown).split())
    assert "20 of 40 epochs, 0 of 2 models finished, reconstruction loss 1523, KL divergence 8" in words
    assert "1 of 2 models finished" in words
    assert "50%" in words or columns < 40
    assert "1 min 15 s left" in words or columns < 40
    assert shown.count("\x1b[?25l") == shown.count("\x1b[?25h") == 1  # the cursor is shown again
    left = [line for line in screen(shown, columns) if line]
    assert " ".join(left) == "Training on 30 cells Model 1 of 2: finished. Trained 40 epochs"


def test_an_error_removes_the_bar():
    _, shown = in_terminal(SCRIPT + ERROR, 80)
    assert "1 of 40 epochs" in plain(shown)
    assert [line for line in screen(shown, 80) if line] == ["Training on 30 cells", "it failed"]
    assert shown.count("\x1b[?25l") == shown.count("\x1b[?25h") == 1


@pytest.mark.parametrize("environment", [{"TERM": "dumb"}, {"TERM": "dumb", "FORCE_COLOR": "1"}])
def test_a_terminal_that_cannot_replace_lines_gets_lines(environment):
    code = SCRIPT + TRAINING.replace("    show.bar.live.refresh()\n", "")
    _, shown = in_terminal(code, 200, **environment)
    assert "\x1b" not in shown
    assert sum(line.startswith("Training: ") for line in shown.splitlines()) == 10


def test_runs_of_a_comparison_have_a_bar_in_a_terminal_only(capsys, monkeypatch):
    show = ProgressBar()
    run = Event("run", "pca, seed 0: 2 s (1 of 4)", {"done": 1, "of": 4})
    show(run)
    assert show.bar is None
    assert capsys.readouterr().err == "pca, seed 0: 2 s (1 of 4)\n"
    monkeypatch.setattr("sysvi._core.progress.is_terminal", lambda: True)
    with closing_bar(show):
        show(run)
        assert show.bar.details.plain == "1 of 4 runs"
        show(Event("run", "scvi, seed 0: running", {}))
        assert show.bar is not None
    assert show.bar is None


@pytest.mark.parametrize("first", ["level", "bar"])
def test_level_silences_messages(capsys, first):
    if first == "level":
        logger.setLevel(logging.WARNING)
        show = ProgressBar()
    else:
        show = ProgressBar()
        logger.setLevel(logging.WARNING)
    show(Event("plan", "Training"))
    assert capsys.readouterr().err == ""


def test_handler_redirects_messages(capsys):
    handler = ListHandler()
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    show = ProgressBar()
    show(Event("plan", "Training"))
    show(Event("warning", "Warning: few cells"))
    assert handler.records == [("INFO", "Training"), ("WARNING", "Warning: few cells")]
    assert capsys.readouterr().err == ""
    assert not any(isinstance(h, TerminalHandler) for h in logger.handlers)


def test_json_lines(capsys):
    show = JsonLines()
    show(Event("plan", "Training", {"n_cells": 30, "loss": float("nan")}))
    out, err = capsys.readouterr()
    assert json.loads(out) == {"stage": "plan", "message": "Training", "n_cells": 30, "loss": None}
    assert err == ""


def test_progress_argument_becomes_a_callback():
    assert isinstance(as_callback(True), ProgressBar)
    assert as_callback(False) is ignore_event
    assert as_callback(print) is print
