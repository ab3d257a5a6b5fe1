"""A folder with the finished runs of a tuning: what was killed goes on from there."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from anndata import AnnData

from sysvi._core.errors import InputError
from sysvi._core.files import write_atomically
from sysvi.api.sysvi import SysVI

STORE, RUN, EMBEDDING = "runs.json", "run.json", "embedding.npy"


class Finished(NamedTuple):
    """A finished run: its embedding, how training ended, and its measures if they are of the same criterion."""

    embedding: np.ndarray
    status: str
    measures: dict[str, float] | None


class RunStore:
    """Runs in folders of their own, each with model, embedding and measures; run.json comes last and makes it count.

    Parameters
    ----------
    folder
        Made if missing.
    made_of
        What all runs have in common: data and settings. Runs of anything else are not mixed in.

    Raises
    ------
    InputError
        If the folder holds runs of other data or settings, or cannot be written.
    """

    def __init__(self, folder: str | Path, made_of: Mapping[str, Any]):
        self.folder = Path(folder)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"Cannot make the folder {self.folder} ({error.strerror}).") from error
        description = json.loads(json.dumps(made_of))  # as it comes back
        path = self.folder / STORE
        if not path.exists():
            write_atomically(path, lambda temporary: temporary.write_text(json.dumps(description, indent=1) + "\n"))
        before = _read(path)
        if before is None:
            raise InputError(f"{path} cannot be read: remove it, or choose another folder.")
        if before != description:
            other = [name for name in {**description, **before} if before.get(name) != description.get(name)]
            raise InputError(f"{self.folder} holds runs with other {', '.join(other)}: choose another folder.")

    def forget_if_empty(self) -> None:
        """Let the folder be used for other data or settings, if no run of these has finished."""
        if not any(self.folder.glob(f"*/{RUN}")):
            (self.folder / STORE).unlink(missing_ok=True)

    def find(self, name: str, measured_by: str) -> Finished | None:
        """A finished run; None if it is not there, or damaged: then it is to be made anew."""
        record = _read(self.folder / name / RUN) or {}
        try:
            embedding = np.load(self.folder / name / EMBEDDING, allow_pickle=False)
            same = record["measured_by"] == measured_by
            return Finished(embedding, record["status"], record["measures"] if same else None)
        except (OSError, ValueError, EOFError, KeyError):
            return None

    def keep(self, name: str, model: SysVI, embedding: np.ndarray) -> None:
        """Write a run's model and embedding."""
        model.save(self.folder / name, overwrite=True)
        write_atomically(self.folder / name / EMBEDDING, lambda temporary: _save(temporary, embedding))

    def finish(self, name: str, status: str, measured_by: str, measures: Mapping[str, float]) -> None:
        """Write how a run ended and its measures; from now on it counts as finished."""
        record = {"status": status, "measured_by": measured_by, "measures": measures}
        write_atomically(self.folder / name / RUN, lambda temporary: temporary.write_text(json.dumps(record) + "\n"))

    def load(self, name: str, adata: AnnData) -> tuple[SysVI, np.ndarray]:
        """Model and embedding of a finished run."""
        return SysVI.load(self.folder / name, adata), np.load(self.folder / name / EMBEDDING, allow_pickle=False)


def _save(path: Path, array: np.ndarray) -> None:
    with path.open("wb") as file:  # np.save would add .npy to the temporary name
        np.save(file, array, allow_pickle=False)


def _read(path: Path) -> dict[str, Any] | None:
    """A file that was written here; None if there is no such file, or another."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None
