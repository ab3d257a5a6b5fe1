"""One run of a method: its name, where it is kept, how it is made."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sysvi._core.files import write_atomically
from sysvi.comparison.environments import Environment
from sysvi.comparison.methods import Method

PROTOCOL = 1  # of how adapters are called; runs of another one are not taken up
EMBEDDING, RECORD, LOG = "embedding.npy", "run.json", "log.txt"
LAUNCHER = Path(__file__).with_name("launch.py")


class RunFailed(Exception):
    """A run gave no embedding; the message is the reason in one line."""


class RunStopped(Exception):
    """A run was ended by `Runner.stop`, or did not start for it."""


@dataclass(frozen=True)
class Run:
    """A method at one point of its grid with one seed, on certain cells."""

    method: Method
    parameter: str  # of the grid; empty where there is none
    value: Any
    seed: int
    epochs: int | None  # in place of the method's own number
    cells: str  # their fingerprint
    version: str  # of the method's package

    @property
    def settings(self) -> dict[str, Any]:
        """All settings of the method, the varied one among them."""
        return self.method.settings | ({self.parameter: self.value} if self.parameter else {})

    @property
    def identity(self) -> dict[str, Any]:
        """All that decides the result: a finished run with the same identity need not be repeated."""
        return {
            "method": self.method.name,
            "settings": self.settings,
            "seed": self.seed,
            "epochs": self.epochs if self.method.epochs else None,
            "cells": self.cells,
            "adapter": self.method.digest,
            "version": self.version,
            "protocol": PROTOCOL,
        }

    @property
    def name(self) -> str:
        """Of its folder."""
        digest = hashlib.sha256(json.dumps(self.identity, sort_keys=True).encode()).hexdigest()[:10]
        return f"{self.method.name}-seed{self.seed}-{digest}"

    def __str__(self) -> str:
        at = f", {self.parameter} {self.value}" if self.parameter else ""
        return f"{self.method.name}{at}, seed {self.seed}"


def read_record(folder: Path, run: Run) -> dict[str, Any] | None:
    """What is known of a finished run; None if it is not there."""
    try:
        record = json.loads((folder / run.name / RECORD).read_text())
    except (OSError, ValueError):
        return None
    same = isinstance(record, dict) and record.get("identity") == run.identity
    finished = same and (folder / run.name / EMBEDDING).is_file()
    return record if finished else None


def write_record(folder: Path, run: Run, record: Mapping[str, Any]) -> None:
    """Write what is known of a finished run, whole or not at all."""
    text = json.dumps(record, indent=1, allow_nan=False) + "\n"
    write_atomically(folder / run.name / RECORD, lambda path: path.write_text(text))


def read_embedding(folder: Path, run: Run) -> np.ndarray:
    """The embedding of a finished run, (n, dimensions)."""
    return np.load(folder / run.name / EMBEDDING, allow_pickle=False)


class Runner:
    """Makes runs in processes of their own, and can stop those under way.

    Parameters
    ----------
    folder
        Gets a folder a run: embedding.npy, run.json and log.txt. It appears when all is in it.
    source
        What `write_cells` wrote.
    n_cells
        Rows that an embedding must have.
    timeout
        Seconds that a run may take.
    jobs
        Runs that are made at a time, for the record.
    """

    def __init__(self, folder: Path, source: Path, n_cells: int, timeout: float | None, jobs: int = 1):
        self.folder, self.source, self.n_cells, self.timeout, self.jobs = folder, source, n_cells, timeout, jobs
        self.processes: set[subprocess.Popen[bytes]] = set()
        self.stopped = threading.Event()

    def make(self, run: Run, environment: Environment) -> dict[str, Any]:
        """Make a run and keep it.

        Returns
        -------
        dict
            Its record: identity, jobs, seconds, peak_mb.

        Raises
        ------
        RunFailed
            With the last line that it said; all of it is in <name>.log beside the folders.
        RunStopped
            If `stop` was called.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        for remains in self.folder.glob(f".{run.name}.*"):  # of a run that was killed
            shutil.rmtree(remains, ignore_errors=True)
        part = Path(tempfile.mkdtemp(prefix=f".{run.name}.", dir=self.folder))
        try:
            usage = self._process(run, environment, part)
            self._check(part / EMBEDDING)
            record = {"identity": run.identity, "jobs": self.jobs, **usage}
            (part / RECORD).write_text(json.dumps(record, indent=1, allow_nan=False) + "\n")
            shutil.rmtree(self.folder / run.name, ignore_errors=True)  # a damaged one
            part.rename(self.folder / run.name)
            (self.folder / f"{run.name}.log").unlink(missing_ok=True)  # of an attempt that failed
            return record
        except RunFailed:
            (part / LOG).replace(self.folder / f"{run.name}.log")
            raise
        finally:
            shutil.rmtree(part, ignore_errors=True)

    def stop(self) -> None:
        """End the runs under way; no further one starts."""
        self.stopped.set()
        for process in list(self.processes):
            _end(process)

    def _process(self, run: Run, environment: Environment, part: Path) -> dict[str, Any]:
        """Seconds and peak memory of the adapter's process."""
        source = self.source if run.method.is_r else self.source / "cells.h5ad"
        order = json.dumps({"settings": run.settings, "seed": run.seed, "epochs": run.epochs})
        adapter = [*environment.command, str(run.method.script), str(source), str(part / EMBEDDING), order]
        command = [sys.executable, "-I", "-S", str(LAUNCHER), str(part / "usage.json"), *adapter]
        with open(part / LOG, "wb") as log:
            if self.stopped.is_set():
                raise RunStopped
            process = subprocess.Popen(
                command,
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env=environment.process_variables(),
                start_new_session=True,
            )
            self.processes.add(process)
            try:
                status = process.wait(self.timeout)
            except subprocess.TimeoutExpired:
                raise RunFailed(f"took longer than {self.timeout:g} s") from None
            finally:
                _end(process)
                self.processes.discard(process)
        if self.stopped.is_set():
            raise RunStopped
        if status != 0:
            raise RunFailed(_why(status, (part / LOG).read_text(errors="replace")))
        usage = json.loads((part / "usage.json").read_text())
        (part / "usage.json").unlink()
        return usage

    def _check(self, path: Path) -> None:
        """An embedding must have a row a cell, all finite."""
        try:
            embedding = np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise RunFailed("it ended well but wrote no embedding") from error
        if not isinstance(embedding, np.ndarray) or embedding.dtype.kind not in "iuf":
            raise RunFailed("what it wrote is not an array of numbers")
        if embedding.ndim != 2 or embedding.shape[0] != self.n_cells or embedding.shape[1] == 0:
            raise RunFailed(
                f"its embedding has the shape {embedding.shape}, not a row for each of {self.n_cells} cells"
            )
        if not np.isfinite(embedding).all():
            raise RunFailed("its embedding has values that are not finite")


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a process and those that it started."""
    if process.poll() is None:
        if hasattr(os, "killpg"):
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
        process.wait()


def _why(status: int, log: str) -> str:
    """One line: what ended a process."""
    if status == 128 + signal.SIGKILL:
        return "was killed (out of memory?)"
    lines = [line.strip() for line in log.splitlines() if line.strip() and set(line.strip()) - set("~^-=")]
    errors = [line for line in lines if line.startswith("Error") or ("Error" in line.split(":")[0] and ":" in line)]
    return ((errors or lines or [f"ended with status {status}"])[-1])[:300]
