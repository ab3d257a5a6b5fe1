"""The interface for R: `call` in R's process, ``python -m sysvi.bridge FOLDER`` in a process of its own."""

from sysvi.bridge.tasks import Expression, call

__all__ = ["Expression", "call"]
