import importlib
import logging

import numpy as np
import pandas as pd
import peers
import pytest
import scib_metrics
from hypothesis import given, settings
from hypothesis import strategies as st
from peers import with_self
from scipy.stats import chisquare

from sysvi import InputError
from sysvi.metrics._kbet import kbet, kbet_per_label
from sysvi.metrics._neighbors import Neighbors, nearest_neighbors

logging.getLogger("scib_metrics").setLevel(logging.ERROR)


def simulate(n=600, shift=0.3, **sizes):
    return peers.simulate(n, n_labels=3, shift=shift, **sizes)


@pytest.fixture
def scib_searches_exactly(monkeypatch):
    """Make scib-metrics search exactly on the diffusion map, which is the one intended difference."""

    def exact(points, n_neighbors):
        return with_self(nearest_neighbors(points, n_neighbors - 1))

    monkeypatch.setattr(scib_metrics.nearest_neighbors, "pynndescent", exact)


def scib_of_each_label(neighbors, system, label):
    """Values of scib-metrics for one label at a time, the others too small to be measured.

    All at once, a label of fewer cells than diffusion components would change those after it.
    """
    values = {}
    for name in sorted(set(label)):
        tiny = np.char.add("tiny ", (np.arange(len(label)) // 9).astype(str))
        alone = np.where(label == name, "it", tiny)
        _, table = scib_metrics.kbet_per_label(with_self(neighbors), system, alone, return_df=True)
        values[name] = table.set_index("cluster")["kBET"]["it"]
    return pd.Series(values).dropna().to_dict()


@pytest.mark.slow
@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 70), st.integers(2, 4))
def test_p_values_against_scipy(seed, k, n_systems):
    rng = np.random.default_rng(seed)
    system = rng.permutation(np.r_[np.arange(n_systems), rng.integers(n_systems, size=80)])
    n = len(system)
    neighbors = nearest_neighbors(rng.normal(size=(n, 2)), k)
    shares = np.bincount(system) / n
    expected = []
    for cell in range(n):
        neighborhood = system[[cell, *neighbors.indices[cell]]]
        expected.append(chisquare(np.bincount(neighborhood, minlength=n_systems), (k + 1) * shares).pvalue)
    score = kbet(neighbors, system)
    np.testing.assert_allclose(score.per_cell, expected, rtol=1e-9, atol=1e-300)
    assert score.value == np.mean(np.array(expected) >= 0.05)
    assert kbet(neighbors, system, alpha=0.3).value == np.mean(np.array(expected) >= 0.3)


@pytest.mark.slow
@pytest.mark.parametrize("shift", [0.0, 0.3, 3.0])
def test_against_scib_metrics(shift):
    points, system, _ = simulate(n_systems=3, shift=shift)
    neighbors = nearest_neighbors(points, 49)
    rate, _, p_values = scib_metrics.kbet(with_self(neighbors), system)
    score = kbet(neighbors, system)
    np.testing.assert_allclose(score.per_cell, p_values, atol=1e-5)
    assert score.value == pytest.approx(float(rate), rel=1e-4)
    assert score.per_label is None


@pytest.mark.slow
@pytest.mark.parametrize("shift", [0.0, 0.3, 3.0])
@pytest.mark.usefixtures("scib_searches_exactly")
def test_per_label_against_scib_metrics(shift):
    points, system, label = simulate(n_systems=3, shift=shift)
    neighbors = nearest_neighbors(points, 49)
    score = kbet_per_label(neighbors, system, label)
    value, table = scib_metrics.kbet_per_label(with_self(neighbors), system, label, return_df=True)
    np.testing.assert_allclose(score.per_label, table["kBET"], atol=0.006)  # of 200 cells one may be at the threshold
    assert score.value == pytest.approx(value, abs=0.003)
    assert list(score.per_label.index) == list(table["cluster"])


