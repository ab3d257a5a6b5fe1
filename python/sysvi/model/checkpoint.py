"""One file per model, safe to open: safetensors for the numbers, JSON for the rest, no pickle.

The JSON travels in the file's own header, under the key "sysvi", so that a model is a single file and R can read it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from sysvi._core.errors import InputError
from sysvi._core.files import write_atomically

FORMAT, FORMAT_VERSION = "sysvi-model", 2


def write_model(path: Path, tensors: Mapping[str, Tensor], description: Mapping[str, Any], overwrite: bool) -> None:
    """Write parameters and description as one file; it appears whole or not at all."""
    if path.exists() and not overwrite:
        raise InputError(f"{path} exists already; pass overwrite=True to replace it.")
    header = {"format": FORMAT, "format_version": FORMAT_VERSION, **description}
    text = json.dumps(header, allow_nan=False, default=lambda number: number.item())  # NumPy's numbers
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    write_atomically(path, lambda temporary: safetensors.torch.save_file(plain, temporary, metadata={"sysvi": text}))


def read_model(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `write_model` wrote.

    Raises
    ------
    InputError
        If the file is missing, damaged, not a sysVI model, or of a newer format.
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
        raise InputError(f"{path} is a safetensors file, but not one that sysVI wrote.")
    if not isinstance(header.get("format_version"), int):
        raise InputError(f"{path} does not hold together: its format has no version.")
    if header["format_version"] > FORMAT_VERSION:
        raise InputError(
            f"{path} has format {header['format_version']}, newer than {FORMAT_VERSION}, "
            "the newest that this sysvi reads: update sysvi."
        )
    try:
        return _of_this_version(tensors, header["format_version"]), header
    except KeyError as error:
        raise InputError(f"{path} does not hold together: it has no {error}.") from error


def _of_this_version(tensors: dict[str, Tensor], version: int) -> dict[str, Tensor]:
    """Parameters under today's names and shapes. Before version 2 weights lay the other way round."""
    if version >= 2:
        return tensors
    tensors = {
        name: tensor.T.contiguous() if ".layers." in name and name.endswith("weight") else tensor
        for name, tensor in tensors.items()
    }
    for part in ("weight", "bias"):  # one head of the encoder instead of two
        heads = [tensors.pop(f"encoder.{head}.{part}") for head in ("mean", "log_var")]
        tensors[f"encoder.head.{part}"] = torch.cat(heads)
    return tensors
