"""Saved models: one safetensors file, with the parameters as tensors and everything else as JSON in its header.

An ensemble is one file too: the tensors of member i are named ``"i.<name>"``, and the header has a list of its members.

Loading a file never executes code (no pickle). The JSON is under the key "sysvi" of the file's metadata, where R and
other programs can read it too, and has a checksum (`sysvi._core.tensor_files`). The shapes of the tensors are compared
with the settings before anything is allocated by the settings.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sysvi._core.errors import InputError
from sysvi._core.settings import ModelSettings, TrainSettings
from sysvi._core.tensor_files import CHECKSUM, UNREADABLE, open_tensors, read_tensors, write_tensors
from sysvi.data.cells import Vocabulary
from sysvi.data.columns import Columns
from sysvi.data.reference import Reference
from sysvi.model.anchors import Moves
from sysvi.model.combination import Combination
from sysvi.model.cvae import Model

MODEL_FILE = "model.safetensors"
FORMAT, FORMAT_VERSION = "sysvi-model", 7
ENSEMBLE_VERSION = 8  # of the files of ensembles, which earlier versions of sysvi cannot read
LACKING_VERSION = 9  # of the files of models some of whose systems lack genes; ensembles of these have one more
# Entries of the header that all members of an ensemble have in common.
COMMON = ("genes", "system_key", "systems", "categorical", "continuous", "columns", "reference")
STATUSES = ("untrained", "finished", "stopped_early", "interrupted", "failed")


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
    reference
        Summary of the cells that the model was trained on.
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
    preparation
        Settings of the selection of genes and their numbers after each step, ``uns["sysvi_prepare"]`` of the cells;
        None if they are not known, as for models of earlier versions.
    """

    tensors: Mapping[str, Tensor]
    columns: Columns
    vocabulary: Vocabulary
    reference: Reference
    model_settings: ModelSettings
    train_settings: TrainSettings | None
    history: dict[str, list[float]]
    kernels: dict[str, Any] | None
    status: str
    seed: int
    versions: dict[str, str]
    preparation: dict[str, Any] | None = None

    def provenance(self) -> dict[str, Any]:
        """Versions, settings, genes, status and seed as plain values: what is needed to train the model again."""
        return {
            "versions": self.versions,
            "model_settings": asdict(self.model_settings),
            "train_settings": None if self.train_settings is None else asdict(self.train_settings),
            "kernels": self.kernels,
            "status": self.status,
            "seed": self.seed,
            "preparation": self.preparation,
        }


@dataclass(frozen=True)
class EnsembleCheckpoint:
    """What the saved file of an ensemble holds: its members, how they are combined and agree, its seed and status."""

    members: list[Checkpoint]
    combination: Combination
    moves: Moves
    seed: int
    status: str
    agreement: NDArray[np.float64] | None


def save_checkpoint(path: Path, checkpoint: Checkpoint, overwrite: bool) -> None:
    """Write a model file; it appears whole or not at all.

    Raises
    ------
    InputError
        If the file exists and may not be overwritten, or its folder cannot be written.
    """
    version = LACKING_VERSION if checkpoint.vocabulary.lacking else FORMAT_VERSION
    write_file(path, checkpoint.tensors, _describe(checkpoint) | _training(checkpoint), overwrite, version)


