"""What a comparison returns."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd


@dataclass(frozen=True)
class Comparison:
    """Result of :func:`sysvi.compare`; `folder` holds it as files.

    Parameters
    ----------
    table
        One row for each method at its chosen setting, best first: mean and standard deviation over seeds of each
        metric, of the time (s) and of the peak memory (MB).
    runs
        One row for each run: method, parameter, value, seed, status, reason (if it failed), seconds, peak_mb and all
        metrics; `sysvi.comparison.tables.scored_runs` explains score, chosen, representative and overall.
    methods
        One row for each method: whether it was available, its version, the reason if it has no result.
    tests
        Welch's tests between the chosen settings (:func:`sysvi.compare_runs`).
    versions
        Version of every package in the environment of each available method.
    notes
        Sentences that a reader of the tables must know.
    folder
        Folder with the tables (runs.csv, methods.csv, table.csv, tests.csv), versions.json, notes.txt, comparison.json
        (`arguments`), the figures and, in ``runs``, the embeddings of all runs.
    arguments
        Arguments of :func:`sysvi.compare`, and the numbers of ``cells`` (of each system and batch) and ``genes``.
    """

    table: pd.DataFrame
    runs: pd.DataFrame
    methods: pd.DataFrame
    tests: pd.DataFrame
    versions: dict[str, dict[str, str]]
    notes: tuple[str, ...]
    folder: Path
    arguments: dict[str, Any]
