"""What the tests of robustness share: how long they run, and what they find in a folder."""

import os
from pathlib import Path

PATIENCE = 600  # seconds that a busy machine may take for one process
N_ROUNDS = int(os.environ.get("SYSVI_SOAK_ROUNDS", "1"))  # repetitions of the random tests; `make soak` sets more


def files_in(folder: Path) -> set[str]:
    """Names of all files in a folder and below it."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
