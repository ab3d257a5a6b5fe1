"""Graph connectivity: whether the cells of a label hang together."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy import sparse
from scipy.sparse.csgraph import connected_components

from sysvi.metrics._neighbors import Neighbors
from sysvi.metrics._score import Score, encode


def graph_connectivity(neighbors: Neighbors, label: ArrayLike, *, n_neighbors: int = 14) -> Score:
    """Share of a label's cells in its largest connected piece, averaged over labels: up to 1, where all hang together.

    Within a label, an arrow goes from each cell to those of its nearest neighbours that have the label. Cells are in
    one piece if arrows lead from each to each other (strong components). Systems that stay apart split their labels
    into pieces. The measure also improves as cells draw together, and is 1 if all are on one spot.

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
        The mean over labels; each label's share. A label of one cell has 1.

    Raises
    ------
    InputError
        If a label is missing or there is not one for each cell.

    Notes
    -----
    scib-metrics' value for 15 neighbours, the cell itself among them.

    Examples
    --------
    >>> from sysvi.metrics._neighbors import nearest_neighbors
    >>> line = nearest_neighbors([[0.0], [1.0], [2.0], [8.0], [9.0], [20.0], [21.0]], 1)
    >>> graph_connectivity(line, ["a", "a", "a", "a", "a", "b", "b"], n_neighbors=1).per_label.to_dict()
    {'a': 0.4, 'b': 1.0}
    """
    indices = neighbors.nearest(n_neighbors).indices
    n = neighbors.n_cells
    codes, names = encode(label, "label", n)
    same = codes[indices] == codes[:, None]  # (n, k)
    starts = np.concatenate([[0], same.sum(1).cumsum()])
    arrows = sparse.csr_matrix((np.ones(starts[-1], np.float32), indices[same], starts), shape=(n, n))
    _, piece = connected_components(arrows, connection="strong")  # no arrow leaves a label, so neither does a piece
    largest = np.zeros(len(names))
    np.maximum.at(largest, codes, np.bincount(piece)[piece])
    per_label = pd.Series(largest / np.bincount(codes), index=names)
    return Score(float(per_label.mean()), per_label)
