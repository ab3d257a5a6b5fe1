"""kNN purity: how many of a cell's neighbours are of its type."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from sysvi.metrics._neighbors import Neighbors
from sysvi.metrics._score import Score, encode


def knn_purity(neighbors: Neighbors, label: ArrayLike, *, n_neighbors: int = 30) -> Score:
    """Share of a cell's neighbours that have its label: 1 where types are apart, near a label's share where mixed.

    Averaged over the cells of a label, then over labels, so that rare types count as much as common ones.

    Parameters
    ----------
    neighbors
        Neighbours of n cells.
    label
        Cell type of each cell, (n,).
    n_neighbors
        How many neighbours of each cell to take.

    Returns
    -------
    Score
        The mean over labels; the mean of each label's cells; each cell's share. A label of fewer than
        `n_neighbors` + 1 cells cannot reach 1, a label of one cell has 0.

    Raises
    ------
    InputError
        If a label is missing or there is not one for each cell.

    Notes
    -----
    The paper's measure and number of neighbours; scib-metrics has none. The paper's code left neighbours at distance
    0 (duplicated cells) out; here they count.

    Examples
    --------
    >>> from sysvi.metrics._neighbors import nearest_neighbors
    >>> line = nearest_neighbors([[0.0], [1.0], [2.0], [3.5], [8.0], [9.0]], 2)
    >>> knn_purity(line, ["a", "a", "a", "b", "b", "b"], n_neighbors=2).per_label.round(2).to_dict()
    {'a': 0.83, 'b': 0.67}
    """
    indices = neighbors.nearest(n_neighbors).indices
    codes, names = encode(label, "label", neighbors.n_cells)
    hits = np.zeros(neighbors.n_cells)
    for nearest in indices.T:  # a neighbour of each cell at a time
        hits += codes[nearest] == codes
    per_cell = hits / indices.shape[1]
    per_label = pd.Series(per_cell).groupby(names[codes]).mean()
    return Score(float(per_label.mean()), per_label, per_cell)
