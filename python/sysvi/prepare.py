"""Preparation of the data: genes seen in every system, normalisation, and the genes variable in every system."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from anndata.abc import CSCDataset
from scipy import sparse

from sysvi.checks import (
    check_finite_nonnegative,
    check_obs_column,
    check_unique_names,
    expression,
    listing,
    looks_like_counts,
)
from sysvi.device import keep_threads
from sysvi.errors import InputError

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
    normalize: bool = True,
    flavor: str = "cell_ranger",
    copy: bool = True,
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
        Whether the expression is counts to normalise; False if it is log-normalised already (steps 1, 4 and 5 only).
    flavor
        How scanpy ranks variable genes: ``"cell_ranger"`` or ``"seurat"``.
    copy
        False: with ``normalize=False`` the result may share its expression with the input, to hold it only once.
    report
        Called with one line of text after each step, for example ``print``.

    Returns
    -------
    anndata.AnnData
        New object of shape (n_cells, n_kept): ``X`` the log-normalised expression (CSR, float32),
        ``layers["counts"]`` the counts (CSR, float32; only if ``normalize``), ``obs``, ``obsm`` and ``uns`` of the
        input, ``var`` of the kept genes, and ``uns["sysvi_prepare"]`` the settings and the number of genes after each
        step (in the system names there, "/" is written "|", since HDF5 keys cannot hold it).

    Raises
    ------
    InputError
        If the input cannot be used, or no gene remains.

    Warns
    -----
    UserWarning
        If fewer than 500 genes remain, if small batches are left out of the choice of variable genes, or if there are
        too few genes for the bins of ``flavor="cell_ranger"`` so that ``"seurat"`` is used.

    Notes
    -----
    Hrovatin et al. 2025, "Integrating single-cell RNA-seq datasets with substantial batch effects". Normalisation and
    variable genes are scanpy's ``normalize_total``, ``log1p`` and ``highly_variable_genes``.

    Backed input is read twice in blocks of rows (backed CSC once, as a whole); only the genes of step 1 are held.

    Examples
    --------
    >>> import numpy as np, pandas as pd, anndata, warnings
    >>> from sysvi.prepare import prepare
    >>> counts = np.random.default_rng(0).poisson(1.0, size=(100, 30)).astype("float32")
    >>> obs = pd.DataFrame({"species": ["human"] * 50 + ["mouse"] * 50}, index=[f"cell{i}" for i in range(100)])
    >>> adata = anndata.AnnData(counts, obs=obs)
    >>> with warnings.catch_warnings():
    ...     warnings.simplefilter("ignore")  # 30 genes are few
    ...     prepared = prepare(adata, "species")
    >>> prepared.shape, sorted(prepared.layers)
    ((100, 30), ['counts'])
    """
    import scanpy as sc  # slow to import

    tell = report or (lambda line: None)
    _check_settings(n_top_genes, min_cells, target_sum, flavor)
    check_unique_names(adata)
    system = check_obs_column(adata, system_key, "system_key")  # (n_cells,)
    batch = None if batch_key is None else check_obs_column(adata, batch_key, "batch_key")  # (n_cells,)
    systems = np.unique(system)
    if len(systems) < 2:
        raise InputError(
            f"adata.obs[{system_key!r}] (system_key) holds {len(systems)} system ({listing(systems)}), but there must "
            "be at least two to integrate: choose another column or add the other system's cells."
        )

    # 1. genes seen in every system
    where, matrix = expression(adata, layer)
    matrix = by_rows(matrix)
    detected = _detected_cells(matrix, where, adata, system, systems, normalize)  # (n_systems, n_genes)
    passes = detected > min_cells  # (n_systems, n_genes)
    for name, n_passing in zip(systems, passes.sum(axis=1), strict=True):
        if n_passing == 0:
            raise InputError(
                f"No gene of {where} is seen in more than {min_cells} cells of system {name!r}: "
                "lower min_cells or check that system's expression."
            )
    seen = passes.all(axis=0)  # (n_genes,)
    tell(f"Genes seen in more than {min_cells} cells of every system: {seen.sum()} of {adata.n_vars}")
    if not seen.any():
        raise InputError(
            f"No gene of {where} is seen in more than {min_cells} cells of every system, though each system has genes "
            "that are: check that all systems use the same gene names (see map_orthologs) or lower min_cells."
        )
    shared = not normalize and bool(seen.all()) and _is_plain(matrix)  # nothing would change in a copy
    prepared = AnnData(
        matrix if shared else select_genes(matrix, np.flatnonzero(seen)),  # (n_cells, n_seen)
        obs=adata.obs.copy(),
        var=adata.var[seen].copy(),
        obsm=dict(adata.obsm),
        uns=dict(adata.uns),
    )

    # 2. and 3. log-normalisation
    if normalize:
        prepared.uns.pop("log1p", None)  # scanpy's mark of an earlier log1p
        prepared.layers["counts"] = prepared.X.copy()
        with keep_threads():
            sc.pp.normalize_total(prepared, target_sum=target_sum)
            sc.pp.log1p(prepared)
        tell(f"Normalised each cell to {target_sum:g} counts over {prepared.n_vars} genes, then log1p")

    # 4. and 5. variable genes per system, and those variable in every system
    variable = np.empty((len(systems), prepared.n_vars), dtype=bool)
    for i, name in enumerate(systems):
        cells = system == name  # (n_cells,)
        batch_of_cells = None if batch is None else batch[cells]
        variable[i] = _variable_genes(prepared[cells], batch_of_cells, n_top_genes, flavor, name)
        tell(f"Variable genes in system {name!r}: {variable[i].sum()} of {prepared.n_vars}")
    kept = variable.all(axis=0)  # (n_seen,)
    tell(f"Genes variable in every system: {kept.sum()} of {prepared.n_vars}")
    if not kept.any():
        raise InputError("No gene is variable in every system: raise n_top_genes.")
    if kept.sum() < FEW_GENES:
        warnings.warn(
            f"Only {kept.sum()} genes remain, which is few for an integration: consider a larger n_top_genes "
            f"(now {n_top_genes}) or a smaller min_cells (now {min_cells}).",
            UserWarning,
            stacklevel=2,
        )

    settings = {
        "system_key": system_key,
        "batch_key": batch_key,
        "layer": layer,
        "n_top_genes": int(n_top_genes),
        "min_cells": int(min_cells),
        "target_sum": float(target_sum),
        "normalize": bool(normalize),
        "flavor": flavor,
    }
    steps = {
        "genes_in": int(adata.n_vars),
        "genes_detected": int(seen.sum()),
        "variable_genes": {
            name.replace("/", "|"): int(n) for name, n in zip(systems, variable.sum(axis=1), strict=True)
        },
        "genes_kept": int(kept.sum()),
    }
    if not kept.all():
        prepared = prepared[:, kept].copy()
    elif shared and copy:
        prepared = prepared.copy()
    prepared.uns["sysvi_prepare"] = {k: v for k, v in settings.items() if v is not None} | steps
    return prepared


