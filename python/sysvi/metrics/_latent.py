"""Embeddings themselves: how far their dimensions spread, and the same embedding with equal spread."""

from __future__ import annotations

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import ArrayLike

from sysvi._core.checks import listing
from sysvi._core.errors import InputError
from sysvi.metrics._score import check_embedding


def get_embedding(adata: AnnData, key: str) -> np.ndarray:
    """The embedding ``adata.obsm[key]``, checked: float, cells x dimensions.

    Raises
    ------
    InputError
        If there is none of that name, or it holds values that are not finite.

    Examples
    --------
    >>> import anndata
    >>> get_embedding(anndata.AnnData(np.ones((2, 3)), obsm={"X_pca": np.ones((2, 1))}), "X_pca").shape
    (2, 1)
    """
    if key not in adata.obsm:
        raise InputError(f"adata.obsm has no embedding {key!r}: choose one of it ({listing(adata.obsm)}).")
    try:
        return check_embedding(adata.obsm[key])
    except InputError as error:
        raise InputError(f"adata.obsm[{key!r}] cannot be measured. {error}") from error


def latent_spread(embedding: ArrayLike, *, collapsed_below: float = 0.05) -> pd.DataFrame:
    """How much each dimension of an embedding spreads, and which have collapsed.

    An embedding may mix systems by shrinking the dimensions that tell them apart instead of aligning cells: strong
    weights of a prior or an adversary do so (the paper's Fig. 2). Distances, and with them nearly all metrics, no
    longer see such a dimension, though a decoder or a later scaling still does. So look at the spread, and evaluate
    the standardised embedding (:func:`standardise`) beside the raw one: mixing that is gone there was faked.

    Parameters
    ----------
    embedding
        Cells x dimensions.
    collapsed_below
        A dimension counts as collapsed if its standard deviation is below this share of the largest one. At 0.05 it
        adds less than 1/400 of what the widest dimension adds to a squared distance. Multiplying the whole embedding
        by a number changes nothing.

    Returns
    -------
    pandas.DataFrame
        A row for each dimension, counted from 0: ``std`` (over cells, divisor n), ``share`` of the total variance, and
        ``collapsed``. If all cells are in one place, shares are 0 and all dimensions have collapsed.

    Raises
    ------
    InputError
        If the embedding is not cells x dimensions, or not finite.

    Examples
    --------
    >>> latent_spread([[0.0, 0.0, 5.0], [2.0, 0.02, 5.0]]).reset_index()
       dimension   std   share  collapsed
    0          0  1.00  0.9999      False
    1          1  0.01  0.0001       True
    2          2  0.00  0.0000       True
    """
    points = check_embedding(embedding)
    std = _std(points)  # (d,)
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
    """The embedding with mean 0 and variance 1 in each dimension, so that all count the same in a distance.

    Evaluate it beside the raw embedding: a dimension that was only shrunk, with the systems still apart in it, is
    back to full size here (see :func:`latent_spread`). A dimension of mere noise is, too, so the raw embedding's
    values are not replaced by these. ``scanpy.pp.scale`` but for its divisor, n - 1, which scales all dimensions alike.

    Parameters
    ----------
    embedding
        Cells x dimensions.

    Returns
    -------
    numpy.ndarray
        The same shape and type of float; dimensions in which all cells are equal become 0.

    Raises
    ------
    InputError
        If the embedding is not cells x dimensions, or not finite.

    Examples
    --------
    >>> standardise([[0.0, 7.0], [4.0, 7.0]])
    array([[-1.,  0.],
           [ 1.,  0.]])
    """
    points = check_embedding(embedding)
    std = _std(points)
    centred = points - points.mean(0, dtype=np.float64)  # float64
    return (centred / np.where(std > 0, std, 1.0) * (std > 0)).astype(points.dtype)


def _std(points: np.ndarray) -> np.ndarray:
    """Standard deviation of each dimension in float64, exactly 0 where all cells are equal: (n, d) -> (d,)."""
    varies = (points != points[0]).any(0)
    return np.where(varies, points.std(0, dtype=np.float64), 0.0)
