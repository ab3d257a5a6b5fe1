from collections import Counter
from math import comb, log

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sysvi import InputError
from sysvi.metrics._clustering import kmeans, leiden, leiden_sweep, name_clusters
from sysvi.metrics._neighbors import nearest_neighbors
from sysvi.metrics._nmi_ari import ari, best_clusters, nmi

pairs = st.lists(st.tuples(st.sampled_from("abcd"), st.integers(0, 4)), min_size=1, max_size=40)


def entropy(values):
    return -sum(n / len(values) * log(n / len(values)) for n in Counter(values).values())


@settings(max_examples=60, deadline=None)
@given(pairs)
def test_nmi_by_definition(pairs):
    label, clusters = zip(*pairs, strict=True)
    mean = (entropy(label) + entropy(clusters)) / 2
    shared = entropy(label) + entropy(clusters) - entropy(pairs)
    assert nmi(label, clusters).value == pytest.approx(shared / mean if mean > 1e-12 else 1.0, abs=1e-9)


@settings(max_examples=60, deadline=None)
@given(pairs)
def test_ari_by_definition(pairs):
    label, clusters = zip(*pairs, strict=True)
    same, a, b = (sum(comb(n, 2) for n in Counter(v).values()) for v in (pairs, label, clusters))
    expected = a * b / comb(len(pairs), 2) if len(pairs) > 1 else 0
    largest = (a + b) / 2
    assert ari(label, clusters).value == pytest.approx(
        (same - expected) / (largest - expected) if largest != expected else 1.0, abs=1e-9
    )


@settings(max_examples=30, deadline=None)
@given(pairs, st.randoms())
def test_neither_order_nor_names_matter(pairs, rng):
    mixed = rng.sample(pairs, len(pairs))
    for metric in (nmi, ari):
        value = metric(*zip(*pairs, strict=True)).value
        renamed = metric([{"a": 3, "b": 1, "c": 2, "d": 0}[a] for a, _ in mixed], [f"cluster {-b}" for _, b in mixed])
        assert renamed.value == pytest.approx(value, abs=1e-12)


@pytest.mark.parametrize("metric", [nmi, ari])
def test_falls_as_labels_are_shuffled(metric):
    rng = np.random.default_rng(0)
    clusters = np.repeat([0, 1, 2, 3], 100)
    values = []
    for share in (0, 0.2, 0.5, 1):
        label = clusters.copy()
        some = rng.random(400) < share
        label[some] = rng.permutation(label[some])
        values.append(metric(label, clusters).value)
    assert values == sorted(values, reverse=True)
    assert values[0] == 1
    assert abs(values[-1]) < 0.05


@pytest.mark.parametrize("metric", [nmi, ari])
def test_one_label_or_one_cluster(metric):
    assert metric(["a"] * 4, [0] * 4).value == 1
    assert metric(["a"] * 4, [0, 0, 1, 1]).value == 0
    assert metric(["a", "a", "b", "b"], [0] * 4).value == 0
    assert metric(["a"], [3]).value == 1


def test_three_ways_against_scib_metrics(baron_pca):
    from peers import with_self
    from scib_metrics.metrics import nmi_ari_cluster_labels_kmeans, nmi_ari_cluster_labels_leiden

    adata = baron_pca[::3]
    points, label = adata.obsm["X_pca"], adata.obs["cell_type"]
    neighbors = nearest_neighbors(points, 14)
    theirs = with_self(neighbors)

    sweep = leiden_sweep(neighbors)
    best, expected = best_clusters(label, sweep), nmi_ari_cluster_labels_leiden(theirs, label.to_numpy())
    assert nmi(label, best).value == pytest.approx(expected["nmi"])
    assert ari(label, best).value == pytest.approx(expected["ari"])

    at_two = nmi_ari_cluster_labels_leiden(theirs, label.to_numpy(), optimize_resolution=False, resolution=2.0)
    assert nmi(label, sweep[2.0]).value == pytest.approx(at_two["nmi"])
    fixed = name_clusters(leiden(neighbors, 2.0), label)
    assert ari(label, fixed).value > at_two["ari"]  # split types are joined by their name

    clusters = kmeans(points, label.nunique())  # similar only, since random numbers differ
    expected = nmi_ari_cluster_labels_kmeans(points, label.to_numpy())
    assert nmi(label, clusters).value == pytest.approx(expected["nmi"], abs=0.1)
    assert ari(label, clusters).value == pytest.approx(expected["ari"], abs=0.2)


def test_the_first_of_the_best():
    label = list("aabb")
    found = {0.2: np.array([0, 0, 0, 0]), 0.4: np.array([1, 1, 0, 0]), 0.6: np.array([0, 0, 1, 1])}
    assert best_clusters(label, found) is found[0.4]
    assert best_clusters(["a"] * 4, found) is found[0.2]


@pytest.mark.parametrize("metric", [nmi, ari])
def test_bad_input_is_named(metric):
    with pytest.raises(InputError, match="clusters has 2 values for 3 cells"):
        metric(list("abc"), [0, 1])
    with pytest.raises(InputError, match="label is missing for 1 of 2"):
        metric(["a", None], [0, 1])
