import numpy as np
import oracle
import pytest
import torch
from scipy import stats

from sysvi.kernels import torch_backend
from sysvi.model import likelihoods
from sysvi.model.likelihoods import GeneStatistics, gaussian_nll

B, G, H = 9, 5, 4


class Total(torch.autograd.Function):
    """Value and gradients from statistics of genes, for autograd to drive; the gradients have a factor of 2."""

    @staticmethod
    def forward(ctx, x, h, weight, bias, var, w, short):
        ctx.fit = GeneStatistics(x, weight, bias, var, 2.0, w, short)(h)
        return ctx.fit.total

    @staticmethod
    def backward(ctx, grad):
        return None, *(grad * gradient / 2 for gradient in ctx.fit[1:]), None, None


def gaussian_nll_total(x, h, weight, bias, var, w=None, products=None):
    return Total.apply(x, h, weight, bias, var, w, None if products is None else x.to(products))


def inputs(seed=0, dtype=torch.float64):
    """x, h, weight, bias, var of a small minibatch, the last four with gradients."""
    rng = torch.Generator().manual_seed(seed)
    x, h, weight, bias = (torch.randn(*shape, generator=rng, dtype=dtype) for shape in [(B, G), (B, H), (G, H), (G,)])
    var = 0.1 + torch.rand(G, generator=rng, dtype=dtype)
    return x, *(t.requires_grad_() for t in (h, weight, bias, var))


@pytest.fixture(params=["numba", "torch"])
def branch(request, monkeypatch):
    """Run the per-gene sums by the kernel of the CPU, or by the operations that other devices get."""
    if request.param == "torch":
        monkeypatch.setattr(likelihoods, "choose_backend", lambda device: torch_backend)


def cell_weights(kind):
    return None if kind == "unweighted" else torch.linspace(0.0, 2.0, B, dtype=torch.float64)


def plain(x, h, weight, bias, var, w=None):
    """Sum over cells, with the mean written out."""
    per_cell = gaussian_nll(x, h @ weight.T + bias, var)
    return (per_cell if w is None else w * per_cell).sum()


@pytest.mark.parametrize("var_shape", [(G,), (B, G)])
def test_plain_form_matches_oracle_and_scipy(var_shape):
    rng = torch.Generator().manual_seed(1)
    x, mean = torch.randn(2, B, G, generator=rng, dtype=torch.float64)
    var = 0.01 + torch.rand(var_shape, generator=rng, dtype=torch.float64)
    ours = gaussian_nll(x, mean, var).numpy()
    np.testing.assert_allclose(ours, oracle.gaussian_nll(*(t.numpy() for t in (x, mean, var))), rtol=1e-12)
    scipy = -stats.norm.logpdf(x.numpy(), mean.numpy(), np.sqrt(var.numpy())).sum(1)
    np.testing.assert_allclose(ours, scipy, rtol=1e-12)


@pytest.mark.parametrize("kind", ["unweighted", "weighted"])
@pytest.mark.parametrize("seed", range(3))
def test_total_matches_plain_form_in_value_and_gradients(branch, kind, seed):
    x, *parameters = inputs(seed)
    w = cell_weights(kind)
    fused, written_out = gaussian_nll_total(x, *parameters, w), plain(x, *parameters, w)
    torch.testing.assert_close(fused, written_out, rtol=1e-12, atol=0)
    # a factor on the loss checks that the incoming gradient is used
    pairs = zip(
        torch.autograd.grad(-3.5 * fused, parameters), torch.autograd.grad(-3.5 * written_out, parameters), strict=True
    )
    for ours, reference in pairs:
        torch.testing.assert_close(ours, reference, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("kind", ["unweighted", "weighted"])
def test_total_passes_gradcheck(branch, kind):
    x, *parameters = inputs()
    w = cell_weights(kind)
    assert torch.autograd.gradcheck(lambda *args: gaussian_nll_total(x, *args, w), parameters)


@pytest.mark.parametrize("ratio", [1e2, 1e4, 1e6])
def test_float32_cancellation_is_bounded(branch, ratio):
    """Sums of squares of size mean² cancel down to var; with ratio = mean²/var the relative error is

    - of the value at most 2 eps ratio (at the worst of log-normalised expression, mean 8 and sd 0.08: 0.24 %),
    - of the gradients in h, weight and bias at most 100 eps sqrt(ratio), in var at most 10 eps ratio of its scale.
    """
    rng = torch.Generator().manual_seed(0)
    n, mean, eps = 256, ratio**0.5, torch.finfo(torch.float32).eps
    h = torch.rand(n, H, generator=rng, dtype=torch.float64)
    weight = torch.randn(G, H, generator=rng, dtype=torch.float64) * 0.1
    x = h @ weight.T + mean + torch.randn(n, G, generator=rng, dtype=torch.float64)
    bias, var = torch.full((G,), mean, dtype=torch.float64), torch.ones(G, dtype=torch.float64)
    single = [t.float() for t in (x, h, weight, bias, var)]
    exact = [t.double() for t in single]  # the same rounded inputs
    for t in single[1:] + exact[1:]:
        t.requires_grad_()
    ours, reference = gaussian_nll_total(*single), plain(*exact)
    assert abs(ours.item() / reference.item() - 1) <= 2 * eps * ratio

    *mean_gradients, var_gradient = zip(
        torch.autograd.grad(ours, single[1:]), torch.autograd.grad(reference, exact[1:]), strict=True
    )
    for a, b in mean_gradients:
        assert (a.double() - b).norm() <= 100 * eps * ratio**0.5 * b.norm()
    a, b = var_gradient
    assert (a.double() - b).abs().max() <= 10 * eps * ratio * n / 2


def test_total_is_finite_where_float32_cancels_to_nothing(branch):
    """A perfect reconstruction: the squares would sum to a little below zero."""
    x, h, weight, bias = torch.full((B, G), 300.1), torch.zeros(B, H), torch.zeros(G, H), torch.full((G,), 300.1)
    var = torch.full((G,), 1e-4)
    perfect = gaussian_nll(x, x, var).sum()
    assert gaussian_nll_total(x, h, weight, bias, var) >= perfect * (1 + 1e-6 * perfect.sign())


def test_short_products_change_the_gradient_of_h_alone_and_little():
    x, *parameters = inputs(dtype=torch.float32)
    exact, short = (
        torch.autograd.grad(gaussian_nll_total(x, *parameters, products=products), parameters)
        for products in (None, torch.bfloat16)
    )
    for ours, reference in zip(short[1:], exact[1:], strict=True):
        assert torch.equal(ours, reference)
    assert short[0].dtype == torch.float32
    assert 0 < (short[0] - exact[0]).norm() <= 4 * 2.0**-8 * exact[0].norm()


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["h", "weight", "bias"])
def test_what_is_not_finite_reaches_the_total(branch, name, bad):
    x, *parameters = inputs()
    with torch.no_grad():
        parameters[["h", "weight", "bias"].index(name)].view(-1)[0] = bad
    assert not gaussian_nll_total(x, *parameters).isfinite()
