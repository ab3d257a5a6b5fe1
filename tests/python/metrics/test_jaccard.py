import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import jaccard_score

from sysvi import InputError
from sysvi.metrics._clustering import name_clusters
from sysvi.metrics._jaccard import jaccard

pairs = st.lists(st.tuples(st.sampled_from("abcde"), st.integers(0, 6)), min_size=1, max_size=40)


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(pairs)
def test_by_definition_and_scikit_learn(pairs):
    label, clusters = map(list, zip(*pairs, strict=True))
    named = list(name_clusters(clusters, label))
    score = jaccard(label, clusters)
    for name in set(label):
        cells, found = ({i for i, v in enumerate(values) if v == name} for values in (label, named))
        assert score.per_label[name] == pytest.approx(len(cells & found) / len(cells | found))
    assert list(score.per_label.index) == sorted(set(label))
    assert score.value == pytest.approx(jaccard_score(label, named, average="macro"))
    assert 0 < score.value <= 1


@settings(max_examples=30, deadline=None)
@given(pairs, st.randoms())
def test_neither_order_nor_cluster_names_nor_naming_first_matter(pairs, rng):
    label, clusters = zip(*pairs, strict=True)
    score = jaccard(label, clusters)
    mixed_label, mixed_clusters = zip(*rng.sample(pairs, len(pairs)), strict=True)
    others = (
        jaccard(mixed_label, [f"cluster {-c}" for c in mixed_clusters]),
        jaccard(label, name_clusters(clusters, label)),
    )
    for other in others:
        assert other.per_label.to_dict() == score.per_label.to_dict()


def test_a_type_that_names_no_cluster_has_nothing():
    score = jaccard(["a"] * 6 + ["b"] * 2, [0, 0, 0, 1, 1, 1, 0, 1])
    assert score.per_label.to_dict() == {"a": 6 / 8, "b": 0}
    assert score.value == 3 / 8


def test_falls_as_types_mix():
    rng = np.random.default_rng(0)
    label = np.repeat(["a", "b", "c"], 100)
    values = []
    for share in (0, 0.2, 0.5):
        clusters = label.copy()
        some = rng.random(300) < share
        clusters[some] = rng.permutation(clusters[some])
        values.append(jaccard(label, clusters).value)
    assert values[0] == 1
    assert values == sorted(values, reverse=True)


def test_one_label():
    assert jaccard(["a"] * 4, [0, 1, 1, 2]).value == 1
    assert jaccard(["a"], [0]).value == 1


def test_bad_input_is_named():
    with pytest.raises(InputError, match="clusters has 2 values for 3 cells"):
        jaccard(list("abc"), [0, 1])
    with pytest.raises(InputError, match="label is missing for 1 of 2"):
        jaccard(["a", None], [0, 1])