def save_ensemble(
    path: Path,
    members: Sequence[Checkpoint],
    combination: Combination,
    moves: Moves,
    seed: int,
    status: str,
    agreement: NDArray[np.float64] | None,
    overwrite: bool,
) -> None:
    """Write the file of an ensemble; it appears whole or not at all.

    Besides the list of members, its header has what that of a single model has: settings, the history of the first
    member, and seed and status of the ensemble.

    Raises
    ------
    InputError
        If the file exists and may not be overwritten, or its folder cannot be written.
    """
    tensors = {f"{i}.{name}": x for i, member in enumerate(members) for name, x in member.tensors.items()}
    for part, value in (("combination", combination), ("moves", moves)):
        tensors |= {f"{part}.{field.name}": torch.from_numpy(getattr(value, field.name)) for field in fields(value)}
    own: dict[str, Any] = {"seed": seed, "status": status, "members": [_training(member) for member in members]}
    if agreement is not None:
        own["agreement"] = agreement.tolist()
    version = LACKING_VERSION + 1 if members[0].vocabulary.lacking else ENSEMBLE_VERSION
    write_file(path, tensors, _describe(members[0]) | _training(members[0]) | own, overwrite, version)


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a model file.

    Raises
    ------
    InputError
        If the file is missing, damaged, not a sysVI model, of another format version, or that of an ensemble.
    """
    tensors, saved = read_file(path)
    if "members" in saved:
        raise InputError(f"{path} holds an ensemble, not a single model: load it with sysvi.load.")
    with corruption_as_input_error(path):
        return _read_checkpoint(tensors, saved)


def holds_ensemble(path: Path) -> bool:
    """Whether a model file holds an ensemble; raises an InputError as `read_file`."""
    return "members" in read_header(path)


def load_ensemble(path: Path) -> EnsembleCheckpoint:
    """Read the file of an ensemble.

    Raises
    ------
    InputError
        If the file is missing, damaged, not a sysVI model, or of another format version.
    """
    tensors, saved = read_file(path)
    with corruption_as_input_error(path):
        common = {name: saved[name] for name in COMMON} | {"lacking": saved.get("lacking", {})}
        members = []
        for i, training in enumerate(saved["members"]):
            prefix = f"{i}."
            own = {name.removeprefix(prefix): x for name, x in tensors.items() if name.startswith(prefix)}
            members.append(_read_checkpoint(own, common | training))
        n, n_latent = len(members), members[0].model_settings.n_latent
        center, matrix = (tensors[f"combination.{name}"].double().numpy() for name in ("center", "matrix"))
        if center.shape != (n, n_latent) or matrix.shape != (n, n_latent, n_latent):
            raise ValueError("the combination does not fit the members")
        system = tensors["moves.system"].long().numpy()
        in_members, position, move = (
            tensors[f"moves.{name}"].double().numpy() for name in ("in_members", "position", "move")
        )
        shape = (len(system), n_latent)
        if system.ndim != 1 or not position.shape == move.shape == shape or in_members.shape != (n, *shape):
            raise ValueError("the moves do not fit the members")
        combination, moves = Combination(center, matrix), Moves(system, in_members, position, move)
        agreement = None
        if "agreement" in saved:
            agreement = np.asarray(saved["agreement"], np.float64)
            if agreement.shape != (n, n) or not np.isfinite(agreement).all():
                raise ValueError("the agreement does not fit the members")
        return EnsembleCheckpoint(members, combination, moves, saved["seed"], saved["status"], agreement)


def _describe(checkpoint: Checkpoint) -> dict[str, Any]:
    """The entries `COMMON` of the header."""
    vocabulary = checkpoint.vocabulary
    lacking = {"lacking": vocabulary.lacking} if vocabulary.lacking else {}
    return lacking | {
        "genes": vocabulary.genes,
        "system_key": vocabulary.system_key,
        "systems": vocabulary.systems,
        "categorical": vocabulary.categorical,
        "continuous": vocabulary.continuous,
        "columns": checkpoint.columns.to_json(),
        "reference": checkpoint.reference.to_json(),
    }


def _training(checkpoint: Checkpoint) -> dict[str, Any]:
    """How a model was trained: history, settings, status, seed and versions."""
    history = {name: [x if math.isfinite(x) else None for x in xs] for name, xs in checkpoint.history.items()}
    return {"history": history, **checkpoint.provenance()}


def _read_checkpoint(tensors: Mapping[str, Tensor], saved: Mapping[str, Any]) -> Checkpoint:
    """The checkpoint of tensors and a header; a ValueError if they contradict each other."""
    train_settings = saved["train_settings"]
    vocabulary = Vocabulary(
        tuple(saved["genes"]),
        saved["system_key"],
        tuple(saved["systems"]),
        {name: tuple(categories) for name, categories in saved["categorical"].items()},
        {name: (mean, std) for name, (mean, std) in saved["continuous"].items()},
        {name: tuple(genes) for name, genes in saved.get("lacking", {}).items()},
    )
    checkpoint = Checkpoint(
        tensors,
        Columns.from_json(saved["columns"]),
        vocabulary,
        Reference.from_json(saved["reference"], vocabulary),
        ModelSettings(**saved["model_settings"]),
        None if train_settings is None else TrainSettings(**train_settings),
        dict(saved["history"]),
        saved["kernels"],
        saved["status"],
        saved["seed"],
        saved["versions"],
        saved.get("preparation"),
    )
    _check_vocabulary(checkpoint.vocabulary, checkpoint.columns)
    if checkpoint.status not in STATUSES:
        raise ValueError(f"it has no status {checkpoint.status!r}")
    if not isinstance(checkpoint.preparation, dict | None):
        raise ValueError("its preparation is no object")
    _check_tensors(checkpoint)
    return checkpoint


def _check_vocabulary(vocabulary: Vocabulary, columns: Columns) -> None:
    """A ValueError if names are no strings or repeated, a scale is not positive, or columns are missing."""
    for names in (vocabulary.genes, vocabulary.systems, *vocabulary.categorical.values()):
        if not names or len(set(names)) < len(names) or not all(isinstance(name, str) for name in names):
            raise ValueError("its genes, systems or categories are no list of different names")
    for name, genes in vocabulary.lacking.items():
        if name not in vocabulary.systems or not genes or not set(genes) <= set(vocabulary.genes):
            raise ValueError("its systems lack genes that it does not have")
    if not all(math.isfinite(mean) and 0 < std < math.inf for mean, std in vocabulary.continuous.values()):
        raise ValueError("a continuous covariate has no finite mean and positive standard deviation")
    keys = vocabulary.system_key, *vocabulary.categorical, *vocabulary.continuous
    if keys != columns.all:
        raise ValueError("its columns are not those of its categories")


def _check_tensors(saved: Checkpoint) -> None:
    """A ValueError if the tensors are not those of a model of these settings, which allocate no memory before."""
    if saved.model_settings.n_layers > len(saved.tensors):  # every layer has several
        raise ValueError("it has fewer tensors than layers")
    expected = Model.shapes(saved.model_settings, saved.vocabulary)
    if different := sorted(expected.keys() ^ saved.tensors.keys()):
        raise ValueError(f"its settings do not go with a tensor {different[0]!r}")
    for name, tensor in saved.tensors.items():
        wanted = expected[name]
        if (tensor.shape, tensor.dtype) != (wanted.shape, wanted.dtype):
            raise ValueError(
                f"tensor {name!r} is {tensor.dtype} of shape {tuple(tensor.shape)}, but {wanted.dtype} of shape "
                f"{tuple(wanted.shape)} goes with its settings"
            )


@contextmanager
def corruption_as_input_error(path: Path) -> Iterator[None]:
    """Turn the errors of contradictory or missing content into an InputError that names the file."""
    try:
        yield
    except (ArithmeticError, AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
        reason = str(error).partition("\n")[0].rstrip(":.")
        raise InputError(f"{path} is corrupted: {reason}.") from error


def write_file(
    path: Path,
    tensors: Mapping[str, Tensor],
    description: Mapping[str, Any],
    overwrite: bool,
    version: int = FORMAT_VERSION,
) -> None:
    """Write tensors and a description, which must be JSON, as one file; it appears whole or not at all."""
    if path.exists() and not overwrite:
        raise InputError(f"{path} exists already; pass overwrite=True to replace it.")
    header = {"format": FORMAT, "format_version": version, **description}
    write_tensors(path, tensors, header, overwrite=overwrite)


def read_file(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `write_file` wrote: the tensors and the description.

    Raises
    ------
    InputError
        If the file is missing, damaged, not a sysVI model, or of another format version.
    """
    with _open(path) as (file, header):
        tensors = read_tensors(file, header)
        if tensors is None:
            raise InputError(f"{path} is damaged: its checksum does not fit its content. Use another copy of the file.")
        return tensors, header


