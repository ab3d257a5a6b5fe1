"""Graph connectivity: whether the cells of a label form one connected component of the neighbour graph."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy import sparse
from scipy.sparse.csgraph import connected_components

from sysvi._core.arguments import check_types
from sysvi.metrics._neighbors import Neighbors
from sysvi.metrics._score import Score, convention, encode_categories


@convention(
    "share of the cells of each type in its largest strongly connected component, graph of 14 other neighbours; "
    "mean over types"
)
def graph_connectivity(neighbors: Neighbors, label: ArrayLike, *, n_neighbors: int = 14) -> Score:
    """Measure the share of each label's cells in its largest connected component: above 0 to 1, higher is better.

    Within a label, a directed edge leads from each cell to those of its nearest neighbours that have the same label;
    components are strongly connected. Systems that stay apart split their labels into several components. The measure
    also improves if cells merely move closer together, and is 1 if all cells coincide.

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
        Mean over labels, with the share of each label. A label with one cell has 1.

    Raises
    ------
    InputError
        If a label is missing or their number is not n.

    Notes
    -----
    Same values as scib-metrics with 15 neighbours, which count the cell itself.

    Examples
    --------
    >>> from sysvi.metrics._neighbors import nearest_neighbors
    >>> line = nearest_neighbors([[0.0], [1.0], [2.0], [8.0], [9.0], [20.0], [21.0]], 1)
    >>> graph_connectivity(line, ["a", "a", "a", "a", "a", "b", "b"], n_neighbors=1).per_label.to_dict()
    {'a': 0.4, 'b': 1.0}
    """
    check_types(graph_connectivity, neighbors=neighbors, n_neighbors=n_neighbors)
    indices = neighbors.nearest(n_neighbors).indices
    n = neighbors.n_cells
    codes, names = encode_categories(label, "label", n)
    same = codes[indices] == codes[:, None]  # (n, k)
    starts = np.concatenate([[0], same.sum(1).cumsum()])
    edges = sparse.csr_matrix((np.ones(starts[-1], np.float32), indices[same], starts), shape=(n, n))
    _, component = connected_components(edges, connection="strong")  # edges, so components, stay within a label
    largest = np.zeros(len(names))
    np.maximum.at(largest, codes, np.bincount(component)[component])
    per_label = pd.Series(largest / np.bincount(codes), index=names)
    return Score(float(per_label.mean()), per_label)
