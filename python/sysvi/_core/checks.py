"""Checks of what a user hands over: each failure is one sentence with what is wrong, where, and what to do."""

from collections.abc import Callable, Iterable
from itertools import islice
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from sysvi._core.errors import InputError

LOG_CEILING = 20.0  # log1p of 500 million counts: nothing log-normalised lies above


def listing(names: Iterable[object], most: int = 20) -> str:
    """Names for an error message, at most ``most`` of them."""
    names = iter(names)
    shown = ", ".join(map(str, islice(names, most))) or "none"
    return f"{shown}, ..." if next(names, None) is not None else shown


def check_anndata(adata: object) -> None:
    """An InputError for anything that is no AnnData, such as the name of a file."""
    if not isinstance(adata, AnnData):
        raise InputError(
            f"adata is of type {type(adata).__name__}, not an AnnData: read a file with anndata.read_h5ad first."
        )


def check_not_empty(adata: AnnData) -> None:
    """There must be cells and genes."""
    if not adata.n_obs or not adata.n_vars:
        raise InputError(f"adata has {adata.n_obs} cells and {adata.n_vars} genes: there is nothing to integrate.")


def check_key(key: object, what: str) -> None:
    """The name of a column must be a text; `what` as in `check_obs_column`."""
    if not isinstance(key, str):
        raise InputError(
            f"{what}={key!r} is no text: give the name of one column of adata.obs (rename a column named otherwise)."
        )


def check_obs_column(adata: AnnData, key: str, what: str) -> np.ndarray:
    """Labels of a column of ``adata.obs`` that must exist and be complete.

    Parameters
    ----------
    adata
        Annotated data with n_cells cells.
    key
        Name of the column.
    what
        What the column is for, for the message: the argument's name, such as ``"system_key"``.

    Returns
    -------
    numpy.ndarray
        The labels as strings, shape (n_cells,).

    Raises
    ------
    InputError
        If there is no such column, or several, or it has missing or empty values.

    Examples
    --------
    >>> import numpy as np, pandas as pd, anndata
    >>> adata = anndata.AnnData(np.ones((2, 1)), obs=pd.DataFrame({"species": ["human", "mouse"]}, index=["a", "b"]))
    >>> check_obs_column(adata, "species", "system_key").tolist()
    ['human', 'mouse']
    """
    check_key(key, what)
    if key not in adata.obs:
        raise InputError(
            f"{what}={key!r} is not a column of adata.obs: choose one of its columns ({listing(adata.obs.columns)})."
        )
    column = adata.obs[key]
    if column.ndim > 1:
        raise InputError(f"adata.obs has {column.shape[1]} columns {key!r} ({what}): rename or remove all but one.")
    labels = column.astype(str).to_numpy(dtype=object)  # (n_cells,)
    missing = int((column.isna().to_numpy() | (labels == "")).sum())
    if missing:
        raise InputError(
            f"adata.obs[{key!r}] ({what}) has {missing} missing {'value' if missing == 1 else 'values'}: "
            "fill them in or remove these cells."
        )
    return labels


def get_expression(adata: AnnData, layer: str | None) -> tuple[str, Any]:
    """Where the expression is, in words, and the matrix of shape (n_cells, n_genes).

    Parameters
    ----------
    adata
        Annotated data.
    layer
        Name of a layer; None for ``adata.X``.

    Raises
    ------
    InputError
        If there is no such layer, or no X.

    Examples
    --------
    >>> import numpy as np, anndata
    >>> get_expression(anndata.AnnData(np.ones((1, 2))), None)
    ('adata.X', array([[1., 1.]]))
    """
    if layer is None:
        if adata.X is None:
            raise InputError(f"adata.X is empty: choose a layer ({listing(adata.layers)}).")
        return "adata.X", adata.X
    if layer not in adata.layers:
        raise InputError(f"adata has no layer {layer!r}: choose one of its layers ({listing(adata.layers)}).")
    return f"adata.layers[{layer!r}]", adata.layers[layer]


