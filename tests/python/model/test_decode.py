"""Decoding under other covariates, against the model of the specification in NumPy."""

import dataclasses

import numpy as np
import oracle
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from sysvi._core.settings import LIKELIHOODS
from sysvi.data.cells import Covariates
from sysvi.model.decode import Batches, decode
from sysvi.model.likelihoods import Gaussian

CPU = torch.device("cpu")


def latent(n, n_latent=3, seed=1):
    return torch.randn(n, n_latent, generator=torch.Generator().manual_seed(seed))


def expected(model, z, covariates, n_systems=2, n_categories=(4, 2)):
    """Decoded mean in float64, (n, G)."""
    p = oracle.arrays(model.state_dict())
    plain = Covariates(*(getattr(covariates, f.name).numpy() for f in dataclasses.fields(covariates)))
    c = oracle.covariate_code(p, plain, n_systems, n_categories)
    return oracle.decode(p, z.numpy().astype(np.float64), c, training=False)[0]


def with_batch(covariates, code):
    return dataclasses.replace(
        covariates, categorical=torch.stack([torch.as_tensor(code), covariates.categorical[:, 1]], 1)
    )


KINDS = [
    {},
    {"covariates_in_mean": False},
    {"covariates_in_hidden": False},
    {"embed_categorical_covariates": True},
    {"out_var_mode": "sample_feature", "n_layers": 1},
    {"prior": "gmm", "n_layers": 3},
    {"prior": "standard_normal"},
]


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_like_an_independent_implementation(make_cells, make_model, kind):
    cells = make_cells()
    model, z, genes = make_model(cells, **kind), latent(30), np.arange(12)
    found = decode(model, z, cells.covariates, genes)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected(model, z, cells.covariates), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_averages_are_those_of_the_means(make_cells, make_model, kind):
    """Each half of the cells has an average of its own; one batch has no weight in either."""
    cells = make_cells()
    model, z = make_model(cells, **kind), latent(30)
    weights = np.array([[0.25, 0.0, 0.75, 0.0], [0.5, 0.0, 0.2, 0.3]])
    choice = np.repeat([0, 1], 15)
    found = decode(model, z, cells.covariates, np.arange(12), Batches.from_weights(weights, choice, CPU))
    by_batch = [expected(model, z, with_batch(cells.covariates, np.full(30, b))) for b in range(4)]
    mean = np.einsum("nb,bng->ng", weights[choice], by_batch)
    np.testing.assert_allclose(found, mean, rtol=1e-4, atol=1e-5)


def test_means_that_are_not_linear_are_averaged_after_them(make_cells, make_model):
    class Squared(Gaussian):
        """A mean that is no linear function of the decoder's output."""

        linear_mean = None
        can_fuse = False

        def mean(self, h):
            return self.head(h).square()

    cells = make_cells()
    model, z = make_model(cells), latent(30)
    own = model.likelihood
    model.likelihood = Squared(model.settings, model.decoder.n_outputs, 12, torch.Generator())
    model.likelihood.load_state_dict(own.state_dict())
    weights = np.array([[0.5, 0.5, 0, 0]])
    found = decode(model, z, cells.covariates, np.arange(12), Batches.from_weights(weights, np.zeros(30, int), CPU))
    means = [expected(model, z, with_batch(cells.covariates, np.full(30, b))) ** 2 for b in (0, 1)]
    np.testing.assert_allclose(found, np.mean(means, axis=0), rtol=1e-4, atol=1e-5)
    assert isinstance(model.likelihood, nn.Module)
    assert "gaussian" in LIKELIHOODS.names


@settings(max_examples=25, deadline=None)
@given(size=st.integers(1, 40), order=st.permutations(range(12)), n_genes=st.integers(1, 12), seed=st.integers(0, 3))
def test_neither_other_genes_nor_row_blocks_count(make_cells, make_model, size, order, n_genes, seed):
    """A gene has the same bits whichever others are asked for; row blocks of other sizes round differently."""
    cells = make_cells()
    model, z = make_model(cells, seed=seed), latent(30, seed=seed)
    rng = np.random.default_rng(seed)
    choice = Batches.from_weights(rng.dirichlet(np.ones(4), 3), rng.integers(0, 3, 30), CPU)
    whole, genes = decode(model, z, cells.covariates, np.arange(12), choice), np.array(order[:n_genes])
    np.testing.assert_array_equal(decode(model, z, cells.covariates, genes, choice), whole[:, genes])
    part = decode(model, z, cells.covariates, genes, choice, size)
    np.testing.assert_allclose(part, whole[:, genes], rtol=1e-4, atol=1e-5)


def test_own_batches_give_the_bits_of_no_choice(make_cells, make_model):
    """Also beside cells that are averaged over more batches."""
    cells = make_cells()
    model, z, genes = make_model(cells), latent(30), np.arange(12)
    plain = decode(model, z, cells.covariates, genes)
    batch = cells.covariates.categorical[:, 0].numpy()
    weights = np.vstack([np.full((1, 4), 0.25), np.eye(4)])
    own = Batches.from_weights(weights, batch + 1, CPU)
    np.testing.assert_array_equal(decode(model, z, cells.covariates, genes, own), plain)
    some = np.where(np.arange(30) % 2, batch + 1, 0)
    mixed = decode(model, z, cells.covariates, genes, Batches.from_weights(weights, some, CPU))
    np.testing.assert_array_equal(mixed[1::2], plain[1::2])
    assert (mixed[::2] != plain[::2]).any()


@settings(max_examples=50, deadline=None)
@given(
    weights=st.lists(st.lists(st.sampled_from([0.0, 1.0, 2.0, 5.0]), min_size=4, max_size=4), min_size=1, max_size=5)
)
def test_every_weight_is_used_once(weights):
    weights = np.array([row if any(row) else [1.0, 0, 0, 0] for row in weights])
    weights /= weights.sum(axis=1, keepdims=True)
    choice = np.arange(len(weights))
    batches = Batches.from_weights(weights, choice, CPU)
    found = np.zeros_like(weights)
    for codes, weight in batches.of_rows(slice(None)):
        np.add.at(found, (choice, codes.numpy()), weight.numpy())
    np.testing.assert_allclose(found, weights, rtol=1e-6)


def test_no_cells(make_cells, make_model):
    cells = make_cells()
    none = cells.covariates.select(torch.zeros(0, dtype=torch.int64))
    assert decode(make_model(cells), latent(0), none, np.arange(12)).shape == (0, 12)