@pytest.mark.slow
def test_per_label_against_scib_metrics_as_it_is():
    """scib-metrics with its own approximate search."""
    points, system, label = simulate(shift=0.4)
    neighbors = nearest_neighbors(points, 49)
    value = scib_metrics.kbet_per_label(with_self(neighbors), system, label)
    assert kbet_per_label(neighbors, system, label).value == pytest.approx(value, abs=0.01)


@pytest.mark.usefixtures("scib_searches_exactly")
@pytest.mark.filterwarnings("ignore:Mean of empty slice")  # of a label that scib-metrics leaves out
def test_per_label_against_scib_metrics_on_baron(baron_pca):
    types = ["acinar", "activated stellate", "delta", "gamma", "macrophage"]  # acinar are of human only
    adata = baron_pca[baron_pca.obs["cell_type"].isin(types)]
    system, label = adata.obs[["system", "cell_type"]].astype(str).to_numpy().T
    points = pd.DataFrame(adata.obsm["X_pca"])
    centred = points - points.groupby([system, label]).transform("mean") + points.groupby(label).transform("mean")
    neighbors = nearest_neighbors(centred.to_numpy(), 89)  # species nearly mixed within each type
    score = kbet_per_label(neighbors, system, label)
    theirs = scib_of_each_label(neighbors.nearest(49), system, label)
    assert score.per_label.to_dict() == pytest.approx(theirs, abs=0.005)
    assert score.value == pytest.approx(np.mean(list(theirs.values())), abs=0.002)
    assert score.per_label["delta"] < 0.5 < score.per_label["activated stellate"]


@pytest.mark.slow
@pytest.mark.usefixtures("scib_searches_exactly")
def test_where_scib_metrics_differs_a_small_label_before_others():
    points, system, label = simulate(shift=0.5)
    label[:15], points[:15] = "A, a small one", points[:15] + 50  # all neighbours of each other
    neighbors = nearest_neighbors(points, 49)
    score = kbet_per_label(neighbors, system, label)
    _, table = scib_metrics.kbet_per_label(with_self(neighbors), system, label, return_df=True)
    assert score.per_label.to_dict() == pytest.approx(scib_of_each_label(neighbors, system, label), abs=0.006)
    assert abs(score.per_label.to_numpy() - table["kBET"].to_numpy()).max() > 0.01


@pytest.mark.slow
@pytest.mark.usefixtures("scib_searches_exactly")
def test_labels_in_pieces():
    """Label a has two large mixed components; b has too many small components; one component of c is too small."""
    rng = np.random.default_rng(0)
    label = np.repeat(["a", "b", "c"], [600, 200, 420])
    piece = np.r_[np.repeat([0, 1], 300), 10 + np.arange(200) % 10, np.repeat([30, 31], [400, 20])]
    system = rng.integers(2, size=1220)
    points = rng.normal(size=(1220, 3)) + 100 * piece[:, None]
    neighbors = nearest_neighbors(points, 15)  # fewer than a small piece has cells
    score = kbet_per_label(neighbors, system, label)
    assert score.per_label.to_dict() == pytest.approx(scib_of_each_label(neighbors, system, label), abs=0.006)
    assert score.per_label["a"] > 0.9
    assert score.per_label["b"] == 0
    assert score.per_label["c"] > 0.9
    assert (np.isfinite(score.per_cell) == ((label == "a") | (piece == 30))).all()


@pytest.mark.slow
@pytest.mark.usefixtures("scib_searches_exactly")
def test_a_label_of_which_one_system_is_left_is_not_mixed():
    rng = np.random.default_rng(0)
    system = np.repeat(["human", "mouse"], [900, 100])  # the mouse piece is too small to be tested
    points = rng.normal(size=(1000, 3)) + 100 * (system == "mouse")[:, None]
    neighbors, label = nearest_neighbors(points, 49), np.repeat("a", 1000)
    assert kbet_per_label(neighbors, system, label).value == 0
    assert scib_of_each_label(neighbors, system, label) == {"a": 0}


