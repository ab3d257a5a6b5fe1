"""Progress callbacks: a progress bar with log messages, or JSON lines."""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING

from sysvi._core.events import Event, OnEvent, as_json, ignore_event
from sysvi._core.log import logger, show_messages
from sysvi._core.settings import flag

if TYPE_CHECKING:
    from tqdm import tqdm


class ProgressBar:
    """Show epochs as a progress bar on standard error and log the messages of all other events.

    Messages go to the logger ``"sysvi"`` at level INFO, warnings at level WARNING. By default they appear in the
    terminal. Configure the logger to silence or redirect them, for example with
    ``logging.getLogger("sysvi").setLevel(logging.WARNING)``.
    """

    def __init__(self) -> None:
        self.bar: tqdm | None = None
        show_messages()

    def __call__(self, event: Event) -> None:
        """Show one event."""
        if event.stage == "epoch":
            self._show_epoch(event)
            return
        if self.bar is not None and event.stage != "model":
            self.bar.close()
            self.bar = None
        if event.message:
            logger.log(logging.WARNING if event.stage == "warning" else logging.INFO, "%s", event.message)

    def _show_epoch(self, event: Event) -> None:
        from tqdm.auto import tqdm

        values = event.values
        if self.bar is None:
            seconds = 0.1 if sys.stderr.isatty() else 10.0  # between updates; in a log file each one is a line
            self.bar = tqdm(
                total=values["epochs"],
                unit="epoch",
                file=sys.stderr,
                dynamic_ncols=True,
                desc="Training",
                mininterval=seconds,
            )
        losses = {name: f"{values['losses'][f'{name}_train']:.4g}" for name in ("reconstruction", "kl", "cycle")}
        self.bar.set_postfix(losses | {"cells/s": f"{values['cells_per_second']:,.0f}"}, refresh=False)
        self.bar.update(values["epoch"] - self.bar.n)


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
