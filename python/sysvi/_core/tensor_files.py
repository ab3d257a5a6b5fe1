"""Tensors and a description in one safetensors file with a checksum. Reading a file never executes code (no pickle).

The description is JSON under the key "sysvi" of the file's metadata. Its entry "sha256" is a checksum of all the rest
and of the tensors, so that no damage goes unnoticed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from sysvi._core.files import write_atomically

CHECKSUM = "sha256"  # entry of the header
UNREADABLE = (safetensors.SafetensorError, json.JSONDecodeError, RecursionError, OSError)  # what damaged files raise


def write_tensors(
    path: Path, tensors: Mapping[str, Tensor], description: Mapping[str, Any], *, overwrite: bool = True
) -> None:
    """Write tensors and a description, which must be JSON, as one file; it appears whole or not at all.

    Raises
    ------
    InputError
        As :func:`sysvi._core.files.write_atomically`.
    """
    header = json.loads(json.dumps(description, allow_nan=False, default=lambda number: number.item()))  # as it is read
    on_cpu = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    text = json.dumps(header | {CHECKSUM: checksum(on_cpu, header)})
    content = safetensors.torch.save(on_cpu, metadata={"sysvi": text})
    write_atomically(path, lambda temporary: temporary.write_bytes(content), overwrite=overwrite)


@contextmanager
def open_tensors(path: Path) -> Iterator[tuple[Any, Any]]:
    """Open a file: the handle of safetensors, and the header, the description with its checksum, not yet verified.

    Raises
    ------
    UNREADABLE
        One of these errors, for a damaged file or one of another kind. A safetensors file of another program has an
        empty header.
    """
    with safetensors.safe_open(path, framework="pt") as file:
        yield file, json.loads((file.metadata() or {}).get("sysvi", "{}"))


def read_tensors(file: Any, header: dict[str, Any]) -> dict[str, Tensor] | None:
    """Read the tensors of an open file, and take the checksum out of its header; None if it does not fit them."""
    tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    return tensors if header.pop(CHECKSUM, None) == checksum(tensors, header) else None


def checksum(tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> str:
    """Digest of names, types, shapes and values of the tensors and of the header."""
    digest = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(repr((name, str(tensor.dtype), tuple(tensor.shape))).encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
