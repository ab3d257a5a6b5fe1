"""Run a command; write its run time and peak memory to a JSON file. Uses the standard library only.

python launch.py USAGE.json COMMAND...

This is a separate, small process because the operating system counts the memory that a parent process held when it
started a child as part of the child's peak memory.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path


def main(usage_file: str, command: list[str]) -> int:
    """Run the command and return its exit status; if the process that started this one dies, end the command too."""
    parent, start = os.getppid(), time.perf_counter()
    process = subprocess.Popen(command)
    while True:
        try:
            status = process.wait(1)
            break
        except subprocess.TimeoutExpired:
            if os.getppid() != parent:
                process.kill()
                os.killpg(0, signal.SIGKILL)  # the whole process group: what the command started, and this process
    seconds = time.perf_counter() - start
    Path(usage_file).write_text(json.dumps({"seconds": seconds, "peak_mb": _peak_mb()}))
    return status if status >= 0 else 128 - status


def _peak_mb() -> float | None:
    """Peak memory (MB) of the largest among the command's processes; None where it is unknown (Windows)."""
    try:
        import resource
    except ImportError:
        return None
    bytes_per_unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss counts bytes on macOS, kilobytes elsewhere
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * bytes_per_unit / 1e6


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
