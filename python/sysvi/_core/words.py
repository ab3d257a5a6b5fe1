"""Numbers in words, for messages."""

from __future__ import annotations


def duration(seconds: float) -> str:
    """A time in words, with the two largest units.

    Examples
    --------
    >>> duration(12.4), duration(75), duration(7260)
    ('12 s', '1 min 15 s', '2 h 1 min')
    """
    minutes, s = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {s} s" if minutes else f"{s} s"
