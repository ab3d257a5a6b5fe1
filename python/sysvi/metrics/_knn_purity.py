"""kNN purity: share of a cell's nearest neighbours that have its cell type."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from sysvi._core.arguments import check_types
from sysvi.metrics._neighbors import Neighbors
from sysvi.metrics._score import Score, convention, encode_categories


@convention("share of the 30 nearest other cells that have the type of the cell; mean over types")
def knn_purity(neighbors: Neighbors, label: ArrayLike, *, n_neighbors: int = 30) -> Score:
    """Measure the share of each cell's neighbours that have its label: 0 to 1, higher is better.

    It is 1 where types are separate, and near a label's share of all cells where types are mixed. The mean over the
    cells of a label is averaged over labels, so that rare types count as much as common ones.

    Parameters
    ----------
    neighbors
        Nearest neighbours of n cells.
    label
        Cell type of each cell, (n,).
    n_neighbors
        Number of nearest neighbours of each cell to use.

    Returns
    -------
    Score
        Mean over labels, with the mean of each label and the share of each cell. A label with at most `n_neighbors`
        cells cannot reach 1; a label with one cell has 0.

    Raises
    ------
    InputError
        If a label is missing or their number is not n.

    Notes
    -----
    Metric and number of neighbours of the paper, whose code ignored neighbours at distance 0 (duplicated cells); here
    they count. scib-metrics has no such metric.

    Examples
    --------
    >>> from sysvi.metrics._neighbors import nearest_neighbors
    >>> line = nearest_neighbors([[0.0], [1.0], [2.0], [3.5], [8.0], [9.0]], 2)
    >>> knn_purity(line, ["a", "a", "a", "b", "b", "b"], n_neighbors=2).per_label.round(2).to_dict()
    {'a': 0.83, 'b': 0.67}
    """
    check_types(knn_purity, neighbors=neighbors, n_neighbors=n_neighbors)
    indices = neighbors.nearest(n_neighbors).indices
    codes, names = encode_categories(label, "label", neighbors.n_cells)
    hits = np.zeros(neighbors.n_cells)
    for nearest in indices.T:  # one neighbour of every cell at a time
        hits += codes[nearest] == codes
    per_cell = hits / indices.shape[1]
    per_label = pd.Series(per_cell).groupby(names[codes]).mean()
    return Score(float(per_label.mean()), per_label, per_cell)
