from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from sysvi import InputError
from sysvi.evaluation.compare_runs import compare_runs


def step_up(p, alpha):
    """Benjamini-Hochberg: adjusted p-values, and how many are rejected at alpha."""
    order = np.argsort(p)
    n = len(p)
    adjusted = np.empty(n)
    least = 1.0
    for rank in range(n, 0, -1):
        i = order[rank - 1]
        least = min(least, p[i] * n / rank)
        adjusted[i] = least
    return adjusted, int((adjusted <= alpha).sum())


def two_stages(p, alpha):
    """The two-stage procedure: the first stage estimates how many hypotheses are true, the second corrects for them."""
    p = np.asarray(p)
    adjusted, rejected = step_up(p, alpha)
    return adjusted if rejected in (0, len(p)) else np.minimum(adjusted * (len(p) - rejected) / len(p), 1)


def draw(seed, n_methods, n_runs=4):
    rng = np.random.default_rng(seed)
    names = [f"method {i}" for i in range(n_methods)]
    shift = rng.exponential(1, n_methods) * (rng.random(n_methods) < 0.5)
    rows = [
        {"method": name, "seed": run, "iLISI": rng.normal(s), "NMI": rng.normal(0, 0.1 + s)}
        for name, s in zip(names, shift, strict=True)
        for run in range(n_runs + rng.integers(0, 3))
    ]
    return pd.DataFrame(rows).sample(frac=1, random_state=seed)


@pytest.mark.slow
@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 6), st.sampled_from(["metric", "all"]), st.sampled_from([0.05, 0.2]))
def test_against_scipy_and_the_procedure_itself(seed, n_methods, family, alpha):
    runs = draw(seed, n_methods)
    table = compare_runs(runs, family=family, alpha=alpha)
    pairs = list(combinations(sorted(runs["method"].unique()), 2))
    assert list(table[["metric", "method_a", "method_b"]].itertuples(index=False, name=None)) == [
        (metric, *pair) for metric in ("iLISI", "NMI") for pair in pairs
    ]
    for row in table.itertuples():
        a, b = (runs.loc[runs["method"] == name, row.metric].to_numpy() for name in (row.method_a, row.method_b))
        test = stats.ttest_ind(a, b, equal_var=False)
        variance = a.var(ddof=1) / len(a), b.var(ddof=1) / len(b)
        df = sum(variance) ** 2 / (variance[0] ** 2 / (len(a) - 1) + variance[1] ** 2 / (len(b) - 1))
        half = stats.t.ppf(1 - alpha / 2, df) * np.sqrt(sum(variance))
        difference = a.mean() - b.mean()
        assert (row.n_a, row.n_b, row.note) == (len(a), len(b), "")
        np.testing.assert_allclose([row.t, row.p, row.df], [test.statistic, test.pvalue, df], rtol=1e-9)
        np.testing.assert_allclose([row.mean_a, row.mean_b], [a.mean(), b.mean()], rtol=1e-9)
        expected = [difference, difference - half, difference + half]
        np.testing.assert_allclose([row.difference, row.low, row.high], expected, rtol=1e-9, atol=1e-12)
    families = [table] if family == "all" else [part for _, part in table.groupby("metric")]
    for part in families:
        np.testing.assert_allclose(part["p_adjusted"], two_stages(part["p"], alpha), rtol=1e-9)


def test_welch_is_the_closed_form_to_rounding():
    """SciPy's test against the formulas of Welch and Satterthwaite in double precision."""
    runs = draw(7, 4)
    for row in compare_runs(runs, alpha=0.1).itertuples():
        a, b = (runs.loc[runs["method"] == name, row.metric].to_numpy() for name in (row.method_a, row.method_b))
        error_a, error_b = a.var(ddof=1) / len(a), b.var(ddof=1) / len(b)
        difference, scale = a.mean() - b.mean(), np.sqrt(error_a + error_b)
        df = (error_a + error_b) ** 2 / (error_a**2 / (len(a) - 1) + error_b**2 / (len(b) - 1))
        t, half = difference / scale, stats.t.isf(0.05, df) * scale
        expected = [t, df, 2 * stats.t.sf(abs(t), df), difference - half, difference + half]
        np.testing.assert_allclose([row.t, row.df, row.p, row.low, row.high], expected, rtol=1e-12)


def test_correction_counts_the_true_hypotheses():
    """Nine of ten metrics differ, so that the second stage corrects for one hypothesis and not for ten."""
    rng = np.random.default_rng(0)
    scores = {f"m{i}": np.r_[rng.normal(size=5), rng.normal(5 * (i > 0), size=5)] for i in range(10)}
    table = compare_runs(pd.DataFrame({"method": ["a"] * 5 + ["b"] * 5, **scores}), family="all")
    assert (table["p_adjusted"][1:] < 0.05).all()
    assert table["p_adjusted"][0] > 0.05
    np.testing.assert_allclose(table["p_adjusted"], two_stages(table["p"], 0.05), rtol=1e-9)
    assert (table["p_adjusted"] < step_up(table["p"].to_numpy(), 0.05)[0]).all()


