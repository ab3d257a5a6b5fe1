"""Preparation of many files into one, whose cells are shuffled: none of them, nor the result, is ever in memory.

Shapes: n cells of all files, G genes that all files have.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from scipy import sparse

from sysvi._core.arguments import check_types
from sysvi._core.checks import (
    check_not_empty,
    check_obs_column,
    check_shared_genes,
    check_unique_names,
    get_expression,
    is_missing,
    listing,
)
from sysvi._core.errors import InputError
from sysvi._core.seeds import generator
from sysvi._core.settings import flag, positive_number, random_seed, whole_number
from sysvi.data.block_map import BlockMap, active_client, in_threads, on_cluster
from sysvi.data.h5ad import RESERVED_COLUMN, writable_columns
from sysvi.data.joined import JoinedRows, Place, SelectedGenes, in_file
from sysvi.data.orthologs import join_systems, map_orthologs
from sysvi.data.prepare import (
    CONSTANT,
    PREPARED_KEY,
    TOTALS_KEY,
    ChosenGenes,
    choose_genes,
    detect_genes,
    group_cells,
    log_normalise,
    logarithm_base,
    order_of,
)
from sysvi.data.row_blocks import read_into_memory, read_rows
from sysvi.data.store_writer import check_store_output, write_store
from sysvi.data.stored import epoch_groups
from sysvi.data.stores import open_cells
from sysvi.data.variable_genes import FLAVORS

WINDOW_VALUES = 2**24  # stored values of the cells that are shuffled at a time: 130 MB, and as much for their parts
N_COMPARED_CELLS = 500  # of a file, from which it is seen to how many counts its cells are normalised
MOST_THREADS = 8  # that read row blocks, of 20 MB each
DIFFERENT = 0.05  # relative difference of these totals between files

Table = pd.DataFrame | str | PathLike[str]


@dataclass(frozen=True, eq=False)
class _Source:
    """One of the files, with its expression on disk.

    Parameters
    ----------
    path
        The file or store.
    obs, uns
        Its cells, and its further entries.
    where, matrix
        Place of its expression, for messages, and the expression.
    columns
        Column of the expression of each gene, by the name under which files are joined.
    system
        System of each cell.
    """

    path: Path
    obs: pd.DataFrame
    uns: Mapping[str, Any]
    where: str
    matrix: Any
    columns: pd.Series
    system: np.ndarray


def prepare_files(
    files: Sequence[str | PathLike[str]],
    output: str | PathLike[str],
    system_key: str,
    batch_key: str | None = None,
    *,
    layer: str | None = None,
    system_of_file: Mapping[str, str] | None = None,
    orthologs: Mapping[str, Table] | None = None,
    n_top_genes: int = 3000,
    min_cells: int = 20,
    target_sum: float = 1e4,
    fractional_counts: bool = False,
    flavor: str = "cell_ranger",
    seed: int = 0,
    overwrite: bool = False,
    report: Callable[[str], None] | None = None,
) -> Path:
    """Prepare the cells of many files as :func:`sysvi.prepare` does, into one file, without having them in memory.

    The files are joined on the genes that all have, and their cells are shuffled, so that :func:`sysvi.integrate` with
    `memory` finds cells of all of them near each other. The files are read three times in row blocks.

    Parameters
    ----------
    files
        h5ad files and zarr stores (version 2 or 3), all with counts or all log-normalised.
    output
        What to write: a file with the ending ``.h5ad``, or a store (a folder) with the ending ``.zarr``.
    system_key, batch_key
        Columns of ``obs`` with the systems and the batches.
    layer
        Layer of all files with the expression; ``X`` by default.
    system_of_file
        System of files that have no such column, by their path, their name, or a pattern of one of them:
        ``{"mouse/*": "mouse"}``.
    orthologs
        For systems of other species a table of orthologues, as in :func:`sysvi.map_orthologs`, by system. The genes of
        their files, which must have cells of no other system, are renamed; those that share a target are dropped.
    n_top_genes, min_cells, target_sum, fractional_counts, flavor
        As in :func:`sysvi.prepare`.
    seed
        Random seed of the order of the cells.
    overwrite
        Whether `output` may exist and is replaced.
    report
        Function that is called with one line of text after each step, for example ``print``.

    Returns
    -------
    pathlib.Path
        Path of the output: ``X`` the log-normalised expression (CSR, float32) of the genes variable in every system,
        ``obs`` the columns that all files have, ``uns["sysvi_prepare"]`` and ``uns["sysvi_totals"]`` as
        :func:`sysvi.prepare` writes them. There are no counts and no ``obsm``. If a cell name occurs in two files, all
        names are prefixed with the name of their file.

    Raises
    ------
    InputError
        If a file cannot be read or used, or the files disagree: the message names the file, the column and the values.

    Warns
    -----
    UserWarning
        As :func:`sysvi.prepare`, and if columns are left out that are numeric in some files only.

    Examples
    --------
    >>> import sysvi, tempfile, warnings
    >>> folder = Path(tempfile.mkdtemp())
    >>> cells = sysvi.datasets.simulate_systems(300, 200, seed=1)
    >>> for name in ("system1", "system2"):
    ...     cells[cells.obs["system"] == name].write_h5ad(folder / f"{name}.h5ad")
    >>> with warnings.catch_warnings():
    ...     warnings.simplefilter("ignore")  # 200 genes are few
    ...     path = prepare_files(sorted(folder.glob("*.h5ad")), folder / "all.h5ad", "system", "batch", min_cells=3)
    >>> sysvi.integrate(path, "system", "batch", max_epochs=2, members=1, progress=False).adata.obsm["X_sysVI"].shape
    (300, 15)
    """
    check_types(prepare_files, flavor=flavor, overwrite=overwrite, report=report, layer=layer, output=output)
    check_types(prepare_files, system_key=system_key, batch_key=batch_key, files=files)
    check_types(prepare_files, system_of_file=system_of_file, orthologs=orthologs)
    files = list(files)
    check_types(prepare_files, files=files)  # of an iterable that is no list, each item
    report = report or (lambda line: None)
    path = Path(output)
    n_top_genes, min_cells = whole_number("n_top_genes", n_top_genes, 1), whole_number("min_cells", min_cells, 0)
    target_sum, seed = positive_number("target_sum", target_sum), random_seed(seed)
    fractional_counts = flag("fractional_counts", fractional_counts)
    if flavor not in FLAVORS:
        raise InputError(f"flavor is {flavor!r}; it must be 'cell_ranger' or 'seurat'.")
    if RESERVED_COLUMN in (system_key, batch_key):
        raise InputError(f"A column must not be called {RESERVED_COLUMN!r}: rename it, and name it anew.")
    check_store_output(path, overwrite)
    sources = _open_all(files, path, layer, system_key, system_of_file or {}, orthologs or {}, report)
    genes = _shared_genes(sources)
    obs = _join_obs(sources, system_key, batch_key)
    codes, systems = pd.factorize(obs[system_key].to_numpy(), sort=True)
    if len(systems) < 2:
        raise InputError(
            f"The files have only one system ({listing(systems)}) in {system_key!r} (system_key), but integration "
            "needs at least two: add files of the others."
        )
    parts = [
        SelectedGenes(source.matrix, source.columns[genes].to_numpy(), Place(source.path.absolute(), layer))
        for source in sources
    ]
    expression = JoinedRows(parts)
    map_blocks, map_windows = _where_to_compute(report)

    n_detected, is_counts = _detect(sources, parts, genes, codes, systems, fractional_counts, map_blocks)
    report(f"The files hold {'counts' if is_counts else 'log-normalised expression'}")
    base = None if is_counts else _check_normalisation(sources)
    target = float(target_sum) if is_counts else None
    batch = None if batch_key is None else obs[batch_key].to_numpy()
    chosen = choose_genes(
        expression,
        "the files",
        genes,
        n_detected,
        partial(group_cells, codes, systems, batch),
        systems,
        target=target,
        base=base,
        min_cells=min_cells,
        n_top_genes=n_top_genes,
        flavor=flavor,
        report=report,
        map_blocks=map_blocks,
    )

    windows = _shuffled_windows(len(obs), expression.nnz, seed)
    settings = {
        "system_key": system_key,
        "batch_key": batch_key,
        "layer": layer,
        "n_top_genes": n_top_genes,
        "min_cells": min_cells,
        "target_sum": target_sum,
        "normalize": is_counts,
        "fractional_counts": fractional_counts,
        "flavor": flavor,
    }
    obs = obs.iloc[np.concatenate(windows)]
    record = chosen.record(settings) | {
        "files": np.array([source.path.name for source in sources], object),
        "seed": seed,
        "order": order_of(obs.index),
    }
    normalise, totals = _NormaliseWindow(expression, chosen.detected, chosen.kept, target), _Totals(chosen, target)

    def uns() -> dict[str, Any]:
        of_counts = {} if target is None else {"log1p": {"base": None}, TOTALS_KEY: totals.of_genes(genes)}
        return {PREPARED_KEY: record, **of_counts}

    write_store(
        path,
        obs,
        pd.DataFrame(index=genes[chosen.kept]),
        uns,
        totals.blocks(map_windows(normalise, windows)),
        int(n_detected[:, chosen.kept].sum()),
        overwrite,
    )
    if totals.n_empty:
        warnings.warn(
            f"{totals.n_empty} {'cell has' if totals.n_empty == 1 else 'cells have'} zero counts of the "
            f"{int(chosen.detected.sum())} genes seen in every system.",
            stacklevel=2,
        )
    return path


def join_files(
    files: Sequence[str | PathLike[str]],
    system_key: str,
    *,
    layer: str | None = None,
    system_of_file: Mapping[str, str] | None = None,
    orthologs: Mapping[str, Table] | None = None,
    report: Callable[[str], None] | None = None,
) -> AnnData:
    """Join files, one of each system, with the genes of all of them in memory (``join_systems(genes="union")``).

    Parameters
    ----------
    files, system_key, layer, system_of_file, report
        As in :func:`prepare_files`.
    orthologs
        As in :func:`sysvi.join_systems`.

    Raises
    ------
    InputError
        If a file cannot be read, has cells of several systems, or is the second one of a system.
    """
    cells_of: dict[str, AnnData] = {}
    for path in _check_paths(files, system_of_file or {}):
        cells = open_cells(path)
        with in_file(path):
            check_not_empty(cells)
            check_unique_names(cells)
            _, matrix = get_expression(cells, layer)
            systems = sorted(set(_systems_of(path, cells, system_key, system_of_file or {})))
            if len(systems) > 1:
                raise InputError(f"it has cells of several systems ({listing(systems)}): split it by system.")
            (system,) = systems
            if system in cells_of:
                raise InputError(f"it is the second file of system {system!r}: join the files of a system first.")
            expression, var = read_into_memory(matrix), pd.DataFrame(index=cells.var_names)
            cells_of[system] = AnnData(expression, obs=cells.obs.drop(columns=system_key, errors="ignore"), var=var)
    return join_systems(cells_of, system_key, genes="union", orthologs=orthologs, report=report)


def _where_to_compute(report: Callable[[str], None]) -> tuple[BlockMap, BlockMap]:
    """Where row blocks are summed, and where windows are read: on the Dask cluster that is active, or in threads."""
    client = active_client()
    if client is None:
        return in_threads(min(MOST_THREADS, torch.get_num_threads())), map  # one window after another, for memory
    on_dask = on_cluster(client)
    report(f"The files are read on the Dask cluster at {client.scheduler_info()['address']}")
    return on_dask, on_dask


def _open_all(
    files: Sequence[str | PathLike[str]],
    output: Path,
    layer: str | None,
    system_key: str,
    system_of_file: Mapping[str, str],
    orthologs: Mapping[str, Table],
    report: Callable[[str], None],
) -> list[_Source]:
    """Open the files, find their systems, and rename the genes of other species."""
    if not files:
        raise InputError("files is empty: give a list of at least one h5ad file or zarr store.")
    paths = _check_paths(files, system_of_file)
    sources = []
    for path in paths:
        if output.exists() and path.exists() and output.samefile(path):
            raise InputError(f"{output} is one of the files that are read: choose another name for the output.")
        cells = open_cells(path)
        with in_file(path):
            check_not_empty(cells)
            check_unique_names(cells)
            where, matrix = get_expression(cells, layer)
            system = _systems_of(path, cells, system_key, system_of_file)
            names = pd.Series(np.arange(cells.n_vars), index=cells.var_names)
            species = [name for name in orthologs if name in system]
            if species and len(set(system)) > 1:
                raise InputError(
                    f"it has cells of several systems ({listing(sorted(set(system)))}), so its genes cannot be renamed "
                    f"by the table of {species[0]!r} (orthologs): split it by system."
                )
            if species:
                genes = AnnData(obs=cells.obs[[]], var=pd.DataFrame(index=cells.var_names))
                mapped = map_orthologs(genes, orthologs[species[0]], report=partial(_report_of, path, report))
                names = names[mapped.var["ortholog_source"]].set_axis(mapped.var_names)
        sources.append(_Source(path, cells.obs, cells.uns, where, matrix, names, system))
    if unknown := [name for name in orthologs if not any(name in source.system for source in sources)]:
        raise InputError(
            f"There is a table of orthologues (orthologs) for {unknown[0]!r}, which is none of the systems: correct "
            "its name."
        )
    return sources


def _report_of(path: Path, report: Callable[[str], None], line: str) -> None:
    report(f"{path}: {line}")


def _check_paths(files: Sequence[str | PathLike[str]], system_of_file: Mapping[str, str]) -> list[Path]:
    """The files as paths, after a check that each is given once and that each name or pattern is that of a file."""
    paths = [Path(file) for file in files]
    resolved = [path.resolve() for path in paths]
    if twice := [path for path, real in zip(paths, resolved, strict=True) if resolved.count(real) > 1]:
        raise InputError(f"{twice[0]} is given twice: name each file once.")
    for pattern in system_of_file:
        if not any(_is_called(path, pattern) for path in paths):
            raise InputError(
                f"system_of_file names {pattern!r}, which is none of the files: correct its path or pattern."
            )
    return paths


def _is_called(path: Path, pattern: str) -> bool:
    """Whether a pattern is one of the path of a file, or of its name."""
    return fnmatch(str(path), pattern) or fnmatch(path.name, pattern)


def _systems_of(path: Path, cells: AnnData, system_key: str, system_of_file: Mapping[str, str]) -> np.ndarray:
    """System of each cell of a file, from the name given for the file or from its column."""
    given = {name for pattern, name in system_of_file.items() if _is_called(path, pattern)}
    if len(given) > 1:
        raise InputError(f"system_of_file gives it several systems ({listing(sorted(given))}): give one.")
    if not given:
        try:
            return check_obs_column(cells, system_key, "system_key")
        except InputError as error:
            if system_key in cells.obs:
                raise
            raise InputError(f"{error} If all its cells are of one system, name it in system_of_file.") from error
    (name,) = given
    if is_missing(pd.Series([name])).any():
        raise InputError(f"system_of_file names its system {name!r}, which stands for missing values: rename it.")
    if system_key in cells.obs:
        found = check_obs_column(cells, system_key, "system_key")
        if (found != name).any():
            raise InputError(
                f"its column {system_key!r} has {listing(sorted(set(found)), 5)}, but system_of_file names {name!r}: "
                "leave the file out there, or choose another system_key."
            )
    return np.full(cells.n_obs, name, dtype=object)


def _shared_genes(sources: Sequence[_Source]) -> pd.Index:
    """Genes that all files have, in the order of the first."""
    first, *others = sources
    shared = first.columns.index
    for source in others:
        both = shared[shared.isin(source.columns.index)]
        if not len(both):
            raise InputError(
                f"{source.path} shares no gene name with the files before it ({listing(source.columns.index, 3)}; they "
                f"have {listing(shared, 3)}): rename the genes of one species with a table of orthologues (orthologs)."
            )
        shared = both
    n_genes: dict[str, int] = {}
    for source in sources:
        for name in set(source.system):
            n_genes[name] = min(len(source.columns), n_genes.get(name, len(source.columns)))
    check_shared_genes(len(shared), n_genes, "of")
    return pd.Index(shared)


def _join_obs(sources: Sequence[_Source], system_key: str, batch_key: str | None) -> pd.DataFrame:
    """The columns of ``obs`` that all files have, with the systems."""
    tables = []
    for source in sources:
        table = writable_columns(source.obs).copy()
        if batch_key is not None and batch_key != system_key:
            with in_file(source.path):
                table[batch_key] = check_obs_column(AnnData(obs=table), batch_key, "batch_key")
        table[system_key] = source.system
        tables.append(table)
    common = [name for name in tables[0] if all(name in table for table in tables[1:])]
    for name in list(common):
        kinds = [pd.api.types.is_numeric_dtype(table[name]) for table in tables]
        if len(set(kinds)) > 1:
            one, other = sources[kinds.index(True)].path, sources[kinds.index(False)].path
            warnings.warn(
                f"Column {name!r} of obs is left out: it is numeric in {one} and text in {other}.", stacklevel=3
            )
            common.remove(name)
    obs = pd.concat([table[common] for table in tables])
    for name in filter(lambda name: pd.api.types.is_object_dtype(obs[name]), obs):  # values of several types
        obs[name] = obs[name].where(obs[name].isna(), obs[name].astype(str))
    if not obs.index.is_unique:
        stems = [source.path.stem for source in sources]
        labels = stems if len(set(stems)) == len(stems) else [str(i + 1) for i in range(len(stems))]
        names = [f"{label}_{name}" for label, table in zip(labels, tables, strict=True) for name in table.index]
        obs.index = pd.Index(names)
    return obs


def _detect(
    sources: Sequence[_Source],
    parts: Sequence[SelectedGenes],
    genes: pd.Index,
    codes: np.ndarray,
    systems: np.ndarray,
    fractional_counts: bool,
    map_blocks: BlockMap,
) -> tuple[np.ndarray, bool]:
    """Number of cells of each system in which each gene is detected, and whether the files hold counts."""
    total, kinds, start = np.zeros((len(systems), len(genes)), np.int64), [], 0
    for source, part in zip(sources, parts, strict=True):
        stop = start + part.shape[0]
        cells = AnnData(obs=source.obs[[]], var=pd.DataFrame(index=genes))
        with in_file(source.path):
            n_detected, is_counts = detect_genes(
                part, source.where, cells, codes[start:stop], systems, None, fractional_counts, map_blocks=map_blocks
            )
        total += n_detected
        kinds.append(is_counts)
        start = stop
    if len(set(kinds)) > 1:
        counts, logs = sources[kinds.index(True)].path, sources[kinds.index(False)].path
        raise InputError(
            f"The files disagree in their normalisation: {counts} looks like raw counts and {logs} log-normalised. "
            "Give the counts of all files (see the argument layer), or log-normalised values of all."
        )
    return total, kinds[0]


def _check_normalisation(sources: Sequence[_Source]) -> float | None:
    """Base of the logarithm of log-normalised files; an InputError if they were normalised differently."""
    bases, totals = {}, {}
    for source in sources:
        base = bases[source.path] = logarithm_base(source.uns)
        block = SelectedGenes(source.matrix, np.arange(source.matrix.shape[1]))[
            0 : min(N_COMPARED_CELLS, len(source.obs))
        ]
        total = np.asarray(block.astype(np.float64).multiply(1.0 if base is None else np.log(base)).expm1().sum(axis=1))
        middle = float(np.median(total))
        if middle > 0 and np.abs(total / middle - 1).max() < CONSTANT:  # over all genes of the normalisation
            totals[source.path] = middle
    for values, unit in ((bases, "base of the logarithm"), (totals, "counts per cell")):
        if not values:
            continue
        known = {path: -1.0 if value is None else value for path, value in values.items()}
        low, high = min(known, key=lambda path: known[path]), max(known, key=lambda path: known[path])
        if known[high] - known[low] > DIFFERENT * abs(known[high]):
            said = {path: "e" if value is None else f"{value:,.0f}" for path, value in values.items()}
            raise InputError(
                f"The files disagree in their normalisation: {low} has {said[low]} and {high} {said[high]} ({unit}). "
                "Normalise all alike, or give the counts of all."
            )
    return next(iter(bases.values()))


def _shuffled_windows(n_cells: int, n_values: int, seed: int) -> list[np.ndarray]:
    """Rows of all cells in random order, in windows that can be read in row blocks."""
    window = max(1024, WINDOW_VALUES * n_cells // max(1, n_values))
    n_windows = -(-n_cells // window)
    groups = epoch_groups(torch.arange(n_cells), n_windows, window, generator(seed, "shuffle"))
    return [torch.cat(group).numpy() for group in groups]


class _Window(NamedTuple):
    """Cells that were read for the output."""

    block: sparse.csr_matrix  # their log-normalised expression of the kept genes
    gene_total: np.ndarray  # sum of each gene, (G,)
    n_empty: int  # cells without counts


@dataclass(frozen=True, eq=False)
class _NormaliseWindow:
    """Third pass: kept genes of the cells of a window, log-normalised, in its order.

    Parameters
    ----------
    expression
        Expression of all files, (n, G).
    detected, kept
        Mask of the genes over which counts are summed, (G,), and column numbers of the genes to keep.
    target
        Counts per cell after normalisation; None for log-normalised expression.
    """

    expression: JoinedRows
    detected: np.ndarray
    kept: np.ndarray
    target: float | None

    def __call__(self, rows: np.ndarray) -> _Window:
        """Read the cells of some rows."""
        order = np.argsort(rows)
        position = np.empty_like(order)
        position[order] = np.arange(len(rows))
        block = read_rows(self.expression, rows[order])
        total = block @ self.detected.astype(np.float64)
        gene_total = np.bincount(block.indices, block.data, minlength=len(self.detected))
        block = block[:, self.kept][position]
        if self.target is None:
            return _Window(block, gene_total, 0)
        log_normalise(block, total[position], self.target)
        return _Window(block, gene_total, int((total == 0).sum()))


class _Totals:
    """What is summed while the windows are written.

    Parameters
    ----------
    chosen
        The genes over which counts are summed.
    target
        Counts per cell after normalisation; None for log-normalised expression.
    """

    def __init__(self, chosen: ChosenGenes, target: float | None):
        self.chosen, self.target = chosen, target
        self.n_empty, self.gene_total = 0, np.zeros(len(chosen.detected))

    def blocks(self, windows: Iterable[_Window]) -> Iterator[sparse.csr_matrix]:
        """The expression of each window."""
        for window in windows:
            self.gene_total += window.gene_total
            self.n_empty += window.n_empty
            yield window.block

    def of_genes(self, genes: pd.Index) -> dict[str, Any]:
        """After all windows: what :func:`sysvi.map_query` needs to normalise new cells alike."""
        detected = self.gene_total[self.chosen.detected]
        names = genes[self.chosen.detected].to_numpy(object)
        return {"genes": names, "shares": detected / max(1.0, detected.sum()), "target_sum": self.target}
