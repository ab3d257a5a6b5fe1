"""Agreement of embeddings about neighbours, against a count written out cell by cell."""

import numpy as np

from sysvi.model.agreement import N_NEIGHBORS, neighbor_agreement


def neighbors(z, i):
    distance = np.linalg.norm(z - z[i], axis=1)
    distance[i] = np.inf
    return set(np.argsort(distance)[:N_NEIGHBORS])


def test_shares_are_those_counted_cell_by_cell():
    rng = np.random.default_rng(0)
    a = rng.standard_normal((80, 4))
    b, c = a + rng.standard_normal((80, 4)), rng.standard_normal((80, 4))
    found = neighbor_agreement([a, b, c])
    for i, x in enumerate((a, b, c)):
        for j, y in enumerate((a, b, c)):
            expected = np.mean([len(neighbors(x, k) & neighbors(y, k)) / N_NEIGHBORS for k in range(80)])
            np.testing.assert_allclose(found[i, j], expected, rtol=1e-6)
    assert found[0, 1] > found[0, 2]


def test_few_and_identical_cells():
    np.testing.assert_array_equal(neighbor_agreement([np.zeros((5, 2)), np.zeros((5, 2))]), np.ones((2, 2)))


def test_a_sample_stands_for_many_cells():
    rng = np.random.default_rng(0)
    z = rng.standard_normal((3_000, 2))
    noisy = z + 0.1 * rng.standard_normal(z.shape)
    found = neighbor_agreement([z, noisy])
    assert found[0, 0] == 1
    assert 0.2 < found[0, 1] < 1
    np.testing.assert_array_equal(found, neighbor_agreement([z, noisy]))
