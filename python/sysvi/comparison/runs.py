"""One run of a method: what identifies it, the folder it is kept in, and the process that makes it."""

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

from sysvi._core.records import read_record, write_record
from sysvi.comparison.environments import Environment
from sysvi.comparison.methods import Method

PROTOCOL = 1  # version of the adapters' arguments; runs of another version are not reused
EMBEDDING, RECORD, LOG, USAGE = "embedding.npy", "run.json", "log.txt", "usage.json"
LAUNCHER = Path(__file__).with_name("launch.py")


class RunFailed(Exception):
    """A run gave no usable embedding; the message is the reason in one line."""


class RunStopped(Exception):
    """A run was ended, or not started, because of `Runner.stop`."""


@dataclass(frozen=True)
class MethodRun:
    """A method with one setting and one seed, on given cells.

    Parameters
    ----------
    method
        Method to run.
    parameter, value
        Parameter that the grid varies (empty if there is none) and its value in this run.
    seed
        Random seed.
    epochs
        Number of epochs in place of the method's own; None for the method's own.
    cells
        Fingerprint of the cells.
    version
        Version of the method's package.
    """

    method: Method
    parameter: str
    value: Any
    seed: int
    epochs: int | None
    cells: str
    version: str

    @property
    def settings(self) -> dict[str, Any]:
        """All settings of the method, including the varied one."""
        return self.method.settings | ({self.parameter: self.value} if self.parameter else {})

    @property
    def identity(self) -> dict[str, Any]:
        """Everything that determines the result: a finished run of the same identity is reused."""
        return {
            "method": self.method.name,
            "settings": self.settings,
            "seed": self.seed,
            "epochs": self.epochs if self.method.epochs else None,
            "cells": self.cells,
            "adapter": self.method.adapter_digest,
            "version": self.version,
            "protocol": PROTOCOL,
        }

    @property
    def name(self) -> str:
        """Name of the run's folder: method, seed and a digest of the identity."""
        digest = hashlib.sha256(json.dumps(self.identity, sort_keys=True).encode()).hexdigest()[:10]
        return f"{self.method.name}-seed{self.seed}-{digest}"

    def __str__(self) -> str:
        setting = f", {self.parameter} {self.value}" if self.parameter else ""
        return f"{self.method.name}{setting}, seed {self.seed}"


def read_run(folder: Path, run: MethodRun) -> dict[str, Any] | None:
    """Record of a finished run: identity, jobs, seconds, peak_mb and, once measured, scores.

    None if the run is not finished, or its record or embedding is damaged.
    """
    record = read_record(folder / run.name / RECORD)
    return record if record is not None and record.get("identity") == run.identity else None


def write_run(folder: Path, record: Mapping[str, Any]) -> None:
    """Write or replace the record of a finished run in the folder with its embedding; it is never incomplete."""
    write_record(folder / RECORD, record, [EMBEDDING])


def read_embedding(folder: Path, run: MethodRun) -> np.ndarray:
    """Embedding of a finished run, n cells x latent dimensions."""
    return np.load(folder / run.name / EMBEDDING, allow_pickle=False)


