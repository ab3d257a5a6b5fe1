"""Variable genes from sums over blocks of cells; the oracle is scanpy, which has the whole matrix."""

import warnings

import anndata
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse
from scipy.stats import norm

from sysvi.data import variable_genes as module
from sysvi.data.prepare import log_normalise, prepare
from sysvi.data.simulate import simulate_systems
from sysvi.data.variable_genes import GeneMoments, block_moments, variable_genes

FLAVORS = ["cell_ranger", "seurat"]


def by_scanpy(x, batch, n_top_genes, flavor, names):
    """Mask of scanpy's choice among the columns of `x`, log-normalised; None where it fails."""
    obs = pd.DataFrame(index=np.arange(x.shape[0]).astype(str))
    if batch is not None:
        obs["batch"] = pd.Categorical(batch)
    adata = anndata.AnnData(x, obs=obs, var=pd.DataFrame(index=names))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            table = sc.pp.highly_variable_genes(
                adata,
                n_top_genes=n_top_genes,
                flavor=flavor,
                batch_key=batch if batch is None else "batch",
                inplace=False,
            )
        except (ValueError, IndexError):
            return None
    return table["highly_variable"].to_numpy()


def by_blocks(x, batch, n_top_genes, flavor, names, n_rows=7):
    """The same from blocks of a few rows."""
    group = np.zeros(x.shape[0], np.int64) if batch is None else pd.factorize(batch, sort=True)[0]
    moments = GeneMoments(group.max() + 1, x.shape[1])
    for start in range(0, x.shape[0], n_rows):
        block = x[start : start + n_rows].copy()
        if flavor == "seurat":
            np.expm1(block.data, out=block.data)
        moments.add(block_moments(block, group[start : start + n_rows]))
    mean, variance = moments.mean_and_variance(np.arange(group.max() + 1))
    return variable_genes(mean, variance, n_top_genes, flavor, None if batch is None else names)


@pytest.fixture(scope="module")
def simulated():
    """Log-normalised cells of one system with four unequal batches, and a few genes twice, under other names."""
    adata = simulate_systems(900, 500, n_samples=4, seed=3)
    x = sparse.csr_matrix(adata.X[(adata.obs["system"] == adata.obs["system"].iloc[0]).to_numpy()], dtype=np.float32)
    x = x[:, x.getnnz(axis=0) > 0]
    log_normalise(x, np.asarray(x.sum(axis=1)).ravel(), 1e4)
    copied = np.random.default_rng(0).choice(x.shape[1], 100)
    x = sparse.hstack([x, x[:, copied]], format="csr")
    names = pd.Index([f"gene{i}" for i in np.random.default_rng(1).permutation(x.shape[1])])
    batch = np.random.default_rng(2).choice(["a", "b", "c", "d"], x.shape[0], p=[0.4, 0.3, 0.2, 0.1])
    return x, batch, names


@pytest.mark.slow
@pytest.mark.parametrize("flavor", FLAVORS)
@pytest.mark.parametrize("by_batch", [False, True])
@pytest.mark.parametrize("n_top_genes", [1, 30, 299, 300, 301, 550])
def test_the_genes_of_scanpy(simulated, flavor, by_batch, n_top_genes):
    x, batch, names = simulated
    arguments = (x, batch if by_batch else None, n_top_genes, flavor, names)
    np.testing.assert_array_equal(by_blocks(*arguments), by_scanpy(*arguments))


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(
    n_cells=st.integers(2, 12),
    n_genes=st.integers(2, 60),
    n_batches=st.integers(0, 3),
    n_top_genes=st.integers(1, 60),
    density=st.sampled_from([0.1, 0.5, 2.0, 20.0]),
    flavor=st.sampled_from(FLAVORS),
    seed=st.integers(0, 10**6),
)
def test_the_genes_of_scanpy_in_small_tables(n_cells, n_genes, n_batches, n_top_genes, density, flavor, seed):
    """Full of ties: genes with the same values, constant ones, and such as are not seen in a batch."""
    rng = np.random.default_rng(seed)
    x = sparse.csr_matrix(rng.poisson(density * rng.gamma(1.0, 1.0, n_genes), (n_cells, n_genes)), dtype=np.float32)
    log_normalise(x, np.full(n_cells, 8.0), 100.0)
    names = pd.Index([f"gene{i}" for i in rng.permutation(n_genes)])
    batch = None if n_batches == 0 else rng.integers(0, n_batches, n_cells).astype(str)
    if batch is not None and any(x[batch == b].nnz == 0 for b in set(batch)):
        return  # scanpy fails on a batch without expression; see below
    expected = by_scanpy(x, batch, n_top_genes, flavor, names)
    found = by_blocks(x, batch, n_top_genes, flavor, names, n_rows=n_cells)
    if expected is None:
        assert found is None
    else:
        np.testing.assert_array_equal(found, expected)


