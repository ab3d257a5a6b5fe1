"""Principal components of sparse expression matrices."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import sparse

from sysvi._core.errors import InputError
from sysvi._core.seeds import seed_of_32_bits
from sysvi._core.settings import whole_number


def principal_components(expression: Any, n_components: int, *, seed: int = 0) -> np.ndarray:
    """Compute the first principal components of the expression of cells.

    The solver (ARPACK) centres genes implicitly, so that a sparse matrix is never made dense. The result is that of
    ``scanpy.pp.pca`` with its default solver. Genes are not scaled: divide columns by their standard deviation first if
    all genes should have the same variance.

    Parameters
    ----------
    expression
        Expression, (n, genes), sparse or dense; its floating-point type is kept.
    n_components
        Number of components; at most one less than the number of cells and of varying genes.
    seed
        Random seed of the solver's starting vector.

    Returns
    -------
    numpy.ndarray
        Coordinates of the cells, (n, components), in order of decreasing variance. Signs are arbitrary.

    Raises
    ------
    InputError
        If there are fewer than two cells, or fewer than two genes that vary, or all values are tiny or huge.

    Examples
    --------
    >>> principal_components(np.array([[0.0, 0.0], [3.0, 0.1], [6.0, 0.2]]), 5).shape
    (3, 1)
    """
    from scipy.sparse.linalg import ArpackError
    from sklearn.decomposition import PCA

    varies = _varies(expression) if expression.shape[0] else np.zeros(0, bool)
    if varies.sum() < 2:
        raise InputError(
            "Principal components need at least two cells and two genes that vary among them: give more cells or genes."
        )
    if not varies.all():
        expression = expression[:, np.flatnonzero(varies)]
    if isinstance(expression, sparse.csr_matrix) and expression.indptr.dtype != expression.indices.dtype:
        parts = expression.data, expression.indices, expression.indptr  # as in stores; scikit-learn takes one type only
        expression = sparse.csr_matrix(parts, shape=expression.shape)
    n_components = min(whole_number("n_pcs", n_components, 1), min(expression.shape) - 1)
    try:
        return PCA(n_components, svd_solver="arpack", random_state=seed_of_32_bits(seed)).fit_transform(expression)
    except ArpackError as error:
        largest = expression.max()
        raise InputError(
            f"Principal components cannot be computed: the values, up to {largest:g}, are too small or too large."
        ) from error


def _varies(expression: Any) -> np.ndarray:
    """Find genes whose expression differs between cells, (genes,) bool."""
    if not sparse.issparse(expression):
        return (expression != expression[:1]).any(0)
    n, n_genes = expression.shape
    expression = expression.tocsr()
    stored = np.bincount(expression.indices[expression.data != 0], minlength=n_genes)
    varies = (stored > 0) & (stored < n)
    everywhere = np.flatnonzero(stored == n)  # the few genes expressed in all cells
    columns = expression[:, everywhere].tocsc()
    varies[everywhere] = (columns.max(axis=0) != columns.min(axis=0)).toarray().ravel()
    return varies
