"""From an AnnData to the engine's plain cells, and the checks on the way.

Shapes: n cells, G genes, P categorical and Q continuous covariates.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

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
    check_not_empty,
    check_obs_column,
    check_unique_names,
    get_expression,
    listing,
    looks_like_counts,
)
from sysvi._core.errors import InputError
from sysvi.data.cells import Cells, Vocabulary
from sysvi.data.row_blocks import select_genes

FEWEST_CELLS = 10  # a smaller system cannot be integrated
FEW_CELLS = 256  # a smaller system fills less than one minibatch
MANY_CATEGORIES = 50  # more, most of a single cell, look like a mistake


@dataclass(frozen=True)
class Columns:
    """Where the model finds its input in an AnnData; the names are those of `SysVI.setup_anndata`."""

    system_key: str
    layer: str | None = None
    categorical: tuple[str, ...] = ()
    continuous: tuple[str, ...] = ()
    weight_systems: bool = False


def read_vocabulary(adata: AnnData, columns: Columns) -> Vocabulary:
    """Read names and categories off the data and check that they make sense.

    Raises
    ------
    InputError
        For no cells or genes, a missing column or layer, missing values, one system only, a system of fewer than 10
        cells, duplicated names, or a continuous covariate that is no number.
    """
    check_not_empty(adata)
    check_unique_names(adata)
    get_expression(adata, columns.layer)
    keys = [columns.system_key, *columns.categorical, *columns.continuous]
    for i, key in enumerate(keys):
        check_key(key, "covariate" if i else "system")
    if len(set(keys)) < len(keys):
        raise InputError(f"System and covariates ({listing(keys)}) name a column twice: name each column once.")
    system = check_obs_column(adata, columns.system_key, "system")
    names, sizes = np.unique(system.astype(str), return_counts=True)
    systems = tuple(map(str, names))
    if len(systems) < 2:
        raise InputError(
            f"adata.obs[{columns.system_key!r}] has one system only ({systems[0]}); integration needs at least two."
        )
    small = {s: n for s, n in zip(systems, sizes, strict=True) if n < FEW_CELLS}
    for s, n in small.items():
        if n < FEWEST_CELLS:
            raise InputError(
                f"System {s!r} of adata.obs[{columns.system_key!r}] has {n} cells; at least {FEWEST_CELLS} are needed: "
                "remove it or merge it with another system."
            )
    if small:
        warnings.warn(
            f"System {listing(small)} has fewer cells ({listing(small.values())}) than a minibatch of {FEW_CELLS} "
            "holds; mixing may be poor. weight_systems=True (of SysVI: weight_batches=True) counts "
            "all systems the same.",
            stacklevel=3,
        )
    categorical = {key: _categories(adata, key, system) for key in columns.categorical}
    continuous = {key: _mean_and_std(adata, key) for key in columns.continuous}
    return Vocabulary(tuple(adata.var_names), columns.system_key, systems, categorical, continuous)


def cells_from_anndata(
    adata: AnnData, columns: Columns, vocabulary: Vocabulary, device: torch.device | str = "cpu"
) -> Cells:
    """The cells of `adata` in the model's terms: its genes in its order, its codes.

    Parameters
    ----------
    adata
        Must hold all genes of `vocabulary` (more, or in another order, is fine) and only its categories.
    columns
        Where to look.
    vocabulary
        What the model knows.
    device
        Where the cells will live.

    Raises
    ------
    InputError
        If genes are missing, a category is new, or the values are not log-normalised expression.
    """
    check_anndata(adata)
    check_unique_names(adata)
    x = _genes_in_order(adata, columns.layer, vocabulary.genes)
    system = _codes(adata, vocabulary.system_key, vocabulary.systems, "system")
    categorical = [_codes(adata, k, categories, "covariate") for k, categories in vocabulary.categorical.items()]
    continuous = [(_numbers(adata, key) - mean) / std for key, (mean, std) in vocabulary.continuous.items()]
    where, _ = get_expression(adata, columns.layer)
    check_finite_nonnegative(x, adata.obs_names, pd.Index(vocabulary.genes), where)
    check_log_normalised(x, where)
    _check_no_system_is_counts(x, system, vocabulary.systems, where)
    n = adata.n_obs
    return Cells(
        x,
        system,
        np.stack(categorical, 1) if categorical else np.zeros((n, 0), np.int64),
        np.stack(continuous, 1) if continuous else np.zeros((n, 0), np.float32),
        n_systems=len(vocabulary.systems),
        weight_systems=columns.weight_systems,
        device=device,
    )


def warn_about_undetected_genes(cells: Cells, vocabulary: Vocabulary) -> None:
    """Warn of genes that are zero in all cells of a system: they only tell the systems apart."""
    seen = np.zeros((cells.n_systems, cells.n_genes), dtype=bool)
    system = cells.covariates.system.cpu().numpy()  # (n,)
    for first in range(0, cells.n_cells, 4096):  # a block at a time: no arrays as long as all stored values
        block = cells.x[first : first + 4096].tocoo()
        expressed = block.data > 0
        seen[system[first + block.row[expressed]], block.col[expressed]] = True
    for name, genes in zip(vocabulary.systems, seen, strict=True):
        silent = np.flatnonzero(~genes)
        if len(silent):
            warnings.warn(
                f"{len(silent)} genes are zero in all cells of system {name!r} "
                f"({listing((vocabulary.genes[i] for i in silent), 5)}); they tell the systems apart and hinder "
                "mixing. sysvi.prepare keeps only genes seen in every system.",
                stacklevel=3,
            )


def _check_no_system_is_counts(x: sparse.csr_matrix, system: np.ndarray, names: tuple[str, ...], where: str) -> None:
    """No system may hold counts beside others that are log-normalised. `system` are codes, (n,)."""
    for i, name in enumerate(names):
        rows, any_expressed = np.flatnonzero(system == i), False
        for first in range(0, len(rows), 256):  # of most systems, the first block has a fraction
            values = x[rows[first : first + 256]].data
            if not looks_like_counts(values):
                break
            any_expressed |= bool(values.any())
        else:
            if any_expressed:
                raise InputError(
                    f"{where} looks like raw counts in system {name!r}; log-normalise all systems alike: start from "
                    "the counts of all with sysvi.prepare."
                )


def _genes_in_order(adata: AnnData, layer: str | None, genes: tuple[str, ...]) -> sparse.csr_matrix:
    """The model's genes in its order, CSR float32 (n, G)."""
    place = adata.var_names.get_indexer(pd.Index(genes))  # (G,), -1 where missing
    missing = [gene for gene, i in zip(genes, place, strict=True) if i < 0]
    if missing:
        raise InputError(
            f"{len(missing)} of the model's {len(genes)} genes are not in adata.var_names "
            f"({listing(missing, 5)}): use the same gene names and do not remove the model's genes."
        )
    _, x = get_expression(adata, layer)
    if adata.isbacked:
        x = select_genes(x, place)  # nothing else is read
    elif not np.array_equal(place, np.arange(adata.n_vars)):
        x = x[:, place]
    x = sparse.csr_matrix(x, dtype=np.float32)  # shares the user's memory where it is this already
    if not x.has_canonical_format:
        x = x.copy()
    x.sum_duplicates()  # also sorts the columns
    return x


