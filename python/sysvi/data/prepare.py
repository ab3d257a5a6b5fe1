"""Preparation of the data: genes seen in every system, normalisation, and the genes variable in every system."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from sysvi._core.checks import (
    check_anndata,
    check_finite_nonnegative,
    check_not_empty,
    check_obs_column,
    check_unique_names,
    get_expression,
    listing,
    looks_like_counts,
)
from sysvi._core.errors import InputError
from sysvi._core.settings import positive_number
from sysvi.data.row_blocks import row_blocks, row_sliceable, stack_blocks
from sysvi.data.variable_genes import FLAVORS, GeneMoments, variable_genes

MIN_BATCH_CELLS = 10  # smaller batches say too little about a gene's variance
FEW_GENES = 500  # below this an integration is doubtful


def prepare(
    adata: AnnData,
    system_key: str,
    batch_key: str | None = None,
    *,
    layer: str | None = None,
    n_top_genes: int = 3000,
    min_cells: int = 20,
    target_sum: float = 1e4,
    normalize: bool | None = True,
    flavor: str = "cell_ranger",
    copy: bool = True,
    keep_counts: bool = True,
    report: Callable[[str], None] | None = None,
) -> AnnData:
    """Prepare counts for integration as in the sysVI paper.

    1. Keep the genes seen in more than ``min_cells`` cells of every system.
    2. Scale each cell to ``target_sum`` counts over these genes.
    3. Take log(1 + x).
    4. Find ``n_top_genes`` highly variable genes in each system by itself, there by batch if ``batch_key`` is given.
    5. Keep the genes that are variable in every system, in the input's order.

    Parameters
    ----------
    adata
        Cells of all systems, shape (n_cells, n_genes), on one set of genes. Dense, CSR or CSC, in memory or backed;
        never changed, and never made dense.
    system_key
        Column of ``adata.obs`` with the systems (species, protocol, ...), at least two.
    batch_key
        Column of ``adata.obs`` with the batches (samples, donors) inside the systems. Batches of fewer than 10 cells
        do not take part in the choice of variable genes.
    layer
        Layer that holds the expression; ``adata.X`` by default.
    n_top_genes
        Variable genes per system. If there are no more genes than this, all of them count as variable.
    min_cells
        A gene must be seen in more than this many cells of every system.
    target_sum
        Counts per cell after normalisation.
    normalize
        Whether the expression is counts to normalise; False if it is log-normalised already (steps 1, 4 and 5 only);
        None: whichever its values look like.
    flavor
        How scanpy ranks variable genes: ``"cell_ranger"`` or ``"seurat"``.
    copy
        False: with ``normalize=False`` the result may share its expression with the input, to hold it only once.
    keep_counts
        False: do without ``layers["counts"]``, which takes as much memory as ``X``.
    report
        Called with one line of text after each step, for example ``print``.

    Returns
    -------
    anndata.AnnData
        New object of shape (n_cells, n_kept): ``X`` the log-normalised expression (CSR, float32),
        ``layers["counts"]`` the counts (CSR, float32; only of counts), ``obs``, ``obsm`` and ``uns`` of the
        input, ``var`` of the kept genes, and ``uns["sysvi_prepare"]`` the settings and the number of genes after each
        step (in the system names there, "/" is written "|", since HDF5 keys cannot hold it).

    Raises
    ------
    InputError
        If the input cannot be used, or no gene remains.

    Warns
    -----
    UserWarning
        If fewer than 500 genes remain, if cells have no counts, if small batches are left out of the choice of variable
        genes, or if there are too few genes for the bins of ``flavor="cell_ranger"`` so that ``"seurat"`` is used.

    Notes
    -----
    Hrovatin et al. 2025, "Integrating single-cell RNA-seq datasets with substantial batch effects". Values and variable
    genes are those of scanpy's ``normalize_total``, ``log1p`` and ``highly_variable_genes``.

    The input is gone through three times in blocks of cells: for the genes that are seen, for those that vary, and to
    take these. Held are a block and the result (and the whole input if it is CSC, which cannot be cut into cells).

    Examples
    --------
    >>> import numpy as np, pandas as pd, anndata, warnings
    >>> from sysvi.data.prepare import prepare
    >>> counts = np.random.default_rng(0).poisson(1.0, size=(100, 30)).astype("float32")
    >>> obs = pd.DataFrame({"species": ["human"] * 50 + ["mouse"] * 50}, index=[f"cell{i}" for i in range(100)])
    >>> adata = anndata.AnnData(counts, obs=obs)
    >>> with warnings.catch_warnings():
    ...     warnings.simplefilter("ignore")  # 30 genes are few
    ...     prepared = prepare(adata, "species")
    >>> prepared.shape, sorted(prepared.layers)
    ((100, 30), ['counts'])
    """
    tell = report or (lambda line: None)
    check_anndata(adata)
    n_top_genes, min_cells = _whole("n_top_genes", n_top_genes, 1), _whole("min_cells", min_cells, 0)
    target_sum = positive_number("target_sum", target_sum)
    if flavor not in FLAVORS:
        raise InputError(f"flavor={flavor!r} must be 'cell_ranger' or 'seurat'.")
    check_not_empty(adata)
    check_unique_names(adata)
    system = check_obs_column(adata, system_key, "system_key")  # (n_cells,)
    batch = None if batch_key is None else check_obs_column(adata, batch_key, "batch_key")  # (n_cells,)
    system_of, systems = pd.factorize(system, sort=True)  # (n_cells,), (n_systems,)
    if len(systems) < 2:
        raise InputError(
            f"adata.obs[{system_key!r}] (system_key) holds {len(systems)} system ({listing(systems)}), but there must "
            "be at least two to integrate: choose another column or add the other system's cells."
        )

    # 1. genes seen in every system
    where, matrix = get_expression(adata, layer)
    matrix = row_sliceable(matrix)
    detected, counts = _look(matrix, where, adata, system_of, systems, normalize)  # (n_systems, n_genes)
    if normalize is None:
        tell(f"The input looks like {'counts' if counts else 'log-normalised expression'}")
    passes = detected > min_cells  # (n_systems, n_genes)
    for name, n_passing in zip(systems, passes.sum(axis=1), strict=True):
        if n_passing == 0:
            raise InputError(
                f"No gene of {where} is seen in more than {min_cells} cells of system {name!r}: "
                "lower min_cells or check that system's expression."
            )
    seen = np.logical_and.reduce(passes)  # (n_genes,)
    n_seen = int(seen.sum())
    tell(f"Genes seen in more than {min_cells} cells of every system: {n_seen} of {adata.n_vars}")
    if not n_seen:
        raise InputError(
            f"No gene of {where} is seen in more than {min_cells} cells of every system, though each system has genes "
            "that are: check that all systems use the same gene names (see map_orthologs) or lower min_cells."
        )

    # 2. and 3. log-normalisation: here of blocks of cells, below of what is kept
    target = float(target_sum) if counts else None
    if counts:
        tell(f"Normalised each cell to {target_sum:g} counts over {n_seen} genes, then log1p")

    # 4. and 5. variable genes per system, and those variable in every system
    variable = np.ones((len(systems), n_seen), dtype=bool)
    if n_seen > n_top_genes:
        base = None if counts else adata.uns.get("log1p", {}).get("base")
        groups = _groups(system_of, systems, batch)
        rank = partial(_rank, matrix, seen, target, base, groups, adata.var_names[seen], n_top_genes)
        variable = _variable_genes(rank, systems, n_seen, flavor)
    for name, n_variable in zip(systems, variable.sum(axis=1), strict=True):
        tell(f"Variable genes in system {name!r}: {n_variable} of {n_seen}")
    kept = np.flatnonzero(seen)[variable.all(axis=0)]  # (n_kept,)
    tell(f"Genes variable in every system: {len(kept)} of {n_seen}")
    if not len(kept):
        raise InputError("No gene is variable in every system: raise n_top_genes.")
    if len(kept) < FEW_GENES:
        warnings.warn(
            f"Only {len(kept)} genes remain, which is few for an integration: consider a larger n_top_genes "
            f"(now {n_top_genes}) or a smaller min_cells (now {min_cells}).",
            UserWarning,
            stacklevel=2,
        )

    # all but the expression, by AnnData's own rules; then the expression
    prepared = AnnData(obs=adata.obs, var=adata.var, obsm=dict(adata.obsm), uns=dict(adata.uns))[:, kept].copy()
    if not counts and len(kept) == adata.n_vars and _is_plain(matrix):  # nothing would change
        prepared.X = matrix.copy() if copy else matrix
    else:
        total = np.empty(adata.n_obs)  # (n_cells,) counts of the seen genes
        prepared.X = _take(matrix, kept, int(detected[:, kept].sum()), seen, total)
        if counts:
            if keep_counts:
                prepared.layers["counts"] = prepared.X.copy()
            if n_empty := int((total == 0).sum()):
                warnings.warn(
                    f"{n_empty} {'cell has' if n_empty == 1 else 'cells have'} zero counts of the {n_seen} genes seen "
                    "in every system.",
                    UserWarning,
                    stacklevel=2,
                )
            log_normalise(prepared.X, total, target_sum)
            prepared.uns["log1p"] = {"base": None}  # scanpy's mark

    settings = {
        "system_key": system_key,
        "batch_key": batch_key,
        "layer": layer,
        "n_top_genes": n_top_genes,
        "min_cells": min_cells,
        "target_sum": target_sum,
        "normalize": counts,
        "flavor": flavor,
    }
    steps = {
        "genes_in": int(adata.n_vars),
        "genes_detected": n_seen,
        "variable_genes": {
            name.replace("/", "|"): int(n) for name, n in zip(systems, variable.sum(axis=1), strict=True)
        },
        "genes_kept": len(kept),
    }
    prepared.uns["sysvi_prepare"] = {k: v for k, v in settings.items() if v is not None} | steps
    return prepared


@contextmanager
def ignore_few_genes_warning() -> Iterator[None]:
    """Where nothing is trained on what `prepare` makes, few genes are no reason for a warning."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Only .* genes remain")
        yield