def check_unique_names(adata: AnnData) -> None:
    """Gene names and cell names must each be unique.

    Parameters
    ----------
    adata
        Annotated data.

    Raises
    ------
    InputError
        If a name occurs twice; it is named.

    Examples
    --------
    >>> import numpy as np, anndata
    >>> check_unique_names(anndata.AnnData(np.ones((2, 3))))
    """
    for axis, what, names in (("var", "gene", adata.var_names), ("obs", "cell", adata.obs_names)):
        if not names.is_unique:
            raise InputError(
                f"The {what} name {names[names.duplicated()][0]!r} occurs more than once in adata.{axis}_names: "
                f"make them unique, for example with adata.{axis}_names_make_unique()."
            )


def check_finite_nonnegative(block: sparse.csr_matrix, obs_names: pd.Index, var_names: pd.Index, where: str) -> None:
    """Expression values must be finite and not negative.

    Parameters
    ----------
    block
        Expression of some cells, CSR of shape (n_block, n_genes).
    obs_names
        Names of these cells, length n_block.
    var_names
        Gene names, length n_genes.
    where
        Where the values come from, for the message, such as ``"adata.X"``.

    Raises
    ------
    InputError
        If a value is NaN, infinite or negative; its gene and cell are named.

    Examples
    --------
    >>> import pandas as pd
    >>> from scipy import sparse
    >>> block = sparse.csr_matrix([[0.0, 1.5], [2.0, 0.0]])
    >>> check_finite_nonnegative(block, pd.Index(["cell1", "cell2"]), pd.Index(["INS", "GCG"]), "adata.X")
    """
    values = block.data  # (n_nonzero,)
    for is_bad, kind, advice in (
        (lambda part: ~np.isfinite(part), "a value that is not finite", "remove or repair such cells or genes"),
        (
            lambda part: part < 0,
            "a negative value",
            "give counts or log-normalised values, not scaled or corrected ones",
        ),
    ):
        entry = _first(values, is_bad)
        if entry is not None:
            row = int(np.searchsorted(block.indptr, entry, side="right")) - 1
            raise InputError(
                f"{where} has {kind} ({values[entry]:g} in gene {var_names[block.indices[entry]]!r}, "
                f"cell {obs_names[row]!r}): {advice}."
            )


def looks_like_counts(values: np.ndarray) -> bool:
    """Whether all values are non-negative integers, whatever their type.

    Parameters
    ----------
    values
        Expression values of any shape; zeros say nothing, so the nonzero values of a sparse matrix will do.

    Returns
    -------
    bool
        True for counts, and for no values at all.

    Examples
    --------
    >>> import numpy as np
    >>> looks_like_counts(np.array([0.0, 3.0, 12.0])), looks_like_counts(np.log1p([0.0, 3.0, 12.0]))
    (True, False)
    """
    values = np.asarray(values).ravel()
    return _first(values, lambda part: ~(np.isfinite(part) & (part >= 0) & (part == np.floor(part)))) is None


def check_log_normalised(x: sparse.csr_matrix, where: str) -> None:
    """Expression must look log-normalised: fractions, and no value that only counts reach."""
    if x.nnz and looks_like_counts(x.data):
        raise InputError(
            f"{where} looks like raw counts; run adata = sysvi.prepare(adata, system_key, batch_key) first."
        )
    if x.nnz and x.data.max() > LOG_CEILING:
        raise InputError(
            f"{where} has values up to {x.data.max():g}, too large for log-normalised expression; take log1p of it "
            "or start from counts with sysvi.prepare."
        )


def _first(values: np.ndarray, is_so: Callable[[np.ndarray], np.ndarray], size: int = 2**17) -> int | None:
    """Place of the first of the values, (n,), for which `is_so` holds; looked for in parts that fit a cache."""
    for start in range(0, len(values), size):
        found = is_so(values[start : start + size])
        if found.any():
            return start + int(found.argmax())
    return None
