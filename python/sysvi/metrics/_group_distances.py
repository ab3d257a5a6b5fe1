"""Distances from cells to groups of cells: what every silhouette is made of."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from numpy.typing import ArrayLike

from sysvi._core.device import float64_device
from sysvi._core.errors import InputError
from sysvi._core.parallel import single_thread_pool
from sysvi.metrics._score import check_embedding

CPU_TILE, CUDA_TILE = 512, 4096  # cells; a tile of 512 x 512 distances stays in a core's cache


def group_distances(embedding: ArrayLike, groups: np.ndarray, *, device: str = "cpu") -> np.ndarray:
    """Sum of the Euclidean distances from each cell to all cells of each group.

    One pass over all pairs of cells, each pair once, in tiles, one for each of torch's threads: the memory is that of
    the result and a few copies of the embedding. Distances come from a matrix product of centred coordinates in
    double precision. Those below about 1e-7 of the data's radius cannot be told from rounding and count as zero, so
    that duplicated cells are exactly 0 apart.

    Parameters
    ----------
    embedding
        Cells x dimensions.
    groups
        Group of each cell, (n,): integers from 0.
    device
        ``"auto"``, ``"cpu"`` or ``"cuda"``; Apple's GPUs have no double precision and leave it to the CPU.

    Returns
    -------
    numpy.ndarray
        (n, n_groups) float64; the cell itself adds nothing to the sum over its own group.

    Raises
    ------
    InputError
        If the embedding is not finite or has no cells, or there is not one group for each cell.

    Examples
    --------
    >>> import numpy as np
    >>> group_distances([[0.0], [1.0], [5.0]], np.array([0, 0, 1])).round(6)
    array([[1., 5.],
           [1., 4.],
           [9., 0.]])
    """
    points = check_embedding(embedding).astype(np.float64)
    if len(groups) != len(points):
        raise InputError(f"groups has {len(groups)} values for {len(points)} cells: give one for each cell.")
    where = float64_device(device)
    tile = CPU_TILE if where.type == "cpu" else CUDA_TILE
    n, n_groups = len(points), int(groups.max()) + 1

    order = np.argsort(groups, kind="stable")  # a group is a range of rows, a tile touches few groups
    x = torch.from_numpy((points - points.mean(0))[order]).to(where)  # (n, d)
    group = torch.from_numpy(groups[order]).to(where)  # (n,)
    square = (x * x).sum(1, keepdim=True)  # (n, 1)
    one = torch.ones_like(square)
    left, right = torch.cat([x, square, one], 1), torch.cat([-2 * x, one, square], 1)  # left_i . right_j = |x_i - x_j|²
    rounding = 4 * left.shape[1] * torch.finfo(torch.float64).eps * float(square.max())  # bounds the product's error

    blocks = []  # rows, their groups, and which row is in which of these
    for start in range(0, n, tile):
        members = group[start : start + tile]
        first, last = int(members[0]), int(members[-1])
        belongs = (members[:, None] == torch.arange(first, last + 1, device=where)).double()  # (tile, few)
        blocks.append((slice(start, start + len(members)), slice(first, last + 1), belongs))

    sums = torch.zeros(n, n_groups, dtype=torch.float64, device=where)

    def add_tile(i: int, j: int) -> torch.Tensor:
        """Add block i's cells to the sums of block j's; return what j's add to the sums of i's."""
        rows, row_groups, row_belongs = blocks[i]
        columns, _, column_belongs = blocks[j]
        squared = left[rows] @ right[columns].T  # (tile, tile)
        distances = torch.threshold_(squared, rounding, 0.0).sqrt_()
        if i != j:
            sums[columns, row_groups] += distances.T @ row_belongs
        return distances @ column_belongs

    with single_thread_pool(where) as pool:
        for i, (rows, _, _) in enumerate(blocks):
            later = range(i, len(blocks))  # their tiles add to different rows: the order of threads changes nothing
            for j, part in zip(later, pool.map(partial(add_tile, i), later), strict=True):
                sums[rows, blocks[j][1]] += part
    result = np.empty((n, n_groups))
    result[order] = sums.cpu().numpy()
    return result


def silhouette_width(within: np.ndarray, between: np.ndarray, size: np.ndarray) -> np.ndarray:
    """Silhouette of each cell, (between - within) / the larger of them, from -1 to 1.

    Parameters
    ----------
    within
        (n,) mean distance to the other cells of the own group.
    between
        (n,) mean distance to another group.
    size
        (n,) cells of the own group.

    Returns
    -------
    numpy.ndarray
        (n,); 0 for the only cell of a group (scikit-learn's convention), and where both distances are 0.

    Examples
    --------
    >>> import numpy as np
    >>> silhouette_width(np.array([1.0, 0.0]), np.array([4.0, 0.0]), np.array([3, 3]))
    array([0.75, 0.  ])
    """
    larger = np.maximum(within, between)
    return np.divide(between - within, larger, out=np.zeros_like(larger), where=(larger > 0) & (size > 1))
