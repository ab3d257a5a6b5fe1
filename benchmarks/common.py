"""What the benchmarks share: folders, the peers' environment, and scripts that run in processes of their own."""

import json
import os
import platform
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path

HERE = Path(__file__).parent
CACHE, RESULTS, PEERS = HERE / ".cache", HERE / "results", HERE / "peers"
PEER_PYTHON = HERE.parent / ".venv-bench" / "bin" / "python"
# torch comes first and alone, so that no later package chooses another build of it.
REQUIREMENTS = ("torch==2.13.0", "scvi-tools==1.4.2", "scib-metrics==0.5.10", "harmonypy==2.1.0")


class Failed(RuntimeError):
    """A script that was run ended with an error; the message holds the end of what it said."""


def make_peer_environment() -> None:
    """The peers in an environment of their own, made or completed where need be.

    Raises
    ------
    subprocess.CalledProcessError
        If they cannot be installed.
    """
    installed = PEER_PYTHON.parents[1] / "installed.txt"  # written last: a failed installation is tried again
    if installed.exists() and installed.read_text().split() == list(REQUIREMENTS):
        return
    if not PEER_PYTHON.exists():
        subprocess.run([sys.executable, "-m", "venv", PEER_PYTHON.parents[1]], check=True)
    pip = [str(PEER_PYTHON), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, REQUIREMENTS[0]], check=True)
    subprocess.run([*pip, *REQUIREMENTS], check=True)
    installed.write_text("\n".join(REQUIREMENTS) + "\n")


def ours(script: str, *arguments: object, threads: int | None = None) -> dict:
    """Run a script of this folder in our environment; its last line is its result."""
    return _run(sys.executable, HERE / script, arguments, threads)


def peer(script: str, *arguments: object, threads: int | None = None) -> dict:
    """Run a peer's script in the peers' environment; its last line is its result."""
    return _run(PEER_PYTHON, PEERS / script, arguments, threads)


def _run(python: str | Path, script: Path, arguments: tuple[object, ...], threads: int | None) -> dict:
    environment = dict(os.environ)
    if threads is not None:
        names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
        environment |= dict.fromkeys(names, str(threads))
    command = [str(python), str(script), *map(str, arguments)]
    with standstills() as still:
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode != 0:
        how = "was killed (out of memory?)" if done.returncode == -9 else f"ended with {done.returncode}"
        raise Failed(f"{script.name} {how}.\n{done.stderr[-2000:]}")
    result = json.loads(done.stdout.strip().splitlines()[-1])
    return result | _durations(result, still)


def _durations(result: dict, still: list[tuple[float, float]]) -> dict:
    """Seconds between the readings of the clock that a script gives, without those that the machine stood still."""

    def lasted(start: float, end: float) -> float:
        return end - start - sum(max(0.0, min(end, b) - max(start, a)) for a, b in still)

    seconds: dict = {}
    if "span" in result:
        start, end = result["span"]
        seconds = {"total_seconds": lasted(start, end), "still_seconds": end - start - lasted(start, end)}
    if "marks" in result:
        epochs = [lasted(start, end) for start, end in pairwise(result["marks"])]
        seconds |= {"epoch_seconds": epochs, "seconds_per_epoch": statistics.mean(epochs)}
    return seconds


@contextmanager
def standstills(tick: float = 0.05, longest: float = 0.5) -> Iterator[list[tuple[float, float]]]:
    """Start and end of each time that the whole machine stands still, as a virtual one does when its host stops it.

    A thread that only sleeps wakes late, by more than `longest` seconds, only then.
    """
    found: list[tuple[float, float]] = []
    over = threading.Event()

    def watch() -> None:
        last = time.perf_counter()
        while not over.wait(tick):
            now = time.perf_counter()
            if now - last > longest:
                found.append((last + tick / 2, now))
            last = now

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield found
    finally:
        over.set()
        watcher.join()


def n_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def machine(threads: int) -> str:
    """Processor, threads and versions, for the head of a table."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    name = names[0] if names else platform.processor() or platform.machine()
    return f"{name}, {threads} of {n_cores()} cores; sysvi {version('sysvi')}, torch {version('torch')}"
