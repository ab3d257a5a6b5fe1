"""Tests of states found without labels: against simulated cell types, and of the rule against its definition."""

import anndata
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse

import sysvi
from sysvi import InputError
from sysvi.metrics import find_states
from sysvi.metrics._states import _correlate_profiles, _link_clusters


def prepared(**settings):
    adata = sysvi.datasets.simulate_systems(1200, 800, seed=3, **settings)
    return sysvi.prepare(adata, "system", "batch", min_cells=5)


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        {"n_types": 6, "n_private": 1},
        {"n_types": 5, "n_private": 0, "n_systems": 3},
        {"n_types": 6, "n_private": 2, "imbalance": 0.3, "system_effect": 0.7},
    ],
)
def test_states_of_a_simulation_are_its_types(settings):
    adata = prepared(**settings)
    found = find_states(adata.X, adata.obs["system"])
    known = found.state != ""
    assert known.mean() > 0.97
    both = pd.crosstab(found.state[known], adata.obs["cell_type"].to_numpy().astype(str)[known])
    assert both.max(axis=1).sum() / both.to_numpy().sum() > 0.97  # of one type each
    truth = adata.obs.groupby("cell_type", observed=True)["system"].nunique()
    type_of = both.idxmax(axis=1)
    assert dict((found.counts > 0).sum(axis=1)) == dict(truth[type_of].set_axis(type_of.index))
    # A shared type is one state; clusters of a private one have nothing that would link them.
    assert sorted(type_of[found.shared]) == sorted(truth.index[truth > 1])
    assert set(type_of) == set(truth.index)


def test_baron_states_follow_cell_types(data_dir):
    """In human and mouse islets, beta cells form one state, and acinar cells, which are human only, a private one."""
    adata = anndata.read_h5ad(data_dir / "baron_pancreas.h5ad")
    adata = sysvi.prepare(adata, "system", "batch")
    found = find_states(adata.X, adata.obs["system"])
    label = adata.obs["cell_type"].to_numpy().astype(str)
    both = pd.crosstab(found.state, label)
    for name in ("beta", "alpha", "ductal", "delta", "gamma", "endothelial"):
        assert both[name].idxmax() in found.shared
        assert both[name].max() / both[name].sum() > 0.85
    acinar = both["acinar"].idxmax()
    assert acinar in found.private
    assert both["acinar"].max() / both["acinar"].sum() > 0.95


def test_cells_are_counted():
    adata = prepared(n_types=4, n_private=1)
    system = adata.obs["system"].astype(str).replace({"system1": "cells", "system2": "nuclei"}).to_numpy()
    found = find_states(adata.X, system)
    for state, row in found.counts.iterrows():
        for name in ("cells", "nuclei"):
            assert row[name] == np.sum((found.state == state) & (system == name))
        assert (state in found.shared) == (len(np.unique(system[found.state == state])) == 2)
    assert found.counts.sum(axis=1).is_monotonic_decreasing
    assert set(found.shared) | set(found.private) == set(found.counts.index)
    assert not set(found.shared) & set(found.private)


def test_names_of_systems_and_storage_do_not_matter():
    adata = prepared(n_types=4, n_private=1)
    system = adata.obs["system"].astype(str)
    found = find_states(adata.X, system)
    renamed = find_states(adata.X, system.replace({"system1": "a mouse", "system2": "b human"}))
    np.testing.assert_array_equal(found.state, renamed.state)
    np.testing.assert_array_equal(found.state, find_states(adata.X.toarray(), system).state)


def test_similarity_is_the_correlation_of_what_sets_clusters_apart():
    rng = np.random.default_rng(0)
    x = rng.gamma(1, size=(60, 7))
    cluster = np.r_[np.arange(5), rng.integers(-1, 5, 55)]
    home = np.array([0, 0, 0, 1, 1])
    means = np.stack([x[cluster == k].mean(0) for k in range(5)])
    profiles = means - np.stack([means[home == h].mean(0) for h in home])
    expected = np.corrcoef(profiles)
    for matrix in (x, sparse.csr_matrix(x)):
        np.testing.assert_allclose(_correlate_profiles(matrix, cluster, home), expected, atol=1e-12)


def test_a_system_of_one_cluster_is_compared_with_the_other_ones_mean():
    rng = np.random.default_rng(0)
    x = rng.gamma(1, size=(40, 7))
    cluster, home = np.arange(40) % 3, np.array([0, 0, 1])
    means = np.stack([x[cluster == k].mean(0) for k in range(3)])
    expected = np.corrcoef(means - means[:2].mean(0))
    np.testing.assert_allclose(_correlate_profiles(x, cluster, home), expected, atol=1e-12)


@given(st.integers(0, 10_000), st.integers(2, 3))
def test_links_by_definition(seed, n_systems):
    rng = np.random.default_rng(seed)
    home = np.sort(np.r_[np.arange(n_systems), rng.integers(0, n_systems, 6)])
    r = rng.uniform(-1, 1, (len(home), len(home)))
    r = (r + r.T) / 2
    links = _link_clusters(r, home)
    for s in range(n_systems):
        for t in range(s + 1, n_systems):
            rows, columns = np.flatnonzero(home == s), np.flatnonzero(home == t)
            best = [max(r[i, j] for j in columns) for i in rows] + [max(r[i, j] for i in rows) for j in columns]
            for i in rows:
                for j in columns:
                    near = r[i, j] >= 0.8 * max(r[i, columns]) and r[i, j] >= 0.8 * max(r[rows, j])
                    assert links[i, j] == (near and r[i, j] >= max(0.2, 0.5 * np.median(best)))
    assert not links[home[:, None] >= home].any()


def test_errors():
    x = sparse.random(40, 20, 0.5, format="csr", random_state=0)
    with pytest.raises(InputError, match="system has one value only"):
        find_states(x, ["a"] * 40)
    with pytest.raises(InputError, match="System b has 2 cells"):
        find_states(x, ["a"] * 38 + ["b"] * 2)
    with pytest.raises(InputError, match="not finite"):
        find_states(np.where(np.arange(20) == 3, np.nan, x.toarray()), ["a"] * 20 + ["b"] * 20)
    with pytest.raises(InputError, match="missing"):
        find_states(x, ["a"] * 20 + ["b"] * 19 + [None])
    with pytest.raises(InputError, match="min_cells"):
        find_states(x, ["a"] * 20 + ["b"] * 20, min_cells=0)
