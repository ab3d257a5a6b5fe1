import anndata
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
from scipy import sparse
from scipy.stats import mannwhitneyu
from sklearn.metrics import euclidean_distances
from statsmodels.stats.multitest import multipletests

import sysvi
from sysvi import InputError
from sysvi.evaluation.batch_strength import batch_strength
from sysvi.evaluation.plots import plot_batch_strength

KEYS = ("system", "batch", "cell_type")


def example(seed=1, **effects):
    """Log-normalised cells of two systems with four samples each."""
    small = {"n_types": 3, "n_private": 1, "n_systems": 2, "n_samples": 4, "n_markers": 10, "n_programme_genes": 10}
    adata = sysvi.datasets.simulate_systems(1600, 120, **small, **effects, seed=seed)
    sc.pp.normalize_total(adata)
    sc.pp.log1p(adata)
    return adata


@pytest.fixture(scope="module")
def adata():
    return example()


@pytest.fixture(scope="module")
def baron(data_dir):
    return sysvi.prepare(anndata.read_h5ad(data_dir / "baron_pancreas.h5ad"), "system", "batch")


def by_scanpy(adata, system_key, batch_key, label_key, min_cells):
    """The procedure of the paper with scanpy: distances and tests of each type and system."""
    scaled = anndata.AnnData(adata.X.toarray().astype(np.float64), obs=adata.obs)
    sc.pp.scale(scaled)
    sc.pp.pca(scaled, n_comps=15)
    points = pd.DataFrame(scaled.obsm["X_pca"].astype(np.float64), index=adata.obs_names)
    groups = points.groupby([adata.obs[key].astype(str) for key in (label_key, system_key, batch_key)])
    means = groups.mean()[groups.size() >= min_cells]
    rows = {}
    for label, system in dict.fromkeys((label, system) for label, system, _ in means.index):
        own, others = means.loc[label, system], means.loc[label].drop(system, level=0)
        within = euclidean_distances(own)[np.triu_indices(len(own), k=1)]
        between = euclidean_distances(own, others).ravel() if len(others) else np.empty(0)
        u = p = np.nan
        if min(len(within), len(between)) >= 3:
            u, p = mannwhitneyu(within, between, alternative="less")
        rows[label, system] = (len(own), within, between, u, p)
    p = np.array([row[-1] for row in rows.values()])
    adjusted = np.full(len(p), np.nan)
    adjusted[~np.isnan(p)] = multipletests(p[~np.isnan(p)], method="fdr_bh")[1]
    return rows, adjusted


def assert_is_papers(adata, strength, keys, min_cells):
    rows, adjusted = by_scanpy(adata, *keys, min_cells)
    table, distances = strength.table, strength.distances
    assert list(table.index) == list(rows)
    np.testing.assert_allclose(table["p_adjusted"], adjusted, rtol=1e-9)
    for (label, system), (n_samples, within, between, u, p) in rows.items():
        row = table.loc[(label, system)]
        assert tuple(row[["n_samples", "n_within", "n_between"]]) == (n_samples, len(within), len(between))
        np.testing.assert_allclose(row[["u", "p"]].astype(float), [u, p], rtol=1e-9)
        mine = distances[
            (distances["label"] == label) & ((distances["system_1"] == system) | (distances["system_2"] == system))
        ]
        for kind, expected in (("within", within), ("between", between)):
            found = np.sort(mine.loc[mine["kind"] == kind, "distance"])
            np.testing.assert_allclose(found, np.sort(expected), rtol=1e-4)
            if len(expected):
                assert row[f"median_{kind}"] == pytest.approx(np.median(expected), rel=1e-4)
        if not np.isnan(p):
            order = np.sign(between[:, None] - within)
            assert row["rank_biserial"] == pytest.approx(order.mean())
            assert row["ratio"] == pytest.approx(np.median(between) / np.median(within), rel=1e-4)


def test_is_the_papers_recipe(adata):
    strength = batch_strength(adata, *KEYS, min_cells=30)
    assert_is_papers(adata, strength, KEYS, 30)
    assert strength.table["p"].notna().sum() >= 2
    assert strength.table["p"].isna().any()  # types of one system only


def test_species_are_substantial_on_baron_and_halves_of_one_are_not(baron):
    strength = batch_strength(baron, *KEYS)
    assert strength.substantial is True
    assert "are substantial: 3 of 3 cell types" in strength.advice
    assert_is_papers(baron, strength, KEYS, 50)
    human = baron[baron.obs["system"] == "human"].copy()
    half = human.obs["library"].astype(str).str[-1].isin(["1", "2"])  # libraries of the same donors
    human.obs["half"] = np.where(half, "first", "second")
    strength = batch_strength(human, "half", "library", "cell_type", min_cells=20)
    assert strength.substantial is False
    assert "are not substantial: 0 of 4 cell types" in strength.advice