class Runner:
    """Makes runs, each in a process of its own, and can stop those under way.

    Parameters
    ----------
    folder
        Folder that gets a subfolder for each finished run, with embedding.npy, run.json and log.txt.
    source
        Folder with the cells, as `write_cells` writes it.
    n_cells
        Number of cells: an embedding must have as many rows.
    timeout
        Longest time that a run may take, in seconds; None for no limit.
    jobs
        Number of runs made at the same time, which is noted in the records.
    """

    def __init__(self, folder: Path, source: Path, n_cells: int, timeout: float | None, jobs: int = 1):
        self.folder, self.source, self.n_cells, self.timeout, self.jobs = folder, source, n_cells, timeout, jobs
        self.processes: set[subprocess.Popen[bytes]] = set()
        self.stopped = threading.Event()

    def make(self, run: MethodRun, environment: Environment) -> dict[str, Any]:
        """Make a run and keep its result.

        Files are written to a temporary folder, which is moved to its place when they are complete.

        Returns
        -------
        dict
            Record of the run: identity, jobs, seconds, peak_mb.

        Raises
        ------
        RunFailed
            If there is no usable embedding. The message is the last line of the output; the whole output is kept in
            <name>.log.
        RunStopped
            If `stop` was called.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(
            prefix=f".{run.name}.", dir=self.folder, ignore_cleanup_errors=True
        ) as temporary:
            unfinished = Path(temporary) / "run"
            unfinished.mkdir()
            try:
                usage = self._run_adapter(run, environment, unfinished)
                self._check_embedding(unfinished / EMBEDDING)
            except RunFailed:
                (unfinished / LOG).replace(self._failure_log(run))
                raise
            record = {"identity": run.identity, "jobs": self.jobs, **usage}
            write_run(unfinished, record)
            shutil.rmtree(self.folder / run.name, ignore_errors=True)  # a damaged one
            unfinished.rename(self.folder / run.name)
        self._failure_log(run).unlink(missing_ok=True)  # of an earlier attempt
        return record

    def remove_leftovers(self) -> None:
        """Remove the temporary folders of a process that was killed; to be called before any run is made."""
        for leftover in self.folder.glob(".*"):
            shutil.rmtree(leftover, ignore_errors=True)

    def stop(self) -> None:
        """End the runs under way and start no further one."""
        self.stopped.set()
        for process in list(self.processes):
            _kill(process)

    def _failure_log(self, run: MethodRun) -> Path:
        """File with the output of a run that failed."""
        return self.folder / f"{run.name}.log"

    def _run_adapter(self, run: MethodRun, environment: Environment, folder: Path) -> dict[str, Any]:
        """Run the adapter in a process; its seconds and peak memory (MB)."""
        source = self.source if run.method.is_r else self.source / "cells.h5ad"
        arguments = json.dumps({"settings": run.settings, "seed": run.seed, "epochs": run.epochs})
        adapter = [*environment.command, str(run.method.script), str(source), str(folder / EMBEDDING), arguments]
        command = [sys.executable, "-I", "-S", str(LAUNCHER), str(folder / USAGE), *adapter]
        with open(folder / LOG, "wb") as log:
            if self.stopped.is_set():
                raise RunStopped
            process = subprocess.Popen(
                command,
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env=environment.process_variables(),
                start_new_session=True,  # a process group of its own, which can be ended as a whole
            )
            self.processes.add(process)
            if self.stopped.is_set():  # `stop` may have listed the processes before this one was added
                _kill(process)
            try:
                status = process.wait(self.timeout)
            except subprocess.TimeoutExpired:
                raise RunFailed(f"took longer than {self.timeout:g} s") from None
            finally:
                _kill(process)
                self.processes.discard(process)
        if self.stopped.is_set():
            raise RunStopped
        if status != 0:
            raise RunFailed(_failure_reason(status, (folder / LOG).read_text(errors="replace")))
        usage = json.loads((folder / USAGE).read_text())
        (folder / USAGE).unlink()
        return usage

    def _check_embedding(self, path: Path) -> None:
        """An embedding must have a row for each cell and finite values only."""
        try:
            embedding = np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise RunFailed("the adapter ended without an error but wrote no embedding") from error
        if not isinstance(embedding, np.ndarray) or embedding.dtype.kind not in "iuf":
            raise RunFailed("the embedding is not an array of numbers")
        if embedding.ndim != 2 or embedding.shape[0] != self.n_cells or embedding.shape[1] == 0:
            raise RunFailed(
                f"the embedding has shape {embedding.shape}; it must have one row for each of the {self.n_cells} cells"
            )
        if not np.isfinite(embedding).all():
            raise RunFailed("the embedding contains values that are not finite")


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End a process and those that it started."""
    if process.poll() is None:
        if hasattr(os, "killpg"):
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
        process.wait()


def _failure_reason(status: int, log: str) -> str:
    """Why a process failed, in one line: its last error message, else the last line of its output."""
    if status == 128 + signal.SIGKILL:
        return "was killed (out of memory?)"
    lines = [line.strip() for line in log.splitlines() if line.strip() and set(line.strip()) - set("~^-=")]
    errors = [line for line in lines if line.startswith("Error") or ("Error" in line.split(":")[0] and ":" in line)]
    return ((errors or lines or [f"ended with exit status {status}"])[-1])[:300]
