"""Nearest neighbours of cells, computed once and shared by all graph metrics."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from numpy.typing import ArrayLike
from scipy import sparse

from sysvi._core.compilation import ensure_numba_cache
from sysvi._core.device import float64_device
from sysvi._core.errors import InputError
from sysvi._core.parallel import restore_thread_count
from sysvi.metrics._score import check_embedding

BLOCK = 2**26  # distances that the search on a card holds at a time
FEWEST_APPROXIMATE = 4096  # cells; below it the exact search is faster, and the approximate one may find too few
MOST_EXACT = 200_000  # cells; above it an exact search on two CPU cores takes minutes (benchmarks/README.md)


@dataclass(frozen=True)
class Neighbors:
    """The k nearest other cells of each of n cells.

    Parameters
    ----------
    indices
        (n, k) integers, nearest first, the cell itself not among them.
    distances
        (n, k) Euclidean distances.

    Notes
    -----
    Here k counts *other* cells. scanpy and scib-metrics count the cell itself too: their 90 neighbours are our 89.

    Examples
    --------
    >>> import numpy as np
    >>> neighbors = Neighbors(np.array([[1, 2], [0, 2], [1, 0]]), np.array([[1.0, 3.0], [1.0, 2.0], [2.0, 3.0]]))
    >>> neighbors.nearest(1).indices.ravel()
    array([1, 0, 1])
    """

    indices: np.ndarray
    distances: np.ndarray

    def __post_init__(self) -> None:
        if self.indices.ndim != 2 or self.indices.shape != self.distances.shape:
            raise InputError(
                f"Neighbours need indices and distances of one shape, cells x neighbours; "
                f"these have {self.indices.shape} and {self.distances.shape}."
            )

    @property
    def n_cells(self) -> int:
        """Number of cells, n."""
        return self.indices.shape[0]

    @property
    def n_neighbors(self) -> int:
        """Number of neighbours of each, k."""
        return self.indices.shape[1]

    def nearest(self, k: int) -> Neighbors:
        """The k nearest of these neighbours; all of them where fewer were searched."""
        if k < 1:
            raise InputError(f"k is {k}: ask for at least one neighbour.")
        return Neighbors(self.indices[:, :k], self.distances[:, :k])

    @cached_property
    def graph(self) -> sparse.csr_matrix:
        """Directed graph, (n, n): a stored 1 from each cell to each of its neighbours."""
        n, k = self.indices.shape
        starts = np.arange(0, n * k + 1, k)
        return sparse.csr_matrix((np.ones(n * k, np.float32), self.indices.ravel(), starts), shape=(n, n))

    @cached_property
    @restore_thread_count()
    def connectivities(self) -> sparse.csr_matrix:
        """UMAP's fuzzy union of the neighbourhoods, (n, n), symmetric: scanpy's ``connectivities`` for k + 1."""
        ensure_numba_cache()
        from umap.umap_ import fuzzy_simplicial_set

        n, k = self.indices.shape
        own = np.arange(n, dtype=np.int32)[:, None]  # UMAP expects each cell as its own first neighbour
        graph, *_ = fuzzy_simplicial_set(
            sparse.coo_matrix((n, 1)),
            n_neighbors=k + 1,
            random_state=None,
            metric=None,
            knn_indices=np.hstack([own, self.indices.astype(np.int32)]),
            knn_dists=np.hstack([np.zeros((n, 1), np.float32), self.distances.astype(np.float32)]),
        )
        return sparse.csr_matrix(graph)


@restore_thread_count()
def nearest_neighbors(
    embedding: ArrayLike,
    k: int = 89,
    *,
    method: Literal["auto", "exact", "approximate"] = "auto",
    device: str = "cpu",
    seed: int = 0,
) -> Neighbors:
    """Find the k nearest other cells of each cell, by Euclidean distance.

    Parameters
    ----------
    embedding
        Cells x dimensions.
    k
        Neighbours of a cell, itself not counted; n - 1 where there are not as many.
    method
        ``"exact"``: brute force in chunks, by scikit-learn on the CPU, by torch on CUDA.
        ``"approximate"``: pynndescent, for 4,096 cells or more. ``"auto"``: exact up to 200,000 cells and on CUDA,
        approximate above.
    device
        ``"auto"``, ``"cpu"`` or ``"cuda"``.
    seed
        Of the approximate search.

    Returns
    -------
    Neighbors
        Cells at the same distance come in the order of their index; which of them are left out where the k-th and
        the next are equally far is not defined, but the same each time.

    Raises
    ------
    InputError
        If there are fewer than two cells or a coordinate is not finite.

    Examples
    --------
    >>> nearest_neighbors([[0.0], [1.0], [3.0]], 1).indices.ravel()
    array([1, 0, 1])
    """
    points = check_embedding(embedding)
    n = len(points)
    if n < 2:
        raise InputError(f"{n} cell has no neighbours: give at least two cells.")
    if method not in ("auto", "exact", "approximate"):
        raise InputError(f"method {method!r} is not known; use 'auto', 'exact' or 'approximate'.")
    if k < 1:
        raise InputError(f"k is {k}: ask for at least one neighbour.")
    k = min(k, n - 1)
    where = float64_device(device)
    approximate = method == "approximate" or (method == "auto" and where.type == "cpu" and n > MOST_EXACT)
    if approximate and n >= FEWEST_APPROXIMATE:
        return _approximate(points, k, seed)
    return _brute_force(points, k, where) if where.type == "cuda" else _exact(points, k)


def _exact(points: np.ndarray, k: int) -> Neighbors:
    from sklearn.neighbors import NearestNeighbors

    points = points - points.mean(0)  # far from the origin the search would lose digits
    search = NearestNeighbors(n_neighbors=k, algorithm="brute").fit(points)  # trees lose above a few dimensions
    indices = search.kneighbors(return_distance=False)  # without an argument: each cell's own place is left out
    return _in_order(points, indices)


def _in_order(points: np.ndarray, indices: np.ndarray, rows: int = 4096) -> Neighbors:
    """Distances in float64, nearest first, cells at the same distance in order of their index."""
    distances = np.empty(indices.shape)
    for start in range(0, len(points), rows):
        here = slice(start, start + rows)
        difference = points[indices[here]].astype(np.float64) - points[here, None]  # (rows, k, d)
        exact = np.sqrt(np.einsum("nkd,nkd->nk", difference, difference))
        order = np.lexsort((indices[here], exact), axis=1)
        indices[here] = np.take_along_axis(indices[here], order, 1)
        distances[here] = np.take_along_axis(exact, order, 1)
    return Neighbors(indices, distances)


def _approximate(points: np.ndarray, k: int, seed: int) -> Neighbors:
    ensure_numba_cache()
    from pynndescent import NNDescent

    index = NNDescent(points, n_neighbors=k + 1, random_state=seed, n_jobs=torch.get_num_threads())
    indices, _ = index.neighbor_graph  # (n, k + 1), usually with the cell itself first
    if (indices < 0).any():  # it found too few of some cells
        return _exact(points, k)
    other = indices != np.arange(len(points))[:, None]
    other[other.all(1), -1] = False  # where it was not found, the farthest goes
    shape = (len(points), k)
    return _in_order(points, indices[other].reshape(shape).astype(np.int64))


def _brute_force(points: np.ndarray, k: int, device: torch.device) -> Neighbors:
    all_points = torch.from_numpy((points - points.mean(0)).astype(np.float32)).to(device)  # (n, d)
    n = len(all_points)
    rows = max(1, BLOCK // n)
    indices = np.empty((n, k), np.int64)
    for start in range(0, n, rows):
        block = torch.cdist(
            all_points[start : start + rows], all_points, compute_mode="donot_use_mm_for_euclid_dist"
        )  # (rows, n)
        own = torch.arange(len(block), device=device)
        block[own, start + own] = torch.inf
        indices[start : start + rows] = block.topk(k, dim=1, largest=False).indices.cpu().numpy()
    return _in_order(points, indices)
