"""New cells in the form of the cells that a model was trained on: the same genes, normalised alike.

Shapes: n cells, G genes of the model.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from os import PathLike

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from sysvi._core.checks import (
    check_anndata,
    check_not_empty,
    check_obs_column,
    check_unique_names,
    get_expression,
    listing,
)
from sysvi._core.errors import InputError
from sysvi.data.cells import Vocabulary
from sysvi.data.columns import Columns
from sysvi.data.from_anndata import MIN_CELLS_PER_SYSTEM, ModelData, cells_from_anndata
from sysvi.data.gene_names import GeneMatch, match_genes
from sysvi.data.orthologs import map_orthologs, read_orthologs
from sysvi.data.prepare import detect_genes, log_normalise, read_genes
from sysvi.data.reference import Reference, count_cells
from sysvi.data.row_blocks import row_sliceable

WARN_MISSING, REFUSE_MISSING = 0.1, 0.5  # share of the model's genes that a query may lack without and with a warning
USUAL_TARGET_SUM = 1e4
OTHER_TOTAL = 3  # a total of log-normalised cells that is so many times as large or small is another normalisation
QUERY_KEY = "sysvi_query"


def prepare_query(
    adata: AnnData,
    columns: Columns,
    vocabulary: Vocabulary,
    reference: Reference,
    *,
    system_key: str | None = None,
    batch_key: str | None = None,
    layer: str | None = None,
    orthologs: pd.DataFrame | str | PathLike[str] | None = None,
    fractional_counts: bool = False,
    report: Callable[[str], None] = lambda line: None,
    stacklevel: int = 1,
) -> AnnData:
    """Give new cells the genes, the normalisation and the columns of those that a model was trained on.

    Parameters
    ----------
    adata
        The query: counts or log-normalised expression, with genes in any order; never changed.
    columns, vocabulary, reference
        Columns, genes and categories of the model, and the summary of the cells it was trained on.
    system_key, batch_key, layer
        Columns and layer of the query; by default those of the model, and ``X`` if the query has no such layer.
    orthologs
        Table of orthologues as in :func:`sysvi.map_orthologs`, if the query's genes are those of another species.
    fractional_counts
        Whether values with fractions are counts too, as in :func:`sysvi.prepare`.
    report
        Function that is called with one line of text after each step.
    stacklevel
        As in ``warnings.warn``, of the caller.

    Returns
    -------
    anndata.AnnData
        The cells with the model's genes, CSR float32 in the model's layer or ``X``, and the model's columns in ``obs``.
        A missing gene has its mean expression in the cell's system; in a new system, the mean over all systems. The
        names of the missing genes are in ``uns["sysvi_query"]``; of a model with genes that some systems lack, also
        those of these genes that the query does not have, ``"lacking_genes"``: new systems lack them.

    Raises
    ------
    InputError
        If more than half of the genes are missing, or columns or expression cannot be used.

    Warns
    -----
    UserWarning
        If more than a tenth of the genes are missing, genes are matched without regard to case, log-normalised cells
        have another total than those of the reference, or the model does not record how its cells were normalised.
    """
    check_anndata(adata)
    check_not_empty(adata)
    check_unique_names(adata)
    obs = _read_columns(adata, columns, vocabulary, system_key, batch_key)
    if layer is None and columns.layer in adata.layers:
        layer = columns.layer
    if orthologs is not None:
        adata = _rename(adata, orthologs, vocabulary.genes, report)
    where, matrix = get_expression(adata, layer)
    match, system = match_genes(adata.var_names, vocabulary.genes), obs[columns.system].to_numpy()
    found, needed = match.position >= 0, _needed(system, vocabulary)
    missing = ~found & needed
    of_systems = match._replace(position=match.position[needed])
    _report_genes(
        of_systems, adata.var_names, tuple(np.array(vocabulary.genes, object)[needed]), report, stacklevel + 1
    )

    matrix = row_sliceable(matrix)
    codes, systems = pd.factorize(system, sort=True)
    n_detected, is_counts = detect_genes(
        matrix, where, adata, codes, systems, None, fractional_counts, "sysvi.map_query or sysvi.extend_model"
    )
    kept = match.position[found]
    totals, share, target_sum = _totals(adata.var_names, reference)
    x, total, _ = read_genes(matrix, kept, int(n_detected[:, kept].sum()), totals)
    if is_counts:
        if reference.target_sum is None:
            warnings.warn(
                "The model does not record how its cells were normalised: the query's counts are normalised to 10,000 "
                "per cell over all its genes. If its cells were normalised in another way, normalise the query alike "
                "and take log1p.",
                stacklevel=stacklevel + 1,
            )
        report(f"The query is counts: normalised to {target_sum:g} per cell as the reference, then log1p")
        log_normalise(x, total / share, target_sum)
    else:
        report("The query is log-normalised: its values are used as they are")
        _check_total(x, np.array(vocabulary.genes)[found], reference, stacklevel + 1)
    full = sparse.csr_matrix(
        (x.data, np.flatnonzero(found)[x.indices], x.indptr), shape=(len(x.indptr) - 1, len(missing))
    )
    full.sort_indices()
    if missing.any():
        full = (full + _fill(system, missing, vocabulary, reference)).astype(np.float32)
    expression = {"X": full} if columns.layer is None else {"layers": {columns.layer: full}}
    genes, record = np.array(vocabulary.genes, dtype=object), {"missing_genes": missing}
    if vocabulary.own_genes is not None:
        record["lacking_genes"] = ~found & ~vocabulary.own_genes.all(axis=0)
    uns = {QUERY_KEY: {name: genes[mask] for name, mask in record.items()}}
    return AnnData(obs=obs, var=pd.DataFrame(index=pd.Index(vocabulary.genes)), uns=uns, **expression)


def read_query(
    adata: AnnData,
    columns: Columns,
    vocabulary: Vocabulary,
    reference: Reference,
    *,
    warn_of_large: bool = False,
    stacklevel: int = 1,
) -> ModelData:
    """Read prepared new cells in the terms of a model, extended by their new systems and categories.

    With `warn_of_large`, values that are too large for logarithms are warned about, not refused.

    Raises
    ------
    InputError
        If a new system has fewer than 10 cells.

    Warns
    -----
    UserWarning
        If a category has the name of one that the reference has in other systems only.
    """
    labels = {key: check_obs_column(adata, key, "covariate") for key in vocabulary.categorical}
    lacking = adata.uns.get(QUERY_KEY, {}).get("lacking_genes", ())
    extended = vocabulary.extend(check_obs_column(adata, columns.system, "system_key"), labels, lacking)
    cells = cells_from_anndata(adata, columns, extended, warn_of_large=warn_of_large)
    sizes, n_known = cells.system_size.numpy(), len(vocabulary.systems)
    for name, size in zip(extended.systems[n_known:], sizes[n_known:], strict=True):
        if size < MIN_CELLS_PER_SYSTEM:
            raise InputError(
                f"System {name!r} is new to the model, which knows {listing(vocabulary.systems)}, and has {size} "
                f"{'cell' if size == 1 else 'cells'}; a new system needs at least {MIN_CELLS_PER_SYSTEM}: check the "
                "names, or add cells."
            )
    for (key, known), before, now in zip(
        vocabulary.categorical.items(), reference.n_cells, count_cells(cells, extended), strict=True
    ):
        elsewhere = (now[:, : len(known)] > 0) & (np.pad(before, ((0, len(now) - len(before)), (0, 0))) == 0)
        if names := [known[i] for i in np.flatnonzero(elsewhere.any(axis=0))]:
            warnings.warn(
                f"{listing(names, 5)} of {key!r} in the query {'has' if len(names) == 1 else 'have'} the name of "
                f"{'a batch' if len(names) == 1 else 'batches'} that the reference has in another system, and "
                f"{'is' if len(names) == 1 else 'are'} taken as the same: if not so, rename.",
                stacklevel=stacklevel + 1,
            )
    return ModelData(columns, extended, cells, reference.extend(cells, extended))


def _needed(system: np.ndarray, vocabulary: Vocabulary) -> np.ndarray:
    """The genes that a system of the cells has; of a new system, those that all known systems have, (G,) bool."""
    own_genes, codes = vocabulary.own_genes, pd.Index(vocabulary.systems).get_indexer(pd.Index(np.unique(system)))
    if own_genes is None:
        return np.ones(len(vocabulary.genes), bool)
    needed = np.logical_or.reduce(own_genes[codes[codes >= 0]])
    return needed | np.logical_and.reduce(own_genes) if (codes < 0).any() else needed


def set_genes(adata: AnnData, layer: str | None, genes: np.ndarray, values: np.ndarray) -> None:
    """Replace the expression of some genes (positions) of prepared cells by other values, (n, genes)."""
    x = adata.X if layer is None else adata.layers[layer]
    others = np.ones(x.shape[1], np.float32)
    others[genes] = 0
    place = sparse.csr_matrix(
        (np.ones(len(genes), np.float32), (np.arange(len(genes)), genes)), (len(genes), x.shape[1])
    )
    replaced = sparse.csr_matrix(x @ sparse.diags(others) + sparse.csr_matrix(values) @ place, dtype=np.float32)
    replaced.sort_indices()
    if layer is None:
        adata.X = replaced
    else:
        adata.layers[layer] = replaced


def _read_columns(
    adata: AnnData, columns: Columns, vocabulary: Vocabulary, system_key: str | None, batch_key: str | None
) -> pd.DataFrame:
    """The columns that the model reads, under its names."""
    names = {name: name for name in columns.all}
    names[columns.system] = columns.system if system_key is None else system_key
    if batch_key is not None:
        if not columns.categorical_covariates:
            raise InputError("The model was trained without batches: leave batch_key out.")
        names[columns.categorical_covariates[0]] = batch_key
    values = {columns.system: check_obs_column(adata, names[columns.system], "system_key")}
    for i, name in enumerate(columns.categorical_covariates):
        values[name] = check_obs_column(adata, names[name], "covariate" if i else "batch_key")
    for name in columns.continuous:
        check_obs_column(adata, name, "continuous covariate")
        values[name] = adata.obs[name].to_numpy()
    return pd.DataFrame(values, index=adata.obs_names.copy())


def _rename(
    adata: AnnData,
    orthologs: pd.DataFrame | str | PathLike[str],
    genes: tuple[str, ...],
    report: Callable[[str], None],
) -> AnnData:
    """Rename the query's genes to those of the model's species: the column of the table with most of the model's."""
    table = read_orthologs(orthologs)
    target = max(map(str, table.columns), key=lambda name: pd.Index(genes).isin(table[name]).sum())
    return map_orthologs(adata, table, target=target, report=report)


