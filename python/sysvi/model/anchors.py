"""Moving systems onto each other where all members of an ensemble agree which of their cells correspond.

Two cells of different systems that are mutual nearest neighbours (Haghverdi et al., 2018) in the embedding of every
member, and not far apart, are a pair of anchors. What still separates them in the combined embedding is a
difference between the systems that training has left, so the anchors, and with them the cells around them, are moved
onto each other. Cells of a type that the other system lacks are seldom anchors: their mutual neighbours differ between
members, or are farther away than cells of their own type. They stay where they are.

The anchors of a cell lie around it, so their mean is nearer to the middle of the type than the cell is. The mean of
those cells of its own system that are its neighbours by the same rule is so too. A cell therefore moves by the
difference of the two means: systems that lie on each other already stay as they are, and types keep their extent.

A further system can be moved onto those that are there, which then stay where they are (`Moves.extend`).

Shapes: M members, n cells, L latent dimensions, P sampled cells of all systems.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal, NamedTuple

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
ENOUGH_ANCHORS = 0.25  # share of the usual number of anchors from which on a counterpart counts in full
N_ROUNDS = 2
N_SMOOTHED = 30  # sampled cells whose moves are averaged
CELLS_AT_A_TIME = 10_000


class MinCloseness(NamedTuple):
    """How close the cells of a pair must be to be anchors.

    Parameters
    ----------
    value
        The smallest closeness. The closeness of a pair in a member is the radius within which a quarter of the cells of
        a cell's own system lie around it, of the two cells the larger radius, divided by the distance of the pair. A
        cell without counterpart has nearest neighbours in the other system too, but they are farther away, compared
        with the extent of its own surroundings.
    of
        Which closeness counts: the geometric ``"mean"`` over the members, or the ``"smallest"``, so that no member may
        find the pair far apart.
    """

    value: float = 0.0
    of: Literal["mean", "smallest"] = "mean"


HOWEVER_FAR = MinCloseness()


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
        min_closeness: MinCloseness = HOWEVER_FAR,
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
            How close anchors must be.
        """
        rows = sample_rows(np.arange(len(embeddings[0])), MAX_SAMPLED_CELLS)
        new = np.stack([np.asarray(z, np.float64)[rows] for z in embeddings])  # (M, p, L)
        position = np.asarray(combined, np.float64)[rows]
        known = {other: self.system == other for other in np.unique(self.system)}
        anchors = {
            (code, other): _anchors([*zip(new, self.in_members[:, cells], strict=True)], min_closeness)
            for other, cells in known.items()
        }
        anchors[code, code] = _anchors([*zip(new, new, strict=True)], min_closeness)
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
    min_closeness: MinCloseness = HOWEVER_FAR,
) -> Moves:
    """Find the cells that correspond in all members, and how to move the systems onto each other there.

    Of each system at most 1,000 cells are used, a random sample. A cell's nearest neighbours in another system are 15 %
    of that system's sampled cells (at least 10 cells), and pairs that are neighbours of each other in the embeddings of
    all members, and close, are anchors. In each of two rounds, every cell is moved to
    the mean of itself and its counterparts, one for each other system. The counterpart is as far from the cell as the
    mean of its anchors there is from the mean of its neighbours by the same rule in its own system. A counterpart of
    fewer anchors than a quarter of their usual number (the median over the cells that have some) counts less, by the
    square of this number: a cell of a type that the other system lacks has a few anchors by chance. Moves and weights
    of counterparts are averaged over the cells around each cell, so that a cell among few anchors moves less.

    Parameters
    ----------
    embeddings
        The members' embeddings of the same cells, each in its own latent space: M arrays (n, L).
    combined
        The embedding in which cells are moved, (n, L).
    system
        Code of the system of each cell, (n,).
    min_closeness
        How close anchors must be; by default, however far.

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
    anchors = {}
    for a, b in combinations(cells, 2):
        anchors[a, b] = _anchors([(z[cells[a]], z[cells[b]]) for z in embeddings], min_closeness)
        anchors[b, a] = sp.csr_array(anchors[a, b].T)
    anchors |= {(a, a): _anchors([(z[cells[a]], z[cells[a]]) for z in embeddings], min_closeness) for a in cells}
    moved = _move_onto_anchors(position, smoothing, anchors)
    return Moves(
        np.concatenate([np.full(len(rows), code, np.int64) for code, rows in cells.items()]),
        np.concatenate([np.stack([z[rows] for z in embeddings]) for rows in cells.values()], axis=1, dtype=np.float64),
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
    n_anchors = {key: pairs.sum(axis=1).reshape(-1, 1) for key, pairs in anchors.items()}  # (cells of the first, 1)
    weight = {(a, b): _weight_of_counterparts(n) for (a, b), n in n_anchors.items() if a != b}
    for _ in range(N_ROUNDS):
        around = {(a, b): anchors[a, b] @ moved[b] / np.maximum(n, 1) for (a, b), n in n_anchors.items()}
        gaps = {code: np.zeros_like(moved[code]) for code in smoothing}
        n_counterparts = {code: np.zeros((len(moved[code]), 1)) for code in smoothing}
        for (a, b), w in weight.items():
            gaps[a] += w * (around[a, b] - around[a, a])
            n_counterparts[a] += w
        moved |= {
            code: moved[code] + smooth @ gaps[code] / (1 + smooth @ n_counterparts[code])
            for code, smooth in smoothing.items()
        }
    return moved


def _weight_of_counterparts(n_anchors: Floats) -> Floats:
    """Weight of each cell's counterpart, from 0 to 1, (cells, 1), by its number of anchors, (cells, 1)."""
    usual = np.median(n_anchors[n_anchors > 0]) if n_anchors.any() else 1.0
    return np.minimum(1.0, np.square(n_anchors / (ENOUGH_ANCHORS * usual)))


