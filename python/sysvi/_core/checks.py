"""Checks of user input. Each failure is an InputError that says what is wrong, where, and what to do."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping
from itertools import islice
from typing import Any, NoReturn

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from sysvi._core.errors import InputError

FEW_GENES = 500  # with fewer, an integration is doubtful
TINY_SHARE = 0.1  # of the genes of a system that all systems have; below it, names of genes are likely to differ
# What a missing value becomes as text, in lower case, in Python, R, spreadsheets and databases.
MISSING_NAMES = (
    *("", "nan", "-nan", "na", "n/a", "<na>", "none", "null", "na_character_", "na_integer_", "na_real_"),
    *("#n/a", "#n/a n/a", "#na", "#null!", "1.#qnan", "-1.#qnan", "1.#ind", "-1.#ind"),
)
MAX_LOG_VALUE = 20.0  # log1p of 500 million counts; larger values cannot be log-normalised
WHOLE_SHARE = 0.25  # of the nonzero values; if as many are whole, the others are no logarithms but fractions of counts

TAKE_RAW = "take adata = adata.raw.to_adata()"


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


def is_missing(values: pd.Series) -> np.ndarray:
    """Find missing values, also those that became text ("nan", "NA", "None", ...): the one rule of the package.

    Text is compared without regard to case and to surrounding spaces.

    Parameters
    ----------
    values
        Values of any type, (n,).

    Returns
    -------
    numpy.ndarray
        (n,) bool.

    Examples
    --------
    >>> is_missing(pd.Series(["human", None, "nan", " NA ", "Nancy"])).tolist()
    [False, True, True, True, False]
    """
    if isinstance(values.dtype, pd.CategoricalDtype):  # look at each category instead of each cell
        is_missing_category = np.append(is_missing(pd.Series(values.cat.categories)), True)
        return np.asarray(is_missing_category[values.cat.codes], bool)
    return (values.isna() | values.astype(str).str.strip().str.lower().isin(MISSING_NAMES)).to_numpy(bool)


def to_text(values: pd.Series) -> np.ndarray:
    """Text of each value, (n,) object.

    Cells of a category share one string; pandas would make one for each cell, 100 bytes or more.

    Examples
    --------
    >>> to_text(pd.Series(["human", None, "human"], dtype="category")).tolist()
    ['human', 'nan', 'human']
    """
    if isinstance(values.dtype, pd.CategoricalDtype):
        return np.append(to_text(pd.Series(values.cat.categories)), "nan")[values.cat.codes]
    return np.asarray(values.astype(str).to_numpy(dtype=object))


def get_obs_column(adata: AnnData, key: str, argument: str) -> pd.Series:
    """Look up a column of ``adata.obs``, which must exist once; arguments as in `check_obs_column`."""
    check_key(key, argument)
    if key not in adata.obs:
        raise InputError(
            f"{argument}={key!r} is not a column of adata.obs: choose one of its columns "
            f"({listing(adata.obs.columns)})."
        )
    column = adata.obs[key]
    if column.ndim > 1:
        raise InputError(f"adata.obs has {column.shape[1]} columns {key!r} ({argument}): rename or remove all but one.")
    return column


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
        If there is no such column or more than one, or if it has missing or empty values, or such that became text
        (`is_missing`).

    Examples
    --------
    >>> import numpy as np, pandas as pd, anndata
    >>> adata = anndata.AnnData(np.ones((2, 1)), obs=pd.DataFrame({"species": ["human", "mouse"]}, index=["a", "b"]))
    >>> check_obs_column(adata, "species", "system_key").tolist()
    ['human', 'mouse']
    """
    column = get_obs_column(adata, key, argument)
    labels = to_text(column)  # (n_cells,)
    missing = is_missing(column)
    if missing.any():
        n = int(missing.sum())
        as_text = missing & ~column.isna().to_numpy() & (labels != "")
        names = "" if not as_text.any() else f" ({listing(map(repr, sorted(set(labels[as_text]))))} as text)"
        advice = ", or rename them if these are names" if names else ""
        todo = "fill it in or remove this cell" if n == 1 else "fill them in or remove these cells"
        raise InputError(
            f"adata.obs[{key!r}] ({argument}) has {n} missing {'value' if n == 1 else 'values'}{names}: {todo}{advice}."
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
        If there is no such layer, or no ``X``, or it does not hold real numbers.

    Examples
    --------
    >>> import numpy as np, anndata
    >>> get_expression(anndata.AnnData(np.ones((1, 2))), None)
    ('adata.X', array([[1., 1.]]))
    """
    if layer is None:
        if adata.X is None:
            raise InputError(f"adata.X is empty: choose a layer ({listing(adata.layers)}).")
        where, matrix = "adata.X", adata.X
    else:
        if not isinstance(layer, str) or layer not in adata.layers:
            or_raw = "" if adata.raw is None else f", or for the expression in raw {TAKE_RAW}"
            raise InputError(
                f"adata has no layer {layer!r}: choose one of its layers ({listing(adata.layers)}){or_raw}."
            )
        where, matrix = f"adata.layers[{layer!r}]", adata.layers[layer]
    check_real(matrix, where)
    return where, matrix


def check_real(matrix: Any, where: str) -> None:
    """Check that a matrix holds real numbers: complex ones would lose their imaginary part."""
    if matrix.dtype.kind not in "biuf":
        raise InputError(f"{where} holds values of type {matrix.dtype}, not real numbers: convert them first.")


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


def check_shared_genes(n_shared: int, n_genes: Mapping[str, int], of_system: str) -> None:
    """Check that systems share enough genes to be those of one species, or mapped to it.

    Genes of different species whose names happen to be equal say nothing about orthologues.

    Parameters
    ----------
    n_shared
        Number of genes that all systems have.
    n_genes
        Number of genes of each system, by its name.
    of_system
        What the genes of a system are, for the message: ``"expressed in"``.

    Raises
    ------
    InputError
        If all systems have fewer than 500 genes in common, and these are less than a tenth of the genes of every
        system.

    Warns
    -----
    UserWarning
        If they have more in common, but still less than a tenth.

    Examples
    --------
    >>> check_shared_genes(9_000, {"human": 15_000, "mouse": 12_000}, "expressed in")
    """
    system = min(n_genes, key=lambda name: n_genes[name])
    if n_shared >= TINY_SHARE * n_genes[system]:
        return
    message = (
        f"Only {n_shared} of the {n_genes[system]} genes {of_system} system {system!r} have the same gene names in "
        f"every system ({listing(n_genes)}): the systems name their genes differently. If they are different species, "
        "rename the genes with a table of orthologues first (sysvi.map_orthologs)."
    )
    if n_shared < FEW_GENES:
        raise InputError(message)
    warnings.warn(message, UserWarning, stacklevel=3)


def check_finite_nonnegative(
    block: sparse.csr_matrix, obs_names: pd.Index, var_names: pd.Index, where: str, has_raw: bool = False
) -> None:
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
    has_raw
        Whether ``adata.raw`` has expression too, which the message then proposes.

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
            "give counts or log-normalised values, not scaled or batch-corrected ones"
            + (f"; raw may hold them, {TAKE_RAW}" if has_raw else ""),
        ),
    ):
        entry = _first(values, is_bad)
        if entry is not None:
            row = int(np.searchsorted(block.indptr, entry, side="right")) - 1
            raise InputError(
                f"{where} has {kind} ({values[entry]:g} in gene {var_names[block.indices[entry]]!r}, "
                f"cell {obs_names[row]!r}): {advice}."
            )


class TooLargeError(InputError):
    """Raised for expression with values that are too large for logarithms, and with fractions."""


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


def whole_numbers(values: np.ndarray) -> np.ndarray:
    """Find the whole numbers among nonzero expression values, (n,) bool.

    Base-2 logarithms of 1 + counts have whole numbers too, since they are the logarithms of 2, 4, 8, ...: none of them
    is counted.

    Examples
    --------
    >>> whole_numbers(np.array([1.0, 2.7, 3.0])).tolist(), whole_numbers(np.log2([2.0, 3.0, 4.0])).tolist()
    ([True, False, True], [False, False, False])
    """
    whole = values == np.floor(values)
    if WHOLE_SHARE * len(values) <= whole.sum() < len(values) and values.max() <= MAX_LOG_VALUE:
        counts = np.exp2(values.astype(np.float64))
        if np.allclose(counts, counts.round(), rtol=1e-5):
            return np.zeros(len(values), bool)
    return whole


def have_fractions_of_counts(n_whole: int, n_values: int, largest: float) -> bool:
    """Whether nonzero values that are not all whole are counts all the same, and no logarithms.

    Such counts come from the correction for ambient RNA (SoupX, DecontX), which subtracts fractions, and from counters
    that divide reads among genes by expectation maximisation (EM).

    Parameters
    ----------
    n_whole, n_values
        Number of whole numbers (`whole_numbers`) among the nonzero values, and number of nonzero values.
    largest
        Largest value.
    """
    return n_whole < n_values and (n_whole >= WHOLE_SHARE * n_values or largest > MAX_LOG_VALUE)


def refuse_fractional_counts(
    n_whole: int, n_values: int, largest: float, where: str, remedy: str = "sysvi.prepare"
) -> None:
    """An InputError if `have_fractions_of_counts`, which says how to go on.

    `where` names the place of the values, and `remedy` the function that takes them with ``fractional_counts=True``.
    """
    if not have_fractions_of_counts(n_whole, n_values, largest):
        return
    advice = (
        f"round them, or take them as counts with fractional_counts=True of {remedy} (--fractional-counts on the "
        "command line)"
    )
    if n_whole >= WHOLE_SHARE * n_values:
        raise InputError(
            f"{where} looks like counts with fractions, as the correction for ambient RNA (SoupX, DecontX) and EM "
            f"counters give them: {advice}."
        )
    raise TooLargeError(
        f"{where} has values up to {largest:g}, too large for log-normalised expression, and fractions: if these are "
        f"counts corrected for ambient RNA, or from an EM counter, {advice}; if they are normalised but not yet "
        "logarithms, apply log1p."
    )


def check_not_counts(x: sparse.csr_matrix, where: str, for_trained_model: bool = False) -> None:
    """Check that expression is not raw counts; cells for a trained model may be of one system, with its genes only."""
    if x.nnz and looks_like_counts(x.data):
        refuse_counts(where, for_trained_model)


def refuse_counts(where: str, for_trained_model: bool = False) -> NoReturn:
    """An InputError that the expression looks like raw counts, and what to do."""
    advice = "run adata = sysvi.prepare(adata, system_key, batch_key) first"
    if for_trained_model:
        advice = (
            "map the new cells with sysvi.map_query, which takes counts, or normalise the new cells as those the "
            "model was trained on, with all their genes: scanpy.pp.normalize_total(adata, target_sum=1e4), then "
            "scanpy.pp.log1p(adata)"
        )
    raise InputError(f"{where} looks like raw counts; {advice}.")


def check_log_normalised(x: sparse.csr_matrix, where: str, warn_of_large: bool = False) -> None:
    """Check that expression looks log-normalised: it is neither counts, nor counts with fractions, nor too large.

    With `warn_of_large`, values that are too large are warned about instead.
    """
    check_not_counts(x, where)
    if x.nnz:
        sample = x.data[:: max(1, x.nnz // 2**20)]
        sample = sample[sample != 0]
        try:
            refuse_fractional_counts(int(whole_numbers(sample).sum()), len(sample), float(x.data.max()), where)
        except TooLargeError as error:
            if not warn_of_large:
                raise
            warnings.warn(str(error), stacklevel=3)


def _first(values: np.ndarray, condition: Callable[[np.ndarray], np.ndarray], chunk: int = 2**17) -> int | None:
    """Position of the first value for which `condition` holds, in chunks that fit into the processor's cache."""
    for start in range(0, len(values), chunk):
        found = condition(values[start : start + chunk])
        if found.any():
            return start + int(found.argmax())
    return None
