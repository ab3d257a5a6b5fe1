"""The base of log-normalised expression: e, or 2 as usual in Bioconductor (``scuttle::logNormCounts``).

Shapes: n cells, G genes.
"""

from __future__ import annotations

import math

import numpy as np
from scipy import sparse

from sysvi._core.events import Event, OnEvent, ignore_event
from sysvi.data.stored import StoredExpression

N_CELLS = 500  # that are looked at
TOLERANCE = 1e-3  # of the ratio of two counts to one
BASE_2 = "The expression looks like logarithms to base 2 (as of scuttle::logNormCounts), and is taken as such"
MIN_RATIO = 10  # by which base 2 has to fit better than e


def natural_units(x: sparse.csr_matrix | StoredExpression, on_event: OnEvent = ignore_event) -> float:
    """What one unit of log-normalised expression is in natural logarithms: 1, or log(2) if the base is 2.

    The two smallest values of a cell are nearly always those of one and two counts. So with the right base b, the
    second (b^value - 1) is twice the first. Where this does not tell the bases apart, as with values that are no
    counts, they are taken for natural logarithms.

    Parameters
    ----------
    x
        Log-normalised expression, (n, G).
    on_event
        Called with an event of stage ``"compare"`` if the base is 2.

    Returns
    -------
    float

    Examples
    --------
    >>> counts = np.random.default_rng(0).poisson(1, (20, 50)) * [[2.0]]  # a scale, as after normalisation
    >>> natural_units(sparse.csr_matrix(np.log1p(counts)))
    1.0
    >>> round(natural_units(sparse.csr_matrix(np.log2(1 + counts))), 4)
    0.6931
    """
    rows = np.unique(np.linspace(0, x.shape[0] - 1, N_CELLS).astype(np.int64))
    block = x[rows]
    smallest = [np.unique(values[values > 0])[:2] for values in np.split(block.data, block.indptr[1:-1])]
    pairs = np.array([values for values in smallest if len(values) == 2], np.float64).reshape(-1, 2)
    if not len(pairs):
        return 1.0
    errors = []
    for unit in (1.0, math.log(2)):
        one, two = np.expm1(pairs * unit).T
        errors.append(float(np.median(np.abs(two / one - 2))))
    natural, base_2 = errors
    if base_2 < TOLERANCE and MIN_RATIO * base_2 < natural:
        on_event(Event("compare", BASE_2))
        return math.log(2)
    return 1.0
