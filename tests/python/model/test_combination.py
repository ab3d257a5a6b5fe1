"""Combining the embeddings of several models, compared with scikit-learn's principal components."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import pdist
from scipy.stats import ortho_group, special_ortho_group
from sklearn.decomposition import PCA
from threadpoolctl import threadpool_limits

from sysvi.model.combination import combine

some = settings(max_examples=30, deadline=None)


def noisy_copies(n_members, n_cells=60, n_latent=4, noise=0.4, seed=0):
    """Embeddings that share a structure of unequal variances and have noise of their own."""
    rng = np.random.default_rng(seed)
    shared = rng.normal(size=(n_cells, n_latent)) * np.arange(n_latent, 0, -1)
    return [shared + noise * rng.normal(size=shared.shape) for _ in range(n_members)]


def transformed(z, seed, *, reflect=False):
    """Points rotated, moved and scaled at random, and mirrored if asked for."""
    rng = np.random.default_rng(seed)
    n_latent = z.shape[1]
    rotation = special_ortho_group.rvs(n_latent, random_state=rng) if n_latent > 1 else np.eye(1)
    if reflect:
        rotation = rotation @ np.diag([-1.0, *np.ones(n_latent - 1)])
    return rng.uniform(0.1, 10) * z @ rotation + 20 * rng.normal(size=n_latent)


def up_to_sign(z, like):
    """The dimensions of z with the signs that bring them nearest to those of another embedding."""
    return z * np.where((z * like).sum(axis=0) < 0, -1, 1)


def norm(z):
    """Root of the mean squared distance to the centre."""
    return np.sqrt(np.square(z - z.mean(axis=0)).sum(axis=1).mean())


def standardised(z):
    return (z - z.mean(axis=0)) / norm(z)


def combined(embeddings):
    return combine(embeddings).apply(embeddings)


# -- what it computes -------------------------------------------------------------------------------------------------


@some
@given(seed=st.integers(0, 10_000), n_members=st.integers(2, 5), noise=st.floats(0.01, 3))
def test_principal_components_of_all_members_side_by_side(seed, n_members, noise):
    given_ = [transformed(z, seed + i) for i, z in enumerate(noisy_copies(n_members, noise=noise, seed=seed))]
    found = combined(given_)
    size = np.mean([norm(z) for z in given_])
    side_by_side = size / np.sqrt(n_members) * np.hstack([standardised(z) for z in given_])
    expected = PCA(4).fit_transform(side_by_side)
    np.testing.assert_allclose(up_to_sign(found, expected), expected, atol=1e-6 * size)


def test_squared_distances_are_the_mean_of_those_in_the_members():
    """If members differ by rotations and scales only, no component is left out."""
    [z] = noisy_copies(1)
    given_ = [z @ ortho_group.rvs(4, random_state=i) for i in range(3)]
    np.testing.assert_allclose(pdist(combined(given_)), pdist(z), rtol=1e-9)


def test_a_group_stays_apart_if_one_member_of_several_puts_it_elsewhere():
    """In the mean of rotated members, the distance of two groups falls with each that merges them; here, not below."""
    rng = np.random.default_rng(0)
    groups = np.repeat([0, 1], 50)
    apart, merged = (3 * np.outer(groups * gap, [1, 0]) + 0.3 * rng.standard_normal((100, 2)) for gap in (1, 0))
    merged[:, 1] += rng.standard_normal(100)
    z = combined([apart, apart, apart, merged])
    between = np.linalg.norm(z[groups == 0].mean(0) - z[groups == 1].mean(0))
    assert between > 3 * norm(z[groups == 0])


@some
@given(seed=st.integers(0, 10_000), n_members=st.integers(2, 5))
def test_dimensions_are_uncorrelated_in_order_of_variance(seed, n_members):
    z = combined([transformed(z, seed + i) for i, z in enumerate(noisy_copies(n_members, seed=seed))])
    covariance = np.cov(z.T)
    variance = np.diag(covariance)
    assert (np.diff(variance) <= 0).all()
    np.testing.assert_allclose(covariance, np.diag(variance), atol=1e-8 * variance[0])
    np.testing.assert_allclose(z.mean(axis=0), 0, atol=1e-8 * np.sqrt(variance[0]))


# -- what makes no difference -----------------------------------------------------------------------------------------


@some
@given(seed=st.integers(0, 10_000), reflect=st.booleans())
def test_rotation_reflection_translation_and_scale_of_members_make_no_difference(seed, reflect):
    plain = noisy_copies(3, seed=seed)
    moved = [transformed(z, seed + i, reflect=reflect) for i, z in enumerate(plain)]
    expected, found = (standardised(combined(given_)) for given_ in (plain, moved))
    np.testing.assert_allclose(up_to_sign(found, expected), expected, atol=1e-6)


@some
@given(seed=st.integers(0, 10_000), order=st.permutations(range(4)))
def test_the_order_of_members_makes_no_difference(seed, order):
    given_ = [transformed(z, seed + i) for i, z in enumerate(noisy_copies(4, seed=seed))]
    expected, found = combined(given_), combined([given_[i] for i in order])
    np.testing.assert_allclose(up_to_sign(found, expected), expected, atol=1e-6 * np.abs(expected).max())


def test_copies_give_the_embedding_in_its_principal_axes():
    [z] = noisy_copies(1)
    found = combined([transformed(z, i, reflect=i == 1) for i in range(3)])
    left, values, _ = np.linalg.svd(z - z.mean(axis=0), full_matrices=False)
    expected = standardised(left * values)
    np.testing.assert_allclose(up_to_sign(standardised(found), expected), expected, atol=1e-9)


def test_any_number_of_threads_gives_the_same_bits():
    given_ = [transformed(z, i).astype(np.float32) for i, z in enumerate(noisy_copies(4, n_cells=5000, n_latent=15))]
    found = []
    for n_threads in (1, 2, 3):
        with threadpool_limits(n_threads):
            combination = combine(given_)
        found.append((combination.matrix.tobytes(), combination.apply(given_).tobytes()))
    assert found[0] == found[1] == found[2]


# -- new cells and degenerate embeddings ------------------------------------------------------------------------------


def test_other_cells_are_mapped_alike():
    given_ = [transformed(z, i) for i, z in enumerate(noisy_copies(3))]
    combination = combine(given_)
    rows = [5, 3, 50]
    np.testing.assert_allclose(combination.apply([z[rows] for z in given_]), combination.apply(given_)[rows])
    with pytest.raises(ValueError, match="zip"):
        combination.apply(given_[:2])


def test_one_latent_dimension():
    z = np.random.default_rng(0).normal(size=(30, 1))
    found = combined([z, -3 * z + 1, z - 7])
    assert abs(np.corrcoef(found.ravel(), z.ravel())[0, 1]) == pytest.approx(1)


@pytest.mark.parametrize("value", [0.0, 0.1])
def test_a_constant_embedding_adds_nothing(value):
    """0.1 has no exact float, so that subtracting the mean leaves rounding errors, which must not be scaled up."""
    [z] = noisy_copies(1)
    constant = np.full_like(z, value)
    combination = combine([z, constant, constant])
    found = combination.apply([z, constant, constant])
    np.testing.assert_array_equal(combination.apply([z, constant + np.arange(4), constant]), found)
    np.testing.assert_allclose(pdist(standardised(found)), pdist(standardised(z)), rtol=1e-9)


def test_constant_embeddings_alone_give_zeros():
    combination = combine([np.full((20, 3), 0.1), np.full((20, 3), 5.0)])
    np.testing.assert_array_equal(combination.apply([np.full((20, 3), 0.1), np.full((20, 3), 7.0)]), np.zeros((20, 3)))


def test_dimensions_that_no_member_uses_stay_at_zero():
    shared = np.random.default_rng(0).normal(size=(50, 2)) * [3, 1]
    z = combined([np.hstack([shared, np.zeros((50, 2))]) @ ortho_group.rvs(4, random_state=i) for i in range(3)])
    assert np.abs(z[:, 2:]).max() < 1e-6
    assert z[:, :2].std(axis=0).min() > 0.5


@pytest.mark.parametrize("n_cells", [2, 3])
def test_fewer_cells_than_dimensions(n_cells):
    z = np.random.default_rng(0).normal(size=(n_cells, 6))
    found = combined([transformed(z, i) for i in range(3)])
    np.testing.assert_allclose(pdist(standardised(found)), pdist(standardised(z)), rtol=1e-7)


@pytest.mark.parametrize("n_members", [1, 3])
def test_a_displacement_is_spread_by_least_squares(n_members):
    embeddings = noisy_copies(n_members)
    combination = combine(embeddings)
    displacement = np.random.default_rng(4).standard_normal((7, 4))
    stacked = np.vstack(list(combination.matrix))  # (M·L, L)
    expected = np.linalg.lstsq(stacked.T, displacement.T, rcond=None)[0].T  # the solution of least norm
    found = combination.spread(displacement)
    assert [part.shape for part in found] == [(7, 4)] * n_members
    np.testing.assert_allclose(np.hstack(found), expected, atol=1e-12)
    there = [z[:7] + part for z, part in zip(embeddings, found, strict=True)]
    before = combination.apply([z[:7] for z in embeddings])
    np.testing.assert_allclose(combination.apply(there), before + displacement, atol=1e-12)


def test_nothing_is_spread_to_a_constant_embedding():
    z = noisy_copies(1)[0]
    found = combine([z, np.ones_like(z)]).spread(np.ones((2, 4)))
    np.testing.assert_allclose(found[1], 0, atol=1e-12)
