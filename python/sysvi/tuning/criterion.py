"""What an embedding is measured by when settings are chosen: the paper's three numbers, with labels or without.

Everything that depends on the cells alone is worked out once; each embedding then takes seconds.
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

FEWEST_CELLS = 10  # of a state in a system whose mixing is measured
N_NEIGHBORS = 30


@dataclass(frozen=True)
class Criterion:
    """What is known of the cells.

    Parameters
    ----------
    rows
        Which cells of the data these are, (n,).
    system
        System of each cell, (n,).
    group
        Cell type or state of each cell, (n,) strings, empty where it has none.
    labelled
        Whether groups are labels; otherwise they are states that were found.
    within
        For Moran's I.
    fingerprint
        The same for the same cells, groups and choices.
    """

    rows: np.ndarray
    system: np.ndarray
    group: np.ndarray
    labelled: bool
    within: MoranReference
    fingerprint: str

    @classmethod
    def of(
        cls,
        x: Any,
        rows: np.ndarray,
        system: np.ndarray,
        batch: np.ndarray | None,
        label: np.ndarray | None,
        *,
        min_cells: int,
    ) -> Criterion:
        """Work out what depends on the cells alone; without labels their states (`find_states`) stand in."""
        group = find_states(x, system, min_cells=FEWEST_CELLS).state if label is None else label
        counts = pd.crosstab(group[group != ""], system[group != ""])
        if label is None and not ((counts >= FEWEST_CELLS).sum(axis=1) > 1).any():
            raise InputError(
                "No state of cells was found in more than one system, so mixing cannot be measured without labels: "
                "give label_key, or make sure that the systems have genes and cell types in common."
            )
        known = np.flatnonzero(group != "")
        sample = (system if batch is None else batch)[known]
        within = moran_reference(x[known], group[known], sample, system[known], min_cells=min_cells)
        labelled = label is not None
        what = fingerprint(rows, system, sample, group, labelled, min_cells)
        return cls(rows, system, group, labelled, within, what)

    @property
    def known(self) -> np.ndarray:
        """Places of the cells that have a group."""
        return np.flatnonzero(self.group != "")

    @property
    def mixing(self) -> str:
        """Name of the measure of mixing."""
        return "iLISI" if self.labelled else "shared mixing"

    def describe(self) -> str:
        """What runs are measured by, for people."""
        counts = pd.crosstab(self.group[self.known], self.system[self.known])
        shared = int(((counts >= FEWEST_CELLS).sum(axis=1) > 1).sum())
        what = "cell types" if self.labelled else "states, found in each system by itself"
        text = f"Measured with {len(counts)} {what}, {shared} of them in more than one system."
        return text if self.within.reason is None else f"{text} Moran's I is left out. {self.within.reason}"

    def measure(self, embedding: np.ndarray) -> dict[str, float]:
        """Mixing, NMI and Moran's I of an embedding; mixing with standardised dimensions; dimensions that collapsed."""
        embedding = embedding[self.rows]
        group, points = self.group[self.known], embedding[self.known]
        clusters = kmeans(points, len(np.unique(group)))
        return {
            self.mixing: self._mixing(embedding),
            "NMI": float(nmi(group, clusters)),
            "Moran": float(moran_ratio(self.within, points)),
            f"{self.mixing}, standardised": self._mixing(standardise(embedding)),
            "collapsed dimensions": int(latent_spread(embedding)["collapsed"].sum()),
        }

    def private_groups(self, embedding: np.ndarray) -> pd.DataFrame:
        """Where the groups of one system only lie.

        Returns
        -------
        pandas.DataFrame
            A row a group, its name as index: ``system``, ``cells`` there, ``elsewhere`` (cells in other systems, fewer
            than ten in each), ``foreign`` (share of its neighbours from other systems, over the share of other systems
            among all cells: 1 is fully mixed) and ``among``, the group most of these are of.
        """
        known = self.known
        group, system = self.group[known], self.system[known]
        neighbors = nearest_neighbors(embedding[self.rows][known], N_NEIGHBORS)
        rows = {}
        for name, sizes in pd.crosstab(group, system).iterrows():
            at_home = sizes[sizes >= FEWEST_CELLS].index
            if len(at_home) != 1 or (system == at_home[0]).all():
                continue
            cells = np.flatnonzero((group == name) & (system == at_home[0]))
            near = neighbors.indices[cells]
            foreign = system[near] != at_home[0]  # (m, k)
            of = pd.Series(group[near[foreign]]).mode()
            rows[name] = {
                "system": at_home[0],
                "cells": len(cells),
                "elsewhere": int(sizes.sum()) - len(cells),
                "foreign": foreign.mean() / (system != at_home[0]).mean(),
                "among": "" if of.empty else of[0],
            }
        columns = ["system", "cells", "elsewhere", "foreign", "among"]
        return pd.DataFrame.from_dict(rows, orient="index", columns=columns)

    def _mixing(self, embedding: np.ndarray) -> float:
        """With labels iLISI of all cells; without, neighbours of the same state in other systems, where there are."""
        if self.labelled:
            return float(ilisi(nearest_neighbors(embedding), self.system))
        known = self.known
        of_state = shared_neighbors(embedding[known], self.system[known], self.group[known], min_cells=FEWEST_CELLS)
        return float(of_state.clip(upper=1).mean())
