import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sysvi import InputError
from sysvi.metrics import shared_neighbors


def brute_force(embedding, system, label, k, min_cells):
    """The definition, cell by cell."""
    values = {}
    for name in sorted(set(label)):
        sizes = {s: sum((system == s) & (label == name)) for s in sorted(set(system))}
        sizes = {s: n for s, n in sizes.items() if n >= min_cells}
        if len(sizes) < 2:
            continue
        ratios = []
        for s, size in sizes.items():
            shares = []
            for i in np.flatnonzero((system == s) & (label == name)):
                distance = ((embedding - embedding[i]) ** 2).sum(1)
                distance[i] = np.inf
                nearest = np.argsort(distance)[:k]
                shares.append(((system[nearest] != s) & (label[nearest] == name)).mean())
            ratios.append(np.mean(shares) / (1 - size / sum(label == name)))
        values[name] = np.mean(ratios)
    return values


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1000), st.integers(2, 4), st.integers(1, 3), st.integers(1, 20), st.integers(1, 12))
def test_against_brute_force(seed, n_systems, n_labels, k, min_cells):
    rng = np.random.default_rng(seed)
    embedding = rng.normal(size=(70, 3))
    system = rng.choice(n_systems, 70, p=np.arange(1, n_systems + 1) / np.arange(1, n_systems + 1).sum())
    label = rng.choice(list("abc"[:n_labels]), 70)
    expected = brute_force(embedding, system, label, k, min_cells)
    if not expected:
        with pytest.raises(InputError, match="No label has"):
            shared_neighbors(embedding, system, label, n_neighbors=k, min_cells=min_cells)
        return
    values = shared_neighbors(embedding, system, label, n_neighbors=k, min_cells=min_cells)
    assert list(values.index) == list(expected)
    np.testing.assert_allclose(values, list(expected.values()))


def test_separated_systems_share_nothing():
    rng = np.random.default_rng(0)
    system = np.repeat(["human", "mouse"], 60)
    embedding = rng.normal(size=(120, 5)) + 100.0 * (system == "mouse")[:, None]
    assert shared_neighbors(embedding, system).to_dict() == {"all": 0.0}


@pytest.mark.parametrize("shares", [[0.5, 0.5], [0.9, 0.1], [0.6, 0.3, 0.1]])
def test_a_random_mix_is_one_whatever_the_sizes(shares):
    rng = np.random.default_rng(0)
    system = rng.choice(len(shares), 1500, p=shares)
    assert shared_neighbors(rng.normal(size=(1500, 3)), system)["all"] == pytest.approx(1, abs=0.1)


def test_mixed_and_separated_labels_are_told_apart():
    rng = np.random.default_rng(0)
    label, system = np.repeat(["mixed", "apart"], 200), np.tile([0, 1], 200)
    embedding = rng.normal(size=(400, 3)) + 100.0 * (label == "mixed")[:, None]
    embedding[(label == "apart") & (system == 1)] -= 100
    values = shared_neighbors(embedding, system, label)
    assert list(values.index) == ["apart", "mixed"]
    assert values["apart"] == 0
    assert values["mixed"] == pytest.approx(1, abs=0.1)


def test_private_and_rare_labels_are_not_measured():
    rng = np.random.default_rng(0)
    system = np.repeat(["human", "mouse"], 50)
    label = np.full(100, "shared", dtype=object)
    label[:20] = "human only"
    label[45:55] = "rare"  # 5 of each
    embedding = rng.normal(size=(100, 2))
    assert list(shared_neighbors(embedding, system, label).index) == ["shared"]
    assert list(shared_neighbors(embedding, system, label, min_cells=5).index) == ["rare", "shared"]


def test_identical_cells_are_no_neighbours_of_themselves():
    system = np.tile([0, 1], 30)
    embedding = np.repeat(np.arange(30.0), 2)[:, None]  # each cell has one twin, of the other system
    assert shared_neighbors(embedding, system, n_neighbors=1)["all"] == pytest.approx(2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"system": np.zeros(39)}, "system has 39 values for 40 cells"),
        ({"label": np.zeros(41)}, "label has 41 values for 40 cells"),
        ({"label": [None, *"a" * 39]}, "label is missing for 1 of 40"),
        ({"n_neighbors": 40}, "40 cells are too few for 40 neighbours"),
        ({"system": np.zeros(40)}, "No label has 20 cells"),
        ({"min_cells": 21}, "No label has 21 cells"),
    ],
)
def test_bad_input_is_named(change, message):
    good = {"embedding": np.random.default_rng(0).normal(size=(40, 2)), "system": np.tile([0, 1], 20)}
    shared_neighbors(**good)
    with pytest.raises(InputError, match=message):
        shared_neighbors(**good | change)