def test_tidy_and_wide_say_the_same():
    runs = draw(1, 3)
    wide = compare_runs(runs)
    tidy = runs.melt(["method", "seed"], var_name="metric")
    pd.testing.assert_frame_equal(compare_runs(tidy), wide)
    pd.testing.assert_frame_equal(compare_runs(runs.sample(frac=1, random_state=3)), wide)
    renamed = runs.rename(columns={"method": "model"})
    pd.testing.assert_frame_equal(compare_runs(renamed, method="model"), wide)
    only = compare_runs(tidy, metrics=["NMI"])
    pd.testing.assert_frame_equal(only, compare_runs(runs, metrics=["NMI"]))
    pd.testing.assert_frame_equal(only, wide[wide["metric"] == "NMI"].reset_index(drop=True))


def test_missing_scores_are_left_out_metric_by_metric():
    runs = draw(2, 2)
    holes = runs.copy()
    holes.iloc[0, holes.columns.get_loc("NMI")] = np.nan
    table, shorter = compare_runs(holes).set_index("metric"), compare_runs(runs.iloc[1:]).set_index("metric")
    pd.testing.assert_series_equal(table.loc["NMI"], shorter.loc["NMI"])
    pd.testing.assert_series_equal(table.loc["iLISI"], compare_runs(runs).set_index("metric").loc["iLISI"])


def test_where_there_is_no_test_a_note_says_why():
    runs = pd.DataFrame(
        {
            "method": ["one", "a", "a", "a", "b", "b", "b", "c", "c"],
            "x": [0.3, 0.1, 0.1, 0.1, 0.5, 0.5, 0.5, 0.6, 0.8],
        }
    )
    table = compare_runs(runs).set_index(["method_a", "method_b"])
    assert table.loc[("a", "b"), "note"] == "scores do not vary"
    assert table.loc[("a", "b"), "difference"] == pytest.approx(-0.4)
    untested = table.loc[[("a", "b"), ("a", "one"), ("b", "one"), ("c", "one")]]
    assert untested["note"].tolist() == ["scores do not vary", *["fewer than two runs"] * 3]
    assert untested[["t", "df", "p", "p_adjusted", "low", "high"]].isna().all().all()
    tested = table.loc[[("a", "c"), ("b", "c")]]  # one of the two varies
    assert tested["df"].tolist() == [1.0, 1.0]
    np.testing.assert_allclose(tested["p_adjusted"], two_stages(tested["p"], 0.05))
    absent = compare_runs(runs.assign(y=np.where(runs["method"] == "c", np.nan, runs["x"])))
    absent = absent[(absent["metric"] == "y") & (absent["method_b"] == "c")]
    assert (absent["n_b"] == 0).all()
    assert absent["mean_b"].isna().all()


def test_swapping_names_turns_the_sign():
    runs = draw(3, 2)
    table = compare_runs(runs)
    runs["method"] = runs["method"].map({"method 0": "method 1", "method 1": "method 0"})
    other = compare_runs(runs)
    np.testing.assert_allclose(other["difference"], -table["difference"])
    np.testing.assert_allclose(other["low"], -table["high"])
    np.testing.assert_allclose(other["p_adjusted"], table["p_adjusted"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"method": "model"}, "no column 'model'"),
        ({"metrics": ["ARI"]}, "no metric ARI"),
        ({"metrics": "NMI"}, "metrics is the string 'NMI'"),
        ({"metrics": []}, "has no metric"),
        ({"family": "none"}, "family is 'none'"),
        ({"alpha": 0}, "alpha is 0"),
        ({"metrics": ["text"]}, "Metric 'text' has the value low"),
        ({"metrics": ["infinite"]}, "Metric 'infinite' has the value inf"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    runs = draw(0, 2).assign(text="low", infinite=np.inf)
    with pytest.raises(InputError, match=message):
        compare_runs(runs, **arguments)


def test_bad_tables_are_named():
    runs = draw(0, 2)
    with pytest.raises(InputError, match="holds one method only"):
        compare_runs(runs[runs["method"] == "method 0"])
    with pytest.raises(InputError, match="no metric: none of its columns"):
        compare_runs(runs[["method", "seed"]])
    with pytest.raises(InputError, match="'method' is missing in 1 rows"):
        compare_runs(runs.assign(method=[None, *runs["method"][1:]]))
    with pytest.raises(InputError, match=r"no metric ARI: its metrics are iLISI, NMI"):
        compare_runs(runs.melt(["method", "seed"], var_name="metric"), metrics=["ARI"])
