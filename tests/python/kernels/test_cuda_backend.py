"""The CUDA kernels against torch's operations; without a GPU, Triton's interpreter runs them on the CPU."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from sysvi.kernels import cuda_backend, torch_backend
from sysvi.kernels.dropout import dropped

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
SHORT = torch.bfloat16
BFLOAT16 = 2.0**-8  # its rounding, relative
C = 3
FEW = cuda_backend.FEW_COVARIATES


def numbers(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE, dtype)


def layer(n_rows, n_units, dtype, n_cov=C):
    """a, c, U, scale and shift, nothing at a neutral value."""
    shapes = [(n_rows, n_units), (n_rows, n_cov), (n_cov, n_units), (n_units,), (n_units,)]
    a, c, u, scale, shift = (numbers(*shape, seed=i) for i, shape in enumerate(shapes))
    return a.to(dtype), c, u, 0.5 + scale.abs(), shift


def normalised(arguments, rate, seed, out, by):
    """Result, moments, and a with c U."""
    a, *others = arguments
    a = a.clone()
    if by == "triton":
        return *cuda_backend.normalise(a, *others, rate, seed, out), a
    return *torch_backend.normalise(a, *others, rate, seed, out), a


@pytest.mark.slow
@settings(max_examples=15, deadline=None)
@given(
    st.integers(8, 70),  # of fewer, variances are often small and rounding is large beside them
    st.integers(1, 40),
    st.sampled_from([0, 1, 3, FEW, FEW + 1]),
    st.floats(0, 0.9),
    st.integers(0, 2**63 - 1),
)
def test_layers_are_those_of_torch(n_rows, n_units, n_cov, rate, seed):
    arguments = layer(n_rows, n_units, torch.float32, n_cov)
    ours, expected = (normalised(arguments, rate, seed, torch.float32, by) for by in ("triton", "torch"))
    for x, y in zip(ours, expected, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-4, atol=1e-5)
    y, moments, a = expected
    grad = numbers(n_rows, n_units, seed=9)
    _, c, _, scale, _ = arguments
    backs = (
        f(grad, y, a, c, moments, scale, rate)
        for f in (cuda_backend.normalise_backward, torch_backend.normalise_backward)
    )
    for x, y in zip(*backs, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("rate", [0.0, 0.3])
def test_units_are_dropped_that_dropout_drops(rate):
    arguments = layer(50, 10, torch.float32)
    shift = torch.full_like(arguments[-1], 100.0)  # all units are alive
    y, *_ = normalised((*arguments[:-1], shift), rate, torch.tensor(77, device=DEVICE), torch.float32, "triton")
    assert torch.equal(y == 0, dropped((50, 10), rate, 77, DEVICE) & (rate > 0))


@pytest.mark.parametrize("n_rows", [cuda_backend.MAX_BLOCK_ROWS - 1, 2 * cuda_backend.MAX_BLOCK_ROWS + 3])
def test_minibatches_larger_than_a_block(n_rows):
    arguments = layer(n_rows, 5, torch.float32)
    ours, expected = (normalised(arguments, 0.1, 3, torch.float32, by) for by in ("triton", "torch"))
    for x, y in zip(ours, expected, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-4, atol=1e-5)
    y, moments, a = expected
    grad = numbers(n_rows, 5, seed=9)
    backs = (
        f(grad, y, a, arguments[1], moments, arguments[3], 0.1)
        for f in (cuda_backend.normalise_backward, torch_backend.normalise_backward)
    )
    for x, y in zip(*backs, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("out", [SHORT, torch.float32], ids=str)
def test_bfloat16_layers_stay_near(out):
    """Where the two round the same number otherwise, by two roundings, and at 0 either way."""
    arguments = layer(200, 16, SHORT)
    ours, expected = (normalised(arguments, 0.1, 3, out, by) for by in ("triton", "torch"))
    for x, y in zip(ours, expected, strict=True):
        assert x.dtype == y.dtype
        assert (x.float() - y.float()).norm() <= 2 * BFLOAT16 * y.float().norm()
    y, moments, a = expected
    grad = numbers(200, 16, seed=9, dtype=out)
    backs = (
        f(grad, y, a, arguments[1], moments, arguments[3], 0.1)
        for f in (cuda_backend.normalise_backward, torch_backend.normalise_backward)
    )
    for x, y in zip(*backs, strict=True):
        assert x.dtype == y.dtype
        assert (x.float() - y.float()).norm() <= 4 * BFLOAT16 * y.float().norm()


def test_gradients_that_are_not_contiguous():
    arguments = layer(20, 6, torch.float32)
    y, moments, a = normalised(arguments, 0.1, 3, torch.float32, "torch")
    grad = numbers(6, 20, seed=9).T
    rest = y, a, arguments[1], moments, arguments[3], 0.1
    for x, expected in zip(
        cuda_backend.normalise_backward(grad, *rest), torch_backend.normalise_backward(grad, *rest), strict=True
    ):
        torch.testing.assert_close(x, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_unit_that_is_not_finite_spoils_its_result_and_gradients(bad):
    arguments = layer(24, 3, torch.float32)
    arguments[0][4, 1] = bad
    y, moments, a = normalised(arguments, 0.0, 0, torch.float32, "triton")
    assert y[:, 1].isnan().all()
    assert moments[1, 1].isnan()
    assert y[:, [0, 2]].isfinite().all()
    d_a, _, d_scale, _ = cuda_backend.normalise_backward(
        torch.ones_like(y), y, a, arguments[1], moments, arguments[3], 0.0
    )
    assert d_a[:, 1].isnan().all()
    assert d_scale[1].isnan()
    assert d_a[:, [0, 2]].isfinite().all()


@pytest.mark.parametrize("mean", [1e2, 1e4])
def test_statistics_do_not_cancel(mean):
    a = numbers(200, 5) + mean
    nothing = torch.zeros(200, 0, device=DEVICE), torch.zeros(0, 5, device=DEVICE)
    one, zero = torch.ones(5, device=DEVICE), torch.zeros(5, device=DEVICE)
    _, (ours_mean, ours_var, _), _ = normalised((a, *nothing, one, zero), 0.0, 0, torch.float32, "triton")
    var, exact = torch.var_mean(a.double(), 0, correction=0)
    torch.testing.assert_close(ours_mean.double(), exact, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(ours_var.double(), var, rtol=1e-4, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, SHORT], ids=str)
@pytest.mark.parametrize("density", [0.0, 0.2, 1.0])
def test_dense_rows(dtype, density):
    """Among them one twice, an empty one, and one with more values than a block. (Interpreted, rounding is to zero.)"""
    x = sparse.random(30, 700, density, format="lil", dtype=np.float32, rng=np.random.default_rng(0))
    x[3], x[4] = np.arange(1, 701), 0
    x = x.tocsr()
    x.eliminate_zeros()
    rows = np.array([3, 7, 7, 4, 29, 0])
    parts = (torch.from_numpy(part).to(DEVICE) for part in (x.indptr.astype(np.int64), x.indices, x.data))
    dense = cuda_backend.dense_rows(*parts, torch.from_numpy(rows).to(DEVICE), 700, 700, dtype)
    assert dense.dtype == dtype
    expected = torch.from_numpy(x[rows].toarray())
    torch.testing.assert_close(
        dense.cpu().float(), expected, rtol=0 if dtype == torch.float32 else 2 * BFLOAT16, atol=0
    )


@pytest.mark.parametrize("dtype", [torch.float32, SHORT], ids=str)
@pytest.mark.parametrize("shape", [(2, 1), (300, 50)], ids=str)
def test_gene_sums_are_those_of_torch(dtype, shape):
    x, w = numbers(*shape, dtype=dtype), numbers(shape[0], seed=1).abs()
    exact = torch_backend.gene_sums(x.cpu().double(), w.cpu().double())
    for ours, expected in zip(cuda_backend.gene_sums(x, w), exact, strict=True):
        torch.testing.assert_close(ours.cpu().double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@settings(max_examples=15, deadline=None)
@given(st.integers(1, 70), st.integers(1, 17), st.integers(1, 7), st.floats(0, 1))
def test_divergence_from_a_mixture_and_its_gradients_are_those_of_torch(n_cells, n_dims, n_components, share):
    shapes = [(n_cells, n_dims)] * 3 + [(n_components, n_dims)] * 2 + [(n_components,)]
    mean, var, z, means, variances, logits = (numbers(*shape, seed=i) for i, shape in enumerate(shapes))
    given_ = [mean, 0.1 + var.abs(), z, means, 0.1 + variances.abs(), logits]
    grad, results = numbers(n_cells, seed=9), []
    for by in ("triton", "torch"):
        *points, logits = (part.clone().requires_grad_() for part in given_)
        backend = cuda_backend if by == "triton" else torch_backend
        kl = backend.mixture_kl(*points, logits.log_softmax(0), share)
        results.append([kl.detach(), *torch.autograd.grad(kl, [*points, logits], grad, allow_unused=True)])
    for ours, expected in zip(*results, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-3, atol=1e-4)
