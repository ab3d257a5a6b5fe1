"""The one place that decides where tensors live."""

from __future__ import annotations

import shutil
import subprocess
import warnings

import torch

from sysvi._core.errors import InputError


def choose_device(device: str | torch.device = "auto") -> torch.device:
    """Turn the user's wish into a device.

    Parameters
    ----------
    device
        ``"auto"`` (CUDA where torch can use it, else the CPU), ``"cpu"``, ``"cuda"``, ``"cuda:1"`` or ``"mps"``
        (Apple; only when asked for by name).

    Raises
    ------
    InputError
        If the device is not there or not known to torch.

    Examples
    --------
    >>> choose_device("cpu")
    device(type='cpu')
    """
    if str(device) == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        if _nvidia_card_present():
            warnings.warn(
                "An NVIDIA card is in this machine, but the installed torch "
                f"({torch.__version__}) cannot use it; training runs on the CPU. "
                "Install a CUDA build of torch (pip install --force-reinstall torch) or update the driver.",
                stacklevel=2,
            )
        return torch.device("cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError:
        raise InputError(f"device {device!r} is not known; use 'auto', 'cpu', 'cuda', 'cuda:0' or 'mps'.") from None
    if chosen.type == "cuda" and (not torch.cuda.is_available() or (chosen.index or 0) >= torch.cuda.device_count()):
        raise InputError(f"device {str(device)!r} was asked for, but torch {torch.__version__} sees no such CUDA card.")
    if chosen.type == "mps" and not torch.backends.mps.is_available():
        raise InputError("device 'mps' was asked for, but this machine or torch build has no Apple GPU support.")
    if chosen.type not in ("cpu", "cuda", "mps"):
        raise InputError(f"device {str(device)!r} is not supported; use 'auto', 'cpu', 'cuda' or 'mps'.")
    return chosen


def float64_device(device: str | torch.device = "auto") -> torch.device:
    """As `choose_device`, for work in double precision: Apple's GPUs have none and leave it to the CPU.

    Examples
    --------
    >>> float64_device("cpu")
    device(type='cpu')
    """
    chosen = choose_device(device)
    return torch.device("cpu") if chosen.type == "mps" else chosen


def describe_device(device: torch.device) -> str:
    """Name of the device for people: ``cpu (2 threads)`` or ``cuda:0 (NVIDIA H100)``."""
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    if device.type == "cpu":
        return f"cpu ({torch.get_num_threads()} threads)"
    return str(device)


def _nvidia_card_present() -> bool:
    """Whether the NVIDIA driver lists a card, whatever torch thinks."""
    if shutil.which("nvidia-smi") is None:
        return False
    try:
        listing = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return "GPU" in listing.stdout
