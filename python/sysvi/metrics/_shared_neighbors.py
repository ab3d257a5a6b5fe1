"""Share of a cell's nearest neighbours that come from other systems."""

from __future__ import annotations

import numpy as np
import pandas as pd

from sysvi._core.arguments import check_types
from sysvi._core.errors import InputError
from sysvi.metrics._neighbors import nearest_neighbors
from sysvi.metrics._score import check_embedding, encode_categories


def shared_neighbors(
    embedding: np.ndarray,
    system: np.ndarray,
    label: np.ndarray | None = None,
    *,
    n_neighbors: int = 15,
    min_cells: int = 20,
) -> pd.Series:
    """Measure the share of neighbours from other systems relative to complete mixing: 0 (none) to about 1 (complete).

    For each cell, take the share of its `n_neighbors` nearest cells (Euclidean distance, among all cells, without the
    cell itself) that belong to another system and have the same label, and divide it by the share of other systems
    among all cells of that label. Neighbours with another label do not count, since mixing different cell types is
    wrong. Values are averaged over the cells of each system, then over the systems of the label, so that systems count
    equally whatever their size. Without labels all cells are treated as one type.

    Parameters
    ----------
    embedding
        Embedding, (n, dimensions).
    system
        System of each cell, (n,).
    label
        Cell type of each cell, (n,). Only labels with at least `min_cells` cells in each of two or more systems are
        measured. Smaller systems are left out of the average of that label, but their cells still count as neighbours.
    n_neighbors
        Number of nearest neighbours of each cell.
    min_cells
        Minimum number of cells of a label in a system.

    Returns
    -------
    pandas.Series
        Value of each measured label, in sorted order; without labels one value, named "all".

    Raises
    ------
    InputError
        If lengths differ, a label is missing, there are too few cells, or no label can be measured.

    Examples
    --------
    >>> import numpy as np
    >>> points, system = np.arange(100.0)[:, None], np.arange(100) % 2
    >>> shared_neighbors(points, system, n_neighbors=2).round(2).to_dict()
    {'all': 1.98}
    """
    check_types(shared_neighbors, n_neighbors=n_neighbors, min_cells=min_cells)
    n = len(check_embedding(embedding))
    system = encode_categories(system, "system", n)[0]
    codes, names = encode_categories(np.full(n, "all") if label is None else label, "label", n)
    if n <= n_neighbors:
        raise InputError(f"{n} cells are too few for {n_neighbors} neighbours each: lower n_neighbors.")
    nearest = nearest_neighbors(embedding, n_neighbors).indices  # (n, k)
    foreign = ((system[nearest] != system[:, None]) & (codes[nearest] == codes[:, None])).mean(1)  # (n,)
    values = {}
    for code, name in enumerate(names):
        members = codes == code
        sizes = pd.Series(system[members]).value_counts()
        sizes = sizes[sizes >= min_cells]
        if len(sizes) < 2:
            continue
        values[str(name)] = float(relative_to_full_mixing(foreign[members], system[members], sizes).mean())
    if not values:
        raise InputError(f"No label has {min_cells} cells in each of two systems: lower min_cells.")
    return pd.Series(values, name="shared_neighbors")


def relative_to_full_mixing(foreign: np.ndarray, system: np.ndarray, sizes: pd.Series) -> pd.Series:
    """Divide the share of foreign neighbours by the share expected under complete mixing, for each system.

    Parameters
    ----------
    foreign
        Share of each cell's neighbours that come from other systems, (n,).
    system
        System of each cell, (n,).
    sizes
        Number of cells of each system to be measured, indexed by system.

    Returns
    -------
    pandas.Series
        Mean over the cells of each system in `sizes`, divided by the share of other systems among all n cells.
    """
    observed = pd.Series({s: foreign[system == s].mean() for s in sizes.index}, dtype=float)
    return observed / (1 - sizes / len(system))
