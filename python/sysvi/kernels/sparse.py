"""Sparse expression of a minibatch that multiplies like a tensor.

Training uses expression only in the products x W (encoder), x' h (likelihood) and x S (gradient of the likelihood), so
a sparse minibatch never has to be made dense. Shapes: B cells, G genes, H columns of the other factor.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

Segments = tuple[Tensor, Tensor, Tensor]

_MM_HAS_OUT_DTYPE = "out_dtype" in (torch.mm.__doc__ or "")  # since torch 2.8


class SparseExpression:
    """Expression (B, G) as stored values on the CPU: ``x @ w`` and ``x.T @ h`` work as with a tensor.

    Each row of a product is a weighted sum of rows of the other factor, one for each stored value. That is what torch's
    embedding bag computes; on two cores, at 14 % non-zero values, it is four times as fast as the dense product. There
    is no gradient with respect to x, since nothing needs one.

    Parameters
    ----------
    rows
        CSR matrix, float32.

    Examples
    --------
    >>> x = SparseExpression(sp.csr_matrix(np.array([[0, 2.0], [1, 0]], np.float32)))
    >>> (x @ torch.tensor([[1.0], [10]])).tolist(), (x.T @ torch.tensor([[1.0], [10]])).tolist()
    ([[20.0], [1.0]], [[10.0], [2.0]])
    """

    def __init__(self, rows: sp.csr_matrix):
        self.shape = rows.shape
        self.segments = _segments(rows)
        self._rows = rows

    @cached_property
    def _column_segments(self) -> Segments:  # made at its first use: embedding cells, for one, never needs it
        return _segments(self._rows.tocsc())

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def dtype(self) -> torch.dtype:
        """Type of the values."""
        return self.segments[2].dtype

    def __matmul__(self, other: Tensor) -> Tensor:
        starts, columns, values = self.segments
        return torch.embedding_bag(other, columns, starts, False, 0, False, values, True)[0]

    @property
    def T(self) -> SparseExpression:
        """The transpose, which shares the values."""
        return self._from_segments(self.shape[::-1], self._column_segments, self.segments)

    def to_dense(self) -> Tensor:
        """All values as a dense tensor."""
        starts, columns, values = self.segments
        rows = torch.repeat_interleave(torch.arange(len(self)), starts.diff())
        return values.new_zeros(self.shape).index_put_((rows, columns), values)

    def to(self, dtype: torch.dtype) -> SparseExpression:
        """The same expression with values of another type."""
        rows, columns = ((starts, index, x.to(dtype)) for starts, index, x in (self.segments, self._column_segments))
        return self._from_segments(self.shape, rows, columns)

    def _from_segments(self, shape: tuple[int, int], rows: Segments, columns: Segments) -> SparseExpression:
        other = object.__new__(SparseExpression)
        other.shape, other.segments, other._column_segments = shape, rows, columns
        return other


def product_in_float32(a: Tensor | SparseExpression, b: Tensor) -> Tensor:
    """Compute a b; of bfloat16 factors the sums are returned in float32, not rounded back to bfloat16."""
    if b.dtype != torch.bfloat16:
        return a @ b
    assert isinstance(a, Tensor)
    if a.is_cuda and _MM_HAS_OUT_DTYPE:
        return torch.mm(a, b, out_dtype=torch.float32)
    return a.float() @ b.float()


def _segments(x: sp.csr_matrix | sp.csc_matrix) -> Segments:
    """Start of each row (of each column, for CSC), column (row) of each stored value, both int32, and the values."""
    starts, index = (array.astype(np.int32, copy=False) for array in (x.indptr, x.indices))
    return torch.from_numpy(starts), torch.from_numpy(index), torch.from_numpy(x.data)
