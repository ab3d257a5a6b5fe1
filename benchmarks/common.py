"""Shared by the benchmarks: folders, the environment of the peers, and running scripts in separate processes."""

import json
import os
import platform
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path

HERE = Path(__file__).parent
CACHE, RESULTS, PEERS = HERE / ".cache", HERE / "results", HERE / "peers"
# Folder with the environment of the peers; another one can be named, to share it between clones.
PEER_ENVIRONMENT = Path(os.environ.get("SYSVI_BENCH_ENVIRONMENT", HERE.parent / ".venv-bench")).absolute()
PEER_PYTHON = PEER_ENVIRONMENT / "bin" / "python"
PEER_VERSIONS = ">=3.12"  # of Python, as scvi-tools 1.5 and scib-metrics 0.6 need them
# torch is installed first and alone, so that no later package replaces it by another build.
REQUIREMENTS = ("torch==2.13.0", "scvi-tools==1.5.1", "scib-metrics==0.6.1", "harmonypy==2.1.0")


class Failed(RuntimeError):
    """A script ended with an error; the message holds the end of its output."""


def make_peer_environment() -> None:
    """Create or complete the environment of the peers (scvi-tools, scib-metrics, harmonypy)."""
    make_environment(PEER_ENVIRONMENT, REQUIREMENTS, PEER_VERSIONS)


def make_environment(folder: Path, requirements: Sequence[str], python_versions: str) -> Path:
    """Create or complete an environment with these packages, the first of them first and alone; returns its Python.

    It is made by the newest Python on this machine that suits (`sysvi.comparison.interpreters`). An environment of
    other versions in the same folder is replaced.

    Raises
    ------
    sysvi.comparison.interpreters.NoInterpreter
        If this machine has no Python that suits; the message says how to get one.
    subprocess.CalledProcessError
        If they cannot be installed.
    """
    from sysvi.comparison.interpreters import find_interpreter

    python, installed = folder / "bin" / "python", folder / "installed.txt"
    if installed.exists() and installed.read_text().split() == list(requirements):
        return python
    if installed.exists() or not python.exists():
        subprocess.run([find_interpreter(python_versions).path, "-m", "venv", "--clear", folder], check=True)
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, requirements[0]], check=True)
    subprocess.run([*pip, *requirements], check=True)
    installed.write_text("\n".join(requirements) + "\n")  # last, so that a failed installation is repeated
    return python


def ours(script: str, *arguments: object, threads: int | None = None) -> dict:
    """Run a script of this folder in the current environment; its result is the JSON in its last line of output."""
    return _run(sys.executable, HERE / script, arguments, threads)


def peer(script: str, *arguments: object, threads: int | None = None) -> dict:
    """Run a script of peers/ in the environment of the peers; its result is the JSON in its last line of output."""
    return _run(PEER_PYTHON, PEERS / script, arguments, threads)


def _run(python: str | Path, script: Path, arguments: tuple[object, ...], threads: int | None) -> dict:
    environment = dict(os.environ)
    if threads is not None:
        names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
        environment |= dict.fromkeys(names, str(threads))
    command = [str(python), str(script), *map(str, arguments)]
    with standstills() as stalls:
        start = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode != 0:
        end = "was killed (out of memory?)" if done.returncode == -9 else f"ended with status {done.returncode}"
        raise Failed(f"{script.name} {end}.\n{done.stderr[-2000:]}")
    result = json.loads(done.stdout.strip().splitlines()[-1])
    return result | _durations(result, start, stalls)


def _durations(result: dict, process_start: float, stalls: list[tuple[float, float]]) -> dict:
    """Seconds between the clock readings of a script, without the time that the whole machine stood still.

    `total_seconds` count from the data in memory, `process_seconds` from the start of Python, so with
    its imports; `still_seconds` is what was subtracted from the latter.
    """

    def duration(start: float, end: float) -> float:
        return end - start - sum(max(0.0, min(end, b) - max(start, a)) for a, b in stalls)

    seconds: dict = {}
    if "span" in result:
        start, end = result["span"]
        total, process = duration(start, end), duration(process_start, end)
        seconds = {"total_seconds": total, "process_seconds": process, "still_seconds": end - process_start - process}
    if "marks" in result:
        epochs = [duration(start, end) for start, end in pairwise(result["marks"])]
        seconds |= {"epoch_seconds": epochs, "seconds_per_epoch": statistics.mean(epochs)}
    return seconds


@contextmanager
def standstills(tick: float = 0.05, longest: float = 0.5) -> Iterator[list[tuple[float, float]]]:
    """List the start and end of each period in which the whole machine stands still, as a virtual one does at times.

    They are recognised by a thread that only sleeps, `tick` seconds at a time: only then does it wake more than
    `longest` seconds late.
    """
    stalls: list[tuple[float, float]] = []
    finished = threading.Event()

    def watch() -> None:
        last = time.perf_counter()
        while not finished.wait(tick):
            now = time.perf_counter()
            if now - last > longest:
                stalls.append((last + tick / 2, now))
            last = now

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield stalls
    finally:
        finished.set()
        watcher.join()


def n_cores() -> int:
    """Number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def machine(threads: int) -> str:
    """Processor, threads and versions, as a heading for a table."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    name = names[0] if names else platform.processor() or platform.machine()
    return f"{name}, {threads} of {n_cores()} cores; sysvi {version('sysvi')}, torch {version('torch')}"
