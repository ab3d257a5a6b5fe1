import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist
from sklearn.neighbors import KNeighborsClassifier

from sysvi import InputError
from sysvi.mapping.calibration import apply_temperature, fit_temperature
from sysvi.mapping.label_classifier import LabelClassifier

SHIFT = np.array([[0, 0, 0], [3, 0, 0], [0, 4, 0]])


def cells(n=120, seed=0, batches=3):
    """Embedding, labels and batches of cells of three types, which overlap a little."""
    rng = np.random.default_rng(seed)
    code = rng.choice(3, n, p=[0.6, 0.3, 0.1])
    code[:6] = [0, 0, 1, 1, 2, 2]
    batch = rng.integers(0, batches, n)
    batch[:6] = [0, 1] * 3 if batches > 1 else 0
    z = rng.normal(size=(n, 3)) * [1, 0.5, 0.1] + SHIFT[code]
    return z, np.array(["alpha", "beta", "delta"])[code], np.array([f"donor{i}" for i in batch])


def inverse_covariance(z, label):
    """Inverse of the covariance within labels, averaged over labels, by loops."""
    d = z.shape[1]
    parts = [np.cov(z[label == name].T, bias=True) for name in np.unique(label)]
    covariance = sum(parts) / len(parts)
    return np.linalg.inv(0.999 * covariance + 0.001 * np.trace(covariance) / d * np.eye(d))


def votes(distance, neighbors, label, weight):
    """Probability of each label from neighbours and distances, by loops."""
    names = np.unique(label)
    k = distance.shape[1]
    table = np.zeros((len(distance), len(names)))
    for i in range(len(distance)):
        for j in range(k):
            vote = np.exp(-((distance[i, j] / distance[i, -1]) ** 2)) * weight[neighbors[i, j]]
            table[i, np.flatnonzero(names == label[neighbors[i, j]])[0]] += vote
    shares = table / table.sum(axis=1, keepdims=True)
    return (k * shares + 1 / len(names)) / (k + 1)


def label_distance(distance, label, candidate, k):
    """Mean distance to the k nearest cells of the candidate label, from a row of distances for each cell."""
    return np.array([np.sort(row[label == name])[:k].mean() for row, name in zip(distance, candidate, strict=True)])


def nearest(distance, k):
    order = np.argsort(distance, axis=1)[:, :k]
    return np.take_along_axis(distance, order, 1), order


@pytest.mark.parametrize("k", [1, 5, 15])
def test_equals_the_formulas_in_numpy(k):
    z, label, batch = cells()
    new = cells(40, seed=1)[0]
    found = LabelClassifier.fit(z, label, batch, n_neighbors=k, max_known_unknown=0.1)
    inverse = inverse_covariance(z, label)
    size = pd.Series(label + batch).map(pd.Series(label + batch).value_counts()).to_numpy()
    weight = 1 / np.sqrt(size)

    names = np.unique(label)
    code = np.searchsorted(names, label)
    held_out, mean_distance = np.empty((len(z), 3)), np.empty(len(z))
    for name in np.unique(batch):
        own, others = np.flatnonzero(batch == name), np.flatnonzero(batch != name)
        distance = cdist(z[own], z[others], "mahalanobis", VI=inverse)
        found_distance, order = nearest(distance, k)
        held_out[own] = votes(found_distance, others[order], label, weight)
        candidate = names[held_out[own].argmax(axis=1)]
        mean_distance[own] = label_distance(distance, label[others], candidate, k)
    temperature = fit_temperature(held_out, code)  # compared with scikit-learn's log loss in test_calibration.py
    assert found.temperature == pytest.approx(temperature, rel=1e-5)
    np.testing.assert_allclose(found.held_out.probability, apply_temperature(held_out, temperature), rtol=1e-4)
    np.testing.assert_array_equal(found.held_out.code, code)
    np.testing.assert_array_equal(found.held_out.correct, held_out.argmax(axis=1) == code)
    assert found.threshold == pytest.approx(np.quantile(mean_distance, 0.9))

    distance = cdist(new, z, "mahalanobis", VI=inverse)
    expected = votes(*nearest(distance, k), label, weight)
    probability, novelty = found.predict(new)
    np.testing.assert_allclose(probability, apply_temperature(expected, temperature), rtol=1e-4)
    expected_distance = label_distance(distance, label, names[expected.argmax(axis=1)], k)
    np.testing.assert_allclose(novelty, expected_distance / np.quantile(mean_distance, 0.9))


