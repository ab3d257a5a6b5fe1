"""Labels of new cells by weighted votes of their nearest reference cells, with calibrated probabilities and a novelty.

Functions of arrays; the settings were chosen by benchmarks/transfer.py, and docs/mapping.md says how the numbers are
made. Shapes: n reference cells, m cells of the query, d dimensions, C labels, k neighbours.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from sysvi._core.errors import InputError
from sysvi._core.parallel import one_blas_thread
from sysvi._core.samples import nearest_points, sample_rows
from sysvi.mapping.calibration import apply_temperature, fit_temperature, reliability
from sysvi.metrics._score import check_embedding, encode_categories

Floats = NDArray[np.float64]

N_NEIGHBORS = 15
MAX_KNOWN_UNKNOWN = 0.05  # share of cells of known types that may be called unknown
ISOTROPIC_SHARE = 1e-3  # of the covariance within labels, so that collapsed dimensions are not blown up
MAX_HELD_OUT_CELLS = 5_000  # of the reference, on which temperature and threshold are fitted
CELLS_AT_A_TIME = 10_000


@dataclass(frozen=True, eq=False)
class Voters:
    """Labelled cells that vote for the labels of others.

    Parameters
    ----------
    points
        Their places in the metric of the labels, (n, d).
    code
        Position of the label of each among the labels, (n,).
    weight
        Weight of the vote of each, (n,).
    n_labels
        Number C of labels.
    """

    points: Floats
    code: NDArray[np.int64]
    weight: Floats
    n_labels: int

    def select(self, chosen: NDArray[np.bool_]) -> Voters:
        """Some of the cells, by a mask."""
        return Voters(self.points[chosen], self.code[chosen], self.weight[chosen], self.n_labels)


@dataclass(frozen=True, eq=False)
class HeldOut:
    """Reference cells whose label was predicted from other cells: what temperature and threshold are fitted on.

    Parameters
    ----------
    probability
        Calibrated probability of each label, (cells, C).
    code
        Position of their own label among the labels, (cells,).
    distance
        Mean distance to the k nearest cells of the most probable label, (cells,).
    """

    probability: Floats
    code: NDArray[np.int64]
    distance: Floats

    @property
    def correct(self) -> NDArray[np.bool_]:
        """Whether the most probable label is the cell's own, (cells,)."""
        return np.asarray(self.probability.argmax(axis=1) == self.code)

    def reliability(self) -> pd.DataFrame:
        """How often the labels are right, by their confidence (`sysvi.mapping.calibration.reliability`)."""
        return reliability(self.probability.max(axis=1), self.correct)


