"""Events that report what the package is doing; each interface (Python, command line, R) shows them in its own way."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Event:
    """One report of progress.

    Parameters
    ----------
    stage
        ``"prepare"``, ``"plan"`` (what training is about to do), ``"epoch"``, ``"model"`` (one of several trainings has
        ended), ``"end"``, ``"write"``, ``"warning"``, or another stage of the function that reports it.
    message
        One line of text for people; may be empty.
    values
        Numbers and strings for programs, such as epoch, losses, cells per second, seconds left and device.
    """

    stage: str
    message: str = ""
    values: dict[str, Any] = field(default_factory=dict)


OnEvent = Callable[[Event], None]  # a progress callback


def ignore_event(event: Event) -> None:
    """Progress callback that shows nothing."""


def as_json(event: Event) -> str:
    """Format an event as one line of JSON, with null for NaN, which JSON does not have.

    Examples
    --------
    >>> as_json(Event("metric", values={"value": float("nan")}))
    '{"stage": "metric", "message": "", "value": null}'
    """
    values = {name: None if value != value else value for name, value in event.values.items()}
    return json.dumps({"stage": event.stage, "message": event.message, **values})


def preparation_reporter(on_event: OnEvent) -> Callable[[str], None]:
    """Create a function that reports a line of text to `on_event` as an event of stage ``"prepare"``."""
    return lambda line: on_event(Event("prepare", line))