def test_equals_weighted_neighbors_of_scikit_learn_where_labels_are_equally_frequent():
    rng = np.random.default_rng(0)
    label = np.repeat(["alpha", "beta"], 50)
    z, new = rng.normal(size=(100, 2)) + (label == "beta")[:, None], rng.normal(size=(30, 2))
    found = LabelClassifier.fit(z, label)
    metric = {"metric": "mahalanobis", "metric_params": {"VI": inverse_covariance(z, label)}, "algorithm": "brute"}
    peer = KNeighborsClassifier(15, weights=lambda d: np.exp(-np.square(d / d.max(axis=1, keepdims=True))), **metric)
    shares = peer.fit(z, label).predict_proba(new)
    probability, _ = found.predict(new)
    np.testing.assert_allclose(probability, apply_temperature((15 * shares + 0.5) / 16, found.temperature), rtol=1e-5)


def test_cells_of_one_batch_are_compared_with_all_others():
    z, label, _ = cells(batches=1)
    found = LabelClassifier.fit(z, label)
    distance = cdist(z, z, "mahalanobis", VI=inverse_covariance(z, label))
    np.fill_diagonal(distance, np.inf)
    size = pd.Series(label).map(pd.Series(label).value_counts()).to_numpy()
    expected = votes(*nearest(distance, 15), label, 1 / np.sqrt(size))
    np.testing.assert_allclose(found.held_out.probability, apply_temperature(expected, found.temperature), rtol=1e-4)
    n_delta = (label == "delta").sum()
    assert n_delta > 15  # so that all have 15 others of their label
    candidate = np.unique(label)[expected.argmax(axis=1)]
    np.testing.assert_allclose(found.held_out.distance, label_distance(distance, label, candidate, 15))


def test_a_label_of_one_batch_only_is_compared_with_its_other_cells():
    z, label, batch = cells(200)
    batch[label == "delta"] = "donor0"
    found = LabelClassifier.fit(z, label, batch, n_neighbors=3)
    is_delta = found.held_out.code == 2
    assert is_delta.sum() > 10
    assert found.held_out.correct[is_delta].mean() > 0.9  # no cell of another batch could give them this label


def test_a_label_of_one_cell_is_predicted_but_not_held_out():
    z, label, batch = cells()
    z, label, batch = np.vstack([z, [[50, 50, 50]]]), np.append(label, "rare"), np.append(batch, "donor0")
    found = LabelClassifier.fit(z, label, batch, n_neighbors=1)
    assert len(found.held_out.code) == len(z) - 1
    probability, _ = found.predict([[50, 50, 50]])
    assert found.labels[probability.argmax()] == "rare"


def test_frequent_labels_and_large_batches_weigh_less_for_each_cell():
    z, label, batch = cells(300)
    found = LabelClassifier.fit(z, label, batch)
    total = pd.Series(found.voters.weight).groupby([label, batch]).sum()
    np.testing.assert_allclose(total, np.sqrt(pd.Series(label).groupby([label, batch]).size()))


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000))
def test_order_of_cells_and_orientation_of_the_embedding_do_not_matter(seed):
    rng = np.random.default_rng(seed)
    z, label, batch = cells(seed=seed)
    new = cells(30, seed=seed + 1)[0]
    probability, novelty = LabelClassifier.fit(z, label, batch).predict(new)
    np.testing.assert_allclose(probability.sum(axis=1), 1, rtol=1e-5)
    assert (probability > 0).all()
    assert (novelty > 0).all()

    cell, query = rng.permutation(len(z)), rng.permutation(len(new))
    other, other_novelty = LabelClassifier.fit(z[cell], label[cell], batch[cell]).predict(new[query])
    np.testing.assert_allclose(other, probability[query], rtol=1e-4)
    np.testing.assert_allclose(other_novelty, novelty[query], rtol=1e-9)

    rotation = 7 * np.linalg.qr(rng.normal(size=(3, 3)))[0]
    other, other_novelty = LabelClassifier.fit(z @ rotation + 5, label, batch).predict(new @ rotation + 5)
    np.testing.assert_allclose(other, probability, rtol=1e-4)
    np.testing.assert_allclose(other_novelty, novelty, rtol=1e-6)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000))
