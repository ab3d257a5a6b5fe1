"""Statistics of differences between samples of two groups, against formulae written out gene by gene."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from sysvi.api.expression_change import call_genes, describe_change, describe_order


@pytest.fixture
def samples():
    rng = np.random.default_rng(0)
    return rng.normal(1, 0.7, (301, 6)).astype(np.float32), rng.normal(0.8, 0.4, (301, 6)).astype(np.float32)


@pytest.mark.parametrize("pseudocounts", [1.0, 0.3])
def test_every_number_of_a_change_by_formulae(samples, pseudocounts):
    first, second = samples
    assert (first < 0).any()
    found = describe_change(*samples, delta=0.4, test_mode="three", pseudocounts=pseudocounts, levels=[0.8, 0.95])
    two = describe_change(*samples, delta=0.4, test_mode="two", pseudocounts=pseudocounts)
    for g in range(6):
        x, y = (np.exp(np.maximum(values[:, g].astype(float), 0)) - 1 for values in samples)
        change = [np.log2((a + pseudocounts) / (b + pseudocounts)) for a, b in zip(x, y, strict=True)]
        rises, falls = np.mean([c >= 0.4 for c in change]), np.mean([c < -0.4 for c in change])
        expected = {
            "proba_de": max(rises, falls),
            "proba_not_de": 1 - max(rises, falls),
            "bayes_factor": np.log(max(rises, falls) / (1 - max(rises, falls))),
            "scale1": first[:, g].mean(),
            "scale2": second[:, g].mean(),
            "pseudocounts": pseudocounts,
            "delta": 0.4,
            "lfc_mean": np.mean(change),
            "lfc_median": sorted(change)[150],
            "lfc_std": np.sqrt(np.mean(np.square(change - np.mean(change)))),
            "lfc_min": min(change),
            "lfc_max": max(change),
        }
        for level in (0.8, 0.95):
            inside = int(level * 301)
            ordered = sorted(change)
            width, low = min((ordered[i + inside] - ordered[i], ordered[i]) for i in range(301 - inside))
            expected |= {
                f"lfc_confidence_interval_{level}_min": low,
                f"lfc_confidence_interval_{level}_max": low + width,
            }
        assert list(found) == list(expected)
        for name, value in expected.items():
            assert found[name][g] == pytest.approx(value, rel=1e-4, abs=1e-4), name
        assert two["proba_de"][g] == pytest.approx(rises + falls)


def test_with_a_pseudocount_of_one_the_change_is_the_difference_of_log_values(samples):
    first, second = (np.abs(values) for values in samples)
    found = describe_change(first, second, delta=0, test_mode="three", pseudocounts=1)
    np.testing.assert_allclose(found["lfc_mean"], (first - second).mean(axis=0) / np.log(2), rtol=1e-4, atol=1e-6)


def test_exchanged_groups_change_the_sign(samples):
    one, other = (
        describe_change(*pair, delta=0.3, test_mode="three", pseudocounts=1) for pair in (samples, samples[::-1])
    )
    np.testing.assert_allclose(one["lfc_mean"], -other["lfc_mean"], rtol=1e-5)
    np.testing.assert_allclose(one["proba_de"], other["proba_de"])
    forth, back = describe_order(*samples), describe_order(*samples[::-1])
    np.testing.assert_allclose(forth["proba_m1"], back["proba_m2"])
    np.testing.assert_allclose(
        forth["proba_m1"], [(a > b).mean() for a, b in zip(*(s.T for s in samples), strict=True)]
    )
    np.testing.assert_allclose(forth["bayes_factor"], -back["bayes_factor"], atol=1e-6)


@given(arrays(float, st.integers(1, 40), elements=st.floats(0, 1)), st.floats(0.001, 0.999))
@settings(max_examples=80, deadline=None)
def test_called_genes_are_the_most_that_keep_the_expected_rate(proba, target):
    called = call_genes(proba, target)
    if called.any():
        assert np.mean(1 - proba[called]) <= target + 1e-9
        assert proba[called].min() >= proba[~called].max(initial=0)
    if not called.all():  # one more would be too many
        more = np.append(proba[called], proba[~called].max())
        assert np.mean(1 - more) > target - 1e-9


def test_the_rate_is_reached_where_probabilities_are_true():
    """Genes that are changed with the probabilities that are given: the share of wrong calls is the target."""
    rng = np.random.default_rng(3)
    wrong = []
    for _ in range(200):
        proba = rng.beta(0.3, 0.6, 1000)
        changed = rng.random(1000) < proba
        called = call_genes(proba, 0.1)
        wrong.append(np.mean(~changed[called]))
    assert np.mean(wrong) == pytest.approx(0.1, abs=0.01)