def test_a_batch_without_expression_has_no_say(simulated):
    x, batch, names = simulated
    x = x.copy()
    x.data[np.repeat(batch == "d", np.diff(x.indptr))] = 0
    x.eliminate_zeros()
    others = batch != "d"
    found = by_blocks(x, batch, 100, "cell_ranger", names)
    np.testing.assert_array_equal(found, by_scanpy(x[others], batch[others], 100, "cell_ranger", names))


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 30), st.integers(1, 9), st.integers(1, 6), st.integers(1, 5), st.integers(0, 99))
def test_moments_are_those_of_the_groups(n_cells, n_genes, n_groups, n_rows, seed):
    rng = np.random.default_rng(seed)
    dense = rng.poisson(1.0, (n_cells, n_genes)) / 4  # exact in single precision
    group = rng.integers(-1, n_groups, n_cells)
    moments = GeneMoments(n_groups, n_genes)
    for start in range(0, n_cells, n_rows):
        block = sparse.csr_matrix(dense[start : start + n_rows], dtype=np.float32)
        moments.add(block_moments(block, group[start : start + n_rows]))
    for b in range(n_groups):
        cells = dense[group == b]
        assert moments.n_cells[b] == len(cells)
        if len(cells):
            mean, variance = moments.mean_and_variance(np.array([b]))
            np.testing.assert_allclose(mean[0], cells.mean(axis=0))
            np.testing.assert_allclose(variance[0], cells.var(axis=0, ddof=int(len(cells) > 1)), atol=1e-12)


def test_constant_is_that_of_the_normal():
    assert norm.ppf(0.75) == module.NORMAL_MAD


@pytest.mark.parametrize("flavor", FLAVORS)
@pytest.mark.parametrize("by_batch", [False, True])
@pytest.mark.parametrize("name", ["baron_pancreas", "kang_ifnb", "breast_cell_nucleus_tiny"])
def test_prepare_is_scanpy_to_the_bit(data_dir, name, by_batch, flavor):
    adata = anndata.read_h5ad(data_dir / f"{name}.h5ad", backed="r")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = prepare(adata, "system", "batch" if by_batch else None, n_top_genes=2000, flavor=flavor)

    whole = adata.to_memory()
    system = whole.obs["system"].astype(str).to_numpy()
    seen = [whole.X[system == s].getnnz(axis=0) > 20 for s in sorted(set(system))]
    whole = whole[:, np.logical_and.reduce(seen)].copy()
    sc.pp.normalize_total(whole, target_sum=1e4)
    sc.pp.log1p(whole)
    variable = np.ones(whole.n_vars, dtype=bool)
    for s in sorted(set(system)):
        cells = system == s
        batch = whole.obs["batch"].astype(str).to_numpy()[cells] if by_batch else None
        variable &= by_scanpy(whole.X[cells], batch, 2000, flavor, whole.var_names)
    assert list(result.var_names) == list(whole.var_names[variable])
    x = whole.X[:, variable]
    np.testing.assert_array_equal(result.X.data, x.data)
    np.testing.assert_array_equal(result.X.indices, x.indices)
