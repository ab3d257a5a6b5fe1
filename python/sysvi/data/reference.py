"""What mapping new cells onto a model needs to know of the cells that the model was trained on, its reference.

Shapes: S systems, G genes, T genes over which the counts of a cell are summed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from anndata import AnnData
from numpy.typing import NDArray

from sysvi.data.cells import Cells, Vocabulary
from sysvi.data.prepare import TOTALS_KEY


@dataclass(frozen=True, eq=False)
class Reference:
    """Summary of the cells that a model was trained on.

    Parameters
    ----------
    gene_means
        Mean log-normalised expression of each gene in each system, (S, G) float32.
    n_cells
        For each categorical covariate the number of cells of each system and category, (S, categories) int64.
    target_sum
        Counts per cell after normalisation; None if that is not known.
    total_genes
        Names of the genes over which the counts of a cell were summed, (T,).
    total_shares
        Share of each of them in the counts of all cells, (T,) float64.
    """

    gene_means: NDArray[np.float32]
    n_cells: tuple[NDArray[np.int64], ...]
    target_sum: float | None = None
    total_genes: tuple[str, ...] = ()
    total_shares: NDArray[np.float64] | tuple[()] = ()

    @classmethod
    def of_cells(cls, cells: Cells, vocabulary: Vocabulary, adata: AnnData, layer: str | None) -> Reference:
        """The summary of cells that were read from a layer of `adata`; what `prepare` wrote there is about ``X``."""
        means, n_cells = _gene_means(cells), count_cells(cells, vocabulary)
        totals = adata.uns.get(TOTALS_KEY)
        if layer is not None or not isinstance(totals, Mapping):
            return cls(means, n_cells)
        genes, shares = tuple(map(str, totals["genes"])), np.asarray(totals["shares"], np.float64)
        return cls(means, n_cells, float(totals["target_sum"]), genes, shares)

    def extend(self, cells: Cells, vocabulary: Vocabulary) -> Reference:
        """The summary of the reference and of new cells with an extended vocabulary; means of known systems stay."""
        n_known = len(self.gene_means)
        tables = count_cells(cells, vocabulary)
        for known, table in zip(self.n_cells, tables, strict=True):
            table[:n_known, : known.shape[1]] += known
        return replace(self, gene_means=np.vstack([self.gene_means, _gene_means(cells)[n_known:]]), n_cells=tables)

    def unseen(self, system: np.ndarray, categorical: np.ndarray, vocabulary: Vocabulary) -> dict[str, list[str]]:
        """Categories, by covariate, that some cells have in a system in which the reference has no cells of them.

        `system` and `categorical` are codes of the vocabulary, (n,) and (n, P).
        """
        found = {}
        for code, table, (key, names) in zip(categorical.T, self.n_cells, vocabulary.categorical.items(), strict=True):
            if len(new := np.unique(code[table[system, code] == 0])):
                found[key] = [names[i] for i in new]
        return found

    def to_json(self) -> dict[str, Any]:
        """The summary as numbers, strings and lists."""
        return {
            "gene_means": self.gene_means.tolist(),
            "n_cells": [table.tolist() for table in self.n_cells],
            "target_sum": self.target_sum,
            "total_genes": list(self.total_genes),
            "total_shares": list(map(float, self.total_shares)),
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any], vocabulary: Vocabulary) -> Reference:
        """Read what `to_json` wrote; a ValueError if it does not go with the vocabulary."""
        n_systems = len(vocabulary.systems)
        means = np.asarray(values["gene_means"], np.float32)
        tables = tuple(np.asarray(table, np.int64) for table in values["n_cells"])
        shapes = [(n_systems, n) for n in vocabulary.n_categories]
        genes, shares = tuple(map(str, values["total_genes"])), np.asarray(values["total_shares"], np.float64)
        target_sum = None if values["target_sum"] is None else float(values["target_sum"])
        fits = means.shape == (n_systems, len(vocabulary.genes)) and [table.shape for table in tables] == shapes
        fits = fits and shares.shape == (len(genes),) and all((table >= 0).all() for table in tables)
        if not fits or not np.isfinite(means).all():
            raise ValueError("the summary of its cells does not go with its genes and categories")
        return cls(means, tables, target_sum, genes, shares)


def count_cells(cells: Cells, vocabulary: Vocabulary) -> tuple[NDArray[np.int64], ...]:
    """Number of cells of each system and category, (S, categories), for each categorical covariate."""
    system, codes = cells.covariates.system.cpu().numpy(), cells.covariates.categorical.cpu().numpy()
    tables = []
    for code, n in zip(codes.T, vocabulary.n_categories, strict=True):
        flat = np.bincount(system * n + code, minlength=len(vocabulary.systems) * n)
        tables.append(flat.reshape(-1, n).astype(np.int64))
    return tuple(tables)


def _gene_means(cells: Cells) -> NDArray[np.float32]:
    """Mean expression of each gene in each system, (S, G); 0 in a system without cells."""
    sizes = np.maximum(1, cells.system_size.cpu().numpy())
    return (cells.scan().sums / sizes[:, None]).astype(np.float32)