def _codes(adata: AnnData, key: str, categories: tuple[str, ...], what: str) -> np.ndarray:
    """Code of each cell's category, (n,) int64."""
    labels = check_obs_column(adata, key, what)
    codes = pd.Index(categories).get_indexer(pd.Index(labels.astype(str)))
    if (codes < 0).any():
        new = sorted(set(labels[codes < 0]))
        raise InputError(
            f"adata.obs[{key!r}] has categories that the model does not know ({listing(new)}); "
            f"it knows {listing(categories)}."
        )
    return codes.astype(np.int64)


def _categories(adata: AnnData, key: str, system: np.ndarray) -> tuple[str, ...]:
    labels = check_obs_column(adata, key, "covariate").astype(str)
    categories, sizes = np.unique(labels, return_counts=True)
    if len(categories) == 1:
        warnings.warn(
            f"Covariate {key!r} is the same in all cells ({categories[0]}); it changes nothing.", stacklevel=4
        )
    elif len(categories) > max(MANY_CATEGORIES, 2 * (sizes > 1).sum()):
        warnings.warn(
            f"Most of the {len(categories)} categories of covariate {key!r} have one cell only: it looks like a "
            "continuous covariate (list it under continuous_covariate_keys) or like names of cells (leave it out).",
            stacklevel=4,
        )
    elif len(categories) == len(pd.unique(system)) == len(pd.unique(pd.Series(system) + "\0" + labels)):
        warnings.warn(
            f"Covariate {key!r} says the same as the system; leave it out, it only helps "
            "the model to tell systems apart.",
            stacklevel=4,
        )
    return tuple(map(str, categories))


def _numbers(adata: AnnData, key: str) -> np.ndarray:
    """Values of a continuous covariate, (n,) float64."""
    check_obs_column(adata, key, "continuous covariate")
    try:
        values = adata.obs[key].to_numpy(dtype=np.float64)
    except (TypeError, ValueError):
        raise InputError(
            f"adata.obs[{key!r}] is not numeric; list it under categorical_covariate_keys instead."
        ) from None
    if not np.isfinite(values).all():
        raise InputError(f"adata.obs[{key!r}] has infinite values; remove these cells or correct the column.")
    return values


def _mean_and_std(adata: AnnData, key: str) -> tuple[float, float]:
    values = _numbers(adata, key)
    std = float(values.std())
    if std == 0:
        warnings.warn(f"Covariate {key!r} is the same in all cells ({values[0]:g}); it changes nothing.", stacklevel=4)
    return float(values.mean()), std or 1.0
