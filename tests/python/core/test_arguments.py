from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import anndata
import numpy as np
import pandas as pd
import pytest

from sysvi import InputError
from sysvi._core.arguments import check_types


def function(
    adata: anndata.AnnData,
    layer: str | None,
    folder: str | Path,
    n: int,
    alpha: float,
    copy: bool,
    normalize: bool | None,
    names: Sequence[str],
    unlabelled: Iterable[str],
    seeds: int | Sequence[int],
    pair: tuple[str, str],
    family: Literal["metric", "all"],
    report: Callable[[str], None] | None,
    options: Mapping[str, Any] | None,
    table: pd.DataFrame,
) -> None: ...


GOOD = {
    "adata": [anndata.AnnData()],
    "layer": ["x", None],
    "folder": ["x", Path("x")],
    "n": [1, np.int64(3)],
    "alpha": [0.5, 1, np.float32(2)],
    "copy": [True, np.False_, 0],
    "normalize": [None, True, np.True_, 1],
    "names": [["a"], ("a",), np.array(["a"]), pd.Index(["a"]), []],
    "unlabelled": [["a"], {"a"}, (name for name in "ab")],
    "seeds": [3, [1, 2], np.arange(3), range(3)],
    "pair": [("a", "b"), ["a", "b"]],
    "family": ["all"],
    "report": [print, None],
    "options": [{}, {"a": 1}, None],
    "table": [pd.DataFrame()],
}
BAD = [
    ("adata", "cells.h5ad", r"adata must be an AnnData object, but it is of type str"),
    ("layer", ["x"], r"layer is of type list; it must be a string or None"),
    ("folder", None, r"folder is None; it must be a string or a path"),
    ("n", 1.5, r"n is 1\.5; it must be a whole number"),
    ("alpha", "x", r"alpha is 'x'; it must be a number"),
    ("copy", "yes", r"copy is 'yes'; it must be True or False"),
    ("normalize", np.arange(3), r"normalize is of type ndarray; it must be True or False or None"),
    ("names", "abc", r"names is the string 'abc'; it must be a list of strings: \['abc'\]"),
    ("names", ["a", 1], r"names is of type list; it must be a list of strings"),
    ("names", {"a": 1}, r"names is of type dict; it must be a list of strings"),
    ("unlabelled", 3, r"unlabelled is 3; it must be a list of strings"),
    ("seeds", "x", r"seeds is 'x'; it must be a whole number or a list of whole numbers"),
    ("pair", ("a",), r"pair is of type tuple; it must be 2 strings"),
    ("family", np.arange(2), r"family is of type ndarray; it must be one of 'metric', 'all'"),
    ("report", 1, r"report is 1; it must be a function or None"),
    ("options", [1], r"options is of type list; it must be a dictionary or None"),
    ("table", {}, r"table is of type dict; it must be an object of the class DataFrame"),
]


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in GOOD.items() for value in values])
def test_values_of_the_annotated_type_pass(name, value):
    check_types(function, **{name: value})


@pytest.mark.parametrize(("name", "value", "message"), BAD, ids=[message for *_, message in BAD])
def test_values_of_other_types_are_named(name, value, message):
    with pytest.raises(InputError, match=rf"^{message}"):
        check_types(function, **{name: value})


def test_elements_of_a_generator_are_not_consumed():
    names = (name for name in "ab")
    check_types(function, unlabelled=names)
    assert list(names) == ["a", "b"]
