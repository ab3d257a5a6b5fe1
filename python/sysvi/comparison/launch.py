"""Run a command and write how long it took and how much memory it had at most. Needs the standard library only.

python launch.py USAGE.json COMMAND...

A process of its own, and a small one: what the system counts as the peak memory of a child is never below what its
parent held when it was started.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path


def main(report: str, command: list[str]) -> int:
    """Run the command; its exit status. Should the process that started this one die, everything here ends with it."""
    parent, began = os.getppid(), time.perf_counter()
    process = subprocess.Popen(command)
    while True:
        try:
            status = process.wait(1)
            break
        except subprocess.TimeoutExpired:
            if os.getppid() != parent:
                process.kill()
                os.killpg(0, signal.SIGKILL)  # the command's own processes too, and this one
    seconds = time.perf_counter() - began
    Path(report).write_text(json.dumps({"seconds": seconds, "peak_mb": _peak_mb()}))
    return status if status >= 0 else 128 - status


def _peak_mb() -> float | None:
    """Of the largest process that the command was or started; None where the system does not say (Windows)."""
    try:
        import resource
    except ImportError:
        return None
    unit = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss, bytes
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * unit / 1e6


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
