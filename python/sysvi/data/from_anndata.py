"""From an AnnData to the cells that a model trains on, and the checks on the way.

Shapes: n cells, G genes, P categorical and Q continuous covariates.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import NamedTuple, NoReturn

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from scipy import sparse

from sysvi._core.checks import (
    check_anndata,
    check_finite_nonnegative,
    check_key,
    check_log_normalised,
    check_not_counts,
    check_not_empty,
    check_obs_column,
    check_shared_genes,
    check_unique_names,
    get_expression,
    listing,
    looks_like_counts,
    refuse_counts,
    refuse_fractional_counts,
)
from sysvi._core.errors import InputError
from sysvi._core.ranks import ALONE, Ranks, Share
from sysvi.data.cells import Cells, Vocabulary
from sysvi.data.columns import Columns
from sysvi.data.own_genes import lacking_genes, read_own_genes
from sysvi.data.prepare import was_shuffled
from sysvi.data.reference import Reference
from sysvi.data.row_blocks import check_sparse, computed, read_rows, select_genes
from sysvi.data.stored import SharedExpression, StoredExpression

MIN_CELLS_PER_SYSTEM = 10  # smaller systems are refused
SMALL_SYSTEM = 256  # systems with fewer cells than this are warned about: they do not fill one minibatch
MANY_CATEGORIES = 50  # a covariate with more, most of them of a single cell, is warned about
SETUP_KEY = "sysvi_setup"


class ModelData(NamedTuple):
    """What a model needs of an AnnData; models that are trained on the same cells share it."""

    columns: Columns
    vocabulary: Vocabulary
    cells: Cells
    reference: Reference


def read_data(
    adata: AnnData,
    columns: Columns,
    warn_of_large: bool = False,
    window_cells: int | None = None,
    ranks: Ranks = ALONE,
) -> ModelData:
    """Read and check the cells to train on, and warn of data on which integration is likely to be poor.

    Parameters
    ----------
    adata, columns
        The data, and the columns and the layer to read.
    warn_of_large
        Whether values that are too large for logarithms are warned about, not refused.
    window_cells
        Number of cells whose expression is in memory at a time, if it is to stay on disk; None to read all.
    ranks
        The processes that train together; each reads the expression of its own cells.

    Raises
    ------
    InputError
        As `read_vocabulary` and `cells_from_anndata`, and if the expression is zero in all cells or systems name their
        genes differently.
    """
    check_anndata(adata)
    values = _checked_values(adata, columns)
    vocabulary = _vocabulary(adata, columns, values)
    cells = _encode(
        adata,
        columns,
        vocabulary,
        values,
        warn_of_large=warn_of_large,
        window_cells=window_cells,
        share=Share.of(ranks, adata.n_obs),
    )
    if not cells.scan().n_values.any():
        where, _ = get_expression(adata, columns.layer)
        raise InputError(f"{where} is zero in all cells: choose the layer that holds the expression.")
    for message in (*data_warnings(cells, vocabulary), *_shared_batch_warnings(cells, columns, vocabulary)):
        warnings.warn(message, stacklevel=3)  # the line that called the public function
    return ModelData(columns, vocabulary, cells, Reference.of_cells(cells, vocabulary, adata, columns.layer))


def read_vocabulary(adata: AnnData, columns: Columns) -> Vocabulary:
    """Read genes, systems and categories from the data and check them; the expression itself is not read.

    Raises
    ------
    InputError
        For no cells or genes, a missing column or layer, missing values, one system only, a system of fewer than 10
        cells, duplicated names, or a continuous covariate that is not numeric.
    """
    return _vocabulary(adata, columns, _checked_values(adata, columns))


def cells_from_anndata(
    adata: AnnData,
    columns: Columns,
    vocabulary: Vocabulary,
    device: torch.device | str = "cpu",
    warn_of_large: bool = False,
) -> Cells:
    """The cells of `adata` in the model's terms: its genes in its order, systems and categories as its codes.

    Parameters
    ----------
    adata
        Cells with all genes of `vocabulary` (more, or in another order, is fine) and only its systems and categories.
    columns
        Columns and layer to read.
    vocabulary
        Genes, systems and categories of the model.
    device
        Device of the tensors.
    warn_of_large
        Whether values that are too large for logarithms are warned about, not refused.

    Raises
    ------
    InputError
        If genes are missing, a category is new, or the values are not log-normalised expression.
    """
    check_anndata(adata)
    check_unique_names(adata)
    return _encode(adata, columns, vocabulary, None, device, warn_of_large)


def check_writable(adata: AnnData) -> None:
    """An InputError if `adata` is not an AnnData, or a view of one on disk, into which no result can be written."""
    check_anndata(adata)
    if adata.isbacked and adata.is_view:
        raise InputError(
            "adata is a view of an object on disk, into which nothing can be written: take adata.to_memory() first."
        )


def write_setup(adata: AnnData, columns: Columns) -> None:
    """Write the columns into ``adata.uns["sysvi_setup"]``."""
    adata.uns[SETUP_KEY] = columns.to_json()


def read_setup(adata: AnnData) -> Columns:
    """Read the columns that `write_setup` wrote.

    Raises
    ------
    InputError
        If there are none, or they were written by another version.
    """
    if SETUP_KEY not in adata.uns:
        raise InputError("This AnnData is not set up: call SysVI.setup_anndata(adata, batch_key=...) first.")
    try:
        return Columns.from_json(adata.uns[SETUP_KEY])
    except (KeyError, TypeError) as error:
        raise InputError(
            f"adata.uns[{SETUP_KEY!r}] was not written by this version of sysvi: call SysVI.setup_anndata again."
        ) from error


def data_warnings(cells: Cells, vocabulary: Vocabulary) -> list[str]:
    """Sentences about data on which integration is likely to be poor: what is doubtful, and what to do.

    Small systems, covariates that are constant, that differ in almost every cell or that repeat the system, and genes
    that are not seen in a system.

    Raises
    ------
    InputError
        If systems have hardly any gene in common.
    """
    covariates = cells.covariates
    system = covariates.system.cpu().numpy()  # (n,)
    return [
        *_small_system_warnings(system, vocabulary),
        *_categorical_warnings(system, covariates.categorical.cpu().numpy(), vocabulary),
        *_continuous_warnings(covariates.continuous.cpu().numpy(), vocabulary),
        *_undetected_gene_warnings(cells, vocabulary),
    ]


def _small_system_warnings(system: np.ndarray, vocabulary: Vocabulary) -> Iterable[str]:
    sizes = np.bincount(system, minlength=len(vocabulary.systems))
    small = {name: size for name, size in zip(vocabulary.systems, sizes, strict=True) if size < SMALL_SYSTEM}
    if small:
        yield (
            f"System {listing(small)} has fewer cells ({listing(small.values())}) than {SMALL_SYSTEM}; "
            "mixing may be poor. weight_systems=True (of SysVI: weight_batches=True) makes all systems count "
            "the same."
        )


def _categorical_warnings(system: np.ndarray, codes: np.ndarray, vocabulary: Vocabulary) -> Iterable[str]:
    """`codes` are those of the categorical covariates, (n, P)."""
    n_systems = len(vocabulary.systems)
    for column, (key, categories) in zip(codes.T, vocabulary.categorical.items(), strict=True):
        sizes = np.bincount(column, minlength=len(categories))
        if len(categories) == 1:
            yield f"Covariate {key!r} is the same in all cells ({categories[0]}) and has no effect: leave it out."
        elif len(categories) > max(MANY_CATEGORIES, 2 * (sizes > 1).sum()):
            yield (
                f"Most of the {len(categories)} categories of covariate {key!r} have one cell only: it looks like a "
                "continuous covariate (list it under continuous_covariate_keys) or like names of cells (leave it out)."
            )
        elif len(categories) == n_systems == len(np.unique(column * n_systems + system)):
            yield (
                f"Covariate {key!r} has the same groups as the system: leave it out, it only helps the model to tell "
                "the systems apart."
            )


def _shared_batch_warnings(cells: Cells, columns: Columns, vocabulary: Vocabulary) -> Iterable[str]:
    """A batch that occurs in several systems may be two batches of the same name, such as "donor1"."""
    if columns.batch is None:
        return
    system, batch = cells.covariates.system.cpu().numpy(), cells.covariates.categorical[:, 0].cpu().numpy()  # (n,)
    pairs = np.unique(np.stack([batch, system]), axis=1)
    n_systems = np.bincount(pairs[0])  # of each batch
    shared = [name for name, n in zip(vocabulary.categorical[columns.batch], n_systems, strict=True) if n > 1]
    if shared:
        yield (
            f"{'Batch' if len(shared) == 1 else 'Batches'} {listing(shared, 5)} of adata.obs[{columns.batch!r}] "
            f"{'occurs' if len(shared) == 1 else 'occur'} in several systems, and all cells of one name are taken as "
            "one batch: if they are different samples, give them different names."
        )


def _continuous_warnings(values: np.ndarray, vocabulary: Vocabulary) -> Iterable[str]:
    """`values` are the standardised continuous covariates, (n, Q)."""
    for column, (key, (mean, _)) in zip(values.T, vocabulary.continuous.items(), strict=True):
        if (column == column[0]).all():
            yield f"Covariate {key!r} is the same in all cells ({mean:g}) and has no effect: leave it out."


def _undetected_gene_warnings(cells: Cells, vocabulary: Vocabulary) -> Iterable[str]:
    """Genes that are zero in all cells of a system tell the systems apart."""
    seen = cells.scan().n_detected > 0  # (S, G)
    own = np.ones_like(seen) if vocabulary.own_genes is None else vocabulary.own_genes
    of_all = own.all(axis=0)  # (G,)
    n_seen = dict(zip(vocabulary.systems, seen[:, of_all].sum(axis=1).tolist(), strict=True))
    check_shared_genes(int(seen[:, of_all].all(axis=0).sum()), n_seen, "seen in")
    for name, genes in zip(vocabulary.systems, seen | ~own, strict=True):
        undetected = np.flatnonzero(~genes)
        if len(undetected):
            yield (
                f"{len(undetected)} genes are zero in all cells of system {name!r} "
                f"({listing((vocabulary.genes[i] for i in undetected), 5)}); they tell the systems apart and hinder "
                "mixing. sysvi.prepare keeps only genes that are seen in every system."
            )


class _CovariateValues(NamedTuple):
    """Columns of ``adata.obs``, complete and of the right type, each of length n."""

    system: np.ndarray  # strings, as Python objects
    categorical: dict[str, np.ndarray]  # strings, as Python objects
    continuous: dict[str, np.ndarray]  # float64


def _checked_values(adata: AnnData, columns: Columns) -> _CovariateValues:
    """Check object and columns and read the columns."""
    check_not_empty(adata)
    check_unique_names(adata)
    get_expression(adata, columns.layer)
    keys = columns.all
    for i, key in enumerate(keys):
        check_key(key, "covariate" if i else "system")
    if len(set(keys)) < len(keys):
        raise InputError(f"System and covariates ({listing(keys)}) name a column twice: name each column once.")
    return _read_values(adata, columns.system, columns.categorical_covariates, columns.continuous)


def _read_values(
    adata: AnnData, system: str, categorical: Iterable[str], continuous: Iterable[str]
) -> _CovariateValues:
    """Read columns of ``adata.obs``; an InputError names one that is missing, incomplete or not numeric."""
    return _CovariateValues(
        check_obs_column(adata, system, "system"),
        {key: check_obs_column(adata, key, "covariate") for key in categorical},
        {key: _numeric_column(adata, key) for key in continuous},
    )


def _numeric_column(adata: AnnData, key: str) -> np.ndarray:
    """Values of a continuous covariate, (n,) float64."""
    check_obs_column(adata, key, "continuous covariate")
    try:
        values = adata.obs[key].to_numpy()
        if np.iscomplexobj(values):
            raise TypeError
        values = values.astype(np.float64)
    except (TypeError, ValueError):
        raise InputError(
            f"adata.obs[{key!r}] is not numeric; list it under categorical_covariate_keys instead."
        ) from None
    if not np.isfinite(values).all():
        raise InputError(f"adata.obs[{key!r}] has infinite values; remove these cells or correct the column.")
    return values


def _vocabulary(adata: AnnData, columns: Columns, values: _CovariateValues) -> Vocabulary:
    """Genes, systems and categories of the data; categories are in the order of their names."""
    sizes = pd.Series(values.system).value_counts()
    systems = tuple(sorted(sizes.index))
    if len(systems) < 2:
        raise InputError(
            f"adata.obs[{columns.system!r}] has one system only ({systems[0]}); integration needs at least two."
        )
    for name in systems:
        if sizes[name] < MIN_CELLS_PER_SYSTEM:
            raise InputError(
                f"System {name!r} of adata.obs[{columns.system!r}] has {sizes[name]} cells; at least "
                f"{MIN_CELLS_PER_SYSTEM} are needed: remove it or merge it with another system."
            )
    return Vocabulary(
        tuple(adata.var_names),
        columns.system,
        systems,
        {key: tuple(sorted(pd.unique(labels))) for key, labels in values.categorical.items()},
        {key: (float(x.mean()), float(x.std()) or 1.0) for key, x in values.continuous.items()},
        lacking_genes(adata.var_names, systems, read_own_genes(adata.uns, adata.var_names, systems)),
    )


def _encode(
    adata: AnnData,
    columns: Columns,
    vocabulary: Vocabulary,
    values: _CovariateValues | None,
    device: torch.device | str = "cpu",
    warn_of_large: bool = False,
    window_cells: int | None = None,
    share: Share | None = None,
) -> Cells:
    """Expression in the model's gene order and covariates as codes; `values` are read if they are not given.

    With `window_cells`, the genes must be those of `adata`, and their expression stays on disk. With a `share`, too,
    and one of several processes reads its own cells.
    """
    where, matrix = get_expression(adata, columns.layer)
    x: sparse.csr_matrix | StoredExpression | SharedExpression
    for_trained_model = values is None
    if values is None:
        values = _read_values(adata, vocabulary.system_key, vocabulary.categorical, vocabulary.continuous)
    system = _codes(vocabulary.system_key, values.system, vocabulary.systems)
    own_genes = vocabulary.own_genes  # (S, G)
    if window_cells is not None:
        x = StoredExpression(matrix, window_cells, share, was_shuffled(adata))
    elif share is not None:
        rows = share.rows(adata.n_obs)
        own = read_rows(matrix, rows)
        if own_genes is not None:
            own = _own_expression(own, system[rows], own_genes)
        x = SharedExpression(own, adata.n_obs, share)
    else:
        needed = None if own_genes is None else own_genes[np.unique(system)].any(axis=0)
        x = _expression_in_gene_order(adata, columns.layer, vocabulary.genes, needed)
        if own_genes is not None:
            x = _own_expression(x, system, own_genes)
    categorical = [_codes(key, values.categorical[key], names) for key, names in vocabulary.categorical.items()]
    continuous = [(values.continuous[key] - mean) / std for key, (mean, std) in vocabulary.continuous.items()]
    if isinstance(x, sparse.csr_matrix):
        check_finite_nonnegative(x, adata.obs_names, pd.Index(vocabulary.genes), where, adata.raw is not None)
        check_not_counts(x, where, for_trained_model)
        _check_no_system_is_counts(x, system, vocabulary.systems, where)
        check_log_normalised(x, where, warn_of_large)
    n = adata.n_obs
    cells = Cells(
        x,
        system,
        np.stack(categorical, 1) if categorical else np.zeros((n, 0), np.int64),
        np.stack(continuous, 1) if continuous else np.zeros((n, 0), np.float32),
        n_systems=len(vocabulary.systems),
        weight_systems=columns.weight_systems,
        device=device,
    )
    if not isinstance(x, sparse.csr_matrix):
        _check_by_scan(cells, vocabulary, adata, where)
    return cells


def _check_by_scan(cells: Cells, vocabulary: Vocabulary, adata: AnnData, where: str) -> None:
    """The checks of expression that is on disk or shared out among processes, from one pass over it."""
    found, own_genes = cells.scan(), vocabulary.own_genes
    if own_genes is not None and found.n_detected[~own_genes].any():
        raise InputError(
            f"{where} on disk has values other than 0 of genes that the systems of their cells lack: write it with "
            "sysvi.prepare, or leave memory out to read it into memory."
        )
    if not (found.smallest >= 0 and np.isfinite(found.largest)):  # NaN is not >= 0
        for start, stop, block in cells.blocks():  # once more, to find the first such value
            names = adata.obs_names[start:stop]
            check_finite_nonnegative(block, names, pd.Index(vocabulary.genes), where, adata.raw is not None)
    if found.n_values.any() and (found.n_whole == found.n_values).all():
        refuse_counts(where)
    for name, n_whole, n_values in zip(vocabulary.systems, found.n_whole, found.n_values, strict=True):
        if n_values and n_whole == n_values:
            _refuse_system_of_counts(where, name)
    refuse_fractional_counts(int(found.n_whole.sum()), int(found.n_values.sum()), found.largest, where)


def _refuse_system_of_counts(where: str, name: str) -> NoReturn:
    raise InputError(
        f"{where} looks like raw counts in system {name!r}; log-normalise all systems alike: start from the counts of "
        "all with sysvi.prepare."
    )


def _codes(key: str, labels: np.ndarray, categories: tuple[str, ...]) -> np.ndarray:
    """Position of each cell's label among the categories, (n,) int64."""
    codes = pd.Index(categories).get_indexer(pd.Index(labels))
    if (codes < 0).any():
        new = sorted(set(labels[codes < 0]))
        raise InputError(
            f"adata.obs[{key!r}] has categories that the model does not know ({listing(new)}); "
            f"it knows {listing(categories)}. New ones are mapped with sysvi.map_query."
        )
    return codes.astype(np.int64)


