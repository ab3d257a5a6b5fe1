"""``python -m sysvi`` is the command ``sysvi``."""

from sysvi.cli import main

main(prog_name="sysvi")
