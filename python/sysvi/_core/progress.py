"""How events are shown: a progress bar, JSON lines, or not at all."""

from __future__ import annotations

import sys
from typing import IO

from tqdm.auto import tqdm

from sysvi._core.events import Event, OnEvent, as_json, ignore_event


class ProgressBar:
    """Draws events with tqdm on `stream` (standard error by default)."""

    def __init__(self, stream: IO[str] | None = None):
        self.stream = stream
        self.bar: tqdm | None = None

    def __call__(self, event: Event) -> None:
        """Show one event."""
        stream = self.stream or sys.stderr
        if event.stage == "epoch":
            v = event.values
            if self.bar is None:
                every = 0.1 if stream.isatty() else 10.0  # seconds; a log file wants few lines
                self.bar = tqdm(
                    total=v["epochs"], unit="epoch", file=stream, dynamic_ncols=True, desc="Training", mininterval=every
                )
            terms = {name: f"{v['losses'][f'{name}_train']:.4g}" for name in ("reconstruction", "kl", "cycle")}
            self.bar.set_postfix(terms | {"cells/s": f"{v['cells_per_second']:,.0f}"}, refresh=False)
            self.bar.update(v["epoch"] - self.bar.n)
            return
        if self.bar is not None and event.stage != "model":
            self.bar.close()
            self.bar = None
        if event.message:
            tqdm.write(event.message, file=stream)  # above the bar, where there is one
            stream.flush()


class JsonLines:
    """Prints one JSON object a line on `stream` (standard output by default)."""

    def __init__(self, stream: IO[str] | None = None):
        self.stream = stream

    def __call__(self, event: Event) -> None:
        """Print one event."""
        print(as_json(event), file=self.stream or sys.stdout, flush=True)


def as_callback(progress: bool | OnEvent) -> OnEvent:
    """True: a progress bar; False: silence; a function: that function."""
    if callable(progress):
        return progress
    return ProgressBar() if progress else ignore_event
