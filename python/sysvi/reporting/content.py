"""Everything that a report shows, as plain data: nothing here knows of HTML."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from anndata import AnnData

from sysvi._core.checks import check_obs_column, get_expression
from sysvi._core.errors import InputError
from sysvi._core.events import Event, OnEvent, ignore_event, preparation_reporter
from sysvi._core.figures import umap
from sysvi.api.support import SUPPORT_KEY, support_column
from sysvi.data.ensure_prepared import ensure_prepared
from sysvi.data.labels import read_labels, stratified_sample
from sysvi.data.prepare import PREPARED_KEY, ignore_few_genes_warning
from sysvi.evaluation.evaluate import N_PCS, PCA_KEY, Evaluation, evaluate_in_detail
from sysvi.metrics._latent import get_embedding
from sysvi.metrics._pca import principal_components
from sysvi.reporting.findings import Finding, of_mixing, of_run, of_support, of_types
from sysvi.reporting.run_record import RunRecord, read_record
from sysvi.reporting.shown_cells import Column, choose_columns, read_column
from sysvi.reporting.type_tables import cells_by_support, cells_by_type, mixing_by_type, neighbors_elsewhere


@dataclass(frozen=True)
class Content:
    """What a report shows.

    Parameters
    ----------
    record
        How the embedding was made.
    embedding
        Name of the embedding.
    label
        Column of the cell types; None if there is none.
    n_cells
        Number of cells.
    groups
        Number of cells of each system, or of each system and batch: columns system, batch, cells.
    columns
        Columns of the shown cells, n of them in random order.
    umaps
        Coordinates of the shown cells by embedding, (n, 2) each: before the integration, if that is known, and after.
    evaluation
        Metrics of both embeddings.
    types
        Cells of each type by system, and their support; None without labels.
    mixing
        Metrics of batch correction by type; empty without labels.
    support
        Cells of each system by their support in each other one; None for a single model.
    findings
        What a reader should know first.
    notes
        Sentences about what was left out and why.
    """

    record: RunRecord
    embedding: str
    label: str | None
    n_cells: int
    groups: pd.DataFrame
    columns: tuple[Column, ...]
    umaps: dict[str, np.ndarray]
    evaluation: Evaluation
    types: pd.DataFrame | None
    mixing: pd.DataFrame
    support: pd.DataFrame | None
    findings: tuple[Finding, ...]
    notes: tuple[str, ...]

    @property
    def systems(self) -> list[str]:
        """Names of the systems."""
        return list(dict.fromkeys(self.groups["system"]))

    @property
    def n_shown(self) -> int:
        """Number of cells that are drawn and measured."""
        return len(self.columns[0].values)


def collect(
    adata: AnnData,
    label_key: str | None = None,
    *,
    embedding: str = "X_sysVI",
    colors: Sequence[str] | None = None,
    max_cells: int = 20_000,
    device: str = "auto",
    seed: int = 0,
    on_event: OnEvent = ignore_event,
) -> Content:
    """Gather what a report shows; arguments as in :func:`sysvi.report`."""
    record = read_record(adata)
    key = record.columns.system
    system = check_obs_column(adata, key, "system_key")
    batch = None if record.columns.batch is None else check_obs_column(adata, record.columns.batch, "batch_key")
    label, labelled = read_labels(adata, label_key)
    get_embedding(adata, embedding)
    support = read_support(adata, system)
    first = [key, record.columns.batch, *record.columns.categorical, label_key]
    categorical = [name for name in dict.fromkeys(first) if name is not None]
    begin = [*categorical, *record.columns.continuous, *([SUPPORT_KEY] if SUPPORT_KEY in adata.obs else [])]
    names = choose_columns(adata.obs, begin, colors)

    notes: list[str] = []
    shown = adata
    if adata.n_obs > max_cells:
        notes.append(
            f"{max_cells:,} of {adata.n_obs:,} cells are drawn and measured, at random by system and cell type."
        )
        shown = adata[stratified_sample(adata, key, label_key, max_cells, seed)].to_memory()
    shown, layer = _with_components(shown, record, seed, notes, on_event)
    embeddings = [PCA_KEY, embedding] if PCA_KEY in shown.obsm else [embedding]
    coordinates = {name: get_embedding(shown, name) for name in embeddings}
    evaluation = evaluate_in_detail(
        shown,
        embeddings,
        system_key=key,
        batch_key=record.columns.batch,
        label_key=label_key,
        layer=layer,
        device=device,
        seed=seed,
        progress=on_event,
    )
    umaps = {}
    for name, z in coordinates.items():
        on_event(Event("report", f"Computing the UMAP of {name} ({shown.n_obs:,} cells)"))
        umaps[name] = umap(z, seed)
    order = np.random.default_rng(seed).permutation(shown.n_obs)  # so that no group of cells covers the others
    columns = [read_column(shown, name, name in categorical) for name in names]

    types, mixing = None, mixing_by_type(evaluation)
    findings = [
        *of_run(record),
        *of_mixing(coordinates[embedding], coordinates.get(PCA_KEY), check_obs_column(shown, key, "system_key")),
        *of_support(support, system, record.n_members),
    ]
    if label is not None:
        highest = None if SUPPORT_KEY not in adata.obs else adata.obs[SUPPORT_KEY].to_numpy(float)[labelled]
        types = cells_by_type(label[labelled], system[labelled], highest)
        mixed = mixing.get(("CiLISI", embedding), pd.Series(dtype=float))
        shown_label, known = read_labels(shown, label_key)
        assert shown_label is not None
        shown_system = check_obs_column(shown, key, "system_key")
        elsewhere = neighbors_elsewhere(coordinates[embedding][known], shown_label[known], shown_system[known])
        findings += of_types(types, sorted(set(system[labelled])), mixed, elsewhere)
    groups = pd.DataFrame({"system": system} if batch is None else {"system": system, "batch": batch})
    return Content(
        record,
        embedding,
        label_key,
        adata.n_obs,
        groups.value_counts(sort=False).rename("cells").reset_index(),
        tuple(Column(column.name, column.values[order], column.categories) for column in columns),
        {name: points[order] for name, points in umaps.items()},
        evaluation,
        types,
        mixing,
        None if support is None else cells_by_support(support, system),
        tuple(findings),
        (*notes, *evaluation.notes),
    )


def read_support(adata: AnnData, system: np.ndarray) -> pd.DataFrame | None:
    """Support of each cell (row) in each system (column) under the systems' own names; None if there is none."""
    table = adata.obsm.get(SUPPORT_KEY)
    if not isinstance(table, pd.DataFrame):
        return None
    own = {support_column(name): name for name in np.unique(system)}
    return table.rename(columns=own).reset_index(drop=True)