def _anchors(members: Sequence[tuple[np.ndarray, np.ndarray]], min_closeness: MinCloseness) -> sp.csr_array:
    """Pairs that are mutual neighbours in all members, and close, from embeddings of two systems: 0 or 1, (a, b)."""
    pairs: sp.csr_array | None = None
    for a, b in members:
        mutual = _neighbors(b, a).multiply(_neighbors(a, b).T)
        pairs = sp.csr_array(mutual if pairs is None else pairs.multiply(mutual))
    assert pairs is not None
    rows, columns = pairs.nonzero()
    by_member = np.stack([_log_closeness(a, b, rows, columns) for a, b in members])
    closeness = by_member.mean(axis=0) if min_closeness.of == "mean" else by_member.min(axis=0)
    close = closeness >= np.log(min_closeness.value) if min_closeness.value > 0 else np.ones(len(rows), bool)
    return sp.csr_array((np.ones(close.sum()), (rows[close], columns[close])), shape=pairs.shape)


def _log_closeness(a: np.ndarray, b: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> Floats:
    """Logarithm of the closeness of pairs of cells in one member, (pairs,); a pair in the same place is closest."""
    radius = np.maximum(_radius(a)[rows], _radius(b)[columns])
    distance = np.linalg.norm(a[rows] - b[columns], axis=1)
    smallest = np.finfo(np.float64).tiny
    return np.asarray(np.log(np.maximum(radius, smallest)) - np.log(np.maximum(distance, smallest)), np.float64)


def _radius(z: np.ndarray) -> Floats:
    """Distance of each point, (n, L), within which a quarter of the other points lie, (n,); 0 of a single point."""
    k = min(max(MIN_NEIGHBORS, round(SHARE_AROUND * len(z))), len(z) - 1)
    return np.asarray(np.partition(cdist(z, z), k, axis=1)[:, k], np.float64)


def _neighbors(points: np.ndarray, queries: np.ndarray) -> sp.csr_array:
    """Which of the points are nearest neighbours of each query: 0 or 1, (queries, points)."""
    k = max(MIN_NEIGHBORS, round(SHARE_OF_NEIGHBORS * len(points)))
    _, found = nearest_points(points, queries, k)
    return _sparse_rows(np.ones(found.shape), found, len(points))


def _smoothing(points: np.ndarray, queries: np.ndarray) -> sp.csr_array:
    """Weights of the points in the mean around each query, (queries, points); each row sums to 1."""
    distance, found = nearest_points(points, queries, N_SMOOTHED)
    width = distance[:, [distance.shape[1] // 2]]
    relative = np.divide(distance, width, out=np.zeros_like(distance), where=width > 0)
    weight = np.exp(-np.square(relative))
    return _sparse_rows(weight / weight.sum(axis=1, keepdims=True), found, len(points))


def _sparse_rows(values: np.ndarray, columns: np.ndarray, n_columns: int) -> sp.csr_array:
    """The sparse matrix, (n, n_columns), that has the k values of each row in these columns, (n, k) each."""
    n, k = columns.shape
    return sp.csr_array((values.ravel(), columns.ravel(), np.arange(0, n * k + 1, k)), shape=(n, n_columns))
