import numpy as np
import pytest
import scib_metrics
from hypothesis import given, settings
from hypothesis import strategies as st
from peers import with_self

from sysvi import InputError
from sysvi.metrics._graph_connectivity import graph_connectivity
from sysvi.metrics._neighbors import Neighbors, nearest_neighbors


def reachable(arrows, start):
    seen, queue = {start}, [start]
    while queue:
        for cell in arrows[queue.pop()] - seen:
            seen.add(cell)
            queue.append(cell)
    return seen


def by_definition(indices, label):
    """Share of each label's largest set of cells that reach each other."""
    arrows = [{j for j in row if label[j] == label[i]} for i, row in enumerate(indices)]
    reach = [reachable(arrows, cell) for cell in range(len(label))]
    sizes = [sum(cell in reach[other] for other in reach[cell]) for cell in range(len(label))]
    return {name: max(np.array(sizes)[label == name]) / sum(label == name) for name in sorted(set(label))}


def scib(neighbors, label):
    return scib_metrics.graph_connectivity(with_self(neighbors), label)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 8), st.integers(1, 4), st.integers(1, 3))
def test_against_the_definition_and_scib_metrics(seed, k, n_labels, copies):
    rng = np.random.default_rng(seed)
    points = rng.normal(size=(80, 2))[np.arange(80) // copies]  # with duplicated points
    label = rng.choice(list("abcd"[:n_labels]), 80)
    neighbors = nearest_neighbors(points, k)
    score = graph_connectivity(neighbors, label)
    expected = by_definition(neighbors.indices, label)
    assert score.per_label.to_dict() == pytest.approx(expected)
    assert list(score.per_label.index) == list(expected)
    assert score.value == pytest.approx(np.mean(list(expected.values())))
    assert score.value == pytest.approx(scib(neighbors, label))

    renamed = [f"type {5 - ord(name)}" for name in label]
    assert graph_connectivity(neighbors, renamed).value == pytest.approx(score.value)
    order = rng.permutation(80)
    moved = Neighbors(np.argsort(order)[neighbors.indices[order]], neighbors.distances[order])
    assert graph_connectivity(moved, label[order]).per_label.to_dict() == pytest.approx(expected)


def test_against_scib_metrics_on_baron(baron_pca):
    adata = baron_pca[::2]
    label = adata.obs["cell_type"].astype(str).to_numpy()
    neighbors = nearest_neighbors(adata.obsm["X_pca"], 89)
    score = graph_connectivity(neighbors, label)
    assert score.value == pytest.approx(scib(neighbors.nearest(14), label))
    assert score.per_label["beta"] == pytest.approx(0.6, abs=0.15)  # two species, apart in a PCA
    assert score.per_label["acinar"] > 0.9  # of one


def test_fourteen_neighbours_are_taken():
    points = np.random.default_rng(0).normal(size=(300, 20))
    label = np.arange(300) % 8
    neighbors = nearest_neighbors(points, 40)
    values = {k: graph_connectivity(neighbors, label, n_neighbors=k).value for k in (5, 14, 40)}
    assert graph_connectivity(neighbors, label).value == values[14]
    assert values[5] < values[14] < values[40]


def test_arrows_must_lead_both_ways():
    """An outlier has the other cells as neighbours but is not a neighbour of any cell."""
    points = np.append(np.arange(20.0), 100.0)[:, None]
    assert graph_connectivity(nearest_neighbors(points, 3), ["a"] * 21).value == 20 / 21


def test_systems_apart_split_a_label():
    rng = np.random.default_rng(0)
    points = rng.normal(size=(300, 3))
    values = []
    for shift in (0, 5, 50):
        moved = points + shift * (np.arange(300) < 100)[:, None]
        values.append(graph_connectivity(nearest_neighbors(moved, 14), ["a"] * 300).value)
    assert values[0] > 0.95
    assert values[2] == pytest.approx(2 / 3, abs=0.02)
    assert values[0] >= values[1] >= values[2]


def test_labels_of_one_cell_and_cells_on_one_spot():
    label = np.array(["a"] * 30 + ["only"])
    score = graph_connectivity(nearest_neighbors(np.random.default_rng(0).normal(size=(31, 2)), 30), label)
    assert score.per_label.to_dict() == {"a": 1.0, "only": 1.0}
    assert graph_connectivity(nearest_neighbors(np.zeros((10, 2)), 14), ["a"] * 10).value == 1


def test_a_label_without_arrows():
    """The only neighbour of each cell has the other label."""
    points = np.array([0, 1, 10, 11, 20, 21])[:, None]
    score = graph_connectivity(nearest_neighbors(points, 1), ["a", "b"] * 3)
    assert score.per_label.to_dict() == pytest.approx({"a": 1 / 3, "b": 1 / 3})


@pytest.mark.parametrize(
    ("label", "message"), [(["a"] * 3, "label has 3 values for 4 cells"), (["a", None, "b", "b"], "missing for 1 of 4")]
)
def test_bad_input_is_named(label, message):
    with pytest.raises(InputError, match=message):
        graph_connectivity(nearest_neighbors(np.eye(4), 2), label)
