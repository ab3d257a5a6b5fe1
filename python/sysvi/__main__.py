"""The command ``sysvi``, which is also ``python -m sysvi``."""

import os
import sys
import threading
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

        reads_zarr = any(thread.name.startswith("zarr") for thread in threading.enumerate())
        if end.code and (n_launched() > 1 or reads_zarr):
            end_without_destructors(end.code)
        raise


def end_without_destructors(status: int | str) -> NoReturn:
    """End this process with an exit status after an error, while threads of a library are running.

    The process group of several processes is not destroyed after an error, since that would wait for the others. An
    ordinary exit of Python would destroy its threads, which aborts the process now and then. And it would close zarr's
    event loop, whose tasks may be pending after an error, and print a traceback for each of them.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status if isinstance(status, int) else 1)


if __name__ == "__main__":
    main()