def test_strength_follows_the_effect():
    ratios, verdicts = [], []
    for effect in (0, 0.3, 1.0):
        strength = batch_strength(example(system_effect=effect, interaction=0, sample_effect=0.2), *KEYS, min_cells=30)
        ratios.append(strength.table["ratio"].median())
        verdicts.append(strength.substantial)
    assert ratios == sorted(ratios)
    assert ratios[0] < 1.3
    assert verdicts == [False, True, True]


def test_a_sure_but_small_effect_is_not_substantial():
    """More samples make any effect significant but do not change the ratio."""
    small = {"n_types": 2, "n_private": 0, "n_samples": 8, "n_markers": 10, "n_programme_genes": 10}
    effects = {"system_effect": 0.1, "interaction": 0, "sample_effect": 0.2}
    adata = sysvi.datasets.simulate_systems(1600, 120, **small, **effects, seed=1)
    sc.pp.normalize_total(adata)
    sc.pp.log1p(adata)
    strength = batch_strength(adata, *KEYS, min_cells=20)
    assert (strength.table["p_adjusted"] < 0.05).all()
    assert strength.table["ratio"].max() < 1.5
    assert strength.substantial is False


def test_order_names_and_kind_of_matrix_do_not_matter(adata, tmp_path):
    wanted = batch_strength(adata, *KEYS, min_cells=30).table
    before = adata.X.copy()
    other = adata[np.random.default_rng(0).permutation(adata.n_obs)].copy()
    other.write_h5ad(tmp_path / "a.h5ad")
    dense = anndata.AnnData(other.X.toarray(), obs=other.obs)
    columns = anndata.AnnData(other.X.tocsc(), obs=other.obs)
    layer = anndata.AnnData(obs=other.obs, layers={"log": other.X})
    doubled = other.copy()  # every value stored in two halves
    x = doubled.X
    doubled.X = sparse.csr_matrix((np.repeat(x.data / 2, 2), np.repeat(x.indices, 2), 2 * x.indptr), shape=x.shape)
    backed = anndata.read_h5ad(tmp_path / "a.h5ad", backed="r")
    for kind, where in ((other, None), (dense, None), (columns, None), (backed, None), (doubled, None), (layer, "log")):
        table = batch_strength(kind, *KEYS, min_cells=30, layer=where).table
        pd.testing.assert_frame_equal(table, wanted, rtol=1e-4)
    other.obs["system"] = other.obs["system"].astype(str).map(lambda name: f"renamed {name}")
    table = batch_strength(other, *KEYS, min_cells=30).table
    pd.testing.assert_frame_equal(table.droplevel(1), wanted.droplevel(1), rtol=1e-4)
    assert (before != adata.X).nnz == 0


def test_samples_of_the_same_name_in_two_systems_are_two(adata):
    other = adata.copy()
    other.obs["batch"] = other.obs["batch"].astype(str).str[-1]
    assert other.obs["batch"].nunique() < adata.obs["batch"].nunique()
    table = batch_strength(other, *KEYS, min_cells=30).table
    pd.testing.assert_frame_equal(table, batch_strength(adata, *KEYS, min_cells=30).table)


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_genes_that_never_vary_do_no_harm(adata):
    wanted = batch_strength(adata, *KEYS, min_cells=30).table
    extra = sparse.hstack([adata.X, np.zeros((adata.n_obs, 1)), np.full((adata.n_obs, 2), 0.1)], format="csr")
    table = batch_strength(anndata.AnnData(extra, obs=adata.obs), *KEYS, min_cells=30).table
    pd.testing.assert_frame_equal(table, wanted, rtol=1e-4)


@pytest.mark.parametrize(
    ("change", "min_cells", "why"),
    [
        ({}, 5000, "no cell type has 5000 cells in one sample"),
        ({"batch": lambda obs: obs["system"]}, 30, "each system has one sample of a type"),
        ({"cell_type": lambda obs: obs["system"]}, 30, "no cell type has 30 cells in samples of two systems"),
        ({"batch": lambda obs: obs["batch"].astype(str).str[-1].isin(["1", "2"])}, 30, "the most is 2 samples"),
    ],
)
def test_what_cannot_be_judged_is_said(adata, change, min_cells, why):
    other = adata.copy()
    for name, make in change.items():
        other.obs[name] = make(other.obs).astype(str)
    strength = batch_strength(other, *KEYS, min_cells=min_cells)
    assert strength.substantial is None
    assert "cannot be judged" in strength.advice
    assert why in strength.advice
    assert strength.table["p_adjusted"].isna().all()


def test_three_systems():
    small = {"n_types": 2, "n_private": 0, "n_systems": 3, "n_samples": 3, "n_markers": 10, "n_programme_genes": 10}
    adata = sysvi.datasets.simulate_systems(1200, 120, **small, seed=1)
    sc.pp.normalize_total(adata)
    sc.pp.log1p(adata)
    strength = batch_strength(adata, *KEYS, min_cells=30)
    assert_is_papers(adata, strength, KEYS, 30)
    assert (strength.table["n_between"] == 18).all()
    assert strength.substantial is True


