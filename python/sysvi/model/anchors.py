"""Moving systems onto each other where the members of an ensemble agree which of their cells correspond.

Two cells of different systems that are mutual nearest neighbours (Haghverdi et al., 2018) in most members, and not far
apart, are a pair of anchors. What still separates them in the combined embedding is a difference between the systems
that training has left, so the anchors, and with them the cells around them, are moved onto each other. Cells of a type
that the other system lacks are seldom anchors: their mutual neighbours differ between members, or are farther away than
cells of their own type. They stay where they are.

The anchors of a cell lie around it, and so do its neighbours by the same rule in its own system. The cell moves by the
linear map that takes the mean and covariance of these neighbours to those of the anchors, which is the optimal
transport between two normal distributions. Systems that lie on each other already stay as they are.

A further system can be moved onto those that are there, which then stay where they are (`Moves.extend`).

Shapes: M members, n cells, L latent dimensions, P sampled cells of all systems; a and b sampled cells of two systems.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

from sysvi._core.parallel import one_blas_thread
from sysvi._core.samples import nearest_points, sample_rows

Floats = NDArray[np.float64]

MAX_SAMPLED_CELLS = 1_000  # of each system, among which anchors are searched
SHARE_OF_NEIGHBORS = 0.15  # of a system's sampled cells that count as nearest neighbours of a cell
SHARE_AROUND = 0.25  # of a system's sampled cells that lie within the radius of a cell of this system
MIN_NEIGHBORS = 10
SHARE_OF_MEMBERS = 0.75  # in which the cells of a pair must be mutual neighbours
N_ROUNDS = 6
ADDED_VARIANCE = 1e-3  # to each direction, relative to the mean variance, so that covariances can be inverted
SMALLEST_VARIANCE = 1e-100  # is added if all cells lie in the same place
N_SMOOTHED = 30  # sampled cells whose moves are averaged
CELLS_AT_A_TIME = 10_000


@dataclass(frozen=True, eq=False)
class Moves:
    """How far sampled cells of each system are moved; other cells move with the sampled ones near them.

    Parameters
    ----------
    system
        Codes of the systems of the sampled cells, (P,) int64.
    in_members
        Their embedding in each member, in its own latent space, (M, P, L) float64.
    position
        Their combined embedding before the move, (P, L) float64.
    move
        How far each is moved, (P, L) float64.
    """

    system: NDArray[np.int64]
    in_members: Floats
    position: Floats
    move: Floats

    @one_blas_thread
    def apply(self, z: np.ndarray, system: np.ndarray) -> Floats:
        """Move cells with embedding z, (n, L), and codes of their systems, (n,); cells of other systems stay.

        The move of a cell is the mean of those of the 30 nearest sampled cells of its system, weighted by a Gaussian
        of their distances, whose width is the distance of the 15th.
        """
        moved = np.array(z, np.float64)
        for code in np.unique(self.system):
            sampled, cells = self.system == code, np.flatnonzero(system == code)
            for start in range(0, len(cells), CELLS_AT_A_TIME):
                rows = cells[start : start + CELLS_AT_A_TIME]
                moved[rows] += _smoothing(self.position[sampled], moved[rows]) @ self.move[sampled]
        return moved

    @one_blas_thread
    def displacement(self, z: np.ndarray, system: np.ndarray, target: int) -> Floats:
        """How far cells are from where those cells of another system lie that are moved to the same place, (n, L).

        It is the move of a cell, (n, L) embeddings `z` and (n,) codes `system`, minus the mean move of the sampled
        cells of the system `target` around the place that it reaches, weighted as in `apply`. It is 0 for cells of this
        system, and small where both systems are hardly moved.
        """
        moved, gap = self.apply(z, system), np.zeros(z.shape)
        sampled, others = self.system == target, np.flatnonzero(system != target)
        reached = self.position[sampled] + self.move[sampled]
        for start in range(0, len(others), CELLS_AT_A_TIME):
            rows = others[start : start + CELLS_AT_A_TIME]
            gap[rows] = moved[rows] - z[rows] - _smoothing(reached, moved[rows]) @ self.move[sampled]
        return gap

    @one_blas_thread
    def extend(
        self,
        embeddings: Sequence[np.ndarray],
        combined: np.ndarray,
        code: int,
        min_closeness: float = 0.0,
    ) -> Moves:
        """Also move a further system onto the moved cells of the others, which stay where they are.

        Parameters
        ----------
        embeddings
            The members' embeddings of the cells of the further system: M arrays (n, L).
        combined
            Their combined embedding, (n, L).
        code
            Code of the further system.
        min_closeness
            How close anchors must be, as in `find_moves`.
        """
        rows = sample_rows(np.arange(len(embeddings[0])), MAX_SAMPLED_CELLS)
        new = np.stack([np.asarray(z, np.float64)[rows] for z in embeddings])  # (M, p, L)
        position = np.asarray(combined, np.float64)[rows]
        known = {other: self.system == other for other in np.unique(self.system)}
        in_members = {code: new} | {other: self.in_members[:, cells] for other, cells in known.items()}
        radius = {a: _radius(z) for a, z in in_members.items()}
        pairs = [(code, a) for a in in_members] + [(other, other) for other in known]
        anchors = {
            (a, b): _anchors(in_members[a], in_members[b], radius[a], radius[b], min_closeness) for a, b in pairs
        }
        reached = self.position + self.move
        start = {code: position} | {other: reached[cells] for other, cells in known.items()}
        moved = _move_onto_anchors(start, {code: _smoothing(position, position)}, anchors)[code]
        return Moves(
            np.concatenate([self.system, np.full(len(rows), code, np.int64)]),
            np.concatenate([self.in_members, new], axis=1),
            np.concatenate([self.position, position]),
            np.concatenate([self.move, moved - position]),
        )


@one_blas_thread
def find_moves(
    embeddings: Sequence[np.ndarray],
    combined: np.ndarray,
    system: np.ndarray,
    min_closeness: float = 0.0,
) -> Moves:
    """Find the cells that correspond in most members, and how to move the systems onto each other there.

    Of each system at most 1,000 cells are used, a random sample. A cell's nearest neighbours in another system are 15 %
    of that system's sampled cells (at least 10 cells), and pairs that are neighbours of each other in three quarters of
    the members, and close, are anchors. In each of six rounds, every cell is moved to the mean of itself and its
    counterparts, one for each other system. The counterpart is where the cell would be if its neighbours by the same
    rule in its own system had the mean and covariance of its anchors. A counterpart of fewer anchors than the cell and
    the anchors have neighbours in their own systems counts less, by the square of this ratio: a cell of a type that the
    other system lacks has a few anchors by chance. Moves and weights of counterparts are averaged over the cells around
    each cell, so that a cell among few anchors moves less.

    Parameters
    ----------
    embeddings
        The members' embeddings of the same cells, each in its own latent space: M arrays (n, L).
    combined
        The embedding in which cells are moved, (n, L).
    system
        Code of the system of each cell, (n,).
    min_closeness
        How close anchors must be. The closeness of a pair in a member is the radius within which a quarter of the cells
        of a cell's own system lie around it, of the two cells the larger radius, divided by the distance of the pair;
        of the members, the geometric mean counts. A cell without counterpart has nearest neighbours in the other system
        too, but they are farther away, compared with the extent of its own surroundings. By default, however far.

    Returns
    -------
    Moves

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> system = np.repeat([0, 1], 100)
    >>> z = np.stack([rng.standard_normal(200), system], axis=1)  # the systems differ in the second dimension
    >>> moved = find_moves([z, z], z, system).apply(z, system)
    >>> bool(np.abs(moved[:, 1] - 0.5).max() < 0.1)
    True
    """
    cells = {code: sample_rows(np.flatnonzero(system == code), MAX_SAMPLED_CELLS) for code in np.unique(system)}
    position = {code: np.asarray(combined, np.float64)[rows] for code, rows in cells.items()}
    smoothing = {code: _smoothing(z, z) for code, z in position.items()}
    in_members = {code: np.stack([np.asarray(z, np.float64)[rows] for z in embeddings]) for code, rows in cells.items()}
    radius = {code: _radius(z) for code, z in in_members.items()}
    anchors = {}
    for a, b in combinations_with_replacement(cells, 2):
        anchors[a, b] = _anchors(in_members[a], in_members[b], radius[a], radius[b], min_closeness)
        anchors[b, a] = sp.csr_array(anchors[a, b].T)
    moved = _move_onto_anchors(position, smoothing, anchors)
    return Moves(
        np.concatenate([np.full(len(rows), code, np.int64) for code, rows in cells.items()]),
        np.concatenate([*in_members.values()], axis=1),
        np.concatenate([*position.values()]),
        np.concatenate([moved[code] - position[code] for code in cells]),
    )


def _move_onto_anchors(
    position: dict[int, Floats], smoothing: dict[int, sp.csr_array], anchors: dict[tuple[int, int], sp.csr_array]
) -> dict[int, Floats]:
    """Move the systems that have a smoothing towards their anchors in the others, in rounds; positions are (p, L).

    Anchors of a system in itself are the neighbours of a cell in its own system, among them the cell itself.
    """
    moved = dict(position)
    n_own = {a: pairs.sum(axis=1) for (a, b), pairs in anchors.items() if a == b}  # neighbours of each cell
    weight = {
        (a, b): _weight_of_counterparts(pairs, n_own[a], n_own[b])[:, None]
        for (a, b), pairs in anchors.items()
        if a != b and a in smoothing
    }
    n_counterparts = {
        code: 1 + smooth @ np.sum([w for (a, _), w in weight.items() if a == code], axis=0)
        for code, smooth in smoothing.items()
    }
    for _ in range(N_ROUNDS):
        gaps = {code: np.zeros_like(moved[code]) for code in smoothing}
        for (a, b), w in weight.items():
            counterparts = _counterparts(moved[a], moved[b], anchors[a, a], anchors[a, b])
            gaps[a] += w * (counterparts - moved[a])
        moved |= {code: moved[code] + smooth @ gaps[code] / n_counterparts[code] for code, smooth in smoothing.items()}
    return moved


def _weight_of_counterparts(pairs: sp.csr_array, n_own: Floats, n_of_others: Floats) -> Floats:
    """Weight of each cell's counterpart, from 0 to 1, (a,).

    It is the squared ratio of its number of anchors to the geometric mean of its own number of neighbours in its
    system, (a,), and of that of its anchors in theirs, from (b,).
    """
    n = pairs.sum(axis=1)
    of_anchors = pairs @ n_of_others / np.maximum(n, 1)  # mean over the anchors of each cell
    return np.asarray(np.minimum(1.0, np.square(n) / np.maximum(n_own * of_anchors, 1)), np.float64)


def _counterparts(z: Floats, others: Floats, neighbors: sp.csr_array, pairs: sp.csr_array) -> Floats:
    """Where the cells z, (a, L), would be among the others, (b, L); where a cell has no anchors, its own place, (a, L).

    The neighbours of a cell in its own system, (a, a), and its anchors among the others, (a, b), are taken as samples
    of two normal distributions. A cell is mapped as optimal transport from the first to the second maps it.
    """
    counterparts, n_latent = z.copy(), z.shape[1]
    found = np.flatnonzero(pairs.sum(axis=1))
    here, covariance_here, n_here = _distributions(neighbors[found], z)
    there, covariance_there, n_there = _distributions(pairs[found], others)
    # The covariance of few cells is drawn to the mean of both, as if L further cells had this one.
    pooled = (covariance_here + covariance_there) / 2
    added = np.maximum(ADDED_VARIANCE * np.trace(pooled, axis1=1, axis2=2) / n_latent, SMALLEST_VARIANCE)
    source, target = (
        (n * own + n_latent * pooled) / (n + n_latent) + added[:, None, None] * np.eye(n_latent)
        for n, own in ((n_here, covariance_here), (n_there, covariance_there))
    )
    counterparts[found] = there + np.einsum("nij,nj->ni", _transport(source, target), z[found] - here)
    return counterparts


def _distributions(chosen: sp.csr_array, points: Floats) -> tuple[Floats, Floats, Floats]:
    """Mean, (n, L), and covariance, (n, L, L), of n subsets of the points, (p, L), and their sizes, (n, 1, 1).

    Each row of a matrix of 0 and 1, (n, p), chooses a subset; an empty one has the size 1.
    """
    n, origin = np.maximum(chosen.sum(axis=1), 1)[:, None], points.mean(axis=0)
    centred = points - origin  # so that little is lost where means are subtracted from squares
    mean = chosen @ centred / n
    products = (centred[:, :, None] * centred[:, None]).reshape(len(points), -1)
    squares = (chosen @ products / n).reshape(-1, *mean.shape[1:] * 2)
    return origin + mean, squares - mean[:, :, None] * mean[:, None], n[:, :, None]


def _transport(source: Floats, target: Floats) -> Floats:
    """Matrices T, symmetric and positive definite, with T source T = target, for covariances (n, L, L).

    It is the linear part of the optimal transport between normal distributions (Takatsu, 2011), here by the Cholesky
    factor C of the source: T = C⁻ᵀ (Cᵀ target C)^½ C⁻¹.
    """
    factor = np.linalg.cholesky(source)
    transposed = np.swapaxes(factor, 1, 2)
    values, vectors = np.linalg.eigh(transposed @ target @ factor)
    root = vectors * np.sqrt(np.maximum(values, 0))[:, None] @ np.swapaxes(vectors, 1, 2)
    inverse = np.linalg.inv(factor)
    return np.asarray(np.swapaxes(inverse, 1, 2) @ root @ inverse, np.float64)


def _anchors(a: Floats, b: Floats, radius_a: Floats, radius_b: Floats, min_closeness: float) -> sp.csr_array:
    """Pairs of cells of two systems that are anchors, a matrix of 0 and 1, (a, b).

    From the members' embeddings, (M, a, L) and (M, b, L), and the radii of the cells, (M, a) and (M, b).
    """
    n_mutual, log_closeness = np.zeros((2, a.shape[1], b.shape[1]))
    smallest = np.finfo(np.float64).tiny  # so that a pair in the same place is the closest
    for z_a, z_b, r_a, r_b in zip(a, b, radius_a, radius_b, strict=True):
        distance = cdist(z_a, z_b)
        n_mutual += _are_nearest(distance) & _are_nearest(distance.T).T
        radius = np.maximum(r_a[:, None], r_b)
        log_closeness += np.log(np.maximum(radius, smallest)) - np.log(np.maximum(distance, smallest))
    are_close = log_closeness >= len(a) * (np.log(min_closeness) if min_closeness > 0 else -np.inf)
    return sp.csr_array((are_close & (n_mutual >= SHARE_OF_MEMBERS * len(a))).astype(np.float64))


def _are_nearest(distance: Floats) -> NDArray[np.bool_]:
    """Whether each point (column) is among the nearest neighbours of each cell (row), from their distances."""
    k = min(max(MIN_NEIGHBORS, round(SHARE_OF_NEIGHBORS * distance.shape[1])), distance.shape[1])
    return np.asarray(distance <= np.partition(distance, k - 1, axis=1)[:, [k - 1]], np.bool_)


def _radius(z: Floats) -> Floats:
    """Distance of each point within which a quarter of the others lie, (M, n) of (M, n, L); 0 of a single point."""
    n = z.shape[1]
    k = min(max(MIN_NEIGHBORS, round(SHARE_AROUND * n)), n - 1)
    return np.stack([np.partition(cdist(of_member, of_member), k, axis=1)[:, k] for of_member in z])


def _smoothing(points: np.ndarray, queries: np.ndarray) -> sp.csr_array:
    """Weights of the points in the mean around each query, (queries, points); each row sums to 1."""
    distance, found = nearest_points(points, queries, N_SMOOTHED)
    width = distance[:, [distance.shape[1] // 2]]
    relative = np.divide(distance, width, out=np.zeros_like(distance), where=width > 0)
    weight = np.exp(-np.square(relative))
    weight /= weight.sum(axis=1, keepdims=True)
    n, k = found.shape
    return sp.csr_array((weight.ravel(), found.ravel(), np.arange(0, n * k + 1, k)), shape=(n, len(points)))
