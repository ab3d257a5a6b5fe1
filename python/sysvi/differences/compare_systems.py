"""Comparison of the expression of systems, label by label, with donors as replicates.

Shapes: n cells, D donors, T labels, K other labels, G genes.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from warnings import warn

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray

from sysvi._core.arguments import check_types
from sysvi._core.checks import check_obs_column, listing
from sysvi._core.errors import InputError
from sysvi._core.events import Event, OnEvent
from sysvi._core.progress import as_callback
from sysvi._core.settings import whole_number
from sysvi.api.ensemble import Ensemble
from sysvi.api.sysvi import SysVI, posteriors
from sysvi.api.translate import decoded_blocks, find_target, read_cells
from sysvi.data.cells import Cells
from sysvi.data.logarithm import natural_units
from sysvi.differences.label_comparison import compare_label
from sysvi.differences.profiles import MIN_DONORS, Floats, Ints, Profiles, choose_others, donor_profiles
from sysvi.metrics._labels import read_labels_with_warning

IN_ONE_SYSTEM = "Labels in one system only are left out: {labels}."
TOO_FEW_CELLS = (
    "Labels are left out, since no donors of both systems have {min_cells} cells of them and of another label: "
    "{labels}. Lower min_cells to compare them."
)
TOO_FEW_DONORS = (
    f"Labels have no p-values, since a system has fewer than {MIN_DONORS} donors with {{min_cells}} cells of them and "
    "of the labels with which they are compared, so that a difference between systems cannot be told from one between "
    "donors: {labels}."
)


def compare_systems(
    model: SysVI | Ensemble,
    adata: AnnData,
    label_key: str,
    *,
    systems: Sequence[str] | None = None,
    batch_key: str | None = None,
    layer: str | None = None,
    min_cells: int = 10,
    batch_size: int | None = None,
    progress: bool | OnEvent = True,
) -> pd.DataFrame:
    """Find genes that differ between systems in one label only, and genes that mark a label in both systems.

    Donors are the replicates: the cells of a label in a donor become one profile, the mean of their normalised
    expression, and p-values come from the differences between donors (a t-test with variances that are moderated over
    genes, as in limma, in which profiles with few counts weigh less). The measured cells are tested, never decoded
    ones: docs/compare-systems.md measures why, and where the tests fail.

    For each label that two systems share, a gene's **effect** is its difference between the systems in this label,
    minus its median difference in the other labels: what differs between the systems in all labels, such as the share
    of a gene in all cells of a species, is left out. Its **marker** effect in a system is its difference between the
    label and the mean of the other labels.

    Parameters
    ----------
    model
        A trained model (:func:`sysvi.integrate`, :func:`sysvi.load`). Its genes are compared; of a model of genes that
        some systems lack, those that both systems have.
    adata
        The cells, as counts or log-normalised (natural logarithm of 1 + value), of systems and batches that the model
        knows, under the names of its columns; as for :func:`sysvi.translate`. Not changed.
    label_key
        Column of ``adata.obs`` with the labels: cell types, or finer states. Unlabelled cells are left out.
    systems
        Names of the systems to compare, two or more; by default all of the model. Of more than two, each pair is
        compared.
    batch_key
        Column of ``adata.obs`` with the donors; by default the batches of the model. Give it if a donor has several
        batches (libraries), which are no replicates. The same name in two systems means two replicates.
    layer
        Layer with the expression; by default that of the model, or ``adata.X`` if there is none of this name.
    min_cells
        Smallest number of cells of a label in a donor that make a profile, at least 1.
    batch_size
        Number of cells to decode at a time; by default chosen for the device.
    progress
        True shows what is done, False is silent, a function is called with each :class:`sysvi.Event`.

    Returns
    -------
    pandas.DataFrame
        One row for each label, pair of systems and gene; within a label, the smallest p-value first.

        - ``label``, ``gene``, ``system_1``, ``system_2``.
        - ``n_donors_1``, ``n_donors_2``: number of donors of each system that take part.
        - ``n_other_labels``: number of other labels with which the label is compared.
        - ``effect``: log2 fold change of system 2 over system 1 in this label, beyond that in the others.
        - ``model_effect``: the same, of the expression that the model decodes for each cell without noise.
        - ``p``, ``fdr``: two-sided p-value of the effect, and its false discovery rate over the genes of this label and
          pair (Benjamini and Hochberg). NaN for genes with too few counts, and with fewer than two donors of a system.
        - ``marker_1``, ``marker_2``: log2 fold change of the label over the other labels in each system.
        - ``marker_p``, ``marker_fdr``: p-value of the gene being a marker in both systems, the larger of both one-sided
          ones, and its false discovery rate: a conserved marker has a small one.

    Raises
    ------
    InputError
        If the model is not trained or does not know the systems or batches of the cells; fewer than two systems are
        compared; the model has no batches and no donors are given; or the systems do not share two labels with enough
        cells.

    Warns
    -----
    UserWarning
        If labels are in one system only, or have too few cells in a system (both are left out), or are compared without
        p-values, since a system has fewer than two donors of them.

    See Also
    --------
    sysvi.plot_volcano, sysvi.plot_specific_genes : figures of the table.
    sysvi.translate : the decoded expression itself.

    References
    ----------
    Squair et al., Confronting false discoveries in single-cell differential expression, Nature Communications (2021):
    donors as replicates. Smyth, Statistical Applications in Genetics and Molecular Biology (2004): moderated t-tests.
    Law et al., Genome Biology (2014): precision weights.

    Examples
    --------
    >>> import sysvi
    >>> adata = sysvi.datasets.simulate_systems(600, 200, n_types=3, n_private=0, n_samples=3, seed=1)
    >>> adata = sysvi.prepare(adata, "system", "batch", min_cells=3)
    >>> model = sysvi.integrate(adata, "system", "batch", members=2, max_epochs=2, progress=False)
    >>> table = sysvi.compare_systems(model, adata, "cell_type", progress=False)
    >>> table.groupby("label").size().to_dict()
    {'type1': 198, 'type2': 198, 'type3': 198}
    >>> specific = table[table["fdr"] < 0.05]
    >>> conserved_markers = table[table["marker_fdr"] < 0.05]
    """
    check_types(compare_systems, model=model, adata=adata, label_key=label_key, systems=systems, layer=layer)
    check_types(compare_systems, batch_key=batch_key)
    min_cells = whole_number("min_cells", min_cells, 1)
    batch_size = None if batch_size is None else whole_number("batch_size", batch_size, 1)
    on_event = as_callback(progress)
    first = model.members[0]
    first.summary()  # which refuses untrained models
    pairs = _pairs(systems, first.vocabulary.systems)
    label, labelled = read_labels_with_warning(adata, label_key)
    labels, label_code = np.unique(label[labelled].astype(str), return_inverse=True)
    code = np.full(adata.n_obs, -1)
    code[labelled] = label_code
    donor, donor_system = _donors(adata, first, batch_key)

    cells = read_cells(model.members, adata, layer, on_event)
    unit = natural_units(cells.x, on_event)
    measured = donor_profiles(cells.x, donor, code, unit)
    genes, own_genes = np.array(first.vocabulary.genes, object), first.vocabulary.own_genes
    on_event(Event("compare", f"Decoding {cells.n_cells:,} cells in their own systems", {"cells": cells.n_cells}))
    decoded = _decoded_profiles(model.members, cells, donor, code, measured, batch_size, unit)
    tables: list[pd.DataFrame] = []
    notes: dict[str, list[str]] = {sentence: [] for sentence in (IN_ONE_SYSTEM, TOO_FEW_CELLS, TOO_FEW_DONORS)}
    for pair in pairs:
        rows = np.flatnonzero(np.isin(donor_system, pair))
        of_pair = [first.vocabulary.systems.index(name) for name in pair]
        in_both = np.full(len(genes), True) if own_genes is None else np.logical_and(*own_genes[of_pair])
        profiles = Profiles(measured.mean[rows][:, :, in_both], measured.n_cells[rows], measured.unit[rows])
        decoded_in_both = decoded[rows][:, :, in_both]
        system = (donor_system[rows] == pair[1]).astype(np.int64)
        n_cells = np.stack([profiles.n_cells[system == k].sum(axis=0) for k in (0, 1)])  # (2, T)
        for i, name in enumerate(labels.tolist()):
            if (n_cells[:, i] == 0).any():
                notes[IN_ONE_SYSTEM] += [f"{name} ({pair[k]})" for k in (0, 1) if n_cells[k, i]]
                continue
            donors, others = choose_others(profiles.n_cells >= min_cells, system, i)
            if not len(donors):
                notes[TOO_FEW_CELLS].append(name)
                continue
            n_donors = np.bincount(system[donors], minlength=2)
            if n_donors.min() < MIN_DONORS:
                notes[TOO_FEW_DONORS].append(f"{name} ({n_donors[0]} of {pair[0]}, {n_donors[1]} of {pair[1]})")
            found = compare_label(*_select(profiles, decoded_in_both, donors, [i, *others]), system[donors])
            names = {"label": name, "gene": genes[in_both], "system_1": pair[0], "system_2": pair[1]}
            sizes = {"n_donors_1": n_donors[0], "n_donors_2": n_donors[1], "n_other_labels": len(others)}
            tables.append(pd.DataFrame(names | sizes | found).sort_values("p", kind="stable"))
    for sentence, named in notes.items():
        if named:
            warn(sentence.format(labels=listing(dict.fromkeys(named)), min_cells=min_cells), stacklevel=2)
    if not tables:
        raise InputError(
            f"Nothing can be compared: no donors of two systems have at least {min_cells} cells of the same two labels "
            f"of adata.obs[{label_key!r}]. Lower min_cells, or choose coarser labels."
        )
    return pd.concat(tables, ignore_index=True)


def _pairs(systems: Sequence[str] | None, known: Sequence[str]) -> list[tuple[str, str]]:
    """The pairs of systems that are compared."""
    names = list(known if systems is None else systems)
    if unknown := [name for name in names if name not in known]:
        raise InputError(f"systems names {listing(unknown)}, but the model knows the systems {listing(known)}.")
    if len(set(names)) < max(len(names), 2):
        raise InputError(f"systems is {names!r}: name two or more different systems of {listing(known)}.")
    return list(combinations(names, 2))


def _donors(adata: AnnData, model: SysVI, batch_key: str | None) -> tuple[Ints, NDArray[np.object_]]:
    """Donor of each cell, a code (n,), and the name of the system of each donor, (D,)."""
    columns = model.columns
    key = columns.batch if batch_key is None else batch_key
    if key is None:
        raise InputError(
            "The model does not say which column has the batches, so there are no replicates: name the column of "
            "adata.obs with the donors (batch_key)."
        )
    system = check_obs_column(adata, columns.system, "system_key")
    batch = check_obs_column(adata, key, "batch_key")
    keys = pd.MultiIndex.from_arrays([system, batch])
    donor, names = pd.factorize(keys, sort=True)
    return donor.astype(np.int64), names.get_level_values(0).to_numpy(dtype=object)


def _decoded_profiles(
    members: Sequence[SysVI],
    cells: Cells,
    donor: Ints,
    label: Ints,
    measured: Profiles,
    batch_size: int | None,
    unit: float,
) -> Floats:
    """Mean decoded expression, not logarithms, of each label in each donor, (D, T, G); `unit` as of `natural_units`."""
    total = np.zeros_like(measured.mean)
    target = find_target(members[0], cells, None, None)
    genes, start = np.arange(total.shape[2]), 0
    embeddings = [mean for mean, _ in posteriors(members, cells, np.arange(cells.n_cells), batch_size)]
    for block in decoded_blocks(members, embeddings, cells, target, genes, batch_size):
        rows = slice(start, start + len(block))
        used = label[rows] >= 0
        np.add.at(total, (donor[rows][used], label[rows][used]), np.expm1(unit * block[used].astype(np.float64)))
        start += len(block)
    return total / np.maximum(measured.n_cells, 1)[:, :, None]


def _select(profiles: Profiles, decoded: Floats, donors: Ints, labels: Sequence[int]) -> tuple[Floats, Floats, Floats]:
    """Profiles of some donors and labels: measured and decoded, (D, 1 + K, G), and what one count is, (D, 1 + K)."""
    chosen = np.ix_(donors, np.asarray(labels))
    return profiles.mean[chosen], decoded[chosen], profiles.unit[chosen]
