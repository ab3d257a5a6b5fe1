"""Profiles of donors and contrasts of them, against loops and properties."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from sysvi.differences.profiles import choose_others, donor_profiles, marker_contrast, specific_contrast, testable

testable.__test__ = False  # pytest takes it for a test
SYSTEM = np.array([0, 0, 0, 1, 1])


@pytest.fixture
def y():
    """Log expression of 5 donors, a label and four others, 200 genes."""
    return np.random.default_rng(0).normal(size=(5, 5, 200))


def all_genes(y):
    return np.ones(y.shape[2], bool)


def test_profiles_are_means_of_cells():
    rng = np.random.default_rng(1)
    counts = rng.poisson(0.7, (60, 9))
    counts[5] = 0
    depth = rng.uniform(50, 200, 60)
    values = counts / depth[:, None] * 1e4
    donor, label = rng.integers(0, 3, 60), rng.integers(-1, 2, 60)
    donor[label == 1] = np.minimum(donor[label == 1], 1)  # donor 2 has no cells of label 1
    found = donor_profiles(sparse.csr_matrix(np.log1p(values)), donor, label)
    smallest = np.where(values > 0, values, np.inf).min(axis=1)
    for d in range(3):
        for t in range(2):
            cells = (donor == d) & (label == t)
            assert found.n_cells[d, t] == cells.sum()
            if not cells.any():
                assert (d, t) == (2, 1)
                np.testing.assert_array_equal(found.mean[d, t], 0)
                assert found.unit[d, t] == np.inf
                continue
            expected = pd.DataFrame(values[cells]).mean().to_numpy()
            np.testing.assert_allclose(found.mean[d, t], expected, rtol=1e-9)
            assert found.unit[d, t] == pytest.approx(np.median(smallest[cells]) / cells.sum())


def test_contrasts_by_loops(y):
    system = SYSTEM
    specific, marker = specific_contrast(y, system, all_genes(y)), marker_contrast(y, all_genes(y))
    expected_specific, expected_marker = np.empty((2, 5, 200))
    for d in range(5):
        for g in range(200):

            def deviation(t, d=d, g=g):
                means = [np.mean([y[e, t, g] for e in range(5) if system[e] == k]) for k in (0, 1)]
                return y[d, t, g] - sum(means) / 2

            expected_specific[d, g] = deviation(0) - np.median([deviation(t) for t in range(1, 5)])
            expected_marker[d, g] = y[d, 0, g] - np.mean([y[d, t, g] for t in range(1, 5)])
        expected_specific[d] -= np.median(expected_specific[d])
        expected_marker[d] -= np.median(expected_marker[d])
    np.testing.assert_allclose(specific, expected_specific, atol=1e-12)
    np.testing.assert_allclose(marker, expected_marker, atol=1e-12)


def effect(y, system=SYSTEM):
    contrast = specific_contrast(y, system, all_genes(y))
    return contrast[system == 1].mean(axis=0) - contrast[system == 0].mean(axis=0)


def test_what_differs_in_all_labels_is_left_out(y):
    """Neither effects of a system, a donor or a label change a contrast, nor the depth of a profile."""
    rng = np.random.default_rng(2)
    shifted = y + rng.normal(size=(2, 1, 200))[SYSTEM] + rng.normal(size=(5, 1, 200))
    shifted += rng.normal(size=(1, 5, 200)) + rng.normal(size=(5, 5, 1))
    of_system = rng.normal(size=(2, 1, 200))[SYSTEM]
    np.testing.assert_allclose(effect(y + of_system), effect(y), atol=1e-9)
    np.testing.assert_allclose(effect(y + rng.normal(size=(1, 5, 200))), effect(y), atol=1e-9)
    depth = np.zeros((5, 5, 1))
    depth[:, 0] = rng.normal(size=(5, 1))
    np.testing.assert_allclose(effect(y + depth), effect(y), atol=1e-9)
    same = np.zeros_like(y)
    np.testing.assert_allclose(effect(same + (shifted - y)), 0, atol=1e-9)


def test_a_difference_of_one_label_is_seen_there_and_not_in_others():
    y = np.random.default_rng(3).normal(scale=0.01, size=(5, 5, 200))
    y[SYSTEM == 1, 0, 7] += 3
    assert effect(y)[7] == pytest.approx(3, abs=0.1)
    assert np.abs(np.delete(effect(y), 7)).max() < 0.1
    assert abs(effect(y[:, [1, 0, 2, 3, 4]])[7]) < 0.1  # the mean would give -0.75
    swapped = np.array([1, 1, 1, 0, 0])
    np.testing.assert_allclose(effect(y, swapped), -effect(y), atol=1e-9)


def test_genes_that_rise_do_not_lower_the_others(y):
    """Where shares of all counts are compared, 40 genes that rise by far lower all others alike."""
    usual = np.zeros_like(y)
    risen = usual.copy()
    risen[SYSTEM == 1, 0, :40] += 3
    risen[SYSTEM == 1, 0] -= 1.3
    np.testing.assert_allclose(effect(risen), np.r_[np.full(40, 3.0), np.zeros(160)], atol=1e-9)


@settings(deadline=None, max_examples=100)
@given(st.lists(st.lists(st.booleans(), min_size=5, max_size=5), min_size=4, max_size=8), st.integers(0, 4))
def test_donors_have_all_labels_and_no_better_choice_exists(has, label):
    has, system = np.array(has), np.arange(len(has)) % 2
    donors, others = choose_others(has, system, label)
    assert label not in others
    assert has[np.ix_(donors, [label, *others])].all()

    def rank(rows, k):
        n1, n2 = (int((system[rows] == code).sum()) for code in (0, 1))
        if not k or not n1 or not n2:
            return (1, 0.0)
        return (-min(k, 3) if min(n1, n2) > 1 else 0, (1 / n1 + 1 / n2) * (1 + 1 / k))

    found = rank(donors, len(others))
    if not len(others):
        assert not len(donors)
    # of the labels by number of donors, no other number of them does better
    order = sorted((t for t in range(5) if t != label), key=lambda t: -(has[:, t] & has[:, label]).sum())
    for k in range(1, 5):
        rows = np.flatnonzero(has[:, [label, *order[:k]]].all(axis=1))
        assert found <= rank(rows, k) or found == pytest.approx(rank(rows, k))


def test_a_donor_without_the_other_labels_is_left_out():
    has = np.ones((7, 6), bool)
    has[0, 1:] = False  # a donor of sorted cells
    donors, others = choose_others(has, np.array([0, 0, 0, 0, 1, 1, 1]), 0)
    assert donors.tolist() == [1, 2, 3, 4, 5, 6]
    assert others.tolist() == [1, 2, 3, 4, 5]


def test_genes_with_enough_counts():
    """Counts by system (two donors each) of the label and of three other labels."""
    cases = [
        # label in both systems, others in both systems, difference tested, marker tested
        ((4, 4), (4, 4), True, True),
        ((4, 4), (0, 0), True, True),
        ((4, 2), (0, 0), False, False),
        ((4, 0), (4, 4), True, False),  # the second system would have 4, if it did as in other labels
        ((4, 0), (8, 4), False, False),  # it would have 2
        ((4, 0), (4, 0), False, False),  # the second system lacks the gene altogether
        ((0, 0), (9, 9), False, False),
    ]
    mean = np.zeros((4, 4, len(cases)))
    for i, (in_label, in_others, _, _) in enumerate(cases):
        for k in (0, 1):
            mean[2 * k : 2 * k + 2, 0, i] = in_label[k]
            mean[2 * k : 2 * k + 2, 1:, i] = in_others[k]
    system = np.array([0, 0, 1, 1])
    for unit in (1.0, 0.25):  # what one count is does not matter
        difference, marker = testable(mean * unit, np.full((4, 4), unit), system)
        assert difference.tolist() == [case[2] for case in cases]
        assert marker.tolist() == [case[3] for case in cases]


def test_genes_do_not_depend_on_the_order_of_systems(y):
    mean, unit = np.exp(y), np.ones((5, 5))
    np.testing.assert_array_equal(testable(mean, unit, SYSTEM), testable(mean, unit, 1 - SYSTEM))
