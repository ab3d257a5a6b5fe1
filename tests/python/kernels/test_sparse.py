"""Products with a sparse minibatch, against SciPy and NumPy in float64."""

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import sparse

from sysvi.kernels.cpu_backend import gene_sums
from sysvi.kernels.sparse import SparseExpression

ROUNDING = {torch.float32: 2.0**-24, torch.float64: 2.0**-53, torch.bfloat16: 2.0**-8}  # of one number, relative
SUM_ROUNDING = {**ROUNDING, torch.bfloat16: ROUNDING[torch.float32]}  # bfloat16 numbers are summed in float32

every_type = pytest.mark.parametrize("dtype", list(ROUNDING), ids=str)
several = settings(max_examples=60, deadline=None)


def random_csr(n, g, density, seed, dtype=np.float32):
    """Values around zero of all sizes, CSR (n, g)."""
    rng = np.random.default_rng(seed)
    return sparse.random(n, g, density, "csr", dtype, rng, rng.standard_normal)


@st.composite
def matrices(draw):
    """A random CSR matrix, often with empty rows and columns, sometimes without any value."""
    n, g = draw(st.integers(1, 20)), draw(st.integers(1, 40))
    density = draw(st.sampled_from([0.0, 0.05, 0.3, 1.0]))
    return random_csr(n, g, density, draw(st.integers(0, 2**32 - 1)))


def other_factor(n_rows, width, dtype, seed=0):
    return torch.randn(n_rows, width, generator=torch.Generator().manual_seed(seed)).to(dtype)


def rounded(x, dtype):
    """The values of x as `dtype` holds them, dense float64."""
    return torch.from_numpy(x.toarray()).to(dtype).double().numpy()


def assert_product(ours, left, right, dtype):
    """One rounding of the result, and one of each partial sum relative to the sum of the terms' sizes."""
    assert ours.dtype == dtype
    exact, sizes = left @ right, np.abs(left) @ np.abs(right)
    assert ours.shape == exact.shape
    bound = ROUNDING[dtype] * np.abs(exact) + 2 * left.shape[1] * SUM_ROUNDING[dtype] * sizes
    assert (np.abs(ours.double().numpy() - exact) <= bound).all()


def assert_products(x, width, dtype):
    ours, dense = SparseExpression(x).to(dtype), rounded(x, dtype)
    w, h = (other_factor(n, width, dtype, seed) for seed, n in enumerate(x.shape[::-1]))
    assert_product(ours @ w, dense, w.double().numpy(), dtype)
    assert_product(ours.T @ h, dense.T, h.double().numpy(), dtype)


@every_type
@several
@example(x=sparse.csr_matrix((3, 5), dtype=np.float32), width=4)
@example(x=sparse.csr_matrix(np.eye(1, 7, 6, dtype=np.float32)), width=1)  # one row, its last column
@example(x=sparse.csr_matrix(np.eye(6, 4, -2, dtype=np.float32)), width=3)  # first two rows empty, the last is not
@example(x=sparse.csr_matrix(np.eye(6, 4, 0, dtype=np.float32)), width=3)  # the last two rows empty
@given(x=matrices(), width=st.integers(1, 300))
def test_products_match_numpy(dtype, x, width):
    assert_products(x, width, dtype)


@every_type
@pytest.mark.parametrize("width", [1, 7, 8, 16, 31, 256, 300])
def test_products_match_numpy_at_a_minibatchs_size(dtype, width):
    assert_products(random_csr(128, 500, 0.15, seed=width), width, dtype)


