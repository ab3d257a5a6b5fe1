"""Mean expression of each label in each donor, and the contrasts of donors that are tested.

Shapes: n cells, D donors, T labels, G genes, K other labels.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

MIN_DONORS = 2  # of each system, for a test
ROBUST_LABELS = 3  # other labels of which the median is not moved by a single one
MIN_COUNTS = 3.0  # of a gene in the profile of a label, mean over the donors of a system

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]


class Profiles(NamedTuple):
    """Mean expression of each label in each donor; D donors, T labels, G genes.

    Parameters
    ----------
    mean
        Mean normalised expression, not logarithms, (D, T, G); 0 where a donor has no cells of a label.
    n_cells
        Number of cells, (D, T).
    unit
        What one count adds to a mean, (D, T); infinite where a donor has no cells of a label.
    """

    mean: Floats
    n_cells: Ints
    unit: Floats


def donor_profiles(x: sparse.csr_matrix, donor: Ints, label: Ints, log_unit: float = 1.0) -> Profiles:
    """Average normalised expression over the cells of each label in each donor.

    The smallest value of a cell above 0 is taken as that of one count, so that log-normalised cells need no counts.

    Parameters
    ----------
    x
        Log-normalised expression (natural logarithm of 1 + value), CSR of shape (n, G).
    donor, label
        Codes of donor and label of each cell, (n,); cells with a negative label are left out.
    log_unit
        Natural logarithms in one unit of `x`; other than 1 if its logarithms have another base.

    Returns
    -------
    Profiles

    Examples
    --------
    >>> x = sparse.csr_matrix(np.log1p([[2.0, 0.0], [4.0, 2.0], [0.0, 3.0]]))
    >>> found = donor_profiles(x, donor=np.array([0, 0, 1]), label=np.array([0, 0, 0]))
    >>> found.mean[:, 0].round(6).tolist(), found.unit.round(6).tolist()
    ([[3.0, 1.0], [0.0, 3.0]], [[1.0], [3.0]])
    """
    labelled = label >= 0
    x, donor, label = x[labelled], donor[labelled], label[labelled]
    shape = int(donor.max()) + 1, int(label.max()) + 1
    group = donor * shape[1] + label
    n_cells = np.bincount(group, minlength=shape[0] * shape[1])
    values = sparse.csr_matrix((np.expm1(log_unit * x.data.astype(np.float64)), x.indices, x.indptr), x.shape)
    members = sparse.csr_matrix((np.ones(len(group)), (group, np.arange(len(group)))), (len(n_cells), len(group)))
    mean = (members @ values).toarray() / np.maximum(n_cells, 1)[:, None]
    unit = np.full(len(n_cells), np.inf)
    one_count = _smallest_values(values)
    for code in np.flatnonzero(n_cells):
        unit[code] = np.median(one_count[group == code]) / n_cells[code]
    return Profiles(mean.reshape(*shape, -1), n_cells.reshape(shape), unit.reshape(shape))


def _smallest_values(values: sparse.csr_matrix) -> Floats:
    """The smallest value above 0 of each cell, (n,); infinite if there is none."""
    smallest = np.full(values.shape[0], np.inf)
    rows = np.repeat(np.arange(values.shape[0]), np.diff(values.indptr))
    np.minimum.at(smallest, rows[values.data > 0], values.data[values.data > 0])
    return smallest


def choose_others(has: Mask, system: Ints, label: int) -> tuple[Ints, Ints]:
    """Choose the donors and the other labels with which a label is compared.

    A donor takes part if it has the label and all chosen other labels, so that all donors are compared alike. The
    labels that most donors have come first. At least three are taken, where two donors of each system have them, since
    the median of fewer is no more robust than a mean; from there on, as many as make the variance of the result
    smallest. With equal variances of all profiles, it is proportional to (1 / n1 + 1 / n2) (1 + 1 / K) for n1 and n2
    donors of the two systems and K other labels.

    Parameters
    ----------
    has
        Whether a donor has enough cells of a label, (D, T).
    system
        System of each donor, 0 or 1, (D,).
    label
        The label that is compared.

    Returns
    -------
    donors, others : numpy.ndarray
        Their positions; none if a system has no donor with the label and another one.

    Examples
    --------
    >>> has = np.array([[1, 1, 1], [1, 1, 0], [1, 1, 1], [1, 1, 1]], bool)
    >>> donors, others = choose_others(has, np.array([0, 0, 1, 1]), label=0)
    >>> donors.tolist(), others.tolist()
    ([0, 1, 2, 3], [1])
    """
    usable = has & has[:, [label]]
    order = [int(t) for t in np.argsort(-usable.sum(axis=0), kind="stable") if t != label]
    best, chosen = (0, np.inf), (np.empty(0, np.int64), np.empty(0, np.int64))
    for k in range(1, len(order) + 1):
        donors = np.flatnonzero(usable[:, order[:k]].all(axis=1))
        n1, n2 = np.bincount(system[donors], minlength=2)
        if not n1 or not n2:
            break
        n_robust = min(k, ROBUST_LABELS) if min(n1, n2) >= MIN_DONORS else 0
        rank = (-n_robust, (1 / n1 + 1 / n2) * (1 + 1 / k))
        if rank < best:
            best, chosen = rank, (donors, np.sort(order[:k]))
    return chosen


def testable(mean: Floats, unit: Floats, system: Ints) -> tuple[Mask, Mask]:
    """Find the genes with enough counts for a test: of the difference between systems, and of markers.

    Logarithms of fewer counts are biased by their number, which differs between donors and systems. Markers are tested
    with enough counts in the label in both systems. The difference is tested also if a system has fewer, but would have
    enough with the ratio of the systems in the other labels, which have enough: its counts are then few because of a
    difference of this label.

    Parameters
    ----------
    mean
        Mean normalised expression of a label, which comes first, and K others, (D, 1 + K, G).
    unit
        What one count adds to it, (D, 1 + K).
    system
        System of each donor, 0 or 1, (D,).

    Returns
    -------
    difference, marker : numpy.ndarray
        (G,) bool.
    """
    by_system = [system == code for code in (0, 1)]
    level = np.stack([mean[rows].mean(axis=0) for rows in by_system])  # (2, 1 + K, G)
    one_count = np.stack([unit[rows].mean(axis=0) for rows in by_system])[:, :, None]
    marker = np.all(level[:, 0] >= MIN_COUNTS * one_count[:, 0], axis=0)
    others = np.median(level[:, 1:], axis=1)  # (2, G)
    others_have = (np.median(level[:, 1:] / one_count[:, 1:], axis=1) >= MIN_COUNTS).all(axis=0)
    ratio = np.divide(others, others[::-1], out=np.zeros_like(others), where=others_have)
    expected = np.maximum(level[:, 0], level[::-1, 0] * ratio)
    return np.all(expected >= MIN_COUNTS * one_count[:, 0], axis=0), marker


def marker_contrast(y: Floats, usual: Mask) -> Floats:
    """How much more a donor expresses a gene in a label than on average in the others.

    Parameters
    ----------
    y
        Log expression of a label, which comes first, and K others, (D, 1 + K, G).
    usual
        Genes of which most should not differ, (G,).

    Returns
    -------
    numpy.ndarray
        (D, G); the median over the usual genes is 0 for each donor.
    """
    return _centre(y[:, 0] - y[:, 1:].mean(axis=1), usual)


def specific_contrast(y: Floats, system: Ints, usual: Mask) -> Floats:
    """How a donor differs from the other system in a label, beyond how it differs in the others.

    From the log expression of each label, the midpoint between the two systems is subtracted; then, the median over the
    other labels is subtracted from the label. A gene that differs between the systems by the same factor in all labels
    has the same mean in both systems. The median keeps a difference in one label from appearing, with the opposite
    sign, in all others.

    Parameters
    ----------
    y
        Log expression of a label, which comes first, and K others, (D, 1 + K, G).
    system
        System of each donor, 0 or 1, (D,).
    usual
        Genes of which most should not differ, (G,).

    Returns
    -------
    numpy.ndarray
        (D, G); the median over the usual genes is 0 for each donor.
    """
    midpoint = (y[system == 0].mean(axis=0) + y[system == 1].mean(axis=0)) / 2
    deviation = y - midpoint
    return _centre(deviation[:, 0] - np.median(deviation[:, 1:], axis=1), usual)


def _centre(contrast: Floats, usual: Mask) -> Floats:
    """Subtract the median over the usual genes: where some genes rise, the shares of all others in a profile fall."""
    if not usual.any():
        return contrast
    return contrast - np.median(contrast[:, usual], axis=1, keepdims=True)
