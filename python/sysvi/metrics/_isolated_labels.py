"""Isolated labels: whether cell types that occur in few systems stay separate from the others."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from sysvi._core.arguments import check_types
from sysvi._core.errors import InputError
from sysvi.metrics._score import Score, convention, encode_categories
from sysvi.metrics._silhouette import score_by_label


@convention("label silhouette of the types that occur in the fewest systems; mean over types")
def isolated_labels(silhouette: Score, label: ArrayLike, system: ArrayLike) -> Score:
    """Measure how well the labels of the fewest systems (or batches) are separated: 0 to 1, higher is better.

    Parameters
    ----------
    silhouette
        Result of `label_silhouette` for the same cells and labels.
    label
        Cell type of each cell, (n,).
    system
        System (or batch) of each cell, (n,).

    Returns
    -------
    Score
        Mean over the isolated labels, with the mean label silhouette (s + 1) / 2 of each of them and the values of
        their cells. NaN if all cells have the same label.

    Raises
    ------
    InputError
        If lengths differ, a label or system is missing, or `silhouette` has no values by cell.

    Notes
    -----
    Same values as scib-metrics 0.5.10 (scib itself uses the F1 score of a clustering). A label is isolated if no other
    label occurs in fewer systems. If every label occurs in every system, all labels are isolated and the value is the
    mean label silhouette over labels.

    Examples
    --------
    >>> from sysvi.metrics._silhouette import label_silhouette
    >>> label = ["alpha", "alpha", "beta", "beta"]
    >>> silhouette = label_silhouette([[0.0], [1.0], [9.0], [10.0]], label)
    >>> isolated_labels(silhouette, label, ["human", "mouse", "human", "human"]).per_label.round(3).to_dict()
    {'beta': 0.944}
    """
    check_types(isolated_labels, silhouette=silhouette)
    if silhouette.per_cell is None:
        raise InputError("silhouette has no value for each cell: give isolated_labels the result of label_silhouette.")
    n = len(silhouette.per_cell)
    codes, names = encode_categories(label, "label", n)
    system_codes, systems = encode_categories(system, "system", n)
    pairs = np.unique(codes * len(systems) + system_codes)  # combinations of label and system that occur
    n_systems = np.bincount(pairs // len(systems))  # (n_labels,)
    isolated = n_systems == n_systems.min()  # (n_labels,)
    return score_by_label(np.where(isolated[codes], silhouette.per_cell, np.nan), codes, names)
