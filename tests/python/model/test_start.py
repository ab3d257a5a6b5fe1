"""Training starts from a linear model of the expression (``initialisation="data"`` or ``"linear"``)."""

import numpy as np
import pytest
import torch

from sysvi._core.settings import ModelSettings
from sysvi.model.cvae import Model
from sysvi.model.networks import TrainingContext


def start(cells, seed=0, initialisation="data", **given):
    init = torch.Generator().manual_seed(seed)
    settings = ModelSettings(n_hidden=64, n_latent=5, initialisation=initialisation, **given)
    model = Model(settings, cells.n_genes, cells.n_systems, [4, 2], 1, init)
    model.start_at_data(cells, init)
    return model


@pytest.fixture(scope="module")
def cells(make_cells):
    return make_cells(n_cells=400, n_genes=30)


@pytest.mark.parametrize("embed", [False, True])
def test_the_effects_of_covariates_are_in_the_mean(cells, embed):
    """With h = 0, the mean of the likelihood is the linear prediction from the covariates."""
    model = start(cells, embed_categorical_covariates=embed, embedding_dim=6)
    c = model.code(cells.covariates)
    h = torch.cat([torch.zeros(len(c), 64), c], 1)
    predicted = model.likelihood.mean(h).detach().numpy()
    code, x = cells.covariates, cells.x.toarray().astype(np.float64)
    blocks = [np.eye(2)[code.system], np.eye(4)[code.categorical[:, 0]], np.eye(2)[code.categorical[:, 1]]]
    design = np.hstack([*blocks, code.continuous.numpy()])
    least_squares, *_ = np.linalg.lstsq(design, x - x.mean(0), rcond=None)
    np.testing.assert_allclose(predicted, x.mean(0) + design @ least_squares, atol=0.02)


def test_the_first_layer_does_not_see_the_covariates(cells):
    """Its input to the batch normalisation has the same mean in all systems and batches."""
    first = start(cells).encoder.layers[0]
    c = start(cells).code(cells.covariates)
    a = (torch.from_numpy(cells.x.toarray()) @ first.weight + c @ first.cov_weight).detach()
    spread = a.std(0)
    for codes in (cells.covariates.system, *cells.covariates.categorical.T):
        for code in codes.unique():
            assert ((a[codes == code].mean(0) - a.mean(0)).abs() < 0.05 * spread).all()


def test_the_first_layer_consists_of_principal_components(cells):
    first = start(cells).encoder.layers[0]
    axes = torch.from_numpy(cells.summary([4, 2]).axes.astype(np.float32))  # (G, k)
    outside = first.weight - axes @ (axes.T @ first.weight)
    assert outside.norm() < 1e-4 * first.weight.norm()


def test_the_reconstruction_starts_better_than_from_random_weights(cells):
    losses = {}
    for initialisation in ("linear", "data", "random"):
        init = torch.Generator().manual_seed(0)
        settings = ModelSettings(n_hidden=64, n_latent=5, initialisation=initialisation)
        model = Model(settings, cells.n_genes, cells.n_systems, [4, 2], 1, init)
        if initialisation != "random":
            model.start_at_data(cells, init)
        c, x = model.code(cells.covariates), torch.from_numpy(cells.x.toarray())
        mean, _ = model.encoder(x, c)
        losses[initialisation] = model.likelihood.nll(x, model.decoder(mean, c)).mean().item()
    assert losses["linear"] < losses["data"] < losses["random"]


def test_seeds_differ_and_repeat(cells):
    first, again, other = (start(cells, seed).state_dict() for seed in (0, 0, 1))
    for name in ("encoder.layers.0.weight", "likelihood.head.weight"):
        assert torch.equal(first[name], again[name])
        assert not torch.equal(first[name], other[name])


def test_without_covariates_in_the_mean(cells):
    model = start(cells, covariates_in_mean=False)
    assert model.likelihood.head.weight.shape == (30, 64)
    assert model.decoder(torch.zeros(3, 5), torch.zeros(3, model.code.width)).shape == (3, 64)


def test_variance_per_cell_and_gene(cells):
    model = start(cells, out_var_mode="sample_feature")
    x, c = torch.from_numpy(cells.x.toarray()), model.code(cells.covariates)
    assert torch.isfinite(model.likelihood.nll(x, model.decoder(torch.zeros(len(c), 5), c))).all()


# -- as probabilistic principal component analysis --------------------------------------------------------------------


