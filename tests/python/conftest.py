import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import sparse


@pytest.fixture(scope="session")
def baron_pca(data_dir):
    """Baron islets, human and mouse: obs and obsm["X_pca"], 15 principal components. Shared: do not modify."""
    import anndata
    import scanpy as sc

    adata = anndata.read_h5ad(data_dir / "baron_pancreas.h5ad")
    sc.pp.normalize_total(adata, target_sum=1e4)
    sc.pp.log1p(adata)
    sc.pp.pca(adata, n_comps=15)
    return anndata.AnnData(obs=adata.obs, obsm={"X_pca": adata.obsm["X_pca"]})


sys.path.insert(0, str(Path(__file__).parent))  # tests import oracle.py and peers.py
# Before torch and numba are imported: on small tensors, several threads are slower than one.
for variable in ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ.setdefault(variable, "1")
if shutil.which("nvidia-smi") is None:
    os.environ.setdefault("TRITON_INTERPRET", "1")  # run the CUDA kernels in Triton's interpreter, on the CPU

N_CATEGORIES = {2: [4, 2], 3: [6, 2]}  # number of systems -> categories of the two covariates of `make_cells`


@pytest.fixture(scope="session")
def make_cells():
    """Function that makes `Cells`: two batches in each system, another categorical and a continuous covariate."""
    from sysvi.data.cells import Cells

    def make(n_cells=30, n_genes=12, n_systems=2, *, weight_systems=False, seed=0, own_genes=None):
        rng = np.random.default_rng(seed)
        profile = rng.normal(size=(n_systems, n_genes))  # mean expression of each system
        system = rng.choice(n_systems, n_cells, p=np.arange(1, n_systems + 1) / np.arange(1, n_systems + 1).sum())
        system[:n_systems] = np.arange(n_systems)  # every system has a cell
        x = np.maximum(profile[system] + rng.normal(size=(n_cells, n_genes)), 0)
        if own_genes is not None:
            x *= own_genes[system]
        batch, sex = 2 * system + rng.integers(0, 2, n_cells), rng.integers(0, 2, n_cells)
        return Cells(
            sparse.csr_matrix(x, dtype=np.float32),
            system,
            np.stack([batch, sex], 1),
            rng.normal(size=(n_cells, 1)),
            n_systems=n_systems,
            weight_systems=weight_systems,
        )

    return make


@pytest.fixture(scope="session")
def make_model():
    """Function that makes a small model for `make_cells`; no parameter is neutral (scale 1, log-variance 0)."""
    import torch

    from sysvi._core.settings import ModelSettings
    from sysvi.model.cvae import Model

    def make(cells, *, seed=0, own_genes=None, **settings):
        init = torch.Generator().manual_seed(seed)
        settings = {"n_hidden": 8, "n_latent": 3, "dropout_rate": 0.0, "n_prior_components": 4, **settings}
        model_settings = ModelSettings(**settings)
        n_categories = N_CATEGORIES[cells.n_systems]
        model = Model(model_settings, cells.n_genes, cells.n_systems, n_categories, 1, init, own_genes)
        for name, tensor in model.state_dict().items():
            if name.endswith(("scale", "running_var")):
                tensor.uniform_(0.5, 2.0, generator=init)
            elif name.endswith(("shift", "running_mean", "logits", "likelihood.log_var")):
                tensor.normal_(0, 0.3, generator=init)
        rows = torch.randperm(cells.n_cells, generator=init)[: model_settings.n_prior_components]
        model.init_prior(cells, rows, init)
        return model

    return make


@pytest.fixture(scope="session")
def make_adata():
    """Function that makes 300 log-normalised cells x 100 genes: two systems, batches, labels, sex, age, and counts."""
    import scanpy as sc

    from sysvi.data.simulate import simulate_systems

    small = {"n_types": 3, "n_private": 0, "n_samples": 2, "n_markers": 10, "n_programme_genes": 10}
    base = simulate_systems(300, 100, **small, baseline_sd=0.5, depth=1000, seed=1)
    base.layers["counts"] = base.X.copy()
    sc.pp.normalize_total(base, target_sum=1e4)
    sc.pp.log1p(base)
    rng = np.random.default_rng(0)
    base.obs["sex"] = rng.choice(["f", "m"], base.n_obs)
    base.obs["age"] = rng.normal(50, 10, base.n_obs)

    return lambda: base.copy()


@pytest.fixture(scope="session")
def make_sysvi():
    """Function that makes a small SysVI of `make_adata`, trained for two epochs (not at all with `train=None`)."""
    from sysvi import SysVI

    def make(adata, *, setup=None, train=(), **arguments):
        covariates = {"categorical_covariate_keys": ["batch", "sex"], "continuous_covariate_keys": ["age"]}
        SysVI.setup_anndata(adata, "system", **(covariates if setup is None else setup))
        model = SysVI(adata, **{"n_hidden": 16, "n_latent": 4, **arguments})
        if train is not None:
            model.train(**{"max_epochs": 2, "progress": False, "device": "cpu", **dict(train)})
        return model

    return make


@pytest.fixture(scope="session")
def assert_same():
    """Function that asserts that two AnnData, or parts of them, are equal element by element."""
    import anndata
    import pandas as pd

    def compare(a, b):
        if isinstance(a, anndata.AnnData):
            assert (a.raw is None) == (b.raw is None)
            for part in ("obs", "var", "X", "layers", "obsm", "varm", "obsp", "varp", "uns"):
                compare(getattr(a, part), getattr(b, part))
            for part in () if a.raw is None else ("var", "X", "varm"):
                compare(getattr(a.raw, part), getattr(b.raw, part))
        elif isinstance(a, pd.DataFrame):
            pd.testing.assert_frame_equal(a, b)
        elif hasattr(a, "keys"):
            assert set(a.keys()) == set(b.keys())
            for key in a:
                compare(a[key], b[key])
        elif sparse.issparse(a):
            assert (type(a), a.dtype, a.shape) == (type(b), b.dtype, b.shape)
            for part in ("data", "indices", "indptr"):
                np.testing.assert_array_equal(getattr(a, part), getattr(b, part))
        else:
            assert np.asarray(a).dtype == np.asarray(b).dtype
            np.testing.assert_array_equal(a, b)

    return compare
