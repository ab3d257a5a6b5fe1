"""Systems that mix or stay apart, found by their cells' neighbours from other systems; no labels are needed."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
from scipy import sparse

from sysvi._core.errors import InputError
from sysvi._core.events import Event, OnEvent, ignore_event
from sysvi._core.samples import sample_rows
from sysvi.data.stored import StoredExpression
from sysvi.metrics._neighbors import nearest_neighbors
from sysvi.metrics._pca import principal_components
from sysvi.metrics._shared_neighbors import relative_to_full_mixing

MAX_SAMPLED_CELLS = 10_000  # neighbours are searched among at most this many cells
MIN_CELLS_PER_SYSTEM = 20  # smaller systems are left out: too few cells to judge
N_NEIGHBORS = 15
N_COMPONENTS = 30  # of the expression before the integration
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
    rows = sample_rows(np.arange(len(system)), MAX_SAMPLED_CELLS)
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
        f"{longer}try the preset 'mixing', another seed or prior='standard_normal', or compare settings with "
        "sysvi.tune.",
        stacklevel=stacklevel + 1,
    )


def report_weak_effect(expression: sparse.csr_matrix | StoredExpression, system: np.ndarray, on_event: OnEvent) -> None:
    """Report if systems differ little: in principal components of the expression, none of them is apart.

    Parameters
    ----------
    expression
        Log-normalised expression, in memory or on disk, (n, genes). Of more than 10,000 cells a random sample of fixed
        seed is used.
    system
        System of each cell, (n,).
    on_event
        Progress callback.
    """
    if on_event is ignore_event:  # principal components take seconds, and nobody would see the report
        return
    rows = sample_rows(np.arange(len(system)), MAX_SAMPLED_CELLS)
    try:
        components = principal_components(expression[rows], N_COMPONENTS)
    except InputError:  # too few genes or cells to judge
        return
    mixing = cross_system_neighbors(components, system[rows])
    if mixing.empty or (mixing < SEPARATION_THRESHOLD).any():
        return
    shares = ", ".join(f"{name} {share:.0%}" for name, share in mixing.items())
    on_event(
        Event(
            "effect",
            "The systems differ little: before the integration, their cells have neighbours from other systems already "
            f"({shares} of full mixing). A weaker method, such as Harmony, may be enough.",
            {"mixing_before": mixing.to_dict()},
        )
    )
