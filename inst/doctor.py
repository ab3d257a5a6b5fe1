"""What sysvi_doctor() asks a Python, in a process of its own; needs nothing but Python. Prints one JSON object."""

import json
import platform
import sys
from importlib.metadata import PackageNotFoundError, version


def installed(package):
    """Version of a package, or None."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def torch_runs():
    """Whether torch can be loaded, and on what it would run."""
    try:
        import torch
    except Exception as error:
        return {"error": str(error)}
    card = torch.cuda.get_device_name(0) if torch.cuda.is_available() else None
    return {"threads": torch.get_num_threads(), "card": card}


packages = {package: installed(package) for package in sys.argv[1:]}
torch = torch_runs() if packages.get("torch") else {}
print(json.dumps({"python": platform.python_version(), "packages": packages, "torch": torch}))
