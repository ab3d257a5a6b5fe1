"""The linear model of the expression from which training starts, against dense NumPy."""

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from sysvi.data import summary
from sysvi.data.summary import MIN_VARIANCE, RIDGE, summarise


def make(n=60, n_genes=25, n_batches=3, seed=0):
    """Sparse expression with effects of batches and a strong component, and the one-hot design of the batches."""
    rng = np.random.default_rng(seed)
    batch = rng.integers(0, n_batches, n)
    design = (batch[:, None] == np.arange(n_batches)).astype(float)
    x = rng.normal(size=(n_batches, n_genes))[batch] + 3 * np.outer(rng.normal(size=n), rng.normal(size=n_genes))
    x = np.maximum(x + rng.normal(size=x.shape), 0).astype(np.float32)
    return sp.csr_matrix(x), design


def dense_residuals(x, design):
    """Effects and residuals by ridge regression on the dense matrix."""
    x = x.toarray().astype(np.float64)
    mean = x.mean(0)
    gram = design.T @ design + RIDGE * np.eye(design.shape[1])
    effects = np.linalg.inv(gram) @ design.T @ (x - mean)
    return mean, effects, x - mean - design @ effects


@settings(max_examples=25, deadline=None)
@given(st.integers(5, 50), st.integers(2, 40), st.integers(1, 4), st.integers(0, 1000))
def test_equals_the_dense_computation(n, n_genes, n_batches, seed):
    x, design = make(n, n_genes, n_batches, seed)
    result = summarise(x, design)
    mean, effects, residuals = dense_residuals(x, design)
    np.testing.assert_allclose(result.mean, mean, atol=1e-10)
    np.testing.assert_allclose(result.effects, effects, atol=1e-8)
    expected = np.maximum(np.square(residuals).mean(0), MIN_VARIANCE)
    np.testing.assert_allclose(result.variance, expected, rtol=1e-6, atol=1e-9)
    _, singular, axes = np.linalg.svd(residuals, full_matrices=False)
    k = len(result.sd)
    np.testing.assert_allclose(result.sd, singular[:k] / np.sqrt(n), rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(result.axes.T @ result.axes, np.eye(k), atol=1e-6)
    # The same subspace: compared by what it leaves of the residuals, as single axes may be swapped or reflected.
    left = residuals - residuals @ result.axes @ result.axes.T
    expected_left = residuals - residuals @ axes[:k].T @ axes[:k]
    assert np.square(left).sum() == pytest.approx(np.square(expected_left).sum(), rel=1e-4, abs=1e-6)


def test_axes_do_not_see_the_covariates():
    """However strong the effects of batches are, the first axis is that of the variation within them."""
    rng = np.random.default_rng(0)
    batch = np.arange(200) % 2
    direction = rng.normal(size=30)
    x = 100 * batch[:, None] * rng.normal(size=30) + np.outer(rng.normal(size=200), direction) + 50
    result = summarise(sp.csr_matrix(x + 0.01 * rng.normal(size=x.shape)), np.eye(2)[batch])
    assert abs(result.axes[:, 0] @ direction) / np.linalg.norm(direction) == pytest.approx(1, abs=1e-3)


def test_twice_the_same_bits():
    x, design = make()
    first, second = summarise(x, design), summarise(x, design)
    for name in ("mean", "effects", "variance", "axes", "sd"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))


def test_a_sample_stands_for_many_cells(monkeypatch):
    x, design = make(n=2000)
    whole = summarise(x, design)
    monkeypatch.setattr(summary, "MAX_CELLS", 1000)
    sample = summarise(x, design)
    assert not np.array_equal(sample.mean, whole.mean)
    np.testing.assert_allclose(sample.mean, whole.mean, atol=0.5)
    assert abs(sample.axes[:, 0] @ whole.axes[:, 0]) > 0.99


@pytest.mark.parametrize("shape", [(2, 1), (3, 2), (2, 50)])
def test_tiny_data(shape):
    x = sp.csr_matrix(np.arange(np.prod(shape), dtype=np.float32).reshape(shape))
    result = summarise(x, np.ones((shape[0], 1)))
    assert result.axes.shape == (shape[1], len(result.sd))
    assert np.isfinite(result.axes).all()


def test_constant_expression_has_no_axes():
    result = summarise(sp.csr_matrix(np.ones((20, 5), np.float32)), np.ones((20, 1)))
    assert len(result.sd) == 0
    np.testing.assert_array_equal(result.variance, MIN_VARIANCE)
