"""Genes that some systems lack: grouping genes of several systems by orthologues, and the record of who has which.

Shapes: S systems, G genes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse

from sysvi._core.checks import listing
from sysvi._core.errors import InputError

OWN_GENES_KEY = "sysvi_own_genes"  # in uns
GENE_SETS = ("shared", "union")


class GeneGroups(NamedTuple):
    """Genes of all systems: orthologues of several systems are one gene, and genes of one system stay by themselves.

    Parameters
    ----------
    names
        Names of the genes, (G,).
    of_system
        For each system the gene, a position in `names`, of each of its own genes, by which their counts are summed.
    """

    names: pd.Index
    of_system: dict[str, NDArray[np.int64]]

    def has(self) -> NDArray[np.bool_]:
        """Whether each system has each gene, (S, G)."""
        return np.stack([np.isin(np.arange(len(self.names)), genes) for genes in self.of_system.values()])


def group_genes(genes: Mapping[str, pd.Index], tables: Mapping[str, pd.DataFrame]) -> GeneGroups:
    """Group the genes of several systems by their orthologues.

    Genes of the same name are the same in all systems without a table. The genes of a system with a table are linked to
    the names that the table has for them, if other systems have these too. Genes that are linked, directly or through
    others, are one group: a pair for one-to-one orthologues, and a larger group for one-to-many and many-to-many ones.

    Parameters
    ----------
    genes
        Names of the genes of each system.
    tables
        For some of the systems a table of two columns: a gene of the system, and its name in the others.

    Returns
    -------
    GeneGroups
        Groups in the order of their first gene, with the names that systems without a table have for them, joined by
        ``;``. A gene of one system keeps its name, followed by the system in brackets if another gene has this name.

    Examples
    --------
    >>> table = pd.DataFrame({"mouse": ["Ins1", "Ins2", "Gcg"], "human": ["INS", "INS", "GCG"]})
    >>> groups = group_genes({"human": pd.Index(["GCG", "INS"]), "mouse": pd.Index(["Ins1", "Gcg", "Ins2", "Iapp"])},
    ...     {"mouse": table})
    >>> groups.names.tolist(), groups.of_system["mouse"].tolist()
    (['GCG', 'INS', 'Iapp'], [1, 0, 1, 2])
    """
    links, sets = {}, []
    for system, names in genes.items():
        if system in tables:
            pairs = tables[system].set_axis(["gene", "name"], axis=1).dropna().drop_duplicates()
            links[system] = pairs[pairs["gene"].isin(names)]
            sets.append(links[system]["name"].drop_duplicates())
        else:
            sets.append(pd.Series(np.asarray(names, object)))
    n_systems = pd.concat(sets).value_counts()  # that have or reach each name
    # Nodes of a graph: a name for all systems without a table, or a gene of a system with one.
    keys: list[tuple[str, str]] = []
    for system, names in genes.items():
        keys += [(system if system in tables else "", name) for name in names]
    for pairs in links.values():
        keys += [("", name) for name in pairs["name"] if n_systems[name] > 1]
    nodes = pd.Index(pd.unique(pd.Series(keys)), tupleize_cols=False)
    edges = [
        ((system, gene), ("", name))
        for system, pairs in links.items()
        for gene, name in pairs.itertuples(index=False)
        if n_systems[name] > 1
    ]
    start, end = (nodes.get_indexer(pd.Index([e[i] for e in edges], tupleize_cols=False)) for i in (0, 1))
    graph = sparse.coo_matrix((np.ones(len(edges)), (start, end)), (len(nodes), len(nodes)))
    component = sparse.csgraph.connected_components(graph, directed=False)[1]  # (nodes,)

    own = [(system if system in tables else "", name) for system, names in genes.items() for name in names]
    codes, components = pd.factorize(component[nodes.get_indexer(pd.Index(own, tupleize_cols=False))])
    ends = np.cumsum([0, *map(len, genes.values())])
    of_system = {
        system: codes[first:last].astype(np.int64)
        for system, first, last in zip(genes, ends[:-1], ends[1:], strict=True)
    }
    return GeneGroups(_names(nodes, component, components, own), of_system)


def _names(nodes: pd.Index, component: np.ndarray, components: np.ndarray, own: Sequence[tuple[str, str]]) -> pd.Index:
    """Names of the groups, the given components of the graph."""
    present = set(own)
    names: dict[int, list[str]] = {c: [] for c in components}
    others: dict[int, list[tuple[str, str]]] = {c: [] for c in components}
    for node, c in zip(nodes, component.tolist(), strict=True):
        if c in names:
            if node in present and not node[0]:
                names[c].append(node[1])
            else:
                others[c].append(node)
    taken = {";".join(part) for part in names.values() if part}
    result = []
    for c in components:
        name = ";".join(names[c])
        if not name:
            linked = [node for node in others[c] if not node[0]]
            system, name = (linked or others[c])[0]
            if linked:
                name = ";".join(node[1] for node in linked)
            if name in taken:
                name = f"{name} ({system or others[c][0][0]})"
            taken.add(name)
        result.append(name)
    if len(set(result)) < len(result):
        twice = pd.Index(result)[pd.Index(result).duplicated()]
        raise InputError(f"Two genes would have the name {twice[0]!r}: rename the genes of one system.")
    return pd.Index(result, dtype=object)


def own_genes_record(names: pd.Index, systems: Iterable[str], has: NDArray[np.bool_]) -> dict[str, Any]:
    """The entry of ``uns`` that says which systems have the genes that not all have; `has` is (S, G)."""
    some = ~np.logical_and.reduce(has)  # (G,)
    return {
        "genes": names[some].to_numpy(object),
        "systems": np.array(list(systems), dtype=object),
        "has": has[:, some].T.copy(),
    }


def read_own_genes(uns: Mapping[str, Any], names: pd.Index, systems: Sequence[str]) -> NDArray[np.bool_] | None:
    """Whether each system has each gene, (S, G), from the entry of ``uns``; None if there is none.

    Raises
    ------
    InputError
        If the entry cannot be read, or does not know a system.

    Examples
    --------
    >>> names = pd.Index(["GCG", "INS"])
    >>> record = own_genes_record(names, ["human", "mouse"], np.array([[True, True], [True, False]]))
    >>> read_own_genes({"sysvi_own_genes": record}, names, ["mouse"]).tolist()
    [[True, False]]
    """
    if OWN_GENES_KEY not in uns:
        return None
    place = f"adata.uns[{OWN_GENES_KEY!r}], which says which genes each system has,"
    try:
        record = uns[OWN_GENES_KEY]
        genes, known = pd.Index(np.asarray(record["genes"], object)), [str(name) for name in record["systems"]]
        of_genes = np.asarray(record["has"], bool).reshape(len(genes), len(known))
    except (IndexError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{place} cannot be read: join and prepare the systems again.") from error
    if unknown := [name for name in systems if name not in known]:
        raise InputError(
            f"{place} knows the systems {listing(known)}, but not {listing(unknown)}: join and prepare the systems "
            "again, under these names."
        )
    has = np.ones((len(systems), len(names)), bool)
    position = names.get_indexer(genes)  # -1 for genes that were left out since
    inside = position >= 0
    has[:, position[inside]] = of_genes[inside][:, [known.index(name) for name in systems]].T
    return has


def lacking_genes(names: pd.Index, systems: Sequence[str], has: NDArray[np.bool_] | None) -> dict[str, tuple[str, ...]]:
    """The genes that each system lacks, by its name, without systems that have all.

    Raises
    ------
    InputError
        If no system has a gene.
    """
    if has is None:
        return {}
    nowhere = ~np.logical_or.reduce(has)  # (G,)
    if nowhere.any():
        raise InputError(
            f"{int(nowhere.sum())} genes ({listing(names[nowhere], 5)}) are of none of the systems {listing(systems)}: "
            "leave them out, or prepare the cells again."
        )
    return {name: tuple(names[~row]) for name, row in zip(systems, has, strict=True) if not row.all()}
