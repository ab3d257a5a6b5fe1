"""Every metric of every embedding in one table."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from anndata import AnnData

from sysvi._core.checks import check_obs_column, get_expression, listing
from sysvi._core.device import choose_device
from sysvi._core.errors import InputError
from sysvi._core.events import Event, OnEvent, preparation_reporter
from sysvi._core.progress import as_callback
from sysvi._core.settings import whole_number
from sysvi.data.ensure_prepared import ensure_prepared
from sysvi.data.labels import UNLABELLED, read_labels, stratified_sample
from sysvi.data.prepare import ignore_few_genes_warning
from sysvi.evaluation.registry import BATCH, BIOLOGY, METRICS, WITHIN, Metric, View
from sysvi.metrics._latent import get_embedding, latent_spread, standardise
from sysvi.metrics._moran import MoranReference, moran_reference
from sysvi.metrics._pca import principal_components
from sysvi.metrics._score import Score

AGGREGATE = "aggregate"
BIOLOGY_SHARE = 0.6  # of the total; the rest is batch correction
PCA_KEY, N_PCS = "X_pca", 50


@dataclass(frozen=True)
class Evaluation:
    """All that an evaluation found.

    Parameters
    ----------
    table
        A row a metric: group, a column an embedding, in_score, convention; then the aggregated scores.
    per_label
        Tidy: embedding, metric, by ("label" or "system": what the name is of), name, value.
    per_cell
        A row a cell, columns (embedding, metric); NaN where a cell was not measured.
    notes
        What a reader must know: cells and metrics left out and why, collapsed dimensions.
    """

    table: pd.DataFrame
    per_label: pd.DataFrame
    per_cell: pd.DataFrame
    notes: tuple[str, ...]


def evaluate(adata: AnnData, embeddings: str | Sequence[str] = "X_sysVI", **arguments: Any) -> pd.DataFrame:
    """Measure embeddings: mixing of systems, biology kept, structure within cell types kept.

    The table of `evaluate_in_detail`, which takes the same arguments and also gives values by label and by cell.

    Returns
    -------
    pandas.DataFrame
        A row a metric (iLISI, CiLISI, BRAS, cLISI, NMI, ARI, Jaccard, Moran, ...) and a row an aggregated score.
        Columns: ``group``, one an embedding, ``in_score`` (whether the metric counts in the aggregated scores) and
        ``convention`` (how the number is defined). Higher is better throughout.

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
    metrics: Literal["default", "all"] | Sequence[str] = "default",
    standardised: bool = False,
    unlabelled: Iterable[str] = UNLABELLED,
    min_cells: int = 500,
    max_cells: int | None = None,
    device: str = "auto",
    seed: int = 0,
    progress: bool | OnEvent = True,
) -> Evaluation:
    """Measure embeddings, with the values by label and by cell.

    Parameters
    ----------
    adata
        With the embeddings in obsm, and expression for the metrics that need it (Moran, PCR comparison): counts are
        normalised, and genes variable in every system chosen, as for the model; what `prepare` made is taken as it is.
        Without X these metrics are left out. Never changed.
    embeddings
        Keys of obsm. ``"X_pca"`` is computed (50 components) where it is not there.
    system_key
        Column of obs with the systems, whose mixing is measured.
    batch_key
        Column of obs with the samples; for the mixing of batches and, with labels, for Moran.
    label_key
        Column of obs with the cell types; without it only what needs none is measured.
    layer
        Layer with the expression; X by default.
    metrics
        ``"default"``, ``"all"`` (kBET and the ten resolutions of Leiden too), or names of rows.
    standardised
        Also measure each embedding with every dimension scaled to unit variance: mixing that is gone there came from
        shrinking dimensions (the paper's Fig. 2).
    unlabelled
        Labels, in lower case, that mean that a cell has none; such cells and those with a missing value take part only
        in what needs no labels.
    min_cells
        Fewest cells of a sample x type group for Moran.
    max_cells
        Measure a random sample of this many cells, stratified by system and label; all cells by default.
    device
        ``"auto"``, ``"cpu"`` or ``"cuda"``.
    seed
        Of clustering, approximate neighbours (above 200,000 cells) and the sample of cells.
    progress
        True prints a line an embedding; or a function of an `Event`.

    Returns
    -------
    Evaluation

    Raises
    ------
    InputError
        If a column or embedding is missing or cannot be used, or there is only one system.

    Notes
    -----
    Scores: the means of the metrics of a group that count; total = 0.6 biological preservation + 0.4 batch correction
    (Luecken et al. 2022). The within-type score stands by itself: whether it can be measured depends on the data.

    Examples
    --------
    >>> from sysvi.data.simulate import simulate_systems
    >>> counts = simulate_systems(300, 200, seed=1)
    >>> found = evaluate_in_detail(counts, "X_pca", system_key="system", label_key="cell_type", progress=False)
    >>> found.per_cell["X_pca", "iLISI"].shape
    (300,)
    """
    on_event = as_callback(progress)
    choose_device(device)  # complains early
    chosen = _chosen(metrics, batch_key, label_key)
    names = [embeddings] if isinstance(embeddings, str) else list(dict.fromkeys(embeddings))
    if not names:
        raise InputError(f"embeddings is empty: name keys of adata.obsm ({listing(adata.obsm)}).")
    notes: list[str] = []
    missing = [name for name in names if name != PCA_KEY and name not in adata.obsm]
    if missing:
        raise InputError(
            f"adata.obsm has no {listing(map(repr, missing))}: choose of its keys ({listing(adata.obsm)})."
        )
    whole_number("min_cells", min_cells, 2)
    if max_cells is not None:
        whole_number("max_cells", max_cells, 2)
    if max_cells is not None and max_cells < adata.n_obs:
        notes.append(f"Measured on {max_cells} of {adata.n_obs} cells, drawn at random in each system and cell type.")
        adata = adata[stratified_sample(adata, system_key, label_key, max_cells, seed)].to_memory()
    system = check_obs_column(adata, system_key, "system_key")
    if len(set(system)) < 2:
        raise InputError(f"adata.obs[{system_key!r}] holds one system only ({system[0]}): mixing needs at least two.")
    batch = None if batch_key is None else check_obs_column(adata, batch_key, "batch_key")
    label, labelled = read_labels(adata, label_key, unlabelled)
    if not labelled.all():
        notes.append(
            f"{(~labelled).sum()} of {adata.n_obs} cells have no label; metrics that need labels leave them out."
        )

    needed = {need for metric in chosen for need in metric.needs}
    x = None
    if "within" in needed or (PCA_KEY not in adata.obsm and ("before" in needed or PCA_KEY in names)):
        x = _log_normalised(adata, system_key, batch_key, layer, notes, on_event)
    pcs, source = _pcs(adata, x, seed)
    points = {name: _points(adata, name, pcs) for name in names}
    notes += [note for name, z in points.items() for note in _collapsed(name, z)]
    if standardised:
        pairs = [((name, z), (f"{name} (standardised)", standardise(z))) for name, z in points.items()]
        points = dict(pair for both in pairs for pair in both)
    within = None
    if "within" in needed and x is not None and label is not None:
        sample = system if batch is None else batch
        rows = np.flatnonzero(labelled)
        within = moran_reference(x[rows], label[rows], sample[rows], system[rows], min_cells=min_cells, seed=seed)
        if within.reason:
            notes.append(f"Moran is not measured. {within.reason}")

    scores: dict[tuple[str, str], Score] = {}  # of each embedding and metric
    for name, z in points.items():
        start = time.perf_counter()
        view = View(z, system, batch, label if labelled.all() else None, pcs, within, device, seed)
        known = view
        if label is not None and not labelled.all():
            known = View(z[labelled], system[labelled], label=label[labelled], within=within, device=device, seed=seed)
        for metric in chosen:
            score = scores[name, metric.name] = _measure(metric, view, known, labelled)
            on_event(Event("metric", "", {"embedding": name, "metric": metric.name, "value": score.value}))
        on_event(Event("evaluate", f"Measured {name} in {time.perf_counter() - start:.1f} s"))
    return Evaluation(
        _table(scores, chosen, list(points), {"PCR comparison": source, "Moran": _of(within)}),
        _per_label(scores, chosen),
        pd.DataFrame({k: v.per_cell for k, v in scores.items() if v.per_cell is not None}, index=adata.obs_names),
        tuple(notes),
    )


