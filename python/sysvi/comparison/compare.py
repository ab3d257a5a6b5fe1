"""Run methods on the same cells, each with its grid and seeds, and compare what they give."""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from anndata import AnnData

from sysvi._core.errors import InputError
from sysvi._core.events import Event, OnEvent, ignore_event
from sysvi._core.files import write_atomically
from sysvi._core.progress import as_callback
from sysvi._core.settings import whole_number
from sysvi._version import __version__
from sysvi.comparison.cells import fingerprint_cells, prepared_cells, write_cells
from sysvi.comparison.environments import Environment, MethodNotAvailable, default_folder, get_environment
from sysvi.comparison.figures import plot_comparison, plot_umaps
from sysvi.comparison.methods import ADAPTERS, Method, choose_methods, read_methods
from sysvi.comparison.runs import Run, RunFailed, Runner, RunStopped, read_embedding, read_record, write_record
from sysvi.comparison.tables import FACTS, scored_runs, summary, welch
from sysvi.evaluation.evaluate import evaluate_in_detail
from sysvi.metrics._pca import principal_components

DRAWN = ("iLISI", "NMI", "Moran", "Batch correction", "Biological preservation", "Total")
AGGREGATES = DRAWN[3:]
N_PCS = 50  # of the cells before integration, that PCR comparison needs


@dataclass(frozen=True)
class Comparison:
    """All that a comparison found; `folder` holds it as files.

    Parameters
    ----------
    table
        A row a method at its chosen setting, best first: mean and standard deviation over seeds of each metric, of time
        and of memory.
    runs
        A row a run: method, parameter, value, seed, status, reason, seconds, peak_mb, all metrics; score, chosen,
        representative and overall are explained in `sysvi.comparison.tables.scored_runs`.
    methods
        A row a method: whether it could be had, versions, reason where not.
    tests
        Welch's tests between the chosen settings (`sysvi.compare_runs`).
    versions
        Of all packages in the environment of each method that could be had.
    notes
        What a reader must know.
    folder
        With the tables (runs.csv, methods.csv, table.csv, tests.csv), versions.json, notes.txt, the figures and, in
        ``runs``, the embeddings of all runs.
    """

    table: pd.DataFrame
    runs: pd.DataFrame
    methods: pd.DataFrame
    tests: pd.DataFrame
    versions: dict[str, dict[str, str]]
    notes: tuple[str, ...]
    folder: Path


