"""Choice and description of the device that computes."""

from __future__ import annotations

import os
import shutil
import subprocess
import warnings

import torch

from sysvi._core.errors import InputError
from sysvi._core.forks import check_fork
from sysvi._core.ranks import Ranks


def choose_device(device: str | torch.device = "auto") -> torch.device:
    """Turn the user's choice into a torch device.

    Parameters
    ----------
    device
        ``"auto"`` (an NVIDIA GPU if torch can use one, otherwise the CPU), ``"cpu"``, ``"cuda"``, ``"cuda:1"`` or
        ``"mps"`` (Apple GPU; never chosen automatically).

    Raises
    ------
    InputError
        If torch does not know the device or cannot use it.

    Warns
    -----
    UserWarning
        If ``"auto"`` chooses the CPU although there is an NVIDIA GPU, because the installed torch cannot use it.

    Examples
    --------
    >>> choose_device("cpu")
    device(type='cpu')
    """
    if not isinstance(device, str | torch.device):
        raise InputError(f"device is {device!r}; it must be a string, such as 'auto', 'cpu' or 'cuda'.")
    check_fork()
    if str(device) == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        if _has_nvidia_gpu():
            warnings.warn(
                f"This machine has an NVIDIA GPU, but the installed torch ({torch.__version__}) cannot use it, so the "
                "CPU is used. "
                "Install a CUDA build of torch (pip install --force-reinstall torch) or update the driver.",
                stacklevel=2,
            )
        return torch.device("cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError:
        raise InputError(f"device {device!r} is not known; use 'auto', 'cpu', 'cuda', 'cuda:0' or 'mps'.") from None
    if chosen.type == "cuda" and (not torch.cuda.is_available() or (chosen.index or 0) >= torch.cuda.device_count()):
        raise InputError(
            f"device {str(device)!r} is not available: torch {torch.__version__} finds no such CUDA device."
        )
    if chosen.type == "mps" and not torch.backends.mps.is_available():
        raise InputError(
            "device 'mps' is not available: this machine or the installed torch does not support Apple GPUs."
        )
    if chosen.type not in ("cpu", "cuda", "mps"):
        raise InputError(f"device {str(device)!r} is not supported; use 'auto', 'cpu', 'cuda' or 'mps'.")
    return chosen


def device_of_rank(device: str, ranks: Ranks) -> str:
    """The device of one of several processes: a CUDA device of its own, unless its number is given.

    Raises
    ------
    InputError
        If there are fewer CUDA devices than processes on this machine, or the processes cannot communicate.
    """
    if ranks.size == 1:
        return device
    chosen = choose_device(device)
    if chosen.type == "mps":
        raise InputError("Several processes cannot train on an Apple GPU together: use device='cpu', or one process.")
    if chosen.type == "cuda" and chosen.index is None:
        number = int(os.environ.get("LOCAL_RANK", ranks.rank))
        if number >= torch.cuda.device_count():
            raise InputError(
                f"There are more processes on this machine than its {torch.cuda.device_count()} CUDA devices: start "
                "one for each, or use device='cpu'."
            )
        chosen = torch.device("cuda", number)
        torch.cuda.set_device(chosen)
    return str(chosen)


def float64_device(device: str | torch.device = "auto") -> torch.device:
    """Choose a device for computations in float64: as `choose_device`, but the CPU instead of an Apple GPU.

    Apple GPUs do not support float64.

    Examples
    --------
    >>> float64_device("cpu")
    device(type='cpu')
    """
    chosen = choose_device(device)
    return torch.device("cpu") if chosen.type == "mps" else chosen


def describe_device(device: torch.device) -> str:
    """Name a device for messages, such as ``cpu (2 threads)`` or ``cuda:0 (NVIDIA H100)``."""
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    if device.type == "cpu":
        return f"cpu ({torch.get_num_threads()} threads)"
    return str(device)


def _has_nvidia_gpu() -> bool:
    """Whether the NVIDIA driver lists a GPU, independent of the installed torch."""
    if shutil.which("nvidia-smi") is None:
        return False
    try:
        listing = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return "GPU" in listing.stdout
