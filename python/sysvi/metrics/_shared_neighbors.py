"""How many of a cell's neighbours come from other systems."""

from __future__ import annotations

import numpy as np
import pandas as pd

from sysvi._core.errors import InputError
from sysvi.metrics._neighbors import nearest_neighbors


def shared_neighbors(
    embedding: np.ndarray,
    system: np.ndarray,
    label: np.ndarray | None = None,
    *,
    n_neighbors: int = 15,
    min_cells: int = 20,
) -> pd.Series:
    """Share of neighbours from other systems, relative to full mixing: 0 is none, 1 is fully mixed.

    For a cell, the share of its `n_neighbors` nearest cells (Euclidean, among all cells, itself not counted) that
    belong to another system and have its label, divided by the share of other systems among all cells of that label.
    Neighbours of another label do not count: putting the wrong types together is no mixing. Averaged over the cells
    of a system, then over the systems of the label, so that systems count the same whatever their size. Without
    labels all cells have the same one.

    Parameters
    ----------
    embedding
        Cells x dimensions.
    system
        System of each cell, (n,).
    label
        Cell type of each cell, (n,). Only labels with at least `min_cells` cells in two or more systems are measured
        (systems with fewer of them are left out of that label's average, not of its cells).
    n_neighbors
        Neighbours of a cell.
    min_cells
        Fewest cells of a label in a system.

    Returns
    -------
    pandas.Series
        A value for each measured label, in sorted order; without labels one value, named "all".

    Raises
    ------
    InputError
        If lengths differ, there are too few cells, or no group is measurable.

    Examples
    --------
    >>> import numpy as np
    >>> points, system = np.arange(100.0)[:, None], np.arange(100) % 2
    >>> shared_neighbors(points, system, n_neighbors=2).round(2).to_dict()
    {'all': 1.98}
    """
    system = np.asarray(system)
    n = len(embedding)
    label = np.full(n, "all") if label is None else np.asarray(label).astype(str)
    if not len(system) == len(label) == n:
        raise InputError(f"embedding has {n} cells, system {len(system)} and label {len(label)}: give one per cell.")
    if n <= n_neighbors:
        raise InputError(f"{n} cells are too few for {n_neighbors} neighbours each.")
    near = nearest_neighbors(embedding, n_neighbors).indices  # (n, k)
    foreign = ((system[near] != system[:, None]) & (label[near] == label[:, None])).mean(1)  # (n,)
    values = {}
    for name in np.unique(label):
        members = label == name
        sizes = pd.Series(system[members]).value_counts()
        sizes = sizes[sizes >= min_cells]
        if len(sizes) < 2:
            continue
        values[str(name)] = float(relative_to_full_mixing(foreign[members], system[members], sizes).mean())
    if not values:
        raise InputError(f"No label has {min_cells} cells in each of two systems; lower min_cells.")
    return pd.Series(values, name="shared_neighbors")


def relative_to_full_mixing(foreign: np.ndarray, system: np.ndarray, sizes: pd.Series) -> pd.Series:
    """Of each system in `sizes`, its cells' mean share of foreign neighbours, over that of other systems' cells."""
    observed = pd.Series({s: foreign[system == s].mean() for s in sizes.index}, dtype=float)
    return observed / (1 - sizes / len(system))
