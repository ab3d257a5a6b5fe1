"""Make the runs of a comparison that are not finished yet, several at a time."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any

from sysvi._core.events import Event, OnEvent
from sysvi._core.progress import closing_bar
from sysvi.comparison.environments import Environment
from sysvi.comparison.runs import MethodRun, RunFailed, Runner, RunStopped, read_run


def make_missing_runs(
    runs: Sequence[MethodRun],
    environments: Mapping[str, Environment],
    runner: Runner,
    failures: dict[str, str],
    jobs: int,
    start: float,
    on_event: OnEvent,
) -> None:
    """Make the runs that are not finished.

    Parameters
    ----------
    runs
        All runs of the comparison; those with the same identity are made once.
    environments
        Environment of each method, by its name.
    runner
        Maker of the runs.
    failures
        Gets the reason why a run failed, by the run's name. It is an argument and not returned so that the reasons are
        kept when the runs are interrupted.
    jobs
        Number of runs made at the same time.
    start
        Reading of `time.perf_counter` at the start of the comparison, for messages.
    on_event
        Function that receives the events.
    """
    unfinished = {run.name: run for run in runs if read_run(runner.folder, run) is None}
    n_reused = len({run.name for run in runs}) - len(unfinished)
    if n_reused:
        on_event(Event("compare", f"{n_reused} of {n_reused + len(unfinished)} runs are finished already"))

    lock, n_done = threading.Lock(), 0  # the lock keeps events and the count in order

    def make(run: MethodRun) -> None:
        nonlocal n_done
        values: dict[str, Any] = {"run": run.name, "method": run.method.name}
        with lock:
            elapsed = _format_duration(time.perf_counter() - start)
            on_event(Event("run", f"{run}: running ({elapsed} since the start)", values))
        try:
            record = runner.make(run, environments[run.method.name])
        except RunStopped:
            return
        except RunFailed as error:
            failures[run.name] = str(error)
            outcome, values = f"{run} failed: {error}", values | {"reason": str(error)}
        else:
            memory = "" if record["peak_mb"] is None else f", {record['peak_mb']:,.0f} MB"
            outcome = f"{run}: {_format_duration(record['seconds'])}{memory}"
            values |= {"seconds": record["seconds"], "peak_mb": record["peak_mb"]}
        with lock:
            n_done += 1
            values |= {"done": n_done, "of": len(unfinished)}
            on_event(Event("run", f"{outcome} ({n_done} of {len(unfinished)})", values))

    with closing_bar(on_event), ThreadPoolExecutor(jobs) as pool:
        futures = [pool.submit(make, run) for run in unfinished.values()]
        try:
            for future in as_completed(futures):
                future.result()
        except BaseException:
            runner.stop()
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _format_duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"
