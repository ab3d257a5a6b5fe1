"""Compute the metrics of the runs of a comparison."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from anndata import AnnData

from sysvi._core.events import Event, OnEvent, ignore_event
from sysvi._version import __version__
from sysvi.comparison.runs import MethodRun, read_embedding, read_run, write_run
from sysvi.evaluation.evaluate import evaluate_in_detail
from sysvi.metrics._pca import principal_components

N_PCS = 50  # principal components of the unintegrated cells, for PCR comparison


def score_runs(
    runs: Sequence[MethodRun],
    folder: Path,
    cells: AnnData,
    min_cells: int,
    failures: dict[str, str],
    on_event: OnEvent,
) -> None:
    """Compute the metrics of finished runs that lack them, method by method, and write them into the runs' records.

    Parameters
    ----------
    runs
        All runs of the comparison.
    folder
        Folder of the runs.
    cells
        Cells as `prepared_cells` returns them.
    min_cells
        Fewest cells of a sample x cell type group for Moran's I.
    failures
        Gets the reason why runs could not be measured, by the run's name.
    on_event
        Function that receives the events.
    """
    conditions = {"min_cells": min_cells, "sysvi": __version__}  # scores under other conditions are computed again
    by_method: dict[str, dict[str, MethodRun]] = {}  # method -> name of the run -> run
    for run in runs:
        record = read_run(folder, run)
        if record is not None and record.get("measured") != conditions:
            by_method.setdefault(run.method.name, {})[run.name] = run
    if not by_method:
        return
    cells = cells.copy()
    cells.obsm["X_pca"] = principal_components(cells.X, N_PCS, seed=0)  # once for all methods
    for method, unscored in by_method.items():
        for name, run in unscored.items():
            cells.obsm[name] = read_embedding(folder, run)
        try:
            n = len(unscored)
            on_event(Event("compare", f"Measuring {n} {'run' if n == 1 else 'runs'} of {method}"))
            table = evaluate_in_detail(
                cells,
                list(unscored),
                system_key="system",
                batch_key="batch",
                label_key="label",
                min_cells=min_cells,
                progress=ignore_event,
            ).table
            for name, run in unscored.items():
                scores = {metric: _number_or_none(value) for metric, value in table[name].items()}
                record = read_run(folder, run)
                assert record is not None
                write_run(folder / run.name, record | {"measured": conditions, "scores": scores})
        except Exception as error:  # an unusual embedding of one method must not end the comparison of the others
            reason = f"cannot be measured: {str(error).splitlines()[0] if str(error) else type(error).__name__}"
            failures |= dict.fromkeys(unscored, reason)
            on_event(Event("compare", f"{method} {reason}"))
        for name in unscored:
            del cells.obsm[name]


def _number_or_none(value: object) -> float | None:
    """A score for JSON, which has no NaN."""
    number = float(value)  # type: ignore[arg-type]
    return number if math.isfinite(number) else None
