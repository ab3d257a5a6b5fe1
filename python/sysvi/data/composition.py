"""How far systems of different composition lie from each other, in the space of principal components.

The linear model of the expression (`sysvi.data.summary`) takes the difference between the means of two systems as the
effect of the system. Where a cell type is frequent in one system and rare in the other, a part of this difference
comes from their composition. If it is taken out as well, the types of one system lie beside those of the other.

The shift that puts them onto each other is found without labels by iterative closest points (Besl and McKay, 1992): the
cells of a system are moved onto their nearest cells of the other system, again and again. Cells in sparse regions weigh
as much as those in dense ones, so that the size of a type does not matter, and the weight of a pair falls with its
distance (Welsch's robust weights), so that types of one system only do not count.

A shift is taken only if it is clear: it covers more of the two systems than no shift does, no other shift covers nearly
as much, and it is short.

Shapes: n cells, k components, S systems, p and q points of two systems.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import cdist, pdist

from sysvi._core.parallel import one_blas_thread
from sysvi._core.samples import nearest_points, sample_rows

Floats = NDArray[np.float64]

MIN_CELLS = 100  # of a system that is shifted
MAX_CELLS = 4_000  # of each system that are used
N_POINTS = 200  # of each system that are moved onto each other
N_AVERAGED = 15  # cells whose mean is a point
KERNEL_WIDTH = 0.3  # of the robust weights, relative to the median distance of points of one system
MIN_COVERAGE = 0.2  # by a shift: mean weight of the nearest pairs, from 0 to 1
MIN_GAIN = 1.2  # of a shift's coverage, relative to no shift
MIN_MARGIN = 1.3  # relative to any other shift
MAX_LENGTH = 2.5  # of a shift, in widths of the kernel
N_CLUSTERS = 12  # of each system's points, from which other shifts are searched
MAX_STEPS, TOLERANCE = 20, 0.01  # of the search; the tolerance in widths of the kernel


def composition_shifts(z: Floats, system: np.ndarray, n_systems: int) -> Floats:
    """Find the shift of each system that puts its cells onto those of the same kind in the others.

    The largest system stays where it is; the others follow in the order of their size, each compared with all that are
    in their place already. A system without a clear shift stays where it is, and no other is compared with it.

    Parameters
    ----------
    z
        Principal components of the cells without the systems' mean differences, (n, k).
    system
        Code of the system of each cell, (n,).
    n_systems
        Number of systems, S.

    Returns
    -------
    numpy.ndarray
        What to add to the components of each system's cells, (S, k); 0 for a system that stays where it is.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> types = np.array([[0, 0, 0], [8, 0, 0], [0, 6, 0], [0, 0, 9]])
    >>> frequency = [[0.4, 0.3, 0.2, 0.1], [0.1, 0.2, 0.3, 0.4]]  # of the types in each system
    >>> label = np.concatenate([rng.choice(4, 500, p=p) for p in frequency])
    >>> system = np.repeat([0, 1], 500)
    >>> z = types[label] + rng.standard_normal((1000, 3))
    >>> means = np.stack([z[system == s].mean(axis=0) for s in (0, 1)])
    >>> (means[1] - means[0]).round()  # although the types are in the same places
    array([-1.,  1.,  2.])
    >>> composition_shifts(z - means[system], system, 2)[1].round()
    array([-1.,  0.,  2.])
    """
    shifts = np.zeros((n_systems, z.shape[1]))
    sizes = np.bincount(system, minlength=n_systems)
    codes = [code for code in np.argsort(-sizes, kind="stable") if sizes[code] >= MIN_CELLS]
    if len(codes) < 2 or not z.shape[1]:
        return shifts
    return _place(shifts, {code: _points(z[system == code]) for code in codes})


@one_blas_thread
def _place(shifts: Floats, points: dict[int, Floats]) -> Floats:
    """Fill in the shifts, (S, k), of all systems but the first of these points, (p, k) each."""
    width = KERNEL_WIDTH * float(np.median(np.concatenate([pdist(each) for each in points.values()])))
    if width == 0:
        return shifts
    first, *others = points
    placed = points[first] / width
    for code in others:
        moving = points[code] / width
        shift = _Pair(moving, placed).clear_shift()
        if shift is not None:
            shifts[code] = width * shift
            placed = np.concatenate([placed, moving + shift])
    return shifts


def _points(z: Floats) -> Floats:
    """Means of the cells around a random sample of a system's cells, (p, k), from its cells, (n, k)."""
    cells = z[sample_rows(np.arange(len(z)), MAX_CELLS)]
    chosen = cells[sample_rows(np.arange(len(cells)), N_POINTS)]
    _, around = nearest_points(cells, chosen, N_AVERAGED)
    return np.asarray(cells[around].mean(axis=1), np.float64)


