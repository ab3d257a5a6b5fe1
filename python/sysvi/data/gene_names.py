"""Finding genes by their names, also where the names are spelt differently."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

ENSEMBL_VERSION = re.compile(r"^(ENS[A-Z]*[GT]\d{6,})\.\d+$", re.IGNORECASE)


class GeneMatch(NamedTuple):
    """Where genes were found.

    Parameters
    ----------
    position
        Position of each gene that was looked for among the names, -1 for a missing one, (G,).
    by_version
        Genes that were found without regard to the version of an Ensembl id: the gene, and the name it has.
    by_case
        The same for genes that were found without regard to upper and lower case.
    """

    position: np.ndarray
    by_version: list[tuple[str, str]]
    by_case: list[tuple[str, str]]


def match_genes(names: pd.Index, genes: Sequence[str]) -> GeneMatch:
    """Find genes among names: by the same name, or else by one that differs in case or in the version of an Ensembl id.

    A gene to which several names come close is missing.

    Examples
    --------
    >>> match = match_genes(pd.Index(["Gcg", "ENSG00000254647.6", "SST"]), ["SST", "GCG", "ENSG00000254647", "PPY"])
    >>> match.position.tolist(), match.by_version, match.by_case
    ([2, 0, 1, -1], [('ENSG00000254647', 'ENSG00000254647.6')], [('GCG', 'Gcg')])
    """
    position = names.get_indexer(pd.Index(genes))  # (G,)
    exact = set(position.tolist())
    candidates = _by_key((i, str(name)) for i, name in enumerate(names) if i not in exact)
    wanted = _by_key((i, genes[i]) for i in np.flatnonzero(position < 0).tolist())
    by_version: list[tuple[str, str]] = []
    by_case: list[tuple[str, str]] = []
    for key in wanted.keys() & candidates.keys():
        if len(wanted[key]) == len(candidates[key]) == 1:
            [(i, gene)], [(j, name)] = wanted[key], candidates[key]
            position[i] = j
            same_case = _without_version(gene) == _without_version(name)
            (by_version if same_case else by_case).append((gene, name))
    return GeneMatch(position, sorted(by_version), sorted(by_case))


def _by_key(genes: Iterable[tuple[int, str]]) -> dict[str, list[tuple[int, str]]]:
    """Positions and names by what is left of the names without version and case."""
    groups: dict[str, list[tuple[int, str]]] = {}
    for i, name in genes:
        groups.setdefault(_without_version(name).upper(), []).append((i, name))
    return groups


def _without_version(name: str) -> str:
    return ENSEMBL_VERSION.sub(r"\1", name)
