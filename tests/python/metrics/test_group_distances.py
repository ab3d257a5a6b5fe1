import importlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist

from sysvi import InputError
from sysvi.metrics._group_distances import group_distances, silhouette_width

module = importlib.import_module("sysvi.metrics._group_distances")  # the function has its name


def by_definition(points, groups):
    distances = cdist(points.astype(np.float64), points.astype(np.float64))
    return np.stack([distances[:, groups == g].sum(1) for g in range(groups.max() + 1)], 1)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 90), st.integers(1, 20), st.integers(1, 6), st.integers(1, 40))
def test_against_all_pairs_whatever_the_tile(seed, n, n_groups, dimensions, tile):
    rng = np.random.default_rng(seed)
    points, groups = rng.normal(size=(n, dimensions)), rng.integers(0, n_groups, n)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "CPU_TILE", tile)
        np.testing.assert_allclose(group_distances(points, groups), by_definition(points, groups), 1e-12, 1e-6)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    ("offset", "radius"), [(0, 1), (1e4, 1), (0, 1e-4), (100, 1e-3)], ids=["plain", "far", "tight", "tight and far"]
)
def test_accurate_for_tight_groups_far_from_the_origin(dtype, offset, radius):
    rng = np.random.default_rng(0)
    groups = rng.integers(0, 5, 1500)
    points = (offset + rng.normal(size=(5, 15))[groups] + radius * rng.normal(size=(1500, 15))).astype(dtype)
    np.testing.assert_allclose(group_distances(points, groups), by_definition(points, groups), 1e-8)


def test_copies_are_exactly_nothing_apart():
    rng = np.random.default_rng(0)
    points = np.repeat(1e3 + rng.normal(size=(40, 50)), 30, axis=0)
    groups = np.repeat(np.arange(40), 30)
    sums = group_distances(points, groups)
    assert (sums[np.arange(1200), groups] == 0).all()
    np.testing.assert_allclose(sums, by_definition(points, groups), 1e-9)


@pytest.mark.parametrize("points", [np.full((6, 3), 0.1), np.ones((1, 2)), np.zeros((4, 1))])
def test_a_single_spot(points):
    assert (group_distances(points, np.arange(len(points)) % 2) == 0).all()


def test_an_empty_group_is_at_no_distance():
    sums = group_distances([[0.0], [1.0]], np.array([0, 2]))
    np.testing.assert_allclose(sums, [[0, 0, 1], [1, 0, 0]])


def test_threads_change_nothing_and_are_given_back():
    rng = np.random.default_rng(0)
    points, groups = rng.normal(size=(3000, 5)), rng.integers(0, 4, 3000)
    expected, threads = group_distances(points, groups), torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        for _ in range(3):
            np.testing.assert_array_equal(group_distances(points, groups), expected)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(threads)


def test_leaves_its_input_alone():
    points = np.random.default_rng(0).normal(size=(20, 3))
    copy = points.copy()
    group_distances(points, np.arange(20) % 3)
    np.testing.assert_array_equal(points, copy)


def test_cuda_agrees():
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    rng = np.random.default_rng(0)
    points, groups = rng.normal(size=(9000, 15)), rng.integers(0, 7, 9000)
    np.testing.assert_allclose(
        group_distances(points, groups, device="cuda"), group_distances(points, groups), 1e-10, 1e-6
    )


def test_bad_input_is_named():
    with pytest.raises(InputError, match="groups has 2 values for 3 cells"):
        group_distances(np.zeros((3, 1)), np.array([0, 1]))
    with pytest.raises(InputError, match="1 of 2 cells is not finite"):
        group_distances([[np.nan], [0.0]], np.array([0, 1]))
    with pytest.raises(InputError, match="device 'tpu'"):
        group_distances([[1.0], [0.0]], np.array([0, 1]), device="tpu")


def test_width():
    within, between = np.array([1.0, 3.0, 0.0, 0.0, 2.0]), np.array([2.0, 1.0, 0.0, 4.0, 9.0])
    np.testing.assert_allclose(
        silhouette_width(within, between, np.array([2, 2, 2, 2, 1])), [1 / 2, -2 / 3, 0, 1, 0], rtol=1e-15
    )