def _report_genes(
    match: GeneMatch, names: pd.Index, genes: tuple[str, ...], report: Callable[[str], None], stacklevel: int
) -> None:
    """Say how genes were found and how many are missing, warn of many, and refuse too many."""
    missing = [gene for gene, i in zip(genes, match.position, strict=True) if i < 0]
    share = len(missing) / len(genes)
    spelling = (
        f"use names of the same kind (the query has {listing(names, 3)}; the model has {listing(genes, 3)}), or, if "
        "they are genes of another species, pass a table of orthologues (orthologs)"
    )
    if len(missing) == len(genes):
        raise InputError(f"The query has none of the model's {len(genes)} genes: {spelling}.")
    if share > REFUSE_MISSING:
        raise InputError(
            f"The query lacks {len(missing)} of the model's {len(genes)} genes ({share:.0%}), more than half: "
            f"{spelling}."
        )
    if match.by_version:
        gene, name = match.by_version[0]
        report(
            f"Found without regard to versions of Ensembl ids: {len(match.by_version)} genes, such as {name} as {gene}"
        )
    if match.by_case:
        gene, name = match.by_case[0]
        warnings.warn(
            f"{len(match.by_case)} of the model's {len(genes)} genes are found without regard to upper and lower case, "
            f"such as {name} as {gene}. If the query is of another species, pass a table of orthologues (orthologs): "
            "equal names are no proof.",
            stacklevel=stacklevel + 1,
        )
    line = f"Genes of the model that the query lacks: {len(missing)} of {len(genes)} ({share:.1%})"
    report(f"{line}; the model decodes their expression" if missing else line)
    if share > WARN_MISSING:
        warnings.warn(
            f"The query lacks {len(missing)} of the model's {len(genes)} genes ({share:.0%}; {listing(missing, 5)}): "
            "the model decodes their expression, and the embedding is less certain.",
            stacklevel=stacklevel + 1,
        )