class _Pair:
    """Points of two systems, of which the first is shifted onto the second.

    Parameters
    ----------
    moving, fixed
        The points, (p, k) and (q, k); the unit of length is the width of the kernel.
    """

    def __init__(self, moving: Floats, fixed: Floats):
        self.moving, self.fixed = moving, fixed
        self.weight_of_moving, self.weight_of_fixed = _inverse_density(moving), _inverse_density(fixed)
        self.squares = cdist(moving, fixed, "sqeuclidean")

    def clear_shift(self) -> Floats | None:
        """The shift, (k,), that is found from no shift, if it is clear."""
        none = np.zeros(self.moving.shape[1])
        shift = self.refined(none)
        coverage = self.coverage(shift)
        if np.linalg.norm(shift) > MAX_LENGTH or coverage < max(MIN_COVERAGE, MIN_GAIN * self.coverage(none)):
            return None
        return shift if all(coverage >= MIN_MARGIN * other for other in self._other_coverages(shift)) else None

    def _other_coverages(self, shift: Floats) -> Iterator[float]:
        """Coverage of other shifts, which put a cluster of the points onto another before they are refined."""
        moving, fixed = _centres(self.moving), _centres(self.fixed)
        for start in (fixed[:, None] - moving).reshape(-1, moving.shape[1]):
            other = self.refined(start)
            if np.linalg.norm(other - shift) > 1:
                yield self.coverage(other)

    def coverage(self, shift: Floats) -> float:
        """How well the points of both systems are covered by those of the other after a shift, (k,): 0 to 1."""
        squares = self._squares_after(shift)
        moving, fixed = _kernel(squares.min(axis=1)), _kernel(squares.min(axis=0))
        return float(self.weight_of_moving @ moving + self.weight_of_fixed @ fixed) / 2

    def refined(self, shift: Floats) -> Floats:
        """The shift, (k,), that iterations of closest points reach from a first one: a mean of differences to them."""
        for _ in range(MAX_STEPS):
            squares, former = self._squares_after(shift), shift
            of_moving, of_fixed = squares.argmin(axis=1), squares.argmin(axis=0)
            moving = self.weight_of_moving * _kernel(squares[np.arange(len(of_moving)), of_moving])
            fixed = self.weight_of_fixed * _kernel(squares[of_fixed, np.arange(len(of_fixed))])
            total = moving.sum() + fixed.sum()
            if total == 0:  # all are too far away
                return shift
            differences = moving @ (self.fixed[of_moving] - self.moving) + fixed @ (self.fixed - self.moving[of_fixed])
            shift = differences / total
            if np.linalg.norm(shift - former) < TOLERANCE:
                break
        return shift

    def _squares_after(self, shift: Floats) -> Floats:
        """Squared distances of the points after a shift, (p, q)."""
        moved = 2 * self.moving @ shift + shift @ shift
        return np.maximum(self.squares + moved[:, None] - 2 * (self.fixed @ shift), 0)


def _centres(points: Floats) -> Floats:
    """Centres of clusters of the points, (12, k), by k-means; of few points, they themselves."""
    if len(points) <= N_CLUSTERS:
        return points
    from sklearn.cluster import KMeans

    return np.asarray(KMeans(N_CLUSTERS, n_init=1, random_state=0).fit(points).cluster_centers_, np.float64)


def _inverse_density(points: Floats) -> Floats:
    """Weight of each point, (p,), inverse to the number of points around it; they sum to 1."""
    weight = 1 / _kernel(cdist(points, points, "sqeuclidean")).sum(axis=1)
    return np.asarray(weight / weight.sum(), np.float64)


def _kernel(squares: Floats) -> Floats:
    """Welsch's robust weight of squared distances."""
    return np.asarray(np.exp(-squares / 2), np.float64)
