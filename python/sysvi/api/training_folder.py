"""The folder in which an integration keeps the states of its models, so that the same call goes on after it was ended.

The folder holds ``run.json``, which says of what data and settings it is, and ``member-<i>.safetensors`` for each model
whose training has begun (:mod:`sysvi.training.state`). All are written aside and moved; reading them executes no code.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from anndata import AnnData

from sysvi._core.checks import listing, to_text
from sysvi._core.errors import InputError
from sysvi._core.events import Event, OnEvent
from sysvi._core.files import create_folder, locked_folder, write_atomically
from sysvi._core.fingerprint import fingerprint
from sysvi._core.interrupts import TO_BE_CONTINUED, by_signal, stopped_from_outside
from sysvi._core.ranks import ALONE, Ranks
from sysvi._version import __version__
from sysvi.data.from_anndata import ModelData
from sysvi.training.state import StateFile

FORMAT, FORMAT_VERSION = "sysvi-checkpoint", 1
RUN_FILE = "run.json"
LONGEST_VALUE = 40  # characters of a value that an error message shows


@dataclass(frozen=True)
class TrainingFolder:
    """The folder, open for this process alone.

    Parameters
    ----------
    folder
        Its path.
    state_files
        The file of each member.
    on_event
        Called with an event when training is to be continued later.
    ranks
        The processes that train; the first writes.
    """

    folder: Path
    state_files: list[StateFile]
    on_event: OnEvent
    ranks: Ranks = ALONE

    def exit_if_stopped(self, interrupted: bool) -> None:
        """Exit with status 75 if training was interrupted by a signal other than Ctrl-C, after which it goes on later.

        Raises
        ------
        SystemExit
        """
        if self.ranks.any(interrupted and stopped_from_outside()):
            message = f"Stopped{by_signal()}. When it is run again, it goes on from the checkpoint in {self.folder}."
            self.on_event(Event("checkpoint", message, {"folder": str(self.folder), "status": TO_BE_CONTINUED}))
            raise SystemExit(TO_BE_CONTINUED)


@contextmanager
def open_training_folder(
    folder: Path, run: Mapping[str, Any], n_members: int, on_event: OnEvent, ranks: Ranks = ALONE
) -> Iterator[TrainingFolder]:
    """Open the folder of an integration, new or begun; processes of another run are kept out.

    Parameters
    ----------
    folder
        Its path.
    run
        What identifies data and settings, as `identify_run` returns it.
    n_members
        Number of models.
    on_event
        Called with an event of stage ``"checkpoint"`` if training goes on.
    ranks
        The processes that train; the first checks the folder and writes.

    Raises
    ------
    InputError
        If the folder is that of other data or settings, has other files, is damaged, is in use or cannot be written.
    """
    create_folder(folder)
    with locked_folder(folder) if ranks.is_first else nullcontext():
        run = json.loads(json.dumps(run))  # as it is read
        found = _read_run(folder) if ranks.is_first else run
        if found is None:
            if others := [path.name for path in sorted(folder.iterdir()) if not path.name.startswith((".", "member-"))]:
                raise InputError(
                    f"The folder {folder} has no checkpoint but other files ({listing(others, 3)}): choose another one."
                )
            text = json.dumps({"format": FORMAT, "format_version": FORMAT_VERSION, "run": run}, indent=1)
            write_atomically(folder / RUN_FILE, lambda path: path.write_text(text, encoding="utf-8"))
        elif different := differences(found, run):
            raise InputError(
                f"The folder {folder} holds the checkpoint of another run ({'; '.join(different)}): choose another "
                "folder, or remove this one to begin again."
            )
        digest = fingerprint([json.dumps(run, sort_keys=True)])
        files = [StateFile(folder / f"member-{i}.safetensors", digest, ranks.is_first) for i in range(n_members)]
        if n_begun := sum(file.path.exists() for file in files):
            models = "model" if n_members == 1 else "models"
            message = f"Training goes on from the checkpoint in {folder}: {n_begun} of {n_members} {models} had begun."
            on_event(Event("checkpoint", message, {"folder": str(folder), "begun": n_begun, "models": n_members}))
        yield TrainingFolder(folder, files, on_event, ranks)


def identify_run(
    adata: AnnData,
    data: ModelData,
    n_members: int,
    seed: int,
    settings: Mapping[str, Any],
    device: torch.device,
    window_cells: int | None,
) -> dict[str, Any]:
    """What must be equal for a training to go on with the same bits, as plain values with names for people.

    Cells, covariates and expression are digests; that of the expression is of the sums of each gene in each system,
    which are exact and known already, so that expression on disk is not read once more.
    """
    cells, vocabulary, found = data.cells, data.vocabulary, data.cells.scan()
    covariates = [tensor.cpu().numpy() for tensor in vars(cells.covariates).values()]
    label_key = settings.get("pseudoinputs_label_key")
    return {
        "version of sysvi": __version__,
        "version of torch": torch.__version__,
        "device": device.type,
        "number of cells": cells.n_cells,
        "number of genes": cells.n_genes,
        "systems": ", ".join(vocabulary.systems),
        "columns": json.dumps(data.columns.to_json()),
        "names of the cells": fingerprint(np.asarray(adata.obs_names, dtype=object)),
        "names of the genes": fingerprint(np.asarray(vocabulary.genes, dtype=object)),
        "systems, batches or covariates of the cells": fingerprint(*covariates),
        "labels of the cells": fingerprint(to_text(adata.obs[label_key])) if label_key in adata.obs else None,
        "expression": fingerprint(found.sums, found.n_detected),
        "cells in memory at a time": window_cells,
        "members": n_members,
        "seed": int(seed),
        **{f"setting {name}": plain_value(value) for name, value in sorted(settings.items())},
        **({} if cells.ranks.size == 1 else {"processes": cells.ranks.size}),
    }


def _read_run(folder: Path) -> dict[str, Any] | None:
    """What `run.json` of the folder says; None if there is none."""
    path = folder / RUN_FILE
    if not path.exists():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if found["format"] != FORMAT:
            raise ValueError("it is of another format")
        version, run = int(found["format_version"]), dict(found["run"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(
            f"{path} is damaged or was not written by sysVI: choose another folder for the checkpoint, or remove this "
            "one to begin again."
        ) from error
    if version != FORMAT_VERSION:
        raise InputError(
            f"{path} has format version {version}, but this version of sysvi reads {FORMAT_VERSION} only: go on with "
            "the version of sysvi that began, or choose another folder."
        )
    return run


def differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """What differs between two runs, in words.

    Examples
    --------
    >>> differences({"seed": 0, "expression": "0123456789abcdef"}, {"seed": 1, "expression": "fedcba9876543210"})
    ['seed: 0 there, 1 here', 'other expression']
    """
    words = []
    for name in [*here, *(name for name in there if name not in here)]:
        values = there.get(name), here.get(name)
        if values[0] == values[1]:
            continue
        if max(len(str(value)) for value in values) > LONGEST_VALUE or any(map(_is_digest, values)):
            words.append(f"other {name}")
        else:
            before, now = ("the default" if value is None else value for value in values)
            words.append(f"{name}: {before} there, {now} here")
    return words


def _is_digest(value: Any) -> bool:
    return isinstance(value, str) and len(value) == 16 and not set(value) - set("0123456789abcdef")


def plain_value(value: Any) -> Any:
    """A setting as a value of JSON."""
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    if isinstance(value, np.generic):
        return value.item()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Mapping):
        return {str(name): plain_value(x) for name, x in value.items()}
    return fingerprint(np.asarray(value))
