"""Tests of the paper's score of runs and choice of a setting against NumPy and scikit-learn."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.preprocessing import minmax_scale

from sysvi import InputError
from sysvi.evaluation.scores import best_setting, paper_scores


def draw(seed, n_runs, digits):
    """Runs with few distinct values if `digits` is small, so that ties and constant metrics occur."""
    return pd.DataFrame(
        np.random.default_rng(seed).random((n_runs, 3)).round(digits), columns=["iLISI", "NMI", "Moran"]
    )


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 12), st.sampled_from([0, 1, 15]))
def test_against_the_formula(seed, n_runs, digits):
    runs = draw(seed, n_runs, digits)
    ilisi, nmi, moran = minmax_scale(runs.to_numpy()).T
    scored = paper_scores(runs)
    np.testing.assert_allclose(scored["batch"], ilisi, atol=1e-12)
    np.testing.assert_allclose(scored["biology"], (nmi + moran) / 2, atol=1e-12)
    np.testing.assert_allclose(scored["overall"], 0.3 * nmi + 0.3 * moran + 0.4 * ilisi, atol=1e-12)
    pd.testing.assert_frame_equal(scored[runs.columns], runs)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.1, 10), st.floats(-5, 5))
def test_units_and_order_of_runs_do_not_matter(seed, factor, shift):
    runs = draw(seed, 8, 15)
    scored = paper_scores(runs)["overall"]
    np.testing.assert_allclose(paper_scores(runs * factor + shift)["overall"], scored, atol=1e-9)
    np.testing.assert_allclose(paper_scores(runs.iloc[::-1])["overall"][::-1], scored)


def test_a_metric_that_no_run_has_is_left_out():
    runs = draw(0, 6, 15)
    ilisi, nmi, _ = minmax_scale(runs.to_numpy()).T
    scored = paper_scores(runs.assign(Moran=np.nan))
    np.testing.assert_allclose(scored["overall"], 0.6 * nmi + 0.4 * ilisi)
    assert scored["Moran scaled"].isna().all()


def test_without_biology_or_batch_there_is_no_score():
    runs = draw(0, 6, 15)
    assert paper_scores(runs.assign(Moran=np.nan, NMI=np.nan))["overall"].isna().all()
    assert paper_scores(runs.assign(iLISI=np.nan))["overall"].isna().all()


def test_a_run_that_lacks_a_metric_which_others_have_is_never_chosen():
    runs = draw(0, 6, 15).assign(weight=range(6))
    best = best_setting(paper_scores(runs), "weight").index[0]
    runs.loc[best, "Moran"] = np.nan
    scored = paper_scores(runs)
    assert scored["overall"].isna().tolist() == [i == best for i in range(6)]
    others = paper_scores(runs[runs["weight"] != best])  # scaled without the missing value all the same
    np.testing.assert_allclose(scored["Moran scaled"].drop(best), others["Moran scaled"])
    assert best_setting(scored, "weight").index[0] != best


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 5), st.integers(1, 5))
def test_the_setting_of_the_highest_mean_and_its_median_run(seed, n_settings, n_seeds):
    rng = np.random.default_rng(seed)
    scored = pd.DataFrame(
        {"weight": np.repeat(np.arange(n_settings), n_seeds), "overall": rng.random(n_settings * n_seeds)}
    )
    means = scored["overall"].to_numpy().reshape(n_settings, n_seeds).mean(1)
    shuffled = scored.sample(frac=1, random_state=seed)
    best = best_setting(shuffled, "weight")
    assert set(best["weight"]) == {means.argmax()}
    assert len(best) == n_seeds
    if n_seeds % 2:
        assert best["overall"].iloc[0] == np.median(best["overall"])


def test_a_setting_of_two_columns_and_one_that_is_missing():
    scored = pd.DataFrame(
        {"name": ["a", "a", "b", "b"], "value": [1, np.nan, 1, np.nan], "overall": [0.1, 0.9, 0.5, 0.6]}
    )
    assert best_setting(scored, ["name", "value"]).index.tolist() == [1]
    assert best_setting(scored.assign(overall=np.nan), "name").empty


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"iLISI": [0.1], "NMI": [0.2]}, "no column Moran"),
        ({"iLISI": [0.1], "NMI": [np.inf], "Moran": [1.0]}, "Column 'NMI'"),
        ({"iLISI": ["high"], "NMI": [0.1], "Moran": [1.0]}, "Column 'iLISI'"),
    ],
)
def test_tables_that_cannot_be_scored(table, message):
    with pytest.raises(InputError, match=message):
        paper_scores(pd.DataFrame(table))
