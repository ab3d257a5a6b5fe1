import numpy as np
import oracle
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sysvi._core.settings import ModelSettings
from sysvi.kernels import cpu_backend, torch_backend
from sysvi.kernels.densities import normal_log_density
from sysvi.model.networks import Encoder, TrainingContext
from sysvi.model.priors import GaussianMixture, StandardNormal, VampPrior, mixture_kl

B, L, K, G, C = 7, 3, 4, 6, 2
FORMS = ["dimension", "joint"]


def draws(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def posterior(seed=1):
    """Mean, variance and a sample of q for B cells."""
    mean, var = draws(B, L, seed=seed), draws(B, L, seed=seed + 1).exp()
    return mean, var, mean + var.sqrt() * draws(B, L, seed=seed + 2)


def make_encoder(dropout=0.5):
    """A float64 encoder with dropout and running statistics of its own."""
    encoder = Encoder(G, C, 8, 2, L, dropout, torch.Generator().manual_seed(0)).double()
    for i, (name, buffer) in enumerate(encoder.named_buffers()):
        buffer.copy_(0.3 * draws(8, seed=i) if name.endswith("mean") else 0.1 + draws(8, seed=i).square())
    return encoder


def make_prior(kind, form="dimension", trainable=True, k=K):
    settings = ModelSettings(n_latent=L, n_prior_components=k, mixture=form, trainable_priors=trainable)
    prior = {"vamp": VampPrior, "gmm": GaussianMixture}[kind](settings, G, C).double()
    with torch.no_grad():
        for i, (name, parameter) in enumerate(prior.named_parameters()):
            assert not parameter.any(), name
            parameter.copy_(draws(*parameter.shape, seed=3 + i))
    return prior


def mixture_log_density(z, mean, var, logits, form):
    """Log p(z) of the mixture, from its divergence at a q of known density."""
    q_mean, q_var = torch.zeros_like(z), torch.full_like(z, 2.0)
    return normal_log_density(z, q_mean, q_var).sum(1) - mixture_kl(q_mean, q_var, z, mean, var, logits, form)


def standard_normal():
    return StandardNormal(ModelSettings(n_latent=L), G, C)


def oracle_components(prior, encoder):
    p = oracle.arrays(prior.state_dict())
    if isinstance(prior, VampPrior):
        weights = {f"encoder.{name}": value for name, value in oracle.arrays(encoder.state_dict()).items()}
        return oracle.encode(weights, p["x"], p["c"], training=False)
    return p["mean"], oracle.variance(p["log_var"])


def test_standard_normal_matches_closed_form():
    mean, var, z = posterior()
    kl = standard_normal().kl(mean, var, z, make_encoder())
    np.testing.assert_allclose(kl, oracle.kl_standard_normal(mean.numpy(), var.numpy()), rtol=1e-12)
    assert torch.equal(standard_normal().kl(mean * 0, var * 0 + 1, z, make_encoder()), torch.zeros(B).double())


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", ["vamp", "gmm"])
def test_mixtures_match_oracle(kind, form):
    prior, encoder = make_prior(kind, form), make_encoder()
    mean, var, z = posterior()
    means, variances = oracle_components(prior, encoder)
    logits = prior.logits.detach().numpy()
    expected = oracle.kl_mixture(z.numpy(), mean.numpy(), var.numpy(), means, variances, logits, form)
    np.testing.assert_allclose(prior.kl(mean, var, z, encoder).detach(), expected, rtol=1e-10)


def test_the_two_forms_differ_unless_there_is_one_component_or_one_dimension():
    z, mean, var, logits = draws(B, L), draws(K, L, seed=1), draws(K, L, seed=2).exp(), draws(K, seed=3)

    def both(z, mean, var, logits):
        return [mixture_log_density(z, mean, var, logits, form) for form in FORMS]

    assert (both(z, mean, var, logits)[0] - both(z, mean, var, logits)[1]).abs().min() > 1e-3
    torch.testing.assert_close(*both(z, mean[:1], var[:1], logits[:1]))
    torch.testing.assert_close(*both(z[:, :1], mean[:, :1], var[:, :1], logits))


@pytest.mark.parametrize("form", FORMS)
def test_density_of_a_mixture_integrates_to_one(form):
    """In one dimension, where both forms are the textbook's."""
    grid = torch.linspace(-30, 30, 20001, dtype=torch.float64)
    mean, var, logits = draws(K, 1, seed=1), draws(K, 1, seed=2).exp(), draws(K, seed=3)
    density = mixture_log_density(grid[:, None], mean, var, logits, form).exp()
    assert torch.trapezoid(density, grid).item() == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("form", FORMS)
def test_sampled_kl_agrees_with_closed_form_on_average(form):
    """A mixture of one component N(0, I) is the standard normal: 5 standard errors of 200 000 samples."""
    prior = make_prior("gmm", form, trainable=False, k=1)
    prior.mean.zero_()
    prior.log_var.fill_(np.log(1 - 1e-4))  # the variance is exp(log_var) + 1e-4
    n = 200_000
    mean, var = draws(1, L, seed=1).expand(n, L), draws(1, L, seed=2).exp().expand(n, L)
    z = mean + var.sqrt() * draws(n, L, seed=3)
    sampled, exact = prior.kl(mean, var, z, make_encoder()), standard_normal().kl(mean[:1], var[:1], z[:1], None)
    assert sampled.std() > 0.1  # a sample indeed
    assert abs(sampled.mean() - exact).item() < 5 * sampled.std().item() / n**0.5


def test_components_of_vamp_are_posteriors_in_evaluation_mode():
    prior, encoder = make_prior("vamp"), make_encoder(dropout=0.5)
    before = {name: buffer.clone() for name, buffer in encoder.named_buffers()}
    first, second = prior.components(encoder), prior.components(encoder)
    for a, b, expected in zip(first, second, oracle_components(prior, encoder), strict=True):
        assert torch.equal(a, b)  # no dropout
        assert (a.std(0) > 1e-3).all()
        np.testing.assert_allclose(a.detach(), expected, rtol=1e-10)
    for name, buffer in encoder.named_buffers():
        assert torch.equal(buffer, before[name]), name
    noise = torch.Generator().manual_seed(0)  # with noise, the encoder would give something else
    assert not torch.allclose(encoder(prior.x, prior.c, TrainingContext(noise))[0], first[0])


def test_components_of_vamp_follow_the_encoder():
    """The prior's gradient reaches the encoder, as its components are the encoder's own posteriors."""
    prior, encoder = make_prior("vamp", trainable=False), make_encoder()
    mean, var, z = posterior()
    prior.kl(mean, var, z, encoder).sum().backward()
    assert encoder.layers[0].weight.grad.abs().sum() > 0


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", ["vamp", "gmm"])
def test_trainable_or_frozen(kind, form):
    mean, var, z = posterior()
    trainable, frozen = make_prior(kind, form, trainable=True), make_prior(kind, form, trainable=False)
    for prior in (trainable, frozen):
        encoder = make_encoder()
        (prior.kl(mean, var, z, encoder).sum() + 0 * encoder.layers[0].weight.sum()).backward()
    assert all(p.requires_grad and p.grad.abs().sum() > 0 for p in trainable.parameters())
    assert all(not p.requires_grad and p.grad is None for p in frozen.parameters())


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", ["vamp", "gmm"])
@pytest.mark.parametrize("k", [1, 5000])
def test_one_and_many_components(kind, form, k):
    prior, encoder = make_prior(kind, form, k=k), make_encoder()
    mean, var, z = posterior()
    components = oracle_components(prior, encoder)
    expected = oracle.kl_mixture(z.numpy(), mean.numpy(), var.numpy(), *components, prior.logits.detach().numpy(), form)
    kl = prior.kl(mean, var, z, encoder)
    np.testing.assert_allclose(kl.detach(), expected, rtol=1e-9)
    kl.sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in prior.parameters())


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", ["vamp", "gmm"])
def test_order_of_components_does_not_matter(kind, form):
    prior, encoder = make_prior(kind, form), make_encoder()
    mean, var, z = posterior()
    before = prior.kl(mean, var, z, encoder)
    with torch.no_grad():
        for parameter in prior.parameters():
            parameter.copy_(parameter[torch.tensor([2, 0, 3, 1])].clone())
    torch.testing.assert_close(prior.kl(mean, var, z, encoder), before, rtol=1e-12, atol=1e-12)
    with torch.no_grad():  # whereas pairing components with other weights does matter
        prior.logits.copy_(prior.logits.flip(0).clone())
    assert not torch.allclose(prior.kl(mean, var, z, encoder), before)