def test_copies_of_all_donors_change_no_label(seed):
    z, label, batch = cells(seed=seed)
    new = cells(30, seed=seed + 1)[0]
    once = LabelClassifier.fit(z, label, batch, n_neighbors=10)
    copies = np.char.add("copy of ", batch)
    twice = LabelClassifier.fit(np.vstack([z, z]), np.tile(label, 2), np.append(batch, copies), n_neighbors=20)
    np.testing.assert_array_equal(once.predict(new)[0].argmax(axis=1), twice.predict(new)[0].argmax(axis=1))


def test_a_cell_gets_the_same_result_in_any_query():
    z, label, batch = cells()
    new = cells(30, seed=1)[0]
    found = LabelClassifier.fit(z, label, batch)
    probability, novelty = found.predict(new)
    for i in (0, 17):
        alone, its_novelty = found.predict(new[[i]])
        np.testing.assert_allclose(alone[0], probability[i], rtol=1e-5)
        assert its_novelty[0] == pytest.approx(novelty[i])


def test_types_that_the_reference_lacks_are_novel_and_known_ones_are_not():
    z, label, batch = cells(600)
    found = LabelClassifier.fit(z, label, batch)
    same, _, _ = cells(300, seed=5)
    far = np.random.default_rng(0).normal((0, 0, 8), 1, (100, 3))
    assert (found.predict(same)[1] > 1).mean() < 0.1
    assert (found.predict(far)[1] > 1).all()


def test_a_query_larger_than_a_block(monkeypatch):
    z, label, batch = cells()
    new = cells(95, seed=1)[0]
    found = LabelClassifier.fit(z, label, batch)
    expected = found.predict(new)
    monkeypatch.setattr("sysvi.mapping.label_classifier.CELLS_AT_A_TIME", 10)
    for part, whole in zip(found.predict(new), expected, strict=True):
        np.testing.assert_allclose(part, whole, rtol=1e-5)


def test_large_references_are_held_out_in_part(monkeypatch):
    monkeypatch.setattr("sysvi.mapping.label_classifier.MAX_HELD_OUT_CELLS", 50)
    z, label, batch = cells()
    found = LabelClassifier.fit(z, label, batch)
    assert len(found.held_out.code) == 50
    assert len(found.voters.points) == len(z)


@pytest.mark.filterwarnings("error")
def test_degenerate_references():
    one_label = LabelClassifier.fit(np.random.default_rng(0).normal(size=(30, 2)), ["beta"] * 30)
    np.testing.assert_array_equal(one_label.predict([[0.0, 0.0], [99.0, 99.0]])[0], 1)
    assert one_label.predict([[0.0, 0.0], [99.0, 99.0]])[1][1] > 1
    one_place = LabelClassifier.fit(np.ones((20, 2)), ["alpha", "beta"] * 10)
    probability, novelty = one_place.predict([[1.0, 1.0], [1.0, 2.0]])
    assert probability[0].tolist() == pytest.approx([0.5, 0.5], abs=0.1)
    assert (novelty > 1).tolist() == [False, True]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((np.ones((2, 2)), ["alpha", "beta"]), "No label of the reference has two cells"),
        ((np.ones((2, 2)), ["beta"]), "label has 1 values for 2 cells"),
        ((np.full((2, 2), np.nan), ["beta", "beta"]), "not finite"),
    ],
)
def test_bad_references_are_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        LabelClassifier.fit(*arguments)


def test_an_embedding_of_another_width_is_refused():
    with pytest.raises(InputError, match="query has 2 dimensions, but that of the reference has 3"):
        LabelClassifier.fit(*cells()).predict(np.ones((1, 2)))
