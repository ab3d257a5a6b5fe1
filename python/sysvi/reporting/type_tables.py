"""Tables of a report that have a row for each cell type or each system."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pandas as pd

from sysvi.api.support import LOW_SUPPORT
from sysvi.evaluation.evaluate import Evaluation
from sysvi.evaluation.registry import BATCH, METRICS
from sysvi.metrics import nearest_neighbors

SUPPORT_LIMITS = (0.0, LOW_SUPPORT, 0.4, 0.6, 0.8, 1.0)  # of the classes in which cells are counted by their support


def neighbors_elsewhere(z: np.ndarray, label: np.ndarray, system: np.ndarray) -> pd.Series:
    """Share of the 15 nearest neighbours of each type's cells that are of another system, relative to full mixing.

    Parameters
    ----------
    z
        Embedding of n labelled cells, (n, d).
    label, system
        Their label and system, (n,).

    Returns
    -------
    pandas.Series
        By label: 0 if the type's cells have neighbours of their own system only, 1 if as many of others as a random
        sample of cells has.

    Examples
    --------
    >>> z = np.repeat([[0.0], [9.0]], 20, axis=0)
    >>> system = np.array(["human", "mouse"] * 10 + ["human"] * 20)
    >>> apart = neighbors_elsewhere(z, np.repeat(["B", "T"], 20), system)
    >>> float(apart["T"]), bool(apart["B"] > 0.9)
    (0.0, True)
    """
    neighbors = nearest_neighbors(z, min(15, len(z) - 1)).indices
    found = pd.Series((system[neighbors] != system[:, None]).mean(axis=1)).groupby(label).mean()
    expected = pd.Series(1 - pd.Series(system).map(pd.Series(system).value_counts(normalize=True))).groupby(label)
    return found / expected.mean()


def cells_by_type(label: np.ndarray, system: np.ndarray, support: np.ndarray | None) -> pd.DataFrame:
    """Cells of each type in each system, types that a single system has, and their support.

    Parameters
    ----------
    label, system
        Label and system of n labelled cells, (n,).
    support
        Support of each cell, (n,); None if there is none.

    Returns
    -------
    pandas.DataFrame
        A row for each label; a column for each system with its number of cells, ``only in`` (the system of a private
        type, otherwise ""), and, with support, ``median support`` and ``with counterparts``, the share of cells whose
        support is 0.2 or more.

    Examples
    --------
    >>> table = cells_by_type(np.array(["B", "B", "T"]), np.array(["human", "mouse", "mouse"]), np.array([1, 0.5, 0.1]))
    >>> print(*table.loc["T"])
    0 1 mouse 0.1 0.0
    """
    table = pd.crosstab(label, system)
    table.index.name = table.columns.name = None
    one = (table > 0).sum(axis=1) == 1
    only = table.idxmax(axis=1).where(one, "")
    table["only in"] = only
    if support is not None:
        by_label = pd.Series(support).groupby(np.asarray(label))
        table["median support"] = by_label.median()
        table["with counterparts"] = by_label.apply(lambda values: float((values >= LOW_SUPPORT).mean()))
    return table


def mixing_by_type(evaluation: Evaluation) -> pd.DataFrame:
    """Metrics of the mixing within cell types.

    Returns
    -------
    pandas.DataFrame
        A row for each label, and a column (metric, embedding) for each metric that has values by label; NaN for types
        of a single system. Empty without labels.
    """
    names = {m.name for m in METRICS if m.group == BATCH and m.by == "label" and m.in_score and m.needs_labels}
    table = evaluation.per_label
    table = table[(table["by"] == "label") & table["metric"].isin(names)]
    if table.empty:
        return pd.DataFrame()
    order = list(dict.fromkeys(zip(table["metric"], table["embedding"], strict=True)))
    wide = table.pivot_table(index="name", columns=["metric", "embedding"], values="value", dropna=False, sort=False)
    order.sort(key=lambda column: [metric.name for metric in METRICS].index(column[0]))
    return wide.reindex(columns=pd.MultiIndex.from_tuples(order)).sort_index()


def cells_by_support(support: pd.DataFrame, system: np.ndarray) -> pd.DataFrame:
    """Number of cells of each system in classes of their support in each other system.

    Parameters
    ----------
    support
        Support of each cell (row) in each system (column), NaN for its own.
    system
        System of each cell, (n,).

    Returns
    -------
    pandas.DataFrame
        Columns ``cells of``, ``in``, ``cells``, and the share of cells in each class, named after its limits.

    Examples
    --------
    >>> support = pd.DataFrame({"a": [np.nan, 0.2], "b": [0.8, np.nan]})
    >>> print(*cells_by_support(support, np.array(["a", "b"])).iloc[0])
    a b 1 0.0 0.0 0.0 0.0 1.0
    """
    names = [f"{low:g} to {high:g}" for low, high in pairwise(SUPPORT_LIMITS)]
    rows = []
    for own in support.columns:
        cells = system.astype(str) == own
        for other in support.columns.drop(own):
            values = support.loc[cells, other].to_numpy()
            values = values[np.isfinite(values)]
            counts = np.histogram(np.clip(values, 0, 1), SUPPORT_LIMITS)[0]
            rows.append([own, other, int(cells.sum()), *(counts / max(1, len(values)))])
    return pd.DataFrame(rows, columns=["cells of", "in", "cells", *names])