def _own_expression(x: sparse.csr_matrix, system: np.ndarray, own_genes: np.ndarray) -> sparse.csr_matrix:
    """Expression that is 0 in genes that the cells' systems lack; `x` itself if it is so already."""
    own = own_genes[np.repeat(system, np.diff(x.indptr)), x.indices]  # (nnz,)
    if own.all():
        return x
    x = x.copy()
    x.data *= own
    x.eliminate_zeros()
    return x


def _expression_in_gene_order(
    adata: AnnData, layer: str | None, genes: tuple[str, ...], needed: np.ndarray | None = None
) -> sparse.csr_matrix:
    """Expression of the model's genes in the model's order, CSR float32 (n, G); 0 for missing ones not `needed`."""
    position = adata.var_names.get_indexer(pd.Index(genes))  # (G,), -1 where missing
    if needed is not None and ((position < 0) & ~needed).any():
        kept = (position >= 0) | needed
        x = _expression_in_gene_order(adata, layer, tuple(np.array(genes, object)[kept]))
        return sparse.csr_matrix((x.data, np.flatnonzero(kept)[x.indices], x.indptr), (x.shape[0], len(genes)))
    missing = [gene for gene, i in zip(genes, position, strict=True) if i < 0]
    if missing:
        raise InputError(
            f"{len(missing)} of the model's {len(genes)} genes are not in adata.var_names "
            f"({listing(missing, 5)}): use the same gene names and do not remove the model's genes."
        )
    _, x = get_expression(adata, layer)
    check_sparse(x)
    if not isinstance(x, np.ndarray) and not sparse.issparse(x):  # on disk, or lazy
        x = select_genes(x, position)  # reads nothing but these genes
    elif not np.array_equal(position, np.arange(adata.n_vars)):
        x = x[:, position]
    x = sparse.csr_matrix(computed(x), dtype=np.float32)  # shares the memory of adata where it is CSR float32 already
    if not x.has_canonical_format:
        x = x.copy()
    x.sum_duplicates()  # also sorts the columns
    return x


def _check_no_system_is_counts(x: sparse.csr_matrix, system: np.ndarray, names: tuple[str, ...], where: str) -> None:
    """No single system may hold counts while others are log-normalised. `system` holds codes, (n,)."""
    for i, name in enumerate(names):
        rows, any_expressed = np.flatnonzero(system == i), False
        for first in range(0, len(rows), 256):  # the first block of a log-normalised system has a fraction already
            values = x[rows[first : first + 256]].data
            if not looks_like_counts(values):
                break
            any_expressed |= bool(values.any())
        else:
            if any_expressed:
                _refuse_system_of_counts(where, name)
