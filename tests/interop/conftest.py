"""Fixtures: Python runs R through rpy2, and R calls the engine through reticulate, all in one process."""

import os
import sys
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import sparse

ROOT = Path(__file__).resolve().parents[2]
for pool in ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ.setdefault(pool, "1")  # set before torch and R start: on small data, threads only wait for each other

sys.path.insert(0, str(Path(__file__).parent))  # for `import r_objects`


@pytest.fixture(scope="session")
def r():
    """Return a function that evaluates R code with keyword arguments as variables; values are converted both ways."""
    if os.environ.get("CI") != "true":
        pytest.importorskip("rpy2", reason="needs R and rpy2, which `make test-interop` installs")
    import torch  # noqa: F401 (before R starts: otherwise torch would use R's BLAS, and the last bits would differ)
    from rpy2 import robjects
    from rpy2.rlike.container import NamedList
    from rpy2.robjects import numpy2ri, pandas2ri

    converter = robjects.default_converter + numpy2ri.converter + pandas2ri.converter

    @converter.py2rpy.register(sparse.csr_matrix)
    def _(cells_by_genes: sparse.csr_matrix):  # it has the same arrays as a genes x cells dgCMatrix
        cells_by_genes = cells_by_genes.sorted_indices()
        return robjects.r["new"](
            "dgCMatrix",
            i=robjects.IntVector(cells_by_genes.indices),
            p=robjects.IntVector(cells_by_genes.indptr),
            x=robjects.FloatVector(cells_by_genes.data),
            Dim=robjects.IntVector(cells_by_genes.shape[::-1]),
        )

    @converter.py2rpy.register(list)
    def _(strings: list):
        return robjects.StrVector(strings)

    def run(code: str, **variables):
        environment = robjects.r("new.env()")
        with converter.context():
            for name, value in variables.items():
                environment[name] = value
            value = robjects.r["eval"](robjects.r["parse"](text=code), environment)
        return dict(zip(value.names(), value.values(), strict=True)) if isinstance(value, NamedList) else value

    run(
        "suppressPackageStartupMessages({"
        "library(Seurat); library(SingleCellExperiment); library(HDF5Array); pkgload::load_all(root, quiet = TRUE)})",
        root=str(ROOT),
    )
    return run


@pytest.fixture(scope="session")
def log_cells():
    """Log-normalised expression of 300 cells x 120 genes from two systems, with counts and covariates of every type."""
    import scanpy as sc

    from sysvi.data.simulate import simulate_systems

    small = {"n_types": 3, "n_private": 0, "n_samples": 2, "n_markers": 10, "n_programme_genes": 10}
    adata = simulate_systems(300, 120, **small, baseline_sd=0.5, depth=1000, seed=1)
    adata = adata[np.random.default_rng(0).permutation(adata.n_obs)].copy()  # mix the order of systems
    adata.obs_names = [f"zelle-{i}-ä" for i in range(adata.n_obs)]
    adata.var_names = [f"Gén-{i}" for i in range(adata.n_vars)]
    adata.layers["counts"] = adata.X.copy()
    sc.pp.normalize_total(adata, target_sum=1e4)
    sc.pp.log1p(adata)
    rng = np.random.default_rng(1)
    adata.obs["sex"] = pd.Categorical(rng.choice(["♀", "♂"], adata.n_obs), categories=["♂", "♀", "unused"])
    adata.obs["donor"] = pd.Series(
        rng.choice(["b", "A", "a", "ä", "10", "9"], adata.n_obs), adata.obs_names, dtype=object
    )
    adata.obs["plate"] = rng.integers(1, 12, adata.n_obs)
    adata.obs["stained"] = rng.random(adata.n_obs) < 0.5
    adata.obs["age"] = rng.normal(50, 10, adata.n_obs)
    return adata


@pytest.fixture(scope="session")
def integrate():
    """Return a function that selects genes and trains in Python as the R package does: (model, prepared AnnData).

    It trains a single model with the settings `r_objects.SMALL`, unless others are given.
    """
    import r_objects

    import sysvi

    def run(adata, *, n_top_genes=3000, settings=r_objects.SMALL, **covariates):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # few genes
            prepared = sysvi.prepare(adata, "system", "batch", normalize=False, n_top_genes=n_top_genes)
            model = sysvi.integrate(prepared, "system", "batch", **settings, **covariates, device="cpu", progress=False)
        return model, prepared

    return run


@pytest.fixture(scope="session")
def python_embedding(integrate, log_cells):
    """Embedding of `log_cells` by Python, (cells, latent dimensions): what every R object of these cells must give."""
    return integrate(log_cells)[1].obsm["X_sysVI"]


@pytest.fixture(scope="session")
def ensemble(integrate, log_cells):
    """Ensemble with the default number of members, and the prepared cells with its embedding and support."""
    import r_objects

    return integrate(log_cells, settings=r_objects.ENSEMBLE)


@pytest.fixture(scope="session")
def build(r, log_cells):
    """Return a function that makes an R object of a kind (see `r_objects.OBJECTS`) from `log_cells` or other cells."""

    import r_objects

    def make(kind, adata=log_cells):
        return r(
            f"""
            dimnames(counts) <- dimnames(expression) <- list(genes, cells)
            rownames(obs) <- cells
            {r_objects.OBJECTS[kind]}
            """,
            expression=adata.X,
            counts=adata.layers["counts"],
            genes=list(adata.var_names),
            cells=list(adata.obs_names),
            obs=adata.obs,
        )

    return make
