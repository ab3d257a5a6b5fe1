import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize
from sklearn.metrics import log_loss

from sysvi.mapping.calibration import apply_temperature, calibration_error, fit_temperature, reliability


def probabilities(n=400, n_labels=4, seed=0):
    return np.random.default_rng(seed).dirichlet(np.full(n_labels, 0.5), n) * 0.99 + 0.01 / n_labels


def drawn(probability, seed=1):
    """A right label for each cell, drawn with these probabilities."""
    rng = np.random.default_rng(seed)
    return np.array([rng.choice(len(p), p=p / p.sum()) for p in probability])


@given(st.integers(0, 1000), st.floats(0.1, 10))
def test_temperature_is_the_inverse_of_a_power(seed, temperature):
    p = probabilities(20, seed=seed)
    power = p ** (1 / temperature)
    found = apply_temperature(p, temperature)
    np.testing.assert_allclose(found, power / power.sum(axis=1, keepdims=True), rtol=1e-9)
    np.testing.assert_array_equal(found.argmax(axis=1), p.argmax(axis=1))


@pytest.mark.parametrize("true", [0.5, 1.0, 3.0])
def test_fitted_temperature_has_the_smallest_log_loss(true):
    p = probabilities()
    code = drawn(apply_temperature(p, true))

    def loss(log_temperature):
        power = p ** (1 / np.exp(log_temperature[0]))
        return log_loss(code, power / power.sum(axis=1, keepdims=True), labels=range(4))

    expected = np.exp(minimize(loss, [0.0], method="Nelder-Mead", options={"xatol": 1e-6, "fatol": 1e-10}).x[0])
    assert fit_temperature(p, code) == pytest.approx(expected, rel=1e-3)
    assert expected == pytest.approx(true, rel=0.25)


def test_temperature_stays_within_bounds():
    p = np.full((5, 2), [0.9, 0.1])
    assert fit_temperature(p, np.zeros(5, int)) == pytest.approx(0.1, rel=1e-3)  # always right: as sure as can be
    assert fit_temperature(p, np.ones(5, int)) == pytest.approx(10, rel=1e-3)  # always wrong
    assert fit_temperature(p[:0], np.zeros(0, int)) == 1
    assert fit_temperature(np.ones((5, 1)), np.zeros(5, int)) == 1


def test_reliability_and_error_by_hand():
    confidence = np.array([0.0, 0.05, 0.55, 0.58, 0.95, 1.0])
    correct = np.array([False, True, True, False, True, True])
    table = reliability(confidence, correct)
    assert table.index.tolist() == [0.0, 0.5, 0.9]
    assert table["n_cells"].tolist() == [2, 2, 2]
    np.testing.assert_allclose(table["confidence"], [0.025, 0.565, 0.975])
    assert table["accuracy"].tolist() == [0.5, 0.5, 1.0]
    assert calibration_error(table) == pytest.approx((0.475 + 0.065 + 0.025) / 3)


@given(st.integers(0, 1000))
def test_error_is_that_of_bins_in_numpy(seed):
    rng = np.random.default_rng(seed)
    confidence, correct = rng.random(50), rng.random(50) < 0.5
    expected = 0.0
    for low in np.arange(10):
        inside = (confidence * 10 >= low) & (confidence * 10 < low + 1)
        if inside.any():
            expected += inside.mean() * abs(confidence[inside].mean() - correct[inside].mean())
    assert calibration_error(reliability(confidence, correct)) == pytest.approx(expected)


def test_without_cells_there_is_no_error():
    assert np.isnan(calibration_error(reliability(np.zeros(0), np.zeros(0, bool))))