@dataclass(frozen=True, eq=False)
class LabelClassifier:
    """What is learned from a labelled reference; `fit` makes it, `predict` labels cells with it.

    Parameters
    ----------
    labels
        The labels in sorted order, (C,) strings.
    voters
        The reference cells.
    center, scale
        Embedding to metric: (z - center) @ scale; (d,) and (d, d).
    n_neighbors
        Number k of neighbours that vote.
    temperature
        Temperature of the votes.
    threshold
        Mean distance to the k nearest reference cells of its most probable label above which a cell is unlike them.
    held_out
        The reference cells on which temperature and threshold were fitted.
    """

    labels: NDArray[np.object_]
    voters: Voters
    center: Floats
    scale: Floats
    n_neighbors: int
    temperature: float
    threshold: float
    held_out: HeldOut

    @classmethod
    @one_blas_thread
    def fit(
        cls,
        embedding: ArrayLike,
        label: ArrayLike,
        batch: ArrayLike | None = None,
        *,
        n_neighbors: int = N_NEIGHBORS,
        max_known_unknown: float = MAX_KNOWN_UNKNOWN,
    ) -> LabelClassifier:
        """Learn from labelled cells.

        Distances are Euclidean after the embedding is transformed so that the covariance of cells of one label,
        averaged over the labels, is the identity. The k nearest cells of a cell vote for their labels. A vote weighs
        exp(-(distance / distance of the k-th)²) divided by the square root of the number of cells of this label and
        batch. Votes become probabilities after one more vote is divided equally among all labels.

        Temperature and threshold are fitted on reference cells (5,000 at most, a sample of fixed seed) whose
        neighbours are searched in other batches. A cell whose label occurs in its own batch only is compared with all
        other cells.

        Parameters
        ----------
        embedding
            Embedding of the reference, (n, d).
        label
            Label of each cell, (n,).
        batch
            Batch of each cell, (n,); None: all cells are of one.
        n_neighbors
            Number of neighbours that vote.
        max_known_unknown
            Share of these held-out cells whose distance is above the threshold.

        Raises
        ------
        InputError
            If no label has two cells, or values are missing or not finite.

        Examples
        --------
        >>> classifier = LabelClassifier.fit([[0.0], [0.2], [4.0], [4.2]], ["alpha", "alpha", "beta", "beta"])
        >>> probability, novelty = classifier.predict([[4.1], [9.0]])
        >>> classifier.labels[probability.argmax(axis=1)].tolist(), (novelty > 1).tolist()
        (['beta', 'beta'], [False, True])
        """
        z = check_embedding(embedding).astype(np.float64)
        code, labels = encode_categories(label, "label", len(z))
        comparable = np.flatnonzero(np.bincount(code)[code] > 1)
        if not len(comparable):
            raise InputError("No label of the reference has two cells, so nothing can be learned: give more cells.")
        group = np.zeros(len(z), np.int64) if batch is None else encode_categories(batch, "batch", len(z))[0]
        center = z.mean(axis=0)
        scale = _scale(z, code)
        voters = Voters((z - center) @ scale, code, _weights(code, group), len(labels))
        rows = sample_rows(comparable, MAX_HELD_OUT_CELLS)
        probability, distance = _hold_out(voters, group, rows, n_neighbors)
        temperature = fit_temperature(probability, code[rows])
        return cls(
            labels,
            voters,
            center,
            scale,
            n_neighbors,
            temperature,
            float(np.quantile(distance, 1 - max_known_unknown)),
            HeldOut(apply_temperature(probability, temperature), code[rows], distance),
        )

    @one_blas_thread
    def predict(self, embedding: ArrayLike) -> tuple[NDArray[np.float32], Floats]:
        """Predict labels.

        Parameters
        ----------
        embedding
            Embedding of the query, (m, d).

        Returns
        -------
        probability
            Probability of each label, if the cell has one of them: (m, C).
        novelty
            Mean distance to the k nearest reference cells of the most probable label, divided by the threshold, (m,):
            above 1, the cell is unlike them.
        """
        z = check_embedding(embedding)
        if z.shape[1] != len(self.center):
            raise InputError(
                f"The embedding of the query has {z.shape[1]} dimensions, but that of the reference has "
                f"{len(self.center)}: use the embeddings of one model."
            )
        probability = np.empty((len(z), self.voters.n_labels), np.float32)
        distance = np.empty(len(z))
        for start in range(0, len(z), CELLS_AT_A_TIME):
            part = slice(start, start + CELLS_AT_A_TIME)
            points = (z[part].astype(np.float64) - self.center) @ self.scale
            votes, distance[part] = _compare(self.voters, points, self.n_neighbors)
            probability[part] = apply_temperature(votes, self.temperature)
        if self.threshold == 0:  # the cells of each label have one place
            return probability, np.where(distance > 0, np.inf, 0.0)
        return probability, distance / self.threshold


def _scale(z: Floats, code: NDArray[np.int64]) -> Floats:
    """Matrix after which the covariance within labels, averaged over labels, is the identity, (d, d)."""
    n_cells = np.bincount(code)
    weight = np.sqrt(1.0 / n_cells)[code, None]  # each label counts the same
    mean = np.stack([z[code == i].mean(axis=0) for i in range(len(n_cells))])
    residual = (z - mean[code]) * weight
    covariance = residual.T @ residual / max(1, (n_cells > 1).sum())
    d = len(covariance)
    variance = np.trace(covariance) / d
    if variance == 0:  # each label has a single place
        return np.eye(d)
    values, vectors = np.linalg.eigh((1 - ISOTROPIC_SHARE) * covariance + ISOTROPIC_SHARE * variance * np.eye(d))
    return np.asarray(vectors / np.sqrt(values), np.float64)


