import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import silhouette_samples

from sysvi import InputError
from sysvi.metrics._silhouette import batch_silhouette, label_silhouette


def by_definition(points, groups):
    """Silhouette of each cell in loops."""
    values = []
    for i in range(len(points)):
        distance = np.sqrt(((points - points[i]) ** 2).sum(1))
        own = groups == groups[i]
        others = [distance[groups == g].mean() for g in set(groups) - {groups[i]}]
        if own.sum() == 1:
            values.append(0.0)
            continue
        a, b = distance[own].sum() / (own.sum() - 1), min(others)
        values.append((b - a) / max(a, b) if max(a, b) > 0 else 0.0)
    return np.array(values)


@pytest.fixture
def cells():
    """Embedding, system and label, with one label in one system only, one label with one cell, and unequal sizes."""
    rng = np.random.default_rng(0)
    label = np.append(rng.choice(["alpha", "beta", "delta", "own"], 500, p=[0.5, 0.3, 0.15, 0.05]), "single")
    system = rng.choice(["human", "mouse", "fish"], 501, p=[0.6, 0.3, 0.1])
    system[label == "own"] = "fish"
    centre = {name: rng.normal(size=5) for name in [*sorted(set(label)), "human", "mouse", "fish"]}
    centres = np.array([2 * centre[a] + 0.7 * centre[b] for a, b in zip(label, system, strict=True)])
    return (centres + rng.normal(size=(501, 5))).astype(np.float32), system, label


@pytest.fixture(scope="module")
def baron(baron_pca):
    types = ["alpha", "gamma", "macrophage", "mast"]  # mast cells are human only
    adata = baron_pca[baron_pca.obs["cell_type"].isin(types)][::2]
    return adata.obsm["X_pca"], adata.obs["system"].to_numpy(), adata.obs["cell_type"].astype(str).to_numpy()


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1000), st.integers(2, 40), st.integers(2, 8), st.booleans())
def test_label_silhouette_by_definition(seed, n, n_labels, on_grid):
    rng = np.random.default_rng(seed)
    points = rng.integers(0, 2, (n, 2)).astype(float) if on_grid else rng.normal(size=(n, 2))  # a grid: many copies
    label = rng.integers(0, n_labels, n)
    label[:2] = 0, 1
    score = label_silhouette(points, label)
    s = by_definition(points, label)
    np.testing.assert_allclose(score.per_cell, (s + 1) / 2, rtol=1e-9)
    assert score.value == pytest.approx((s.mean() + 1) / 2)
    for name in set(label):
        assert score.per_label[str(name)] == pytest.approx((s[label == name].mean() + 1) / 2)


@pytest.mark.slow
def test_label_silhouette_is_that_of_scikit_learn_and_scib_metrics(cells):
    from scib_metrics.metrics import silhouette_label

    points, _, label = cells
    score = label_silhouette(points, label)
    np.testing.assert_allclose(score.per_cell, (silhouette_samples(points.astype(float), label) + 1) / 2, rtol=1e-9)
    assert score.value == pytest.approx(silhouette_label(points, label), rel=1e-5)
    assert score.per_cell[-1] == 0.5  # the label of one cell


def test_label_silhouette_on_baron(baron):
    from scib_metrics.metrics import silhouette_label

    points, _, label = baron
    score = label_silhouette(points, label)
    np.testing.assert_allclose(
        score.per_cell, (silhouette_samples(points.astype(float), label) + 1) / 2, rtol=1e-6, atol=1e-7
    )
    assert score.value == pytest.approx(silhouette_label(points, label), rel=1e-5)
    assert list(score.per_label.index) == sorted(set(label))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1000), st.booleans(), st.booleans())
def test_batch_silhouette_by_definition(seed, signed, on_grid):
    rng = np.random.default_rng(seed)
    points = rng.integers(0, 2, (40, 2)).astype(float) if on_grid else rng.normal(size=(40, 2))
    system, label = rng.integers(0, 3, 40), rng.integers(0, 9, 40)  # labels of a few cells
    score = batch_silhouette(points, system, label, signed=signed)
    expected = {}
    for name in range(9):
        members = label == name
        if 1 < len(set(system[members])) < members.sum():
            s = by_definition(points[members], system[members])
            expected[str(name)] = ((1 - s) / 2 if signed else 1 - abs(s)).mean()
        else:
            assert np.isnan(score.per_cell[members]).all()
    assert score.per_label.to_dict() == pytest.approx(expected)
    if expected:
        assert score.value == pytest.approx(np.mean(list(expected.values())))
    else:
        assert np.isnan(score.value)


