"""Evaluation of embeddings: all metrics in one table."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

from sysvi._core.arguments import check_types
from sysvi._core.checks import check_obs_column, get_expression, listing
from sysvi._core.device import choose_device
from sysvi._core.errors import InputError
from sysvi._core.events import Event, OnEvent, preparation_reporter
from sysvi._core.progress import as_callback
from sysvi._core.settings import random_seed, whole_number
from sysvi.data.ensure_prepared import ensure_prepared
from sysvi.data.labels import UNLABELLED, check_groups, read_labels, stratified_sample
from sysvi.data.prepare import ignore_few_genes_warning
from sysvi.evaluation.embedding_view import EmbeddingView
from sysvi.evaluation.registry import choose_metrics
from sysvi.evaluation.tables import cell_table, label_table, metric_table
from sysvi.metrics._latent import get_embedding, latent_spread, standardise
from sysvi.metrics._moran import MoranReference, moran_reference
from sysvi.metrics._pca import principal_components
from sysvi.metrics._score import Score

PCA_KEY, N_PCS = "X_pca", 50


@dataclass(frozen=True)
class Evaluation:
    """Result of `evaluate_in_detail`.

    Parameters
    ----------
    table
        Table of `evaluate`: one row per metric, then the aggregated scores; columns ``group``, one per embedding,
        ``in_score`` and ``convention``.
    per_label
        Values by label: columns ``embedding``, ``metric``, ``by`` (``"label"``, or ``"system"`` for metrics measured by
        system), ``name`` (of the label or system) and ``value``.
    per_cell
        Values by cell: one row per cell, columns (embedding, metric); NaN for cells that were not measured.
    notes
        Sentences about cells and metrics that were left out, and about collapsed dimensions.
    """

    table: pd.DataFrame
    per_label: pd.DataFrame
    per_cell: pd.DataFrame
    notes: tuple[str, ...]


def evaluate(adata: AnnData, embeddings: str | Sequence[str] = "X_sysVI", **arguments: Any) -> pd.DataFrame:
    """Evaluate embeddings: mixing of systems, preservation of cell types, and of variation within cell types.

    This is the table of `evaluate_in_detail`, which takes the same arguments and also returns values by label and cell.

    Returns
    -------
    pandas.DataFrame
        One row per metric (iLISI, CiLISI, BRAS, cLISI, NMI, ARI, Jaccard, Moran, ...) and per aggregated score.
        Columns: ``group``, one per embedding, ``in_score`` (whether the metric counts in the aggregated scores) and
        ``convention`` (how the number is defined). Higher is better for all metrics.

    Examples
    --------
    >>> from sysvi.data.simulate import simulate_systems
    >>> from sysvi.evaluation.evaluate import evaluate
    >>> counts = simulate_systems(300, 200, seed=1)
    >>> table = evaluate(counts, "X_pca", system_key="system", label_key="cell_type", progress=False)
    >>> bool(table["X_pca"].dropna().between(0, 1).all())
    True
    """
    return evaluate_in_detail(adata, embeddings, **arguments).table


def evaluate_in_detail(
    adata: AnnData,
    embeddings: str | Sequence[str] = "X_sysVI",
    *,
    system_key: str,
    batch_key: str | None = None,
    label_key: str | None = None,
    layer: str | None = None,
    metrics: str | Sequence[str] = "default",
    standardised: bool = False,
    unlabelled: Iterable[str] = UNLABELLED,
    min_cells: int = 500,
    max_cells: int | None = None,
    device: str = "auto",
    seed: int = 0,
    progress: bool | OnEvent = True,
) -> Evaluation:
    """Evaluate embeddings, with the values by label and by cell.

    Parameters
    ----------
    adata
        Cells with embeddings in ``adata.obsm`` and, for the metrics that need it (Moran, PCR comparison), expression.
        Counts are normalised and variable genes are selected as for the model; the output of `prepare` is used as it
        is. Without expression these metrics are left out. Not changed.
    embeddings
        Keys of ``adata.obsm``. ``"X_pca"`` is computed (50 components) if it is missing.
    system_key
        Column of ``adata.obs`` with the systems, whose mixing is measured.
    batch_key
        Column of ``adata.obs`` with the samples, for mixing of batches and, with labels, for Moran.
    label_key
        Column of ``adata.obs`` with the cell types; without it only metrics that need no labels are measured.
    layer
        Layer with the expression; ``adata.X`` by default.
    metrics
        ``"default"``, ``"all"`` (also the slow ones: kBET, and Leiden at ten resolutions), or names of metrics.
    standardised
        Whether to measure also the standardised embeddings, in which each dimension has unit variance. Mixing that is
        absent there was caused by shrunk dimensions (Fig. 2 of the paper).
    unlabelled
        Labels, in lower case, of unlabelled cells. These cells, and cells with a missing label, are used only for
        metrics that need no labels.
    min_cells
        Minimum number of cells of one type in one sample, for Moran.
    max_cells
        Number of cells of a random sample, stratified by system and label, to measure; all cells by default.
    device
        Device of the computation: ``"auto"``, ``"cpu"`` or ``"cuda"``.
    seed
        Random seed of clustering, approximate neighbours (above 200,000 cells) and the sample of cells.
    progress
        True prints one line per embedding; a function is called with each `Event`.

    Returns
    -------
    Evaluation

    Raises
    ------
    InputError
        If a column or embedding is missing or invalid, there is only one system, or no metric can be measured.

    Notes
    -----
    The score of a group is the mean of its metrics that count; total = 0.6 biological preservation + 0.4 batch
    correction (Luecken et al., Nature Methods 2022). The within-type score is not part of the total, since it cannot be
    measured on all data sets.

    Examples
    --------
    >>> from sysvi.data.simulate import simulate_systems
    >>> counts = simulate_systems(300, 200, seed=1)
    >>> found = evaluate_in_detail(counts, "X_pca", system_key="system", label_key="cell_type", progress=False)
    >>> found.per_cell["X_pca", "iLISI"].shape
    (300,)
    """
    check_types(
        evaluate_in_detail,
        adata=adata,
        embeddings=embeddings,
        metrics=metrics,
        standardised=standardised,
        unlabelled=unlabelled,
    )
    seed = random_seed(seed)
    on_event = as_callback(progress)
    choose_device(device)  # fail before any work is done
    chosen = choose_metrics(metrics, batch_key, label_key)
    names = _check_embeddings(adata, embeddings)
    whole_number("min_cells", min_cells, 2)
    notes: list[str] = []
    if max_cells is not None:
        whole_number("max_cells", max_cells, 2)
        if max_cells < adata.n_obs:
            notes.append(f"Measured on {max_cells} of {adata.n_obs} cells, drawn at random by system and cell type.")
            adata = adata[stratified_sample(adata, system_key, label_key, max_cells, seed, unlabelled)].to_memory()
    system = check_obs_column(adata, system_key, "system_key")
    if len(set(system)) < 2:
        raise InputError(f"adata.obs[{system_key!r}] holds one system only ({system[0]}): mixing needs at least two.")
    check_groups(system, f"adata.obs[{system_key!r}] (system_key)")
    batch = None if batch_key is None else check_obs_column(adata, batch_key, "batch_key")
    label, labelled = read_labels(adata, label_key, unlabelled)
    if not labelled.all():
        notes.append(
            f"{(~labelled).sum()} of {adata.n_obs} cells have no label; metrics that need labels leave them out."
        )

    required = {name for metric in chosen for name in metric.required}
    expression = None
    pca_needed = "pca" in required or PCA_KEY in names
    if "moran_reference" in required or (pca_needed and PCA_KEY not in adata.obsm):
        if layer is not None:
            get_expression(adata, layer)  # a layer that was asked for must be there
        must_have = PCA_KEY in names and PCA_KEY not in adata.obsm
        expression = _log_normalised_expression(adata, system_key, batch_key, layer, must_have, notes, on_event)
    pca, pca_source = _pca_before_integration(adata, expression, seed)
    coordinates = {name: pca if name == PCA_KEY and pca is not None else get_embedding(adata, name) for name in names}
    notes += [note for name, z in coordinates.items() for note in _note_collapsed_dimensions(name, z)]
    if standardised:
        coordinates = {
            title: values
            for name, z in coordinates.items()
            for title, values in ((name, z), (f"{name} (standardised)", standardise(z)))
        }
    reference = None
    if "moran_reference" in required and expression is not None and label is not None:
        sample = system if batch is None else batch
        rows = np.flatnonzero(labelled)
        reference = moran_reference(
            expression[rows], label[rows], sample[rows], system[rows], min_cells=min_cells, seed=seed
        )
        if reference.reason:
            notes.append(f"Moran is not measured. {reference.reason}")

    scores: dict[tuple[str, str], Score] = {}  # by embedding and name of the metric
    for name, z in coordinates.items():
        start = time.perf_counter()
        all_cells = EmbeddingView(z, system, batch, None, pca, reference, device, seed)
        labelled_cells = all_cells
        if label is not None and labelled.all():
            all_cells.label = label
        elif label is not None:
            labelled_cells = EmbeddingView(
                z[labelled],
                system[labelled],
                None if batch is None else batch[labelled],
                label[labelled],
                None if pca is None else pca[labelled],
                reference,
                device,
                seed,
            )
        for metric in chosen:
            if metric.needs_labels:
                score = _expand_to_all_cells(metric.measure(labelled_cells), labelled)
            else:
                score = metric.measure(all_cells)
            scores[name, metric.name] = score
            on_event(Event("metric", "", {"embedding": name, "metric": metric.name, "value": score.value}))
        on_event(Event("evaluate", f"Measured {name} in {time.perf_counter() - start:.1f} s"))
    details = {"PCR comparison": pca_source, "Moran": _describe_reference(reference)}
    return Evaluation(
        metric_table(scores, chosen, list(coordinates), details),
        label_table(scores, chosen),
        cell_table(scores, adata.obs_names),
        tuple(notes),
    )


def _check_embeddings(adata: AnnData, embeddings: str | Sequence[str]) -> list[str]:
    """Check that the embeddings exist or can be computed, and list them without repetitions."""
    names = [embeddings] if isinstance(embeddings, str) else list(dict.fromkeys(embeddings))
    if not names:
        raise InputError(f"embeddings is empty: name keys of adata.obsm ({listing(adata.obsm)}).")
    missing = [name for name in names if name != PCA_KEY and name not in adata.obsm]
    if missing:
        raise InputError(
            f"adata.obsm has no {listing(map(repr, missing))}: choose some of its keys ({listing(adata.obsm)})."
        )
    return names


def _log_normalised_expression(
    adata: AnnData,
    system_key: str,
    batch_key: str | None,
    layer: str | None,
    must_have: bool,
    notes: list[str],
    on_event: OnEvent,
) -> Any:
    """Prepare log-normalised expression of variable genes, (n, genes); None, and a note, if that is not possible.

    With `must_have`, because the principal components are to be evaluated, an InputError says why it is not.
    """
    try:
        if layer is None and adata.X is None:
            raise InputError("adata.X is empty.")
        with ignore_few_genes_warning():
            cells, layer = ensure_prepared(
                adata, system_key, batch_key, layer=layer, report=preparation_reporter(on_event)
            )
        return get_expression(cells, layer)[1]
    except InputError as error:
        if must_have:
            raise InputError(f"adata.obsm has no {PCA_KEY!r}, and it cannot be computed. {error}") from error
        notes.append(f"Metrics that need expression are left out. {error}")
        return None


def _pca_before_integration(adata: AnnData, expression: Any, seed: int) -> tuple[np.ndarray | None, str]:
    """Read or compute the principal components before integration, (n, components), and say where they are from."""
    if PCA_KEY in adata.obsm:
        return get_embedding(adata, PCA_KEY), f"before: obsm[{PCA_KEY!r}]"
    if expression is None:
        return None, ""
    return principal_components(expression, N_PCS, seed=seed), f"before: {N_PCS} PCs of the expression"


def _note_collapsed_dimensions(name: str, z: np.ndarray) -> list[str]:
    """Make a note of the collapsed dimensions of an embedding, if it has any."""
    collapsed = latent_spread(z)["collapsed"].to_numpy()
    if not collapsed.any():
        return []
    numbers = listing(np.flatnonzero(collapsed) + 1)
    return [
        f"{name}: {collapsed.sum()} of {z.shape[1]} dimensions have collapsed ({numbers}), as is common in variational "
        "autoencoders; evaluate with standardised=True to see whether mixing depends on it."
    ]


def _expand_to_all_cells(score: Score, labelled: np.ndarray) -> Score:
    """Extend the values by cell from the labelled cells to all cells, with NaN for the others."""
    if score.per_cell is None or labelled.all():
        return score
    per_cell = np.full(len(labelled), np.nan)
    per_cell[labelled] = score.per_cell
    return Score(score.value, score.per_label, per_cell)


def _describe_reference(reference: MoranReference | None) -> str:
    """Describe the groups and genes of Moran's I, for its convention."""
    if reference is None or not reference.groups:
        return ""
    genes = [len(group.genes) for group in reference.groups]
    return f"{len(genes)} groups, {min(genes)} to {max(genes)} genes with I >= {reference.cutoff:g}"
