import importlib

import numpy as np
import pandas as pd
import pytest
import scib_metrics
from hypothesis import given, settings
from hypothesis import strategies as st
from peers import simulate, with_self, without_self
from scipy.optimize import brentq

from sysvi import InputError
from sysvi.metrics._lisi import LISI_NEIGHBORS, cilisi, clisi, ilisi, ilisi_within, lisi
from sysvi.metrics._neighbors import Neighbors, nearest_neighbors


def entropy_of(beta, distances):
    weights = np.exp(-beta * (distances - distances.min()))
    weights /= weights.sum()
    return -np.sum(weights[weights > 0] * np.log(weights[weights > 0])), weights


def by_definition(distances, groups, perplexity):
    """LISI of one cell: weights exp(-beta d), the root of entropy(beta) = log(perplexity), sums of squared shares."""

    def excess(log_beta):
        return entropy_of(np.exp(log_beta), distances)[0] - np.log(perplexity)

    scale = np.log(np.ptp(distances))
    _, weights = entropy_of(np.exp(brentq(excess, -30 - scale, 30 - scale, xtol=1e-12)), distances)
    return 1 / sum(weights[groups == group].sum() ** 2 for group in set(groups))


@pytest.fixture(scope="module")
def baron(baron_pca):
    """PCA of every second cell, with the system and type of these cells."""
    half = baron_pca[::2]
    return half.obsm["X_pca"], *half.obs[["system", "batch", "cell_type"]].astype(str).to_numpy().T


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(st.integers(0, 1000), st.integers(3, 60), st.integers(1, 5), st.floats(1.5, 40))
def test_against_the_definition(seed, k, n_groups, perplexity):
    rng = np.random.default_rng(seed)
    neighbors = nearest_neighbors(rng.normal(size=(61, 3)), k)
    perplexity = min(perplexity, 0.95 * k)
    groups = rng.integers(n_groups, size=61)
    expected = [
        by_definition(distances, groups[indices], perplexity)
        for distances, indices in zip(neighbors.distances, neighbors.indices, strict=True)
    ]
    np.testing.assert_allclose(lisi(neighbors, groups, perplexity=perplexity), expected, rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("shift", [0.0, 0.5, 3.0])
def test_against_scib_metrics(shift):
    points, system, label = simulate(1000, shift=shift)
    neighbors = nearest_neighbors(points, 89)
    theirs = with_self(neighbors)
    for groups in (system, label):
        np.testing.assert_allclose(lisi(neighbors, groups), scib_metrics.lisi_knn(theirs, groups), rtol=1e-4)
    assert ilisi(neighbors, system).value == pytest.approx(scib_metrics.ilisi_knn(theirs, system), rel=1e-4, abs=1e-6)
    assert clisi(neighbors, label).value == pytest.approx(scib_metrics.clisi_knn(theirs, label), rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("shift", [0.0, 0.5, 3.0])
def test_conventions_of_scib_metrics_and_harmonypy(shift):
    """scib-metrics is given 90 neighbours with the cell itself; without it, it computes what harmonypy 2 does."""
    points, system, label = simulate(1000, shift=shift)
    scib = nearest_neighbors(points, LISI_NEIGHBORS["scib-metrics"])
    harmonypy = nearest_neighbors(points, LISI_NEIGHBORS["harmonypy"])
    assert with_self(scib).n_neighbors == without_self(harmonypy).n_neighbors == 90
    for groups in (system, label):
        np.testing.assert_allclose(lisi(scib, groups), scib_metrics.lisi_knn(with_self(scib), groups), rtol=1e-4)
        theirs = scib_metrics.lisi_knn(without_self(harmonypy), groups)
        np.testing.assert_allclose(lisi(harmonypy, groups), theirs, rtol=1e-4)
    expected = scib_metrics.ilisi_knn(without_self(harmonypy), system)
    assert ilisi(harmonypy, system).value == pytest.approx(expected, rel=1e-4, abs=1e-6)
    expected = [
        by_definition(distances, system[indices], 30)
        for distances, indices in zip(harmonypy.distances[:50], harmonypy.indices[:50], strict=True)
    ]
    np.testing.assert_allclose(lisi(harmonypy, system)[:50], expected, rtol=1e-6)
    assert any(not np.allclose(lisi(harmonypy, g), lisi(scib, g), rtol=1e-4) for g in (system, label))


def test_against_scib_metrics_on_baron(baron):
    points, system, batch, label = baron
    neighbors = nearest_neighbors(points, 89)
    theirs = with_self(neighbors)
    for groups in (system, batch, label):
        np.testing.assert_allclose(lisi(neighbors, groups), scib_metrics.lisi_knn(theirs, groups), rtol=1e-4)
    assert ilisi(neighbors, batch).value == pytest.approx(scib_metrics.ilisi_knn(theirs, batch), rel=1e-4, abs=1e-6)
    assert clisi(neighbors, label).value == pytest.approx(scib_metrics.clisi_knn(theirs, label), rel=1e-4)
    mixed = np.random.default_rng(0).permutation(system)
    assert ilisi(neighbors, mixed).value == pytest.approx(scib_metrics.ilisi_knn(theirs, mixed), rel=1e-4)


@pytest.mark.parametrize("scale", [1e-30, 1e-12, 1e-6, 1e6, 1e12, 1e30])
def test_the_unit_of_the_embedding_is_irrelevant(scale):
    points, system, _ = simulate()
    neighbors = nearest_neighbors(points, 89)
    scaled = Neighbors(neighbors.indices, neighbors.distances * scale)
    np.testing.assert_allclose(lisi(scaled, system), lisi(neighbors, system), rtol=1e-9)


def test_distances_may_be_far_from_zero_and_close_together():
    """Weights would underflow in single precision or if distances were not shifted."""
    points, system, _ = simulate()
    neighbors = nearest_neighbors(points, 60)
    far = Neighbors(neighbors.indices, neighbors.distances.astype(float) + 1e4)
    np.testing.assert_allclose(lisi(far, system), lisi(neighbors, system), rtol=1e-7)


def test_chunks_make_no_difference(monkeypatch):
    points, system, _ = simulate(300)
    neighbors = nearest_neighbors(points, 30)
    whole = lisi(neighbors, system)
    monkeypatch.setattr(importlib.import_module("sysvi.metrics._lisi"), "CHUNK_VALUES", 7 * 30)
    np.testing.assert_allclose(lisi(neighbors, system), whole, rtol=1e-12)


def equally_weighted(groups):
    """Inverse Simpson index of a list of groups."""
    shares = pd.Series(groups).value_counts(normalize=True)
    return 1 / (shares**2).sum()


@pytest.mark.slow
def test_cells_on_one_spot_count_all_neighbours_the_same():
    rng = np.random.default_rng(0)
    system = rng.integers(3, size=200)
    neighbors = nearest_neighbors(np.ones((200, 4)), 89)
    values = lisi(neighbors, system)
    np.testing.assert_allclose(values, [equally_weighted(system[row]) for row in neighbors.indices])
    np.testing.assert_allclose(values, scib_metrics.lisi_knn(with_self(neighbors), system), rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("nearest", [0.0, 1.0])
def test_more_ties_than_the_perplexity_count_alone(nearest):
    """50 of 89 neighbours are equally near, the perplexity is 30."""
    rng = np.random.default_rng(0)
    indices = np.array([rng.permutation(np.delete(np.arange(120), cell))[:89] for cell in range(120)])
    distances = np.hstack([np.full((120, 50), nearest), nearest + 1 + np.sort(rng.random((120, 39)), 1)])
    system = rng.integers(2, size=120)
    values = lisi(Neighbors(indices, distances), system)
    np.testing.assert_allclose(values, [equally_weighted(system[row[:50]]) for row in indices])
    theirs = scib_metrics.lisi_knn(with_self(Neighbors(indices, distances)), system)
    if nearest == 0:
        np.testing.assert_allclose(values, theirs, rtol=1e-4)
    else:
        assert (theirs == -1).all()  # the difference our docstring names


def test_tied_and_other_cells_do_not_disturb_each_other():
    points, system, _ = simulate(300)
    neighbors = nearest_neighbors(points, 60)
    distances = neighbors.distances.copy()
    distances[::3, :] = 0
    values = lisi(Neighbors(neighbors.indices, distances), system)
    others = np.arange(300) % 3 > 0
    np.testing.assert_allclose(values[others], lisi(neighbors, system)[others], rtol=1e-7)
    np.testing.assert_allclose(values[::3], [equally_weighted(system[row]) for row in neighbors.indices[::3]])


@pytest.mark.parametrize("perplexity", [10, 11, 1000.0])
def test_a_perplexity_of_all_neighbours_counts_them_all_the_same(perplexity):
    points, system, _ = simulate(100)
    neighbors = nearest_neighbors(points, 10)
    expected = [equally_weighted(system[row]) for row in neighbors.indices]
    np.testing.assert_allclose(lisi(neighbors, system, perplexity=perplexity), expected)


def test_a_perplexity_of_one_counts_the_nearest_alone():
    points, system, _ = simulate(100)
    np.testing.assert_allclose(lisi(nearest_neighbors(points, 10), system, perplexity=1), 1, rtol=1e-6)
    np.testing.assert_array_equal(lisi(nearest_neighbors(points, 1), system), 1)


@pytest.mark.parametrize("k", [1, 2, 4, 5, 44, 89, 90])
def test_the_default_perplexity_is_a_third(k):
    points, _, label = simulate(200)
    neighbors = nearest_neighbors(points, k)
    third = {1: 1, 2: 1, 4: 1, 5: 2, 44: 15, 89: 30, 90: 30}[k]
    np.testing.assert_array_equal(lisi(neighbors, label), lisi(neighbors, label, perplexity=third))


def test_fewer_cells_than_neighbours():
    points, system, _ = simulate(12)
    neighbors = nearest_neighbors(points, 89)
    assert neighbors.n_neighbors == 11
    expected = [
        by_definition(distances, system[indices], 4)
        for distances, indices in zip(neighbors.distances, neighbors.indices, strict=True)
    ]
    np.testing.assert_allclose(lisi(neighbors, system), expected, rtol=1e-6)


@pytest.mark.slow
@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.integers(2, 3), st.integers(2, 5), st.integers(1, 3))
def test_properties(seed, n_systems, n_labels, copies):
    points, system, label = simulate(120, n_systems, n_labels, seed=seed)
    points = points[np.arange(120) // copies]  # with duplicated points
    neighbors = nearest_neighbors(points, 30)
    values = lisi(neighbors, label)
    n_labels = len(set(label))
    assert values.min() >= 1
    assert values.max() <= n_labels
    renamed = np.array([f"type {5 - ord(name)}" for name in label])
    np.testing.assert_allclose(lisi(neighbors, renamed), values, rtol=1e-12)

    order = np.random.default_rng(seed).permutation(120)
    moved = Neighbors(np.argsort(order)[neighbors.indices[order]], neighbors.distances[order])
    np.testing.assert_allclose(lisi(moved, label[order]), values[order], rtol=1e-12)
    whole, shuffled = clisi(neighbors, label), clisi(moved, label[order])
    assert shuffled.value == pytest.approx(whole.value)
    pd.testing.assert_series_equal(shuffled.per_label, whole.per_label)
    for score in (whole, ilisi(neighbors, system, label), cilisi(points, system, label)):
        assert 0 <= score.value <= 1
        assert score.per_label.between(0, 1).all()


def test_mixing_raises_ilisi_and_lowers_clisi():
    rng = np.random.default_rng(0)
    points = rng.normal(size=(600, 3))
    points[300:] += 20
    groups = np.repeat([0, 1], 300)
    order = rng.permutation(600)
    neighbors = nearest_neighbors(points, 89)
    by_share = []
    for share in (0, 0.2, 0.5, 1):
        some, mixed = order[: int(600 * share)], groups.copy()
        mixed[some] = rng.permutation(mixed[some])
        by_share.append((ilisi(neighbors, mixed).value, clisi(neighbors, mixed).value))
    mixing, purity = np.array(by_share).T
    assert mixing[0] == 0
    assert purity[0] == 1
    assert (np.diff(mixing) > 0.05).all()
    assert mixing[-1] > 0.85
    np.testing.assert_allclose(mixing + purity, 1)


def test_scores_of_labels_are_medians_of_their_cells():
    points, system, label = simulate(400, n_systems=3, shift=0.7)
    neighbors = nearest_neighbors(points, 89)
    score = ilisi(neighbors, system, label)
    np.testing.assert_allclose(score.per_cell, (lisi(neighbors, system) - 1) / 2)
    assert score.per_label.to_dict() == {name: np.median(score.per_cell[label == name]) for name in "abcd"}
    assert list(score.per_label.index) == list("abcd")
    assert ilisi(neighbors, system).per_label is None
    assert ilisi(neighbors, system).value == score.value == np.median(score.per_cell)
    purity = clisi(neighbors, label)
    np.testing.assert_allclose(purity.per_cell, (4 - lisi(neighbors, label)) / 3)
    assert purity.per_label["c"] == np.median(purity.per_cell[label == "c"])
    assert purity.value == np.median(purity.per_cell)


def test_one_group_is_not_measured():
    points, _, label = simulate(50)
    neighbors = nearest_neighbors(points, 10)
    np.testing.assert_array_equal(lisi(neighbors, ["one"] * 50), 1)
    for score in (ilisi(neighbors, ["human"] * 50, label), clisi(neighbors, ["alpha"] * 50)):
        assert np.isnan(score.value)
        assert len(score.per_label) == 0
        assert np.isnan(score.per_cell).all()


def test_a_label_of_one_cell():
    points, system, label = simulate(50)
    label[7] = "only"
    neighbors = nearest_neighbors(points, 10)
    score = ilisi(neighbors, system, label)
    assert score.per_label["only"] == score.per_cell[7]


def by_original(distances, groups, perplexity):
    """Simpson index of one cell as scIntegrationMetrics computes it: bisection from beta = 1, unshifted weights."""
    beta, low, high = 1.0, None, None
    for _ in range(51):
        weights = np.exp(-beta * distances)
        entropy = np.log(weights.sum()) + beta * (distances * weights).sum() / weights.sum()
        excess = entropy - np.log(perplexity)
        if abs(excess) <= 1e-5:
            break
        if excess > 0:
            low, beta = beta, beta * 2 if high is None else (beta + high) / 2
        else:
            high, beta = beta, beta / 2 if low is None else (beta + low) / 2
    weights /= weights.sum()
    return sum(weights[groups == group].sum() ** 2 for group in set(groups))


def test_cilisi_against_scintegrationmetrics_recipe():
    points, system, label = simulate(300, n_systems=3, n_labels=3, shift=0.6)
    label[:21] = "few"  # fewer than 30 neighbours: all others
    per_cell = np.empty(300)
    for name in set(label):
        cells = np.flatnonzero(label == name)
        k = min(30, len(cells) - 1)
        for cell in cells:
            distances = np.linalg.norm(points[cells].astype(float) - points[cell], axis=1)
            nearest = np.argsort(distances)[1 : k + 1]
            simpson = by_original(distances[nearest], system[cells][nearest], k)
            per_cell[cell] = (1 / simpson - 1) / (len(set(system[cells])) - 1)
    score = cilisi(points, system, label)
    np.testing.assert_allclose(
        score.per_cell, per_cell, atol=2e-3
    )  # weights are slightly unequal because of its tolerance
    assert score.value == pytest.approx(per_cell.mean(), rel=1e-3)
    assert list(score.per_label.index) == ["a", "b", "c", "few"]
    for name in score.per_label.index:
        assert score.per_label[name] == pytest.approx(per_cell[label == name].mean(), rel=1e-3)


def test_cilisi_with_a_perplexity_is_lisi_within_the_type():
    points, system, label = simulate(300)
    score = cilisi(points, system, label, n_neighbors=60, perplexity=20)
    for name in "abcd":
        cells = label == name
        expected = lisi(nearest_neighbors(points[cells], 60), system[cells], perplexity=20) - 1
        np.testing.assert_allclose(score.per_cell[cells], expected)


def test_cilisi_measures_what_can_be_measured():
    rng = np.random.default_rng(0)
    system = np.array(["human", "mouse"] * 30)
    label = np.repeat(["shared", "few", "human only", "one", "shared"], [30, 9, 10, 1, 10])
    system[label == "human only"] = "human"
    score = cilisi(rng.normal(size=(60, 2)), system, label)
    assert list(score.per_label.index) == ["shared"]
    assert (np.isfinite(score.per_cell) == (label == "shared")).all()
    assert score.value == pytest.approx(score.per_label["shared"]) == pytest.approx(np.nanmean(score.per_cell))
    assert list(cilisi(rng.normal(size=(60, 2)), system, label, min_cells=9).per_label.index) == ["few", "shared"]
    nothing = cilisi(rng.normal(size=(60, 2)), ["human"] * 60, label)
    assert np.isnan(nothing.value)
    assert len(nothing.per_label) == 0
    assert np.isnan(nothing.per_cell).all()


def test_cilisi_is_scaled_by_the_systems_of_the_type():
    """A completely mixed type has the value 1 whether it occurs in two or in three systems."""
    rng = np.random.default_rng(0)
    label = np.repeat(["two", "three"], 3000)
    system = np.where(label == "two", rng.integers(2, size=6000), rng.integers(3, size=6000))
    score = cilisi(rng.normal(size=(6000, 2)), system, label, n_neighbors=200, perplexity=200)
    assert score.per_label["two"] == pytest.approx(score.per_label["three"], abs=0.02)
    assert score.per_label["two"] > 0.95


def test_cilisi_does_not_ask_for_mixing_of_types():
    """Types of one system each are separate, so that iLISI is 0; the only shared type is mixed."""
    rng = np.random.default_rng(0)
    label = np.repeat(["shared", "human only", "mouse only"], 200)
    system = np.where(label == "human only", 0, np.where(label == "mouse only", 1, rng.integers(2, size=600)))
    points = rng.normal(size=(600, 3)) + 50 * (label == "human only")[:, None] - 50 * (label == "mouse only")[:, None]
    assert ilisi(nearest_neighbors(points, 89), system).value == 0
    assert cilisi(points, system, label).value > 0.85


def test_ilisi_within_is_ilisi_of_each_system_alone(baron):
    points, system, batch, _ = baron
    score = ilisi_within(points, batch, system)
    assert list(score.per_label.index) == ["human", "mouse"]
    for name, value in score.per_label.items():
        cells = system == name
        theirs = with_self(nearest_neighbors(points[cells], 89))
        assert value == pytest.approx(scib_metrics.ilisi_knn(theirs, batch[cells]), rel=1e-4, abs=1e-6)
        assert value == np.median(score.per_cell[cells])
    assert score.value == score.per_label.mean()


def test_ilisi_within_leaves_systems_of_one_batch_out():
    points, _, _ = simulate(100)
    system = np.repeat(["human", "mouse", "rat"], [60, 39, 1])
    batch = np.where(system == "human", np.arange(100) % 3, 9)
    score = ilisi_within(points, batch, system)
    assert list(score.per_label.index) == ["human"]
    assert score.value == score.per_label["human"] > 0.5
    assert (np.isfinite(score.per_cell) == (system == "human")).all()
    assert np.isnan(ilisi_within(points, system, system).value)


GOOD = nearest_neighbors(np.arange(20.0)[:, None], 5)
POINTS = np.arange(20.0)[:, None]
ONES = np.ones(20)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: lisi(GOOD, np.ones(19)), "groups has 19 values for 20 cells"),
        (lambda: lisi(GOOD, ONES, perplexity=0.5), "perplexity is 0.5"),
        (lambda: lisi(GOOD, ONES, perplexity=np.nan), "perplexity is nan"),
        (lambda: lisi(GOOD, ONES, device="tpu9"), "not known"),
        (lambda: ilisi(GOOD, [None, *ONES[1:]]), "system is missing for 1 of 20 cells"),
        (lambda: ilisi(GOOD, ONES, [None, *ONES[1:]]), "label is missing for 1 of 20 cells"),
        (lambda: clisi(GOOD, [None, *ONES[1:]]), "label is missing for 1 of 20 cells"),
        (lambda: cilisi(POINTS, ONES[1:], ONES), "system has 19 values"),
        (lambda: cilisi(POINTS, ONES, [None, *ONES[1:]]), "label is missing for 1 of 20 cells"),
        (lambda: cilisi(POINTS * np.nan, ONES, ONES), "not finite"),
        (lambda: ilisi_within(POINTS, [None, *ONES[1:]], ONES), "batch is missing for 1 of 20 cells"),
        (lambda: ilisi_within(POINTS, ONES, ONES[1:]), "system has 19 values"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(InputError, match=message):
        call()
