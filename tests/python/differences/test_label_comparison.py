"""Comparison of one label: what must not change its result, and what it must not find."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sysvi.differences.label_comparison import compare_label

SYSTEM = np.array([0, 0, 0, 1, 1, 1])


def profiles(seed, n_genes=60, n_labels=5):
    """Mean expression and what one count is: profiles of 5 to 100 cells, one count a cell on average."""
    rng = np.random.default_rng(seed)
    cells = rng.integers(5, 100, (len(SYSTEM), n_labels))
    log_mean = rng.normal(size=(2, 1, n_genes))[SYSTEM] + rng.normal(size=n_genes)
    log_mean = log_mean + 0.2 * rng.normal(size=(len(SYSTEM), n_labels, n_genes))
    counts = rng.poisson(np.exp(log_mean) * cells[:, :, None])
    return counts / cells[:, :, None], 1 / cells


def assert_same(found, expected, names):
    for name, other in names.items():
        np.testing.assert_allclose(found[name], expected[other], rtol=1e-6, atol=1e-9, err_msg=name)


SAME = {name: name for name in ("effect", "model_effect", "p", "fdr", "marker_1", "marker_2", "marker_p", "marker_fdr")}


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 1000))
def test_neither_order_nor_units_matter(seed):
    """Of donors, of the other labels and of genes; twice the expression with twice as much for a count is the same."""
    mean, unit = profiles(seed)
    expected = compare_label(mean, mean, unit, SYSTEM)
    rng = np.random.default_rng(seed)
    rows, labels, genes = rng.permutation(6), np.r_[0, 1 + rng.permutation(4)], rng.permutation(60)
    some = np.ix_(rows, labels)
    assert_same(compare_label(mean[some], mean[some], unit[some], SYSTEM[rows]), expected, SAME)
    of_genes = {name: values[genes] for name, values in expected.items()}
    assert_same(compare_label(mean[:, :, genes], mean[:, :, genes], unit, SYSTEM), of_genes, SAME)
    assert_same(compare_label(4 * mean, 4 * mean, 4 * unit, SYSTEM), expected, SAME)
    swapped = compare_label(mean, mean, unit, 1 - SYSTEM)
    np.testing.assert_allclose(swapped["effect"], -expected["effect"], atol=1e-9)
    assert_same(swapped, expected, {"p": "p", "marker_1": "marker_2", "marker_2": "marker_1", "marker_p": "marker_p"})


def test_without_two_donors_of_a_system_there_are_effects_and_no_p_values():
    mean, unit = profiles(0)
    found = compare_label(mean[2:], mean[2:], unit[2:], SYSTEM[2:])
    for name, values in found.items():
        assert np.isnan(values).all() if name.endswith(("p", "fdr")) else np.isfinite(values).all()


def test_no_counts_are_no_effect():
    """Genes without counts are not tested, and profiles of few cells do not make them markers."""
    mean, unit = profiles(1)
    mean[:, :, :9] = 0
    found = compare_label(mean, mean, unit, SYSTEM)
    assert np.isnan(found["p"][:9]).all()
    for name in ("effect", "marker_1", "marker_2"):
        assert np.ptp(found[name][:9]) < 1e-9


def test_a_difference_of_one_label_is_not_found_in_the_others():
    """Its many counts must not draw the middle of three other labels towards it."""
    rng = np.random.default_rng(2)
    cells = np.full((6, 4), 50)
    log_mean = np.full((6, 4, 400), 1.0) + 0.1 * rng.normal(size=(6, 4, 400))
    log_mean[SYSTEM == 1, 1, :40] += 2
    mean = rng.poisson(np.exp(log_mean) * cells[:, :, None]) / cells[:, :, None]
    found = compare_label(mean, mean, 1 / cells, SYSTEM)
    assert (found["fdr"][:40] < 0.05).sum() <= 2
    there = [1, 0, 2, 3]
    found = compare_label(mean[:, there], mean[:, there], 1 / cells, SYSTEM)
    assert (found["fdr"][:40] < 0.05).all()
    assert found["effect"][:40].mean() == pytest.approx(2 / np.log(2), abs=0.3)


def test_rare_profiles_are_no_difference():
    """Equal expression, one system with a tenth of the cells of the label: p-values are not small too often."""
    small = []
    for seed in range(10):
        rng = np.random.default_rng(seed)
        cells = np.full((6, 5), 100)
        cells[SYSTEM == 1, 0] = 10
        log_mean = rng.normal(size=400) - 1 + 0.2 * rng.normal(size=(6, 5, 400))
        mean = rng.poisson(np.exp(log_mean) * cells[:, :, None]) / cells[:, :, None]
        p = compare_label(mean, mean, 1 / cells, SYSTEM)["p"]
        small.append((p[np.isfinite(p)] < 0.01).mean())
    assert np.mean(small) < 0.015