def test_products_match_scipy_in_the_values_own_type():
    x = random_csr(40, 30, 0.2, seed=0, dtype=np.float64)
    w, h = other_factor(30, 5, torch.float64), other_factor(40, 5, torch.float64)
    np.testing.assert_allclose((SparseExpression(x) @ w).numpy(), x @ w.numpy(), rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose((SparseExpression(x).T @ h).numpy(), x.T @ h.numpy(), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("starts_type", [np.int32, np.int64])
@pytest.mark.parametrize("columns_type", [np.int32, np.int64])
def test_any_indices_unsorted_columns_and_explicit_zeros(columns_type, starts_type):
    data, columns, starts = (
        np.array([3.0, 0.0, 1.0, 2.0], np.float32),
        np.array([2, 0, 1, 0]),
        np.array([0, 0, 2, 4, 4]),
    )
    x = sparse.csr_matrix((data, columns, starts), shape=(4, 3))
    x.indices, x.indptr = columns.astype(columns_type), starts.astype(starts_type)
    assert not x.has_sorted_indices
    assert_products(x, 5, torch.float32)
    np.testing.assert_array_equal(SparseExpression(x).to_dense().numpy(), x.toarray())
    assert (x.indices.dtype, x.indptr.dtype) == (columns_type, starts_type)  # the caller's matrix is as it was


@several
@given(matrices())
def test_transposed_and_dense_match_numpy(x):
    ours, dense = SparseExpression(x), x.toarray()
    assert (len(ours), ours.shape) == (x.shape[0], x.shape)
    assert (len(ours.T), ours.T.shape, ours.T.T.shape) == (x.shape[1], x.shape[::-1], x.shape)
    for made, expected in [
        (ours, dense),
        (ours.T, dense.T),
        (ours.T.T, dense),
        (ours.to(torch.float64), dense.astype(np.float64)),
    ]:
        np.testing.assert_array_equal(made.to_dense().numpy(), expected)
        assert made.to_dense().numpy().dtype == expected.dtype


@pytest.mark.filterwarnings("error")
def test_dense_form_does_not_warn():
    torch.set_warn_always(True)  # torch says most things once a process
    try:
        SparseExpression(random_csr(3, 4, 0.5, seed=0)).to_dense()
    finally:
        torch.set_warn_always(False)


def test_changed_values_are_others():
    x = random_csr(5, 6, 0.5, seed=1)
    before = x.copy()
    ours = SparseExpression(x)
    ours.to(torch.bfloat16), ours.T
    np.testing.assert_array_equal(x.toarray(), before.toarray())
    np.testing.assert_array_equal(ours.to_dense().numpy(), before.toarray())


@several
@given(x=matrices(), seed=st.integers(0, 100))
def test_the_other_factor_gets_its_gradient(x, seed):
    w = other_factor(x.shape[1], 3, torch.float32, seed).double().requires_grad_()
    incoming = other_factor(x.shape[0], 3, torch.float64, seed + 1)
    (SparseExpression(x).to(torch.float64) @ w).backward(incoming)
    np.testing.assert_allclose(w.grad.numpy(), x.toarray().T.astype(np.float64) @ incoming.numpy(), atol=1e-12)


# -- statistics of genes ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["sparse", "dense"])
@several
@given(x=matrices(), seed=st.integers(0, 100))
def test_gene_sums_match_numpy(form, x, seed):
    w = np.random.default_rng(seed).uniform(0, 2, x.shape[0]).astype(np.float32)
    sums, squares = gene_sums(
        SparseExpression(x) if form == "sparse" else torch.from_numpy(x.toarray()), torch.from_numpy(w)
    )
    wide, dense = w.astype(np.float64), x.toarray().astype(np.float64)
    assert sums.dtype == squares.dtype == torch.float32
    size = wide @ np.abs(dense)
    assert (np.abs(sums.numpy() - wide @ dense) <= 2e-6 * size).all()
    np.testing.assert_allclose(squares.numpy(), wide @ dense**2, rtol=2e-6, atol=1e-30)


def test_sparse_gene_sums_are_rounded_once():
    """10,000 equal values: partial sums in float32 would drift by much more than half a unit in the last place."""
    x = sparse.csr_matrix(np.full((10_000, 2), 0.1, np.float32))
    sums, squares = gene_sums(SparseExpression(x), torch.ones(10_000))
    value = float(np.float32(0.1))
    assert (sums.numpy() == np.float32(10_000 * value)).all()
    assert (squares.numpy() == np.float32(10_000 * value**2)).all()
