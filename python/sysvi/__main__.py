"""The command ``sysvi``, which is also ``python -m sysvi``."""

import os
import sys
from typing import NoReturn


def main() -> None:
    """Run the command line; an interrupt while it is being imported ends it without a traceback."""
    try:
        from sysvi.cli import main as command_line

        command_line(prog_name="sysvi")
    except KeyboardInterrupt:
        sys.exit(130)
    except SystemExit as end:
        from sysvi._core.launcher import n_launched

        if end.code and n_launched() > 1:
            end_without_destructors(end.code)
        raise


def end_without_destructors(status: int | str) -> NoReturn:
    """End this process, one of several that were launched together, with an exit status after an error.

    The process group is not destroyed after an error, since that would wait for the other processes. Its threads are
    still running then, and an ordinary exit of Python would destroy them, which aborts the process now and then.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status if isinstance(status, int) else 1)


if __name__ == "__main__":
    main()
