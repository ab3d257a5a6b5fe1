"""The interface for R: `call` in R's process, ``python -m sysvi.bridge FOLDER`` in a process of its own."""

from sysvi.bridge.call import call
from sysvi.bridge.transport import ExpressionBuffer as Expression  # R knows it by this name

__all__ = ["Expression", "call"]
