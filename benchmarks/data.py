"""Prepared data sets for the benchmarks; each is made once and kept in benchmarks/.cache.

    python benchmarks/data.py baron                   a data set by name: baron, kang, malaria, protocols, hard,
                                                      held_out or demo
    python benchmarks/data.py simulated 20000 3000    simulated cells of two systems, by number of cells and of genes

baron, kang, malaria and protocols need SYSVI_DATA.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import h5py
from common import CACHE

if TYPE_CHECKING:
    from anndata import AnnData

BARON, KANG, MALARIA, PROTOCOLS, HARD, HELD_OUT, DEMO = (
    CACHE / f"{name}_prepared.h5ad" for name in ("baron", "kang", "malaria", "protocols", "hard", "held_out", "demo")
)
COUNTS_PER_GENE = 0.22  # mean number of counts per cell and gene, which makes 11 % of the values non-zero


class Size(NamedTuple):
    """Size of a prepared data set."""

    cells: int
    genes: int
    density: float  # share of non-zero values
    csr_mb: float  # size of the CSR matrix (values and column indices), MB


def baron() -> Path:
    """Baron's human and mouse islets (from SYSVI_DATA), prepared as in the paper."""
    return _ensure_made(BARON, "baron")


def has_baron() -> bool:
    """Whether the data set `baron` is available."""
    return BARON.exists() or _counts("baron_pancreas").exists()


def kang() -> Path:
    """Kang's labelled blood cells (from SYSVI_DATA), control and stimulated, prepared as in the paper."""
    return _ensure_made(KANG, "kang")


def malaria() -> Path:
    """Malaria parasites of two species by two protocols (from SYSVI_DATA), prepared; doubtful labels are unknown."""
    return _ensure_made(MALARIA, "malaria")


def protocols() -> Path:
    """Human pancreatic islets by four protocols (from SYSVI_DATA), prepared."""
    return _ensure_made(PROTOCOLS, "protocols")


def malaria_counts(system: str = "system") -> AnnData:
    """Counts of the malaria parasites, with a column as systems; labels that are not certain are "unknown"."""
    import anndata
    import numpy as np

    adata = anndata.read_h5ad(_counts("malaria_species_protocols"))
    adata.obs["system"] = adata.obs[system].astype(str)
    adata.obs["cell_type"] = np.where(adata.obs["label_confident"], adata.obs["cell_type"].astype(str), "unknown")
    return adata


def hard() -> Path:
    """Hard simulation: private cell types, tenfold imbalance, gene programmes in one cell type of one system."""
    return _ensure_made(HARD, "hard")


def held_out() -> Path:
    """Held-out simulation of three systems, as difficult as `hard`; no setting is chosen on it."""
    return _ensure_made(HELD_OUT, "held_out")


def demo() -> Path:
    """The cells of `sysvi demo`: well separated cell types, one of them private to each system."""
    return _ensure_made(DEMO, "demo")


def simulated(cells: int, genes: int) -> Path:
    """Simulated log-normalised cells of two systems, which are the same for all sizes with the same number of genes."""
    return _ensure_made(_simulated_path(cells, genes), "simulated", str(cells), str(genes))


def size(path: Path) -> Size:
    """Size of a prepared data set, without reading its values."""
    with h5py.File(path) as file:
        cells, genes = map(int, file["X"].attrs["shape"])
        values = file["X/data"]
        n_bytes = values.size * (values.dtype.itemsize + file["X/indices"].dtype.itemsize)
        return Size(cells, genes, values.size / (cells * genes), n_bytes / 1e6)


def _ensure_made(path: Path, *arguments: str) -> Path:
    if not path.exists():  # in a new process: processes started later would inherit its peak memory
        subprocess.run([sys.executable, __file__, *arguments], check=True)
    return path


def _prepare(name: str, path: Path) -> None:
    import anndata

    import sysvi

    _write(sysvi.prepare(anndata.read_h5ad(_counts(name)), "system", "batch"), path)


def _counts(name: str) -> Path:
    return Path(os.environ.get("SYSVI_DATA", ".")) / f"{name}.h5ad"


def _make_hard() -> None:
    _prepare_simulated(
        HARD, 4000, 2000, n_types=10, n_private=1, imbalance=0.25, system_programmes=2, system_effect=0.5
    )


def _make_held_out() -> None:
    _prepare_simulated(
        HELD_OUT,
        4200,
        2000,
        n_systems=3,
        n_types=12,
        n_private=1,
        imbalance=0.25,
        system_programmes=3,
        system_effect=0.5,
        depth=2000,
        seed=1,
    )


def _make_demo() -> None:
    from sysvi.demo import N_GENES, SYSTEM_EFFECT

    _prepare_simulated(DEMO, 2000, N_GENES, system_effect=SYSTEM_EFFECT)


def _prepare_simulated(path: Path, cells: int, genes: int, seed: int = 0, **options: Any) -> None:
    import sysvi

    adata = sysvi.datasets.simulate_systems(cells, genes, seed=seed, **options)
    prepared = sysvi.prepare(adata, "system", "batch")
    del prepared.varm, prepared.uns["simulation"]
    _write(prepared, path)


def _make_simulated(cells: int, genes: int) -> None:
    import scanpy as sc

    import sysvi

    adata = sysvi.datasets.simulate_systems(cells, genes, depth=COUNTS_PER_GENE * genes, seed=0)
    sc.pp.normalize_total(adata, target_sum=1e4)
    sc.pp.log1p(adata)
    del adata.varm, adata.uns
    _write(adata, _simulated_path(cells, genes))


def _simulated_path(cells: int, genes: int) -> Path:
    return CACHE / f"simulated_{cells}_{genes}.h5ad"


def _write(adata, path: Path) -> None:
    path.parent.mkdir(exist_ok=True)
    unfinished = path.with_suffix(".part")
    adata.write_h5ad(unfinished)
    unfinished.rename(path)


if __name__ == "__main__":
    if sys.argv[1] == "baron":
        _prepare("baron_pancreas", BARON)
    elif sys.argv[1] == "kang":
        _prepare("kang_ifnb_labelled", KANG)
    elif sys.argv[1] == "malaria":
        import sysvi

        _write(sysvi.prepare(malaria_counts(), "system", "batch"), MALARIA)
    elif sys.argv[1] == "protocols":
        _prepare("pancreas_human_protocols", PROTOCOLS)
    elif sys.argv[1] == "hard":
        _make_hard()
    elif sys.argv[1] == "held_out":
        _make_held_out()
    elif sys.argv[1] == "demo":
        _make_demo()
    else:
        _make_simulated(*map(int, sys.argv[2:]))
