import numpy as np
import pytest
from sklearn.metrics import silhouette_samples

from sysvi import InputError
from sysvi.metrics._isolated_labels import isolated_labels
from sysvi.metrics._score import Score
from sysvi.metrics._silhouette import label_silhouette


@pytest.fixture
def cells():
    """Labels a and e in one of three systems, b in two, c and d in all."""
    rng = np.random.default_rng(0)
    label, system = rng.choice(list("abcde"), 400, p=[0.1, 0.3, 0.3, 0.25, 0.05]), rng.choice(["x", "y", "z"], 400)
    system[label == "a"], system[label == "e"] = "z", "x"
    system[(label == "b") & (system == "y")] = "x"
    points = 1.5 * rng.normal(size=(5, 4))[np.searchsorted(list("abcde"), label)] + rng.normal(size=(400, 4))
    return points, system, label


@pytest.mark.slow
@pytest.mark.parametrize(
    ("left_out", "isolated"), [([], ["a", "e"]), (["a", "e"], ["b"]), (["a", "b", "e"], ["c", "d"])]
)
def test_labels_in_the_fewest_systems_count(cells, left_out, isolated):
    from scib_metrics.metrics import isolated_labels as reference

    kept = ~np.isin(cells[2], left_out)
    points, system, label = (part[kept] for part in cells)
    score = isolated_labels(label_silhouette(points, label), label, system)
    scaled = (silhouette_samples(points, label) + 1) / 2
    expected = {name: scaled[label == name].mean() for name in isolated}
    assert score.per_label.to_dict() == pytest.approx(expected)
    assert score.value == pytest.approx(np.mean(list(expected.values())))
    assert score.value == pytest.approx(reference(points, label, system), rel=1e-5)
    np.testing.assert_array_equal(np.isnan(score.per_cell), ~np.isin(label, isolated))


def test_is_that_of_scib_metrics_on_baron(baron_pca):
    from scib_metrics.metrics import isolated_labels as reference

    adata = baron_pca[::3]
    points, label = adata.obsm["X_pca"], adata.obs["cell_type"].to_numpy()
    for key in ("system", "batch"):
        score = isolated_labels(label_silhouette(points, label), label, adata.obs[key])
        assert score.value == pytest.approx(reference(points, label, adata.obs[key].to_numpy()), rel=1e-4)
        assert len(score.per_label) < len(set(label))


def test_neither_order_nor_names_matter(cells):
    points, system, label = cells
    order = np.random.default_rng(1).permutation(400)
    renamed = np.array([{"a": "v", "b": "u", "c": "t", "d": "s", "e": "r"}[name] for name in label])[order]
    score = isolated_labels(label_silhouette(points, label), label, system)
    other = isolated_labels(label_silhouette(points[order], renamed), renamed, system[order])
    assert other.value == pytest.approx(score.value, rel=1e-12)
    assert list(other.per_label.index) == ["r", "v"]


def test_rises_as_the_isolated_label_parts(cells):
    points, system, label = cells
    moved = [points + shift * (label == "a")[:, None] for shift in (0, 5, 100)]
    values = [isolated_labels(label_silhouette(p, label), label, system).per_label["a"] for p in moved]
    assert values == sorted(values)
    assert values[-1] > 0.95


def test_one_cell_and_one_label():
    points, label = np.arange(5.0)[:, None], ["a", "b", "b", "b", "b"]
    assert isolated_labels(label_silhouette(points, label), label, [1, 1, 2, 1, 2]).per_label.to_dict() == {"a": 0.5}
    assert np.isnan(isolated_labels(label_silhouette(points, ["a"] * 5), ["a"] * 5, [1, 1, 2, 1, 2]).value)


def test_bad_input_is_named():
    silhouette = label_silhouette(np.arange(4.0)[:, None], list("aabb"))
    with pytest.raises(InputError, match="system has 3 values for 4 cells"):
        isolated_labels(silhouette, list("aabb"), [1, 2, 3])
    with pytest.raises(InputError, match="label is missing for 1 of 4"):
        isolated_labels(silhouette, ["a", "a", "b", None], [1, 2, 3, 4])
    with pytest.raises(InputError, match="no value for each cell"):
        isolated_labels(Score(0.5), list("aabb"), [1, 2, 3, 4])
