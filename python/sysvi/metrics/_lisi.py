"""LISI, the local inverse Simpson index: effective number of groups (systems, cell types) around each cell.

Reference: Korsunsky et al., Fast, sensitive and accurate integration of single-cell data with Harmony, Nature Methods
(2019).
"""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike

from sysvi._core.arguments import check_types
from sysvi._core.device import float64_device
from sysvi._core.errors import InputError
from sysvi._core.parallel import single_thread_pool
from sysvi.metrics._neighbors import Neighbors, nearest_neighbors
from sysvi.metrics._score import Score, check_embedding, convention, encode_categories

# Other neighbours of a cell, by the tool whose LISI they give, at the same perplexity of 30.
LISI_NEIGHBORS = {"scib-metrics": 89, "harmonypy": 90}
CHUNK_VALUES = 2**18  # largest number of values of an array of one chunk of cells; fits the CPU's caches
ENTROPY_TOLERANCE = 1e-8
MAX_ITERATIONS = 50


def lisi(
    neighbors: Neighbors, groups: ArrayLike, *, perplexity: float | None = None, device: str = "cpu"
) -> np.ndarray:
    """Compute the effective number of groups around each cell: 1 (one group only) to the number of groups.

    This is the inverse Simpson index of the groups of a cell's neighbours: 1 / (sum over groups of the squared share).
    A neighbour at distance d has weight exp(-beta d), where the beta of each cell is chosen such that the entropy of
    the weights is log(perplexity). About `perplexity` neighbours count.

    Parameters
    ----------
    neighbors
        Nearest neighbours of n cells: 89 of them as in scib-metrics (used throughout sysVI), or 90 as in harmonypy.
        ``sysvi.metrics.LISI_NEIGHBORS`` has both numbers by name.
    groups
        Group of each cell, (n,), such as its system or label.
    perplexity
        Effective number of neighbours, at least 1. By default a third of the neighbours, counting the cell itself: 30
        for 89 and for 90 neighbours. If it is at least the number of neighbours, all have the same weight.
    device
        Device of the computation, in double precision: ``"auto"``, ``"cpu"`` or ``"cuda"``.

    Returns
    -------
    numpy.ndarray
        LISI of each cell, (n,) float64.

    Raises
    ------
    InputError
        If a group is missing, their number is not n, or the perplexity is below 1.

    Notes
    -----
    Same index as in scib-metrics and harmonypy for the same neighbours. scib-metrics (0.5.10 and 0.6.1) is given 90
    that count the cell itself, which leaves 89, as did harmonypy before 0.0.10; since then, harmonypy takes 90 others.
    The changelog of scib-metrics 0.6.0 speaks of this change, but its LISI is that of 0.5.10.

    Those tools bisect from beta = 1 to a tolerance of 1e-5. Here Newton's method starts from the scale of the
    distances, so that the result does not depend on the units of the embedding, and ends at a tolerance of 1e-8. Where
    more than `perplexity` neighbours are equally near (duplicated cells), no beta reaches the perplexity; these
    neighbours alone count, with equal weights, which is the limit of a growing beta. For such cells scib-metrics
    returns the same value or, where its weights underflow, -1.

    Examples
    --------
    >>> from sysvi.metrics._neighbors import nearest_neighbors
    >>> line = nearest_neighbors([[0.0], [1.0], [2.0], [10.0], [11.0], [12.0]], 2)
    >>> lisi(line, ["a", "a", "a", "a", "b", "b"], perplexity=2)
    array([1., 1., 1., 1., 2., 2.])
    >>> LISI_NEIGHBORS["scib-metrics"], LISI_NEIGHBORS["harmonypy"]
    (89, 90)
    """
    check_types(lisi, neighbors=neighbors, perplexity=perplexity)
    n, k = neighbors.indices.shape
    codes, names = encode_categories(groups, "groups", n)
    perplexity = max(1, (k + 1) // 3) if perplexity is None else perplexity
    if not perplexity >= 1:
        raise InputError(f"perplexity is {perplexity}: it must be at least 1.")
    torch_device = float64_device(device)
    rows = max(1, CHUNK_VALUES // max(k, len(names)))

    def lisi_of_chunk(start: int) -> np.ndarray:
        part = slice(start, start + rows)
        weights = _weights(torch.from_numpy(neighbors.distances[part]).to(torch_device, torch.float64), perplexity)
        group = torch.from_numpy(codes[neighbors.indices[part]]).to(torch_device)  # (rows, k)
        share = weights.new_zeros(len(group), len(names)).scatter_add_(1, group, weights)  # (rows, groups)
        index = share.sum(1) ** 2 / share.square().sum(1)  # exactly 1 if there is one group
        return index.clamp(max=len(names)).cpu().numpy()

    with single_thread_pool(torch_device) as pool:
        return np.concatenate(list(pool.map(lisi_of_chunk, range(0, n, rows))))


def _weights(distances: torch.Tensor, perplexity: float) -> torch.Tensor:
    """Compute weights exp(-beta d) with entropy log(perplexity) in each row (bracketed Newton's method on log(beta)).

    Parameters
    ----------
    distances
        Distances to the neighbours, nearest first, (rows, k) float64.
    perplexity
        Effective number of neighbours.

    Returns
    -------
    torch.Tensor
        Weights, (rows, k) float64, scaled such that the nearest neighbour has weight 1.
    """
    if perplexity >= distances.shape[1]:
        return torch.ones_like(distances)
    d = distances - distances[:, :1]  # the nearest neighbour gets weight 1, so that no sum underflows
    weights = (d == 0).to(d)  # limit of a growing beta, kept for rows that cannot reach the perplexity
    scale = d[:, math.ceil(perplexity) - 1]  # distance at which weights should fall off
    unsolved = scale.nonzero().squeeze(1)  # elsewhere `perplexity` neighbours or more are equally near
    d = d[unsolved] / scale[unsolved, None]
    log_beta = d.new_zeros(len(d), 1)
    low, high = torch.full_like(log_beta, -torch.inf), torch.full_like(log_beta, torch.inf)
    for step in range(MAX_ITERATIONS):
        beta = log_beta.exp()  # (unsolved, 1), like everything but d, w and wd
        w = torch.exp(-beta * d)  # (unsolved, k)
        wd = w * d
        total = w.sum(1, keepdim=True)
        mean = wd.sum(1, keepdim=True) / total
        gap = total.log() + beta * mean - math.log(perplexity)  # entropy minus its target; decreases with beta
        solved = (gap.abs() < ENTROPY_TOLERANCE).squeeze(1) | (step == MAX_ITERATIONS - 1)
        weights[unsolved[solved]] = w[solved]
        if solved.all():
            break
        slope = beta**2 * ((wd * d).sum(1, keepdim=True) / total - mean**2).clamp(min=0)  # -d(entropy)/d(log beta)
        low, high = torch.where(gap > 0, log_beta, low), torch.where(gap > 0, high, log_beta)
        new = log_beta + (gap / slope).clamp(-2, 2)
        log_beta = torch.where((new <= low) | (new >= high), (low + high) / 2, new)
        unsolved, d, log_beta, low, high = (t[~solved] for t in (unsolved, d, log_beta, low, high))
    return weights


@convention("LISI of systems, 89 other neighbours, perplexity 30; (median - 1) / (systems - 1)")
def ilisi(
    neighbors: Neighbors,
    system: ArrayLike,
    label: ArrayLike | None = None,
    *,
    perplexity: float | None = None,
    device: str = "cpu",
) -> Score:
    """Measure mixing of systems (iLISI): 0 (neighbours from one system only) to 1 (equal shares of all systems).

    The value is the median over cells of (LISI of systems - 1) / (number of systems - 1), as in the paper and in
    scib-metrics (89 neighbours, 90 with the cell itself; perplexity 30). It can reach 1 only if all systems have the
    same number of cells.

    Parameters
    ----------
    neighbors
        Nearest neighbours of n cells.
    system
        System (or batch) of each cell, (n,).
    label
        Cell type of each cell, (n,); optional, for the values by label.
    perplexity, device
        As in `lisi`.

    Returns
    -------
    Score
        Median over cells, with the value of each cell and, if `label` is given, the median of each label (their mean
        is the macro average of the paper). All NaN if there is only one system.

    Raises
    ------
    InputError
        If a system or label is missing or their number is not n.

    Examples
    --------
    >>> from sysvi.metrics._neighbors import nearest_neighbors
    >>> ring = nearest_neighbors([[0, 0], [0, 1], [1, 0], [1, 1]], 3)
    >>> round(ilisi(ring, ["human", "mouse", "mouse", "human"], perplexity=3).value, 3)
    0.8
    """
    check_types(ilisi, neighbors=neighbors, perplexity=perplexity)
    n_systems = len(encode_categories(system, "system", neighbors.n_cells)[1])
    per_cell = lisi(neighbors, system, perplexity=perplexity, device=device) - 1
    per_cell = per_cell / (n_systems - 1) if n_systems > 1 else np.full(len(per_cell), np.nan)
    return _medians(per_cell, label)


@convention("LISI of types, 89 other neighbours, perplexity 30; (types - median) / (types - 1)")
def clisi(neighbors: Neighbors, label: ArrayLike, *, perplexity: float | None = None, device: str = "cpu") -> Score:
    """Measure purity of neighbourhoods (cLISI): 1 (neighbours of one label only) to 0 (equal shares of all labels).

    The value is the median over cells of (number of labels - LISI of labels) / (number of labels - 1), as in the paper
    and in scib-metrics (89 neighbours, 90 with the cell itself; perplexity 30). A cell among neighbours that all have
    another label counts as pure, too. With many labels most embeddings are close to 1.

    Parameters
    ----------
    neighbors
        Nearest neighbours of n cells.
    label
        Cell type of each cell, (n,).
    perplexity, device
        As in `lisi`.

    Returns
    -------
    Score
        Median over cells, with the median of each label and the value of each cell. All NaN if there is only one label.

    Raises
    ------
    InputError
        If a label is missing or their number is not n.

    Examples
    --------
    >>> from sysvi.metrics._neighbors import nearest_neighbors
    >>> line = nearest_neighbors([[0.0], [1.0], [5.0], [6.0]], 1)
    >>> clisi(line, ["alpha", "alpha", "beta", "beta"]).per_label.to_dict()
    {'alpha': 1.0, 'beta': 1.0}
    """
    check_types(clisi, neighbors=neighbors, perplexity=perplexity)
    n_labels = len(encode_categories(label, "label", neighbors.n_cells)[1])
    per_cell = n_labels - lisi(neighbors, label, perplexity=perplexity, device=device)
    per_cell = per_cell / (n_labels - 1) if n_labels > 1 else np.full(len(per_cell), np.nan)
    return _medians(per_cell, label)


@convention(
    "LISI of systems within each type, 30 other neighbours; (LISI - 1) / (systems of the type - 1), mean over cells"
)
def cilisi(
    embedding: ArrayLike,
    system: ArrayLike,
    label: ArrayLike,
    *,
    n_neighbors: int = 30,
    perplexity: float = 30,
    min_cells: int = 10,
    device: str = "cpu",
) -> Score:
    """Measure mixing of systems within each cell type (CiLISI): 0 (none) to 1 (complete).

    iLISI rewards mixing even of cell types that should stay separate. Here neighbours are searched among the cells of
    the same label, and LISI is scaled by the systems that occur in the label: (LISI - 1) / (systems of the label - 1).

    Parameters
    ----------
    embedding
        Embedding, (n, dimensions).
    system
        System of each cell, (n,).
    label
        Cell type of each cell, (n,).
    n_neighbors
        Number of neighbours of each cell within its label; all other cells of the label if there are fewer.
    perplexity
        Effective number of neighbours. By default it equals `n_neighbors`, so that all neighbours have the same weight.
    min_cells
        Minimum number of cells of a label; smaller labels and labels of one system are not measured.
    device
        Device of the computation: ``"auto"``, ``"cpu"`` or ``"cuda"``.

    Returns
    -------
    Score
        Mean over the cells of all measured labels (NaN if there are none), with the mean of each measured label and the
        value of each cell (NaN where its label is not measured). ``per_label.mean()`` is the mean over types, in which
        rare types count as much as common ones.

    Raises
    ------
    InputError
        If a system or label is missing, their number is not n, or the embedding is not finite.

    Notes
    -----
    Definition and defaults of scIntegrationMetrics 1.2 (``CiLISI``; its ``CiLISI_means`` is the mean over types).
    scib-metrics has no CiLISI.

    Examples
    --------
    >>> line = [[float(i)] for i in range(40)]
    >>> score = cilisi(line, ["human", "mouse"] * 10 + ["human"] * 10 + ["mouse"] * 10, ["a"] * 20 + ["b"] * 20)
    >>> score.per_label.round(3).to_dict()
    {'a': 0.994, 'b': 0.994}
    """
    check_types(cilisi, n_neighbors=n_neighbors, perplexity=perplexity, min_cells=min_cells)
    points = check_embedding(embedding)
    systems, _ = encode_categories(system, "system", len(points))
    labels, names = encode_categories(label, "label", len(points))
    per_cell = np.full(len(points), np.nan)
    for code in range(len(names)):
        members = np.flatnonzero(labels == code)
        n_systems = len(np.unique(systems[members]))
        if len(members) < min_cells or n_systems == 1:
            continue
        neighbors = nearest_neighbors(points[members], n_neighbors, device=device)
        values = lisi(neighbors, systems[members], perplexity=perplexity, device=device)
        per_cell[members] = (values - 1) / (n_systems - 1)
    column = pd.Series(per_cell)
    return Score(float(column.mean()), column.groupby(names[labels]).mean().dropna(), per_cell)


@convention("iLISI of batches, neighbours searched within each system; mean over systems")
def ilisi_within(
    embedding: ArrayLike, batch: ArrayLike, system: ArrayLike, *, n_neighbors: int = 89, device: str = "cpu"
) -> Score:
    """Measure mixing of batches within each system: 0 (neighbours from one batch only) to 1 (equal shares of all).

    iLISI of batches is computed among the cells of each system, with neighbours searched within the system, as in the
    paper. Over all cells it would be confounded with the system, since each batch belongs to one system.

    Parameters
    ----------
    embedding
        Embedding, (n, dimensions).
    batch
        Batch of each cell, (n,).
    system
        System of each cell, (n,).
    n_neighbors
        Number of neighbours of each cell within its system; all other cells of the system if there are fewer. The
        perplexity is the default of `lisi`.
    device
        Device of the computation: ``"auto"``, ``"cpu"`` or ``"cuda"``.

    Returns
    -------
    Score
        Mean over the systems with at least two batches (NaN if there are none), with the median of each of these
        systems (as `per_label`) and the value of each cell (NaN in other systems).

    Raises
    ------
    InputError
        If a batch or system is missing, their number is not n, or the embedding is not finite.

    Examples
    --------
    >>> line = [[float(i)] for i in range(40)]
    >>> score = ilisi_within(line, ["b1", "b2"] * 10 + ["b3"] * 20, ["human"] * 20 + ["mouse"] * 20)
    >>> score.per_label.round(2).to_dict()
    {'human': 0.69}
    """
    check_types(ilisi_within, n_neighbors=n_neighbors)
    points = check_embedding(embedding)
    batches, _ = encode_categories(batch, "batch", len(points))
    systems, names = encode_categories(system, "system", len(points))
    per_cell, medians = np.full(len(points), np.nan), {}
    for code, name in enumerate(names):
        members = np.flatnonzero(systems == code)
        if len(np.unique(batches[members])) == 1:
            continue
        neighbors = nearest_neighbors(points[members], n_neighbors, device=device)
        score = ilisi(neighbors, batches[members], device=device)
        per_cell[members], medians[name] = score.per_cell, score.value
    per_system = pd.Series(medians, dtype=float)
    return Score(float(per_system.mean()), per_system, per_cell)


def _medians(per_cell: np.ndarray, label: ArrayLike | None) -> Score:
    """Summarise values of cells, (n,), by their median over all cells and over the cells of each label."""
    column = pd.Series(per_cell)
    if label is None:
        return Score(float(np.median(per_cell)), None, per_cell)
    codes, names = encode_categories(label, "label", len(column))
    return Score(float(np.median(per_cell)), column.groupby(names[codes]).median().dropna(), per_cell)
