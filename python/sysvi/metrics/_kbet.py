"""kBET: whether the systems of a cell's neighbours have the proportions expected without batch effects."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy import sparse
from scipy.sparse.csgraph import connected_components
from scipy.sparse.linalg import eigsh
from scipy.special import chdtrc

from sysvi._core.arguments import check_types
from sysvi._core.settings import random_seed, whole_number
from sysvi.metrics._neighbors import Neighbors, nearest_neighbors
from sysvi.metrics._score import Score, convention, encode_categories

CHUNK_VALUES = 2**20  # largest number of values of an array (cells x systems) of one chunk


def kbet(neighbors: Neighbors, system: ArrayLike, *, alpha: float = 0.05) -> Score:
    """Measure the share of cells whose neighbourhood has the systems in their overall proportions (chi-square test).

    Parameters
    ----------
    neighbors
        Nearest neighbours of n cells. The neighbourhood of a cell is the cell and its k neighbours.
    system
        System of each cell, (n,).
    alpha
        Significance level: a neighbourhood is accepted if the p-value of the test is at least `alpha`.

    Returns
    -------
    Score
        Acceptance rate, 0 to 1, with the p-value of each cell and no values by label. Randomly mixed systems have about
        1 - `alpha` or more, since neighbours are drawn without replacement. All NaN if there is only one system.

    Raises
    ------
    InputError
        If a system is missing or their number is not n.

    Notes
    -----
    Same values as scib-metrics' ``kbet`` with k + 1 neighbours, which count the cell itself; for a single system
    scib-metrics returns 0.

    References
    ----------
    Büttner et al., A test metric for assessing single-cell RNA-seq batch correction, Nature Methods (2019).

    Examples
    --------
    >>> from sysvi.metrics._neighbors import nearest_neighbors
    >>> line = nearest_neighbors([[float(i)] for i in range(40)], 9)
    >>> kbet(line, ["human", "mouse"] * 20).value, kbet(line, ["human"] * 20 + ["mouse"] * 20).value
    (1.0, 0.175)
    """
    check_types(kbet, neighbors=neighbors, alpha=alpha)
    codes, names = encode_categories(system, "system", neighbors.n_cells)
    p_values = _p_values(neighbors, codes)
    value = float((p_values >= alpha).mean()) if len(names) > 1 else np.nan
    return Score(value, None, p_values)


def _p_values(neighbors: Neighbors, codes: np.ndarray) -> np.ndarray:
    """Compute the p-value of each neighbourhood, (n,): chi-square test of its systems against their overall shares."""
    n, k = neighbors.indices.shape
    _, codes, sizes = np.unique(codes, return_inverse=True, return_counts=True)
    n_systems = len(sizes)
    expected = (k + 1) * sizes / n  # (systems,)
    p_values = np.full(n, np.nan)
    if n_systems == 1:
        return p_values
    rows = max(1, CHUNK_VALUES // n_systems)
    for start in range(0, n, rows):
        part = slice(start, start + rows)
        own_system = codes[part]
        cells = np.arange(len(own_system))
        observed = np.zeros((len(own_system), n_systems))
        observed[cells, own_system] = 1
        for nearest in neighbors.indices[part].T:  # one neighbour of every cell at a time
            observed[cells, codes[nearest]] += 1
        p_values[part] = chdtrc(n_systems - 1, ((observed - expected) ** 2 / expected).sum(1))
    return p_values


@convention(
    "share of cells accepted by a chi-square test of the systems at level 0.05, neighbours on a diffusion map of each "
    "type; mean over types"
)
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
    """Measure mixing of systems within each label by kBET: 0 to 1, higher is better.

    For each label, a diffusion map is computed from the neighbour graph of its cells (UMAP's connectivities), and
    `kbet` is applied to the nearest neighbours on that map. Their number is a quarter of the label's mean number of
    cells per system, at least 10 and at most 70. If the graph has several connected components, those with at least
    three times as many cells as there are neighbours are mapped together; if they hold less than three quarters of the
    label's cells, or cells of one system only, the label has the value 0.

    Parameters
    ----------
    neighbors
        Nearest neighbours of n cells.
    system
        System of each cell, (n,).
    label
        Cell type of each cell, (n,).
    n_neighbors
        Number of nearest neighbours of each cell in the graph.
    n_components
        Number of dimensions of the diffusion map; at most one less than the number of cells of the label.
    alpha
        Significance level: a neighbourhood is accepted if the p-value of the test is at least `alpha`.
    min_cells
        Minimum number of cells of a label; smaller labels and labels of one system are not measured.
    seed
        Random seed of the eigenvectors' starting point; the result hardly depends on it.

    Returns
    -------
    Score
        Mean over the measured labels (NaN if there are none), with the acceptance rate of each label and the p-value of
        each cell (NaN where not tested). Small labels are accepted easily: in a label of 11 cells each neighbourhood is
        the whole label.

    Raises
    ------
    InputError
        If a system or label is missing or their number is not n.

    Notes
    -----
    Defined as scib-metrics' ``kbet_per_label`` with 50 neighbours, which count the cell itself, but for two
    differences: neighbours on the map are exact up to 200,000 cells of a label, and all labels have `n_components`
    dimensions, while in scib-metrics 0.5.10 a label with fewer cells lowers their number for all labels after it. As
    there, components of the graph are mapped together, so that a neighbour may belong to another component.

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
    check_types(
        kbet_per_label,
        neighbors=neighbors,
        n_neighbors=n_neighbors,
        alpha=alpha,
        min_cells=min_cells,
    )
    whole_number("n_components", n_components, 1)
    seed = random_seed(seed)
    n = neighbors.n_cells
    systems, _ = encode_categories(system, "system", n)
    labels, names = encode_categories(label, "label", n)
    graph = neighbors.nearest(n_neighbors).connectivities
    values: dict[str, float] = {}
    p_values = np.full(n, np.nan)
    for code, name in enumerate(names):
        cells = np.flatnonzero(labels == code)
        n_systems = len(np.unique(systems[cells]))
        if len(cells) < min_cells or n_systems == 1:
            continue
        k = min(max(len(cells) // n_systems // 4, 10), 70)
        label_graph = graph[cells][:, cells]
        n_components_found, component = connected_components(label_graph, directed=False)
        if n_components_found > 1:
            kept = np.bincount(component)[component] >= 3 * k
            cells, label_graph = cells[kept], label_graph[kept][:, kept]
            if kept.mean() < 0.75 or len(np.unique(systems[cells])) == 1:
                values[name] = 0.0
                continue
        nearest = nearest_neighbors(_diffusion_map(label_graph, n_components, seed), k, seed=seed)
        p_values[cells] = _p_values(nearest, systems[cells])
        values[name] = float((p_values[cells] >= alpha).mean())
    per_label = pd.Series(values, dtype=float)
    return Score(float(per_label.mean()), per_label, p_values)


def _diffusion_map(graph: sparse.csr_matrix, n_components: int, seed: int) -> np.ndarray:
    """Compute coordinates, (n, components), in which distances are diffusion distances summed over all steps."""
    n = graph.shape[0]
    # Normalised for the density of cells (alpha = 1 of Coifman & Lafon 2006).
    kernel = _normalise_by_degree(graph.astype(np.float64), 1)
    start = np.random.default_rng(seed).normal(size=n)
    values, vectors = eigsh(_normalise_by_degree(kernel, 0.5), k=min(n_components, n - 1), v0=start)
    trivial = values > 1 - 1e-7  # one per connected component; not weighted, as in scib-metrics
    return vectors * np.where(trivial, 1, values / np.where(trivial, 1, 1 - values))


def _normalise_by_degree(graph: sparse.csr_matrix, power: float) -> sparse.csr_matrix:
    """Divide each entry by the sums of its row and its column, raised to `power`."""
    factors = sparse.diags(np.asarray(graph.sum(1)).ravel() ** -power)
    return factors @ graph @ factors
