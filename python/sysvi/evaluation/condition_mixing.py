"""Comparing conditions: those that differ should stay apart, those that do not should mix."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from anndata import AnnData

from sysvi._core.checks import check_obs_column, listing
from sysvi._core.errors import InputError
from sysvi.metrics._latent import get_embedding
from sysvi.metrics._lisi import ilisi
from sysvi.metrics._neighbors import nearest_neighbors

FEWEST_CELLS = 30  # of a group, the perplexity of LISI: with fewer a neighbourhood holds mostly the other group


@dataclass(frozen=True, eq=False)
class ConditionMixing:
    """Result of :func:`condition_mixing`.

    Parameters
    ----------
    table
        A row for each pair, ``similar`` and ``dissimilar``: ``group_a``, ``group_b``, ``n_cells`` (taken of each) and
        ``ilisi``.
    difference
        iLISI of the similar pair less that of the dissimilar one, -1 to 1; higher is better.
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
    """Compare how two groups that should mix do so with how two that should not do.

    Mixing alone is no merit: an integration that lays everything over everything has the most. Where something is
    known of the groups it can be judged. In the paper's retina, Müller cells of organoids resemble those of the
    adult periphery more than those of the fovea: ``similar=("organoid", "periphery"), dissimilar=("organoid",
    "fovea")``, within ``label="Mueller cell"``. A good integration keeps the dissimilar pair apart more, so that the
    ``difference`` is positive; the similar pair's iLISI says whether it mixes at all.

    For each pair, iLISI of its two groups (:func:`sysvi.metrics._lisi.ilisi`: 0 apart, 1 fully mixed) among the
    neighbours that their cells have in the embedding if there are no others. So that both pairs have the same
    range, whatever their sizes, each group takes part with as many cells as the smallest of all has, drawn at random.

    Parameters
    ----------
    adata
        With the embedding in ``adata.obsm``.
    embedding_key
        Name of the embedding.
    group_key
        Column of ``adata.obs`` with the groups: conditions, regions, systems.
    similar, dissimilar
        Two groups each.
    label_key, label
        Column with cell types, and the one to look at; by default all cells are taken. Together or not at all.
    n_neighbors
        Neighbours of a cell, itself not counted; all others where there are fewer.
    seed
        Of the cells that are drawn.

    Returns
    -------
    ConditionMixing

    Raises
    ------
    InputError
        If the embedding, a column, a group or the label is not there, a pair is not two different groups, a value is
        missing, or a group has fewer than 30 cells.

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
    points = get_embedding(adata, embedding_key)
    group = check_obs_column(adata, group_key, "group_key").astype(str)
    taken = np.ones(adata.n_obs, dtype=bool)
    if (label_key is None) != (label is None):
        raise InputError("label_key names the column with the cell types and label the one to look at: give both.")
    if label_key is not None:
        labels = check_obs_column(adata, label_key, "label_key").astype(str)
        taken = labels == str(label)
        if not taken.any():
            raise InputError(
                f"adata.obs[{label_key!r}] has no label {label!r}: choose one of {listing(np.unique(labels))}."
            )
    pairs = {"similar": _pair(similar, "similar"), "dissimilar": _pair(dissimilar, "dissimilar")}
    names = list(dict.fromkeys([*pairs["similar"], *pairs["dissimilar"]]))
    cells = {name: np.flatnonzero(taken & (group == name)) for name in names}
    where = f"adata.obs[{group_key!r}]" + (f" within {label!r}" if label is not None else "")
    size = min(map(len, cells.values()))
    if size < FEWEST_CELLS:
        smallest = min(names, key=lambda name: len(cells[name]))
        raise InputError(
            f"Group {smallest!r} of {where} has {size} cells, but at least {FEWEST_CELLS} are needed; groups are "
            f"{listing(np.unique(group[taken]))}."
        )
    draw = np.random.default_rng(seed)
    drawn = {name: np.sort(draw.choice(cells[name], size, replace=False)) for name in names}
    mixing, rows = {}, {}
    for kind, (a, b) in pairs.items():
        both = np.concatenate([drawn[a], drawn[b]])
        mixing[kind] = ilisi(nearest_neighbors(points[both], n_neighbors), group[both]).value
        rows[kind] = {"group_a": a, "group_b": b, "n_cells": size, "ilisi": mixing[kind]}
    table = pd.DataFrame.from_dict(rows, orient="index")
    return ConditionMixing(table, mixing["similar"] - mixing["dissimilar"])


def _pair(pair: tuple[str, str], what: str) -> tuple[str, str]:
    if isinstance(pair, str) or len(pair) != 2 or str(pair[0]) == str(pair[1]):
        raise InputError(f"{what} is {pair!r}; give two different groups.")
    return str(pair[0]), str(pair[1])
