"""Systems that stay apart in an embedding, found by their neighbours from other systems; no labels are needed."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd

from sysvi.metrics._neighbors import nearest_neighbors
from sysvi.metrics._shared_neighbors import relative_to_full_mixing

MAX_SAMPLED_CELLS = 10_000  # neighbours are searched among at most this many cells
MIN_CELLS_PER_SYSTEM = 20  # smaller systems are left out: too few cells to judge
N_NEIGHBORS = 15
SEPARATION_THRESHOLD = 0.05  # a system with a smaller share of the neighbours of full mixing counts as apart


def cross_system_neighbors(embedding: np.ndarray, system: np.ndarray) -> pd.Series:
    """Share of each system's neighbours that are from other systems, relative to full mixing.

    Parameters
    ----------
    embedding
        Embedding, cells x latent dimensions.
    system
        System of each cell, (n,). Of more than 10,000 cells a random sample of fixed seed is used.

    Returns
    -------
    pandas.Series
        From 0 (no neighbour is from another system) to about 1 (as many as among all cells), by system. Systems of
        fewer than 20 cells are left out; empty if fewer than two systems remain.

    Examples
    --------
    >>> import numpy as np
    >>> embedding = np.concatenate([np.linspace(0, 1, 50), np.linspace(4, 5, 50)])[:, None]
    >>> cross_system_neighbors(embedding, np.repeat(["human", "mouse"], 50)).to_dict()
    {'human': 0.0, 'mouse': 0.0}
    """
    if len(system) > MAX_SAMPLED_CELLS:
        rows = np.random.default_rng(0).choice(len(system), MAX_SAMPLED_CELLS, replace=False)
        embedding, system = embedding[rows], system[rows]
    sizes = pd.Series(system).value_counts()
    sizes = sizes[sizes >= MIN_CELLS_PER_SYSTEM].sort_index()
    if len(sizes) < 2:
        return pd.Series(dtype=float)
    neighbors = nearest_neighbors(embedding, N_NEIGHBORS).indices  # (n, k)
    share_of_others = (system[neighbors] != system[:, None]).mean(1)  # (n,)
    return relative_to_full_mixing(share_of_others, system, sizes)


def warn_about_separated_systems(
    embedding: np.ndarray, system: np.ndarray, epochs: int, usual_epochs: int, stacklevel: int
) -> None:
    """Warn if cells of a system have hardly any neighbours from other systems, and say what to try."""
    mixing = cross_system_neighbors(embedding, system)
    apart = mixing[mixing < SEPARATION_THRESHOLD]
    if apart.empty:
        return
    longer = f"train longer ({epochs:,} of the usual {usual_epochs:,} epochs so far), " if epochs < usual_epochs else ""
    warnings.warn(
        f"The integration leaves {' and '.join(apart.index)} apart: their cells have {apart.mean():.0%} of the "
        "neighbours from other systems that full mixing would give. Where systems have cell types in common, "
        f"{longer}try another seed or prior='standard_normal', or compare settings with sysvi.tune.",
        stacklevel=stacklevel + 1,
    )
