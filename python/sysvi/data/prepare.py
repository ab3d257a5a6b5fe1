"""Preparation of the data: genes detected in every system, normalisation, and genes variable in every system."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from sysvi._core.arguments import check_types
from sysvi._core.checks import (
    FEW_GENES,
    check_anndata,
    check_finite_nonnegative,
    check_not_empty,
    check_obs_column,
    check_shared_genes,
    check_unique_names,
    get_expression,
    listing,
    looks_like_counts,
    refuse_fractional_counts,
    whole_numbers,
)
from sysvi._core.errors import InputError
from sysvi._core.fingerprint import fingerprint
from sysvi._core.settings import flag, positive_number, whole_number
from sysvi.data.block_map import BlockMap
from sysvi.data.own_genes import GENE_SETS, OWN_GENES_KEY, own_genes_record, read_own_genes
from sysvi.data.row_blocks import read_slice, row_blocks, row_ranges, row_sliceable, stack_blocks
from sysvi.data.variable_genes import FLAVORS, BlockMoments, GeneMoments, block_moments, variable_genes

PREPARED_KEY, TOTALS_KEY = "sysvi_prepare", "sysvi_totals"  # in uns
MIN_BATCH_CELLS = 10  # in smaller batches a gene's variance is too uncertain
CONSTANT = 0.01  # relative difference of the totals of cells up to which they were normalised to one number


def prepare(
    adata: AnnData,
    system_key: str,
    batch_key: str | None = None,
    *,
    layer: str | None = None,
    genes: str = "shared",
    n_top_genes: int = 3000,
    min_cells: int = 20,
    target_sum: float = 1e4,
    normalize: bool | None = True,
    fractional_counts: bool = False,
    flavor: str = "cell_ranger",
    copy: bool = True,
    keep_counts: bool = True,
    report: Callable[[str], None] | None = None,
) -> AnnData:
    """Prepare counts for integration as in the sysVI paper.

    1. Keep the genes detected (nonzero) in more than ``min_cells`` cells of every system.
    2. Scale each cell to ``target_sum`` counts over these genes.
    3. Take log(1 + x).
    4. Select ``n_top_genes`` highly variable genes in each system separately, by batch if ``batch_key`` is given.
    5. Keep the genes that are variable in every system, in the input's order.

    Parameters
    ----------
    adata
        Cells of all systems with the same genes, shape (n_cells, n_genes). Dense, CSR or CSC, in memory or backed;
        never changed, and never made dense.
    system_key
        Column of ``adata.obs`` with the systems (species, protocol, ...), at least two.
    batch_key
        Column of ``adata.obs`` with the batches (samples, donors) within the systems. Batches of fewer than 10 cells
        are left out of the selection of variable genes.
    layer
        Layer with the expression; ``adata.X`` by default.
    genes
        ``"shared"`` for the genes above, or ``"union"`` to add genes that some systems lack, of cells that were joined
        by ``join_systems(genes="union")``: those that are detected in more than ``min_cells`` cells of every system
        that has them, and are among the ``n_top_genes`` most variable of all its genes in every one of these systems.
        The genes that all systems have, and their values, are the same: the counts of a cell are those of these genes.
    n_top_genes
        Number of variable genes per system. If there are no more genes than this, all of them count as variable.
    min_cells
        Number of cells of every system that a gene must be detected in more than.
    target_sum
        Counts per cell after normalisation.
    normalize
        True for counts, False for log-normalised expression (steps 1, 4 and 5 only), None to tell them apart by their
        values.
    fractional_counts
        Whether values with fractions are counts too, as from the correction for ambient RNA (SoupX, DecontX) and from
        EM counters. By default, such counts are recognised by their many whole numbers or large values, and refused.
    flavor
        Method of scanpy that ranks the genes by variability: ``"cell_ranger"`` or ``"seurat"``.
    copy
        Whether log-normalised expression is always copied; False lets the result share it with the input, which saves
        memory.
    keep_counts
        Whether to keep the counts in ``layers["counts"]``, which takes as much memory as ``X``.
    report
        Function that is called with one line of text after each step, for example ``print``.

    Returns
    -------
    anndata.AnnData
        New object of shape (n_cells, n_kept): ``X`` the log-normalised expression (CSR, float32),
        ``layers["counts"]`` the counts (CSR, float32; only if the input is counts), ``obs``, ``obsm`` and ``uns`` of
        the input, ``var`` of the kept genes, and ``uns["sysvi_prepare"]`` the settings and the number of genes after
        each step (with "|" instead of "/" in the names of systems, because HDF5 keys cannot contain "/"). If the input
        is counts, ``uns["sysvi_totals"]`` has the names of the genes over which the counts of a cell are summed, the
        share of each in all counts, and the target, by which :func:`sysvi.map_query` normalises new cells alike. The
        same is found from log-normalised input if all cells have one total over its genes. If genes that some systems
        lack are kept, ``uns["sysvi_own_genes"]`` says which systems have them.

    Raises
    ------
    InputError
        If the input cannot be used, no gene remains, or the genes seen in every system are fewer than 500 and less than
        a tenth of those seen in each: systems then name their genes differently.

    Warns
    -----
    UserWarning
        If the genes seen in every system are less than a tenth of those seen in each, or fewer than 500 genes remain,
        if cells have no counts, if small batches are left out of the selection of variable genes, or if there are too
        few genes for the bins of ``flavor="cell_ranger"`` so that ``"seurat"`` is used.

    Notes
    -----
    Reference: Hrovatin et al. 2025, "Integrating single-cell RNA-seq datasets with substantial batch effects". Values
    and variable genes are the same as those of scanpy's ``normalize_total``, ``log1p`` and ``highly_variable_genes``.

    The input is read three times in row blocks: to detect genes, to select variable genes, and to read their
    expression. Memory holds one block and the result (and the whole input if it is CSC, which cannot be read by rows).

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
    check_types(prepare, genes=genes)
    check_types(prepare, normalize=normalize, flavor=flavor, copy=copy, keep_counts=keep_counts, report=report)
    report = report or (lambda line: None)
    check_anndata(adata)
    n_top_genes, min_cells = _as_int("n_top_genes", n_top_genes, 1), _as_int("min_cells", min_cells, 0)
    target_sum = positive_number("target_sum", target_sum)
    if flag("fractional_counts", fractional_counts):
        if normalize is not None and not normalize:
            raise InputError("fractional_counts=True contradicts normalize=False: pass one of them only.")
        normalize = True
    if genes not in GENE_SETS:
        raise InputError(f"genes is {genes!r}; it must be 'shared' or 'union'.")
    if flavor not in FLAVORS:
        raise InputError(f"flavor is {flavor!r}; it must be 'cell_ranger' or 'seurat'.")
    check_not_empty(adata)
    check_unique_names(adata)
    system = check_obs_column(adata, system_key, "system_key")  # (n_cells,)
    batch = None if batch_key is None else check_obs_column(adata, batch_key, "batch_key")  # (n_cells,)
    system_codes, systems = pd.factorize(system, sort=True)  # (n_cells,), (n_systems,)
    if len(systems) < 2:
        raise InputError(
            f"adata.obs[{system_key!r}] (system_key) has only one system ({listing(systems)}), but integration needs "
            "at least two: choose another column or add the cells of the other system."
        )

    own_genes = None if genes == "shared" else read_own_genes(adata.uns, adata.var_names, list(systems))
    if genes == "union" and own_genes is None:
        raise InputError(
            "genes='union' needs to know which genes each system has, which the input does not say: join the systems "
            "with sysvi.join_systems(..., genes='union') first."
        )

    # 1. Genes detected in every system
    where, matrix = get_expression(adata, layer)
    matrix = row_sliceable(matrix)
    n_detected, is_counts = detect_genes(
        matrix, where, adata, system_codes, systems, normalize, fractional_counts
    )  # (n_systems, n_genes)
    if normalize is None:
        report(f"The input looks like {'counts' if is_counts else 'log-normalised expression'}")
    base = None if is_counts else logarithm_base(adata.uns)
    chosen = choose_genes(
        matrix,
        where,
        adata.var_names,
        n_detected,
        partial(group_cells, system_codes, systems, batch),
        systems,
        target=float(target_sum) if is_counts else None,
        base=base,
        min_cells=min_cells,
        n_top_genes=n_top_genes,
        flavor=flavor,
        report=report,
        own_genes=own_genes,
    )
    detected, kept, n_detected_genes = chosen.detected, chosen.kept, int(chosen.detected.sum())

    # AnnData itself selects everything but the expression
    prepared = AnnData(obs=adata.obs, var=adata.var, obsm=dict(adata.obsm), uns=dict(adata.uns))[:, kept].copy()
    log_totals = LogTotals(adata.n_vars) if not is_counts and base is None else None
    if not is_counts and len(kept) == adata.n_vars and _is_canonical(matrix):  # the expression stays the same
        prepared.X = matrix.copy() if copy else matrix
        if log_totals is not None:
            for _, _, block in row_blocks(matrix):
                log_totals.add(block)
    else:
        prepared.X, total, gene_total = read_genes(matrix, kept, int(n_detected[:, kept].sum()), detected, log_totals)
        if is_counts:
            if keep_counts:
                prepared.layers["counts"] = prepared.X.copy()
            if n_empty := int((total == 0).sum()):
                warnings.warn(
                    f"{n_empty} {'cell has' if n_empty == 1 else 'cells have'} zero counts of the {n_detected_genes} "
                    "genes seen in every system.",
                    UserWarning,
                    stacklevel=2,
                )
            log_normalise(prepared.X, total, target_sum)
            prepared.uns["log1p"] = {"base": None}  # tells scanpy that the natural logarithm was taken
            share = gene_total[detected] / max(1.0, gene_total[detected].sum())
            names = adata.var_names[detected].to_numpy(object)
            prepared.uns[TOTALS_KEY] = {"genes": names, "shares": share, "target_sum": target_sum}
    if log_totals is not None and (found := log_totals.result(adata.var_names)) is not None:
        prepared.uns[TOTALS_KEY] = found

    settings = {
        "system_key": system_key,
        "batch_key": batch_key,
        "layer": layer,
        "n_top_genes": n_top_genes,
        "min_cells": min_cells,
        "target_sum": target_sum,
        "normalize": is_counts,
        "fractional_counts": bool(fractional_counts),
        "flavor": flavor,
    }
    prepared.uns.pop(OWN_GENES_KEY, None)
    if own_genes is not None:
        settings["genes"] = genes
        if not own_genes[:, kept].all():
            prepared.uns[OWN_GENES_KEY] = own_genes_record(prepared.var_names, systems, own_genes[:, kept])
    prepared.uns[PREPARED_KEY] = chosen.record(settings)
    return prepared


