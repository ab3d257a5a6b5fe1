"""What a reader of a report should know first: findings in plain words, with what to do."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from sysvi._core.checks import FEW_GENES, listing
from sysvi.api.separation import SEPARATION_THRESHOLD, cross_system_neighbors
from sysvi.api.support import LOW_SUPPORT, MIN_SHARE_TO_WARN, unsupported_cells
from sysvi.reporting.run_record import RunRecord

MIN_CELLS_OF_TYPE = 20  # of a cell type in a system, to judge it
LOW_MIXING = 0.05  # CiLISI of a shared type whose systems stay apart
HIGH_MIXING = 0.2  # of a private type, relative to full mixing
COMPARE = "compare settings (sysvi.tune in Python, sysvi tune in a shell, TuneSysVI() in R)"


@dataclass(frozen=True)
class Finding:
    """Something that a reader should know, and what to do about it.

    Parameters
    ----------
    level
        ``"good"``, ``"note"`` or ``"warning"``.
    text
        What was found.
    advice
        What to do; may be empty.
    """

    level: Literal["good", "note", "warning"]
    text: str
    advice: str = ""


def of_run(record: RunRecord) -> Iterator[Finding]:
    """Findings about training and genes."""
    if record.status == "interrupted":
        epochs = max((int(losses["epoch"][-1] or 0) for losses in record.losses if losses["epoch"]), default=0)
        yield Finding(
            "warning",
            f"Training was interrupted after {epochs:,} of {record.train_settings.max_epochs:,} epochs.",
            "Run it again to the end before you interpret the embedding.",
        )
    if record.n_genes < FEW_GENES:
        yield Finding(
            "warning",
            f"The model was trained on {record.n_genes:,} genes, which are few.",
            "Choose more variable genes, and check that the systems use the same gene names.",
        )


def of_mixing(embedding: np.ndarray, before: np.ndarray | None, system: np.ndarray) -> Iterator[Finding]:
    """Findings about neighbours from other systems: (n, L) embedding, (n, components) before, (n,) systems."""
    mixing = cross_system_neighbors(embedding, system)
    if mixing.empty:
        return
    shares = ", ".join(f"{name} {share:.0%}" for name, share in mixing.items())
    apart = [str(name) for name in mixing.index[mixing < SEPARATION_THRESHOLD]]
    if apart:
        yield Finding(
            "warning",
            f"{listing(apart)} stays apart: its cells have hardly any neighbours from other systems (of what full "
            f"mixing would give: {shares}).",
            f"If the systems have cell types in common, train longer, try another seed, or {COMPARE}.",
        )
    else:
        yield Finding("good", f"Cells have neighbours from other systems (of what full mixing would give: {shares}).")
    if before is None:
        return
    earlier = cross_system_neighbors(before, system)
    if not earlier.empty and (earlier >= SEPARATION_THRESHOLD).all():
        shares = ", ".join(f"{name} {share:.0%}" for name, share in earlier.items())
        yield Finding(
            "note",
            "The systems differ little: cells have neighbours from other systems before the integration already "
            f"({shares}).",
            "A weaker method, such as Harmony, may be enough.",
        )


def of_support(support: pd.DataFrame | None, system: np.ndarray, n_members: int) -> Iterator[Finding]:
    """Findings about the support of cells: a table of cells x systems, and the systems of the cells, (n,)."""
    if support is None:
        if n_members == 1:
            yield Finding(
                "note",
                "One model was trained, so it is not known which cells have reliable counterparts.",
                "Train an ensemble (members=8) to learn the support of each cell.",
            )
        return
    groups = unsupported_cells(support, system)
    low = groups[groups["share"] >= MIN_SHARE_TO_WARN].to_dict("records")
    if low:
        parts = [f"{g['n_cells']:,} of {g['of']:,} cells of {g['system']} in {g['other']}" for g in low]
        yield Finding(
            "warning",
            f"Some cells have no counterpart on which the models agree: {'; '.join(parts)} (support below "
            f"{LOW_SUPPORT}).",
            "Cell types of one system only are expected to be among them. Do not interpret their neighbours from that "
            "system.",
        )
    else:
        yield Finding("good", "Nearly all cells have counterparts in another system on which the models agree.")


def of_types(types: pd.DataFrame, systems: list[str], mixing: pd.Series, elsewhere: pd.Series) -> Iterator[Finding]:
    """Findings about cell types.

    Parameters
    ----------
    types
        What :func:`sysvi.reporting.type_tables.cells_by_type` returns.
    systems
        Names of the systems, columns of `types`.
    mixing
        CiLISI of the integrated embedding by cell type.
    elsewhere
        What :func:`sysvi.reporting.type_tables.neighbors_elsewhere` returns for the integrated embedding.
    """
    n_large = (types[systems] >= MIN_CELLS_OF_TYPE).sum(axis=1)
    private = types[(types["only in"] != "") & (n_large == 1)]
    private = private.assign(elsewhere=elsewhere.reindex(private.index))
    merged = private[private["elsewhere"] > HIGH_MIXING]
    if len(merged):
        parts = [f"{name} (only in {row['only in']}; {row['elsewhere']:.0%})" for name, row in merged.iterrows()]
        yield Finding(
            "warning",
            "Cell types that one system has alone lie among cells of others (neighbours from other systems, relative "
            f"to full mixing): {listing(parts)}.",
            "These may be similar types under other names, or types that are merged by mistake: look at their marker "
            "genes, and integrate with the preset conservative if it was another one.",
        )
    shared = types.index[n_large >= 2]
    apart = [str(name) for name in shared if mixing.get(name, np.nan) < LOW_MIXING]
    if apart:
        yield Finding(
            "warning",
            f"Systems stay apart within cell types that they have in common: {listing(apart)} (CiLISI below "
            f"{LOW_MIXING}).",
            f"Check that their labels mean the same in all systems, or {COMPARE}.",
        )
    if len(private):
        parts = [f"{name} (only in {row['only in']})" for name, row in private.iterrows()]
        yield Finding(
            "note", f"Cell types that one system has alone, of {MIN_CELLS_OF_TYPE} cells or more: {listing(parts)}."
        )
