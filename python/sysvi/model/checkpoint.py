"""Saved models: one safetensors file, with the parameters as tensors and everything else as JSON in its header.

Loading a file never executes code (no pickle). The JSON is under the key "sysvi" of the file's metadata, where R and
other programs can read it too.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor

from sysvi._core.errors import InputError
from sysvi._core.files import write_atomically
from sysvi._core.settings import ModelSettings, TrainSettings
from sysvi.data.cells import Vocabulary
from sysvi.data.columns import Columns

MODEL_FILE = "model.safetensors"
FORMAT, FORMAT_VERSION = "sysvi-model", 3


@dataclass(frozen=True)
class Checkpoint:
    """What a saved model file holds.

    Parameters
    ----------
    tensors
        Parameters and buffers of the torch module, by name.
    columns
        Columns and layer that the model reads.
    vocabulary
        Genes, systems and categories of the model.
    model_settings, train_settings
        Settings of the model and of its last training; None if it was not trained.
    history
        Loss terms per epoch, by name.
    kernels
        How training was computed and why; None if the model was not trained.
    status
        Whether and how training ended.
    seed
        Random seed of the model.
    versions
        Versions of the libraries that made the model.
    """

    tensors: Mapping[str, Tensor]
    columns: Columns
    vocabulary: Vocabulary
    model_settings: ModelSettings
    train_settings: TrainSettings | None
    history: dict[str, list[float]]
    kernels: dict[str, Any] | None
    status: str
    seed: int
    versions: dict[str, str]

    def provenance(self) -> dict[str, Any]:
        """Versions, settings, status and seed as plain values: what one must know to train the model again."""
        return {
            "versions": self.versions,
            "model_settings": asdict(self.model_settings),
            "train_settings": None if self.train_settings is None else asdict(self.train_settings),
            "kernels": self.kernels,
            "status": self.status,
            "seed": self.seed,
        }


def save_checkpoint(path: Path, checkpoint: Checkpoint, overwrite: bool) -> None:
    """Write a model file; it appears whole or not at all.

    Raises
    ------
    InputError
        If the file exists and may not be overwritten, or its folder cannot be written.
    """
    vocabulary = checkpoint.vocabulary
    history = {name: [x if math.isfinite(x) else None for x in xs] for name, xs in checkpoint.history.items()}
    description = {
        "genes": vocabulary.genes,
        "system_key": vocabulary.system_key,
        "systems": vocabulary.systems,
        "categorical": vocabulary.categorical,
        "continuous": vocabulary.continuous,
        "columns": checkpoint.columns.to_json(),
        "history": history,
        **checkpoint.provenance(),
    }
    write_file(path, checkpoint.tensors, description, overwrite)


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a model file.

    Raises
    ------
    InputError
        If the file is missing, damaged, not a sysVI model, or of another format version.
    """
    tensors, saved = read_file(path)
    with corruption_as_input_error(path):
        train_settings = saved["train_settings"]
        return Checkpoint(
            tensors,
            Columns.from_json(saved["columns"]),
            Vocabulary(
                tuple(saved["genes"]),
                saved["system_key"],
                tuple(saved["systems"]),
                {name: tuple(categories) for name, categories in saved["categorical"].items()},
                {name: (mean, std) for name, (mean, std) in saved["continuous"].items()},
            ),
            ModelSettings(**saved["model_settings"]),
            None if train_settings is None else TrainSettings(**train_settings),
            dict(saved["history"]),
            saved["kernels"],
            saved["status"],
            saved["seed"],
            saved["versions"],
        )


@contextmanager
def corruption_as_input_error(path: Path) -> Iterator[None]:
    """Turn the errors of contradictory or missing content into an InputError that names the file."""
    try:
        yield
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
        reason = str(error).partition("\n")[0].rstrip(":.")
        raise InputError(f"{path} is corrupted: {reason}.") from error


def write_file(path: Path, tensors: Mapping[str, Tensor], description: Mapping[str, Any], overwrite: bool) -> None:
    """Write tensors and a description, which must be JSON, as one file; it appears whole or not at all."""
    if path.exists() and not overwrite:
        raise InputError(f"{path} exists already; pass overwrite=True to replace it.")
    header = {"format": FORMAT, "format_version": FORMAT_VERSION, **description}
    text = json.dumps(header, allow_nan=False, default=lambda number: number.item())  # NumPy numbers as plain ones
    on_cpu = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    write_atomically(path, lambda temporary: safetensors.torch.save_file(on_cpu, temporary, metadata={"sysvi": text}))


def read_file(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `write_file` wrote: the tensors and the description.

    Raises
    ------
    InputError
        If the file is missing, damaged, not a sysVI model, or of another format version.
    """
    if not path.is_file():
        raise InputError(f"There is no saved model at {path}.")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {}).get("sysvi", "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except (safetensors.SafetensorError, json.JSONDecodeError, OSError) as error:
        raise InputError(f"{path} cannot be read as a saved model: it is damaged or another kind of file.") from error
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise InputError(f"{path} is a safetensors file, but was not written by sysVI.")
    if (version := header.get("format_version")) != FORMAT_VERSION:
        raise InputError(
            f"{path} has format version {version}, but this version of sysvi reads {FORMAT_VERSION} only: "
            "load it with the version of sysvi that saved it."
        )
    return tensors, header
