"""Checks of user input. Each failure is an InputError that says what is wrong, where, and what to do."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import islice
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from sysvi._core.errors import InputError

MAX_LOG_VALUE = 20.0  # log1p of 500 million counts; larger values cannot be log-normalised


def listing(names: Iterable[object], most: int = 20) -> str:
    """Join names for a message, showing at most `most` of them.

    Examples
    --------
    >>> listing(["INS", "GCG", "SST"], 2)
    'INS, GCG, ...'
    """
    names = iter(names)
    shown = ", ".join(map(str, islice(names, most))) or "none"
    return f"{shown}, ..." if next(names, None) is not None else shown


def check_anndata(adata: object) -> None:
    """Check that the input is an AnnData object, not for example the name of a file."""
    if not isinstance(adata, AnnData):
        raise InputError(
            f"adata must be an AnnData object, but it is of type {type(adata).__name__}: read a file with "
            "anndata.read_h5ad first."
        )


def check_not_empty(adata: AnnData) -> None:
    """Check that there are cells and genes."""
    if not adata.n_obs or not adata.n_vars:
        raise InputError(f"adata has {adata.n_obs} cells and {adata.n_vars} genes: there is nothing to integrate.")


def check_key(key: object, argument: str) -> None:
    """Check that the name of a column is a string; `argument` as in `check_obs_column`."""
    if not isinstance(key, str):
        raise InputError(
            f"{argument}={key!r} must be a string, the name of one column of adata.obs (rename the column if its name "
            "is not a string)."
        )


def check_obs_column(adata: AnnData, key: str, argument: str) -> np.ndarray:
    """Read a column of ``adata.obs`` that must exist and have a value for every cell.

    Parameters
    ----------
    adata
        Annotated data with n_cells cells.
    key
        Name of the column.
    argument
        Name of the argument that gave `key`, for messages, such as ``"system_key"``.

    Returns
    -------
    numpy.ndarray
        Values as strings, shape (n_cells,).

    Raises
    ------
    InputError
        If there is no such column or more than one, or if it has missing or empty values.

    Examples
    --------
    >>> import numpy as np, pandas as pd, anndata
    >>> adata = anndata.AnnData(np.ones((2, 1)), obs=pd.DataFrame({"species": ["human", "mouse"]}, index=["a", "b"]))
    >>> check_obs_column(adata, "species", "system_key").tolist()
    ['human', 'mouse']
    """
    check_key(key, argument)
    if key not in adata.obs:
        raise InputError(
            f"{argument}={key!r} is not a column of adata.obs: choose one of its columns "
            f"({listing(adata.obs.columns)})."
        )
    column = adata.obs[key]
    if column.ndim > 1:
        raise InputError(f"adata.obs has {column.shape[1]} columns {key!r} ({argument}): rename or remove all but one.")
    labels = column.astype(str).to_numpy(dtype=object)  # (n_cells,)
    missing = int((column.isna().to_numpy() | (labels == "")).sum())
    if missing:
        raise InputError(
            f"adata.obs[{key!r}] ({argument}) has {missing} missing {'value' if missing == 1 else 'values'}: "
            "fill them in or remove these cells."
        )
    return labels


def get_expression(adata: AnnData, layer: str | None) -> tuple[str, Any]:
    """Look up the expression matrix.

    Parameters
    ----------
    adata
        Annotated data.
    layer
        Name of a layer; None for ``adata.X``.

    Returns
    -------
    where : str
        Description of the place for messages, such as ``"adata.X"``.
    expression
        Matrix of shape (n_cells, n_genes), of any kind that AnnData holds.

    Raises
    ------
    InputError
        If there is no such layer, or no ``X``.

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
    """Check that no gene name and no cell name occurs twice.

    Parameters
    ----------
    adata
        Annotated data.

    Raises
    ------
    InputError
        If a name occurs twice; the message gives the name.

    Examples
    --------
    >>> import numpy as np, anndata
    >>> check_unique_names(anndata.AnnData(np.ones((2, 3))))
    """
    for axis, kind, names in (("var", "gene", adata.var_names), ("obs", "cell", adata.obs_names)):
        if not names.is_unique:
            raise InputError(
                f"The {kind} name {names[names.duplicated()][0]!r} occurs more than once in adata.{axis}_names: "
                f"make them unique, for example with adata.{axis}_names_make_unique()."
            )


def check_finite_nonnegative(block: sparse.csr_matrix, obs_names: pd.Index, var_names: pd.Index, where: str) -> None:
    """Check that expression values are finite and not negative.

    Parameters
    ----------
    block
        Expression of some cells, CSR of shape (n_cells, n_genes).
    obs_names
        Names of these cells, length n_cells.
    var_names
        Gene names, length n_genes.
    where
        Place of the values for the message, such as ``"adata.X"``.

    Raises
    ------
    InputError
        If a value is NaN, infinite or negative; the message gives its gene and cell.

    Examples
    --------
    >>> import pandas as pd
    >>> from scipy import sparse
    >>> block = sparse.csr_matrix([[0.0, 1.5], [2.0, 0.0]])
    >>> check_finite_nonnegative(block, pd.Index(["cell1", "cell2"]), pd.Index(["INS", "GCG"]), "adata.X")
    """
    values = block.data  # (n_nonzero,)
    for is_bad, kind, advice in (
        (
            lambda part: ~np.isfinite(part),
            "a value that is not finite",
            "correct such values or remove the cells or genes",
        ),
        (
            lambda part: part < 0,
            "a negative value",
            "give counts or log-normalised values, not scaled or batch-corrected ones",
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
    """Whether all values are non-negative whole numbers, of integer or floating-point type.

    Parameters
    ----------
    values
        Expression values of any shape; the stored values of a sparse matrix are enough.

    Returns
    -------
    bool
        True for counts, and for an empty array.

    Examples
    --------
    >>> import numpy as np
    >>> looks_like_counts(np.array([0.0, 3.0, 12.0])), looks_like_counts(np.log1p([0.0, 3.0, 12.0]))
    (True, False)
    """
    values = np.asarray(values).ravel()
    return _first(values, lambda part: ~(np.isfinite(part) & (part >= 0) & (part == np.floor(part)))) is None


def check_log_normalised(x: sparse.csr_matrix, where: str) -> None:
    """Check that expression looks log-normalised: it has fractions, and no value too large for a logarithm."""
    if x.nnz and looks_like_counts(x.data):
        raise InputError(
            f"{where} looks like raw counts; run adata = sysvi.prepare(adata, system_key, batch_key) first."
        )
    if x.nnz and x.data.max() > MAX_LOG_VALUE:
        raise InputError(
            f"{where} has values up to {x.data.max():g}, too large for log-normalised expression: apply log1p, or "
            "start from counts with sysvi.prepare."
        )


def _first(values: np.ndarray, condition: Callable[[np.ndarray], np.ndarray], chunk: int = 2**17) -> int | None:
    """Position of the first value for which `condition` holds, in chunks that fit into the processor's cache."""
    for start in range(0, len(values), chunk):
        found = condition(values[start : start + chunk])
        if found.any():
            return start + int(found.argmax())
    return None
