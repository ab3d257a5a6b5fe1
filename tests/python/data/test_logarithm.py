"""Logarithms to base 2 are told from natural ones."""

import math

import numpy as np
import pytest
from scipy import sparse

import sysvi
from sysvi.data.logarithm import natural_units


def normalised(total, target, seed=0, shape=(80, 200)):
    """Normalised counts, not yet logarithms."""
    rng = np.random.default_rng(seed)
    share = rng.gamma(0.5, 1, shape[1])
    depth = total * np.exp(0.3 * rng.standard_normal((shape[0], 1)))
    counts = rng.poisson(depth * share / share.sum())
    return counts * target / np.maximum(counts.sum(axis=1, keepdims=True), 1)


@pytest.mark.parametrize(("total", "target"), [(2_000, 1e4), (20_000, 1e4), (500, 500), (5_000, 1e6)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_both_bases_are_told(total, target, dtype):
    values = normalised(total, target)
    assert natural_units(sparse.csr_matrix(np.log1p(values).astype(dtype))) == 1
    assert natural_units(sparse.csr_matrix(np.log2(1 + values).astype(dtype))) == math.log(2)


def test_other_values_are_taken_for_natural_logarithms():
    rng = np.random.default_rng(1)
    assert natural_units(sparse.csr_matrix(rng.gamma(1, 1, (30, 40)))) == 1
    assert natural_units(sparse.csr_matrix((3, 5))) == 1
    assert natural_units(sparse.csr_matrix(np.array([[0.0, 1.0]]))) == 1


@pytest.mark.filterwarnings("ignore")
def test_effects_do_not_depend_on_the_base():
    cells = sysvi.datasets.simulate_systems(600, 200, n_samples=3, n_private=0, n_types=3, seed=2)
    adata = sysvi.prepare(cells, "system", "batch", min_cells=3)
    base_2 = adata.copy()
    base_2.X = adata.X / np.float32(math.log(2))
    found, words = [], []
    for x in (adata, base_2):
        model = sysvi.integrate(x, "system", "batch", members=1, max_epochs=1, progress=False)
        events = []
        table = sysvi.compare_systems(model, x, "cell_type", progress=events.append)
        found.append(table.set_index(["label", "gene"]).sort_index())
        change = sysvi.differential_expression(model, x, "cell_type", "type1", "type2", progress=False)
        found[-1] = found[-1].join(change["raw_normalized_mean1"], on="gene")
        words.append(any("base 2" in str(event.message) for event in events))
    assert words == [False, True]
    for column in ("effect", "p", "marker_1", "raw_normalized_mean1"):
        np.testing.assert_allclose(found[1][column], found[0][column], rtol=2e-3, atol=2e-4)
