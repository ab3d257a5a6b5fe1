import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from sysvi import InputError
from sysvi.metrics._pca import principal_components


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.integers(4, 40), st.integers(4, 30), st.integers(1, 50))
def test_is_a_singular_value_decomposition(seed, n, g, k):
    rng = np.random.default_rng(seed)
    x = rng.normal(1, 1, (n, g)) * (rng.random((n, g)) < 0.7)
    x[:, 0] = 2.5  # the same in all cells, and stored
    x[:, 1] = 0
    x[:2, 2:4] = [[1, 2], [3, 5]]  # two genes vary
    centred = x - x.mean(0)
    k_there = min(k, min(n, int((x != x[0]).any(0).sum())) - 1)
    u, s, _ = np.linalg.svd(centred, full_matrices=False)
    expected = u[:, :k_there] * s[:k_there]
    for matrix in (x, sparse.csr_matrix(x), sparse.csc_matrix(x)):
        points = principal_components(matrix, k)
        assert points.shape == (n, k_there)
        np.testing.assert_allclose(points @ points.T, expected @ expected.T, atol=1e-8 * s[0] ** 2)
        np.testing.assert_array_equal(points, principal_components(matrix, k))


def test_stored_zeros_and_type_of_float():
    x = sparse.random(50, 20, 0.3, format="csr", rng=np.random.default_rng(0), dtype=np.float32)
    zeros = x.copy()
    zeros.data[zeros.indices == 3] = 0  # a gene of stored zeros
    without = zeros.copy()
    without.eliminate_zeros()
    assert principal_components(x, 5).dtype == np.float32
    points, expected = principal_components(zeros, 5), principal_components(without, 5)
    np.testing.assert_allclose(np.abs(points), np.abs(expected), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("x", [np.ones((5, 4)), np.zeros((0, 3)), np.eye(1, 4), np.arange(5.0)[:, None]])
def test_nothing_varies(x):
    for matrix in (x, sparse.csr_matrix(x)):
        with pytest.raises(InputError, match="two cells and two genes that vary"):
            principal_components(matrix, 2)


def test_types_of_indices_may_differ():
    """As in a store of more values than an index of 32 bits can count."""
    x = sparse.random(50, 20, 0.5, format="csr", dtype=np.float32, rng=np.random.default_rng(0))
    mixed = x.copy()
    mixed.indptr = mixed.indptr.astype(np.int64)
    np.testing.assert_array_equal(principal_components(mixed, 5), principal_components(x, 5))
    assert mixed.indptr.dtype == np.int64  # the caller's