def read_header(path: Path) -> dict[str, Any]:
    """Read the description that `write_file` wrote; raises as `read_file`, but does not verify the checksum."""
    with _open(path) as (_, header):
        return header


@contextmanager
def _open(path: Path) -> Iterator[tuple[Any, dict[str, Any]]]:
    """Open a model file and check its header."""
    if not path.is_file():
        raise InputError(f"There is no saved model at {path}.")
    try:
        with open_tensors(path) as (file, header):
            if not isinstance(header, dict) or header.get("format") != FORMAT:
                raise InputError(f"{path} is a safetensors file, but was not written by sysVI.")
            versions = FORMAT_VERSION, ENSEMBLE_VERSION, LACKING_VERSION, LACKING_VERSION + 1
            if (version := header.get("format_version")) not in versions:
                raise InputError(
                    f"{path} has format version {version}, but this version of sysvi reads {FORMAT_VERSION} and "
                    f"{LACKING_VERSION} (models), {ENSEMBLE_VERSION} and {LACKING_VERSION + 1} (ensembles) only: load "
                    "it with the version of sysvi that saved it."
                )
            first = LACKING_VERSION if "lacking" in header else FORMAT_VERSION
            if version != first + ("members" in header) or CHECKSUM not in header:
                raise InputError(f"{path} is corrupted: format version {version} does not fit its content.")
            yield file, header
    except UNREADABLE as error:
        raise InputError(f"{path} cannot be read as a saved model: it is damaged or another kind of file.") from error
