import importlib

import anndata
import numpy as np
import pytest
import scanpy as sc
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sysvi import InputError
from sysvi.metrics._neighbors import Neighbors, _brute_force, nearest_neighbors

CPU = torch.device("cpu")


def cloud(n, dimensions=5, seed=0, dtype=np.float32):
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(n, dimensions)) + 4 * rng.integers(3, size=(n, 1))).astype(dtype)


def brute_force(points, k):
    """The definition, in double precision: distances of the k nearest other cells, and all distances."""
    all_distances = np.sqrt(((points[:, None].astype(float) - points[None].astype(float)) ** 2).sum(2))
    np.fill_diagonal(all_distances, np.inf)
    return np.sort(all_distances, axis=1)[:, :k], all_distances


def check(neighbors, points, k, **tolerance):
    """Check neighbours: sorted by distance, without the cell itself and duplicates, distances as by brute force."""
    n = len(points)
    nearest, all_distances = brute_force(points, k)
    assert neighbors.indices.shape == neighbors.distances.shape == (n, k)
    assert (neighbors.indices != np.arange(n)[:, None]).all()
    assert all(len(set(row)) == k for row in neighbors.indices)
    assert (np.diff(neighbors.distances) >= 0).all()
    np.testing.assert_allclose(neighbors.distances, nearest, **tolerance)
    found = np.take_along_axis(all_distances, neighbors.indices, 1)
    np.testing.assert_allclose(neighbors.distances, found, **tolerance)


@pytest.mark.parametrize("dimensions", [1, 2, 15, 30])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_exact_against_the_definition(dimensions, dtype):
    points = cloud(300, dimensions, dtype=dtype)
    check(nearest_neighbors(points, 30, method="exact"), points, 30, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dimensions", [2, 30])
def test_brute_force_against_the_definition(dimensions):
    points = cloud(300, dimensions)
    check(_brute_force(points, 30, CPU), points, 30, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_exact_at_any_scale(scale):
    points = cloud(200).astype(float) * scale
    check(nearest_neighbors(points, 15), points, 15, rtol=1e-6)
    check(_brute_force(points, 15, CPU), points, 15, rtol=1e-4)


@pytest.mark.parametrize("offset", [1e3, 1e6])
def test_far_from_the_origin(offset):
    points = cloud(200, 20).astype(float) + offset
    check(nearest_neighbors(points, 15), points, 15, rtol=1e-9)
    check(_brute_force(points, 15, CPU), points, 15, rtol=1e-9)


def test_equally_far_cells_come_in_order():
    points = np.random.default_rng(0).integers(3, size=(60, 2)).astype(np.float32)
    neighbors = nearest_neighbors(points, 30)
    _, all_distances = brute_force(points, 30)
    for cell, row in enumerate(neighbors.indices):
        assert list(row) == sorted(row, key=lambda other, cell=cell: (all_distances[cell, other], other))


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 40), st.integers(1, 45), st.integers(1, 3), st.integers(0, 100))
def test_ties_and_duplicates(n, k, values, seed):
    """On a coarse grid most cells have duplicates; k may exceed the number of cells."""
    points = np.random.default_rng(seed).integers(values, size=(n, 2)).astype(np.float32)
    for neighbors in (nearest_neighbors(points, k), _brute_force(points, min(k, n - 1), CPU)):
        check(neighbors, points, min(k, n - 1), atol=1e-6)


def test_all_cells_on_one_spot():
    neighbors = nearest_neighbors(np.ones((50, 3)), 10)
    assert (neighbors.distances == 0).all()
    assert (neighbors.indices != np.arange(50)[:, None]).all()


@pytest.mark.slow
def test_approximate_finds_nearly_all():
    points = cloud(4500, 10)  # fewer are searched exactly
    exact, found = nearest_neighbors(points, 30), nearest_neighbors(points, 30, method="approximate")
    recall = np.mean([len(np.intersect1d(a, b)) / 30 for a, b in zip(exact.indices, found.indices, strict=True)])
    assert recall > 0.98
    assert (found.indices != np.arange(4500)[:, None]).all()
    assert (np.diff(found.distances) >= 0).all()
    true = np.linalg.norm(points[:, None] - points[found.indices], axis=2)
    np.testing.assert_allclose(found.distances, true, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_where_the_approximate_search_finds_too_few_the_exact_one_takes_over(monkeypatch):
    import pynndescent

    class Lost(pynndescent.NNDescent):
        @property
        def neighbor_graph(self):
            indices, distances = (part.copy() for part in super().neighbor_graph)
            indices[7, -1], distances[7, -1] = -1, np.inf
            return indices, distances

    monkeypatch.setattr(pynndescent, "NNDescent", Lost)
    points = cloud(4500)
    found = nearest_neighbors(points, 15, method="approximate")
    np.testing.assert_array_equal(found.indices, nearest_neighbors(points, 15).indices)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["exact", "approximate"])
