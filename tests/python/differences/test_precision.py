"""Weights of profiles, against least squares written out and properties."""

import numpy as np
import pytest

from sysvi.differences.precision import contrast_weights, fit_donors_and_labels, precision_weights

SYSTEM = np.array([0, 0, 0, 1, 1])


def design(n_labels):
    """One column for each donor, and for each label in each system; rows by donor, then label."""
    columns = [np.outer(np.arange(5) == d, np.ones(n_labels)) for d in range(5)]
    columns += [np.outer(k == SYSTEM, np.arange(n_labels) == t) for k in (0, 1) for t in range(n_labels)]
    return np.stack([column.ravel() for column in columns], axis=1).astype(float)


@pytest.mark.parametrize("n_labels", [2, 4])
def test_fit_is_least_squares_of_each_gene(n_labels):
    y = np.random.default_rng(0).normal(size=(5, n_labels, 20))
    x = design(n_labels)
    expected = np.stack([x @ np.linalg.lstsq(x, y[:, :, g].ravel(), rcond=None)[0] for g in range(20)], axis=1)
    np.testing.assert_allclose(fit_donors_and_labels(y, SYSTEM).reshape(-1, 20), expected, atol=1e-12)


def noisy(seed, between, of_counts, n_genes=3000):
    """Log expression of normal noise with variance between + of_counts / count, and what one count is."""
    rng = np.random.default_rng(seed)
    unit = 2 ** rng.uniform(-8, -3, (5, 4))
    level = rng.normal(size=(2, 4, n_genes))[SYSTEM] + 0.3 * rng.normal(size=(5, 1, n_genes))
    variance = between + of_counts * unit[:, :, None] / np.exp2(level)
    return level + np.sqrt(variance) * rng.normal(size=level.shape), unit, variance


@pytest.mark.parametrize(("between", "of_counts"), [(0.2, 0.5), (0.05, 1.0), (0.3, 0.0)])
def test_variances_are_recovered_from_their_own_noise(between, of_counts):
    y, unit, variance = noisy(1, between, of_counts)
    found = 1 / precision_weights(y, unit, SYSTEM, np.full(y.shape[2], True))
    of_profile = np.median(np.log(found / variance), axis=2)  # fitted counts are noisy themselves
    np.testing.assert_allclose(of_profile, 0, atol=0.35)


def test_of_equal_counts_all_weigh_the_same_and_more_counts_more():
    y, unit, _ = noisy(2, 0.1, 1.0)
    usual = np.full(y.shape[2], True)
    weights = precision_weights(y, unit, SYSTEM, usual)
    count = np.exp2(fit_donors_and_labels(y, SYSTEM)) / unit[:, :, None]
    order = np.argsort(count.ravel())
    assert (np.diff(weights.ravel()[order]) >= -1e-12).all()


def test_what_does_not_change_weights():
    """Neither the order of donors, labels and genes nor other units of expression do."""
    y, unit, _ = noisy(3, 0.1, 1.0, 300)
    usual = np.arange(300) < 200
    weights = precision_weights(y, unit, SYSTEM, usual)
    rng = np.random.default_rng(4)
    rows, labels, genes = (rng.permutation(n) for n in y.shape)
    again = precision_weights(y[np.ix_(rows, labels, genes)], unit[np.ix_(rows, labels)], SYSTEM[rows], usual[genes])
    np.testing.assert_allclose(again, weights[np.ix_(rows, labels, genes)], rtol=1e-6)
    np.testing.assert_allclose(precision_weights(y, unit, 1 - SYSTEM, usual), weights, rtol=1e-6)
    np.testing.assert_allclose(precision_weights(y + 3, unit * 8, SYSTEM, usual), weights, rtol=1e-6)
    other = y.copy()
    other[:, :, ~usual] *= 2  # genes that are not used for the fit
    np.testing.assert_allclose(precision_weights(other, unit, SYSTEM, usual)[:, :, usual], weights[:, :, usual])


def test_without_noise_all_weights_are_one():
    y = np.zeros((5, 4, 10)) + np.arange(10)
    np.testing.assert_array_equal(precision_weights(y, np.ones((5, 4)), SYSTEM, np.full(10, True)), 1)


def test_weights_of_contrasts_are_those_of_a_label_minus_the_mean_of_others():
    rng = np.random.default_rng(5)
    weights = rng.uniform(0.5, 4, (1, 4, 1))
    noise = rng.normal(size=(200_000, 4)) / np.sqrt(weights[0, :, 0])
    contrast = noise[:, 0] - noise[:, 1:].mean(axis=1)
    assert 1 / contrast_weights(weights).item() == pytest.approx(contrast.var(), rel=0.02)
