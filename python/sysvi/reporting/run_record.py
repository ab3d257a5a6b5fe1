"""What a run left in the data about itself: settings, versions, genes and losses, read from ``uns["sysvi"]``."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from anndata import AnnData

from sysvi._core.errors import InputError
from sysvi._core.settings import ModelSettings, TrainSettings
from sysvi.data.columns import Columns

RECORD_KEY = "sysvi"
PREPARATION_ENTRIES = {"n_top_genes", "min_cells", "normalize"} | {
    *("genes_in", "genes_detected", "variable_genes", "genes_kept")
}
Losses = Mapping[str, Sequence[float | None]]  # "epoch" and the loss terms by their names


@dataclass(frozen=True)
class RunRecord:
    """How the embedding of some cells was made.

    Parameters
    ----------
    columns
        Columns and layer that the model read.
    n_genes, n_systems
        Number of genes and of systems that it was trained on.
    model_settings, train_settings
        Settings of the model and of its training.
    seed, member_seeds
        Random seed of the run, and seeds of its models, one of each.
    losses
        Loss terms of each model, as :func:`sysvi.training.history.summarise_losses` gives them.
    agreement
        Share of neighbours that each two models have in common, (models, models); None for a single model.
    status
        How training ended.
    versions
        Version of each library.
    reasons
        How training was computed and why, in sentences.
    preparation
        Settings of the selection of genes and their numbers after each step; None if they are not known.
    """

    columns: Columns
    n_genes: int
    n_systems: int
    model_settings: ModelSettings
    train_settings: TrainSettings
    seed: int
    member_seeds: tuple[int, ...]
    losses: tuple[Losses, ...]
    agreement: np.ndarray | None
    status: str
    versions: Mapping[str, str]
    reasons: tuple[str, ...]
    preparation: Mapping[str, Any] | None

    @property
    def n_members(self) -> int:
        """Number of models."""
        return len(self.member_seeds)


def read_record(adata: AnnData) -> RunRecord:
    """Read the record that :func:`sysvi.integrate` left in the data.

    Raises
    ------
    InputError
        If there is none, it is of an earlier version, or it cannot be read.

    Examples
    --------
    >>> import sysvi
    >>> adata = sysvi.prepare(sysvi.datasets.simulate_systems(300, 200, seed=1), "system", "batch", min_cells=3)
    >>> model = sysvi.integrate(adata, "system", "batch", members=2, max_epochs=3, progress=False)
    >>> record = read_record(adata)
    >>> record.n_members, record.status, record.losses[0]["epoch"], record.preparation["genes_in"]
    (2, 'finished', [1, 2, 3], 200)
    """
    written = adata.uns.get(RECORD_KEY)
    if not isinstance(written, Mapping):
        raise InputError(
            f"adata.uns has no {RECORD_KEY!r}, the record of an integration: run sysvi.integrate first, and give the "
            "data with its results."
        )
    if "losses" not in written:
        raise InputError(
            f"adata.uns[{RECORD_KEY!r}] was written by an earlier version of sysvi, which kept no losses: run "
            "sysvi.integrate again with this version."
        )
    try:
        return parse_record(written)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"adata.uns[{RECORD_KEY!r}], the record of the integration, cannot be read ({error}): run sysvi.integrate "
            "again."
        ) from error


def parse_record(written: Mapping[str, Any]) -> RunRecord:
    """The record that a model describes itself with: JSON strings; an error of any kind if it is damaged."""
    return _from_json({name: json.loads(text) for name, text in written.items() if isinstance(text, str)})


def _from_json(values: Mapping[str, Any]) -> RunRecord:
    """The record of values that were JSON; a KeyError, TypeError or ValueError if something is missing or wrong."""
    seed = int(values["seed"])
    agreement, preparation = values.get("agreement"), values.get("preparation")
    if not isinstance(preparation, Mapping) or not set(preparation) >= PREPARATION_ENTRIES:
        preparation = None  # written by hand, or by a program that is not sysvi
    member_seeds = tuple(values.get("member_seeds", [seed]))
    losses = tuple(values["losses"])
    if len(losses) != len(member_seeds) or not all(map(_are_losses, losses)):
        raise ValueError("its losses are not those of its models")
    return RunRecord(
        Columns.from_json(values["columns"]),
        int(values["n_genes"]),
        int(values.get("n_systems", 2)),  # earlier versions, which left it out, had the same settings for any number
        ModelSettings(**values["model_settings"]),
        TrainSettings(**values["train_settings"]),
        seed,
        member_seeds,
        losses,
        None if agreement is None else np.asarray(agreement, np.float64),
        str(values["status"]),
        dict(values["versions"]),
        tuple((values["kernels"] or {}).get("why", ())),
        preparation,
    )


def _are_losses(values: Any) -> bool:
    """Whether a value that was JSON is the losses of a model: lists of numbers, all as long as that of the epochs."""
    return isinstance(values, Mapping) and all(
        isinstance(term, list)
        and len(term) == len(values.get("epoch", ()))
        and all(x is None or isinstance(x, int | float) for x in term)
        for term in (values.get("epoch"), *values.values())
    )
