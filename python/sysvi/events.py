"""What the engine says while it works: plain events that each door draws its own way."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Event:
    """One thing that happened.

    Parameters
    ----------
    stage
        ``"prepare"``, ``"plan"`` (what training will do, before it does), ``"epoch"``, ``"end"`` or ``"write"``.
    message
        One line for people.
    values
        Plain numbers and strings for programs: epoch, losses, cells per second, seconds left, device.
    """

    stage: str
    message: str = ""
    values: dict[str, Any] = field(default_factory=dict)


OnEvent = Callable[[Event], None]


def ignore(event: Event) -> None:
    """Say nothing."""
