"""Shifts of systems whose composition differs, on points with known places, and the linear model that takes them."""

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from sysvi.data.composition import MIN_CELLS, composition_shifts
from sysvi.data.summary import align_systems, summarise

TYPES = np.array([[0, 0, 0, 0], [9, 0, 1, 0], [0, 8, 0, 2], [5, 5, 7, 0], [-4, 6, -3, 5]], float)
UNEQUAL = [[0.5, 0.3, 0.1, 0.05, 0.05], [0.05, 0.1, 0.15, 0.3, 0.4]]


def cells(shares, n=600, seed=0, types=TYPES):
    """Components of cells of several systems, each with mean 0, and the true shifts onto the first system."""
    rng = np.random.default_rng(seed)
    label = [rng.choice(len(types), n - 10 * s, p=share) for s, share in enumerate(shares)]  # the first is the largest
    z = [types[each] + rng.standard_normal((len(each), types.shape[1])) for each in label]
    means = np.stack([each.mean(axis=0) for each in z])
    system = np.repeat(np.arange(len(z)), [len(each) for each in z])
    return np.concatenate(z) - means[system], system, means - means[0]


@pytest.mark.parametrize("seed", range(4))
def test_types_lie_on_each_other_whatever_their_frequency(seed):
    z, system, expected = cells(UNEQUAL, seed=seed)
    assert np.linalg.norm(expected[1]) > 4
    np.testing.assert_allclose(composition_shifts(z, system, 2), expected, atol=0.6)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 1000), st.lists(st.floats(0.05, 1), min_size=5, max_size=5))
def test_a_shift_is_right_or_none(seed, frequency):
    z, system, expected = cells([UNEQUAL[0], np.divide(frequency, sum(frequency))], seed=seed)
    shifts = composition_shifts(z, system, 2)
    assert not shifts.any() or np.abs(shifts - expected).max() < 0.6


def test_several_systems_are_shifted_onto_the_largest():
    z, system, expected = cells([*UNEQUAL, [0.1, 0.1, 0.6, 0.1, 0.1]])
    np.testing.assert_allclose(composition_shifts(z, system, 3), expected, atol=0.6)


def test_types_of_one_system_do_not_count():
    z, system, expected = cells([[0.4, 0.3, 0.3, 0, 0], [0.15, 0.2, 0.25, 0.4, 0]])
    np.testing.assert_allclose(composition_shifts(z, system, 2), expected, atol=0.6)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 1000))
def test_systems_of_equal_composition_stay_at_their_means(seed):
    z, system, _ = cells([UNEQUAL[0]] * 2, seed=seed)
    assert not composition_shifts(z, system, 2).any()


def test_a_shift_that_is_not_the_only_one_is_not_taken():
    """Types on a line, at equal distances: the three of a system fit those of the other in several ways."""
    types = np.arange(5)[:, None] * np.array([8.0, 0, 0, 0])
    z, system, _ = cells([[0.6, 0.2, 0.2, 0, 0], [0, 0, 0.2, 0.2, 0.6]], types=types)
    assert not composition_shifts(z, system, 2).any()


def test_a_long_shift_is_not_taken():
    z, system, expected = cells([[0.97, 0.03], [0.03, 0.97]], types=np.array([[0.0, 0, 0, 0], [12, 0, 0, 0]]))
    assert np.linalg.norm(expected[1]) > 10
    assert not composition_shifts(z, system, 2).any()


def test_systems_without_common_types_stay_at_their_means():
    z, system, _ = cells([[0.5, 0.5, 0, 0, 0], [0, 0, 0.4, 0.3, 0.3]])
    assert not composition_shifts(z, system, 2).any()


def test_a_system_of_few_cells_stays_at_its_mean():
    z, system, _ = cells(UNEQUAL)
    kept = np.r_[np.flatnonzero(system == 0), np.flatnonzero(system == 1)[: MIN_CELLS - 1]]
    assert not composition_shifts(z[kept], system[kept], 2).any()


@pytest.mark.parametrize("z", [np.zeros((300, 3)), np.empty((300, 0)), np.ones((300, 1))])
def test_cells_in_one_place_stay(z):
    shifts = composition_shifts(z, np.arange(300) % 2, 3)
    assert shifts.shape == (3, z.shape[1])
    assert not shifts.any()


def test_the_unit_and_the_axes_do_not_matter():
    z, system, _ = cells(UNEQUAL)
    rotation, _ = np.linalg.qr(np.random.default_rng(1).standard_normal((4, 4)))
    shifts = composition_shifts(z, system, 2)
    assert shifts.any()
    np.testing.assert_allclose(composition_shifts(1000 * z @ rotation, system, 2), 1000 * shifts @ rotation, rtol=1e-6)


@pytest.fixture(scope="module")
def expression():
    """Cells of two systems of unequal composition, each of two batches: expression, one-hot design and system."""
    rng = np.random.default_rng(0)
    z, system, _ = cells(UNEQUAL)
    batch = 2 * system + rng.integers(0, 2, len(z))
    x = (
        z @ rng.standard_normal((4, 40))
        + rng.standard_normal((2, 40))[system]
        + 0.3 * rng.standard_normal((len(z), 40))
    )
    x = sp.csr_matrix(np.maximum(x + 5, 0).astype(np.float32))
    return x, np.hstack([np.eye(2)[system], np.eye(4)[batch]]), system


def test_the_linear_model_after_the_shift_equals_the_dense_computation(expression):
    """What is no longer an effect of the systems is in the components and in the variance of the genes."""
    x, design, system = expression
    before = summarise(x, design)
    after = align_systems(before, x, design, 2)
    moved = after.effects - before.effects
    assert np.abs(moved[:2]).max() > 0.1
    assert not moved[2:].any()
    np.testing.assert_array_equal(after.mean, before.mean)
    share = np.bincount(system) / len(system)
    np.testing.assert_allclose(share @ moved[:2], 0, atol=1e-10)

    residuals = x.toarray().astype(np.float64) - after.mean - design @ after.effects
    tolerance = {"rtol": 1e-3, "atol": 1e-3}  # the ridge leaves each system a small mean
    np.testing.assert_allclose(after.variance, np.square(residuals).mean(axis=0), **tolerance)
    scores = residuals @ after.axes
    np.testing.assert_allclose(after.axes.T @ after.axes, np.eye(len(after.sd)), atol=1e-8)
    np.testing.assert_allclose(scores.T @ scores / len(scores), np.diag(after.sd**2), **tolerance)
    assert (np.diff(after.sd) <= 0).all()
    np.testing.assert_allclose(after.components(x, design, 3), scores[:, :3], atol=1e-8)


def test_types_of_different_frequency_lie_on_each_other_in_the_components(expression):
    x, design, system = expression
    before = summarise(x, design)
    after = align_systems(before, x, design, 2)

    def distance_of_nearest(components):
        """Distance to the nearest cell of the other system, relative to the nearest 30th of the own system."""
        a, b = components[system == 0], components[system == 1]
        other = np.linalg.norm(a[:, None] - b, axis=2).min(axis=1)
        own = np.sort(np.linalg.norm(a[:, None] - a, axis=2), axis=1)[:, 30]
        return np.median(other / own)

    distances = [distance_of_nearest(each.components(x, design, 4)) for each in (before, after)]
    assert distances[1] < 0.7 * distances[0]


def test_without_a_clear_shift_the_linear_model_is_as_before(expression):
    x, _, _ = expression
    design = np.eye(2)[np.random.default_rng(0).integers(0, 2, x.shape[0])]
    summary = summarise(x, design)
    assert align_systems(summary, x, design, 2) is summary
