"""Short digests of data, which tell whether stored results belong to the same data."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
from anndata.abc import CSCDataset, CSRDataset
from scipy import sparse


def fingerprint(*arrays: Any) -> str:
    """Compute a digest of 16 hexadecimal digits that is equal for equal values.

    Parameters
    ----------
    arrays
        Arrays, sparse matrices in memory or on disk (CSR and CSC of the same values have the same digest), or columns
        of strings.

    Examples
    --------
    >>> fingerprint(np.arange(3)) == fingerprint(np.arange(3)), fingerprint(np.arange(3)) == fingerprint(np.arange(4))
    (True, False)
    """
    digest = hashlib.sha256()
    for array in arrays:
        if isinstance(array, CSRDataset | CSCDataset):
            array = array.to_memory()
        if sparse.issparse(array):
            array = array.tocsr().sorted_indices()  # a sorted copy: the caller's matrix stays as it is
            parts = [np.asarray(array.shape), array.indptr.astype(np.int64), array.indices.astype(np.int64), array.data]
        else:
            array = np.asarray(array)
            parts = [np.asarray(array.shape), array if array.dtype.kind in "biuf" else _text(array)]
        for part in parts:
            digest.update(np.ascontiguousarray(part).data)
    return digest.hexdigest()[:16]


def _text(array: np.ndarray) -> np.ndarray:
    """Bytes of the text of any values."""
    return np.frombuffer("\n".join(map(repr, array.ravel().tolist())).encode(), np.uint8)
