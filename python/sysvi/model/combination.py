"""Combining the embeddings of several models of the same cells into one: principal components of all side by side.

Latent spaces of models that were trained from different seeds differ by a rotation or reflection and a scale, which
mean nothing, and in what each model learned by chance. Side by side, the squared distance of two cells is the mean of
their squared distances in the models. Cells that one model puts in the same place by chance thus stay apart if the
others keep them apart. What the models have in common has most of the variance, so it is in the first components.

Shapes: M models, n cells, L latent dimensions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sysvi._core.parallel import one_blas_thread

Floats = NDArray[np.float64]

ROUNDING = 1e-9  # an embedding whose cells differ by less than this, relative to their norm, counts as constant


@dataclass(frozen=True, eq=False)
class Combination:
    """A linear map of the embeddings of M models onto one embedding of as many dimensions as one of them has.

    Parameters
    ----------
    center
        Mean of each model's embedding, (M, L) float64.
    matrix
        What each model's centred embedding is multiplied by before all are added, (M, L, L) float64.

    Examples
    --------
    >>> z = np.random.default_rng(0).standard_normal((50, 3))
    >>> rotation = np.linalg.qr(np.random.default_rng(1).standard_normal((3, 3)))[0]
    >>> one, two = combine([z, z]).apply([z, z]), combine([z, z @ rotation + 2]).apply([z, z @ rotation + 2])
    >>> bool(np.allclose(abs(one), abs(two)))  # principal components have no sign
    True
    """

    center: Floats
    matrix: Floats

    @one_blas_thread
    def apply(self, embeddings: Sequence[np.ndarray]) -> Floats:
        """Combine the embeddings of the models, M arrays (n, L), into one, (n, L)."""
        parts = zip(embeddings, self.center, self.matrix, strict=True)
        return np.sum([(np.asarray(z, np.float64) - center) @ matrix for z, center, matrix in parts], axis=0)

    @one_blas_thread
    def spread(self, displacement: np.ndarray) -> list[Floats]:
        """Displacements in the models' embeddings, M arrays (n, L), that give one in the combined embedding, (n, L).

        Of all such displacements, they are the smallest: the least-squares solution of least norm.

        Examples
        --------
        >>> z = np.random.default_rng(0).standard_normal((50, 3))
        >>> combination, moved = combine([z, 2 * z]), np.eye(3)
        >>> parts = combination.spread(moved)
        >>> bool(np.allclose(combination.apply([z[:3] + parts[0], 2 * z[:3] + parts[1]]),
        ...     combination.apply([z[:3], 2 * z[:3]]) + moved))
        True
        """
        n_latent = self.matrix.shape[2]
        parts = displacement @ np.linalg.pinv(self.matrix.reshape(-1, n_latent))  # (n, M·L)
        return np.split(parts, len(self.matrix), axis=1)


@one_blas_thread
def combine(embeddings: Sequence[np.ndarray]) -> Combination:
    """Find the first L principal components of several embeddings of the same cells.

    Each embedding is centred and scaled to the same mean squared norm, so that all count alike; a constant embedding
    counts as 0. Rotations and the order of the embeddings make no difference. The components are scaled as if all L·M
    of them together had the mean norm of the embeddings that were given, and the sign of each is such that its largest
    weight is positive.

    Parameters
    ----------
    embeddings
        M embeddings of the same cells, (n, L) each.

    Returns
    -------
    Combination
    """
    points = [np.asarray(z, np.float64) for z in embeddings]
    center = np.stack([z.mean(axis=0) for z in points])  # (M, L)
    centred = [z - c for z, c in zip(points, center, strict=True)]
    norm = np.array([_root_mean_square(z) for z in centred])  # (M,)
    is_constant = norm <= ROUNDING * np.array([_root_mean_square(z) for z in points])
    scale = np.where(is_constant, 0.0, 1 / np.where(is_constant, 1.0, norm)) / np.sqrt(len(points))  # (M,)
    n_latent = center.shape[1]
    axes = _principal_axes(np.hstack([z * factor for z, factor in zip(centred, scale, strict=True)]))[:, :n_latent]
    return Combination(center, axes.reshape(-1, n_latent, n_latent) * (scale * norm.mean())[:, None, None])


def _root_mean_square(z: Floats) -> float:
    """Root of the mean squared norm of points, (n, L)."""
    return float(np.sqrt(np.square(z).sum(axis=1).mean()))


def _principal_axes(centred: Floats) -> Floats:
    """Principal axes of centred points, (d, d), as columns in order of decreasing variance.

    The sign of each axis is such that its entry of largest absolute value is positive.
    """
    _, vectors = np.linalg.eigh(centred.T @ centred)
    axes = vectors[:, ::-1]
    largest = np.abs(axes).argmax(axis=0)
    return axes * np.where(axes[largest, np.arange(axes.shape[1])] < 0, -1.0, 1.0)
