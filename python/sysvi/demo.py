"""The demonstration: simulate cells of two systems, integrate them, measure and plot the result."""

from __future__ import annotations

import time
from pathlib import Path

import pandas as pd
from anndata import AnnData

from sysvi._core.events import Event, OnEvent, ignore_event, preparation_reporter
from sysvi._core.figures import umap_before_after
from sysvi._core.files import create_folder, write_atomically
from sysvi._core.seeds import seed_of_32_bits
from sysvi.api.integrate import integrate
from sysvi.data.h5ad import write_anndata
from sysvi.data.prepare import prepare
from sysvi.data.simulate import simulate_systems
from sysvi.metrics import shared_neighbors

N_GENES, SYSTEM_EFFECT = 800, 0.5  # gives systems that are as far apart in PCA as human and mouse islets


def run_demo(folder: Path, n_cells: int = 2000, seed: int = 0, on_event: OnEvent = ignore_event) -> pd.DataFrame:
    """Simulate, prepare, integrate, measure and plot; write ``demo.h5ad`` and ``demo.png`` into `folder`.

    Parameters
    ----------
    folder
        Folder of the results; created if missing.
    n_cells
        Number of cells to simulate.
    seed
        Random seed of simulation and training.
    on_event
        Function called with each event.

    Returns
    -------
    pandas.DataFrame
        Sizes, speed and mixing before and after integration, one row for each.
    """
    import scanpy as sc

    report = preparation_reporter(on_event)
    create_folder(folder)
    report(f"Simulating {n_cells:,} cells of two systems")
    adata = prepare(
        simulate_systems(n_cells, N_GENES, system_effect=SYSTEM_EFFECT, seed=seed), "system", "batch", report=report
    )
    sc.pp.pca(adata, n_comps=30, random_state=seed_of_32_bits(seed))
    start = time.perf_counter()
    model = integrate(adata, "system", "batch", seed=seed, progress=on_event)
    seconds = time.perf_counter() - start
    table = summary(adata, "system", "cell_type", len(model.members), seconds, str(model.device))
    write_atomically(folder / "demo.h5ad", lambda path: write_anndata(path, adata))
    on_event(Event("write", f"Plotting {folder / 'demo.png'}"))
    umap_before_after(adata, ["system", "cell_type"], folder / "demo.png", seed=seed)
    return table


def summary(
    adata: AnnData, system_key: str, label_key: str, n_members: int, seconds: float, device: str
) -> pd.DataFrame:
    """Sizes, speed and mixing as a table of strings, one row for each."""
    system, label = adata.obs[system_key].to_numpy(), adata.obs[label_key].to_numpy()
    shared = {basis: shared_neighbors(adata.obsm[basis], system, label).mean() for basis in ("X_pca", "X_sysVI")}
    rows = {
        "cells": f"{adata.n_obs:,}",
        "genes": f"{adata.n_vars:,}",
        "systems": ", ".join(map(str, adata.obs[system_key].cat.categories)),
        "device": device,
        "models": f"{n_members}",
        "time": f"{seconds:.1f} s",
        "neighbours shared across systems, before (PCA)": f"{shared['X_pca']:.2f}",
        "neighbours shared across systems, after (sysVI)": f"{shared['X_sysVI']:.2f}",
    }
    return pd.DataFrame({"": rows})
