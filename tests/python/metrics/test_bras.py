from itertools import chain

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sysvi import InputError
from sysvi.metrics._bras import bras


def cosine_distance(x, y):
    if not x.any() or not y.any():
        return 1.0
    return 1 - x @ y / np.sqrt((x @ x) * (y @ y))


def by_definition(points, system, label, between):
    """1 - |s| of each cell, computed over all pairs of cells; NaN where a label is not measured."""
    values = np.full(len(points), np.nan)
    for name in set(label):
        cells = np.flatnonzero(label == name)
        if not 1 < len(set(system[cells])) < len(cells):
            continue
        for i in cells:
            own = [cosine_distance(points[i], points[j]) for j in cells if system[j] == system[i] and j != i]
            others = {
                g: [cosine_distance(points[i], points[j]) for j in cells if system[j] == g]
                for g in set(system[cells]) - {system[i]}
            }
            a = np.mean(own) if own else 0.0
            b = np.mean([*chain(*others.values())]) if between == "mean_other" else max(map(np.mean, others.values()))
            values[i] = 1 - abs((b - a) / max(a, b)) if own and max(a, b) > 1e-9 else 1.0
    return values


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 1000), st.sampled_from(["mean_other", "furthest"]), st.booleans())
def test_by_definition(seed, between, on_grid):
    rng = np.random.default_rng(seed)
    points = rng.integers(-1, 2, (40, 2)).astype(float) if on_grid else rng.normal(size=(40, 2))  # copies and origins
    system, label = rng.integers(0, 4, 40), rng.integers(0, 8, 40)
    score = bras(points, system, label, between=between)
    expected = by_definition(points, system, label, between)
    np.testing.assert_allclose(score.per_cell, expected, atol=1e-9)
    labels = {str(name): expected[label == name].mean() for name in set(label)}
    labels = {name: value for name, value in labels.items() if not np.isnan(value)}
    assert score.per_label.to_dict() == pytest.approx(labels)
    assert score.value == pytest.approx(np.mean(list(labels.values())))


@pytest.mark.slow
@pytest.mark.parametrize("between", ["mean_other", "furthest"])
def test_is_that_of_scib_metrics(between):
    from scib_metrics.metrics import bras as reference

    rng = np.random.default_rng(0)
    label, system = rng.choice(["a", "b", "c"], 400, p=[0.6, 0.3, 0.1]), rng.choice(4, 400, p=[0.4, 0.3, 0.2, 0.1])
    system[label == "c"] = 1  # in one system only
    points = rng.normal(size=(4, 6))[system] + 2 * rng.normal(size=(400, 6))
    expected = reference(points, label, system, between_cluster_distances=between)
    assert bras(points, system, label, between=between).value == pytest.approx(expected, rel=1e-5)


def test_on_baron(baron_pca):
    from scib_metrics.metrics import bras as reference

    types = ["alpha", "gamma", "macrophage", "mast"]  # mast cells are human only
    adata = baron_pca[baron_pca.obs["cell_type"].isin(types)][::2]
    points, batch, label = (adata.obsm["X_pca"], *adata.obs[["batch", "cell_type"]].astype(str).to_numpy().T)
    assert bras(points, batch, label).value == pytest.approx(reference(points, label, batch), rel=1e-4)


@pytest.mark.slow
def test_where_scib_metrics_differs_a_cell_at_the_origin():
    from scib_metrics.metrics import bras as reference

    rng = np.random.default_rng(0)
    system = np.tile([0, 1], 30)
    points = rng.normal(size=(60, 3)) + 5.0 * np.eye(3)[system]
    points[0] = 0
    assert reference(points, np.zeros(60), system) == 0.5  # all cells of its system 1, all others 0
    score = bras(points, system, np.zeros(60))
    np.testing.assert_allclose(score.per_cell, by_definition(points, system, np.zeros(60), "mean_other"))
    assert score.value < 0.5


def test_neither_order_nor_names_nor_scale_nor_rotation_matter():
    rng = np.random.default_rng(0)
    points, system, label = rng.normal(size=(200, 4)) + 1, rng.integers(0, 3, 200), rng.integers(0, 4, 200)
    score, order = bras(points, system, label), rng.permutation(200)
    rotation = np.linalg.qr(rng.normal(size=(4, 4)))[0]
    other = bras(1e-3 * points[order] @ rotation, -system[order], -label[order])
    assert other.value == pytest.approx(score.value, rel=1e-12)
    np.testing.assert_allclose(other.per_cell, score.per_cell[order], rtol=1e-9)
    assert ((score.per_cell >= 0) & (score.per_cell <= 1)).all()


def test_falls_as_systems_part():
    rng = np.random.default_rng(0)
    system = np.tile([0, 1], 200)
    noise = rng.normal(size=(400, 3))
    values = [bras(noise + shift * np.eye(3)[system], system, np.zeros(400)).value for shift in (0, 1, 3, 30)]
    assert values == sorted(values, reverse=True)
    assert values[0] > 0.9
    assert values[-1] < 0.01


def test_cells_in_one_direction():
    points = np.outer(np.random.default_rng(0).uniform(1, 5, 50), [0.3, 0.1, 0.7])
    assert bras(points, np.arange(50) % 2, np.zeros(50)).value == 1


@pytest.mark.parametrize("system", [["one"] * 4, list("abcd")])
def test_undefined_with_one_system_or_all_cells_systems(system):
    score = bras(np.random.default_rng(0).normal(size=(4, 2)), system, ["x"] * 4)
    assert np.isnan(score.value)
    assert score.per_label.empty
    assert np.isnan(score.per_cell).all()


def test_leaves_its_input_alone():
    points = np.random.default_rng(0).normal(size=(20, 3))
    copy = points.copy()
    bras(points, np.arange(20) % 2, np.zeros(20))
    np.testing.assert_array_equal(points, copy)


def test_bad_input_is_named():
    with pytest.raises(InputError, match="between is 'nearest'; it must be one of 'mean_other', 'furthest'"):
        bras(np.ones((2, 1)), [0, 1], [0, 0], between="nearest")
    with pytest.raises(InputError, match="system has 3 values for 2 cells"):
        bras(np.ones((2, 1)), [0, 1, 1], [0, 0])
    with pytest.raises(InputError, match="label is missing for 1 of 2 cells"):
        bras(np.ones((2, 1)), [0, 1], [0, np.nan])