def _measure(metric: Metric, view: View, known: View, labelled: np.ndarray) -> Score:
    """A metric of all cells (`view`), or of the labelled ones (`known`) where it needs labels."""
    if ("within" in metric.needs and view.within is None) or ("before" in metric.needs and view.before is None):
        return Score(np.nan)
    if "label" not in metric.needs:
        return metric.measure(view)
    score = metric.measure(known)
    if score.per_cell is None:
        return score
    per_cell = np.full(len(labelled), np.nan)
    per_cell[labelled] = score.per_cell
    return Score(score.value, score.per_label, per_cell)


def _chosen(metrics: str | Sequence[str], batch_key: str | None, label_key: str | None) -> list[Metric]:
    """The metrics asked for that the columns allow."""
    if metrics in ("default", "all"):
        wanted = [metric for metric in METRICS if metrics == "all" or not metric.slow]
    else:
        names = [metrics] if isinstance(metrics, str) else list(metrics)
        unknown = [name for name in names if name not in {metric.name for metric in METRICS}]
        if unknown:
            known = listing((metric.name for metric in METRICS), len(METRICS))
            raise InputError(f"There is no metric {listing(unknown)}; choose 'default', 'all', or of: {known}.")
        wanted = [metric for metric in METRICS if metric.name in names]
    given = {"label": label_key, "batch": batch_key}
    chosen = [m for m in wanted if all(given.get(need, "") is not None for need in m.needs)]
    if not wanted:
        raise InputError("metrics is empty: give 'default', 'all' or names of metrics.")
    if not chosen:
        lacking = dict.fromkeys(f"{need}_key" for m in wanted for need in m.needs if given.get(need, "") is None)
        raise InputError(f"{listing(m.name for m in wanted)} cannot be measured without {' and '.join(lacking)}.")
    return chosen


