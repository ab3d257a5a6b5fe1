import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.decomposition import PCA
from sklearn.linear_model import LinearRegression

from sysvi import InputError
from sysvi.metrics._pcr import pcr_comparison, principal_component_regression


def by_definition(points, groups):
    """Regress every principal component on the one-hot groups; weight R² by the component's variance."""
    components = PCA().fit_transform(points)
    one_hot = (np.asarray(groups)[:, None] == np.unique(groups)).astype(float)
    r2 = [LinearRegression().fit(one_hot, c).score(one_hot, c) for c in components.T]
    return np.average(r2, weights=components.var(0))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1000), st.integers(2, 6), st.integers(1, 8), st.sampled_from([0, 1e3]))
def test_by_definition(seed, n_groups, dimensions, offset):
    rng = np.random.default_rng(seed)
    groups = rng.integers(0, n_groups, 60)
    points = offset + rng.normal(size=(n_groups, dimensions))[groups] + rng.normal(size=(60, dimensions))
    value = principal_component_regression(points, groups)
    assert value == pytest.approx(by_definition(points, groups), rel=1e-8)
    assert 0 <= value <= 1


@pytest.mark.slow
def test_is_that_of_scib_metrics():
    from scib_metrics.metrics import pcr_comparison as reference
    from scib_metrics.utils import principal_component_regression as regression

    rng = np.random.default_rng(0)
    groups = rng.choice(["a", "b", "c"], 500, p=[0.5, 0.3, 0.2])
    shift = rng.normal(size=(3, 10))[np.searchsorted(["a", "b", "c"], groups)]
    before, after = shift + rng.normal(size=(500, 10)), (0.2 * shift + rng.normal(size=(500, 10)))[:, :4]
    for points in (before, after):
        expected = regression(points, groups, categorical=True)
        assert principal_component_regression(points, groups) == pytest.approx(expected, rel=1e-4)
    expected = reference(before, after, groups, categorical=True)
    assert pcr_comparison(before, after, groups).value == pytest.approx(expected, rel=1e-4)
    assert pcr_comparison(after, before, groups).value == 0


def test_on_baron(baron_pca):
    from scib_metrics.metrics import pcr_comparison as reference

    adata = baron_pca[::3]
    before = adata.obsm["X_pca"]
    for key in ("system", "batch"):
        groups = adata.obs[key].to_numpy()
        means = np.stack([before[groups == g].mean(0) for g in sorted(set(groups))])
        after = before - 0.7 * means[np.searchsorted(sorted(set(groups)), groups)]
        value = pcr_comparison(before, after, groups).value
        assert value == pytest.approx(reference(before, after, groups, categorical=True), rel=1e-4)
        assert 0.5 < value < 1


def test_neither_order_nor_names_nor_rotation_nor_place_matter():
    rng = np.random.default_rng(0)
    groups = rng.integers(0, 3, 100)
    points = rng.normal(size=(3, 5))[groups] + rng.normal(size=(100, 5))
    order, rotation = rng.permutation(100), np.linalg.qr(rng.normal(size=(5, 5)))[0]
    moved = principal_component_regression((3 * points @ rotation + 7)[order], [f"group {-g}" for g in groups[order]])
    assert moved == pytest.approx(principal_component_regression(points, groups), rel=1e-12)


def test_follows_what_is_removed():
    rng = np.random.default_rng(0)
    groups = np.tile([0, 1], 100)
    noise = rng.normal(size=(200, 3))
    before = noise + 5 * groups[:, None]
    values = [pcr_comparison(before, noise + left * groups[:, None], groups).value for left in (9, 5, 3, 1, 0)]
    assert values == sorted(values)
    assert values[:2] == [0, 0]
    assert values[-1] > 0.95


def test_all_or_nothing():
    assert principal_component_regression([[0.0], [0.0], [1.0], [1.0]], list("aabb")) == 1
    assert principal_component_regression([[0.1], [0.3], [0.1], [0.3]], list("aabb")) == 0
    assert principal_component_regression([[0.1], [0.3], [0.7]], list("abc")) == pytest.approx(1)
    assert principal_component_regression(np.random.default_rng(0).normal(size=(9, 2)), ["one"] * 9) == 0


def test_undefined_where_nothing_varies_or_nothing_was_to_remove():
    rng = np.random.default_rng(0)
    points, constant, groups = rng.normal(size=(6, 2)), np.full((6, 2), 0.1), list("aaabbb")
    assert np.isnan(principal_component_regression(constant, groups))
    assert np.isnan(pcr_comparison(constant, points, groups).value)
    assert np.isnan(pcr_comparison(points, constant, groups).value)
    assert np.isnan(pcr_comparison(points, points, ["one"] * 6).value)
    assert np.isnan(pcr_comparison([[0.1], [0.3], [0.1], [0.3]], points[:4], list("aabb")).value)


def test_leaves_its_input_alone():
    points = np.random.default_rng(0).normal(size=(20, 3))
    copy = points.copy()
    pcr_comparison(points, points, np.arange(20) % 2)
    np.testing.assert_array_equal(points, copy)


def test_bad_input_is_named():
    with pytest.raises(InputError, match="before has 3 cells and the one after 2"):
        pcr_comparison(np.eye(3), np.eye(2), list("aab"))
    with pytest.raises(InputError, match="groups has 2 values for 3 cells"):
        principal_component_regression(np.eye(3), list("ab"))
    with pytest.raises(InputError, match="groups is missing for 1 of 3"):
        pcr_comparison(np.eye(3), np.eye(3), ["a", None, "b"])
