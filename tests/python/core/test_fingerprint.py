import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from sysvi._core.fingerprint import fingerprint

DENSE = np.array([[0.0, 2.0, 1.0], [0.0, 0.0, 0.0], [3.0, 0.0, 0.0]], np.float32)


def unsorted():
    """`DENSE` as CSR with the columns of the first row in descending order."""
    return sparse.csr_matrix((np.float32([1, 2, 3]), [2, 1, 0], [0, 2, 2, 3]), shape=(3, 3))


def test_sparse_formats_of_the_same_values_are_equal(tmp_path):
    import anndata

    forms = [sparse.csr_matrix(DENSE), sparse.csc_matrix(DENSE), unsorted()]
    for kind in (sparse.csr_matrix, sparse.csc_matrix):
        anndata.AnnData(kind(DENSE)).write_h5ad(tmp_path / f"{kind.__name__}.h5ad")
        forms.append(anndata.read_h5ad(tmp_path / f"{kind.__name__}.h5ad", backed="r").X)
    assert len({fingerprint(form) for form in forms}) == 1


def test_the_given_matrix_is_not_changed():
    matrix = unsorted()
    fingerprint(matrix)
    assert matrix.indices.tolist() == [2, 1, 0]


@pytest.mark.parametrize(
    "other",
    [
        sparse.csr_matrix(DENSE + np.eye(3, dtype=np.float32)),
        sparse.csr_matrix(DENSE[:, [1, 0, 2]]),
        sparse.csr_matrix(DENSE.reshape(1, 9)),
    ],
    ids=["value", "column", "shape"],
)
def test_other_values_differ(other):
    assert fingerprint(other) != fingerprint(sparse.csr_matrix(DENSE))


def test_strings():
    column = pd.Series(["a", "b"])
    assert fingerprint(column) == fingerprint(column.astype("category"))
    assert fingerprint(column) != fingerprint(pd.Series(["ab", ""]))
    assert fingerprint(column, column) != fingerprint(column)
