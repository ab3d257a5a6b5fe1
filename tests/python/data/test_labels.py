import anndata
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sysvi._core.errors import InputError
from sysvi.data.labels import UNLABELLED, is_labelled, read_labels, stratified_sample

names = st.one_of(
    st.none(), st.sampled_from(["beta", "NK", "nano", "unknown type", "0", "T cell"]), st.text(max_size=8)
)


@st.composite
def spellings(draw):
    """A name that means "no label", in any case and with spaces around it."""
    name = draw(st.sampled_from(UNLABELLED))
    name = "".join(draw(st.sampled_from([letter.lower(), letter.upper()])) for letter in name)
    spaces = st.text(" \t", max_size=2)
    return draw(spaces) + name + draw(spaces)


def expected(value):
    return value is not None and value.strip().lower() not in UNLABELLED


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["object", "category", "string"])
@settings(max_examples=50, deadline=None)
@given(st.lists(st.one_of(names, spellings())))
def test_rule_against_a_loop(dtype, values):
    assert is_labelled(pd.Series(values, dtype=dtype)).tolist() == [expected(value) for value in values]


@given(spellings())
def test_all_spellings_mean_no_label(name):
    assert not is_labelled(pd.Series([name, "beta"]))[0]


@pytest.mark.parametrize("missing", [None, np.nan, pd.NA, pd.NaT])
def test_missing_values_mean_no_label(missing):
    assert is_labelled(pd.Series(["beta", missing], dtype="object")).tolist() == [True, False]


@pytest.mark.parametrize(
    ("values", "labelled"), [([0, 1], [True, True]), ([0.0, np.nan], [True, False]), ([True, False], [True, True])]
)
def test_labels_may_be_numbers(values, labelled):
    assert is_labelled(pd.Series(values)).tolist() == labelled


def test_other_names_may_mean_no_label():
    values = pd.Series(["Doublet", "doublet ", "unknown", None])
    assert is_labelled(values, ["doublet"]).tolist() == [False, False, True, False]
    assert is_labelled(values, [" Doublet"]).tolist() == [False, False, True, False]
    assert not is_labelled(pd.Series(["NA", "nan"]), ["doublet"]).any()  # missing values never are labels


def adata(values):
    return anndata.AnnData(obs=pd.DataFrame({"type": values}, index=[f"cell{i}" for i in range(len(values))]))


def test_labels_are_read_as_strings():
    labels, labelled = read_labels(adata(pd.Categorical([1, 2, None])), "type")
    assert labels[labelled].tolist() == ["1", "2"]
    assert labelled.tolist() == [True, True, False]


def test_without_a_column_all_cells_count():
    labels, labelled = read_labels(adata(["beta", None]), None)
    assert labels is None
    assert labelled.tolist() == [True, True]


def test_absent_column_is_refused():
    with pytest.raises(InputError, match=r"^label_key='cell' is not a column of adata.obs.*\(type\)\.$"):
        read_labels(adata(["beta"]), "cell")


def test_column_without_any_label_is_refused():
    with pytest.raises(InputError, match=r"adata.obs\['type'\] \(label_key\) labels no cell"):
        read_labels(adata(["unknown", None]), "type")


@pytest.mark.parametrize(("n_labels", "n_cells", "refused"), [(101, 201, True), (101, 202, False), (100, 100, False)])
def test_a_column_that_names_single_cells_is_refused(n_labels, n_cells, refused):
    cells = adata([f"type {i % n_labels}" for i in range(n_cells)] + ["unknown"] * 300)
    if refused:
        with pytest.raises(InputError, match=r"adata.obs\['type'\] \(label_key\) has 101 .* in 201 cells, .* single"):
            read_labels(cells, "type")
    else:
        assert read_labels(cells, "type")[1].sum() == n_cells


def test_a_sample_takes_all_unlabelled_cells_as_one_group():
    cells = adata(["beta"] * 100 + ["unknown", "Unassigned", "NA", None] * 10)
    cells.obs["system"] = "a"
    rows = stratified_sample(cells, "system", "type", 7, seed=0)
    assert (rows < 100).sum() == 5  # 100 of 140
    as_one = adata(["beta"] * 100 + [""] * 40)
    as_one.obs["system"] = "a"
    assert rows.tolist() == stratified_sample(as_one, "system", "type", 7, seed=0).tolist()
