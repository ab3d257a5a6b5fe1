"""The cells that all methods are given: prepared once, written for Python and for R."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from anndata import AnnData

from sysvi._core.checks import check_key, check_obs_column, get_expression
from sysvi._core.events import OnEvent, preparation_reporter
from sysvi._core.files import write_atomically
from sysvi._core.fingerprint import fingerprint
from sysvi.data.ensure_prepared import is_prepared
from sysvi.data.h5ad import write_anndata
from sysvi.data.labels import read_labels
from sysvi.data.prepare import PREPARED_KEY, prepare
from sysvi.data.row_blocks import to_csr

UNLABELLED = "unlabelled"  # label of all unlabelled cells; scoring leaves these cells out wherever it needs labels


def prepared_cells(
    adata: AnnData, system_key: str, batch_key: str, label_key: str, layer: str | None, on_event: OnEvent
) -> AnnData:
    """Prepare the cells as all methods get them.

    Returns
    -------
    AnnData
        ``X`` holds log-normalised expression of the genes that are variable in every system, as CSR float32 (n cells x
        G genes); prepared input is used as it is. ``layers["counts"]`` holds counts, if the input has any. ``obs`` has
        the columns ``system``, ``batch`` and ``label``; the label of unlabelled cells is ``"unlabelled"``.

    Raises
    ------
    InputError
        If a column or the expression cannot be used.
    """
    check_key(label_key, "label_key")
    label, is_labelled = read_labels(adata, label_key)
    assert label is not None
    columns = {
        "system": check_obs_column(adata, system_key, "system_key"),
        "batch": check_obs_column(adata, batch_key, "batch_key"),
        "label": np.where(is_labelled, label, UNLABELLED).astype(object),
    }
    report = preparation_reporter(on_event)
    if is_prepared(adata, layer):
        report("The input is already prepared")
        cells = adata
    else:
        cells = prepare(adata, system_key, batch_key, layer=layer, normalize=None, report=report)
    counts = cells.layers.get("counts")
    if counts is None and "counts" in adata.layers:
        counts = to_csr(adata.layers["counts"])[:, adata.var_names.get_indexer(cells.var_names)]
    return AnnData(
        to_csr(get_expression(cells, None)[1]),
        obs=pd.DataFrame(columns, index=adata.obs_names.astype(str)).astype("category"),
        var=pd.DataFrame(index=cells.var_names.astype(str)),
        layers={} if counts is None else {"counts": to_csr(counts)},
        uns={PREPARED_KEY: {}},
    )


def fingerprint_cells(cells: AnnData) -> str:
    """Fingerprint of prepared cells: it changes with any value, name or column."""
    columns = [cells.obs[column].astype(str) for column in cells.obs]
    return fingerprint(cells.X, *cells.layers.values(), cells.obs_names, cells.var_names, *columns)


def write_cells(cells: AnnData, folder: Path, for_r: bool) -> None:
    """Write prepared cells for the adapters.

    Parameters
    ----------
    cells
        Cells as `prepared_cells` returns them.
    folder
        Folder to write cells.h5ad to; it is created if missing.
    for_r
        Whether to write files for adapters in R as well: the arrays of the CSR matrix (expression.data,
        expression.indices, expression.indptr: little-endian, four bytes a value), genes.txt and obs.csv.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / "cells.h5ad", lambda path: write_anndata(path, cells))
    if not for_r:
        return
    for name, dtype in {"data": "<f4", "indices": "<i4", "indptr": "<i4"}.items():
        array = getattr(cells.X, name).astype(dtype)
        write_atomically(folder / f"expression.{name}", array.tofile)
    write_atomically(
        folder / "genes.txt", lambda path: path.write_text("\n".join(cells.var_names) + "\n", encoding="utf-8")
    )
    write_atomically(folder / "obs.csv", cells.obs.to_csv)