def compare(
    adata: AnnData,
    output: str | Path,
    *,
    system_key: str,
    batch_key: str,
    label_key: str,
    methods: str | Sequence[str] = "all",
    grid: Literal["full", "default"] = "full",
    seeds: int | Sequence[int] = 3,
    epochs: int | None = None,
    timeout: float | None = None,
    jobs: int = 1,
    layer: str | None = None,
    min_cells: int = 500,
    environments: str | Path | None = None,
    constraint: str | Path | None = None,
    adapters: str | Path | None = None,
    figures: Literal["png", "pdf", "svg"] = "png",
    progress: bool | OnEvent = True,
) -> Comparison:
    """Run methods of integration on the same cells and compare them, as in the paper's Fig. 5.

    Each run is a process of its own, in an environment of its own where this one lacks what the method needs. Finished
    runs are kept in `output` and taken up again; so an interrupted comparison goes on where it was.

    Parameters
    ----------
    adata
        Cells of all systems: counts, log-normalised, or as :func:`sysvi.prepare` gives them. Never changed. Without
        counts, methods that need them are listed with that reason.
    output
        Folder for the results; made if it is missing.
    system_key, batch_key, label_key
        Columns of ``adata.obs`` with systems, samples and cell types. Only scGEN is given the cell types.
    methods
        ``"all"``, or names: sysvi, cvae, vamp, cyc, adv, pca, harmony, scvi, scvi-sysvi, glue, seurat-cca, seurat-rpca,
        harmony-r, scmgca, scgen, saturn. One that cannot be had here is listed with the reason.
    grid
        ``"full"``: all values of each method's tuned parameter; ``"default"``: its default value only.
    seeds
        How many, or which. Methods in which nothing is random are run once.
    epochs
        Of the methods that are trained, instead of each method's own number: for a quick look. The tables say so.
    timeout
        Seconds that a run may take.
    jobs
        Runs at a time. With more than one, times and memory say little.
    layer
        Layer with the expression; X by default.
    min_cells
        Fewest cells of a sample x type group for Moran's I.
    environments
        Folder that environments are made in and kept; by default in the user's cache.
    constraint
        pip's constraint file for making them, for example with the line ``torch==2.13.0+cpu``.
    adapters
        Folder with further adapters (see `sysvi.comparison.methods`), which go before those of the package.
    figures
        ``"png"``, ``"pdf"`` or ``"svg"``.
    progress
        True prints a line a run; or a function of an `Event`.

    Returns
    -------
    Comparison

    Raises
    ------
    InputError
        If an argument or the cells cannot be used. A method or a run that fails raises nothing: the tables say why.
    KeyboardInterrupt
        If interrupted; what is finished is in the tables and figures then.

    Notes
    -----
    The setting of a method is chosen by the paper's rule: metrics scaled over the method's runs, 0.6 (mean of NMI and
    Moran) + 0.4 iLISI, mean over seeds (`sysvi.evaluation.scores`). Seconds and memory are those of the whole process:
    imports, reading and training.

    Examples
    --------
    >>> import sysvi, tempfile
    >>> counts = sysvi.datasets.simulate_systems(200, 150, n_types=3, seed=1)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     found = compare(counts, folder, system_key="system", batch_key="batch", label_key="cell_type",
    ...                     methods=["pca"], progress=False)
    >>> found.table[["method", "runs"]].values.tolist()
    [['pca', 1]]
    """
    on_event = as_callback(progress)
    began = time.perf_counter()
    known = read_methods([ADAPTERS, *([Path(adapters)] if adapters else [])])
    wanted = choose_methods(known, methods)
    chosen_seeds = _seeds(seeds)
    _check(grid, epochs, timeout, jobs, min_cells, constraint, figures)
    folder = Path(output)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"Cannot make the folder {folder} ({error.strerror}).") from error

    cells = prepared_cells(adata, system_key, batch_key, label_key, layer, on_event)
    name = fingerprint_cells(cells)
    source = folder / "cells" / name  # another comparison may be under way in the folder, of other cells
    write_cells(cells, source, any(method.is_r for method in wanted))
    place = Path(environments) if environments else default_folder()
    available, reasons = _available(wanted, cells, place, Path(constraint) if constraint else None, on_event)
    todo = [
        Run(method, parameter, value, seed, epochs, name, available[method.name].version_of(method.package))
        for method in wanted
        if method.name in available
        for parameter, value in method.points(grid)
        for seed in (chosen_seeds[:1] if method.deterministic else chosen_seeds)
    ]
    runner = Runner(folder / "runs", source, cells.n_obs, timeout, jobs)
    failures: dict[str, str] = {}
    interrupt = None
    try:
        _make(todo, available, runner, failures, jobs, began, on_event)
    except KeyboardInterrupt as pressed:
        interrupt = pressed
        on_event(Event("compare", "Interrupted; measuring and writing what is finished"))
    try:
        _measure(todo, runner.folder, cells, min_cells, failures, on_event)
    except KeyboardInterrupt as pressed:
        interrupt = pressed
        on_event(Event("compare", "Interrupted; writing what is measured"))
    notes = _notes(grid, epochs, _at_once(todo, runner.folder), cells)
    found = _collect(todo, wanted, available, reasons, failures, folder, notes)
    _write(found, cells, figures, on_event)
    if interrupt is not None:
        raise interrupt
    return found


def _seeds(seeds: int | Sequence[int]) -> list[int]:
    if isinstance(seeds, Iterable):
        chosen = [whole_number("seeds", seed, 0) for seed in seeds]
        if not chosen or len(set(chosen)) < len(chosen):
            raise InputError(f"seeds is {chosen}; it must be a number of seeds or a list of different ones.")
        return chosen
    return list(range(whole_number("seeds", seeds, 1)))


def _check(
    grid: str,
    epochs: int | None,
    timeout: float | None,
    jobs: int,
    min_cells: int,
    constraint: str | Path | None,
    figures: str,
) -> None:
    """Arguments that would fail only later."""
    if grid not in ("full", "default"):
        raise InputError(f"grid is {grid!r}; it must be 'full' or 'default'.")
    if epochs is not None:
        whole_number("epochs", epochs, 1)
    if timeout is not None and not timeout > 0:
        raise InputError(f"timeout is {timeout}; it must be a number of seconds above 0.")
    whole_number("jobs", jobs, 1)
    whole_number("min_cells", min_cells, 2)
    if constraint is not None and not Path(constraint).is_file():
        raise InputError(f"There is no constraint file {constraint}.")
    if figures not in ("png", "pdf", "svg"):
        raise InputError(f"figures is {figures!r}; it must be 'png', 'pdf' or 'svg'.")