def log_normalise(x: sparse.csr_matrix, total: np.ndarray, target_sum: float) -> None:
    """Scale cells to a sum and take log(1 + x), in place.

    Parameters
    ----------
    x
        Counts, (n_cells, n_genes), float32.
    total
        Counts of each cell, (n_cells,), also of genes that are not in `x`.
    target_sum
        What they become.

    Examples
    --------
    >>> x = sparse.csr_matrix([[1.0, 3.0]], dtype=np.float32)
    >>> log_normalise(x, np.array([4.0]), 8.0)
    >>> np.expm1(x.data).round(3).tolist()
    [2.0, 6.0]
    """
    size = total.astype(np.float32) / np.float32(target_sum)  # (n_cells,) in single precision, as in scanpy
    size[size == 0] = 1
    for start in range(0, x.shape[0], 1024):
        starts = x.indptr[start : start + 1025]
        values = x.data[starts[0] : starts[-1]]  # a view
        values /= np.repeat(size[start : start + 1024], np.diff(starts))
        np.log1p(values, out=values)


def _is_plain(matrix: Any) -> bool:
    """Whether a matrix is as :func:`select_genes` would make it."""
    return (
        sparse.issparse(matrix)
        and matrix.format == "csr"
        and matrix.dtype == np.float32
        and matrix.has_canonical_format
        and np.count_nonzero(matrix.data) == matrix.nnz
    )