def probabilistic_pca(cells, n_latent):
    """Posterior mean (n, L), variance (L,) and loadings (G, L) by Tipping and Bishop, effects of covariates removed."""
    code, x = cells.covariates, cells.x.toarray().astype(np.float64)
    blocks = [np.eye(2)[code.system], np.eye(4)[code.categorical[:, 0]], np.eye(2)[code.categorical[:, 1]]]
    design = np.hstack([*blocks, code.continuous.numpy()])
    centred = x - x.mean(0)
    rest = centred - design @ np.linalg.lstsq(design, centred, rcond=None)[0]
    values, axes = np.linalg.eigh(rest.T @ rest / len(x))
    order = np.argsort(-values)
    noise = values[order[n_latent:]].mean()
    loadings = axes[:, order[:n_latent]] * np.sqrt(values[order[:n_latent]] - noise)
    inverse = np.linalg.inv(loadings.T @ loadings + noise * np.eye(n_latent))
    return rest @ loadings @ inverse, noise * np.diag(inverse), loadings


@pytest.mark.parametrize("n_layers", [1, 2, 3])
def test_a_linear_start_is_probabilistic_pca(cells, n_layers):
    model = start(cells, initialisation="linear", n_layers=n_layers, dropout_rate=0.0)
    c, x = model.code(cells.covariates), torch.from_numpy(cells.x.toarray())
    context = TrainingContext(torch.Generator())  # batch normalisation with the statistics of these cells
    mean, variance = (part.detach().numpy() for part in model.encoder(x, c, context))
    expected, expected_variance, loadings = probabilistic_pca(cells, 5)
    sign = np.sign((mean * expected).sum(0))
    np.testing.assert_allclose(mean * sign, expected, atol=0.02)
    np.testing.assert_allclose(variance, np.broadcast_to(expected_variance, variance.shape), rtol=0.02)

    z = torch.randn(400, 5, generator=torch.Generator().manual_seed(1))
    z = (z - z.mean(0)) / z.std(0, unbiased=False)  # as the posterior: batch normalisation changes nothing
    predicted = model.likelihood.mean(model.decoder(z, c, context)).detach().numpy()
    at_zero = model.likelihood.mean(torch.cat([torch.zeros(400, 64), c], 1)).detach().numpy()
    np.testing.assert_allclose(predicted - at_zero, (z.numpy() * sign) @ loadings.T, atol=0.02)


def test_a_linear_start_leaves_its_residual_variance_to_the_genes(cells):
    model = start(cells, initialisation="linear")
    _, _, loadings = probabilistic_pca(cells, 5)
    variance = cells.summary([4, 2]).variance - np.square(loadings).sum(1)
    np.testing.assert_allclose(model.likelihood.variance(None).detach(), np.maximum(variance, 1e-3), rtol=0.02)


@pytest.mark.parametrize(("n_latent", "n_hidden", "carried"), [(5, 64, 5), (5, 6, 3), (40, 128, 29), (5, 1, 0)])
def test_a_linear_start_carries_as_many_dimensions_as_there_are(cells, n_latent, n_hidden, carried):
    """No more than half of the hidden units, and than there are components: 29 of 30 genes."""
    init = torch.Generator().manual_seed(0)
    settings = ModelSettings(n_hidden=n_hidden, n_latent=n_latent, initialisation="linear")
    model = Model(settings, cells.n_genes, cells.n_systems, [4, 2], 1, init)
    model.start_at_data(cells, init)
    c, x = model.code(cells.covariates), torch.from_numpy(cells.x.toarray())
    mean, variance = model.encoder(x, c, TrainingContext(torch.Generator()))
    assert (mean.std(0) > 0.05).sum() == carried
    assert torch.isfinite(variance).all()
    assert torch.isfinite(model.likelihood.nll(x, model.decoder(mean, c))).all()


@pytest.mark.parametrize("threads", [2, 3])
def test_prior_components_have_the_same_bits_whatever_the_number_of_threads(make_cells, make_model, threads):
    cells, before = make_cells(n_cells=200, n_genes=600), torch.get_num_threads()
    given = {"prior": "gmm", "n_hidden": 128, "n_prior_components": 5}
    try:
        torch.set_num_threads(1)
        expected = make_model(cells, **given).prior.state_dict()
        torch.set_num_threads(threads)
        found = make_model(cells, **given).prior.state_dict()
    finally:
        torch.set_num_threads(before)
    for name, value in expected.items():
        assert torch.equal(found[name], value), name
