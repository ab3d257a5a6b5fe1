"""kBET: whether a cell's neighbours are a fair sample of the systems (Büttner et al. 2019)."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy import sparse
from scipy.sparse.csgraph import connected_components
from scipy.sparse.linalg import eigsh
from scipy.special import chdtrc

from sysvi.metrics._neighbors import Neighbors, nearest_neighbors
from sysvi.metrics._score import Score, encode

CHUNK = 2**20  # numbers in the largest array of a chunk of cells


def kbet(neighbors: Neighbors, system: ArrayLike, *, alpha: float = 0.05) -> Score:
    """Share of cells whose neighbourhood has the systems in the proportions of the whole, by a chi-square test.

    Parameters
    ----------
    neighbors
        Neighbours of n cells. A cell and its k neighbours are its neighbourhood.
    system
        System of each cell, (n,).
    alpha
        A neighbourhood is accepted if the test's p-value is at least this.

    Returns
    -------
    Score
        The acceptance rate, 0 to 1 (a random mix: about 1 - `alpha`, or more, since neighbours are drawn without
        replacement); no values of labels; each cell's p-value. All NaN if there is one system only.

    Raises
    ------
    InputError
        If a system is missing or there is not one for each cell.

    Notes
    -----
    scib-metrics' ``kbet`` for k + 1 neighbours, the cell itself among them (of one system it gives 0).

    Examples
    --------
    >>> from sysvi.metrics._neighbors import nearest_neighbors
    >>> line = nearest_neighbors([[float(i)] for i in range(40)], 9)
    >>> kbet(line, ["human", "mouse"] * 20).value, kbet(line, ["human"] * 20 + ["mouse"] * 20).value
    (1.0, 0.175)
    """
    codes, names = encode(system, "system", neighbors.n_cells)
    p_values = _p_values(neighbors, codes)
    value = float((p_values >= alpha).mean()) if len(names) > 1 else np.nan
    return Score(value, None, p_values)


def _p_values(neighbors: Neighbors, codes: np.ndarray) -> np.ndarray:
    """P-value of each neighbourhood (n,): Pearson's chi-square of its systems against their shares among all cells."""
    n, k = neighbors.indices.shape
    _, codes, sizes = np.unique(codes, return_inverse=True, return_counts=True)
    n_systems = len(sizes)
    expected = (k + 1) * sizes / n  # (systems,)
    p_values = np.full(n, np.nan)
    if n_systems == 1:
        return p_values
    rows = max(1, CHUNK // n_systems)
    for start in range(0, n, rows):
        part = slice(start, start + rows)
        own = codes[part]
        cells = np.arange(len(own))
        observed = np.zeros((len(own), n_systems))
        observed[cells, own] = 1
        for nearest in neighbors.indices[part].T:  # a neighbour of each cell at a time
            observed[cells, codes[nearest]] += 1
        p_values[part] = chdtrc(n_systems - 1, ((observed - expected) ** 2 / expected).sum(1))
    return p_values


def kbet_per_label(
    neighbors: Neighbors,
    system: ArrayLike,
    label: ArrayLike,
    *,
    n_neighbors: int = 49,
    n_components: int = 100,
    alpha: float = 0.05,
    min_cells: int = 10,
    seed: int = 0,
) -> Score:
    """Share of neighbourhoods inside a label that are a fair sample of the systems, averaged over labels: 0 to 1.

    For one label at a time, the graph of its cells (UMAP's connectivities) is mapped by diffusion, and `kbet` applied
    to the nearest neighbours on that map: a quarter of the label's mean number of cells of a system, from 10 to 70.
    If the graph is in several pieces, those of at least three times as many cells are mapped together; if they have
    less than three quarters of the cells, or are of one system, the label's value is 0.

    Parameters
    ----------
    neighbors
        Neighbours of n cells.
    system
        System of each cell, (n,).
    label
        Cell type of each cell, (n,).
    n_neighbors
        How many neighbours of each cell to take for the graph.
    n_components
        Dimensions of the diffusion map, or the label's cells less one where that is not as many.
    alpha
        A neighbourhood is accepted if the test's p-value is at least this.
    min_cells
        Fewest cells of a label; smaller labels and labels of one system are not measured.
    seed
        Of the eigenvectors' starting point; the result hardly depends on it.

    Returns
    -------
    Score
        The mean over measured labels (NaN without any); each one's acceptance rate; each cell's p-value, NaN where it
        was not tested. A label of few cells is accepted easily: in one of 11, each neighbourhood is the whole label.

    Raises
    ------
    InputError
        If a system or label is missing or there is not one for each cell.

    Notes
    -----
    The convention of scib-metrics' ``kbet_per_label`` for 50 neighbours, the cell itself among them, with two
    differences: neighbours on the map are exact up to 200,000 cells of a label; and all labels have `n_components`
    dimensions, while in scib-metrics 0.5.10 a label of fewer cells lowers them for all labels after it. Pieces are
    mapped together as there, so a neighbour may be of another piece.

    Examples
    --------
    >>> import numpy as np
    >>> from sysvi.metrics._neighbors import nearest_neighbors
    >>> points = np.random.default_rng(0).normal(size=(200, 2))
    >>> mixed, apart = np.arange(200) % 2, points[:, 0] > 0
    >>> neighbors, label = nearest_neighbors(points, 49), ["alpha"] * 200
    >>> round(kbet_per_label(neighbors, mixed, label).value, 1), round(kbet_per_label(neighbors, apart, label).value, 1)
    (1.0, 0.1)
    """
    n = neighbors.n_cells
    systems, _ = encode(system, "system", n)
    labels, names = encode(label, "label", n)
    graph = neighbors.nearest(n_neighbors).connectivities
    values: dict[str, float] = {}
    p_values = np.full(n, np.nan)
    for code, name in enumerate(names):
        cells = np.flatnonzero(labels == code)
        n_systems = len(np.unique(systems[cells]))
        if len(cells) < min_cells or n_systems == 1:
            continue
        k = min(max(len(cells) // n_systems // 4, 10), 70)
        own = graph[cells][:, cells]
        n_pieces, piece = connected_components(own, directed=False)
        if n_pieces > 1:
            kept = np.bincount(piece)[piece] >= 3 * k
            cells, own = cells[kept], own[kept][:, kept]
            if kept.mean() < 0.75 or len(np.unique(systems[cells])) == 1:
                values[name] = 0.0
                continue
        nearest = nearest_neighbors(_diffusion_map(own, n_components, seed), k, seed=seed)
        p_values[cells] = _p_values(nearest, systems[cells])
        values[name] = float((p_values[cells] >= alpha).mean())
    per_label = pd.Series(values, dtype=float)
    return Score(float(per_label.mean()), per_label, p_values)


def _diffusion_map(graph: sparse.csr_matrix, n_components: int, seed: int) -> np.ndarray:
    """Coordinates (n, components) in which distance is diffusion distance, summed over all numbers of steps."""
    n = graph.shape[0]
    kernel = _divide(graph.astype(np.float64), 1)  # of cells whatever their density (Coifman & Lafon 2006, alpha 1)
    start = np.random.default_rng(seed).normal(size=n)
    values, vectors = eigsh(_divide(kernel, 0.5), k=min(n_components, n - 1), v0=start)
    trivial = values > 1 - 1e-7  # one for each piece of the graph; scib-metrics leaves these as they are
    return vectors * np.where(trivial, 1, values / np.where(trivial, 1, 1 - values))


def _divide(graph: sparse.csr_matrix, power: float) -> sparse.csr_matrix:
    """Each entry divided by the sums of its row and its column to a power."""
    by_sum = sparse.diags(np.asarray(graph.sum(1)).ravel() ** -power)
    return by_sum @ graph @ by_sum