def _whole(name: str, value: Any, least: int) -> int:
    """A setting as a plain int; 2000.0, or 2e3, is 2000."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, (int, np.integer)) or value < least:
        raise InputError(f"{name}={value!r} must be a whole number of {least} or more.")
    return int(value)


def _look(
    matrix: Any, where: str, adata: AnnData, system: np.ndarray, systems: np.ndarray, normalize: bool | None
) -> tuple[np.ndarray, bool]:
    """Cells of each system in which each gene is seen, (n_systems, n_genes), and whether the values are counts.

    The values are checked; ``normalize`` is what the user says of them. ``system`` are codes, (n_cells,).
    """
    shape = (len(systems), adata.n_vars)
    detected = np.zeros(shape, np.int64)
    counts = np.ones(len(systems), dtype=bool)  # whether all values of a system so far look like counts
    for start, stop, block in row_blocks(matrix):
        of = system[start:stop]  # (n_rows,)
        place = np.repeat(of * adata.n_vars, np.diff(block.indptr))  # (nnz,) in the flat counts
        place += block.indices
        detected += np.bincount(place, minlength=detected.size).reshape(shape)
        if looks_like_counts(block.data):  # then they are finite and not negative, too
            continue
        check_finite_nonnegative(block, adata.obs_names[start:stop], adata.var_names, where)
        for i in np.flatnonzero(counts):
            counts[i] = looks_like_counts(block[of == i].data)
        if normalize and not counts.all():
            raise InputError(
                f"{where} looks log-normalised, not like counts, in system {systems[~counts][0]!r}: "
                "give counts (see the argument layer) or pass normalize=False."
            )
    are_counts = bool(counts.all()) if normalize is None else bool(normalize)
    counts &= detected.any(axis=1)
    if not are_counts and counts.any():
        raise InputError(
            f"{where} looks like raw counts in system {systems[counts][0]!r}: "
            "pass normalize=True or give log-normalised values."
        )
    return detected, are_counts


class _Groups(NamedTuple):
    """Groups of cells in each of which a gene's variance is looked at: systems, or batches of systems."""

    of_cell: np.ndarray  # (n_cells,), -1 for none
    of_system: list[np.ndarray]  # the groups of each system
    by_batch: list[bool]  # whether these are batches


