"""The state of a training in a file, from which it goes on with the same bits.

A state is what steps change: the weights, the optimiser's moments, the states of the random generators, the position in
the epoch and the sums of its losses, the history, and what early stopping keeps. It can be written after any step.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sysvi._core.errors import InputError
from sysvi._core.tensor_files import CHECKSUM, UNREADABLE, open_tensors, read_tensors, write_tensors
from sysvi.training.early_stopping import EarlyStopping
from sysvi.training.epochs import Epochs

FORMAT, FORMAT_VERSION = "sysvi-training", 1
SECONDS_BETWEEN_WRITES = 120.0


class StateFile:
    """The file in which the state of a training is kept.

    Parameters
    ----------
    path
        The file, which need not exist yet.
    run
        Fingerprint of data and settings. A state of other ones is refused.
    writes
        Whether this process writes it; of several with the same state, one does.
    """

    def __init__(self, path: Path, run: str, writes: bool = True):
        self.path, self.run, self.writes = path, run, writes
        self._last_written = time.monotonic()

    @property
    def is_due(self) -> bool:
        """Whether so much time has passed that the state should be written again."""
        return time.monotonic() - self._last_written >= SECONDS_BETWEEN_WRITES

    def write(self, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
        """Replace the state in the file; a kill leaves the one before, or the new one."""
        header = {"format": FORMAT, "format_version": FORMAT_VERSION, "run": self.run, **values}
        if self.writes:
            write_tensors(self.path, tensors, header)
        self._last_written = time.monotonic()

    def read(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """Read the state; None if there is no file.

        Raises
        ------
        InputError
            If the file is damaged, or holds the state of another training.
        """
        if not self.path.exists():
            return None
        try:
            with open_tensors(self.path) as (file, header):
                is_state = isinstance(header, dict) and header.get("format") == FORMAT and CHECKSUM in header
                tensors = read_tensors(file, header) if is_state else None
        except UNREADABLE as error:
            raise self.damaged("it cannot be read") from error
        if not is_state:
            raise InputError(f"{self.path} is no state of a training of sysVI: give the checkpoint another folder.")
        if tensors is None:
            raise self.damaged("its checksum does not fit its content")
        if header["format_version"] != FORMAT_VERSION or header["run"] != self.run:
            raise InputError(
                f"{self.path} is the state of a training of other data or settings: give the checkpoint another folder."
            )
        return tensors, header

    def damaged(self, reason: str) -> InputError:
        """The error of a state that cannot be used."""
        return InputError(
            f"{self.path} is damaged ({reason}): remove this file, and the model is trained from its beginning."
        )


@dataclass
class TrainingState:
    """All that the steps of a training change.

    Parameters
    ----------
    epochs
        The steps, with the model and the optimiser.
    early_stopping
        What early stopping keeps.
    last_good
        Weights of the model after the last epoch, by name.
    history
        Loss terms of the epochs that have ended, by name.
    seconds
        Time of training before this process, in seconds.
    """

    epochs: Epochs
    early_stopping: EarlyStopping
    last_good: dict[str, Tensor]
    history: dict[str, list[float]]
    seconds: float = 0.0
    _in_file: tuple[int, int] | None = field(default=None, init=False)

    def write(self, file: StateFile, seconds: float) -> None:
        """Write the state after `seconds` of training in this process, unless this is the state in the file."""
        if self._position() == self._in_file:
            return
        best = self.early_stopping.best_loss
        values = {
            "steps": self.epochs.n_done,
            "history": self.history,
            "seconds": self.seconds + seconds,
            "best_loss": best if math.isfinite(best) else None,
            "epochs_since_best": self.early_stopping.n_epochs_since_best,
        }
        file.write({**self._changed_tensors(), **self._generators(), **self._best_weights()}, values)
        self._in_file = self._position()

    def restore(self, file: StateFile) -> None:
        """Go on from the state in the file, if there is one.

        Raises
        ------
        InputError
            If it is damaged, or the state of another training.
        """
        found = file.read()
        if found is None:
            return
        tensors, values = found
        try:
            self._restore(tensors, values)
        except (ArithmeticError, AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
            raise file.damaged(str(error).partition("\n")[0].rstrip(":.")) from error

    def _position(self) -> tuple[int, int]:
        """Steps that were taken, and epochs that have ended with their validation."""
        return self.epochs.n_done, len(self.history.get("total_train", []))

    def _changed_tensors(self) -> dict[str, Tensor]:
        """Tensors that are changed in place, by their names in the file."""
        stepper = self.epochs.stepper
        parts = {
            "objective": stepper.objective.state_dict(),
            "optimiser": {str(i): tensor for i, tensor in enumerate(stepper.optimiser.state_tensors())},
            "last_good": self.last_good,
            "epoch": {"sums": self.epochs.sums},
        }
        return {f"{part}.{name}": tensor for part, of_part in parts.items() for name, tensor in of_part.items()}

    def _generators(self) -> dict[str, Tensor]:
        return {f"generator.{name}": state for name, state in self.epochs.generator_states().items()}

    def _best_weights(self) -> dict[str, Tensor]:
        return {f"best.{name}": tensor for name, tensor in (self.early_stopping.best_weights or {}).items()}

    @torch.no_grad()
    def _restore(self, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
        def part(prefix: str) -> dict[str, Tensor]:
            return {name.removeprefix(prefix): x for name, x in tensors.items() if name.startswith(prefix)}

        for name, tensor in self._changed_tensors().items():
            if tensors[name].shape != tensor.shape:
                raise ValueError(f"{name} has another shape")
            tensor.copy_(tensors[name])
        best = part("best.")
        if best:
            self.early_stopping.best_weights = {name: best[name].to(x.device) for name, x in self.last_good.items()}
        if values["best_loss"] is not None:
            self.early_stopping.best_loss = float(values["best_loss"])
        self.early_stopping.n_epochs_since_best = int(values["epochs_since_best"])
        self.history.update({name: [float(x) for x in terms] for name, terms in values["history"].items()})
        self.seconds = float(values["seconds"])
        self.epochs.go_on(int(values["steps"]), part("generator."))
        self._in_file = self._position()