def _with_components(
    cells: AnnData, record: RunRecord, seed: int, notes: list[str], on_event: OnEvent
) -> tuple[AnnData, str | None]:
    """The cells with the principal components of their expression, and the layer of the expression.

    The components are computed as for the model: of log-normalised values of genes variable in every system. If
    that is not possible, they are left out with a note.
    """
    preparation = record.preparation or {}
    is_prepared = bool(cells.uns.get(PREPARED_KEY))
    layer = record.columns.layer if is_prepared or not preparation else preparation.get("layer")
    if PCA_KEY in cells.obsm:
        return cells, layer
    settings = {name: preparation[name] for name in ("n_top_genes", "min_cells", "fractional_counts") if preparation}
    try:
        if layer is None and cells.X is None:
            raise InputError("adata.X is empty.")
        with ignore_few_genes_warning():
            prepared, layer = ensure_prepared(
                cells,
                record.columns.system,
                record.columns.batch,
                layer=layer,
                report=preparation_reporter(on_event),
                **settings,
            )
        expression = get_expression(prepared, layer)[1]
        prepared.obsm[PCA_KEY] = principal_components(expression, N_PCS, seed=seed)
    except InputError as error:
        notes.append(f"The cells before the integration are not shown: there are no principal components. {error}")
        return cells, layer
    return prepared, layer
