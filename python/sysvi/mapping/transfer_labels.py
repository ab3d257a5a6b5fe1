"""Transfer of labels from a reference to new cells: the interface for AnnData, and the tables of its result."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray

from sysvi._core.arguments import check_types
from sysvi._core.checks import check_anndata, get_obs_column
from sysvi._core.errors import InputError
from sysvi._core.settings import Limits, number, whole_number
from sysvi.data.from_anndata import check_writable
from sysvi.data.labels import UNLABELLED, is_labelled, read_labels
from sysvi.mapping.batches import batches, columns_of_model
from sysvi.mapping.calibration import calibration_error, reliability
from sysvi.mapping.label_classifier import MAX_KNOWN_UNKNOWN, N_NEIGHBORS, LabelClassifier
from sysvi.mapping.reference import Reference
from sysvi.metrics._latent import get_embedding

UNKNOWN = "unknown"  # one of UNLABELLED, so that evaluations leave these cells out
MIN_CONFIDENCE = 0.5
SHARE = Limits(min=0, max=1)


@dataclass(frozen=True, eq=False)
class LabelTransfer:
    """Result of :func:`transfer_labels`; printing it shows the summary.

    Parameters
    ----------
    cells
        A row for each cell of the query: ``label`` (``"unknown"`` where it is not sure), ``candidate`` (the most
        probable label), ``confidence`` of the candidate, and ``novelty``.
    probability
        Probability of each label (column) if the cell has one of them, a row for each cell of the query; float32.
    summary
        A row for each cluster of the query, or without clusters for each candidate label, the largest first:
        ``n_cells``; ``label``, the most frequent label of its cells (``"unknown"`` counts as one), and its ``share``;
        ``unknown``, the share of cells called unknown; mean ``confidence``, and median ``novelty``.
    confusion
        Number of cells by their own label (row) and transferred label (column); None if the query has no labels.
    reliability
        Confidence and accuracy in bins of confidence: columns ``cells``, ``bin`` (lower bound), ``n_cells``,
        ``confidence`` and ``accuracy``. ``cells`` is ``"reference"`` for reference cells that were labelled by other
        batches, and ``"query"`` for cells of the query with a label of their own that the reference has.
    """

    cells: pd.DataFrame
    probability: pd.DataFrame
    summary: pd.DataFrame
    confusion: pd.DataFrame | None
    reliability: pd.DataFrame

    @property
    def calibration_error(self) -> dict[str, float]:
        """Expected calibration error of ``"reference"`` and, if the query has labels of its own, ``"query"``."""
        groups = self.reliability.groupby("cells", sort=False)
        return {str(name): calibration_error(table) for name, table in groups}

    def columns(self, label_key: str) -> dict[str, pd.Categorical | NDArray[np.float32]]:
        """The columns of ``query.obs`` that :func:`transfer_labels` writes, by name."""
        return {
            f"{label_key}_transferred": pd.Categorical(self.cells["label"]),
            f"{label_key}_confidence": self.cells["confidence"].to_numpy(np.float32),
            f"{label_key}_novelty": self.cells["novelty"].to_numpy(np.float32),
        }

    def __str__(self) -> str:
        unknown = int((self.cells["label"] == UNKNOWN).sum())
        return (
            f"{len(self.cells) - unknown:,} of {len(self.cells):,} cells have a label, {unknown:,} are unknown.\n\n"
            f"{self.summary.to_string(float_format=lambda x: f'{x:.2f}')}"
        )


def transfer_labels(
    reference: AnnData | Reference,
    query: AnnData,
    label_key: str,
    *,
    embedding: str = "X_sysVI",
    system_key: str | None = None,
    batch_key: str | None = None,
    cluster_key: str | None = None,
    n_neighbors: int = N_NEIGHBORS,
    min_confidence: float = MIN_CONFIDENCE,
    max_known_unknown: float = MAX_KNOWN_UNKNOWN,
    unlabelled: Iterable[str] = UNLABELLED,
) -> LabelTransfer:
    """Give the cells of a query the labels of a reference in the same embedding, with confidence and novelty.

    The nearest reference cells vote (:class:`sysvi.mapping.label_classifier.LabelClassifier`); cells of large batches
    and of frequent labels have less weight. **Confidence** is the probability that the winning label, the candidate, is
    right if the reference has the cell's type. It is calibrated on the reference itself, whose cells are labelled by
    those of other batches. **Novelty** is the mean distance to the nearest reference cells of the candidate label,
    relative to the distance that 5 % of the reference cells exceed when they are labelled by other batches: above 1,
    the cell is unlike them. A cell is labelled ``"unknown"`` if its novelty is above 1 or its confidence below
    `min_confidence`. Labels of the query are not used, and the result for a cell does not depend on the other cells of
    the query.

    Parameters
    ----------
    reference
        Labelled cells with the embedding in ``obsm``, or a reference from :func:`sysvi.load_reference`, which knows its
        system and batch keys. Unlabelled cells are left out. Not changed.
    query
        Cells to label, with the embedding of the same model in ``obsm``. Gets ``obs["<label_key>_transferred"]``
        (categorical), ``obs["<label_key>_confidence"]`` and ``obs["<label_key>_novelty"]`` (float32).
    label_key
        Column of ``reference.obs`` with the labels. If ``query.obs`` has it too, its labels are compared with the
        transferred ones.
    embedding
        Key of the embedding in ``obsm`` of both; a reference that was loaded knows its own key.
    system_key, batch_key
        Columns of ``reference.obs`` with the systems and the batches (donors), between which the doubt is measured; by
        default those of the model that was trained on it (``uns["sysvi_setup"]``), or of the reference that was loaded.
        If there are none, cells are compared with all others, so that confidences are too high.
    cluster_key
        Column of ``query.obs`` with clusters, for the summary.
    n_neighbors
        Number of neighbours that vote.
    min_confidence
        Confidence below which a cell is called unknown, from 0 to 1.
    max_known_unknown
        Share of the reference's own cells, labelled by other batches, whose novelty is above 1.
    unlabelled
        Labels, in lower case, that mean "no label".

    Returns
    -------
    LabelTransfer

    Raises
    ------
    InputError
        If a column or embedding is missing or invalid, or the embeddings have different numbers of dimensions.

    Warns
    -----
    UserWarning
        If cells of the query are cells of the reference (same name, same embedding): they find themselves.

    Examples
    --------
    >>> import sysvi
    >>> adata = sysvi.prepare(sysvi.datasets.simulate_systems(600, 200, seed=1), "system", "batch", min_cells=3)
    >>> model = sysvi.integrate(adata, "system", "batch", members=1, max_epochs=20, progress=False)
    >>> is_query = adata.obs["batch"] == "system2_sample2"
    >>> reference, query = adata[~is_query].copy(), adata[is_query].copy()
    >>> result = transfer_labels(reference, query, "cell_type")
    >>> result.confusion.loc["type1"].idxmax()  # what most cells of this type are called
    'type1'
    """
    check_types(transfer_labels, label_key=label_key, embedding=embedding, unlabelled=unlabelled)
    n_neighbors = whole_number("n_neighbors", n_neighbors, 1)
    min_confidence = number("min_confidence", min_confidence, SHARE)
    max_known_unknown = number("max_known_unknown", max_known_unknown, SHARE)
    unlabelled = tuple(unlabelled)
    known = read_labelled(reference, label_key, embedding, system_key, batch_key, unlabelled)
    with _name_in_messages("query"):
        check_writable(query)
        new = get_embedding(query, embedding)
        own, has_own = _own_labels(query, label_key, unlabelled)
        clusters = None if cluster_key is None else get_obs_column(query, cluster_key, "cluster_key").astype(str)
    _warn_about_shared_cells(known, query, new)
    classifier = LabelClassifier.fit(
        known.embedding[known.labelled],
        known.label[known.labelled],
        known.batch[known.labelled],
        n_neighbors=n_neighbors,
        max_known_unknown=max_known_unknown,
    )
    probability, novelty = classifier.predict(new)
    cells = _cells(classifier.labels, probability, novelty, min_confidence, query.obs_names)
    result = LabelTransfer(
        cells,
        pd.DataFrame(probability, index=query.obs_names, columns=classifier.labels),
        _summarise(cells, cells["candidate"] if clusters is None else clusters),
        pd.crosstab(own[has_own], cells["label"].to_numpy()[has_own], rownames=["own"], colnames=["transferred"])
        if has_own.any()
        else None,
        _reliability(classifier, cells, own, has_own),
    )
    for name, values in result.columns(label_key).items():
        query.obs[name] = values
    return result


class LabelledCells(NamedTuple):
    """What is read of a reference whose labels are transferred; n cells."""

    names: pd.Index
    embedding: np.ndarray  # (n, latent dimensions)
    label: np.ndarray  # (n,), strings
    labelled: np.ndarray  # (n,), whether a cell has a label
    batch: NDArray[np.int64]  # (n,), number of its batch


def read_labelled(
    reference: AnnData | Reference,
    label_key: str,
    embedding: str = "X_sysVI",
    system_key: str | None = None,
    batch_key: str | None = None,
    unlabelled: Iterable[str] = UNLABELLED,
) -> LabelledCells:
    """Read the labelled cells of a reference; arguments and errors as in :func:`transfer_labels`."""
    default_keys: tuple[str | None, str | None] = (None, None)
    if isinstance(reference, Reference):
        embedding, default_keys = reference.embedding, (reference.system_key, reference.batch_key)
        reference = reference.adata
    elif isinstance(reference, AnnData):
        default_keys = columns_of_model(reference)
    system_key, batch_key = (
        default if key is None else key for key, default in zip((system_key, batch_key), default_keys, strict=True)
    )
    with _name_in_messages("reference"):
        check_anndata(reference)
        label, labelled = read_labels(reference, label_key, unlabelled)
        assert label is not None  # label_key is given
        batch = batches(reference, system_key, batch_key)
        return LabelledCells(reference.obs_names, get_embedding(reference, embedding), label, labelled, batch)


@contextmanager
def _name_in_messages(name: str) -> Iterator[None]:
    """Let messages about an AnnData say which one it is, ``reference`` or ``query``, in place of ``adata``."""
    try:
        yield
    except InputError as error:
        raise InputError(re.sub(r"\badata\b", name, str(error))) from error


def _own_labels(query: AnnData, label_key: str, unlabelled: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Labels that the query has itself, (m,) strings, and which of its cells have one."""
    if label_key not in query.obs:
        return np.full(query.n_obs, "", object), np.zeros(query.n_obs, bool)
    column = get_obs_column(query, label_key, "label_key")
    return column.astype(str).to_numpy(dtype=object), is_labelled(column, unlabelled)


