"""The criterion of tuning: the paper's three metrics of an embedding, with cell type labels or without.

Everything that depends on the cells alone is computed once; measuring an embedding then takes seconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from sysvi._core.errors import InputError
from sysvi._core.fingerprint import fingerprint
from sysvi.metrics._clustering import kmeans
from sysvi.metrics._latent import latent_spread, standardise
from sysvi.metrics._lisi import ilisi
from sysvi.metrics._moran import MoranReference, moran_ratio, moran_reference
from sysvi.metrics._neighbors import nearest_neighbors
from sysvi.metrics._nmi_ari import nmi
from sysvi.metrics._shared_neighbors import shared_neighbors
from sysvi.metrics._states import find_states

MIN_CELLS_PER_SYSTEM = 10  # a cell type or state with fewer cells in a system does not count as present there
N_NEIGHBORS = 30  # neighbours of a cell that tell where private groups lie


@dataclass(frozen=True)
class Criterion:
    """Metrics of tuning for a set of n cells, with all that depends on the cells alone.

    Parameters
    ----------
    rows
        Indices of the n measured cells in the data.
    system
        System of each measured cell, shape (n,).
    group
        Cell type label or state of each measured cell, shape (n,); empty where it has none.
    has_labels
        Whether groups are cell type labels; otherwise they are states found in the expression.
    moran
        Reference for Moran's I.
    fingerprint
        Fingerprint of cells, groups and arguments: metrics of the same fingerprint are comparable.
    """

    rows: np.ndarray
    system: np.ndarray
    group: np.ndarray
    has_labels: bool
    moran: MoranReference
    fingerprint: str

    @classmethod
    def from_cells(
        cls,
        expression: Any,
        rows: np.ndarray,
        system: np.ndarray,
        batch: np.ndarray | None,
        label: np.ndarray | None,
        *,
        min_cells: int,
    ) -> Criterion:
        """Compute what depends on the cells alone; without labels, states (`find_states`) take their place.

        Parameters
        ----------
        expression
            Log-normalised expression, n cells x G genes.
        rows
            Indices of these cells in the data, shape (n,).
        system, batch
            System and batch of each cell, shape (n,); without batches, None.
        label
            Cell type label of each cell, shape (n,), empty for unlabelled cells; None without labels.
        min_cells
            Fewest cells of a group in a batch for Moran's I.

        Raises
        ------
        InputError
            If there are no labels and no state occurs in more than one system.
        """
        group = find_states(expression, system, min_cells=MIN_CELLS_PER_SYSTEM).state if label is None else label
        has_labels = label is not None
        if not has_labels and not _count_shared(_cells_by_group(group, system)):
            raise InputError(
                "No state of cells was found in more than one system, so mixing cannot be measured without labels: "
                "give label_key, or make sure that the systems have genes and cell types in common."
            )
        grouped = np.flatnonzero(group != "")
        sample = (system if batch is None else batch)[grouped]
        moran = moran_reference(expression[grouped], group[grouped], sample, system[grouped], min_cells=min_cells)
        digest = fingerprint(rows, system, sample, group, has_labels, min_cells)
        return cls(rows, system, group, has_labels, moran, digest)

    @property
    def grouped(self) -> np.ndarray:
        """Positions, among the measured cells, of those that have a group."""
        return np.flatnonzero(self.group != "")

    @property
    def mixing_metric(self) -> str:
        """Name of the metric of mixing."""
        return "iLISI" if self.has_labels else "shared mixing"

    def describe(self) -> str:
        """What embeddings are measured with, as a sentence for users."""
        counts = _cells_by_group(self.group, self.system)
        groups = "cell types" if self.has_labels else "states, found in each system separately"
        text = f"Measured with {len(counts)} {groups}; {_count_shared(counts)} of them occur in more than one system."
        return text if self.moran.reason is None else f"{text} Moran's I is left out. {self.moran.reason}"

    def measure(self, embedding: np.ndarray) -> dict[str, float]:
        """Measure an embedding of all cells of the data.

        Returns
        -------
        dict
            The metric of mixing, ``"NMI"`` and ``"Moran"`` (ratio of Moran's I); the metric of mixing after all latent
            dimensions are standardised; the number of collapsed dimensions.
        """
        embedding = embedding[self.rows]
        group, grouped_embedding = self.group[self.grouped], embedding[self.grouped]
        clusters = kmeans(grouped_embedding, len(np.unique(group)))
        return {
            self.mixing_metric: self._mixing(embedding),
            "NMI": float(nmi(group, clusters)),
            "Moran": float(moran_ratio(self.moran, grouped_embedding)),
            f"{self.mixing_metric}, standardised": self._mixing(standardise(embedding)),
            "collapsed dimensions": int(latent_spread(embedding)["collapsed"].sum()),
        }

    def private_groups(self, embedding: np.ndarray) -> pd.DataFrame:
        """Which cells lie next to the private groups: those with at least ten cells in one system only.

        Returns
        -------
        pandas.DataFrame
            One row for each private group, indexed by its name: ``system``; ``n_cells`` in this system and
            ``n_cells_elsewhere`` in the others; ``foreign_neighbors``, the share of its neighbours that are from other
            systems, relative to the share of other systems among all cells (0: apart, 1: fully mixed);
            ``foreign_group``, the most frequent group among these neighbours (empty if there are none).
        """
        group, system = self.group[self.grouped], self.system[self.grouped]  # (m,)
        neighbors = nearest_neighbors(embedding[self.rows][self.grouped], N_NEIGHBORS)
        rows = {}
        for name, sizes in pd.crosstab(group, system).iterrows():
            homes = sizes[sizes >= MIN_CELLS_PER_SYSTEM].index
            if len(homes) != 1 or (system == homes[0]).all():
                continue
            home = homes[0]
            cells = np.flatnonzero((group == name) & (system == home))
            indices = neighbors.indices[cells]
            is_foreign = system[indices] != home  # (cells of the group, neighbours)
            most_frequent = pd.Series(group[indices[is_foreign]]).mode()
            rows[name] = {
                "system": home,
                "n_cells": len(cells),
                "n_cells_elsewhere": int(sizes.sum()) - len(cells),
                "foreign_neighbors": is_foreign.mean() / (system != home).mean(),
                "foreign_group": "" if most_frequent.empty else most_frequent[0],
            }
        columns = ["system", "n_cells", "n_cells_elsewhere", "foreign_neighbors", "foreign_group"]
        return pd.DataFrame.from_dict(rows, orient="index", columns=columns)

    def _mixing(self, embedding: np.ndarray) -> float:
        """With labels iLISI of all cells; without, the share of neighbours of the same state from other systems."""
        if self.has_labels:
            return float(ilisi(nearest_neighbors(embedding), self.system))
        by_state = shared_neighbors(
            embedding[self.grouped], self.system[self.grouped], self.group[self.grouped], min_cells=MIN_CELLS_PER_SYSTEM
        )
        return float(by_state.clip(upper=1).mean())


def _cells_by_group(group: np.ndarray, system: np.ndarray) -> pd.DataFrame:
    """Number of cells of each group (rows) in each system (columns); cells without a group are left out."""
    return pd.crosstab(group[group != ""], system[group != ""])


def _count_shared(counts: pd.DataFrame) -> int:
    """Number of groups that are present in more than one system."""
    return int(((counts >= MIN_CELLS_PER_SYSTEM).sum(axis=1) > 1).sum())
