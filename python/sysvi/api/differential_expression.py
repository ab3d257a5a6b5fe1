"""Expression that differs between groups of cells according to a model, with the arguments of scvi-tools.

Shapes: n cells, S samples, G genes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple
from warnings import catch_warnings, simplefilter, warn

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from scipy import sparse
from sklearn.covariance import EllipticEnvelope

from sysvi._core.arguments import check_types, row_numbers
from sysvi._core.checks import get_obs_column, is_missing, listing, to_text
from sysvi._core.errors import InputError
from sysvi._core.events import Event, OnEvent
from sysvi._core.memory import check_memory
from sysvi._core.progress import as_callback
from sysvi._core.seeds import generator, seed_of_32_bits
from sysvi._core.settings import Limits, number, random_seed, whole_number
from sysvi.api.ensemble import Ensemble
from sysvi.api.expression_change import call_genes, describe_change, describe_order
from sysvi.api.scvi_compat import check_sample_weights
from sysvi.api.sysvi import SysVI, posteriors
from sysvi.api.translate import AVERAGE, Target, find_target, read_cells
from sysvi.data.cells import Cells
from sysvi.data.logarithm import natural_units
from sysvi.model.decode import decode

REST = "Rest"
COPIES = 5  # arrays of samples x genes, float32, that are in memory at the same time
POSITIVE, SHARE = Limits(min=0, min_open=True), Limits(min=0, max=1, min_open=True, max_open=True)
ONE_DONOR = (
    "{groups} cells of a single batch, so that what differs between the groups cannot be told from what differs "
    "between donors: the probabilities hold for these cells only."
)


class Comparison(NamedTuple):
    """Two groups of cells: their names, None where rows were given, and their rows."""

    group1: str | None
    group2: str | None
    rows1: np.ndarray
    rows2: np.ndarray


def differential_expression(
    model: SysVI | Ensemble,
    adata: AnnData,
    groupby: str | None = None,
    group1: Sequence[str] | str | None = None,
    group2: str | None = None,
    idx1: Sequence[int] | np.ndarray | str | None = None,
    idx2: Sequence[int] | np.ndarray | str | None = None,
    mode: Literal["change", "vanilla"] = "change",
    delta: float = 0.25,
    batch_size: int | None = None,
    all_stats: bool = True,
    batch_correction: bool = False,
    batchid1: Sequence[str] | None = None,
    batchid2: Sequence[str] | None = None,
    fdr_target: float = 0.05,
    *,
    filter_outlier_cells: bool = False,
    n_samples_overall: int = 5000,
    test_mode: Literal["two", "three"] = "three",
    pseudocounts: float = 1.0,
    cred_interval_lvls: Sequence[float] | None = None,
    layer: str | None = None,
    seed: int | None = None,
    progress: bool | OnEvent = True,
) -> pd.DataFrame:
    """Compare the expression that a model decodes for two groups of cells, with the arguments of scvi-tools.

    **Cells are not replicates.** All probabilities are about the cells at hand and the model of them: more cells of the
    same donors make them more extreme, and what differs between donors appears as a difference of the groups. Where
    genes are to be reported, test over donors, with :func:`sysvi.compare_systems` between systems, or with limma,
    edgeR or DESeq2 on sums of the counts of each donor (pseudobulk). docs/compare-systems.md measures how many genes
    are called wrongly here and there.

    Cells of each group are drawn at random, and of each a sample of its embedding, which is decoded; of an ensemble,
    the mean over what the members decode. With ``mode="change"``, each pair of such samples gives the log2 fold change
    of the first group over the second, and a gene is called by the probability that this change exceeds `delta`. With
    ``mode="vanilla"``, the probability is that of any rise, however small.

    Parameters
    ----------
    model
        A trained model (:func:`sysvi.integrate`, :func:`sysvi.load`). Its genes are compared.
    adata
        The cells, as counts or log-normalised, of systems and batches that the model knows, under the names of its
        columns; as for :func:`sysvi.translate`. Not changed.
    groupby
        Column of ``adata.obs`` with the groups. Cells without a value are in no group.
    group1
        First group, or several, each of which is compared; by default each group of the column.
    group2
        Second group; by default all cells of the other groups.
    idx1, idx2
        Cells of both groups in place of `groupby`: row numbers, a mask or a condition for ``adata.obs.query``. Without
        `idx2`, all other cells are the second group.
    mode
        ``"change"`` or ``"vanilla"``.
    delta
        Log2 fold change, above 0 or 0, that counts as a change.
    batch_size
        Number of cells to decode at a time; by default chosen for the device.
    all_stats
        Add means and detection of the measured expression of both groups.
    batch_correction
        Decode all cells under the same conditions: the mean over systems, in each of them over its batches, weighted by
        their number of cells. False: each cell in its own system and batch.
    batchid1, batchid2
        With `batch_correction`, names of the **systems** (scvi-tools' batches) in which the first and the second group
        are decoded; all by default.
    fdr_target
        Expected false discovery rate of the genes that are called, between 0 and 1.
    filter_outlier_cells
        Leave out the tenth of the cells of each group that lies farthest out in the embedding.
    n_samples_overall
        Number of samples of each group.
    test_mode
        ``"three"``: a gene is called by the larger of the probabilities of a rise and of a fall; ``"two"``: by their
        sum, so that it may rise in some cells and fall in others.
    pseudocounts
        Added to normalised expression before ratios are taken, above 0. With 1, the log fold change is the difference
        of the log-normalised values.
    cred_interval_lvls
        Probabilities of credible intervals of the log2 fold change to add, such as ``[0.95]``.
    layer
        Layer with the expression; by default that of the model, or ``adata.X`` if there is none of this name.
    seed
        Random seed of the samples; by default the model's.
    progress
        True shows what is done, False is silent, a function is called with each :class:`sysvi.Event`.

    Returns
    -------
    pandas.DataFrame
        A row for each gene, whose names are the index, one comparison after another; the columns are scvi-tools'.

        - ``proba_de``, ``proba_not_de``, ``bayes_factor``: probability of a change beyond `delta`, of none, and the
          natural logarithm of their ratio, by which rows are ordered.
        - ``scale1``, ``scale2``: mean decoded expression of both groups, log-normalised (natural logarithm).
        - ``pseudocounts``, ``delta``: as given.
        - ``lfc_mean``, ``lfc_median``, ``lfc_std``, ``lfc_min``, ``lfc_max``: log2 fold change of group 1 over group 2
          between pairs of cells; ``lfc_confidence_interval_0.95_min``, ``..._max``: the shortest interval with this
          share of them.
        - ``raw_mean1``, ``raw_mean2``: mean of the measured log-normalised expression; ``non_zeros_proportion1``,
          ``non_zeros_proportion2``: share of cells in which it is not 0; ``raw_normalized_mean1``,
          ``raw_normalized_mean2``: mean normalised expression, not its logarithm.
        - ``is_de_fdr_0.05``: whether a gene is called, named by `fdr_target`.
        - ``comparison``, ``group1``, ``group2``: the groups; absent with `idx1`.

        With ``mode="vanilla"``, ``proba_m1``, ``proba_m2`` (probabilities of higher and of lower expression in group 1)
        and their ``bayes_factor`` take the place of the columns on the change, and no genes are called.

    Raises
    ------
    InputError
        If the model is not trained, has genes that some systems lack, or does not know the systems or batches of the
        cells; groups are unknown, empty or overlap; or the samples do not fit into memory.

    Warns
    -----
    UserWarning
        If all cells of a group are of one batch.

    See Also
    --------
    sysvi.compare_systems : tests genes that differ between systems in one label, with donors as replicates.

    References
    ----------
    Lopez et al., Deep generative modeling for single-cell transcriptomics, Nature Methods (2018): "vanilla". Boyeau et
    al., An empirical Bayes method for differential expression analysis of single cells with deep generative models,
    PNAS (2023): "change". Newton et al., Detecting differential gene expression with a semiparametric hierarchical
    mixture method, Biostatistics (2004): the expected false discovery rate. Squair et al., Confronting false
    discoveries in single-cell differential expression, Nature Communications (2021): donors as replicates.

    Examples
    --------
    >>> import sysvi
    >>> adata = sysvi.prepare(sysvi.datasets.simulate_systems(300, 200, seed=1), "system", "batch", min_cells=3)
    >>> model = sysvi.integrate(adata, "system", "batch", members=2, max_epochs=2, progress=False)
    >>> table = sysvi.differential_expression(model, adata, "cell_type", "type1", "type2", progress=False)
    >>> table.shape == (adata.n_vars, 22)
    True
    >>> called = table.index[table["is_de_fdr_0.05"]]
    """
    given = {"groupby": groupby, "group1": group1, "group2": group2, "mode": mode, "all_stats": all_stats}
    given |= {"batch_correction": batch_correction, "batchid1": batchid1, "batchid2": batchid2, "layer": layer}
    given |= {"filter_outlier_cells": filter_outlier_cells, "test_mode": test_mode}
    check_types(differential_expression, model=model, adata=adata, cred_interval_lvls=cred_interval_lvls, **given)
    delta = number("delta", delta, Limits(min=0))
    fdr_target = number("fdr_target", fdr_target, SHARE)
    pseudocounts = number("pseudocounts", pseudocounts, POSITIVE)
    levels = () if cred_interval_lvls is None else cred_interval_lvls
    levels = [number("cred_interval_lvls", level, SHARE) for level in levels]
    n_samples = whole_number("n_samples_overall", n_samples_overall, 2)
    batch_size = None if batch_size is None else whole_number("batch_size", batch_size, 1)
    seed = model.seed if seed is None else random_seed(seed)
    on_event = as_callback(progress)
    first = model.members[0]
    first.summary()  # which refuses untrained models
    if first.vocabulary.lacking:
        raise InputError(
            "The model has genes that some systems lack (genes='union'), which cannot be compared between groups of "
            "cells of several systems: compare the systems with sysvi.compare_systems, or integrate the genes that all "
            "systems have."
        )
    comparisons = _comparisons(adata, groupby, group1, group2, idx1, idx2)
    n_genes = len(first.vocabulary.genes)
    check_memory(
        4 * COPIES * n_samples * n_genes,
        f"The decoded expression of {n_samples:,} samples of two groups and {n_genes:,} genes",
        "lower n_samples_overall",
    )
    places = [_systems(first, names, batch_correction, f"batchid{i}") for i, names in ((1, batchid1), (2, batchid2))]

    cells = read_cells(model.members, adata, layer, on_event)
    targets1, targets2 = ([_target(first, cells, system) for system in systems] for systems in places)
    for message in dict.fromkeys(text for target in targets1 + targets2 for text in target.warnings):
        warn(message, stacklevel=2)
    if single := [name for comparison in comparisons for name in _single_donor(cells, comparison)]:
        names = list(dict.fromkeys(single))
        warn(ONE_DONOR.format(groups=f"{listing(names)} {'has' if len(names) == 1 else 'have'}"), stacklevel=2)
    used = np.unique(np.concatenate([rows for comparison in comparisons for rows in comparison[2:]]))
    embeddings = posteriors(model.members, cells, used, batch_size)
    if filter_outlier_cells:
        z = _combined(model, embeddings, cells.covariates.system.cpu().numpy()[used])
        comparisons = [_without_outliers(comparison, used, z, seed) for comparison in comparisons]

    unit = natural_units(cells.x, on_event)
    tables = []
    for comparison in comparisons:
        n_cells = len(comparison.rows1), len(comparison.rows2)
        message = f"Comparing {n_cells[0]:,} with {n_cells[1]:,} cells in {n_samples:,} samples of each"
        on_event(Event("compare", message, {"cells": sum(n_cells)}))
        noise = generator(seed, "sample")  # the same for each comparison, whichever others there are
        samples = [
            _sample(model.members, cells, embeddings, used, rows, targets, n_samples, batch_size, noise)
            for rows, targets in ((comparison.rows1, targets1), (comparison.rows2, targets2))
        ]
        if mode == "change":
            found = describe_change(
                *(x if unit == 1 else x * np.float32(unit) for x in samples),
                delta=delta,
                test_mode=test_mode,
                pseudocounts=pseudocounts,
                levels=levels,
            )
        else:
            found = describe_order(*samples)
        if all_stats:
            found |= _measured(cells.x, comparison.rows1, "1", unit)
            found |= _measured(cells.x, comparison.rows2, "2", unit)
        table = pd.DataFrame(found, index=pd.Index(first.vocabulary.genes, name="gene"))
        table = table.sort_values("proba_de" if mode == "change" else "bayes_factor", ascending=False, kind="stable")
        if mode == "change":
            table[f"is_de_fdr_{fdr_target:g}"] = call_genes(table["proba_de"].to_numpy(), fdr_target)
        if comparison.group1 is not None:
            table["comparison"] = f"{comparison.group1} vs {comparison.group2}"
            table["group1"], table["group2"] = comparison.group1, comparison.group2
        tables.append(table)
    return pd.concat(tables)


def _comparisons(
    adata: AnnData,
    groupby: str | None,
    group1: Sequence[str] | str | None,
    group2: str | None,
    idx1: Sequence[int] | np.ndarray | str | None,
    idx2: Sequence[int] | np.ndarray | str | None,
) -> list[Comparison]:
    """The groups of cells that are compared, from names of groups or from rows."""
    if idx1 is not None:
        if not (groupby is None and group1 is None and group2 is None):
            raise InputError("Cells are given twice, by idx1 and by groupby, group1 or group2: leave one out.")
        rows1 = _rows(adata, idx1, "idx1")
        others = np.setdiff1d(np.arange(adata.n_obs), rows1)
        rows2 = others if idx2 is None else _rows(adata, idx2, "idx2")
        for name, rows in (("idx1", rows1), ("idx2", rows2)):
            if not len(rows):
                raise InputError(f"{name} has no cells: there is nothing to compare.")
        if n_both := len(np.intersect1d(rows1, rows2)):
            raise InputError(f"idx1 and idx2 have {n_both} cells in common: give each cell to one group.")
        return [Comparison(None, None, rows1, rows2)]
    if groupby is None or idx2 is not None:
        raise InputError(
            "There are no groups to compare: name the column of adata.obs with them (groupby), or give rows (idx1)."
        )
    column = get_obs_column(adata, groupby, "groupby")
    label = to_text(column)
    label[is_missing(column)] = None
    known = sorted({name for name in label if name is not None})
    first = known if group1 is None else [group1] if isinstance(group1, str) else list(dict.fromkeys(group1))
    if unknown := [name for name in [*first, group2] if name is not None and name not in known]:
        raise InputError(
            f"adata.obs[{groupby!r}] has no group {listing(map(repr, unknown), 5)}: choose of {listing(known, 10)}."
        )
    if group1 is None:
        first = [name for name in first if name != group2]
    elif group2 in first:
        raise InputError(f"group1 and group2 are both {group2!r}: name two different groups.")
    if not first or len(known) < 2:
        raise InputError(f"adata.obs[{groupby!r}] has fewer than two groups: there is nothing to compare.")
    return [
        Comparison(
            name,
            REST if group2 is None else group2,
            np.flatnonzero(label == name),
            np.flatnonzero(pd.notna(label) & (label != name) if group2 is None else label == group2),
        )
        for name in first
    ]


def _rows(adata: AnnData, given: Sequence[int] | np.ndarray | str, argument: str) -> np.ndarray:
    """Row numbers, each once, from a list, a mask or a condition."""
    if not isinstance(given, str):
        return np.unique(row_numbers(given, adata.n_obs, argument))
    numbered = adata.obs.assign(**{"_row": np.arange(adata.n_obs)})
    try:
        return np.sort(numbered.query(given)["_row"].to_numpy())
    except Exception as error:  # pandas raises errors of many classes for conditions that it cannot read
        raise InputError(f"{argument} is {given!r}, which is no condition on columns of adata.obs: {error}.") from error


def _systems(model: SysVI, names: Sequence[str] | None, batch_correction: bool, argument: str) -> Sequence[int | None]:
    """Codes of the systems in which a group is decoded; None stands for each cell's own."""
    known = model.vocabulary.systems
    if not batch_correction:
        if names is not None:
            raise InputError(
                f"{argument} needs batch_correction=True: without it, each cell is decoded in its own system."
            )
        return [None]
    names = list(known if names is None else dict.fromkeys(names))
    if not names:
        raise InputError(f"{argument} is empty: name systems of {listing(known)}, or leave it out for all.")
    if unknown := [name for name in names if name not in known]:
        raise InputError(f"{argument} names {listing(unknown)}, but the model knows the systems {listing(known)}.")
    return [known.index(name) for name in names]


def _target(model: SysVI, cells: Cells, system: int | None) -> Target:
    """Conditions under which cells are decoded: those of each cell, or the average over the batches of a system."""
    to_batch = AVERAGE if system is not None and model.vocabulary.categorical else None
    return find_target(model, cells, system, to_batch)


def _single_donor(cells: Cells, comparison: Comparison) -> list[str]:
    """Names of the groups whose cells are all of one batch, if there are batches."""
    batch = cells.covariates.categorical[:, :1].cpu().numpy()
    if not batch.shape[1]:
        return []
    donor = np.hstack([cells.covariates.system.cpu().numpy()[:, None], batch])
    names = (comparison.group1 or "The first group", comparison.group2 or "The second group")
    return [
        name if comparison.group1 is None else f"Group {name!r}"
        for name, rows in zip(names, comparison[2:], strict=True)
        if len(np.unique(donor[rows], axis=0)) == 1
    ]


def _combined(
    model: SysVI | Ensemble, embeddings: Sequence[tuple[torch.Tensor, torch.Tensor]], system: np.ndarray
) -> np.ndarray:
    """The embedding of some cells from those of the members."""
    means = [mean.numpy() for mean, _ in embeddings]
    return model.combine(means, system) if isinstance(model, Ensemble) else means[0]


def _without_outliers(comparison: Comparison, used: np.ndarray, z: np.ndarray, seed: int) -> Comparison:
    """The groups without the cells that lie farthest out; a group of too few cells stays as it is."""

    def inliers(rows: np.ndarray) -> np.ndarray:
        if len(rows) <= 2 * z.shape[1]:
            warn(f"A group of {len(rows)} cells is too small to find outliers in: all are kept.", stacklevel=4)
            return rows
        with catch_warnings():
            simplefilter("ignore")  # of embeddings with a dimension that hardly varies
            envelope = EllipticEnvelope(random_state=seed_of_32_bits(seed))
            return rows[envelope.fit_predict(z[np.searchsorted(used, rows)]) == 1]

    return comparison._replace(rows1=inliers(comparison.rows1), rows2=inliers(comparison.rows2))


def _sample(
    members: Sequence[SysVI],
    cells: Cells,
    embeddings: Sequence[tuple[torch.Tensor, torch.Tensor]],
    embedded: np.ndarray,
    rows: np.ndarray,
    targets: Sequence[Target],
    n_samples: int,
    batch_size: int | None,
    noise: torch.Generator,
) -> np.ndarray:
    """Decoded expression of samples of random cells of a group, (S, G): the mean over members and targets."""
    drawn = rows[torch.randint(len(rows), (n_samples,), generator=noise).numpy()]
    place = torch.from_numpy(np.searchsorted(embedded, drawn))
    index = torch.from_numpy(drawn).to(cells.device)
    genes = np.arange(len(members[0].vocabulary.genes))
    total = np.zeros((n_samples, len(genes)), np.float32)
    for member, (mean, var) in zip(members, embeddings, strict=True):
        z = mean[place] + var[place].sqrt() * torch.randn((n_samples, mean.shape[1]), generator=noise)
        for target in targets:
            covariates, batches = target.select(index)
            total += decode(member.module, z, covariates, genes, batches, batch_size)
    total /= np.float32(len(members) * len(targets))
    return total


def _measured(x: sparse.csr_matrix, rows: np.ndarray, suffix: str, unit: float) -> dict[str, np.ndarray]:
    """Means and detection of the measured expression of a group, (G,) each; `unit` as of `natural_units`."""
    chosen = x[rows].astype(np.float64)
    found = {"raw_mean": chosen, "non_zeros_proportion": chosen != 0, "raw_normalized_mean": (chosen * unit).expm1()}
    return {name + suffix: np.asarray(values.mean(axis=0)).ravel() for name, values in found.items()}


def as_scvi_tools(
    model: SysVI | Ensemble,
    adata: AnnData | None,
    groups: Mapping[str, Any],
    settings: Mapping[str, Any],
    further: Mapping[str, Any],
    *,
    silent: bool,
    weights: str | None,
    importance_weighting_kwargs: Mapping[str, Any] | None,
    dataloader: None,
) -> pd.DataFrame:
    """The method `differential_expression` of models; `further` are arguments that scvi-tools passes on."""
    check_sample_weights(weights)
    for name, value in (("importance_weighting_kwargs", importance_weighting_kwargs), ("dataloader", dataloader)):
        if value:
            raise InputError(f"{name} is not supported: leave it out, and give the cells as adata.")
    known = {"n_samples_overall", "test_mode", "pseudocounts", "cred_interval_lvls"}
    if unknown := sorted(set(further) - known):
        raise InputError(
            f"differential_expression has no argument {listing(unknown)}; of those that scvi-tools passes on, it has "
            f"{listing(sorted(known))}."
        )
    own = model.adata if adata is None else adata
    if own is None:
        raise InputError("This model was loaded without data: pass adata.")
    arguments: dict[str, Any] = {**groups, **settings, **further, "progress": not silent}
    return differential_expression(model, own, **arguments)
