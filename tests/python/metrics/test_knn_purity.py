import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.neighbors import kneighbors_graph

from sysvi import InputError
from sysvi.metrics._knn_purity import knn_purity
from sysvi.metrics._neighbors import Neighbors, nearest_neighbors


def of_a_graph(graph, label):
    """Purity by a matrix product: a graph of cells x cells times cells x labels."""
    own = pd.get_dummies(label).to_numpy(float)
    purity = ((graph @ own) * own).sum(1) / np.asarray(graph.sum(1)).ravel()
    return pd.Series(purity).groupby(np.asarray(label)).mean(), purity


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 40), st.integers(1, 5), st.integers(1, 3))
def test_against_the_definition(seed, k, n_labels, copies):
    rng = np.random.default_rng(seed)
    points = rng.normal(size=(80, 2))[np.arange(80) // copies]  # with duplicated points, which count
    label = rng.choice(list("abcde"[:n_labels]), 80)
    neighbors = nearest_neighbors(points, k)
    per_cell = [np.mean([label[j] == label[i] for j in neighbors.indices[i]]) for i in range(80)]
    per_label = {name: np.mean([p for p, own in zip(per_cell, label, strict=True) if own == name]) for name in label}
    score = knn_purity(neighbors, label, n_neighbors=k)
    np.testing.assert_allclose(score.per_cell, per_cell)
    assert score.per_label.to_dict() == pytest.approx(per_label)
    assert list(score.per_label.index) == sorted(per_label)
    assert score.value == pytest.approx(np.mean(list(per_label.values())))
    assert 0 <= score.value <= 1

    renamed = [f"type {5 - ord(name)}" for name in label]
    assert knn_purity(neighbors, renamed, n_neighbors=k).value == pytest.approx(score.value)
    order = rng.permutation(80)
    moved = Neighbors(np.argsort(order)[neighbors.indices[order]], neighbors.distances[order])
    assert knn_purity(moved, label[order], n_neighbors=k).per_label.to_dict() == pytest.approx(per_label)


def test_against_scikit_learn_on_baron(baron_pca):
    adata = baron_pca[::2]
    label = adata.obs["cell_type"].astype(str).to_numpy()
    graph = kneighbors_graph(adata.obsm["X_pca"], 30)
    per_label, per_cell = of_a_graph(graph, label)
    score = knn_purity(nearest_neighbors(adata.obsm["X_pca"], 89), label)
    np.testing.assert_allclose(score.per_cell, per_cell)
    pd.testing.assert_series_equal(score.per_label, per_label, check_names=False, check_index_type=False)
    assert score.value == pytest.approx(per_label.mean())
    assert score.per_label["beta"] > 0.9


def test_labels_count_the_same_whatever_their_size():
    points = np.r_[np.zeros((900, 2)), np.ones((100, 2)) * 9]
    label = np.repeat(["common", "rare"], [900, 100])
    label[900:] = np.where(np.arange(100) % 2, "rare", "common")  # the rare one is half mixed with the common one
    score = knn_purity(nearest_neighbors(points + np.random.default_rng(0).normal(size=(1000, 2)), 30), label)
    assert score.per_label["common"] > 0.95
    assert score.per_label["rare"] == pytest.approx(0.5, abs=0.1)
    assert score.value == pytest.approx(score.per_label.mean()) == pytest.approx(0.74, abs=0.06)


def test_mixing_lowers_it():
    rng = np.random.default_rng(0)
    points = rng.normal(size=(400, 3)) + 20 * (np.arange(400) < 200)[:, None]
    order, values = rng.permutation(400), []
    for share in (0, 0.3, 0.6, 1):
        label, some = np.arange(400) < 200, order[: int(400 * share)]
        label[some] = rng.permutation(label[some])
        values.append(knn_purity(nearest_neighbors(points, 30), label).value)
    assert values[0] == 1
    assert (np.diff(values) < -0.05).all()
    assert values[-1] == pytest.approx(0.5, abs=0.03)


def test_labels_of_few_cells():
    """Of the nine neighbours of each of ten cells, none has the label of the single cell, two that of the three."""
    label = np.repeat(["lone", "three", "six"], [1, 3, 6])
    score = knn_purity(nearest_neighbors(np.random.default_rng(0).normal(size=(10, 2)), 30), label)
    assert score.per_label.to_dict() == pytest.approx({"lone": 0, "six": 5 / 9, "three": 2 / 9})


@pytest.mark.parametrize(
    ("label", "message"), [(["a"] * 3, "label has 3 values for 4 cells"), (["a", None, "b", "b"], "missing for 1 of 4")]
)
def test_bad_input_is_named(label, message):
    with pytest.raises(InputError, match=message):
        knn_purity(nearest_neighbors(np.eye(4), 2), label)
