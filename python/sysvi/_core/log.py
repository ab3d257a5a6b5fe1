"""The package's logger, ``logging.getLogger("sysvi")``, and the handler that shows its messages above progress bars."""

from __future__ import annotations

import logging
import sys

logger = logging.getLogger("sysvi")
logger.addHandler(logging.NullHandler())


class TerminalHandler(logging.Handler):
    """Write messages to standard error, above a progress bar if one is shown."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one message."""
        try:
            sys.stderr.write(f"{self.format(record)}\n")  # while a bar is shown, rich prints it above
            sys.stderr.flush()
        except Exception:  # as all handlers of the standard library do: logging must not stop the program
            self.handleError(record)


def show_messages() -> None:
    """Show messages of level INFO and above in the terminal, unless the user has configured the logger.

    A user has configured it by giving it a level or a handler. Records are not passed on to the root logger, whose
    handlers would show every line a second time.
    """
    untouched = logger.level == logging.NOTSET and all(isinstance(h, logging.NullHandler) for h in logger.handlers)
    if untouched:
        logger.addHandler(TerminalHandler())
        logger.setLevel(logging.INFO)
        logger.propagate = False