@contextmanager
def few_genes_will_do() -> Iterator[None]:
    """Where nothing is trained on what `prepare` makes, few genes are no reason for a warning."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Only .* genes remain")
        yield


def by_rows(matrix: Any) -> Any:
    """Give the matrix of shape (n_cells, n_genes) in a form that can be cut by rows: CSR instead of CSC."""
    if isinstance(matrix, CSCDataset):  # on disk, a few rows cost a read of every column: take the whole matrix
        matrix = matrix.to_memory()
    return matrix.tocsr() if sparse.issparse(matrix) else matrix


def row_blocks(matrix: Any, n_rows: int = 1024) -> Iterator[tuple[int, int, sparse.csr_matrix]]:
    """Blocks of consecutive rows of an expression matrix of any kind, as new CSR matrices.

    Parameters
    ----------
    matrix
        Shape (n_cells, n_genes): array, CSR or CSC, or their counterparts on disk (h5py dataset, anndata's backed
        matrices). It is not changed.
    n_rows
        Rows per block.

    Yields
    ------
    start, stop, block
        ``block`` holds rows start to stop, CSR of shape (stop - start, n_genes), float32, with sorted indices and
        without stored zeros, so that it is the same for all kinds of matrix.

    Examples
    --------
    >>> import numpy as np
    >>> [(start, stop, block.nnz) for start, stop, block in row_blocks(np.eye(5), n_rows=2)]
    [(0, 2, 2), (2, 4, 2), (4, 5, 1)]
    """
    matrix = by_rows(matrix)
    for start in range(0, matrix.shape[0], n_rows):
        stop = min(start + n_rows, matrix.shape[0])
        block = sparse.csr_matrix(matrix[start:stop], dtype=np.float32, copy=True)  # a slice may share memory
        block.sum_duplicates()  # sorts the indices too
        block.eliminate_zeros()
        yield start, stop, block


def select_genes(matrix: Any, genes: np.ndarray) -> sparse.csr_matrix:
    """Read some columns of an expression matrix as CSR, in blocks of rows.

    Parameters
    ----------
    matrix
        Shape (n_cells, n_genes), of any kind that :func:`row_blocks` takes.
    genes
        Positions of the columns, shape (n_selected,).

    Returns
    -------
    scipy.sparse.csr_matrix
        Shape (n_cells, n_selected), float32.

    Examples
    --------
    >>> import numpy as np
    >>> select_genes(np.array([[1, 0, 2], [0, 3, 4]]), np.array([0, 2])).toarray().tolist()
    [[1.0, 2.0], [0.0, 4.0]]
    """
    blocks = (block[:, genes] for _, _, block in row_blocks(matrix))
    if not sparse.issparse(matrix):
        return sparse.vstack(list(blocks), format="csr")
    # As many values as there may be: what is not used takes no memory, and nothing is held twice.
    values, columns = np.empty(matrix.nnz, np.float32), np.empty(matrix.nnz, np.int32)
    starts = np.zeros(matrix.shape[0] + 1, np.int64)
    row = end = 0
    for block in blocks:
        n, start = block.shape[0], end
        end += block.nnz
        values[start:end], columns[start:end] = block.data, block.indices
        starts[row + 1 : row + n + 1] = start + block.indptr[1:]
        row += n
    return sparse.csr_matrix((values[:end], columns[:end], starts), shape=(matrix.shape[0], len(genes)))


def _is_plain(matrix: Any) -> bool:
    """Whether a matrix is as :func:`select_genes` would make it."""
    return (
        sparse.issparse(matrix)
        and matrix.format == "csr"
        and matrix.dtype == np.float32
        and matrix.has_canonical_format
        and np.count_nonzero(matrix.data) == matrix.nnz
    )


def _check_settings(n_top_genes: int, min_cells: int, target_sum: float, flavor: str) -> None:
    if n_top_genes < 1:
        raise InputError(f"n_top_genes={n_top_genes} must be at least 1.")
    if min_cells < 0:
        raise InputError(f"min_cells={min_cells} must not be negative.")
    if not target_sum > 0:
        raise InputError(f"target_sum={target_sum} must be positive.")
    if flavor not in ("cell_ranger", "seurat"):
        raise InputError(f"flavor={flavor!r} must be 'cell_ranger' or 'seurat'.")


def _detected_cells(
    matrix: Any, where: str, adata: AnnData, system: np.ndarray, systems: np.ndarray, normalize: bool
) -> np.ndarray:
    """Cells of each system in which each gene is seen, shape (n_systems, n_genes); the values are checked."""
    detected = np.zeros((len(systems), adata.n_vars), dtype=np.int64)
    counts = np.ones(len(systems), dtype=bool)  # whether all values of a system so far look like counts
    for start, stop, block in row_blocks(matrix):
        check_finite_nonnegative(block, adata.obs_names[start:stop], adata.var_names, where)
        for i, name in enumerate(systems):
            rows = block[system[start:stop] == name]  # (n_rows of this system, n_genes)
            detected[i] += rows.getnnz(axis=0)
            counts[i] &= looks_like_counts(rows.data)
        if normalize and not counts.all():
            raise InputError(
                f"{where} looks log-normalised, not like counts, in system {systems[~counts][0]!r}: "
                "give counts (see the argument layer) or pass normalize=False."
            )
    counts &= detected.any(axis=1)
    if not normalize and counts.any():
        raise InputError(
            f"{where} looks like raw counts in system {systems[counts][0]!r}: "
            "pass normalize=True or give log-normalised values."
        )
    return detected


@keep_threads()
def _variable_genes(cells: AnnData, batch: np.ndarray | None, n_top_genes: int, flavor: str, system: str) -> np.ndarray:
    """Mask of one system's variable genes, shape (n_genes,), from its log-normalised cells (n_cells, n_genes)."""
    if cells.n_vars <= n_top_genes:
        return np.ones(cells.n_vars, dtype=bool)
    ranked = AnnData(
        cells.X,
        obs=pd.DataFrame(index=cells.obs_names),
        var=pd.DataFrame(index=cells.var_names),
        uns={"log1p": cells.uns.get("log1p", {})},
    )
    if batch is not None:
        names, sizes = np.unique(batch, return_counts=True)
        small = names[sizes < MIN_BATCH_CELLS]
        if small.size:
            warnings.warn(
                f"System {system!r} has batches of fewer than {MIN_BATCH_CELLS} cells, left out of its choice of "
                f"variable genes{'' if small.size < names.size else ', which is therefore made without batches'}: "
                f"{listing(small)}.",
                UserWarning,
                stacklevel=2,
            )
        if small.size == names.size:
            batch = None
        else:
            ranked.obs["batch"] = pd.Categorical(batch)
            ranked = ranked[~np.isin(batch, small)].copy()
    return _highly_variable(ranked, None if batch is None else "batch", n_top_genes, flavor, system)


def _highly_variable(ranked: AnnData, batch_key: str | None, n_top_genes: int, flavor: str, system: str) -> np.ndarray:
    """Mask of scanpy's highly variable genes, shape (n_genes,); where cell_ranger's bins fail, seurat's."""
    import scanpy as sc

    try:
        table = sc.pp.highly_variable_genes(
            ranked, flavor=flavor, n_top_genes=n_top_genes, batch_key=batch_key, inplace=False
        )
    except (ValueError, IndexError) as error:
        # duplicate bin edges, or no bin with two genes so that no dispersion can be normalised
        if isinstance(error, ValueError) and "Bin edges must be unique" not in str(error):
            raise
        if flavor == "seurat":
            raise InputError(
                f"The genes of system {system!r} do not vary enough to be ranked: raise n_top_genes "
                f"to {ranked.n_vars} to keep all of them."
            ) from error
        warnings.warn(
            f"System {system!r} has too few distinct genes ({ranked.n_vars}) for flavor='cell_ranger': "
            "its variable genes are chosen with flavor='seurat'.",
            UserWarning,
            stacklevel=2,
        )
        return _highly_variable(ranked, batch_key, n_top_genes, "seurat", system)
    return table["highly_variable"].to_numpy(dtype=bool)
