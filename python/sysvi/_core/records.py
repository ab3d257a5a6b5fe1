"""Records of finished work as JSON files that notice damage: to themselves, and to the files that they describe."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from sysvi._core.files import write_atomically

CHECKSUM, FILES = "sha256", "files"  # entries of a record: digest of all others, and digests of the files


def write_record(path: Path, record: Mapping[str, Any], files: Iterable[str] = ()) -> None:
    """Write a record; it appears whole or not at all.

    Parameters
    ----------
    path
        File to create or replace.
    record
        Entries, which must be JSON, also NaN.
    files
        Names of files in the same folder, which the record describes.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "run.json"
    ...     write_record(path, {"status": "finished"})
    ...     before = read_record(path)
    ...     _ = path.write_text(path.read_text().replace("finished", "finishee"))
    ...     before, read_record(path)
    ({'status': 'finished'}, None)
    """
    content = {**record, FILES: {name: _digest_of_file(path.parent / name) for name in files}}
    text = json.dumps(content | {CHECKSUM: _digest(content)}, indent=1) + "\n"
    write_atomically(path, lambda temporary: temporary.write_text(text))


def read_record(path: Path) -> dict[str, Any] | None:
    """Read what `write_record` wrote; None if the record or one of its files is missing or damaged."""
    try:
        content = json.loads(path.read_text())
        intact = content.pop(CHECKSUM) == _digest(content) and all(
            digest == _digest_of_file(path.parent / name) for name, digest in content.pop(FILES).items()
        )
    except (OSError, ValueError, AttributeError, KeyError, TypeError, RecursionError):
        return None
    return content if intact else None


def _digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _digest_of_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
