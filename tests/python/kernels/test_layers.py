"""The hand-written layer of training, against torch's own operations and autograd in float64."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import njit
from scipy import sparse

from sysvi.kernels import cpu_backend, torch_backend
from sysvi.kernels.dropout import dropped, kept_share
from sysvi.kernels.sparse import SparseExpression
from sysvi.model.networks import TrainingContext
from sysvi.training import layer_pass
from sysvi.training.layer_pass import Gradients, LayerPass

B, I, H, C = 24, 9, 7, 4
CPU = torch.device("cpu")
BFLOAT16 = 2.0**-8  # its rounding, relative
TRAINED = ["weight", "c", "cov_weight", "scale", "shift"]  # not the bias: the mean takes it away again

every_rate = pytest.mark.parametrize("rate", [0.0, 0.3])


@pytest.fixture(params=["numba", "torch"])
def branch(request, monkeypatch):
    """Run the layer by the kernels of the CPU, or by the operations that other devices get."""
    if request.param == "torch":
        monkeypatch.setattr(layer_pass, "choose_backend", lambda device: torch_backend)
    return request.param


def numbers(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def no_covariates(n, width, dtype):
    """c and U of width 0."""
    return torch.zeros(n, 0, dtype=dtype), torch.zeros(0, width, dtype=dtype)


def inputs(seed=0, *, n=B, n_in=I, n_out=H):
    """All arguments of a layer in float64, nothing at a neutral value. A third of x is not zero."""
    x = numbers(n, n_in, seed=seed) * (numbers(n, n_in, seed=seed + 1) > 0.4)
    return SimpleNamespace(
        x=x,
        weight=numbers(n_in, n_out, seed=seed + 2),
        bias=numbers(n_out, seed=seed + 3),
        c=numbers(n, C, seed=seed + 4),
        cov_weight=numbers(C, n_out, seed=seed + 5),
        scale=0.5 + numbers(n_out, seed=seed + 6).abs(),
        shift=numbers(n_out, seed=seed + 7),
        running_mean=numbers(n_out, seed=seed + 8),
        running_var=0.5 + numbers(n_out, seed=seed + 9).abs(),
    )


def copies(arguments, dtype=torch.float64, *, x=True):
    """The same values in new tensors of a type, those that are trained (and x, c) with gradients."""
    made = SimpleNamespace(**{name: t.detach().to(dtype).clone() for name, t in vars(arguments).items()})
    for name in TRAINED + ["x"] * x:
        getattr(made, name).requires_grad_()
    return made


def written_out(a, rate, seed, alive=None):
    """The layer from torch's parts: torch's batch norm, ReLU, and the mask of the units to drop.

    With `alive`, that pattern of units takes the place of ReLU and dropout.
    """
    h = a.x @ a.weight + a.c @ a.cov_weight + a.bias
    h = F.batch_norm(h, a.running_mean, a.running_var, a.scale, a.shift, training=True, momentum=0.01, eps=1e-3)
    if alive is None:
        h = F.relu(h)
        alive = ~dropped(h.shape, rate, seed, CPU)
    return h.where(alive, torch.zeros(())) / kept_share(rate)


class OneLayer(torch.autograd.Function):
    """A pass through one layer, for autograd to drive."""

    @staticmethod
    def forward(ctx, x, weight, bias, c, cov_weight, scale, shift, running_mean, running_var, rate, seed, out):
        layer = SimpleNamespace(
            weight=weight,
            bias=bias,
            cov_weight=cov_weight,
            scale=scale,
            shift=shift,
            running_mean=running_mean,
            running_var=running_var,
            dropout_rate=rate,
        )
        x = x.to(out) if isinstance(x, SparseExpression) else x
        c = c.detach().requires_grad_(ctx.needs_input_grad[3])
        ctx.layer, ctx.c = layer, c
        ctx.taken = LayerPass([layer], c, TrainingContext(None, dropout_seeds=iter([seed])))
        y = ctx.taken.forward(x, out=out)
        ctx.taken.update_running_statistics()
        return y

    @staticmethod
    def backward(ctx, grad):
        gradients, layer = Gradients(), ctx.layer
        d_x = ctx.taken.backward(grad, gradients, to_input=ctx.needs_input_grad[0])
        assert layer.bias not in gradients
        of = [layer.weight, layer.bias, ctx.c, layer.cov_weight, layer.scale, layer.shift]
        return d_x if ctx.needs_input_grad[0] else None, *(gradients.get(t) for t in of), *[None] * 5


def fused_layer(a, rate, seed, out=torch.float64, x=None):
    x = a.x if x is None else x
    rest = a.weight, a.bias, a.c, a.cov_weight, a.scale, a.shift, a.running_mean, a.running_var
    return OneLayer.apply(x, *rest, rate, seed, out)


def as_sparse(x):
    return SparseExpression(sparse.csr_matrix(x.detach().numpy()))


# -- float64 ----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@every_rate
@pytest.mark.parametrize("expression", ["dense", "sparse"])
@pytest.mark.parametrize("shape", [(B, I, H), (2, 1, 1), (3, 5, 33), (130, 6, 64)], ids=str)
def test_layer_matches_torchs_parts(branch, expression, shape, rate):
    n, n_in, n_out = shape
    given_ = inputs(n, n=n, n_in=n_in, n_out=n_out)
    ours, reference = (copies(given_, x=expression == "dense") for _ in range(2))
    y = fused_layer(ours, rate, 5, x=as_sparse(given_.x) if expression == "sparse" else None)
    expected = written_out(reference, rate, 5)
    torch.testing.assert_close(y, expected, rtol=1e-9, atol=1e-10)
    incoming = numbers(n, n_out, seed=99)
    y.backward(incoming)
    expected.backward(incoming)
    for name in TRAINED + ["x"] * (expression == "dense"):
        a, b = getattr(ours, name).grad, getattr(reference, name).grad
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-9, msg=lambda m, n=name: f"{n}: {m}")
    for name in ("running_mean", "running_var"):
        torch.testing.assert_close(getattr(ours, name), getattr(reference, name), rtol=1e-12, atol=1e-12)
        assert not torch.equal(getattr(ours, name), getattr(given_, name))


@every_rate
def test_layer_passes_gradcheck(branch, rate):
    a = copies(inputs(0, n=8, n_in=3, n_out=4))

    def layer(x, weight, *others):
        running = a.running_mean.clone(), a.running_var.clone()
        return OneLayer.apply(x, weight, a.bias, *others, *running, rate, 2, torch.float64)

    point = [a.x, *(getattr(a, name) for name in TRAINED)]
    assert 0.2 < (layer(*point) > 0).double().mean() < 0.8  # both dead and living units are checked
    assert torch.autograd.gradcheck(layer, point)


def test_covariates_without_gradient_get_none(branch):
    a = copies(inputs())
    a.c.requires_grad_(False)
    fused_layer(a, 0.3, 1).sum().backward()
    assert a.c.grad is None
    assert a.cov_weight.grad.abs().sum() > 0


def test_gradient_that_is_not_contiguous_is_read_in_place(branch):
    ours, reference = copies(inputs()), copies(inputs())
    incoming = numbers(H, B, seed=5)
    (fused_layer(ours, 0.3, 1).T * incoming).sum().backward()
    (written_out(reference, 0.3, 1).T * incoming).sum().backward()
    torch.testing.assert_close(ours.weight.grad, reference.weight.grad, rtol=1e-9, atol=1e-10)
    constant = copies(inputs())
    fused_layer(constant, 0.3, 1).sum().backward()  # the incoming gradient is one number, expanded
    reference = copies(inputs())
    written_out(reference, 0.3, 1).sum().backward()
    torch.testing.assert_close(constant.weight.grad, reference.weight.grad, rtol=1e-9, atol=1e-10)


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 40), st.integers(1, 40), st.floats(0, 0.9), st.integers(0, 2**63 - 1))
def test_kernels_equal_torchs_operations(n, width, rate, seed):
    shapes = [(n, width), (3, width), (width,), (width,), (n, width)]
    a, u, scale, shift, grad = (numbers(*s, seed=i) for i, s in enumerate(shapes))
    c = numbers(n, 3, seed=9) * (numbers(n, 3, seed=10) > 0)  # covariates, half of them 0
    ours_a, other_a = a.clone(), a.clone()
    ours = cpu_backend.normalise(ours_a, c, u, scale, shift, rate, seed, torch.float64)
    other = torch_backend.normalise(other_a, c, u, scale, shift, rate, seed, torch.float64)
    torch.testing.assert_close(ours_a, a + c @ u, rtol=1e-9, atol=1e-10)
    for x, expected in zip((ours_a, *ours), (other_a, *other), strict=True):
        torch.testing.assert_close(x, expected, rtol=1e-9, atol=1e-10)
    y, moments = other
    backs = (
        f(grad, y, other_a, c, moments, scale, rate)
        for f in (cpu_backend.normalise_backward, torch_backend.normalise_backward)
    )
    for x, expected in zip(*backs, strict=True):
        torch.testing.assert_close(x, expected, rtol=1e-8, atol=1e-9)


def test_a_unit_that_never_varies_gives_its_shift(branch):
    a = copies(inputs())
    with torch.no_grad():
        a.weight[:, 0] = a.cov_weight[:, 0] = 0
        a.shift[0] = 0.25
    y = fused_layer(a, 0.0, 1)
    torch.testing.assert_close(y[:, 0], torch.full((B,), 0.25, dtype=torch.float64))
    y.sum().backward()
    assert all(getattr(a, name).grad.isfinite().all() for name in ["x", *TRAINED])


# -- float32 ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mean", [0.0, 1e2, 1e4])
def test_float32_statistics_do_not_cancel(branch, mean):
    """Σ a² / n - mean² would lose all of a variance of 1 at a mean of 1e4."""
    a = (numbers(200, 5) + mean).float()
    one, zero = torch.ones(5), torch.zeros(5)
    normalise = cpu_backend.normalise if branch == "numba" else torch_backend.normalise
    y, (ours_mean, ours_var, _) = normalise(a, *no_covariates(200, 5, torch.float32), one, zero, 0.0, 0, torch.float32)
    var, exact_mean = torch.var_mean(a.double(), 0, correction=0)
    torch.testing.assert_close(ours_mean.double(), exact_mean, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(ours_var.double(), var, rtol=1e-5, atol=0)
    expected = F.relu((a.double() - exact_mean) / (var + 1e-3).sqrt())
    torch.testing.assert_close(y.double(), expected, rtol=1e-4, atol=4 * (1 + mean) * 2.0**-24)


@every_rate
def test_float32_layer_is_near_float64(branch, rate):
    given_ = inputs(1, n=200, n_in=40, n_out=32)
    ours, reference = copies(given_, torch.float32), copies(given_)
    y, expected = fused_layer(ours, rate, 5, torch.float32), written_out(reference, rate, 5)
    assert y.dtype == torch.float32
    torch.testing.assert_close(y.double(), expected, rtol=0, atol=2e-5)
    incoming = numbers(*y.shape, seed=8)
    y.backward(incoming.float())
    expected.backward(incoming)
    for name in ["x", *TRAINED]:
        a, b = getattr(ours, name).grad.double(), getattr(reference, name).grad
        assert (a - b).norm() <= 1e-5 * b.norm() + 1e-9, name


# -- bfloat16 ---------------------------------------------------------------------------------------------------------

SHORT = torch.bfloat16
TYPES = {  # of x and of the result
    "float32_in": (torch.float32, SHORT),
    "both": (SHORT, SHORT),
    "float32_out": (SHORT, torch.float32),
    "sparse": (None, SHORT),
    "sparse_float32_out": (None, torch.float32),
}


@pytest.mark.slow
@every_rate
@pytest.mark.parametrize("types", TYPES)
def test_bfloat16_layer_is_near_float64(branch, types, rate):
    """From the same rounded inputs, and with the units alive that are alive in ours (at 0 a rounding may switch one):

    the result differs by at most two roundings of bfloat16 (of x W and of itself), each gradient by at most four, all
    relative to the norm.
    """
    kind, out = TYPES[types]
    short = SHORT if kind is None and out == SHORT else kind  # type of the products
    given_ = inputs(1, n=200, n_in=40, n_out=32)
    if short == SHORT:
        for name in ("x", "weight"):
            setattr(given_, name, getattr(given_, name).to(SHORT).double())
    ours, reference = copies(given_, torch.float32), copies(given_, x=kind is not None)
    x = as_sparse(given_.x.float()) if kind is None else given_.x.to(kind).requires_grad_()
    y = fused_layer(ours, rate, 5, out, x)
    assert y.dtype == out
    expected = written_out(reference, rate, 5, alive=y.detach() > 0)
    assert (y.double() - expected).norm() <= 2 * BFLOAT16 * expected.norm()
    exact_alive = written_out(copies(given_), rate, 5) > 0
    assert (exact_alive != (y > 0)).double().mean() < 0.01

    incoming = numbers(*y.shape, seed=8).to(out)
    y.backward(incoming)
    expected.backward(incoming.double())
    for name in TRAINED:
        a, b = getattr(ours, name).grad, getattr(reference, name).grad
        assert a.dtype == torch.float32, name
        assert (a - b).norm() <= 4 * BFLOAT16 * b.norm() + 1e-9, name
    if kind is not None:
        assert x.grad.dtype == kind
        assert (x.grad - reference.x.grad).norm() <= 4 * BFLOAT16 * reference.x.grad.norm()
    for name in ("running_mean", "running_var"):
        torch.testing.assert_close(getattr(ours, name).double(), getattr(reference, name), rtol=1e-3, atol=1e-4)


def test_branches_agree_on_bfloat16_within_the_last_rounding():
    a, grad = (numbers(100, 16, seed=s).to(SHORT) for s in (1, 2))
    scale, shift = (numbers(16, seed=s).float() for s in (3, 4))
    c, u = no_covariates(100, 16, torch.float32)
    numba, other = (
        f(a.clone(), c, u, scale, shift, 0.3, 9, SHORT) for f in (cpu_backend.normalise, torch_backend.normalise)
    )
    assert torch.equal(numba[0] == 0, other[0] == 0)
    for ours, expected in zip(numba, other, strict=True):
        torch.testing.assert_close(ours, expected, rtol=2 * BFLOAT16 if ours.dtype == SHORT else 1e-5, atol=1e-6)
    y, moments = other
    backs = (
        f(grad, y, a, c, moments, scale, 0.3)
        for f in (cpu_backend.normalise_backward, torch_backend.normalise_backward)
    )
    for ours, expected in zip(*backs, strict=True):
        torch.testing.assert_close(ours, expected, rtol=2 * BFLOAT16 if ours.dtype == SHORT else 1e-5, atol=1e-5)


# -- the kernels' own bfloat16 ----------------------------------------------------------------------------------------

QUIET, ALL_ONES = 0x7FC0_0000, 0x7FFF_FFFF  # the NaN that arithmetic makes, and the one of the most bits


@njit
def _convert(bits, x):
    for i in range(len(x)):
        bits[i] = cpu_backend._store(bits[i], x[i])


@njit
def _read(x, bits):
    for i in range(len(x)):
        x[i] = cpu_backend._load(bits[i])


def stored(x):
    """Bits of the bfloat16 that the kernels write for float32 x."""
    bits = np.zeros(len(x), np.uint16)
    _convert(bits, x)
    return bits


def floats(bits):
    return np.asarray(bits, np.uint32).view(np.float32)


def test_rounding_is_to_the_nearest_and_at_ties_to_even():
    """Every bfloat16 with lower halves around the tie, among them ±0, subnormals, ±inf and the overflow to it."""
    lower = np.array([0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF], np.uint32)
    x = floats(((np.arange(2**16, dtype=np.uint32) << 16)[:, None] | lower).ravel())
    x = x[~np.isnan(x)]
    expected = torch.from_numpy(x).bfloat16().view(torch.uint16).numpy()
    np.testing.assert_array_equal(stored(x), expected)


@pytest.mark.parametrize(
    ("x", "bits"),
    [
        (0.0, 0x0000),
        (-0.0, 0x8000),
        (1.0, 0x3F80),
        (1 + 2**-8, 0x3F80),  # half way between 1 and the next: down to even
        (1 + 3 * 2**-8, 0x3F82),  # half way between two others: up to even
        (1 + 2**-8 + 2**-20, 0x3F81),
        (-(1 + 3 * 2**-8), 0xBF82),
        (2**-133, 0x0001),  # the least subnormal
        (2**-134, 0x0000),  # half of it
        (math.inf, 0x7F80),
        (-math.inf, 0xFF80),
        (float(np.finfo(np.float32).max), 0x7F80),
    ],
)
def test_rounding_of_known_numbers(x, bits):
    assert stored(np.array([x], np.float32))[0] == bits


@pytest.mark.parametrize("bits", [QUIET, QUIET | 1 << 31, ALL_ONES, ALL_ONES | 1 << 31], ids=hex)
def test_a_nan_is_stored_as_a_nan(bits):
    assert torch.from_numpy(stored(floats([bits]))).view(SHORT).isnan().all()


def test_every_bfloat16_is_read_as_torch_reads_it_and_stored_as_it_was():
    bits = np.arange(2**16, dtype=np.uint16)
    x = np.zeros(2**16, np.float32)
    _read(x, bits)
    np.testing.assert_array_equal(x.view(np.uint32), bits.astype(np.uint32) << 16)
    np.testing.assert_array_equal(x, torch.from_numpy(bits).view(SHORT).float().numpy())  # NaN equals NaN here
    np.testing.assert_array_equal(stored(x[~np.isnan(x)]), bits[~np.isnan(x)])
    assert np.isnan(floats(stored(x[np.isnan(x)]).astype(np.uint32) << 16)).all()


# -- numbers that are not finite --------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, SHORT], ids=str)
def test_a_unit_that_is_not_finite_spoils_its_result_and_gradients(branch, dtype, bad):
    """It must not come out as 0, which would hide it from the loss."""
    a = numbers(B, 3).to(dtype)
    a[4, 1] = bad
    wide = torch.promote_types(dtype, torch.float32)
    backend = cpu_backend if branch == "numba" else torch_backend
    normalise, back = backend.normalise, backend.normalise_backward
    c, u = no_covariates(B, 3, wide)
    y, moments = normalise(a, c, u, torch.ones(3, dtype=wide), torch.zeros(3, dtype=wide), 0.0, 0, dtype)
    mean, var, _ = moments
    assert not mean[1].isfinite()
    assert var[1].isnan()
    assert y[:, 1].isnan().all()
    assert y[:, [0, 2]].isfinite().all()
    d_a, _, d_scale, _ = back(torch.ones_like(y), y, a, c, moments, torch.ones(3, dtype=wide), 0.0)
    assert d_a[:, 1].isnan().all()
    assert d_scale[1].isnan()
    assert d_a[:, [0, 2]].isfinite().all()


def test_dropped_units_are_0_beside_a_nan():
    a = numbers(B, 3).float()
    a[4, 1] = math.nan
    y = cpu_backend.normalise(
        a, *no_covariates(B, 3, torch.float32), torch.ones(3), torch.zeros(3), 0.5, 3, torch.float32
    )[0]
    off = dropped((B, 3), 0.5, 3, CPU)
    assert (y[off] == 0).all()
    assert y[:, 1][~off[:, 1]].isnan().all()