def _warn_about_shared_cells(known: LabelledCells, query: AnnData, new: np.ndarray) -> None:
    """Warn of cells of the query that are cells of the reference: of the same name, at the same place."""
    if known.embedding.shape[1] != new.shape[1]:  # reported later
        return
    first = ~known.names.duplicated()
    row = known.names[first].get_indexer(query.obs_names)  # -1 where the reference has no such name
    named_alike = row >= 0
    n_shared = int((known.embedding[first][row[named_alike]] == new[named_alike]).all(axis=1).sum())
    if n_shared:
        warnings.warn(
            f"{n_shared} of {query.n_obs} cells of the query are cells of the reference too: their label and "
            "confidence come from themselves. Remove them from one of the two.",
            stacklevel=3,
        )


def _cells(
    labels: np.ndarray, probability: np.ndarray, novelty: np.ndarray, min_confidence: float, names: pd.Index
) -> pd.DataFrame:
    """The table ``cells`` of `LabelTransfer`."""
    candidate, confidence = labels[probability.argmax(axis=1)], probability.max(axis=1)
    unknown = (novelty > 1) | (confidence < min_confidence)
    label = np.where(unknown, UNKNOWN, candidate)
    return pd.DataFrame(
        {"label": label, "candidate": candidate, "confidence": confidence, "novelty": novelty}, index=names
    )


