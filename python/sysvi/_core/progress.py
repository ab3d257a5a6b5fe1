"""Progress callbacks: a progress bar with log messages, plain log messages, or JSON lines."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from sysvi._core.events import Event, OnEvent, as_json, ignore_event
from sysvi._core.log import logger, show_messages
from sysvi._core.settings import flag
from sysvi._core.words import duration

if TYPE_CHECKING:
    from rich.live import Live
    from rich.progress import Progress, TaskID
    from rich.text import Text

N_LINES = 10  # that a long task logs where there is no terminal


class ProgressBar:
    """Show training, and the runs of a comparison, as a progress bar on standard error; log all other messages.

    Messages go to the logger ``"sysvi"`` at level INFO, warnings at level WARNING. By default they appear in the
    terminal, above the bar. Configure the logger to silence or redirect them, for example with
    ``logging.getLogger("sysvi").setLevel(logging.WARNING)``.

    Where standard error is no terminal (a log file, a notebook), a message after each tenth of the work takes the place
    of the bar.
    """

    def __init__(self) -> None:
        self.bar: Bar | PlainLines | None = None
        self.finished: set[int] = set()  # numbers of the models that have ended, of several
        show_messages()

    def __call__(self, event: Event) -> None:
        """Show one event."""
        values = event.values
        if event.stage == "epoch":
            self._show("Training", values["epoch"], values["epochs"], self._training(event), values["seconds_left"])
            return
        if event.stage == "model":
            self.finished.add(values["model"])
        elif event.stage not in ("warning", "run"):
            self.close()
        if event.message:
            logger.log(logging.WARNING if event.stage == "warning" else logging.INFO, "%s", event.message)
        if event.stage == "run" and "done" in values and is_terminal():  # elsewhere, each run has a line already
            self._show("Runs", values["done"], values["of"], f"{values['done']} of {values['of']} runs", None)

    def close(self) -> None:
        """Remove the bar."""
        if self.bar is not None:
            self.bar.close()
        self.bar = None
        self.finished.clear()

    def _show(self, title: str, done: int, total: int, details: str, seconds_left: float | None) -> None:
        if self.bar is None:
            self.bar = Bar(title) if is_terminal() else PlainLines(title)
        self.bar.update(done, total, details, "" if seconds_left is None else f"{duration(seconds_left)} left")

    def _training(self, event: Event) -> str:
        """Epochs, models, losses and speed of a training, in words."""
        values = event.values
        losses = {name: f"{values['losses'][f'{name}_train']:.4g}" for name in ("reconstruction", "kl", "cycle")}
        models = f", {len(self.finished)} of {values['models']} models finished" if values.get("models", 1) > 1 else ""
        return (
            f"{values['epoch']:,} of {values['epochs']:,} epochs{models}, reconstruction loss "
            f"{losses['reconstruction']}, KL divergence {losses['kl']}, cycle loss {losses['cycle']}, "
            f"{values['cells_per_second']:,.0f} cells/s"
        )


class Bar:
    """A progress bar at the bottom of a terminal, with details below it; messages appear above.

    Parameters
    ----------
    title
        What is being done.
    """

    def __init__(self, title: str):
        from rich.console import Console, Group
        from rich.live import Live
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn
        from rich.text import Text

        columns = (
            TextColumn("{task.description}"),
            BarColumn(None),
            TaskProgressColumn(),
            TextColumn("{task.fields[left]}"),
        )
        self.progress: Progress = Progress(*columns, auto_refresh=False, expand=True)
        self.details: Text = Text()
        self.task: TaskID = self.progress.add_task(title, left="")
        console = Console(file=sys.stderr, force_jupyter=False)
        self.live: Live = Live(
            Group(self.progress, self.details),
            console=console,
            transient=True,  # it goes when the work is done
            redirect_stdout=False,  # results stay in their own stream
            refresh_per_second=4,
        )
        self.live.start()

    def update(self, done: int, total: int, details: str, left: str) -> None:
        """Show that `done` parts of `total` are done."""
        self.progress.update(self.task, completed=done, total=total, left=left)
        self.details.plain = details

    def close(self) -> None:
        """Remove the bar."""
        self.live.stop()


class PlainLines:
    """A log message after each tenth of the work.

    Parameters
    ----------
    title
        What is being done.
    """

    def __init__(self, title: str):
        self.title, self.n_lines = title, 0

    def update(self, done: int, total: int, details: str, left: str) -> None:
        """Log a message if a further tenth is done."""
        if (n_lines := done * N_LINES // total) > self.n_lines:
            self.n_lines = n_lines
            ending = f", {left}" if left and done < total else ""
            logger.info("%s", f"{self.title}: {done * 100 // total}%, {details}{ending}")

    def close(self) -> None:
        """End the messages."""


class JsonLines:
    """Print each event as one line of JSON on standard output."""

    def __call__(self, event: Event) -> None:
        """Print one event."""
        print(as_json(event), flush=True)


def as_callback(progress: bool | OnEvent) -> OnEvent:
    """Turn the argument `progress` of a public function into a progress callback.

    Parameters
    ----------
    progress
        True for a progress bar and messages, False for no output, or a function that is called with each event.
    """
    if callable(progress):
        return progress
    return ProgressBar() if flag("progress", progress) else ignore_event


@contextmanager
def closing_bar(on_event: OnEvent) -> Iterator[None]:
    """Remove the progress bar of a callback, if it has one, when work ends or fails."""
    try:
        yield
    finally:
        if isinstance(on_event, ProgressBar):
            on_event.close()


def is_terminal() -> bool:
    """Whether standard error is a terminal in which lines can be replaced."""
    return sys.stderr is not None and sys.stderr.isatty() and os.environ.get("TERM") not in ("dumb", "unknown")