def _totals(names: pd.Index, reference: Reference) -> tuple[np.ndarray, float, float]:
    """The genes over which counts are summed (a mask), the share of a cell's counts that they have, and the target."""
    if reference.target_sum is None:
        return np.ones(len(names), bool), 1.0, USUAL_TARGET_SUM
    position = match_genes(names, reference.total_genes).position
    totals = np.zeros(len(names), bool)
    totals[position[position >= 0]] = True
    return totals, float(np.asarray(reference.total_shares)[position >= 0].sum()), reference.target_sum


def _check_total(x: sparse.csr_matrix, genes: np.ndarray, reference: Reference, stacklevel: int) -> None:
    """Warn of log-normalised cells whose total is not that of the reference, as by another target or logarithm."""
    shares = pd.Series(np.asarray(reference.total_shares), index=list(reference.total_genes))
    expected = shares.reindex(genes).sum()  # of the target
    if reference.target_sum is None or not expected:
        return
    total = float(np.median(np.asarray(np.expm1(x).sum(axis=1)))) / expected
    if not 1 / OTHER_TOTAL < total / reference.target_sum < OTHER_TOTAL:
        warnings.warn(
            f"The query's values are logarithms of about {total:,.0f} counts per cell, but the reference was "
            f"normalised to {reference.target_sum:,.0f}: give counts, or normalise the query alike and take log1p.",
            stacklevel=stacklevel + 1,
        )


def _fill(system: np.ndarray, missing: np.ndarray, vocabulary: Vocabulary, reference: Reference) -> sparse.csr_matrix:
    """Mean expression of missing genes, (n, G): in the cell's system, or over all systems in a new one."""
    means = np.vstack([reference.gene_means, reference.gene_means.mean(axis=0)]) * missing
    codes = pd.Index(vocabulary.systems).get_indexer(pd.Index(system))
    return sparse.csr_matrix(means)[np.where(codes < 0, len(vocabulary.systems), codes)]
