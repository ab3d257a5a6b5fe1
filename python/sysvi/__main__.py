"""The command ``sysvi``, which is also ``python -m sysvi``."""

import sys


def main() -> None:
    """Run the command line; an interrupt while it is being imported ends it without a traceback."""
    try:
        from sysvi.cli import main as command_line

        command_line(prog_name="sysvi")
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
