"""How far several embeddings of the same cells agree about which cells are neighbours.

Shapes: M embeddings, n cells, L latent dimensions, k neighbours.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from sysvi._core.samples import nearest_points, sample_rows

N_NEIGHBORS = 15
MAX_CELLS = 2_000  # of which neighbours are searched among each other


def neighbor_agreement(embeddings: Sequence[np.ndarray]) -> NDArray[np.float64]:
    """Share of a cell's nearest neighbours that two embeddings have in common, for each pair of embeddings.

    Parameters
    ----------
    embeddings
        M embeddings of the same cells, (n, L) each.

    Returns
    -------
    numpy.ndarray
        Mean over cells of the share of the 15 nearest cells, (M, M), from 0 to 1; 1 in the diagonal. Of more than 2,000
        cells, a random sample of fixed seed stands for all.

    Examples
    --------
    >>> z = np.random.default_rng(0).standard_normal((100, 3))
    >>> neighbor_agreement([z, 2 * z + 1]).tolist()
    [[1.0, 1.0], [1.0, 1.0]]
    """
    rows = sample_rows(np.arange(len(embeddings[0])), MAX_CELLS)
    n = len(rows)
    k = min(N_NEIGHBORS, n - 1)
    is_neighbor = np.zeros((len(embeddings), n, n), bool)
    for of_embedding, z in zip(is_neighbor, embeddings, strict=True):
        found = nearest_points(z[rows], z[rows], k + 1)[1]  # (n, k + 1), usually with the cell itself
        itself = found == np.arange(n)[:, None]
        itself[~itself.any(axis=1), -1] = True  # where identical cells take its place
        np.put_along_axis(of_embedding, found[~itself].reshape(n, k), True, axis=1)
    flat = is_neighbor.reshape(len(embeddings), -1).astype(np.float32)
    return ((flat @ flat.T) / (n * k)).astype(np.float64)