def _weights(code: NDArray[np.int64], group: NDArray[np.int64]) -> Floats:
    """Weight of each reference cell's vote: 1 / square root of the number of cells of its label and batch, (n,)."""
    _, both, n_cells = np.unique(np.stack([code, group]), axis=1, return_inverse=True, return_counts=True)
    return np.asarray(1 / np.sqrt(n_cells[both.ravel()]), np.float64)


def _compare(voters: Voters, queries: Floats, k: int, itself: NDArray[np.int64] | None = None) -> tuple[Floats, Floats]:
    """Votes about m cells, (m, C), and their mean distance to the k nearest voters of the most probable label, (m,).

    `itself` has the position of each cell among the voters, where it is left out.
    """
    distance, neighbors, counted = _nearest(voters.points, queries, k, itself)
    vote = _kernel(distance, counted) * voters.weight[neighbors] * counted  # (m, k)
    m, n_labels = len(queries), voters.n_labels
    ballot = np.arange(m)[:, None] * n_labels + voters.code[neighbors]  # (m, k), entries of an (m, C) matrix
    votes = np.bincount(ballot.ravel(), vote.ravel(), m * n_labels).reshape(m, n_labels)
    n_votes = counted.sum(axis=1, keepdims=True)
    probability = (n_votes * votes / votes.sum(axis=1, keepdims=True) + 1 / n_labels) / (n_votes + 1)

    candidate = probability.argmax(axis=1)
    mean_distance = np.empty(m)
    for label in np.unique(candidate):
        part, same = np.flatnonzero(candidate == label), np.flatnonzero(voters.code == label)
        position = None
        if itself is not None:
            place = np.minimum(np.searchsorted(same, itself[part]), len(same) - 1)
            position = np.where(same[place] == itself[part], place, -1)
        distance, _, counted = _nearest(voters.points[same], queries[part], k, position)
        mean_distance[part] = np.average(distance, axis=1, weights=counted)
    return probability, mean_distance


def _nearest(
    points: Floats, queries: Floats, k: int, itself: NDArray[np.int64] | None
) -> tuple[Floats, NDArray[np.int64], NDArray[np.bool_]]:
    """Distances and positions of the nearest points, and which of them count: at most k, not the cell itself."""
    distance, found = nearest_points(points, queries, k + (itself is not None))
    counted = np.ones(found.shape, bool)
    if itself is not None:
        counted = found != itself[:, None]
        counted[counted.all(axis=1), k:] = False
    return distance, found, counted


def _kernel(distance: Floats, counted: NDArray[np.bool_]) -> Floats:
    """Weights exp(-(distance / largest distance that counts)²), (m, k)."""
    width = np.max(distance, axis=1, keepdims=True, where=counted, initial=0)
    return np.exp(-np.square(np.divide(distance, width, out=np.zeros_like(distance), where=width > 0)))


def _hold_out(voters: Voters, group: NDArray[np.int64], rows: NDArray[np.int64], k: int) -> tuple[Floats, Floats]:
    """Compare cells, by their rows, with those of other batches: result as of `_compare`.

    Cells whose label occurs in one batch only are compared with all other cells.
    """
    probability, distance = np.empty((len(rows), voters.n_labels)), np.empty(len(rows))
    n_batches = np.bincount(np.unique(np.stack([voters.code, group]), axis=1)[0])  # of each label
    in_one_batch = n_batches[voters.code[rows]] == 1
    for batch in np.unique(group[rows[~in_one_batch]]):
        part = np.flatnonzero((group[rows] == batch) & ~in_one_batch)
        others = voters.select(group != batch)
        probability[part], distance[part] = _compare(others, voters.points[rows[part]], k)
    part = np.flatnonzero(in_one_batch)
    if len(part):
        probability[part], distance[part] = _compare(voters, voters.points[rows[part]], k, rows[part])
    return probability, distance
