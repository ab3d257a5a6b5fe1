import anndata
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

import sysvi
from sysvi import InputError
from sysvi.metrics import _moran as moran
from sysvi.metrics._moran import choose_cutoff, moran_groups, moran_ratio, moran_reference, morans_i
from sysvi.metrics._score import Score


def by_loops(weights, values):
    """The definition, pair by pair."""
    n, result = len(weights), []
    for x in values.T:
        z = x - x.mean()
        pairs = sum(weights[i, j] * z[i] * z[j] for i in range(n) for j in range(n))
        total = sum(weights[i, j] for i in range(n) for j in range(n))
        result.append(n / total * pairs / sum(z**2))
    return np.array(result)


def random_graph(rng, n):
    return sparse.random(n, n, 0.3, format="csr", rng=rng) + sparse.eye(n, k=1, format="csr")


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.integers(3, 15), st.integers(1, 5))
def test_moran_is_its_definition(seed, n, g):
    rng = np.random.default_rng(seed)
    graph, values = random_graph(rng, n), rng.normal(size=(n, g)) * (rng.random((n, g)) < 0.7)
    values[0] += 5  # none is constant
    expected = by_loops(graph.toarray(), values)
    np.testing.assert_allclose(morans_i(graph, values), expected, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(morans_i(graph, sparse.csr_matrix(values)), expected, rtol=1e-9, atol=1e-12)


def test_moran_is_scanpys():
    rng = np.random.default_rng(0)
    graph, values = random_graph(rng, 300), sparse.random(300, 40, 0.2, format="csr", rng=rng)
    expected = sc.metrics.morans_i(graph, values.T.tocsr())
    np.testing.assert_allclose(morans_i(graph, values), expected, rtol=1e-10)
    np.testing.assert_allclose(
        morans_i(graph, 1e4 + values.toarray()), expected, rtol=1e-6
    )  # no cancellation far from zero


def test_moran_in_chunks_is_the_same(monkeypatch):
    rng = np.random.default_rng(0)
    graph, values = random_graph(rng, 50), rng.normal(size=(50, 11))
    whole = morans_i(graph, values)
    monkeypatch.setattr(moran, "CHUNK_VALUES", 150)  # three genes
    np.testing.assert_allclose(morans_i(graph, values), whole, rtol=1e-12)


def test_moran_knows_smooth_from_alternating():
    line = sparse.diags([1.0, 1.0], [-1, 1], shape=(100, 100))
    step = np.arange(100)
    noise = np.random.default_rng(0).normal(size=100)
    smooth, alternating, random = morans_i(line, np.column_stack([step, step % 2, noise]))
    assert smooth > 0.95
    assert alternating == pytest.approx(-1, abs=0.02)
    assert abs(random) < 0.25


def test_moran_of_equal_values_or_no_weights_is_missing():
    line = sparse.diags([1.0, 1.0], [-1, 1], shape=(7, 7))
    values = np.column_stack([np.full(7, 0.1), np.arange(7.0)])
    assert np.isnan(morans_i(line, values)).tolist() == [True, False]
    assert np.isnan(morans_i(sparse.csr_matrix((7, 7)), values)).all()
    assert morans_i(line, np.empty((7, 0))).shape == (0,)


@pytest.mark.parametrize(("graph", "values"), [((4, 4), (5, 2)), ((4, 3), (4, 2)), ((4, 4), (4,))])
def test_moran_wants_shapes_that_fit(graph, values):
    with pytest.raises(InputError, match="cells x cells"):
        morans_i(sparse.csr_matrix(graph), np.ones(values))


# -- within types -----------------------------------------------------------------------------------------------------

SMALL = {"min_cells": 30}


def example(seed=0, n=480, n_genes=60):
    """Log-normalised cells of two types, two systems with two samples each; half of the genes follow a state."""
    rng = np.random.default_rng(seed)
    obs = pd.DataFrame({"label": rng.choice(["alpha", "beta"], n, p=[0.4, 0.6])}, index=map(str, range(n)))
    obs["system"] = rng.choice(["human", "mouse"], n)
    obs["batch"] = rng.choice(["1", "2"], n)  # the same names in both systems
    state = rng.uniform(size=(n, 1))
    loading = rng.uniform(0.5, 2, n_genes) * (np.arange(n_genes) < n_genes // 2)
    mean = np.exp(rng.normal(size=n_genes) + loading * (state - 0.5) * 2 + (obs["label"] == "beta").to_numpy()[:, None])
    adata = anndata.AnnData(sparse.csr_matrix(np.log1p(rng.poisson(mean).astype(float))), obs=obs)
    adata.obsm["X_state"] = np.hstack([state, 3 * (obs[["label"]] == "beta")])
    return adata


def reference_of(adata, **arguments):
    columns = (adata.obs[name] for name in ("label", "batch", "system"))
    return moran_reference(adata.X, *columns, **{**SMALL, **arguments})


def by_scanpy(adata, embedding, min_cells, cutoff):
    """The procedure of the paper with scanpy, one row per group."""
    rows = []
    adata = anndata.AnnData(adata.X.astype(np.float64), obs=adata.obs, obsm={"E": np.asarray(embedding)})
    for key, cells in adata.obs.groupby(["label", "system", "batch"], observed=True).groups.items():
        if len(cells) < min_cells:
            continue
        group = adata[cells].copy()
        sc.pp.filter_genes(group, min_cells=0.1 * group.n_obs)
        sc.pp.pca(group, n_comps=15)
        sc.pp.neighbors(group, n_pcs=15)
        before = sc.metrics.morans_i(group.obsp["connectivities"], group.X.T.tocsr())
        kept = before >= cutoff
        sc.pp.neighbors(group, use_rep="E")
        after = sc.metrics.morans_i(group.obsp["connectivities"], group.X.T.tocsr())
        if kept.any():
            ratio = (((after + 1) / 2) / ((before + 1) / 2))[kept].mean()
            rows.append([*key, len(cells), kept.sum(), before[kept].mean(), after[kept].mean(), ratio])
    return pd.DataFrame(rows, columns=["label", "system", "batch", "n_cells", "n_genes", "before", "after", "ratio"])


def assert_is_papers(adata, embedding, min_cells, cutoff):
    expected = by_scanpy(adata, embedding, min_cells, cutoff)
    reference = reference_of(adata, min_cells=min_cells, cutoff=cutoff)
    table = moran_groups(reference, embedding)
    pd.testing.assert_frame_equal(table, expected, rtol=1e-4, check_dtype=False)
    score = moran_ratio(reference, embedding)
    per_label = expected.groupby("label")["ratio"].mean()
    np.testing.assert_allclose(score.per_label, per_label, rtol=1e-4)
    assert list(score.per_label.index) == list(per_label.index)
    assert score.value == pytest.approx(per_label.mean(), rel=1e-4)
    assert reference.cutoff == cutoff
    return expected


@pytest.mark.slow
def test_is_the_papers_recipe():
    adata = example()
    expected = assert_is_papers(adata, adata.obsm["X_state"], 30, 0.2)
    assert len(expected) == 8


def test_is_the_papers_recipe_on_baron(data_dir):
    counts = anndata.read_h5ad(data_dir / "baron_pancreas.h5ad")
    counts.obs = counts.obs[["cell_type", "system", "batch"]].rename(columns={"cell_type": "label"})
    counts = counts[counts.obs["label"].isin(["beta", "alpha"])].copy()
    adata = sysvi.prepare(counts, "system", "batch")
    rng = np.random.default_rng(0)
    pca = sc.pp.pca(adata.X, n_comps=10)
    expected = assert_is_papers(adata, pca, 500, 0.2)
    assert list(expected["batch"]) == ["human1", "mouse2"]
    reference = reference_of(adata, min_cells=500)  # a cutoff of our own choice
    assert all(12 <= len(group.genes) <= 150 for group in reference.groups)
    ratios = [moran_ratio(reference, pca + s * rng.normal(size=pca.shape)).value for s in (0, 2, 5, 20)]
    assert ratios == sorted(ratios, reverse=True)
    assert ratios[0] - ratios[-1] > 0.1


def test_noise_loses_what_the_state_keeps():
    adata = example()
    reference = reference_of(adata)
    assert {group.system for group in reference.groups} == {"human", "mouse"}
    noise = np.random.default_rng(0).normal(size=(adata.n_obs, 2))
    state = adata.obsm["X_state"][:, :1]
    ratios = [moran_ratio(reference, state + s * noise[:, :1]).value for s in (0, 0.3, 1, 10)]
    assert ratios == sorted(ratios, reverse=True)
    table = moran_groups(reference, noise)
    np.testing.assert_allclose(table["after"], 0, atol=0.1)
    np.testing.assert_allclose(table["ratio"], 1 / (1 + table["before"]), atol=0.1)


def test_order_and_names_of_cells_do_not_matter():
    adata = example()
    score = moran_ratio(reference_of(adata), adata.obsm["X_state"])
    other = adata[np.random.default_rng(1).permutation(adata.n_obs)].copy()
    again = moran_ratio(reference_of(other), other.obsm["X_state"])
    pd.testing.assert_series_equal(again.per_label, score.per_label, rtol=1e-6)
    other.obs["label"] = other.obs["label"].map({"alpha": "z", "beta": "y"})
    renamed = moran_ratio(reference_of(other), 7 * other.obsm["X_state"])  # nor does the scale
    np.testing.assert_allclose(renamed.per_label[["z", "y"]], score.per_label[["alpha", "beta"]], rtol=1e-6)


@pytest.mark.slow
def test_any_kind_of_expression_is_the_same(tmp_path):
    adata = example()
    wanted = reference_of(adata)
    adata.write_h5ad(tmp_path / "sparse.h5ad")
    dense = adata.copy()
    dense.X = adata.X.toarray()
    dense.write_h5ad(tmp_path / "dense.h5ad")
    columns = anndata.AnnData(adata.X.tocsc(), obs=adata.obs)
    stored_zeros = adata.copy()
    stored_zeros.X.data[::7] = 0
    backed = [anndata.read_h5ad(tmp_path / name, backed="r") for name in ("sparse.h5ad", "dense.h5ad")]
    for other in (dense, columns, *backed):
        for group, same in zip(wanted.groups, reference_of(other).groups, strict=True):
            np.testing.assert_array_equal(group.genes, same.genes)
            np.testing.assert_allclose(group.before, same.before, rtol=1e-9)
            np.testing.assert_array_equal(group.values.toarray(), same.values.toarray())
    with_zeros = reference_of(stored_zeros, min_share=0.5, cutoff=0)
    stored_zeros.X.eliminate_zeros()
    for group, same in zip(with_zeros.groups, reference_of(stored_zeros, min_share=0.5, cutoff=0).groups, strict=True):
        np.testing.assert_array_equal(group.genes, same.genes)


def test_systems_may_share_names_of_samples():
    adata = example()
    groups = reference_of(adata).groups
    assert len({(g.label, g.system, g.batch) for g in groups}) == len(groups) == 8
    for group in groups:
        own = adata.obs.iloc[group.cells]
        assert (own["label"] == group.label).all()
        assert (own["system"] == group.system).all()
        assert (own["batch"] == group.batch).all()
    pooled = moran_reference(adata.X, adata.obs["label"], adata.obs["batch"], **SMALL).groups
    assert {(g.label, g.system, g.batch) for g in pooled} == {(t, "all", b) for t in ("alpha", "beta") for b in "12"}


def test_few_cells_give_no_number_and_a_reason():
    adata = example()
    reference = reference_of(adata, min_cells=500)
    most = adata.obs.value_counts().max()
    assert reference.groups == ()
    assert f"No cell type has 500 cells in one sample (the largest, beta in {adata.obs.value_counts().idxmax()[2]}" in (
        reference.reason
    )
    assert f"has {most}" in reference.reason
    score = moran_ratio(reference, adata.obsm["X_state"])
    assert np.isnan(score.value)
    assert len(score.per_label) == 0
    assert moran_groups(reference, adata.obsm["X_state"]).empty


def test_groups_that_do_not_vary_are_left_out():
    adata = example()
    x = adata.X.toarray()
    x[adata.obs["label"] == "alpha"] = x[adata.obs["label"] == "alpha"][0]
    adata.X = sparse.csr_matrix(x)
    reference = reference_of(adata, min_cells=20)
    assert {group.label for group in reference.groups} == {"beta"}
    adata.X = sparse.csr_matrix(np.full(adata.shape, 0.5))
    nothing = reference_of(adata)
    assert nothing.groups == ()
    assert "No gene reaches" in nothing.reason


def test_a_cutoff_that_no_gene_reaches_is_said():
    reference = reference_of(example(), cutoff=0.99)
    assert reference.groups == ()
    assert "No gene reaches a Moran's I of 0.99" in reference.reason


def test_a_collapsed_embedding_is_measured():
    adata = example()
    score = moran_ratio(reference_of(adata), np.zeros((adata.n_obs, 2)))  # all cells coincide
    assert 0.4 < score.value < 0.9


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10**6), st.lists(st.integers(0, 800), min_size=1, max_size=5))
def test_cutoff_comes_closest_to_the_range(seed, sizes):
    rng = np.random.default_rng(seed)
    morans = [rng.beta(1, rng.uniform(1, 9), size) for size in sizes]

    def miss(percent):
        total = 0.0
        for moran_of_genes in morans:
            genes = sum(moran_of_genes >= percent / 100)
            total += max(np.log(13 / (genes + 1)), np.log((genes + 1) / 151), 0)
        return round(total, 9), abs(percent - 20), -percent

    assert choose_cutoff(morans) == min(range(5, 100), key=miss) / 100