def _log_normalised(
    adata: AnnData, system_key: str, batch_key: str | None, layer: str | None, notes: list[str], on_event: OnEvent
) -> Any:
    """Log-normalised expression of variable genes, (n, genes); None, with a note, where there is none to be had."""
    try:
        if layer is None and adata.X is None:
            raise InputError("adata.X is empty.")
        with ignore_few_genes_warning():
            cells, layer = ensure_prepared(
                adata, system_key, batch_key, layer=layer, report=preparation_reporter(on_event)
            )
        return get_expression(cells, layer)[1]
    except InputError as error:
        notes.append(f"What needs expression is left out. {error}")
        return None


def _pcs(adata: AnnData, x: Any, seed: int) -> tuple[np.ndarray | None, str]:
    """Principal components of the cells before integration, (n, components), and where they are from."""
    if PCA_KEY in adata.obsm:
        return get_embedding(adata, PCA_KEY), f"before: obsm[{PCA_KEY!r}]"
    if x is None:
        return None, ""
    return principal_components(x, N_PCS, seed=seed), f"before: {N_PCS} PCs of the expression"


def _points(adata: AnnData, name: str, pcs: np.ndarray | None) -> np.ndarray:
    """Coordinates of an embedding, (n, dimensions)."""
    return pcs if name == PCA_KEY and pcs is not None else get_embedding(adata, name)


def _collapsed(name: str, z: np.ndarray) -> list[str]:
    """What to know of an embedding's collapsed dimensions, if it has any."""
    collapsed = latent_spread(z)["collapsed"].to_numpy()
    if not collapsed.any():
        return []
    which = listing(np.flatnonzero(collapsed) + 1)
    return [
        f"{name}: {collapsed.sum()} of {z.shape[1]} dimensions have collapsed ({which}). Usual in a VAE; "
        "whether mixing comes from that, standardised=True shows."
    ]


def _of(within: MoranReference | None) -> str:
    if within is None or not within.groups:
        return ""
    genes = [len(group.genes) for group in within.groups]
    return f"{len(genes)} groups, {min(genes)} to {max(genes)} genes of I >= {within.cutoff:g}"


def _table(
    scores: dict[tuple[str, str], Score], chosen: list[Metric], names: list[str], details: dict[str, str]
) -> pd.DataFrame:
    """The table of `evaluate`."""
    rows = []
    for m in chosen:
        convention = "; ".join(filter(None, [m.convention, details.get(m.name)]))
        values = {name: scores[name, m.name].value for name in names}
        rows.append({"metric": m.name, "group": m.group, **values, "in_score": m.in_score, "convention": convention})
    table = pd.DataFrame(rows).set_index("metric")
    counted = table[table["in_score"]]
    means = {group: counted.loc[counted["group"] == group, names].mean() for group in (BATCH, BIOLOGY, WITHIN)}
    total = BIOLOGY_SHARE * means[BIOLOGY] + (1 - BIOLOGY_SHARE) * means[BATCH]
    conventions = {
        "Batch correction": (means[BATCH], "mean of its metrics that count"),
        "Biological preservation": (means[BIOLOGY], "mean of its metrics that count"),
        "Within-type": (means[WITHIN], "mean of its metrics that count; not in the total"),
        "Total": (total, f"{BIOLOGY_SHARE:g} biological preservation + {1 - BIOLOGY_SHARE:g} batch correction"),
    }
    for name, (score, convention) in conventions.items():
        if score.notna().any():
            table.loc[name] = {"group": AGGREGATE, **score, "in_score": False, "convention": convention}
    return table


def _per_label(scores: dict[tuple[str, str], Score], chosen: list[Metric]) -> pd.DataFrame:
    """Tidy values by label or system."""
    of = {metric.name: metric.by for metric in chosen}
    rows = [
        {"embedding": embedding, "metric": metric, "by": of[metric], "name": str(name), "value": float(value)}
        for (embedding, metric), score in scores.items()
        if score.per_label is not None
        for name, value in score.per_label.items()
    ]
    return pd.DataFrame(rows, columns=["embedding", "metric", "by", "name", "value"])


def embedding_columns(table: pd.DataFrame) -> list[str]:
    """Columns of an evaluation's table that are embeddings."""
    return [str(column) for column in table.columns if column not in ("group", "in_score", "convention")]
