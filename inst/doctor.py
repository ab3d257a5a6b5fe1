"""Report what a Python provides for sysvi_doctor(): prints one JSON object. Uses the standard library only.

Usage: python doctor.py PACKAGE...
"""

import json
import platform
import sys
from importlib.metadata import PackageNotFoundError, version


def find_version(package):
    """Return the installed version of a package, or None."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def examine_torch():
    """Return torch's number of threads and name of the GPU, or the error of its import."""
    try:
        import torch
    except Exception as error:
        return {"error": str(error)}
    gpu = torch.cuda.get_device_name(0) if torch.cuda.is_available() else None
    return {"threads": torch.get_num_threads(), "gpu": gpu}


packages = {package: find_version(package) for package in sys.argv[1:]}
torch = examine_torch() if packages.get("torch") else {}
print(json.dumps({"python": platform.python_version(), "packages": packages, "torch": torch}))