def _groups(system: np.ndarray, systems: np.ndarray, batch: np.ndarray | None) -> _Groups:
    """The systems, or their batches, small ones left out: ``system`` are codes, ``batch`` names, (n_cells,) each."""
    if batch is None:
        return _Groups(system, [np.array([i]) for i in range(len(systems))], [False] * len(systems))
    of_cell = np.full(len(system), -1)
    of_system: list[np.ndarray] = []
    by_batch: list[bool] = []
    n_groups = 0
    for i, name in enumerate(systems):
        cells = np.flatnonzero(system == i)
        of, names = pd.factorize(batch[cells], sort=True)  # (n_cells of the system,), (n_batches,)
        large = np.bincount(of) >= MIN_BATCH_CELLS  # (n_batches,)
        if not large.all():
            warnings.warn(
                f"System {name!r} has batches of fewer than {MIN_BATCH_CELLS} cells, left out of its choice of "
                f"variable genes{'' if large.any() else ', which is therefore made without batches'}: "
                f"{listing(names[~large])}.",
                UserWarning,
                stacklevel=3,
            )
        by_batch.append(bool(large.any()))
        if large.any():
            of_cell[cells] = np.where(large, n_groups + np.cumsum(large) - 1, -1)[of]
        else:
            of_cell[cells] = n_groups
        of_system.append(np.arange(n_groups, of_cell.max() + 1))
        n_groups = of_cell.max() + 1
    return _Groups(of_cell, of_system, by_batch)


def _rank(
    matrix: Any,
    seen: np.ndarray,
    target_sum: float | None,
    base: float | None,
    groups: _Groups,
    names: pd.Index,
    n_top_genes: int,
    flavor: str,
) -> list[np.ndarray | None]:
    """One pass over the cells: each system's variable genes among those seen, (n_seen,), None if they cannot be ranked.

    ``target_sum``: counts per cell after normalisation, None if the values are logarithms already, to ``base``.
    """
    moments = GeneMoments(groups.of_cell.max() + 1, matrix.shape[1])
    for start, stop, block in row_blocks(matrix):
        if target_sum is not None:
            log_normalise(block, block @ seen.astype(np.float64), target_sum)
        if flavor == "seurat":
            if base is not None:
                block.data *= np.log(base)
            np.expm1(block.data, out=block.data)
        moments.add(block, groups.of_cell[start:stop])
    chosen = []
    for of, by_batch in zip(groups.of_system, groups.by_batch, strict=True):
        mean, variance = (values[:, seen] for values in moments.of(of))
        chosen.append(variable_genes(mean, variance, n_top_genes, flavor, names if by_batch else None))
    return chosen


def _variable_genes(
    rank: Callable[[str], list[np.ndarray | None]], systems: np.ndarray, n_genes: int, flavor: str
) -> np.ndarray:
    """Mask of each system's variable genes, (n_systems, n_genes); where cell_ranger's bins fail, seurat's."""
    chosen = rank(flavor)
    if flavor == "cell_ranger" and any(genes is None for genes in chosen):
        for i, instead in enumerate(rank("seurat")):
            if chosen[i] is None:
                chosen[i] = instead
                warnings.warn(
                    f"System {systems[i]!r} has too few distinct genes ({n_genes}) for flavor='cell_ranger': "
                    "its variable genes are chosen with flavor='seurat'.",
                    UserWarning,
                    stacklevel=3,
                )
    for name, genes in zip(systems, chosen, strict=True):
        if genes is None:
            raise InputError(
                f"The genes of system {name!r} do not vary enough to be ranked: raise n_top_genes "
                f"to {n_genes} to keep all of them."
            )
    return np.stack([genes for genes in chosen if genes is not None])


def _take(matrix: Any, genes: np.ndarray, n_values: int, seen: np.ndarray, total: np.ndarray) -> sparse.csr_matrix:
    """Read the genes kept, of which `n_values` are stored, and fill `total`, (n_cells,), with sums over those seen."""

    def blocks() -> Iterator[sparse.csr_matrix]:
        for start, stop, block in row_blocks(matrix):
            total[start:stop] = block @ seen.astype(np.float64)
            yield block[:, genes]

    return stack_blocks(blocks(), (matrix.shape[0], len(genes)), n_values)
