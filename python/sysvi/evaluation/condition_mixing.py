"""Mixing of similar conditions compared with that of dissimilar conditions, which should stay separate."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from anndata import AnnData

from sysvi._core.arguments import check_types
from sysvi._core.checks import check_obs_column, listing
from sysvi._core.errors import InputError
from sysvi._core.settings import random_seed, whole_number
from sysvi.metrics._labels import read_labels_with_warning
from sysvi.metrics._latent import get_embedding
from sysvi.metrics._lisi import ilisi
from sysvi.metrics._neighbors import nearest_neighbors

MIN_CELLS_PER_GROUP = 30  # perplexity of LISI: neighbourhoods of a smaller group would mostly hold the other group


@dataclass(frozen=True, eq=False)
class ConditionMixing:
    """Result of :func:`condition_mixing`.

    Parameters
    ----------
    table
        One row per pair, ``similar`` and ``dissimilar``: ``group_a``, ``group_b``, ``n_cells`` (number of cells of each
        group that were used) and ``ilisi``.
    difference
        iLISI of the similar pair minus that of the dissimilar pair, -1 to 1; higher is better.
    """

    table: pd.DataFrame
    difference: float


def condition_mixing(
    adata: AnnData,
    embedding_key: str,
    group_key: str,
    similar: tuple[str, str],
    dissimilar: tuple[str, str],
    *,
    label_key: str | None = None,
    label: str | None = None,
    n_neighbors: int = 89,
    seed: int = 0,
) -> ConditionMixing:
    """Compare the mixing of two groups that should mix with that of two groups that should stay separate.

    Mixing alone is no sign of quality: it is highest if an integration mixes all cells. It can be judged where
    similarities between groups are known. In the retina data of the paper, Müller cells of organoids resemble those of
    the adult periphery more than those of the fovea: ``similar=("organoid", "periphery"), dissimilar=("organoid",
    "fovea")``, within ``label="Mueller cell"``. A good integration mixes the dissimilar pair less, so that
    ``difference`` is positive; the iLISI of the similar pair shows whether it is mixed at all.

    For each pair, iLISI of its two groups (:func:`sysvi.metrics.ilisi`: 0 separate, 1 completely mixed) is computed
    among the cells of the pair only. Each group contributes as many randomly drawn cells as the smallest group has, so
    that both pairs have the same range of values.

    Parameters
    ----------
    adata
        Cells with the embedding in ``adata.obsm``.
    embedding_key
        Key of the embedding in ``adata.obsm``.
    group_key
        Column of ``adata.obs`` with the groups, such as conditions, regions or systems.
    similar
        Two groups that should mix.
    dissimilar
        Two groups that should stay separate.
    label_key
        Column of ``adata.obs`` with the cell types; give it together with `label`. Unlabelled cells are left out, with
        a warning.
    label
        Cell type to which the comparison is restricted; by default all cells are used.
    n_neighbors
        Number of neighbours of each cell, without the cell itself; all other cells of the pair if there are fewer.
    seed
        Random seed of the cells that are drawn.

    Returns
    -------
    ConditionMixing
        Table with the iLISI of both pairs, and their difference.

    Raises
    ------
    InputError
        If the embedding, a column, a group or the label does not exist, a pair is not two different groups, the group
        of a cell is missing, or a group has fewer than 30 cells.

    Examples
    --------
    >>> import numpy as np, pandas as pd, anndata
    >>> rng = np.random.default_rng(0)
    >>> groups = np.repeat(["organoid", "periphery", "fovea"], 100)
    >>> place = rng.normal(size=(300, 2)) + 4.0 * (groups == "fovea")[:, None]
    >>> adata = anndata.AnnData(obs=pd.DataFrame({"region": groups}, index=map(str, range(300))), obsm={"X": place})
    >>> mixing = condition_mixing(adata, "X", "region", ("organoid", "periphery"), ("organoid", "fovea"))
    >>> mixing.table["ilisi"].round(1).to_dict()
    {'similar': 0.9, 'dissimilar': 0.0}
    """
    check_types(condition_mixing, adata=adata, embedding_key=embedding_key)
    n_neighbors, seed = whole_number("n_neighbors", n_neighbors, 1), random_seed(seed)
    points = get_embedding(adata, embedding_key)
    group = check_obs_column(adata, group_key, "group_key").astype(str)
    selected = np.ones(adata.n_obs, dtype=bool)
    if (label_key is None) != (label is None):
        raise InputError("label_key is the column with the cell types and label one of these types: give both.")
    if label_key is not None:
        labels, labelled = read_labels_with_warning(adata, label_key)
        selected = labelled & (labels == str(label))
        if not selected.any():
            raise InputError(
                f"adata.obs[{label_key!r}] has no label {label!r}: "
                f"choose one of {listing(np.unique(labels[labelled]))}."
            )
    pairs = {"similar": _check_pair(similar, "similar"), "dissimilar": _check_pair(dissimilar, "dissimilar")}
    names = list(dict.fromkeys([*pairs["similar"], *pairs["dissimilar"]]))
    cells = {name: np.flatnonzero(selected & (group == name)) for name in names}
    size = min(map(len, cells.values()))
    if size < MIN_CELLS_PER_GROUP:
        column = f"adata.obs[{group_key!r}]" + (f" within {label!r}" if label is not None else "")
        smallest = min(names, key=lambda name: len(cells[name]))
        raise InputError(
            f"Group {smallest!r} of {column} has {size} cells, but at least {MIN_CELLS_PER_GROUP} are needed; "
            f"groups are {listing(np.unique(group[selected]))}."
        )
    rng = np.random.default_rng(seed)
    drawn = {name: np.sort(rng.choice(cells[name], size, replace=False)) for name in names}
    mixing, rows = {}, {}
    for kind, (a, b) in pairs.items():
        both = np.concatenate([drawn[a], drawn[b]])
        mixing[kind] = ilisi(nearest_neighbors(points[both], n_neighbors), group[both]).value
        rows[kind] = {"group_a": a, "group_b": b, "n_cells": size, "ilisi": mixing[kind]}
    table = pd.DataFrame.from_dict(rows, orient="index")
    return ConditionMixing(table, mixing["similar"] - mixing["dissimilar"])


def _check_pair(pair: tuple[str, str], argument: str) -> tuple[str, str]:
    """Check that a pair names two different groups."""
    if not isinstance(pair, tuple | list | np.ndarray) or len(pair) != 2 or str(pair[0]) == str(pair[1]):
        raise InputError(f"{argument} is {pair!r}: give two different groups.")
    return str(pair[0]), str(pair[1])
