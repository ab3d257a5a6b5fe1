import random

import igraph
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import adjusted_rand_score

from sysvi import InputError
from sysvi.metrics._clustering import RESOLUTIONS, kmeans, leiden, leiden_sweep, name_clusters
from sysvi.metrics._jaccard import jaccard
from sysvi.metrics._neighbors import Neighbors, nearest_neighbors
from sysvi.metrics._nmi_ari import nmi


def blobs(n, spread=1.0, seed=0):
    rng = np.random.default_rng(seed)
    label = rng.integers(0, 5, n)
    return 4 * np.eye(5, 8)[label] + spread * rng.normal(size=(n, 8)), label


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 42])
def test_leiden_gives_the_clusters_of_scib_metrics(seed):
    from scib_metrics.metrics._nmi_ari import _compute_clustering_leiden as reference

    points, _ = blobs(800, spread=1.5)
    neighbors = nearest_neighbors(points, 30)
    graph = neighbors.nearest(14).connectivities
    found = leiden_sweep(neighbors, seed=seed)
    assert list(found) == [2 * i / 10 for i in range(1, 11)]
    for resolution, clusters in found.items():
        np.testing.assert_array_equal(clusters, reference(graph, resolution, seed))
    np.testing.assert_array_equal(leiden(neighbors, 2.0, seed=seed), found[2.0])


def test_leiden_gives_the_clusters_of_scib_metrics_on_baron(baron_pca):
    from peers import with_self
    from scib_metrics.metrics._nmi_ari import _compute_clustering_leiden as reference

    adata = baron_pca[::3]
    neighbors = nearest_neighbors(adata.obsm["X_pca"], 20)
    theirs = with_self(neighbors.nearest(14))
    for resolution, clusters in leiden_sweep(neighbors, [0.4, 2.0]).items():
        np.testing.assert_array_equal(clusters, reference(theirs.knn_graph_connectivities, resolution, 42))


def test_leiden_agrees_with_scanpy():
    import anndata
    import scanpy as sc

    points, label = blobs(400, spread=0.6)
    adata = anndata.AnnData(obsm={"X": points}, shape=(400, 0))
    sc.pp.neighbors(adata, n_neighbors=15, use_rep="X")
    sc.tl.leiden(adata, 0.5, flavor="igraph", n_iterations=2, directed=False)
    ours = leiden(nearest_neighbors(points, 14), 0.5)
    assert adjusted_rand_score(ours, adata.obs["leiden"]) == 1  # other random numbers, clear clusters
    assert adjusted_rand_score(ours, label) == 1


def test_leiden_takes_the_neighbours_asked_for():
    points, _ = blobs(500, spread=1.5)
    neighbors = nearest_neighbors(points, 40)
    np.testing.assert_array_equal(leiden(neighbors, n_neighbors=40), leiden(neighbors, n_neighbors=99))
    np.testing.assert_array_equal(leiden(neighbors), leiden(neighbors.nearest(14), n_neighbors=99))
    assert (leiden(neighbors) != leiden(neighbors, n_neighbors=40)).any()


def test_leiden_leaves_the_random_numbers_of_the_process_alone():
    def draws():
        random.seed(7)
        return igraph.Graph.Erdos_Renyi(30, 0.3).get_edgelist()  # from igraph's default generator, Python's random

    neighbors = nearest_neighbors(blobs(100)[0], 14)
    before = draws()
    random.seed(7)
    state = random.getstate()
    leiden(neighbors)
    assert random.getstate() == state
    assert draws() == before
    with pytest.raises(InputError, match="seed is of type list"):
        leiden(neighbors, seed=[])  # no seed
    assert draws() == before


def test_leiden_finds_more_clusters_at_higher_resolutions():
    points, _ = blobs(600, spread=1.5)
    found = [
        clusters.max() + 1 for clusters in leiden_sweep(nearest_neighbors(points, 14), [0.01, 0.2, 2.0, 20.0]).values()
    ]
    assert found == sorted(found)
    assert found[0] < found[-1]
    assert len(RESOLUTIONS) == 10