def _available(
    wanted: Sequence[Method], cells: AnnData, folder: Path, constraint: Path | None, on_event: OnEvent
) -> tuple[dict[str, Environment], dict[str, str]]:
    """Environments of the methods that can be run, and the reasons of the others."""
    available: dict[str, Environment] = {}
    reasons: dict[str, str] = {}
    found: dict[tuple[tuple[str, ...], ...], Environment | str] = {}  # each is looked for once, also one not to be had
    for method in wanted:
        needs = (method.dependencies, method.imports, tuple(method.paths))
        if method.counts and "counts" not in cells.layers:
            environment: Environment | str = "it needs counts, and the input has none"
        elif needs in found:
            environment = found[needs]
        else:
            try:
                environment = get_environment(
                    method, folder, constraint, lambda line: on_event(Event("environment", line))
                )
            except MethodNotAvailable as error:
                environment = str(error)
            found[needs] = environment
        if isinstance(environment, str):
            reasons[method.name] = environment
            values = {"method": method.name, "reason": environment}
            on_event(Event("environment", f"{method.name} is not available: {environment}", values))
        else:
            available[method.name] = environment
    return available, reasons


def _make(
    todo: Sequence[Run],
    available: dict[str, Environment],
    runner: Runner,
    failures: dict[str, str],
    jobs: int,
    began: float,
    on_event: OnEvent,
) -> None:
    """Make the runs that are not there yet; reasons of those that fail go into `failures`, by name."""
    unfinished = {run.name: run for run in todo if read_record(runner.folder, run) is None}  # each once
    kept = len({run.name for run in todo}) - len(unfinished)
    if kept:
        on_event(Event("compare", f"{kept} of {kept + len(unfinished)} runs are finished already"))

    lock, done = threading.Lock(), 0

    def make(run: Run) -> None:
        nonlocal done
        values: dict[str, Any] = {"run": run.name, "method": run.method.name}
        with lock:
            on_event(Event("run", f"{run}: running ({_duration(time.perf_counter() - began)} since the start)", values))
        try:
            record = runner.make(run, available[run.method.name])
        except RunStopped:
            return
        except RunFailed as error:
            failures[run.name] = str(error)
            outcome, values = f"{run} failed: {error}", values | {"reason": str(error)}
        else:
            memory = "" if record["peak_mb"] is None else f", {record['peak_mb']:,.0f} MB"
            outcome = f"{run}: {_duration(record['seconds'])}{memory}"
            values |= {"seconds": record["seconds"], "peak_mb": record["peak_mb"]}
        with lock:
            done += 1
            values |= {"done": done, "of": len(unfinished)}
            on_event(Event("run", f"{outcome} ({done} of {len(unfinished)})", values))

    with ThreadPoolExecutor(jobs) as pool:
        futures = [pool.submit(make, run) for run in unfinished.values()]
        try:
            for future in as_completed(futures):
                future.result()
        except BaseException:
            runner.stop()
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _measure(
    todo: Sequence[Run],
    folder: Path,
    cells: AnnData,
    min_cells: int,
    failures: dict[str, str],
    on_event: OnEvent,
) -> None:
    """Measure the finished runs that are not measured yet, method by method; scores go into their records."""
    how = {"min_cells": min_cells, "sysvi": __version__}
    waiting: dict[str, dict[str, Run]] = {}  # by method and by name
    for run in todo:
        record = read_record(folder, run)
        if record is not None and record.get("measured") != how:
            waiting.setdefault(run.method.name, {})[run.name] = run
    if not waiting:
        return
    cells = cells.copy()
    cells.obsm["X_pca"] = principal_components(cells.X, N_PCS, seed=0)  # once, for all methods
    for method, runs in waiting.items():
        for name, run in runs.items():
            cells.obsm[name] = read_embedding(folder, run)
        try:
            on_event(Event("compare", f"Measuring {len(runs)} {'run' if len(runs) == 1 else 'runs'} of {method}"))
            table = evaluate_in_detail(
                cells,
                list(runs),
                system_key="system",
                batch_key="batch",
                label_key="label",
                min_cells=min_cells,
                progress=ignore_event,
            ).table
            for name, run in runs.items():
                scores = {metric: _or_none(value) for metric, value in table[name].items()}
                record = read_record(folder, run)
                assert record is not None
                write_record(folder, run, record | {"measured": how, "scores": scores})
        except Exception as error:  # a strange embedding must not stop the others
            reason = f"cannot be measured: {str(error).splitlines()[0] if str(error) else type(error).__name__}"
            failures |= dict.fromkeys(runs, reason)
            on_event(Event("compare", f"{method} {reason}"))
        for name in runs:
            del cells.obsm[name]


