import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sysvi import InputError
from sysvi.metrics._score import Score, check_embedding, encode_categories


def test_a_score_is_a_number():
    assert float(Score(0.25, pd.Series({"a": 0.25}), np.array([0.0, 0.5]))) == 0.25
    assert f"{Score(0.25).value:.1f}" == "0.2"


@given(st.lists(st.sampled_from(["beta", "alpha", "T cell", "0"]), min_size=1, max_size=30))
def test_codes_spell_the_values(values):
    codes, names = encode_categories(values, "label", len(values))
    assert list(names[codes]) == values
    assert list(names) == sorted(set(values))


@pytest.mark.parametrize(
    "values",
    [
        pd.Series(["b", "a", "b"], index=[7, 7, 9]),
        pd.Series(["b", "a", "b"], dtype="category").cat.add_categories(["unused"]),
        pd.Categorical(["b", "a", "b"], categories=["b", "a", "unused"], ordered=True),
        np.array(["b", "a", "b"]),
        ("b", "a", "b"),
    ],
)
def test_any_column_of_labels_will_do(values):
    codes, names = encode_categories(values, "label", 3)
    assert codes.tolist() == [1, 0, 1]
    assert codes.dtype == np.int64
    assert names.tolist() == ["a", "b"]


def test_numbers_are_labels_too():
    codes, names = encode_categories(np.array([2, 10, 2]), "batch", 3)
    assert names[codes].tolist() == ["2", "10", "2"]


@pytest.mark.parametrize("missing", [None, np.nan, pd.NA, float("nan")])
def test_missing_labels_are_counted(missing):
    with pytest.raises(InputError, match="system is missing for 2 of 4 cells"):
        encode_categories(["a", missing, "b", missing], "system", 4)


def test_a_missing_category_is_missing():
    with pytest.raises(InputError, match="label is missing for 1 of 2 cells"):
        encode_categories(pd.Series(["a", None], dtype="category"), "label", 2)


def test_another_length_is_named():
    with pytest.raises(InputError, match="label has 2 values for 3 cells"):
        encode_categories(["a", "b"], "label", 3)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_an_embedding_keeps_its_precision(dtype):
    points = np.eye(3, dtype=dtype)
    assert check_embedding(points) is points


def test_integers_become_floats():
    points = check_embedding([[1, 2], [3, 4]])
    assert points.dtype == np.float64
    assert points.tolist() == [[1, 2], [3, 4]]


@pytest.mark.parametrize(
    ("points", "message"),
    [
        ([1.0, 2.0], r"shape \(2,\)"),
        (np.zeros((0, 3)), r"shape \(0, 3\)"),
        (np.zeros((3, 0)), r"shape \(3, 0\)"),
        ([[np.nan, 0], [1, np.inf], [1, 2]], "2 of 3 cells is not finite"),
    ],
)
def test_a_bad_embedding_is_named(points, message):
    with pytest.raises(InputError, match=message):
        check_embedding(points)


@pytest.mark.parametrize("values", [[[1j]], [["a"]], [[None]]], ids=["complex", "text", "object"])
def test_an_embedding_holds_real_numbers(values):
    with pytest.raises(InputError, match=r"must hold real numbers|is not finite"):
        check_embedding(np.array(values))
