"""Latent dimensions of an embedding: their spread, collapsed dimensions, and the standardised embedding."""

from __future__ import annotations

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import ArrayLike
from scipy import sparse

from sysvi._core.arguments import check_types
from sysvi._core.checks import listing
from sysvi._core.errors import InputError
from sysvi.metrics._score import check_embedding


def get_embedding(adata: AnnData, key: str) -> np.ndarray:
    """Read the embedding ``adata.obsm[key]`` as a float array, (n, dimensions), and check it.

    Raises
    ------
    InputError
        If there is no embedding of that name, or it is not a matrix of finite numbers.

    Examples
    --------
    >>> import anndata
    >>> get_embedding(anndata.AnnData(np.ones((2, 3)), obsm={"X_pca": np.ones((2, 1))}), "X_pca").shape
    (2, 1)
    """
    if key not in adata.obsm:
        raise InputError(f"adata.obsm has no embedding {key!r}: choose one of its keys ({listing(adata.obsm)}).")
    try:
        embedding = adata.obsm[key]
        return check_embedding(embedding.toarray() if sparse.issparse(embedding) else embedding)
    except InputError as error:
        raise InputError(f"adata.obsm[{key!r}] cannot be measured. {error}") from error


def latent_spread(embedding: ArrayLike, *, collapsed_below: float = 0.05) -> pd.DataFrame:
    """Measure the spread of each latent dimension, and find dimensions that have collapsed.

    An embedding may mix systems by shrinking the dimensions that separate them instead of aligning cells; a strong
    weight of the KL divergence or of an adversary does so (Fig. 2 of the paper). Such a dimension hardly contributes to
    distances, and so to nearly all metrics, although a decoder or a later scaling still uses it. Therefore look at
    the spread, and evaluate the standardised embedding (:func:`standardise`) as well as the raw one: mixing that is
    absent in the standardised embedding was an artefact of scale.

    Parameters
    ----------
    embedding
        Embedding, (n, dimensions).
    collapsed_below
        Threshold, as a share of the largest standard deviation, below which a dimension counts as collapsed. At 0.05
        such a dimension contributes less than 1/400 of what the widest dimension contributes to squared distances. The
        scale of the whole embedding does not matter.

    Returns
    -------
    pandas.DataFrame
        One row per dimension, counted from 0: ``std`` (over cells, divisor n), ``share`` of the total variance, and
        ``collapsed``. If all cells coincide, all shares are 0 and all dimensions have collapsed.

    Raises
    ------
    InputError
        If the embedding is not a matrix of finite numbers.

    Examples
    --------
    >>> latent_spread([[0.0, 0.0, 5.0], [2.0, 0.02, 5.0]]).reset_index()
       dimension   std   share  collapsed
    0          0  1.00  0.9999      False
    1          1  0.01  0.0001       True
    2          2  0.00  0.0000       True
    """
    check_types(latent_spread, collapsed_below=collapsed_below)
    points = check_embedding(embedding)
    std = _standard_deviations(points)  # (d,)
    variance = std**2
    return pd.DataFrame(
        {
            "std": std,
            "share": variance / (variance.sum() or 1.0),
            "collapsed": (std < collapsed_below * std.max()) | (std == 0),
        },
        index=pd.RangeIndex(len(std), name="dimension"),
    )


def standardise(embedding: ArrayLike) -> np.ndarray:
    """Scale each dimension of an embedding to mean 0 and variance 1, so that all contribute equally to distances.

    Evaluate the standardised embedding as well as the raw one: a dimension that separates the systems but was shrunk
    has full weight again (see :func:`latent_spread`). So has a dimension that holds nothing but noise; therefore
    metrics of the standardised embedding do not replace those of the raw one. Like ``scanpy.pp.scale``, but with
    divisor n in place of n - 1.

    Parameters
    ----------
    embedding
        Embedding, (n, dimensions).

    Returns
    -------
    numpy.ndarray
        Standardised embedding of the same shape and floating-point type; dimensions that do not vary become 0.

    Raises
    ------
    InputError
        If the embedding is not a matrix of finite numbers.

    Examples
    --------
    >>> standardise([[0.0, 7.0], [4.0, 7.0]])
    array([[-1.,  0.],
           [ 1.,  0.]])
    """
    points = check_embedding(embedding)
    std = _standard_deviations(points)
    centred = points - points.mean(0, dtype=np.float64)  # float64
    return (centred / np.where(std > 0, std, 1.0) * (std > 0)).astype(points.dtype)


def _standard_deviations(points: np.ndarray) -> np.ndarray:
    """Compute the standard deviation of each dimension, (d,) float64; exactly 0 where all cells are equal."""
    varies = (points != points[0]).any(0)
    return np.where(varies, points.std(0, dtype=np.float64), 0.0)