def _collect(
    todo: Sequence[Run],
    wanted: Sequence[Method],
    available: dict[str, Environment],
    reasons: dict[str, str],
    failures: dict[str, str],
    folder: Path,
    notes: Sequence[str],
) -> Comparison:
    """The tables, from what is in the folder."""
    rows = []
    for run in todo:
        record = read_record(folder / "runs", run) or {}
        finished = "scores" in record and run.name not in failures
        row = {
            "method": run.method.name,
            "title": run.method.title,
            "parameter": run.parameter,
            "value": run.value,
            "seed": run.seed,
            "epochs": run.epochs if run.method.epochs else None,
            "status": "finished" if finished else "failed" if run.name in failures else "not run",
            "reason": failures.get(run.name, ""),
            "seconds": record.get("seconds"),
            "peak_mb": record.get("peak_mb"),
            "run": run.name,
        }
        rows.append(row | (record["scores"] if finished else {}))
    metrics = list(dict.fromkeys(name for row in rows for name in row if name not in FACTS))
    runs = pd.DataFrame(rows, columns=[*FACTS, *metrics])
    runs = runs.astype(dict.fromkeys(["seconds", "peak_mb", *metrics], float))
    runs["value"] = pd.Series([run.value for run in todo], dtype=object)  # as they are: 1 and 1.5, not 1.0
    runs = scored_runs(runs)
    described = []
    for method in wanted:
        own = runs[runs["method"] == method.name]
        environment = available.get(method.name)
        first = own.loc[own["status"] == "failed", "reason"].head(1).tolist()
        every = f"all runs failed: {first[0]}" if first and (own["status"] == "failed").all() else ""
        described.append(
            {
                "method": method.name,
                "title": method.title,
                "available": environment is not None,
                "version": "" if environment is None else environment.version_of(method.package),
                "reason": reasons.get(method.name, every),
                "finished": int((own["status"] == "finished").sum()),
                "failed": int((own["status"] == "failed").sum()),
                "labels": method.labels,
                "settings": json.dumps(method.settings),
                "grid": json.dumps(method.grid),
                "dependencies": " ".join(method.dependencies),
            }
        )
    versions = {name: dict(sorted(environment.versions.items())) for name, environment in available.items()}
    return Comparison(
        summary(runs, metrics), runs, pd.DataFrame(described), welch(runs, metrics), versions, tuple(notes), folder
    )


def _write(found: Comparison, cells: AnnData, figures: str, on_event: OnEvent) -> None:
    """The tables and figures."""
    tables = {"runs": found.runs, "methods": found.methods, "table": found.table, "tests": found.tests}
    for name, table in tables.items():
        write_atomically(found.folder / f"{name}.csv", partial(table.to_csv, index=False))
    text = json.dumps(found.versions, indent=1) + "\n"
    write_atomically(found.folder / "versions.json", lambda path: path.write_text(text))
    write_atomically(found.folder / "notes.txt", lambda path: path.write_text("\n".join(found.notes) + "\n"))
    if found.table.empty:
        for name in ("comparison", "umaps"):  # of earlier cells or runs
            (found.folder / f"{name}.{figures}").unlink(missing_ok=True)
    else:
        listed = found.methods[~found.methods["method"].isin(found.table["method"])]
        absent = dict(zip(listed["title"] + " (no result)", listed["reason"], strict=True))
        note = " ".join(found.notes)
        path = found.folder / f"comparison.{figures}"
        plot_comparison(found.runs, found.table, ["overall", *DRAWN], path, absent=absent, note=note)
        best = found.runs[found.runs["representative"]].set_index("method").loc[found.table["method"]]
        embeddings = {
            row["title"]: np.load(found.folder / "runs" / row["run"] / "embedding.npy") for _, row in best.iterrows()
        }
        plot_umaps(embeddings, cells.obs, ["system", "label"], found.folder / f"umaps.{figures}")
    on_event(Event("write", f"Wrote the tables and figures into {found.folder}", {"output": str(found.folder)}))


def _at_once(todo: Sequence[Run], folder: Path) -> int:
    """How many of these runs were made at a time, at most."""
    records = (read_record(folder, run) for run in todo)
    return max((record.get("jobs", 1) for record in records if record is not None), default=1)


def _notes(grid: str, epochs: int | None, jobs: int, cells: AnnData) -> list[str]:
    notes = [f"{cells.n_obs:,} cells x {cells.n_vars:,} genes."]
    if epochs is not None:
        notes.append(
            f"Trained for {epochs} epochs instead of each method's own number: a quick look, not a comparison."
        )
    if grid == "default":
        notes.append("Each method at the default of its tuned parameter only.")
    if jobs > 1:
        notes.append(f"Up to {jobs} runs at a time: their times and memory are not comparable.")
    return notes


def _or_none(value: object) -> float | None:
    """For JSON, which has no NaN."""
    number = float(value)  # type: ignore[arg-type]
    return number if math.isfinite(number) else None


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"
