import math

import anndata
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse

from sysvi._core.checks import (
    check_finite_nonnegative,
    check_obs_column,
    check_shared_genes,
    check_unique_names,
    is_missing,
    listing,
    looks_like_counts,
    to_text,
)
from sysvi._core.errors import InputError

CELLS, GENES = pd.Index(["c0", "c1", "c2"]), pd.Index(["A", "B"])


def adata(**obs):
    return anndata.AnnData(
        np.ones((3, 2), "float32"), obs=pd.DataFrame(obs, index=CELLS), var=pd.DataFrame(index=GENES)
    )


@given(st.lists(st.one_of(st.integers(-3, 9).map(float), st.floats(width=32))))
def test_looks_like_counts_against_a_loop(values):
    expected = all(math.isfinite(v) and v >= 0 and v == int(v) for v in values)
    assert looks_like_counts(np.array(values, dtype="float32")) is expected


@pytest.mark.parametrize("dtype", ["uint8", "int64", "float16", "float64"])
def test_counts_of_any_type(dtype):
    assert looks_like_counts(np.array([[0, 1], [7, 200]], dtype=dtype))


def test_log_normalised_values_are_not_counts():
    assert not looks_like_counts(np.log1p(np.array([0, 1, 2])))


@pytest.mark.parametrize("dtype", ["object", "category", "int", "bool"])
def test_obs_column_gives_labels_as_strings(dtype):
    values = {"int": [1, 2, 1], "bool": [True, False, True]}.get(dtype, ["x", "y", "x"])
    labels = check_obs_column(adata(batch=pd.Series(values, index=CELLS, dtype=dtype)), "batch", "batch_key")
    assert labels.tolist() == [str(v) for v in values]


def test_absent_obs_column_lists_the_columns():
    with pytest.raises(InputError, match=r"^system_key='species' is not .*\(donor, batch\)\.$"):
        check_obs_column(adata(donor=[1, 2, 3], batch=[1, 2, 3]), "species", "system_key")


@pytest.mark.parametrize("key", [0, None, ["x"]], ids=str)
def test_name_of_an_obs_column_must_be_a_string(key):
    bad = adata(x=[1, 2, 3])
    bad.obs[0] = 1
    with pytest.raises(InputError, match="must be a string, the name of one column"):
        check_obs_column(bad, key, "batch_key")


@pytest.mark.parametrize("missing", [None, np.nan, pd.NA, ""])
@pytest.mark.parametrize("dtype", ["object", "category"])
def test_missing_labels_are_counted(missing, dtype):
    column = pd.Series(["a", missing, missing], index=CELLS, dtype=dtype)
    with pytest.raises(InputError, match=r"obs\['system'\] \(system_key\) has 2 missing values"):
        check_obs_column(adata(system=column), "system", "system_key")


@pytest.mark.parametrize(
    "text", ["nan", "NaN", "NA", "None", "<NA>", " na ", "n/a", "NULL", "null", "#N/A", "NA_character_", "-nan"]
)
@pytest.mark.parametrize("dtype", ["object", "category", "string"])
def test_missing_values_that_became_text_are_missing(text, dtype):
    column = pd.Series(["a", text, text], index=CELLS, dtype=dtype)
    message = rf"obs\['system'\] \(system_key\) has 2 missing values \('{text}' as text\): fill .* or rename"
    with pytest.raises(InputError, match=message):
        check_obs_column(adata(system=column), "system", "system_key")


def test_names_that_begin_like_a_missing_value_are_names():
    names = ["Nan1", "NAT", "nonetheless"]
    assert check_obs_column(adata(donor=names), "donor", "batch_key").tolist() == names


@pytest.mark.parametrize(("axis", "what"), [("var", "gene"), ("obs", "cell")])
@pytest.mark.filterwarnings("ignore:.*names are not unique")
def test_repeated_name_is_named(axis, what):
    bad = adata()
    names = ["x", "A", "A"] if axis == "obs" else ["A", "A"]
    setattr(bad, f"{axis}_names", names)
    with pytest.raises(InputError, match=rf"The {what} name 'A' occurs more than once.*{axis}_names_make_unique"):
        check_unique_names(bad)


def test_unique_names_pass():
    check_unique_names(adata())


@pytest.mark.parametrize(
    ("value", "message"), [(-0.5, "negative value"), (np.nan, "not finite"), (np.inf, "not finite"), (-np.inf, "not")]
)
@given(row=st.integers(0, 2), column=st.integers(0, 1))
def test_bad_value_is_located(value, message, row, column):
    values = np.array([[0, 1], [0, 0], [2, 3]], dtype="float32")
    values[row, column] = value
    with pytest.raises(InputError, match=rf"^adata.X has .*{message}.*gene '{GENES[column]}', cell '{CELLS[row]}'"):
        check_finite_nonnegative(sparse.csr_matrix(values), CELLS, GENES, "adata.X")


def test_good_values_pass():
    check_finite_nonnegative(sparse.csr_matrix(np.eye(3, 2)), CELLS, GENES, "adata.X")


def test_listing_is_short():
    assert listing([]) == "none"
    assert listing("ab") == "a, b"
    assert listing(range(9), 3) == "0, 1, 2, ..."
    assert listing(range(3), 3) == "0, 1, 2"


@pytest.mark.parametrize("n", [9, 499])
def test_a_few_genes_that_happen_to_have_equal_names_are_refused(n):
    with pytest.raises(InputError, match=rf"^Only {n} of the 5000 genes of system 'mouse' .*map_orthologs\)\.$"):
        check_shared_genes(n, {"human": 9000, "mouse": 5000}, "of")


def test_many_genes_but_a_small_part_are_warned_about():
    with pytest.warns(UserWarning, match=r"^Only 600 of the 9000 genes of system 'human' .*orthologues"):
        check_shared_genes(600, {"human": 9000, "mouse": 12000}, "of")


@pytest.mark.parametrize("n", [30, 3000])
def test_a_tenth_of_the_genes_of_the_system_with_fewest_is_enough(n, recwarn):
    check_shared_genes(n, {"human": 30000, "mouse": 10 * n}, "of")
    assert not recwarn


@pytest.mark.parametrize(
    "values", [["a", "b", None, "a", " NA ", ""], [3, 1, None, 3], [True, False], [1.5, np.nan], []]
)
def test_text_and_missing_values_of_categories_are_those_of_their_values(values):
    plain = pd.Series(values, dtype=object)
    categories = pd.Series(values).astype("category")
    assert to_text(categories).tolist() == categories.astype(str).tolist()
    np.testing.assert_array_equal(is_missing(categories), is_missing(plain))
