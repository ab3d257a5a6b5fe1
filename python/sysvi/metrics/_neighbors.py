"""Nearest neighbours of cells in an embedding, computed once and used by all metrics of the neighbour graph."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from numpy.typing import ArrayLike
from scipy import sparse

from sysvi._core.arguments import check_types
from sysvi._core.compilation import ensure_numba_cache
from sysvi._core.device import float64_device
from sysvi._core.errors import InputError
from sysvi._core.parallel import restore_thread_count
from sysvi._core.seeds import seed_of_32_bits
from sysvi.metrics._score import check_embedding

GPU_BLOCK_DISTANCES = 2**26  # distances that the search on a GPU holds at a time
MIN_CELLS_APPROXIMATE = 4096  # below, the exact search is faster and the approximate one may find too few neighbours
MAX_CELLS_EXACT = 200_000  # above, the exact search takes minutes on two CPU cores (benchmarks/README.md)


@dataclass(frozen=True)
class Neighbors:
    """The k nearest other cells of each of n cells.

    Parameters
    ----------
    indices
        Positions of the neighbours, (n, k) integers, nearest first, without the cell itself.
    distances
        Euclidean distances to the neighbours, (n, k).

    Notes
    -----
    k counts *other* cells. scanpy and scib-metrics also count the cell itself: their 90 neighbours are 89 here.

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
                f"indices and distances of Neighbors must be matrices of the same shape, cells x neighbours; "
                f"these have the shapes {self.indices.shape} and {self.distances.shape}."
            )

    @property
    def n_cells(self) -> int:
        """Number of cells, n."""
        return self.indices.shape[0]

    @property
    def n_neighbors(self) -> int:
        """Number of neighbours of each cell, k."""
        return self.indices.shape[1]

    def nearest(self, k: int) -> Neighbors:
        """Select the k nearest of these neighbours; all of them if there are fewer than k."""
        if k < 1:
            raise InputError(f"k is {k}: choose at least one neighbour.")
        return Neighbors(self.indices[:, :k], self.distances[:, :k])

    @cached_property
    def graph(self) -> sparse.csr_matrix:
        """Directed neighbour graph, (n, n): entry (i, j) is 1 if cell j is a neighbour of cell i."""
        n, k = self.indices.shape
        starts = np.arange(0, n * k + 1, k)
        return sparse.csr_matrix((np.ones(n * k, np.float32), self.indices.ravel(), starts), shape=(n, n))

    @cached_property
    @restore_thread_count()
    def connectivities(self) -> sparse.csr_matrix:
        """UMAP's weighted neighbour graph, (n, n), symmetric: scanpy's ``connectivities`` for k + 1 neighbours."""
        ensure_numba_cache()
        from umap.umap_ import fuzzy_simplicial_set

        n, k = self.indices.shape
        self_indices = np.arange(n, dtype=np.int32)[:, None]  # UMAP expects each cell as its own first neighbour
        graph, *_ = fuzzy_simplicial_set(
            sparse.coo_matrix((n, 1)),
            n_neighbors=k + 1,
            random_state=None,
            metric=None,
            knn_indices=np.hstack([self_indices, self.indices.astype(np.int32)]),
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
    """Find the k nearest other cells of each cell by Euclidean distance.

    Parameters
    ----------
    embedding
        Embedding, (n, dimensions).
    k
        Number of neighbours of each cell, not counting the cell itself; at most n - 1.
    method
        ``"exact"``: brute-force search in chunks, by scikit-learn on the CPU and by torch on CUDA devices.
        ``"approximate"``: pynndescent (exact below 4,096 cells). ``"auto"``: exact up to 200,000 cells and on CUDA
        devices, otherwise approximate.
    device
        ``"auto"``, ``"cpu"`` or ``"cuda"``.
    seed
        Random seed of the approximate search.

    Returns
    -------
    Neighbors
        Neighbours at the same distance are ordered by index. If the k-th and the next neighbour are equally far, it is
        not defined which of them is returned, but it is the same in every call.

    Raises
    ------
    InputError
        If there are fewer than two cells or a coordinate is not finite.

    Examples
    --------
    >>> nearest_neighbors([[0.0], [1.0], [3.0]], 1).indices.ravel()
    array([1, 0, 1])
    """
    check_types(nearest_neighbors, k=k, method=method, seed=seed)
    points = check_embedding(embedding)
    n = len(points)
    if n < 2:
        raise InputError(f"The embedding has {n} cell, which has no neighbours: give at least two cells.")
    if k < 1:
        raise InputError(f"k is {k}: choose at least one neighbour.")
    k = min(k, n - 1)
    torch_device = float64_device(device)
    approximate = method == "approximate" or (method == "auto" and torch_device.type == "cpu" and n > MAX_CELLS_EXACT)
    if approximate and n >= MIN_CELLS_APPROXIMATE:
        return _approximate(points, k, seed)
    return _brute_force(points, k, torch_device) if torch_device.type == "cuda" else _exact(points, k)


def _exact(points: np.ndarray, k: int) -> Neighbors:
    """Search exactly on the CPU."""
    from sklearn.neighbors import NearestNeighbors

    points = points - points.mean(0)  # far from the origin the search would lose precision
    search = NearestNeighbors(n_neighbors=k, algorithm="brute").fit(points)  # faster than trees in embeddings
    indices = search.kneighbors(return_distance=False)  # called without points it leaves out the cell itself
    return _sort_by_distance(points, indices)


def _sort_by_distance(points: np.ndarray, indices: np.ndarray, rows: int = 4096) -> Neighbors:
    """Compute distances in float64 and sort neighbours by distance, then by index; `indices` are sorted in place."""
    distances = np.empty(indices.shape)
    for start in range(0, len(points), rows):
        part = slice(start, start + rows)
        difference = points[indices[part]].astype(np.float64) - points[part, None]  # (rows, k, d)
        exact = np.sqrt(np.einsum("nkd,nkd->nk", difference, difference))  # (rows, k)
        order = np.lexsort((indices[part], exact), axis=1)
        indices[part] = np.take_along_axis(indices[part], order, 1)
        distances[part] = np.take_along_axis(exact, order, 1)
    return Neighbors(indices, distances)


def _approximate(points: np.ndarray, k: int, seed: int) -> Neighbors:
    """Search approximately with pynndescent; exactly if it misses neighbours of a cell."""
    ensure_numba_cache()
    from pynndescent import NNDescent

    index = NNDescent(points, n_neighbors=k + 1, random_state=seed_of_32_bits(seed), n_jobs=torch.get_num_threads())
    indices, _ = index.neighbor_graph  # (n, k + 1), usually the cell itself first
    if (indices < 0).any():  # too few neighbours of some cells were found
        return _exact(points, k)
    other = indices != np.arange(len(points))[:, None]
    other[other.all(1), -1] = False  # if the cell itself is not among them, drop the farthest neighbour
    shape = (len(points), k)
    return _sort_by_distance(points, indices[other].reshape(shape).astype(np.int64))


def _brute_force(points: np.ndarray, k: int, device: torch.device) -> Neighbors:
    """Search exactly with torch, a block of rows of the distance matrix at a time."""
    all_points = torch.from_numpy((points - points.mean(0)).astype(np.float32)).to(device)  # (n, d)
    n = len(all_points)
    rows = max(1, GPU_BLOCK_DISTANCES // n)
    indices = np.empty((n, k), np.int64)
    for start in range(0, n, rows):
        block = torch.cdist(
            all_points[start : start + rows], all_points, compute_mode="donot_use_mm_for_euclid_dist"
        )  # (rows, n)
        row = torch.arange(len(block), device=device)
        block[row, start + row] = torch.inf  # leave out the cell itself
        indices[start : start + rows] = block.topk(k, dim=1, largest=False).indices.cpu().numpy()
    return _sort_by_distance(points, indices)