@pytest.mark.slow
def test_batch_silhouette_is_that_of_scib_metrics(cells):
    from scib_metrics.metrics import silhouette_batch

    points, system, label = cells
    score = batch_silhouette(points, system, label, signed=False)
    assert score.value == pytest.approx(silhouette_batch(points, label, system), rel=1e-5)
    assert list(score.per_label.index) == ["alpha", "beta", "delta"]


def test_batch_silhouette_on_baron(baron):
    from scib_metrics.metrics import silhouette_batch

    points, system, label = baron
    unsigned = batch_silhouette(points, system, label, signed=False)
    assert unsigned.value == pytest.approx(silhouette_batch(points, label, system), rel=1e-4)
    signed = batch_silhouette(points, system, label)
    for name in signed.per_label.index:
        members = label == name
        s = silhouette_samples(points[members].astype(float), system[members])
        assert signed.per_label[name] == pytest.approx((1 - s.mean()) / 2, rel=1e-6)


def test_neither_order_nor_names_matter(cells):
    points, system, label = cells
    order = np.random.default_rng(1).permutation(len(points))
    renamed = pd.Series(label).map({"alpha": "z", "beta": "y", "delta": "x", "own": "w", "single": "v"}).to_numpy()
    for score, other in (
        (label_silhouette(points, label), label_silhouette(points[order], renamed[order])),
        (batch_silhouette(points, system, label), batch_silhouette(points[order], system[order], renamed[order])),
    ):
        assert other.value == pytest.approx(score.value, rel=1e-12)
        np.testing.assert_allclose(other.per_cell, score.per_cell[order], rtol=1e-9)
        np.testing.assert_allclose(other.per_label[::-1], score.per_label, rtol=1e-12)


def test_values_follow_the_separation():
    rng = np.random.default_rng(0)
    noise, group, same = rng.normal(size=(400, 3)), np.tile([0, 1], 200), np.zeros(400)
    apart = [noise + shift * group[:, None] for shift in (0, 0.5, 1, 3, 30)]
    label = [label_silhouette(points, group).value for points in apart]
    signed = [batch_silhouette(points, group, same).value for points in apart]
    unsigned = [batch_silhouette(points, group, same, signed=False).value for points in apart]
    assert label == sorted(label)
    assert signed == sorted(signed, reverse=True)
    assert unsigned == sorted(unsigned, reverse=True)
    np.testing.assert_allclose([label[0], signed[0], unsigned[0]], [0.5, 0.5, 1], atol=0.05)
    np.testing.assert_allclose([label[-1], signed[-1], unsigned[-1]], [1, 0, 0], atol=0.1)


def test_labels_all_on_one_spot():
    label = ["a", "a", "b", "b"]
    assert label_silhouette(np.full((4, 3), 0.1), label).value == 0.5  # indistinguishable
    assert label_silhouette(np.repeat([[0.1], [0.3]], 2, axis=0), label).value == 1
    assert batch_silhouette(np.full((4, 3), 0.1), [1, 2, 1, 2], ["a"] * 4).value == 0.5
    assert batch_silhouette(np.full((4, 3), 0.1), [1, 2, 1, 2], ["a"] * 4, signed=False).value == 1


@pytest.mark.parametrize("n", [1, 5])
def test_undefined_with_one_label_or_one_system(n):
    points, same = np.random.default_rng(0).normal(size=(n, 2)), ["one"] * n
    for score in (label_silhouette(points, same), batch_silhouette(points, same, same)):
        assert np.isnan(score.value)
        assert score.per_label.empty
        assert np.isnan(score.per_cell).all()
        assert score.per_cell.shape == (n,)


def test_every_cell_its_own_label():
    assert label_silhouette(np.arange(4.0)[:, None], list("abcd")).value == 0.5
    assert np.isnan(batch_silhouette(np.arange(4.0)[:, None], list("abcd"), ["x"] * 4).value)


def test_bad_input_is_named():
    points = np.zeros((3, 2))
    with pytest.raises(InputError, match="label has 2 values for 3 cells"):
        label_silhouette(points, ["a", "b"])
    with pytest.raises(InputError, match="system is missing for 1 of 3 cells"):
        batch_silhouette(points, ["a", None, "b"], ["a"] * 3)
    with pytest.raises(InputError, match="cells x dimensions"):
        label_silhouette(np.zeros(3), ["a", "b", "c"])