@pytest.mark.parametrize("form", FORMS)
def test_far_from_all_components_the_divergence_is_finite(form):
    prior = make_prior("gmm", form)
    mean, var, z = posterior()
    assert prior.kl(mean, var, z + 1e4, make_encoder()).isfinite().all()


@pytest.mark.parametrize("prior", ["vamp", "gmm"])
def test_prior_starts_at_the_chosen_cells(make_cells, make_model, prior):
    cells = make_cells()
    model = make_model(cells, prior=prior)
    rows = torch.tensor([3, 17, 4, 29])
    model.init_prior(cells, rows, torch.Generator())
    mean, var = model.embed(cells, rows)
    components = model.prior.components(model.encoder)
    torch.testing.assert_close(components[0].detach(), mean)
    torch.testing.assert_close(components[1].detach(), var, rtol=1e-5, atol=1.1e-4)  # a mixture adds 1e-4 itself


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 40), st.integers(1, 17), st.integers(1, 7), st.floats(0, 1), st.sampled_from([1e-3, 1.0, 1e3]))
def test_divergence_written_by_hand_is_that_of_torchs_operations(n, n_dims, k, share, scale):
    """And its gradients; also where components are far from the cells."""
    shapes = [(n, n_dims)] * 3 + [(k, n_dims)] * 2 + [(k,)]
    mean, var, z, means, variances, logits = (draws(*shape, seed=i) for i, shape in enumerate(shapes))
    given_ = [mean, var.exp(), z * scale, means * scale, variances.exp(), logits]
    grad, results = draws(n, seed=9), []
    for by_hand in (True, False):
        *points, logits = (part.clone().requires_grad_() for part in given_)
        backend = cpu_backend if by_hand else torch_backend
        kl = backend.mixture_kl(*points, logits.log_softmax(0), share)
        results.append([kl.detach(), *torch.autograd.grad(kl, [*points, logits], grad)])
    for ours, expected in zip(*results, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-8, atol=1e-8 * max(1.0, scale**2))


