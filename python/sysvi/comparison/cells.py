"""The cells that all methods are given: prepared once, written for Python and for R."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from anndata import AnnData

from sysvi._core.checks import check_obs_column, get_expression
from sysvi._core.events import OnEvent, preparation_reporter
from sysvi._core.files import write_atomically
from sysvi._core.fingerprint import fingerprint
from sysvi.data.labels import read_labels
from sysvi.data.prepare import prepare
from sysvi.data.row_blocks import to_csr


def prepared_cells(
    adata: AnnData, system_key: str, batch_key: str, label_key: str, layer: str | None, on_event: OnEvent
) -> AnnData:
    """Cells as all methods get them.

    Returns
    -------
    AnnData
        ``X`` log-normalised expression of the genes variable in every system (what `prepare` made is taken as it is),
        ``layers["counts"]`` where there are counts, ``obs`` with the columns system, batch and label.

    Raises
    ------
    InputError
        If a column or the expression cannot be used.
    """
    keys = {"system": (system_key, "system_key"), "batch": (batch_key, "batch_key")}
    columns = {name: check_obs_column(adata, *key) for name, key in keys.items()}
    label, labelled = read_labels(adata, label_key)
    assert label is not None
    columns["label"] = np.where(labelled, label, "unlabelled").astype(object)
    if layer is None and "sysvi_prepare" in adata.uns:
        preparation_reporter(on_event)("The input is prepared already")
        cells = adata
    else:
        cells = prepare(
            adata, system_key, batch_key, layer=layer, normalize=None, report=preparation_reporter(on_event)
        )
    counts = cells.layers.get("counts")
    if counts is None and "counts" in adata.layers:
        counts = to_csr(adata.layers["counts"])[:, adata.var_names.get_indexer(cells.var_names)]
    return AnnData(
        to_csr(get_expression(cells, None)[1]),
        obs=pd.DataFrame(columns, index=adata.obs_names.astype(str)).astype("category"),
        var=pd.DataFrame(index=cells.var_names.astype(str)),
        layers={} if counts is None else {"counts": to_csr(counts)},
        uns={"sysvi_prepare": {}},
    )


def fingerprint_cells(cells: AnnData) -> str:
    """A name for these cells: other values, names or columns, another fingerprint."""
    columns = [cells.obs[column].astype(str) for column in cells.obs]
    return fingerprint(cells.X, *cells.layers.values(), cells.obs_names, cells.var_names, *columns)


def write_cells(cells: AnnData, folder: Path, for_r: bool) -> None:
    """Write the cells for the adapters: cells.h5ad, and for those in R the arrays of the expression and text files."""
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / "cells.h5ad", cells.write_h5ad)
    if not for_r:
        return
    parts = {"data": "<f4", "indices": "<i4", "indptr": "<i4"}
    for name, kind in parts.items():
        array = getattr(cells.X, name).astype(kind)
        write_atomically(folder / f"expression.{name}", array.tofile)
    write_atomically(folder / "genes.txt", lambda path: path.write_text("\n".join(cells.var_names) + "\n"))
    write_atomically(folder / "obs.csv", cells.obs.to_csv)