@pytest.mark.parametrize(
    "points", [np.zeros((30, 2)), np.array([[0.0], [1.0]]), np.repeat(np.arange(3.0), 20)[:, None]]
)
def test_leiden_stands_copies_and_few_cells(points):
    clusters = leiden(nearest_neighbors(points, 14))
    assert clusters.shape == (len(points),)
    np.testing.assert_array_equal(np.unique(clusters), np.arange(clusters.max() + 1))


def test_leiden_separates_pieces():
    two = Neighbors(np.array([[1], [0], [3], [2]]), np.ones((4, 1)))
    np.testing.assert_array_equal(leiden(two), [0, 0, 1, 1])


def test_kmeans_finds_clear_clusters_and_repeats_itself():
    points, label = blobs(300, spread=0.5)
    clusters = kmeans(points, 5)
    assert adjusted_rand_score(clusters, label) == 1
    np.testing.assert_array_equal(kmeans(points, 5), clusters)
    order = np.random.default_rng(0).permutation(300)
    assert adjusted_rand_score(kmeans(points[order], 5), label[order]) == 1


@pytest.mark.slow
def test_kmeans_is_at_least_as_good_as_that_of_scib_metrics():
    from scib_metrics.utils import KMeans

    def inertia(clusters):
        return sum(((points[clusters == c] - points[clusters == c].mean(0)) ** 2).sum() for c in set(clusters))

    points, _ = blobs(500, spread=2.0)
    reference = KMeans(8)
    reference.fit(points)
    assert inertia(kmeans(points, 8)) <= 1.0001 * inertia(reference.labels_)


def test_kmeans_with_fewer_distinct_cells_than_clusters(recwarn):
    clusters = kmeans(np.repeat([[0.0], [1.0]], 5, axis=0), 4)
    assert adjusted_rand_score(clusters, np.repeat([0, 1], 5)) == 1
    assert not recwarn.list
    np.testing.assert_array_equal(kmeans([[1.0], [1.0]], 1), [0, 0])


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.sampled_from("abcd")), min_size=1, max_size=30))
def test_names_by_definition(pairs):
    clusters, label = map(np.array, zip(*pairs, strict=True))
    names = name_clusters(clusters, label)
    for cluster in set(clusters):
        inside = list(label[clusters == cluster])
        most = max(map(inside.count, inside))
        assert set(names[clusters == cluster]) == {min(name for name in inside if inside.count(name) == most)}
    np.testing.assert_array_equal(name_clusters(names, label), names)


def test_bad_input_is_named():
    neighbors = nearest_neighbors(np.arange(5.0)[:, None], 2)
    with pytest.raises(InputError, match="n_clusters is 6"):
        kmeans(np.eye(5), 6)
    with pytest.raises(InputError, match="n_clusters is 0"):
        kmeans(np.eye(5), 0)
    with pytest.raises(InputError, match="resolution is -1"):
        leiden(neighbors, -1)
    with pytest.raises(InputError, match="resolution is nan"):
        leiden_sweep(neighbors, [1.0, np.nan])
    with pytest.raises(InputError, match="n_neighbors is 0"):
        leiden(neighbors, n_neighbors=0)
    with pytest.raises(InputError, match="clusters has 2 values for 3 cells"):
        name_clusters([0, 1], list("abc"))
    with pytest.raises(InputError, match="label is missing for 1 of 2"):
        name_clusters([0, 1], ["a", None])


@pytest.mark.parametrize("n_points", [1, 3])
def test_cells_at_the_same_point_are_in_the_same_cluster(n_points):
    point = np.arange(300) % n_points
    clusters = leiden_sweep(nearest_neighbors(10.0 * point[:, None] * np.ones(5), 89))
    for found in clusters.values():
        assert len(np.unique(found)) == len(np.unique(np.stack([found, point]), axis=1).T) == n_points


def test_a_collapsed_embedding_agrees_with_no_labels():
    label = np.random.default_rng(0).choice(["alpha", "beta", "gamma"], 300)
    half = np.where(np.arange(300)[:, None] < 150, 0.0, np.random.default_rng(1).normal(size=(300, 5)))
    for embedding in (np.zeros((300, 5)), half):
        clusters = leiden(nearest_neighbors(embedding, 89), 2.0)
        assert nmi(label, name_clusters(clusters, label)).value < 0.1
        assert jaccard(label, clusters).value < 0.4
