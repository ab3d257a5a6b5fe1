import json
import logging

import pytest

from sysvi._core.events import Event, ignore_event
from sysvi._core.log import TerminalHandler, logger
from sysvi._core.progress import JsonLines, ProgressBar, as_callback

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


def epoch(number):
    return Event("epoch", "", {"epoch": number, "epochs": 3, "losses": LOSSES, "cells_per_second": 2649.0})


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


def test_epochs_are_shown_as_a_bar_that_ends_before_the_next_message(capsys):
    show = ProgressBar()
    for number in (1, 2, 3):
        show(epoch(number))
    show(Event("model", "Trained 1 of 2 models"))  # one of several trainings: the bar goes on
    assert show.bar is not None
    show(Event("end", "Trained 3 epochs"))
    assert show.bar is None
    shown = capsys.readouterr().err
    assert "Training: 100%" in shown
    assert "3/3" in shown
    assert "reconstruction=1523, kl=8, cycle=3.9, cells/s=2,649" in shown
    assert shown.endswith("Trained 3 epochs\n")


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