def _summarise(cells: pd.DataFrame, cluster: pd.Series) -> pd.DataFrame:
    """The table ``summary`` of `LabelTransfer`."""
    groups = cells.groupby(cluster.to_numpy())
    share = pd.crosstab(cluster.to_numpy(), cells["label"].to_numpy(), normalize="index")  # (clusters, labels)
    table = pd.DataFrame(
        {
            "n_cells": groups.size(),
            "label": share.idxmax(axis=1),
            "share": share.max(axis=1),
            "unknown": share.get(UNKNOWN, 0.0),
            "confidence": groups["confidence"].mean(),
            "novelty": groups["novelty"].median(),
        }
    )
    return table.sort_values("n_cells", ascending=False, kind="stable").rename_axis(str(cluster.name))


def _reliability(
    classifier: LabelClassifier, cells: pd.DataFrame, own: np.ndarray, has_own: np.ndarray
) -> pd.DataFrame:
    """The table ``reliability`` of `LabelTransfer`."""
    comparable = has_own & np.isin(own, classifier.labels)
    compared = cells[comparable]
    of_query = reliability(compared["confidence"].to_numpy(), compared["candidate"].to_numpy() == own[comparable])
    tables = {"reference": classifier.held_out.reliability(), "query": of_query}
    return pd.concat(tables, names=["cells"]).reset_index()
