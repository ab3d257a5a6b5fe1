"""Principal components of sparse expression."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import sparse

from sysvi._core.errors import InputError


def principal_components(expression: Any, n_components: int, *, seed: int = 0) -> np.ndarray:
    """Coordinates of cells on the first principal components of their expression.

    Genes are centred inside the products (ARPACK), so a sparse matrix is never made dense: ``scanpy.pp.pca`` with its
    default solver. To give genes the same variance, divide the columns by their standard deviation first.

    Parameters
    ----------
    expression
        Cells x genes, sparse or dense; its type of float is kept.
    n_components
        How many; one less than the number of cells or genes where there are not as many.
    seed
        Of the solver's starting vector.

    Returns
    -------
    numpy.ndarray
        (n, components), components in order of falling variance; a component's sign means nothing.

    Raises
    ------
    InputError
        If there are fewer than two cells, or fewer than two genes that vary.

    Examples
    --------
    >>> principal_components(np.array([[0.0, 0.0], [3.0, 0.1], [6.0, 0.2]]), 5).shape
    (3, 1)
    """
    from sklearn.decomposition import PCA  # slow to import

    varies = _varies(expression) if expression.shape[0] else np.zeros(0, bool)
    if varies.sum() < 2:
        raise InputError("Principal components need at least two cells and two genes that vary among them.")
    if not varies.all():
        expression = expression[:, np.flatnonzero(varies)]
    n_components = min(n_components, min(expression.shape) - 1)
    return PCA(n_components, svd_solver="arpack", random_state=seed).fit_transform(expression)


def _varies(expression: Any) -> np.ndarray:
    """Whether the cells differ in each gene, (genes,)."""
    if not sparse.issparse(expression):
        return (expression != expression[:1]).any(0)
    n, n_genes = expression.shape
    expression = expression.tocsr()
    stored = np.bincount(expression.indices[expression.data != 0], minlength=n_genes)
    varies = (stored > 0) & (stored < n)
    everywhere = np.flatnonzero(stored == n)  # few genes
    columns = expression[:, everywhere].tocsc()
    varies[everywhere] = (columns.max(axis=0) != columns.min(axis=0)).toarray().ravel()
    return varies
