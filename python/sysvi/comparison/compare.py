"""Run several integration methods on the same cells, over settings and seeds, and compare their results."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

from anndata import AnnData

from sysvi._core.arguments import check_types
from sysvi._core.backend_of_figures import check_backend_of_figures
from sysvi._core.errors import InputError
from sysvi._core.events import Event, OnEvent
from sysvi._core.files import check_folder, create_folder, locked_folder
from sysvi._core.progress import as_callback
from sysvi._core.settings import random_seed, whole_number
from sysvi.comparison.cells import fingerprint_cells, prepared_cells, write_cells
from sysvi.comparison.environments import default_folder, get_environments
from sysvi.comparison.execution import make_missing_runs
from sysvi.comparison.files import write_comparison
from sysvi.comparison.methods import ADAPTERS, choose_methods, read_methods
from sysvi.comparison.result import Comparison
from sysvi.comparison.runs import MethodRun, Runner, read_run
from sysvi.comparison.scoring import score_runs
from sysvi.comparison.tables import methods_table, runs_table, summary_table, tests_table


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
    """Run several integration methods on the same cells and compare them, as in the paper's Fig. 5.

    Each run is a process of its own. A method whose packages the current environment lacks gets an environment of its
    own. Finished runs are kept in `output` and reused, so an interrupted comparison continues where it stopped.

    Parameters
    ----------
    adata
        Cells of all systems (n cells x G genes): counts, log-normalised expression, or the result of
        :func:`sysvi.prepare`. It is not changed. Without counts, methods that need them are listed as not available.
    output
        Folder for the results; it is created if missing.
    system_key, batch_key, label_key
        Columns of ``adata.obs`` with the systems, batches (samples) and cell type labels. Of the methods, only scGen
        and scANVI use the labels. Unlabelled cells (missing values, "unlabelled", "unknown" and the like) are
        integrated by all methods, and left out of every metric that needs labels.
    methods
        ``"all"``, or names of methods: sysvi, cvae, vamp, cyc, adv, pca, harmony, scvi, scvi-sysvi, drvi, glue,
        concord, scvital, seurat-cca, seurat-rpca, harmony-r, stacas, scmgca, scgen, scanvi, saturn. A method that is
        not available on this machine is listed with the reason.
    grid
        ``"full"``: all values of each method's tuned parameter; ``"default"``: its default value only.
    seeds
        Number of seeds (0, 1, ...), or the seeds. Deterministic methods are run once.
    epochs
        Number of training epochs in place of each method's own number, for a quick look; the tables note it.
    timeout
        Longest time that a run may take, in seconds. No limit by default.
    jobs
        Number of runs made at the same time. With more than one, run times and memory are not comparable.
    layer
        Layer with the expression; ``adata.X`` by default.
    min_cells
        Fewest cells of a sample x cell type group for Moran's I.
    environments
        Folder in which environments are created and kept; by default in the user's cache. They are created with uv
        where a ``uv`` executable is on the PATH, and otherwise with pip.
    constraint
        File with version constraints in pip's format for these environments, for example with the line
        ``torch==2.13.0+cpu``.
    adapters
        Folder with further adapters (see `sysvi.comparison.methods`); they replace the package's adapters of the same
        method.
    figures
        Format of the figures: ``"png"``, ``"pdf"`` or ``"svg"``.
    progress
        True prints a line for each run, False prints nothing; a function receives each :class:`sysvi.Event`.

    Returns
    -------
    Comparison

    Raises
    ------
    InputError
        If an argument or the cells cannot be used, or another comparison is under way in the folder. A method or a run
        that fails raises no error: the tables give the reason.
    KeyboardInterrupt
        After an interrupt (Ctrl-C); the tables and figures then hold what was finished.

    Notes
    -----
    The setting of each method is chosen by the paper's rule: metrics are scaled over the runs of the method, the score
    is 0.6 (mean of NMI and Moran's I) + 0.4 iLISI, and the highest mean over seeds wins (`sysvi.evaluation.scores`).
    Time and memory are those of the whole process: imports, reading and training.

    Examples
    --------
    >>> import sysvi, tempfile
    >>> counts = sysvi.datasets.simulate_systems(200, 150, n_types=3, seed=1)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     comparison = compare(counts, folder, system_key="system", batch_key="batch", label_key="cell_type",
    ...                          methods=["pca"], progress=False)
    >>> comparison.table[["method", "runs"]].values.tolist()
    [['pca', 1]]
    """
    check_types(
        compare,
        adata=adata,
        output=output,
        methods=methods,
        timeout=timeout,
        environments=environments,
        constraint=constraint,
        adapters=adapters,
    )
    check_backend_of_figures()
    on_event = as_callback(progress)
    start = time.perf_counter()
    known_methods = read_methods([ADAPTERS, *([Path(adapters)] if adapters else [])])
    chosen_methods = choose_methods(known_methods, methods)
    seed_list = _list_seeds(seeds)
    _check_arguments(grid, epochs, timeout, jobs, min_cells, constraint, figures)
    check_folder(Path(output), may_be_missing=True)
    cells = prepared_cells(adata, system_key, batch_key, label_key, layer, on_event)
    cells_name = fingerprint_cells(cells)
    folder = create_folder(output)
    with locked_folder(folder):
        source = folder / "cells" / cells_name
        write_cells(cells, source, for_r=any(method.is_r for method in chosen_methods))
        available, reasons = get_environments(
            chosen_methods,
            "counts" in cells.layers,
            Path(environments) if environments else default_folder(),
            Path(constraint) if constraint else None,
            on_event,
        )
        runs = [
            MethodRun(
                method, parameter, value, seed, epochs, cells_name, available[method.name].version_of(method.package)
            )
            for method in chosen_methods
            if method.name in available
            for parameter, value in method.grid_points(grid)
            for seed in (seed_list[:1] if method.deterministic else seed_list)
        ]
        runner = Runner(folder / "runs", source, cells.n_obs, timeout, jobs)
        runner.remove_leftovers()
        failures: dict[str, str] = {}  # name of a run -> why it failed
        interrupt = None
        try:
            make_missing_runs(runs, available, runner, failures, jobs, start, on_event)
        except KeyboardInterrupt as error:
            interrupt = error
            on_event(Event("compare", "Interrupted; measuring and writing the finished runs"))
        try:
            score_runs(runs, runner.folder, cells, min_cells, failures, on_event)
        except KeyboardInterrupt as error:
            interrupt = error
            on_event(Event("compare", "Interrupted; writing the runs measured so far"))

        table, metrics = runs_table(runs, runner.folder, failures)
        comparison = Comparison(
            summary_table(table, metrics),
            table,
            methods_table(chosen_methods, available, reasons, table),
            tests_table(table, metrics),
            {name: dict(sorted(environment.versions.items())) for name, environment in available.items()},
            tuple(_notes(grid, epochs, _most_jobs(runs, runner.folder), cells)),
            folder,
            {
                **{"system_key": system_key, "batch_key": batch_key, "label_key": label_key, "layer": layer},
                **{"methods": [method.name for method in chosen_methods], "grid": grid, "seeds": seed_list},
                **{"epochs": epochs, "timeout": timeout, "jobs": jobs, "min_cells": min_cells},
                **{"own_adapters": adapters is not None, "genes": cells.n_vars, "cells": _count(cells)},
            },
        )
        write_comparison(comparison, cells.obs, figures, on_event)
        if interrupt is not None:
            raise interrupt
        return comparison


def _list_seeds(seeds: int | Sequence[int]) -> list[int]:
    """The seeds, which may be given by their number."""
    if isinstance(seeds, Iterable):
        seed_list = [random_seed(seed, "seeds") for seed in seeds]
        if not seed_list or len(set(seed_list)) < len(seed_list) or max(seed_list) >= 2**32:
            raise InputError(
                f"seeds is {seed_list}; it must be a number of seeds or a list of different ones below 2^32."
            )
        return seed_list
    return list(range(whole_number("seeds", seeds, 1)))


def _check_arguments(
    grid: str,
    epochs: int | None,
    timeout: float | None,
    jobs: int,
    min_cells: int,
    constraint: str | Path | None,
    figures: str,
) -> None:
    """Check the arguments that would otherwise fail late."""
    if grid not in ("full", "default"):
        raise InputError(f"grid is {grid!r}; it must be 'full' or 'default'.")
    if epochs is not None:
        whole_number("epochs", epochs, 1)
    if timeout is not None and not timeout > 0:
        raise InputError(f"timeout is {timeout}; it must be a number of seconds above 0.")
    whole_number("jobs", jobs, 1)
    whole_number("min_cells", min_cells, 2)
    if constraint is not None:
        try:
            Path(constraint).read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"The constraint file {constraint} cannot be read ({error}).") from error
    if figures not in ("png", "pdf", "svg"):
        raise InputError(f"figures is {figures!r}; it must be 'png', 'pdf' or 'svg'.")


def _count(cells: AnnData) -> list[dict[str, Any]]:
    """Number of cells of each system and batch."""
    groups = cells.obs[["system", "batch"]].astype(str)
    return groups.value_counts(sort=False).rename("cells").reset_index().to_dict("records")


def _most_jobs(runs: Sequence[MethodRun], folder: Path) -> int:
    """The largest number of runs that were made at the same time, among the finished runs."""
    records = (read_run(folder, run) for run in runs)
    return max((record.get("jobs", 1) for record in records if record is not None), default=1)


def _notes(grid: str, epochs: int | None, jobs: int, cells: AnnData) -> list[str]:
    """Sentences that a reader of the tables must know."""
    notes = [f"{cells.n_obs:,} cells x {cells.n_vars:,} genes."]
    if epochs is not None:
        notes.append(
            f"Trained for {epochs} epochs instead of each method's own number: a quick look, not a comparison."
        )
    if grid == "default":
        notes.append("Each method is run at the default value of its tuned parameter only.")
    if jobs > 1:
        notes.append(f"Up to {jobs} runs were made at the same time: run times and memory are not comparable.")
    return notes
