"""Support of a cell: how far the members of an ensemble agree that it has a counterpart in another system.

Shapes: M members, n cells, L latent dimensions, S systems, k neighbours.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
import pandas as pd
from anndata import AnnData

from sysvi._core.events import Event
from sysvi._core.samples import nearest_points, sample_rows

SUPPORT_KEY = "sysvi_support"  # in obs and obsm
N_NEIGHBORS = 15
MAX_REFERENCE_CELLS = 5_000  # neighbours are searched among at most this many cells of each system
CELLS_AT_A_TIME = 10_000  # whose distances are computed at once
LOW_SUPPORT = 0.2  # few cells of shared types are below (docs/trust.md)
MIN_SHARE_TO_WARN = 0.05  # of a system's cells with low support


def neighbor_support(embeddings: Sequence[np.ndarray], system: np.ndarray) -> pd.DataFrame:
    """How far several embeddings of the same cells agree about each cell's neighbours in each other system.

    For a cell i and another system t, every embedding a proposes the k cells of t that are nearest to i. Every other
    embedding b then tells how far these k cells lie from i: their mean distance, compared with the mean distance r of
    i's k nearest cells of its own system in b. The support is the mean over all pairs (a, b) of min(1, r / distance).
    It is near 1 if all embeddings have the same counterparts, as close to the cell as cells
    of its own system are. It is low if the nearest cells of t are far away, as for a cell type that t lacks, and if
    embeddings disagree about where they lie, since what one proposes is then far away in the others.

    Parameters
    ----------
    embeddings
        M >= 2 embeddings of the same cells, (n, L) each.
    system
        System of each cell, (n,); each system has at least two cells.

    Returns
    -------
    pandas.DataFrame
        Support of each cell (row) by each other system (column), from 0 to 1; NaN for the cell's own system. Of a
        system with more than 5,000 cells, a random sample of fixed seed stands for all.
    """
    names = np.unique(system)
    support = pd.DataFrame(np.nan, index=range(len(system)), columns=[str(name) for name in names])
    reference = {name: sample_rows(np.flatnonzero(system == name), MAX_REFERENCE_CELLS) for name in names}
    own_distance = np.stack([_own_distances(z, system, reference) for z in embeddings])  # (M, n)
    for name in names:
        cells, candidates = np.flatnonzero(system != name), reference[name]
        proposed = [
            candidates[nearest_points(z[candidates], z[cells], N_NEIGHBORS)[1]] for z in embeddings
        ]  # M of (cells, k)
        total = np.zeros(len(cells))
        n_pairs = 0
        for a, neighbors in enumerate(proposed):
            for b, z in enumerate(embeddings):
                if a != b:
                    distance, own = _mean_distances(z, cells, neighbors), own_distance[b, cells]
                    total += np.divide(own, distance, out=np.ones_like(total), where=distance > own)
                    n_pairs += 1
        support.loc[cells, str(name)] = total / n_pairs
    return support


def support_column(system: str) -> str:
    """Name of a system's column in ``obsm["sysvi_support"]``: h5ad files have no slashes in names.

    Examples
    --------
    >>> support_column("cell line/2D")
    'cell line|2D'
    """
    return system.replace("/", "|")


def remove_support(adata: AnnData) -> None:
    """Remove the support that an earlier model wrote, which does not go with another embedding."""
    for container in (adata.obs, adata.obsm):
        if SUPPORT_KEY in container:
            del container[SUPPORT_KEY]


def warn_about_unsupported_cells(support: pd.DataFrame, system: np.ndarray, stacklevel: int) -> None:
    """Warn of systems with many cells that have no counterpart in another system on which the members agree."""
    groups = unsupported_cells(support, system)
    groups = groups[groups["share"] >= MIN_SHARE_TO_WARN]
    if groups.empty:
        return
    parts = [
        f"{row['n_cells']:,} of {row['of']:,} cells of {row['system']} in {row['other']}"
        for row in groups.to_dict("records")
    ]
    warnings.warn(
        f"Some cells have no counterpart on which the members of the ensemble agree: {'; '.join(parts)} "
        f"(support below {LOW_SUPPORT}). Cell types of one system only are expected to be among them; do not interpret "
        "their neighbours from that system.",
        stacklevel=stacklevel + 1,
    )


def describe_support(support: pd.DataFrame, system: np.ndarray) -> Event:
    """The event that reports how many cells of each system have counterparts in other systems."""
    table = unsupported_cells(support, system)
    parts = [
        f"{row['of'] - row['n_cells']:,} of {row['of']:,} cells of {row['system']} in {row['other']}"
        for row in table.to_dict("records")
    ]
    return Event(
        "support",
        f"Counterparts on which the members agree: {'; '.join(parts)}.",
        {"low_support": table.to_dict("records")},
    )


def unsupported_cells(support: pd.DataFrame, system: np.ndarray) -> pd.DataFrame:
    """How many cells of each system have low support in the other one; of several systems, in all others.

    Returns
    -------
    pandas.DataFrame
        A row for each system: ``system``; ``other``, the other one or "any other system"; ``n_cells`` of `system` with
        support below 0.2 there, ``of`` so many cells, and their ``share``.
    """
    rows = []
    for name in support.columns:
        cells = np.asarray(system).astype(str) == name
        others = support.columns.drop(name)
        other = others[0] if len(others) == 1 else "any other system"
        low = int((support.loc[cells, others].max(axis=1) < LOW_SUPPORT).sum())
        rows.append({"system": name, "other": other, "n_cells": low, "of": int(cells.sum())})
    table = pd.DataFrame(rows)
    return table.assign(share=table["n_cells"] / table["of"])


def _mean_distances(z: np.ndarray, cells: np.ndarray, neighbors: np.ndarray) -> np.ndarray:
    """Mean distance of each of some cells, (m,), to its neighbours, (m, k) rows of z: (m,)."""
    blocks = (slice(start, start + CELLS_AT_A_TIME) for start in range(0, len(cells), CELLS_AT_A_TIME))
    return np.concatenate(
        [np.linalg.norm(z[neighbors[block]] - z[cells[block], None], axis=2).mean(axis=1) for block in blocks]
    )


def _own_distances(z: np.ndarray, system: np.ndarray, reference: dict[str, np.ndarray]) -> np.ndarray:
    """Mean distance of each cell to its nearest other cells of its own system, (n,)."""
    distance = np.empty(len(z))
    for name, candidates in reference.items():
        cells = np.flatnonzero(system == name)
        found, indices = nearest_points(z[candidates], z[cells], N_NEIGHBORS + 1)
        itself = candidates[indices] == cells[:, None]  # (cells, k + 1)
        itself[~itself.any(axis=1), -1] = True  # a cell outside the sample is not among its neighbours
        distance[cells] = found[~itself].reshape(len(cells), -1).mean(axis=1)
    return distance