def test_small_labels_and_labels_of_one_system_are_not_measured():
    points, system, label = simulate(300)
    label[:9], label[9:19], label[19:29] = "9", "X", "Y"
    points[9:19] += 50
    system[9:19] = ["human", "mouse"] * 5
    system[19:29] = "human"
    neighbors = nearest_neighbors(points, 49)
    score = kbet_per_label(neighbors, system, label)
    assert list(score.per_label.index) == ["X", "a", "b", "c"]
    assert score.per_label["X"] == 1  # the neighbourhoods of ten cells are all ten
    assert np.isnan(score.per_cell[np.isin(label, ["9", "Y"])]).all()
    assert score.value == pytest.approx(score.per_label.mean())
    assert "X" not in kbet_per_label(neighbors, system, label, min_cells=11).per_label
    nothing = kbet_per_label(neighbors, ["human"] * 300, label)
    assert np.isnan(nothing.value)
    assert len(nothing.per_label) == 0
    whole = kbet(neighbors, ["human"] * 300)
    assert np.isnan(whole.value)
    assert np.isnan(whole.per_cell).all()


def test_chunks_make_no_difference(monkeypatch):
    points, system, _ = simulate(200)
    neighbors = nearest_neighbors(points, 20)
    whole = kbet(neighbors, system)
    monkeypatch.setattr(importlib.import_module("sysvi.metrics._kbet"), "CHUNK_VALUES", 30)
    np.testing.assert_array_equal(kbet(neighbors, system).per_cell, whole.per_cell)


def test_the_order_and_names_of_cells_are_irrelevant():
    points, system, label = simulate(400)
    neighbors, order = nearest_neighbors(points, 49), np.random.default_rng(0).permutation(400)
    moved = Neighbors(np.argsort(order)[neighbors.indices[order]], neighbors.distances[order])
    score = kbet_per_label(neighbors, system, label)
    shuffled = kbet_per_label(moved, system[order], label[order])
    np.testing.assert_allclose(shuffled.per_label, score.per_label, atol=0.01)
    renamed = kbet_per_label(neighbors, system, np.array(["z", "y", "x"])[np.unique(label, return_inverse=True)[1]])
    np.testing.assert_array_equal(renamed.per_label[::-1], score.per_label)
    np.testing.assert_allclose(kbet(moved, system[order]).per_cell, kbet(neighbors, system).per_cell[order])


def test_the_same_each_time_and_for_each_seed():
    points, system, label = simulate(400)
    neighbors = nearest_neighbors(points, 49)
    first, second, other = (kbet_per_label(neighbors, system, label, seed=seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first.per_cell, second.per_cell)
    assert other.value == pytest.approx(first.value, abs=0.01)


def test_systems_moving_apart_lower_it():
    values = []
    for shift in (0.0, 0.4, 0.8, 3.0):
        points, system, label = simulate(shift=shift)
        neighbors = nearest_neighbors(points, 49)
        values.append((kbet(neighbors, system).value, kbet_per_label(neighbors, system, label).value))
    assert (np.diff(values, axis=0) <= 0).all()
    assert min(values[0]) > 0.85
    assert max(values[-1]) < 0.05


def test_cells_on_one_spot_are_defined():
    system = np.random.default_rng(0).integers(2, size=100)
    score = kbet_per_label(nearest_neighbors(np.zeros((100, 3)), 49), system, ["a"] * 100)
    assert 0 <= score.value <= 1


GOOD, FOUR = nearest_neighbors(np.eye(4), 2), ["a", "a", "b", "b"]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: kbet(GOOD, ["a"] * 3), "system has 3 values for 4 cells"),
        (lambda: kbet_per_label(GOOD, ["a", None, "b", "b"], FOUR), "system is missing for 1 of 4"),
        (lambda: kbet_per_label(GOOD, FOUR, ["a", None, "b", "b"]), "label is missing for 1 of 4"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(InputError, match=message):
        call()