def test_the_same_each_time(method):
    points = cloud(4500)
    first, second = (nearest_neighbors(points, 15, method=method, seed=1) for _ in range(2))
    np.testing.assert_array_equal(first.indices, second.indices)
    np.testing.assert_array_equal(first.distances, second.distances)


@pytest.mark.slow
def test_threads_of_torch_are_left_alone():
    before = torch.get_num_threads()
    nearest_neighbors(cloud(4500), 15, method="approximate")
    nearest_neighbors(cloud(300), 15, method="exact")
    assert torch.get_num_threads() == before


def test_nearest_and_graph():
    points = cloud(100)
    neighbors, fewer = nearest_neighbors(points, 20), nearest_neighbors(points, 5)
    assert (neighbors.n_cells, neighbors.n_neighbors) == (100, 20)
    np.testing.assert_array_equal(neighbors.nearest(5).indices, fewer.indices)
    np.testing.assert_array_equal(neighbors.nearest(5).distances, fewer.distances)
    graph = fewer.graph.toarray()
    assert graph.sum() == 100 * 5
    assert all(set(np.flatnonzero(graph[cell])) == set(fewer.indices[cell]) for cell in range(100))


def test_duplicates_stay_in_the_graph():
    neighbors = nearest_neighbors(np.zeros((20, 2)), 3)
    assert neighbors.graph.nnz == 60
    assert neighbors.graph.sum() == 60


def connectivities_of_scanpy(points, k):
    adata = anndata.AnnData(obsm={"X": points}, shape=(len(points), 0))
    sc.pp.neighbors(adata, n_neighbors=k + 1, use_rep="X")
    return adata.obsp["connectivities"]


@pytest.mark.parametrize("k", [14, 49])
def test_connectivities_are_those_of_scanpy(k):
    points = cloud(500)
    own, other = nearest_neighbors(points, k).connectivities, connectivities_of_scanpy(points, k)
    assert own.nnz == other.nnz
    np.testing.assert_allclose(own.toarray(), other.toarray(), atol=1e-5)


def test_connectivities_with_duplicates_are_those_of_scanpy():
    """Triplets: two neighbours are at distance 0, twelve are four other triplets. Of a tie cut by k, any."""
    points = np.repeat(cloud(60), 3, axis=0)
    own, other = nearest_neighbors(points, 14).connectivities, connectivities_of_scanpy(points, 14)
    np.testing.assert_allclose(own.toarray(), other.toarray(), atol=1e-5)


def test_connectivities_with_duplicates_are_symmetric_and_full_between_twins():
    points = np.repeat(cloud(60), 2, axis=0)  # each cell has one twin
    graph = nearest_neighbors(points, 14).connectivities
    assert abs(graph - graph.T).max() == 0
    assert graph.diagonal().max() == 0
    twins = np.arange(120) ^ 1
    np.testing.assert_allclose(graph[np.arange(120), twins], 1)
    assert graph.data.min() > 0
    assert graph.data.max() <= 1


@pytest.mark.parametrize(
    ("points", "arguments", "message"),
    [
        (np.zeros((1, 2)), {}, "give at least two cells"),
        (np.zeros((5, 2)), {"method": "fast"}, "method is 'fast'; it must be one of 'auto', 'exact', 'approximate'"),
        (np.full((5, 2), np.nan), {}, "not finite"),
        (np.zeros(5), {}, "cells x dimensions"),
        (np.zeros((5, 2)), {"device": "tpu9"}, "not known"),
    ],
)
def test_bad_input_is_named(points, arguments, message):
    with pytest.raises(InputError, match=message):
        nearest_neighbors(points, 2, **arguments)


def test_neighbors_of_two_shapes_are_refused():
    with pytest.raises(InputError, match=r"\(3, 2\) and \(3, 1\)"):
        Neighbors(np.zeros((3, 2), int), np.zeros((3, 1)))


def test_brute_force_in_several_blocks(monkeypatch):
    points = cloud(300)
    whole = _brute_force(points, 15, CPU)
    monkeypatch.setattr(importlib.import_module("sysvi.metrics._neighbors"), "GPU_BLOCK_DISTANCES", 7 * 300)
    blocks = _brute_force(points, 15, CPU)  # of 7 cells, the last of 6
    np.testing.assert_array_equal(blocks.indices, whole.indices)
    np.testing.assert_array_equal(blocks.distances, whole.distances)


def test_fewer_neighbours_than_one_are_refused():
    with pytest.raises(InputError, match="at least one neighbour"):
        nearest_neighbors(cloud(20), 0)
    neighbors = nearest_neighbors(cloud(20), 5)
    with pytest.raises(InputError, match="at least one neighbour"):
        neighbors.nearest(0)
    assert neighbors.nearest(30).n_neighbors == 5  # all available neighbours
