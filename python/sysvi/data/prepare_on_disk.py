"""Preparation of log-normalised expression that is not in memory: the genes are chosen, and an h5ad file is written.

Shapes: n cells, G genes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
from anndata import AnnData
from scipy import sparse

from sysvi._core.checks import check_obs_column
from sysvi.data.h5ad import read_h5ad
from sysvi.data.own_genes import OWN_GENES_KEY, own_genes_record, read_own_genes
from sysvi.data.prepare import PREPARED_KEY, TOTALS_KEY, LogTotals, choose_genes, detect_genes, group_cells
from sysvi.data.row_blocks import row_blocks
from sysvi.data.store_writer import write_store


def prepare_on_disk(
    expression: Any,
    cells: AnnData,
    path: Path,
    system_key: str,
    batch_key: str | None = None,
    *,
    n_top_genes: int = 3000,
    min_cells: int = 20,
    report: Callable[[str], None] = lambda line: None,
) -> AnnData:
    """Choose genes as :func:`sysvi.prepare` does of log-normalised expression, which is read three times in row blocks.

    Parameters
    ----------
    expression
        Log-normalised expression that `row_blocks` takes, (n, G).
    cells
        The cells without expression. If ``uns["sysvi_own_genes"]`` says which genes each system has, genes that some
        lack are kept too, as with ``genes="union"``.
    path
        The h5ad file to write, with the expression of the chosen genes.
    system_key, batch_key
        Columns of ``cells.obs`` with the systems and batches.
    n_top_genes, min_cells, report
        As in :func:`sysvi.prepare`.

    Returns
    -------
    anndata.AnnData
        What :func:`sysvi.prepare` returns, cells in the same order, with the expression on disk.

    Raises
    ------
    InputError
        As :func:`sysvi.prepare`, or if the disk is full.

    Examples
    --------
    >>> import sysvi, tempfile, warnings
    >>> cells = sysvi.prepare(sysvi.datasets.simulate_systems(300, 200, seed=1), "system", min_cells=3)
    >>> with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
    ...     warnings.simplefilter("ignore")  # 200 genes are few
    ...     empty, path = AnnData(obs=cells.obs, var=cells.var), Path(folder, "a.h5ad")
    ...     found = prepare_on_disk(cells.X, empty, path, "system", min_cells=3)
    >>> found.shape, type(found.X).__name__
    ((300, 189), '_CSRDataset')
    """
    system = check_obs_column(cells, system_key, "system_key")
    batch = None if batch_key is None else check_obs_column(cells, batch_key, "batch_key")
    codes, systems = pd.factorize(system, sort=True)
    own_genes = read_own_genes(cells.uns, cells.var_names, list(systems))
    where = "adata.X"
    n_detected, _ = detect_genes(expression, where, cells, codes, systems, False, False)
    chosen = choose_genes(
        expression,
        where,
        cells.var_names,
        n_detected,
        partial(group_cells, codes, systems, batch),
        systems,
        target=None,
        base=None,
        min_cells=min_cells,
        n_top_genes=n_top_genes,
        flavor="cell_ranger",
        report=report,
        own_genes=own_genes,
    )
    kept, totals = chosen.kept, LogTotals(cells.n_vars)

    def blocks() -> Iterator[sparse.csr_matrix]:
        for _, _, block in row_blocks(expression):
            totals.add(block)
            yield block[:, kept]

    prepared = _write(path, cells[:, kept], blocks(), int(n_detected[:, kept].sum()))
    settings = {
        "system_key": system_key,
        "batch_key": batch_key,
        "n_top_genes": n_top_genes,
        "min_cells": min_cells,
        "target_sum": 1e4,
        "normalize": False,
        "fractional_counts": False,
        "flavor": "cell_ranger",
        "genes": None if own_genes is None else "union",
    }
    if (found := totals.result(cells.var_names)) is not None:
        prepared.uns[TOTALS_KEY] = found
    prepared.uns.pop(OWN_GENES_KEY, None)
    if own_genes is not None and not own_genes[:, kept].all():
        prepared.uns[OWN_GENES_KEY] = own_genes_record(prepared.var_names, systems, own_genes[:, kept])
    prepared.uns[PREPARED_KEY] = chosen.record(settings)
    return prepared


def write_on_disk(expression: Any, cells: AnnData, path: Path) -> AnnData:
    """Write expression with all genes into an h5ad file; parameters and result as of :func:`prepare_on_disk`."""
    n_values = sum(block.nnz for _, _, block in row_blocks(expression))
    return _write(path, cells, (block for _, _, block in row_blocks(expression)), n_values)


def _write(path: Path, cells: AnnData, blocks: Iterator[sparse.csr_matrix], n_values: int) -> AnnData:
    """Write expression, and give the cells with it; only names are written besides, whatever columns there are."""
    obs, var = pd.DataFrame(index=cells.obs_names), pd.DataFrame(index=cells.var_names)
    write_store(path, obs, var, dict, blocks, n_values, overwrite=False)
    stored = read_h5ad(path)
    stored.obs, stored.uns = cells.obs.copy(), dict(cells.uns)
    return stored