def test_the_papers_cutoff_where_it_will_do():
    assert choose_cutoff([np.linspace(0, 0.6, 100), np.linspace(0, 0.4, 60)]) == 0.2
    assert choose_cutoff([]) == 0.2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"expression": np.array([[0.0, 3.0]] * 80)}, "looks like raw counts"),
        ({"expression": np.full((80, 2), np.nan)}, "not finite"),
        ({"label": ["a"] * 79}, "label has 79 values for 80 cells"),
        ({"label": [None] + ["a"] * 79}, "label is missing for 1 of 80"),
        ({"batch": [np.nan] * 2 + ["x"] * 78}, "batch is missing for 2 of 80"),
        ({"cutoff": 1.5}, "cutoff is 1.5"),
        ({"min_cells": 0}, "min_cells is 0"),
    ],
)
def test_bad_input_is_named(change, message):
    x = np.random.default_rng(0).uniform(0.1, 1, (80, 6))
    good = {"expression": x, "label": ["a"] * 80, "batch": ["x"] * 80, "min_cells": 20, "cutoff": 0.0}
    reference = moran_reference(**good)
    with pytest.raises(InputError, match=message):
        moran_reference(**good | change)
    with pytest.raises(InputError, match="has 79 cells, the reference 80"):
        moran_ratio(reference, np.zeros((79, 2)))
    assert isinstance(moran_ratio(reference, x), Score)