@pytest.mark.slow
def test_it_prints_and_draws(adata, tmp_path):
    strength = batch_strength(adata, *KEYS, min_cells=30)
    text = str(strength)
    assert text.startswith(strength.advice)
    assert all(label in text for label in strength.table.index.get_level_values("label"))
    for name, start in (("a.png", b"\x89PNG"), ("a.pdf", b"%PDF")):
        plot_batch_strength(strength, tmp_path / name)
        assert (tmp_path / name).read_bytes().startswith(start)
    with pytest.raises(InputError, match="no distances to draw"):
        plot_batch_strength(batch_strength(adata, *KEYS, min_cells=5000), tmp_path / "b.png")


def test_unlabelled_cells_are_left_out(adata, tmp_path):
    """The result is that of the labelled cells alone, whatever marks a cell as unlabelled."""
    labelled = np.random.default_rng(0).random(adata.n_obs) > 0.2
    wanted = batch_strength(adata[labelled].copy(), *KEYS, min_cells=30)
    some = adata.copy()
    label = some.obs["cell_type"].astype(object)
    names = np.resize(np.array(["Unknown", "unassigned", np.nan, None, ""], dtype=object), (~labelled).sum())
    label[~labelled] = names
    some.obs["cell_type"] = label
    with pytest.warns(UserWarning, match=rf"{(~labelled).sum()} of {adata.n_obs} cells have no label .*left out"):
        strength = batch_strength(some, *KEYS, min_cells=30)
    pd.testing.assert_frame_equal(strength.table, wanted.table)
    pd.testing.assert_frame_equal(strength.distances, wanted.distances)
    assert strength.advice == wanted.advice
    some.obs["cell_type"] = "unknown"
    with pytest.raises(InputError, match="labels no cell"):
        batch_strength(some, *KEYS)


def test_genes_are_scaled_as_by_scanpy(adata):
    from sysvi.evaluation.batch_strength import _scaled_expression

    scaled = _scaled_expression(adata, None, np.ones(adata.n_obs, bool))
    by_scanpy = adata.copy()
    by_scanpy.X = by_scanpy.X.toarray().astype(np.float64)
    sc.pp.scale(by_scanpy, zero_center=False)
    np.testing.assert_allclose(scaled.toarray(), by_scanpy.X, rtol=1e-6)


def test_bad_input_is_named(adata):
    counts = adata.copy()
    counts.X = sparse.csr_matrix(np.random.default_rng(0).poisson(1.0, adata.shape).astype(np.float32))
    with pytest.raises(InputError, match=r"looks like raw counts; run adata = sysvi.prepare"):
        batch_strength(counts, *KEYS)
    negative = adata.copy()
    negative.X.data[0] = -1
    with pytest.raises(InputError, match="negative value"):
        batch_strength(negative, *KEYS)
    one = adata.copy()
    one.obs["system"] = "human"
    with pytest.raises(InputError, match="one system only"):
        batch_strength(one, *KEYS)
    with pytest.raises(InputError, match="label_key='type' is not a column"):
        batch_strength(adata, "system", "batch", "type")
    missing = adata.copy()
    missing.obs["batch"] = missing.obs["batch"].astype(object)
    missing.obs.iloc[0, missing.obs.columns.get_loc("batch")] = None
    with pytest.raises(InputError, match="missing value"):
        batch_strength(missing, *KEYS)


def test_too_few_distances_for_any_p_below_005_are_not_tested(adata):
    """With three samples against one, p is at least 1 / 20 even if all distances within the system are smaller."""
    batches = sorted(adata.obs["batch"].astype(str).unique())
    first = [b for b in batches if b.startswith(str(adata.obs["system"].iloc[0]))]
    second = [b for b in batches if b not in first]
    few = adata[adata.obs["batch"].astype(str).isin(first[:3] + second[:1])].copy()
    strength = batch_strength(few, *KEYS, min_cells=10)
    pairs = strength.table[(strength.table["n_within"] == 3) & (strength.table["n_between"] == 3)]
    assert len(pairs) > 0
    assert mannwhitneyu([1, 2, 3], [4, 5, 6], alternative="less").pvalue == pytest.approx(0.05)
    assert pairs["p"].isna().all()
    assert strength.substantial is None


def test_large_but_uncertain_differences_are_not_called_small():
    from sysvi.evaluation.batch_strength import _judge

    index = pd.MultiIndex.from_tuples([("alpha", "human"), ("beta", "human")], names=["label", "system"])
    table = pd.DataFrame({"p": [0.1, 0.2], "p_adjusted": [0.2, 0.2], "ratio": [4.0, 5.0]}, index=index)
    substantial, advice = _judge(table, pd.Series([60]), 50)
    assert substantial is None
    assert "may be substantial" in advice
    substantial, advice = _judge(table.assign(ratio=1.1), pd.Series([60]), 50)
    assert substantial is False
