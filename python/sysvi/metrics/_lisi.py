"""LISI: how many groups of cells meet in a neighbourhood (local inverse Simpson index, Korsunsky et al. 2019)."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike

from sysvi._core.device import float64_device
from sysvi._core.errors import InputError
from sysvi._core.parallel import single_thread_pool
from sysvi.metrics._neighbors import Neighbors, nearest_neighbors
from sysvi.metrics._score import Score, check_embedding, encode

CHUNK = 2**18  # numbers in the largest array of a chunk of cells: few enough for the caches
TOLERANCE = 1e-8  # of the entropy
MOST_STEPS = 50


def lisi(
    neighbors: Neighbors, groups: ArrayLike, *, perplexity: float | None = None, device: str = "cpu"
) -> np.ndarray:
    """Effective number of groups around each cell, from 1 (its neighbours are of one group) to the number of groups.

    The inverse Simpson index of the groups of a cell's neighbours: 1 / (sum over groups of their share squared).
    A neighbour at distance d counts exp(-beta d), with each cell's beta such that the entropy of these weights is
    log(perplexity): about `perplexity` neighbours count.

    Parameters
    ----------
    neighbors
        Neighbours of n cells, 89 by custom.
    groups
        Group of each cell, (n,), such as its system or its label.
    perplexity
        Effective number of neighbours, at least 1; by default a third of the neighbours, the cell itself counted:
        30 of 89. From `neighbors.n_neighbors` on, all neighbours count the same.
    device
        Where to compute, in double precision: ``"auto"``, ``"cpu"`` or ``"cuda"``.

    Returns
    -------
    numpy.ndarray
        (n,), float64.

    Raises
    ------
    InputError
        If a group is missing, there is not one for each cell, or the perplexity is below 1.

    Notes
    -----
    scib-metrics' and harmony's index, for the same neighbours (their 90 with the cell itself are these 89). They
    bisect from beta = 1 to a tolerance of 1e-5; the iteration here starts at the distances' own scale, so it is
    independent of the embedding's units, and goes on to 1e-8. Where so many neighbours are equally near that the
    perplexity cannot be reached (duplicated cells), these alone count, all the same: the limit of a growing beta.
    For such cells scib-metrics gives the same or, where its weights underflow, -1.

    Examples
    --------
    >>> from sysvi.metrics._neighbors import nearest_neighbors
    >>> line = nearest_neighbors([[0.0], [1.0], [2.0], [10.0], [11.0], [12.0]], 2)
    >>> lisi(line, ["a", "a", "a", "a", "b", "b"], perplexity=2)
    array([1., 1., 1., 1., 2., 2.])
    """
    n, k = neighbors.indices.shape
    codes, names = encode(groups, "groups", n)
    perplexity = max(1, (k + 1) // 3) if perplexity is None else perplexity
    if not perplexity >= 1:
        raise InputError(f"perplexity is {perplexity}: the effective number of neighbours is at least 1.")
    where = float64_device(device)
    rows = max(1, CHUNK // max(k, len(names)))

    def chunk(start: int) -> np.ndarray:
        part = slice(start, start + rows)
        weights = _weights(torch.from_numpy(neighbors.distances[part]).to(where, torch.float64), perplexity)
        group = torch.from_numpy(codes[neighbors.indices[part]]).to(where)  # (rows, k)
        share = weights.new_zeros(len(group), len(names)).scatter_add_(1, group, weights)  # (rows, groups)
        index = share.sum(1) ** 2 / share.square().sum(1)  # exactly 1 where all are of one group
        return index.clamp(max=len(names)).cpu().numpy()

    with single_thread_pool(where) as pool:
        return np.concatenate(list(pool.map(chunk, range(0, n, rows))))


def _weights(distances: torch.Tensor, perplexity: float) -> torch.Tensor:
    """Weights exp(-beta d) with the entropy log(perplexity) in each row, by Newton's method on log(beta), bracketed.

    Of `distances`, (rows, k) float64, nearest first; so are the weights, of which the first is 1.
    """
    if perplexity >= distances.shape[1]:
        return torch.ones_like(distances)
    d = distances - distances[:, :1]  # the nearest weighs 1: no sum vanishes
    weights = (d == 0).to(d)  # the limit of a growing beta
    scale = d[:, math.ceil(perplexity) - 1]  # about as far as weights should reach
    left = scale.nonzero().squeeze(1)  # rows to be found: of the others, `perplexity` neighbours or more are nearest
    d = d[left] / scale[left, None]
    log_beta = d.new_zeros(len(d), 1)
    low, high = torch.full_like(log_beta, -torch.inf), torch.full_like(log_beta, torch.inf)
    for step in range(MOST_STEPS):
        beta = log_beta.exp()  # (left, 1), like all but d, w and wd
        w = torch.exp(-beta * d)  # (left, k)
        wd = w * d
        total = w.sum(1, keepdim=True)
        mean = wd.sum(1, keepdim=True) / total
        gap = total.log() + beta * mean - math.log(perplexity)  # entropy beyond the one wanted; falls with beta
        found = (gap.abs() < TOLERANCE).squeeze(1) | (step == MOST_STEPS - 1)
        weights[left[found]] = w[found]
        if found.all():
            break
        slope = beta**2 * ((wd * d).sum(1, keepdim=True) / total - mean**2).clamp(min=0)  # fall per log(beta)
        low, high = torch.where(gap > 0, log_beta, low), torch.where(gap > 0, high, log_beta)
        new = log_beta + (gap / slope).clamp(-2, 2)
        log_beta = torch.where((new <= low) | (new >= high), (low + high) / 2, new)
        left, d, log_beta, low, high = (t[~found] for t in (left, d, log_beta, low, high))
    return weights


def ilisi(
    neighbors: Neighbors,
    system: ArrayLike,
    label: ArrayLike | None = None,
    *,
    perplexity: float | None = None,
    device: str = "cpu",
) -> Score:
    """Mixing of systems, iLISI: 0 where each cell's neighbours are of one system, 1 where all systems meet equally.

    The median over cells of (LISI of systems - 1) / (number of systems - 1), as in the paper and scib-metrics
    (89 neighbours, 90 with the cell itself; perplexity 30). It can reach 1 only where the systems are equally large.

    Parameters
    ----------
    neighbors
        Neighbours of n cells.
    system
        System of each cell, (n,); batches do as well.
    label
        Cell type of each cell, (n,).
    perplexity, device
        As of `lisi`.

    Returns
    -------
    Score
        The median; with `label` the median of each label's cells (their mean is the paper's macro-average); each
        cell's scaled value. All NaN if there is one system only.

    Raises
    ------
    InputError
        If a system or label is missing or there is not one for each cell.

    Examples
    --------
    >>> from sysvi.metrics._neighbors import nearest_neighbors
    >>> ring = nearest_neighbors([[0, 0], [0, 1], [1, 0], [1, 1]], 3)
    >>> round(ilisi(ring, ["human", "mouse", "mouse", "human"], perplexity=3).value, 3)
    0.8
    """
    n_systems = len(encode(system, "system", neighbors.n_cells)[1])
    per_cell = lisi(neighbors, system, perplexity=perplexity, device=device) - 1
    per_cell = per_cell / (n_systems - 1) if n_systems > 1 else np.full(len(per_cell), np.nan)
    return _medians(per_cell, label)


def clisi(neighbors: Neighbors, label: ArrayLike, *, perplexity: float | None = None, device: str = "cpu") -> Score:
    """Purity of neighbourhoods, cLISI: 1 where each cell's neighbours are of one label, 0 where all meet equally.

    The median over cells of (number of labels - LISI of labels) / (number of labels - 1), as in the paper and
    scib-metrics (89 neighbours, 90 with the cell itself; perplexity 30). Pure neighbourhoods of the wrong label
    count as pure; and with many labels it is close to 1 on most embeddings.

    Parameters
    ----------
    neighbors
        Neighbours of n cells.
    label
        Cell type of each cell, (n,).
    perplexity, device
        As of `lisi`.

    Returns
    -------
    Score
        The median; the median of each label's cells; each cell's scaled value. All NaN if there is one label only.

    Raises
    ------
    InputError
        If a label is missing or there is not one for each cell.

    Examples
    --------
    >>> from sysvi.metrics._neighbors import nearest_neighbors
    >>> line = nearest_neighbors([[0.0], [1.0], [5.0], [6.0]], 1)
    >>> clisi(line, ["alpha", "alpha", "beta", "beta"]).per_label.to_dict()
    {'alpha': 1.0, 'beta': 1.0}
    """
    n_labels = len(encode(label, "label", neighbors.n_cells)[1])
    per_cell = n_labels - lisi(neighbors, label, perplexity=perplexity, device=device)
    per_cell = per_cell / (n_labels - 1) if n_labels > 1 else np.full(len(per_cell), np.nan)
    return _medians(per_cell, label)


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
    """Mixing of systems inside each cell type, CiLISI: 0 is none, 1 is full.

    iLISI asks for mixing even of cells that should stay apart. Here neighbours are searched among the cells of the
    same label, and LISI is scaled by the systems that occur in it: (LISI - 1) / (systems of the label - 1).

    Parameters
    ----------
    embedding
        Cells x dimensions, n cells.
    system
        System of each cell, (n,).
    label
        Cell type of each cell, (n,).
    n_neighbors
        Neighbours of a cell within its label, or all others where there are not as many.
    perplexity
        Effective number of neighbours. By default that is all of them: they count the same, whatever their distance.
    min_cells
        Fewest cells of a label; smaller labels and labels of one system are not measured.
    device
        Where to compute: ``"auto"``, ``"cpu"`` or ``"cuda"``.

    Returns
    -------
    Score
        The mean over the cells of all measured labels (NaN without any); the mean of each measured label; each
        cell's value, NaN where its label is not measured. `per_label.mean()` is the mean over types, in which rare
        types count as much as common ones.

    Raises
    ------
    InputError
        If a system or label is missing, there is not one for each cell, or the embedding is not finite.

    Notes
    -----
    The convention, defaults included, of scIntegrationMetrics 1.2 (``CiLISI``; the mean over types is its
    ``CiLISI_means``). scib-metrics has no CiLISI.

    Examples
    --------
    >>> line = [[float(i)] for i in range(40)]
    >>> score = cilisi(line, ["human", "mouse"] * 10 + ["human"] * 10 + ["mouse"] * 10, ["a"] * 20 + ["b"] * 20)
    >>> score.per_label.round(3).to_dict()
    {'a': 0.994, 'b': 0.994}
    """
    points = check_embedding(embedding)
    systems, _ = encode(system, "system", len(points))
    labels, names = encode(label, "label", len(points))
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


def ilisi_within(
    embedding: ArrayLike, batch: ArrayLike, system: ArrayLike, *, n_neighbors: int = 89, device: str = "cpu"
) -> Score:
    """Mixing of batches inside each system: 0 where each cell's neighbours are of one batch, 1 where all meet equally.

    iLISI of batches among the cells of one system, with neighbours searched inside it, as in the paper: over all
    cells it would be confounded by the system, since batches belong to systems.

    Parameters
    ----------
    embedding
        Cells x dimensions, n cells.
    batch
        Batch of each cell, (n,).
    system
        System of each cell, (n,).
    n_neighbors
        Neighbours of a cell within its system, or all others where there are not as many. Perplexity as of `lisi`.
    device
        Where to compute: ``"auto"``, ``"cpu"`` or ``"cuda"``.

    Returns
    -------
    Score
        The mean over systems with at least two batches (NaN without any); as `per_label` the median of each of these
        systems; each cell's value, NaN in other systems.

    Raises
    ------
    InputError
        If a batch or system is missing, there is not one for each cell, or the embedding is not finite.

    Examples
    --------
    >>> line = [[float(i)] for i in range(40)]
    >>> score = ilisi_within(line, ["b1", "b2"] * 10 + ["b3"] * 20, ["human"] * 20 + ["mouse"] * 20)
    >>> score.per_label.round(2).to_dict()
    {'human': 0.69}
    """
    points = check_embedding(embedding)
    batches, _ = encode(batch, "batch", len(points))
    systems, names = encode(system, "system", len(points))
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
    """Median over the cells, and over those of each label."""
    column = pd.Series(per_cell)
    if label is None:
        return Score(float(np.median(per_cell)), None, per_cell)
    codes, names = encode(label, "label", len(column))
    return Score(float(np.median(per_cell)), column.groupby(names[codes]).median().dropna(), per_cell)
