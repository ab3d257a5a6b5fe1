import anndata
import numpy as np
import pytest
from scipy import sparse

from sysvi.data.row_blocks import read_into_memory, row_blocks, to_csr

DENSE = np.array([[0.0, 2.0, 1.0], [0.0, 0.0, 0.0], [3.0, 0.0, 0.0]])
KINDS = ["array", "csr", "csc", "unsorted", "disk array", "disk csr", "disk csc"]


def of_kind(kind, folder):
    if kind == "unsorted":
        return sparse.csr_matrix(([1.0, 2.0, 3.0], [2, 1, 0], [0, 2, 2, 3]), shape=(3, 3))
    make = {"array": np.array, "csr": sparse.csr_matrix, "csc": sparse.csc_matrix}[kind.removeprefix("disk ")]
    if not kind.startswith("disk"):
        return make(DENSE)
    anndata.AnnData(make(DENSE)).write_h5ad(folder / "cells.h5ad")
    return anndata.read_h5ad(folder / "cells.h5ad", backed="r").X


@pytest.mark.parametrize("kind", KINDS)
def test_any_kind_becomes_sorted_csr(kind, tmp_path):
    csr = to_csr(of_kind(kind, tmp_path))
    assert csr.format == "csr"
    assert csr.dtype == np.float32
    assert (csr.indices.tolist(), csr.data.tolist()) == ([1, 2, 0], [2, 1, 3])
    np.testing.assert_array_equal(csr.toarray(), DENSE)


def test_conversion_does_not_sort_the_given_matrix():
    given = sparse.csr_matrix((np.float32([1, 2, 3]), [2, 1, 0], [0, 2, 2, 3]), shape=(3, 3))
    to_csr(given)
    assert given.indices.tolist() == [2, 1, 0]


def test_csr_of_the_right_form_is_shared():
    given = sparse.csr_matrix(DENSE, dtype=np.float32)
    assert np.shares_memory(to_csr(given).data, given.data)


@pytest.mark.parametrize("kind", KINDS)
def test_reading_keeps_format_and_type(kind, tmp_path):
    matrix = read_into_memory(of_kind(kind, tmp_path))
    assert (matrix.format if sparse.issparse(matrix) else "array") == kind.removeprefix("disk ").replace(
        "unsorted", "csr"
    )
    assert matrix.dtype == np.float64
    np.testing.assert_array_equal(matrix.toarray() if sparse.issparse(matrix) else matrix, DENSE)


class Lazy:
    """Like an array of dask: slices are lazy too, and `compute` gives what the chunks are."""

    def __init__(self, matrix):
        self.matrix, self.shape, self.dtype, self.ndim = matrix, matrix.shape, matrix.dtype, 2

    def __getitem__(self, rows):
        return Lazy(self.matrix[rows])

    def compute(self):
        return self.matrix


@pytest.mark.parametrize("kind", ["array", "csr"])
def test_lazy_arrays_are_computed_block_by_block(kind):
    lazy = Lazy(of_kind(kind, None))
    blocks = [block.toarray() for _, _, block in row_blocks(lazy, n_rows=2)]
    np.testing.assert_array_equal(np.concatenate(blocks), DENSE)
    np.testing.assert_array_equal(to_csr(lazy).toarray(), DENSE)
