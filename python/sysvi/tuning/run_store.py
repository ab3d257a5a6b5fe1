"""A folder that keeps the finished runs of a tuning, so that an interrupted tuning continues from there."""

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

DESCRIPTION, RUN, EMBEDDING = "runs.json", "run.json", "embedding.npy"


class StoredRun(NamedTuple):
    """A finished run: its embedding, how training ended, and its metrics, if measured by the same criterion."""

    embedding: np.ndarray
    status: str
    metrics: dict[str, float] | None


class RunStore:
    """A folder with a subfolder for each run: model, embedding and run.json.

    run.json is written last and marks the run as finished.

    Parameters
    ----------
    folder
        Folder of the runs; it is created if missing.
    description
        What all runs have in common (data, columns, settings); the folder is refused for others.

    Raises
    ------
    InputError
        If the folder holds runs of other data or settings, or cannot be written.
    """

    def __init__(self, folder: str | Path, description: Mapping[str, Any]):
        self.folder = Path(folder)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"The folder {self.folder} cannot be created ({error.strerror}).") from error
        wanted = json.loads(json.dumps(description))  # as it is when read from the file: lists, not tuples
        path = self.folder / DESCRIPTION
        if not path.exists():
            write_atomically(path, lambda temporary: temporary.write_text(json.dumps(wanted, indent=1) + "\n"))
        stored = _read_json(path)
        if stored is None:
            raise InputError(f"{path} cannot be read: remove it, or choose another folder.")
        if stored != wanted:
            different = [name for name in {**wanted, **stored} if stored.get(name) != wanted.get(name)]
            raise InputError(f"{self.folder} holds runs with other {', '.join(different)}: choose another folder.")

    def release_if_empty(self) -> None:
        """If no run has finished, let the folder be used for other data or settings."""
        if not any(self.folder.glob(f"*/{RUN}")):
            (self.folder / DESCRIPTION).unlink(missing_ok=True)

    def read(self, name: str, criterion: str) -> StoredRun | None:
        """A finished run; None if there is none or it is damaged.

        Parameters
        ----------
        name
            Name of the run.
        criterion
            Fingerprint of the criterion; metrics of another one are left out.
        """
        record = _read_json(self.folder / name / RUN) or {}
        try:
            embedding = np.load(self.folder / name / EMBEDDING, allow_pickle=False)
            same_criterion = record["measured_by"] == criterion
            return StoredRun(embedding, record["status"], record["measures"] if same_criterion else None)
        except (OSError, ValueError, EOFError, KeyError):
            return None

    def write_model(self, name: str, model: SysVI, embedding: np.ndarray) -> None:
        """Write model and embedding of a run."""
        model.save(self.folder / name, overwrite=True)
        write_atomically(self.folder / name / EMBEDDING, lambda temporary: _save_array(temporary, embedding))

    def write_result(self, name: str, status: str, criterion: str, metrics: Mapping[str, float]) -> None:
        """Write how a run ended and its metrics, which marks it as finished."""
        record = {"status": status, "measured_by": criterion, "measures": metrics}
        write_atomically(self.folder / name / RUN, lambda temporary: temporary.write_text(json.dumps(record) + "\n"))

    def load_model(self, name: str, adata: AnnData) -> tuple[SysVI, np.ndarray]:
        """Model and embedding of a finished run."""
        return SysVI.load(self.folder / name, adata), np.load(self.folder / name / EMBEDDING, allow_pickle=False)


def _save_array(path: Path, array: np.ndarray) -> None:
    with path.open("wb") as file:  # given a path, np.save would append .npy to the temporary name
        np.save(file, array, allow_pickle=False)


def _read_json(path: Path) -> dict[str, Any] | None:
    """Content of a JSON file with an object; None if it is missing or invalid."""
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None
