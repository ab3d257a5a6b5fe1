"""Writing files atomically."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from sysvi._core.errors import InputError


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file so that it appears under its name only when it is complete.

    Parameters
    ----------
    path
        File to create or replace.
    write
        Function that writes the content to the path it is given: a temporary file in the folder of `path`, which is
        then renamed to `path`.

    Raises
    ------
    InputError
        If the folder does not exist or cannot be written to.

    Examples
    --------
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "genes.txt"
    ...     write_atomically(path, lambda temporary: temporary.write_text("INS"))
    ...     path.read_text()
    'INS'
    """
    path = Path(path)
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    except OSError as error:
        raise InputError(f"Cannot write into the folder {path.parent} ({error.strerror}).") from error
    os.close(handle)
    temporary = Path(name)
    try:
        write(temporary)
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)  # the usual permissions; mkstemp lets only the owner read
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
