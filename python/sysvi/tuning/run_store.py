"""A folder that keeps the finished runs of a tuning, so that an interrupted tuning continues from there."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from anndata import AnnData

from sysvi._core.errors import InputError
from sysvi._core.files import create_folder, write_atomically
from sysvi._core.records import read_record, write_record
from sysvi.api.sysvi import SysVI
from sysvi.model.checkpoint import MODEL_FILE

DESCRIPTION, RUN, EMBEDDING = "runs.json", "run.json", "embedding.npy"


class StoredRun(NamedTuple):
    """A finished run: its embedding, how training ended, and its metrics, if measured by the same criterion."""

    embedding: np.ndarray
    status: str
    metrics: dict[str, float] | None


class RunStore:
    """A folder with a subfolder for each run: model, embedding and run.json.

    run.json is written last and marks the run as finished; it has checksums of the other files.

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
        self.folder = create_folder(folder)
        wanted = json.loads(json.dumps(description))  # as it is when read from the file: lists, not tuples
        path = self.folder / DESCRIPTION
        if not path.exists():
            write_record(path, wanted)
        stored = read_record(path)
        if stored is None:
            raise InputError(f"{path} is damaged: remove it, or choose another folder.")
        if stored != wanted:
            different = [name for name in {**wanted, **stored} if stored.get(name) != wanted.get(name)]
            raise InputError(f"{self.folder} holds runs with other {', '.join(different)}: choose another folder.")
        self.description = wanted

    def release_if_empty(self) -> None:
        """If no run has finished, let the folder be used for other data or settings."""
        if not any(self.folder.glob(f"*/{RUN}")):
            (self.folder / DESCRIPTION).unlink(missing_ok=True)

    def read(self, name: str, criterion: str) -> StoredRun | None:
        """A finished run; None if there is none, or it is damaged or another one.

        Parameters
        ----------
        name
            Name of the run.
        criterion
            Fingerprint of the criterion; metrics of another one are left out.
        """
        record = read_record(self.folder / name / RUN)
        if record is None or (record["run"], record["description"]) != (name, self.description):
            return None
        embedding = np.load(self.folder / name / EMBEDDING, allow_pickle=False)
        same_criterion = record["measured_by"] == criterion
        return StoredRun(embedding, record["status"], record["measures"] if same_criterion else None)

    def write_model(self, name: str, model: SysVI, embedding: np.ndarray) -> None:
        """Write model and embedding of a run."""
        model.save(self.folder / name, overwrite=True)
        write_atomically(self.folder / name / EMBEDDING, lambda temporary: _save_array(temporary, embedding))

    def write_result(self, name: str, status: str, criterion: str, metrics: Mapping[str, float]) -> None:
        """Write how a run ended and its metrics, which marks it as finished."""
        result = {"status": status, "measured_by": criterion, "measures": metrics}
        record = {"run": name, "description": self.description, **result}
        write_record(self.folder / name / RUN, record, [MODEL_FILE, EMBEDDING])

    def load_models(self, names: Sequence[str], adata: AnnData, device: str) -> list[SysVI]:
        """The models of finished runs, which share the cells of `adata`."""
        models = [SysVI.load(self.folder / name, device=device) for name in names]
        for model in models:
            model.attach(adata, models[0].cells, "auto", device)
        return models


def _save_array(path: Path, array: np.ndarray) -> None:
    with path.open("wb") as file:  # given a path, np.save would append .npy to the temporary name
        np.save(file, array, allow_pickle=False)
