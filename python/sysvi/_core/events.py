"""What the engine says while it works: plain events that each door draws its own way."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Event:
    """One thing that happened.

    Parameters
    ----------
    stage
        ``"prepare"``, ``"plan"`` (what training will do, before it does), ``"epoch"``, ``"model"`` (one of several
        ended), ``"end"`` or ``"write"``.
    message
        One line for people.
    values
        Plain numbers and strings for programs: epoch, losses, cells per second, seconds left, device.
    """

    stage: str
    message: str = ""
    values: dict[str, Any] = field(default_factory=dict)


OnEvent = Callable[[Event], None]


def ignore_event(event: Event) -> None:
    """Say nothing."""


def as_json(event: Event) -> str:
    """The event as one line of JSON, which has no NaN: null stands for it.

    Examples
    --------
    >>> as_json(Event("metric", values={"value": float("nan")}))
    '{"stage": "metric", "message": "", "value": null}'
    """
    values = {name: None if value != value else value for name, value in event.values.items()}
    return json.dumps({"stage": event.stage, "message": event.message, **values})


def preparation_reporter(on_event: OnEvent) -> Callable[[str], None]:
    """A way to report lines of text as events of the preparation."""
    return lambda line: on_event(Event("prepare", line))