def read_preparation(adata: AnnData) -> dict[str, Any] | None:
    """What `prepare` wrote into ``uns["sysvi_prepare"]`` as plain values, also after it went through an h5ad file.

    None if the cells were not prepared.

    Examples
    --------
    >>> read_preparation(AnnData(uns={"sysvi_prepare": {"genes_in": np.int64(9), "variable_genes": {"a": 3}}}))
    {'genes_in': 9, 'variable_genes': {'a': 3}}
    """

    def plain(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {str(name): plain(part) for name, part in value.items()}
        return value.tolist() if isinstance(value, np.generic | np.ndarray) else value

    written = adata.uns.get(PREPARED_KEY)
    return plain(written) if isinstance(written, Mapping) and written else None


def order_of(names: pd.Index) -> str:
    """Digest of the order of cells, from ten thousand of their names.

    Examples
    --------
    >>> names = pd.Index(["a", "b", "c"])
    >>> order_of(names) == order_of(names.copy()), order_of(names) == order_of(names[::-1])
    (True, False)
    """
    return fingerprint(names[:: max(1, len(names) // 10_000)].astype(str), np.array([len(names)]))


def was_shuffled(adata: AnnData) -> bool:
    """Whether the cells are in the random order in which `prepare_files` wrote them, which is in its record."""
    record = adata.uns.get(PREPARED_KEY)
    return isinstance(record, Mapping) and str(record.get("order")) == order_of(adata.obs_names)


class LogTotals:
    """To how many counts, over all genes, the cells of log-normalised expression were normalised.

    Blocks of cells are added one after another; no more is computed once two cells differ in their total by more than
    1 %, as they do if genes are missing over which the counts were normalised. Cells without expression say nothing.

    Parameters
    ----------
    n_genes
        Number of genes.

    Examples
    --------
    >>> logarithms = sparse.csr_matrix(np.log1p([[1.0, 3.0], [2.0, 2.0]]))
    >>> totals = LogTotals(2)
    >>> totals.add(logarithms)
    >>> totals.result(pd.Index(["a", "b"]))["shares"].round(3).tolist()
    [0.375, 0.625]
    >>> totals.add(2 * logarithms)
    >>> totals.result(pd.Index(["a", "b"])) is None
    True
    """

    def __init__(self, n_genes: int) -> None:
        self._of_genes = np.zeros(n_genes)
        self._of_cells: list[np.ndarray] = []
        self._low, self._high = np.inf, 0.0

    @property
    def _differ(self) -> bool:
        return bool(self._high > (1 + CONSTANT) * self._low)

    def add(self, block: sparse.csr_matrix) -> None:
        """Add cells with natural logarithms of expression, (cells, n_genes)."""
        if self._differ:
            return
        block = block.astype(np.float64).expm1()
        total = np.asarray(block.sum(axis=1)).ravel()
        total = total[total > 0]
        self._of_cells.append(total)
        self._of_genes += np.bincount(block.indices, block.data, minlength=len(self._of_genes))
        self._low, self._high = total.min(initial=self._low), total.max(initial=self._high)

    def result(self, names: pd.Index) -> dict[str, Any] | None:
        """What `prepare` writes for counts; None if cells differ in their total.

        These are the names of the genes, the share of each in the sum of all normalised counts, and the median total.
        """
        if self._differ or self._high == 0:
            return None
        shares, target_sum = self._of_genes / self._of_genes.sum(), float(np.median(np.concatenate(self._of_cells)))
        return {"genes": names.to_numpy(object), "shares": shares, "target_sum": target_sum}


@contextmanager
def ignore_few_genes_warning() -> Iterator[None]:
    """Hide the warning of `prepare` about few genes, for uses of its output other than integration."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Only .* genes remain")
        yield


def logarithm_base(uns: Mapping[str, Any]) -> float | None:
    """Base of the logarithm of the expression, as scanpy notes it in ``uns["log1p"]``.

    Parameters
    ----------
    uns
        Further entries of an AnnData.

    Returns
    -------
    float or None
        None for the natural logarithm, and if there is no note, or one that lost its form, as in R.

    Examples
    --------
    >>> logarithm_base({"log1p": {"base": 2}}), logarithm_base({"log1p": {"base": None}}), logarithm_base({})
    (2.0, None, None)
    """
    mark = uns.get("log1p")
    try:
        base = float(np.asarray(mark["base"]).item()) if isinstance(mark, Mapping) else np.nan
    except (KeyError, TypeError, ValueError):
        return None
    return base if 0 < base < np.inf and base != 1 else None


def log_normalise(x: sparse.csr_matrix, total: np.ndarray, target_sum: float) -> None:
    """Scale each cell to a total of `target_sum` counts and take log(1 + x), in place.

    Parameters
    ----------
    x
        Counts, CSR of shape (n_cells, n_genes), float32.
    total
        Total counts of each cell, (n_cells,), which may include genes that are not in `x`.
    target_sum
        Total counts of each cell after scaling.

    Examples
    --------
    >>> x = sparse.csr_matrix([[1.0, 3.0]], dtype=np.float32)
    >>> log_normalise(x, np.array([4.0]), 8.0)
    >>> np.expm1(x.data).round(3).tolist()
    [2.0, 6.0]
    """
    size = total.astype(np.float32) / np.float32(target_sum)  # (n_cells,) in float32, as scanpy does
    size[size == 0] = 1
    for start in range(0, x.shape[0], 1024):
        starts = x.indptr[start : start + 1025]
        values = x.data[starts[0] : starts[-1]]  # a view of the stored values of these cells
        values /= np.repeat(size[start : start + 1024], np.diff(starts))
        np.log1p(values, out=values)


def _is_canonical(matrix: Any) -> bool:
    """Whether a matrix already has the form that :func:`row_blocks` gives: CSR, float32, sorted, no stored zeros."""
    return (
        sparse.issparse(matrix)
        and matrix.format == "csr"
        and matrix.dtype == np.float32
        and matrix.has_canonical_format
        and np.count_nonzero(matrix.data) == matrix.nnz
    )


def _as_int(name: str, value: Any, least: int) -> int:
    """Read a setting as an int, like `whole_number`, but also accept a float without fraction, such as 2e3."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return whole_number(name, value, least)


class _Detected(NamedTuple):
    """What a row block tells: cells of each system that have each gene; of its values, whole ones and the largest."""

    n_detected: np.ndarray  # (n_systems, n_genes)
    n_whole: np.ndarray  # (n_systems,)
    largest: np.ndarray  # (n_systems,), 0 if all values of the block are counts


@dataclass(frozen=True, eq=False)
class _CountDetected:
    """First pass, for a row block: None if a value is negative or not finite."""

    matrix: Any
    shape: tuple[int, int]  # systems and genes

    def __call__(self, rows: tuple[int, int, np.ndarray]) -> _Detected | None:
        """Count in the rows from a first to a last, with the systems of their cells."""
        start, stop, codes = rows
        n_systems, n_genes = self.shape
        block = read_slice(self.matrix, start, stop)
        code = np.repeat(codes, np.diff(block.indptr))  # (nnz,)
        position = code * n_genes + block.indices  # in the flat n_detected
        n_detected = np.bincount(position, minlength=n_systems * n_genes).reshape(self.shape)
        largest = np.zeros(n_systems)
        if looks_like_counts(block.data):  # counts are finite and not negative
            return _Detected(n_detected, n_detected.sum(axis=1), largest)
        if not (np.isfinite(block.data) & (block.data >= 0)).all():
            return None
        np.maximum.at(largest, code, block.data)
        n_whole = np.bincount(code[whole_numbers(block.data)], minlength=n_systems)
        return _Detected(n_detected, n_whole, largest)


def detect_genes(
    matrix: Any,
    where: str,
    adata: AnnData,
    system_codes: np.ndarray,
    systems: np.ndarray,
    normalize: bool | None,
    fractional_counts: bool,
    remedy: str = "sysvi.prepare",
    map_blocks: BlockMap = map,
) -> tuple[np.ndarray, bool]:
    """Count the cells in which each gene is detected, and check the expression.

    Parameters
    ----------
    matrix
        Expression of any kind, (n_cells, n_genes).
    where
        Place of the expression, for messages.
    adata
        Cells, for the names of cells and genes in messages.
    system_codes, systems
        Code of each cell's system, (n_cells,), and names of the systems, (n_systems,).
    normalize
        Whether the user gave counts; None to decide by the values.
    fractional_counts
        Whether the user said that values with fractions are counts.
    remedy
        The function, for messages, that takes such counts.
    map_blocks
        Where row blocks are read and counted.

    Returns
    -------
    n_detected : numpy.ndarray
        Number of cells of each system with a nonzero value of each gene, (n_systems, n_genes).
    is_counts : bool
        Whether the expression is counts.
    """
    shape = (len(systems), adata.n_vars)
    n_detected = np.zeros(shape, np.int64)
    n_whole, largest = np.zeros(len(systems), np.int64), np.zeros(len(systems))  # of the values of each system
    ranges = row_ranges(matrix)
    blocks = ((start, stop, system_codes[start:stop]) for start, stop in ranges)
    for (start, stop), found in zip(ranges, map_blocks(_CountDetected(matrix, shape), blocks), strict=True):
        if found is None:
            names = adata.obs_names[start:stop], adata.var_names
            check_finite_nonnegative(read_slice(matrix, start, stop), *names, where, adata.raw is not None)
            raise InputError(f"{where} was changed while it was read: run it again.")
        n_detected += found.n_detected
        n_whole += found.n_whole
        np.maximum(largest, found.largest, out=largest)
    if fractional_counts:
        return n_detected, True
    n_values = n_detected.sum(axis=1)
    like_counts = n_whole == n_values  # also a system without expression
    for i, name in enumerate(systems):
        refuse_fractional_counts(n_whole[i], n_values[i], largest[i], f"{where} of system {name!r}", remedy)
    if normalize and not like_counts.all():
        raise InputError(
            f"{where} looks log-normalised, not like counts, in system {systems[~like_counts][0]!r}: "
            "give counts (see the argument layer) or pass normalize=False."
        )
    is_counts = bool(like_counts.all()) if normalize is None else bool(normalize)
    raw = like_counts & (n_values > 0)
    if not is_counts and raw.any():
        name = systems[raw][0]
        if raw.all():
            raise InputError(f"{where} looks like raw counts in system {name!r}: pass normalize=True.")
        raise InputError(
            f"{where} looks like raw counts in system {name!r} and log-normalised in {systems[~raw][0]!r}: give the "
            "counts of all systems, or log-normalised values of all."
        )
    return n_detected, is_counts


class Groups(NamedTuple):
    """Groups of cells in which the variance of genes is measured: systems, or the batches within systems."""

    cell_groups: np.ndarray  # (n_cells,) group of each cell, -1 for none
    system_groups: list[np.ndarray]  # groups of each system
    by_batch: list[bool]  # whether the groups of each system are batches


@dataclass(frozen=True, eq=False)
class ChosenGenes:
    """The genes that `prepare` keeps.

    Parameters
    ----------
    systems
        Names of the systems, (n_systems,).
    detected
        Mask of the genes detected in every system, (n_genes,).
    variable
        Masks of the variable ones among these, of each system, (n_systems, n_detected).
    kept
        Column numbers of the genes that are variable in every system that has them, (n_kept,).
    n_of_some
        How many of these some systems lack.
    """

    systems: np.ndarray
    detected: np.ndarray
    variable: np.ndarray
    kept: np.ndarray
    n_of_some: int = 0

    def record(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Settings, without those that are None, and the number of genes after each step, for ``uns``."""
        n_variable = zip(self.systems, self.variable.sum(axis=1), strict=True)
        steps = {
            "genes_in": len(self.detected),
            "genes_detected": int(self.detected.sum()),
            "variable_genes": {name.replace("/", "|"): int(n) for name, n in n_variable},
            "genes_kept": len(self.kept),
        }
        if self.n_of_some:
            steps["genes_kept_of_some_systems"] = self.n_of_some
        return {k: v for k, v in settings.items() if v is not None} | steps


def choose_genes(
    matrix: Any,
    where: str,
    names: pd.Index,
    n_detected: np.ndarray,
    groups: Callable[[], Groups],
    systems: np.ndarray,
    *,
    target: float | None,
    base: float | None,
    min_cells: int,
    n_top_genes: int,
    flavor: str,
    report: Callable[[str], None],
    own_genes: np.ndarray | None = None,
    map_blocks: BlockMap = map,
) -> ChosenGenes:
    """Choose the genes detected in every system, and those of them that are variable in every system.

    Parameters
    ----------
    matrix, where, names
        Expression of any kind, (n_cells, n_genes), its place for messages, and the names of its genes.
    n_detected
        Number of cells of each system in which each gene is detected, (n_systems, n_genes).
    groups
        Function that gives the groups of cells in which the variance is measured, where it is.
    systems
        Names of the systems.
    target
        Counts per cell after normalisation; None for log-normalised expression.
    base
        Base of the logarithm of log-normalised expression; None for the natural logarithm.
    min_cells, n_top_genes, flavor, report
        As in `prepare`.
    own_genes
        Whether each system has each gene, (n_systems, n_genes), to keep genes that some lack too; None: not these.
    map_blocks
        Where row blocks are read and summed.

    Raises
    ------
    InputError
        If no gene remains, or systems name their genes differently.
    """
    passes = n_detected > min_cells  # (n_systems, n_genes)
    n_passing = dict(zip(systems, passes.sum(axis=1).tolist(), strict=True))
    for name, n in n_passing.items():
        if n == 0:
            raise InputError(
                f"No gene of {where} is seen in more than {min_cells} cells of system {name!r}: "
                "lower min_cells or check that system's expression."
            )
    detected = np.logical_and.reduce(passes)  # (n_genes,)
    n_detected_genes = int(detected.sum())
    report(f"Genes seen in more than {min_cells} cells of every system: {n_detected_genes} of {len(names)}")
    if not n_detected_genes:
        raise InputError(
            f"No gene of {where} is seen in more than {min_cells} cells of every system, although each system has such "
            "genes: check that all systems use the same gene names (see map_orthologs) or lower min_cells."
        )
    check_shared_genes(n_detected_genes, n_passing, f"seen in more than {min_cells} cells of")

    # Log-normalisation: for the gene selection row block by row block, at the end of the kept genes
    if target is not None:
        report(f"Normalised each cell to {target:g} counts over {n_detected_genes} genes, then log1p")

    # Variable genes of each system, and those variable in every system
    variable = np.ones((len(systems), n_detected_genes), dtype=bool)
    of_some, cell_groups = np.zeros(len(names), dtype=bool), None
    if own_genes is not None:  # genes that some systems lack, detected in the others
        of_some = ~own_genes.all(axis=0) & own_genes.any(axis=0) & (passes | ~own_genes).all(axis=0)
    if n_detected_genes > n_top_genes:
        cell_groups = groups()
        select = partial(
            _select_genes, matrix, detected, target, base, cell_groups, names[detected], n_top_genes, map_blocks
        )
        variable = _variable_genes(select, systems, n_detected_genes, flavor)
    for name, n_variable in zip(systems, variable.sum(axis=1), strict=True):
        report(f"Variable genes in system {name!r}: {n_variable} of {n_detected_genes}")
    kept = np.flatnonzero(detected)[variable.all(axis=0)]  # (n_kept,)
    report(f"Genes variable in every system: {len(kept)} of {n_detected_genes}")
    n_of_some = 0
    if len(kept) and own_genes is not None and of_some.any():
        candidates = detected | (of_some & own_genes)  # (n_systems, n_genes)
        if (candidates.sum(axis=1) > n_top_genes).any():
            cell_groups = cell_groups or groups()
            select = partial(
                _select_genes,
                *(matrix, detected, target, base, cell_groups, names, n_top_genes, map_blocks),
                candidates=candidates,
            )
            candidates = _variable_genes(select, systems, int(candidates.sum(axis=1).max()), flavor)
        of_some &= (candidates | ~own_genes).all(axis=0)
        n_of_some = int(of_some.sum())
        kept = np.union1d(kept, np.flatnonzero(of_some))
        report(f"Genes that some systems lack, variable in all others: {n_of_some}")
    if not len(kept):
        raise InputError("No gene is variable in every system: raise n_top_genes.")
    if len(kept) < FEW_GENES:
        warnings.warn(
            f"Only {len(kept)} genes remain, which is few for an integration: consider a larger n_top_genes "
            f"(now {n_top_genes}) or a smaller min_cells (now {min_cells}).",
            UserWarning,
            stacklevel=3,
        )
    return ChosenGenes(systems, detected, variable, kept, n_of_some)


def group_cells(system_codes: np.ndarray, systems: np.ndarray, batch: np.ndarray | None) -> Groups:
    """Group cells by system, or by batch within systems without small batches.

    Parameters
    ----------
    system_codes, systems
        Code of each cell's system, (n_cells,), and names of the systems.
    batch
        Batch of each cell, (n_cells,); None to group by system.
    """
    if batch is None:
        return Groups(system_codes, [np.array([i]) for i in range(len(systems))], [False] * len(systems))
    cell_groups = np.full(len(system_codes), -1)
    system_groups: list[np.ndarray] = []
    by_batch: list[bool] = []
    n_groups = 0
    for i, name in enumerate(systems):
        cells = np.flatnonzero(system_codes == i)
        batch_codes, names = pd.factorize(batch[cells], sort=True)  # (n_cells of the system,), (n_batches,)
        large = np.bincount(batch_codes) >= MIN_BATCH_CELLS  # (n_batches,)
        if not large.all():
            warnings.warn(
                f"System {name!r} has batches of fewer than {MIN_BATCH_CELLS} cells, left out of its selection of "
                f"variable genes{'' if large.any() else ', which therefore ignores batches'}: "
                f"{listing(names[~large])}.",
                UserWarning,
                stacklevel=4,
            )
        by_batch.append(bool(large.any()))
        if large.any():
            cell_groups[cells] = np.where(large, n_groups + np.cumsum(large) - 1, -1)[batch_codes]
        else:
            cell_groups[cells] = n_groups
        system_groups.append(np.arange(n_groups, cell_groups.max() + 1))
        n_groups = cell_groups.max() + 1
    return Groups(cell_groups, system_groups, by_batch)


@dataclass(frozen=True, eq=False)
class _SumMoments:
    """Second pass, for a row block: sums of log-normalised values ("seurat": of normalised ones) and their squares."""

    matrix: Any
    detected: np.ndarray
    target_sum: float | None
    base: float | None
    flavor: str

    def __call__(self, rows: tuple[int, int, np.ndarray]) -> BlockMoments | None:
        """Sum in the rows from a first to a last, with the groups of their cells."""
        start, stop, group = rows
        block = read_slice(self.matrix, start, stop)
        if self.target_sum is not None:
            log_normalise(block, block @ self.detected.astype(np.float64), self.target_sum)
        if self.flavor == "seurat":
            if self.base is not None:
                block.data *= np.log(self.base)
            np.expm1(block.data, out=block.data)
        return block_moments(block, group)


def _select_genes(
    matrix: Any,
    detected: np.ndarray,
    target_sum: float | None,
    base: float | None,
    groups: Groups,
    names: pd.Index,
    n_top_genes: int,
    map_blocks: BlockMap,
    flavor: str,
    candidates: np.ndarray | None = None,
) -> list[np.ndarray | None]:
    """Select each system's variable genes in one pass over the cells.

    Parameters
    ----------
    matrix
        Expression of any kind, (n_cells, n_genes).
    detected
        Mask of the genes over which counts are summed, (n_genes,).
    target_sum
        Counts per cell after normalisation; None for log-normalised expression.
    base
        Base of the logarithm of log-normalised expression; None for the natural logarithm.
    groups
        Groups of cells in which the variance is measured.
    names
        Names of the detected genes, (n_detected,); of all genes with `candidates`.
    n_top_genes, flavor
        Settings of `prepare`.
    map_blocks
        Where row blocks are read and summed.
    candidates
        Mask of the genes of each system to choose from, (n_systems, n_genes); by default the detected ones.

    Returns
    -------
    list of numpy.ndarray or None
        For each system a mask of its variable genes, (n_detected,), or (n_genes,) with `candidates`; None if the genes
        cannot be ranked.
    """
    moments = GeneMoments(groups.cell_groups.max() + 1, matrix.shape[1])
    blocks = ((start, stop, groups.cell_groups[start:stop]) for start, stop in row_ranges(matrix))
    for sums in map_blocks(_SumMoments(matrix, detected, target_sum, base, flavor), blocks):
        moments.add(sums)
    selected = []
    for i, (system_groups, by_batch) in enumerate(zip(groups.system_groups, groups.by_batch, strict=True)):
        moments_of_genes = moments.mean_and_variance(system_groups)
        if candidates is None:
            mean, variance = (values[:, detected] for values in moments_of_genes)
            selected.append(variable_genes(mean, variance, n_top_genes, flavor, names if by_batch else None))
            continue
        own = candidates[i]
        if own.sum() <= n_top_genes:
            selected.append(own)
            continue
        mean, variance = (values[:, own] for values in moments_of_genes)
        found = variable_genes(mean, variance, n_top_genes, flavor, names[own] if by_batch else None)
        selected.append(None if found is None else _spread(found, own))
    return selected


def _spread(values: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Put a mask of some genes into one of all genes, in which `mask` says which those are."""
    spread = np.zeros_like(mask)
    spread[mask] = values
    return spread


def _variable_genes(
    select: Callable[[str], list[np.ndarray | None]], systems: np.ndarray, n_genes: int, flavor: str
) -> np.ndarray:
    """Select each system's variable genes, with flavor seurat where there are too few genes for cell_ranger's bins.

    Parameters
    ----------
    select
        Function from a flavor to the mask of each system's variable genes, (n_genes,), or None.
    systems
        Names of the systems.
    n_genes
        Number of genes to choose from.
    flavor
        Flavor to use where possible.

    Returns
    -------
    numpy.ndarray
        Masks, (n_systems, n_genes).
    """
    selected = select(flavor)
    if flavor == "cell_ranger" and any(genes is None for genes in selected):
        for i, genes_by_seurat in enumerate(select("seurat")):
            if selected[i] is None:
                selected[i] = genes_by_seurat
                warnings.warn(
                    f"System {systems[i]!r} has too few distinct genes ({n_genes}) for flavor='cell_ranger': "
                    "its variable genes are selected with flavor='seurat'.",
                    UserWarning,
                    stacklevel=4,
                )
    for name, genes in zip(systems, selected, strict=True):
        if genes is None:
            raise InputError(
                f"The genes of system {name!r} do not vary enough to be ranked: raise n_top_genes "
                f"to {n_genes} to keep all of them."
            )
    return np.stack([genes for genes in selected if genes is not None])


def read_genes(
    matrix: Any, genes: np.ndarray, n_values: int, detected: np.ndarray, log_totals: LogTotals | None = None
) -> tuple[sparse.csr_matrix, np.ndarray, np.ndarray]:
    """Read the expression of the kept genes, and the totals of each cell over all detected genes and of each gene.

    Parameters
    ----------
    matrix
        Expression of any kind, (n_cells, n_genes).
    genes
        Column numbers of the kept genes, (n_kept,).
    n_values
        Number of nonzero values of the kept genes.
    detected
        Mask of the genes that the totals include, (n_genes,).
    log_totals
        What all blocks are added to, if the expression is log-normalised.

    Returns
    -------
    expression : scipy.sparse.csr_matrix
        (n_cells, n_kept), float32.
    total, gene_total : numpy.ndarray
        (n_cells,) and (n_genes,), float64.
    """
    total, gene_total = np.empty(matrix.shape[0]), np.zeros(matrix.shape[1])

    def blocks() -> Iterator[sparse.csr_matrix]:
        for start, stop, block in row_blocks(matrix):
            total[start:stop] = block @ detected.astype(np.float64)
            gene_total[:] += np.bincount(block.indices, block.data, minlength=len(gene_total))
            if log_totals is not None:
                log_totals.add(block)
            yield block[:, genes]

    return stack_blocks(blocks(), (matrix.shape[0], len(genes)), n_values), total, gene_total