def test_what_is_not_finite_reaches_the_divergence():
    mean, var, z = posterior()
    z[2, 1] = torch.nan
    kl = make_prior("gmm").kl(mean, var, z, make_encoder())
    assert kl.isnan().tolist() == [i == 2 for i in range(B)]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", ["vamp", "gmm"])
def test_samples_have_the_moments_of_the_mixture(kind, form):
    prior, encoder = make_prior(kind, form), make_encoder()
    z = prior.sample(200_000, encoder, torch.Generator().manual_seed(0)).numpy()
    means, variances = (part.detach().numpy() for part in prior.components(encoder))  # (K, L)
    w = prior.logits.detach().softmax(0).numpy()
    mean = w @ means
    covariance = (w[:, None] * (means - mean)).T @ (means - mean)  # between components
    if form == "dimension":  # a component for each dimension
        covariance = np.diag(np.diag(covariance))
    covariance += np.diag(w @ variances)
    error = 6 * np.sqrt(np.diag(covariance) / len(z))
    assert (np.abs(z.mean(0) - mean) < error).all()
    np.testing.assert_allclose(np.cov(z.T), covariance, atol=0.03 * np.diag(covariance).max())


def test_samples_without_a_mixture_are_standard_normal():
    prior = StandardNormal(ModelSettings(n_latent=L), G, C)
    z = prior.sample(100_000, make_encoder(), torch.Generator().manual_seed(0)).numpy()
    np.testing.assert_allclose(np.cov(z.T), np.eye(L), atol=0.03)
