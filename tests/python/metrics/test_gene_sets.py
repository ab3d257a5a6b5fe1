import anndata
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
from scipy import sparse

import sysvi
from sysvi import InputError
from sysvi.metrics._gene_sets import gene_set_preservation

KEYS = {"label_key": "label", "batch_key": "batch", "system_key": "system", "min_cells": 30}
SETS = {"active": [f"gene{i}" for i in range(10)], "quiet": [f"gene{i}" for i in range(40, 50)]}


def example(seed=0, n=360, n_genes=80):
    """Log-normalised cells of two types, two systems, two samples; the first twenty genes follow a state."""
    rng = np.random.default_rng(seed)
    obs = pd.DataFrame({"label": rng.choice(["alpha", "beta"], n)}, index=[f"cell{i}" for i in range(n)])
    obs["system"] = rng.choice(["human", "mouse"], n)
    obs["batch"] = rng.choice(["1", "2"], n)
    state = rng.uniform(size=(n, 1))
    mean = np.exp(0.3 * rng.normal(size=n_genes) + (np.arange(n_genes) < 20) * 3 * (state - 0.5))
    depth = rng.uniform(0.8, 1.2, (n, 1))  # without, genes of the same mean would be ranked by rounding errors
    x = sparse.csr_matrix(np.log1p(rng.poisson(mean) / depth))
    adata = anndata.AnnData(x, obs=obs, var=pd.DataFrame(index=[f"gene{i}" for i in range(n_genes)]))
    adata.obsm["X_state"], adata.obsm["X_noise"] = state, rng.normal(size=(n, 3))
    return adata


def by_scanpy(adata, embedding_key, sets, min_cells):
    rows = []
    adata = anndata.AnnData(adata.X.astype(np.float64), obs=adata.obs, var=adata.var, obsm=dict(adata.obsm))
    for name, genes in sorted(sets.items()):
        for key, cells in adata.obs.groupby(["label", "system", "batch"], observed=True).groups.items():
            if len(cells) < min_cells:
                continue
            group = adata[cells].copy()
            sc.tl.score_genes(group, genes)
            seen = group[:, np.asarray((group.X > 0).mean(0)).ravel() >= 0.1].copy()
            sc.pp.pca(seen, n_comps=15)
            moran = []
            for rep in ("X_pca", embedding_key):
                sc.pp.neighbors(seen, use_rep=rep)
                moran.append(sc.metrics.morans_i(seen.obsp["connectivities"], group.obs["score"].to_numpy()))
            rows.append([name, *key, len(cells), len(genes), *moran, (moran[1] + 1) / (moran[0] + 1)])
    columns = ["gene_set", "label", "system", "batch", "n_cells", "n_genes", "before", "after", "ratio"]
    return pd.DataFrame(rows, columns=columns)


@pytest.mark.slow
@pytest.mark.parametrize("embedding_key", ["X_state", "X_noise"])
def test_is_score_genes_and_moran_of_scanpy(embedding_key):
    adata = example()
    result = gene_set_preservation(adata, embedding_key, SETS, **KEYS)
    expected = by_scanpy(adata, embedding_key, SETS, 30)
    assert len(expected) == 16
    pd.testing.assert_frame_equal(result.table, expected, rtol=1e-4, atol=1e-5, check_dtype=False)
    for name in SETS:
        per_label = expected[expected["gene_set"] == name].groupby("label")["ratio"].mean()
        assert result.ratio[name] == pytest.approx(per_label.mean(), rel=1e-4)
    assert result.missing == {"active": (), "quiet": ()}
    assert result.reason is None


def test_the_state_is_kept_by_what_follows_it():
    adata = example()
    kept = gene_set_preservation(adata, "X_state", SETS, **KEYS).ratio["active"]
    lost = gene_set_preservation(adata, "X_noise", SETS, **KEYS)
    assert kept > 0.95
    assert lost.ratio["active"] < kept - 0.15
    active = lost.table[lost.table["gene_set"] == "active"]
    np.testing.assert_allclose(active["after"], 0, atol=0.15)


@pytest.mark.slow
def test_seed_order_and_state_of_numpy():
    adata = example()
    result = gene_set_preservation(adata, "X_state", SETS, **KEYS)
    np.random.seed(5)  # noqa: NPY002
    expected = np.random.random()  # noqa: NPY002
    np.random.seed(5)  # noqa: NPY002
    same = gene_set_preservation(adata, "X_state", SETS, **KEYS)
    assert np.random.random() == expected  # noqa: NPY002
    pd.testing.assert_frame_equal(same.table, result.table)
    many = example(n_genes=3000)  # more than 50 genes of like expression to draw from
    seeds = [gene_set_preservation(many, "X_state", SETS, **KEYS, seed=seed).table["after"] for seed in (0, 1, 0)]
    assert not np.allclose(seeds[0], seeds[1], rtol=1e-6)
    np.testing.assert_array_equal(seeds[0], seeds[2])
    mixed = adata[np.random.default_rng(0).permutation(adata.n_obs)].copy()
    permuted = gene_set_preservation(mixed, "X_state", dict(reversed(SETS.items())), **KEYS)
    pd.testing.assert_frame_equal(permuted.table, result.table, rtol=1e-6)
    assert list(permuted.ratio.index) == ["quiet", "active"]


@pytest.mark.slow
def test_the_users_data_stays_as_it_is_and_may_be_on_disk(tmp_path, assert_same):
    adata = example()
    adata.write_h5ad(tmp_path / "a.h5ad")
    before = adata.copy()
    result = gene_set_preservation(adata, "X_state", SETS, **KEYS)
    assert_same(adata, before)
    backed = anndata.read_h5ad(tmp_path / "a.h5ad", backed="r")
    pd.testing.assert_frame_equal(gene_set_preservation(backed, "X_state", SETS, **KEYS).table, result.table)
    layered = anndata.AnnData(obs=adata.obs, var=adata.var, obsm=dict(adata.obsm), layers={"log": adata.X.toarray()})
    layer = gene_set_preservation(layered, "X_state", SETS, **KEYS, layer="log")
    pd.testing.assert_frame_equal(layer.table, result.table, rtol=1e-9)


def test_genes_that_are_not_there_are_named():
    sets = {"some": ["gene1", "XIST", "gene1", "gene2"], "none": ["TP53", "XIST"]}
    result = gene_set_preservation(example(), "X_state", sets, **KEYS)
    assert result.missing == {"some": ("XIST",), "none": ("TP53", "XIST")}
    assert set(result.table["gene_set"]) == {"some"}
    assert (result.table["n_genes"] == 2).all()
    assert np.isnan(result.ratio["none"])
    assert np.isfinite(result.ratio["some"])
    with pytest.raises(InputError, match=r"No gene of the gene sets \(none\) is in adata.var_names"):
        gene_set_preservation(example(), "X_state", {"none": ["TP53"]}, **KEYS)


def test_a_score_without_variation_is_missing():
    adata = example()
    x = adata.X.toarray()
    x[:, :10] = 0  # all genes of the set, and none of like expression varies
    x[:, 60:] = 0
    adata.X = sparse.csr_matrix(x)
    result = gene_set_preservation(adata, "X_state", SETS, **KEYS)
    assert result.table.loc[result.table["gene_set"] == "active", ["before", "after", "ratio"]].isna().all().all()
    assert np.isnan(result.ratio["active"])
    assert np.isfinite(result.ratio["quiet"])


def test_unlabelled_cells_are_left_out():
    adata = example()
    labelled = np.random.default_rng(0).random(adata.n_obs) > 0.1
    keys = KEYS | {"min_cells": 30}
    wanted = gene_set_preservation(adata[labelled].copy(), "X_state", SETS, **keys)
    label = adata.obs[KEYS["label_key"]].astype(object)
    label[~labelled] = "unknown"
    adata.obs[KEYS["label_key"]] = label
    with pytest.warns(UserWarning, match=f"{(~labelled).sum()} of {adata.n_obs} cells have no label"):
        found = gene_set_preservation(adata, "X_state", SETS, **keys)
    assert len(wanted.table) > 0
    pd.testing.assert_frame_equal(found.table, wanted.table)
    pd.testing.assert_series_equal(found.ratio, wanted.ratio)


def test_few_cells_give_no_number_and_a_reason():
    result = gene_set_preservation(example(), "X_state", SETS, **KEYS | {"min_cells": 500})
    assert result.table.empty
    assert result.ratio.isna().all()
    assert "No cell type has 500 cells in one sample" in result.reason


def test_beta_cells_of_baron(data_dir):
    """A stress programme varies between human beta cells, and a PCA of all cells preserves this variation."""
    adata = sysvi.prepare(anndata.read_h5ad(data_dir / "baron_pancreas.h5ad"), "system", "batch")
    adata.obsm["X_pca"] = sc.pp.pca(adata.X, n_comps=15)
    adata.obsm["X_noise"] = np.random.default_rng(0).normal(size=(adata.n_obs, 15))
    sets = {"stress": ["DDIT3", "HSPA5", "TRIB3", "ATF3", "SQSTM1", "HERPUD1", "DDIT4"]}
    sets = {"stress": [gene for gene in sets["stress"] if gene in adata.var_names]}
    assert len(sets["stress"]) >= 3
    keys = {"label_key": "cell_type", "batch_key": "batch", "system_key": "system"}
    kept = gene_set_preservation(adata, "X_pca", sets, **keys)
    lost = gene_set_preservation(adata, "X_noise", sets, **keys)
    assert list(kept.table["batch"]) == ["human1", "mouse2"]
    assert (kept.table["before"] > 0.05).all()
    assert kept.ratio["stress"] > lost.ratio["stress"] + 0.05
    np.testing.assert_allclose(lost.table["after"], 0, atol=0.05)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"embedding_key": "X_sysVI"}, "no embedding 'X_sysVI'"),
        ({"label_key": "type"}, "label_key='type' is not a column"),
        ({"batch_key": "donor"}, "batch_key='donor' is not a column"),
        ({"system_key": "species"}, "system_key='species' is not a column"),
        ({"layer": "log"}, "no layer 'log'"),
        ({"gene_sets": {"a": "gene1"}}, "Gene set 'a' is 'gene1': give a list of genes"),
        ({"gene_sets": {"all": list(example().var_names)}}, "No genes are left to compare gene set 'all' with"),
    ],
)
def test_bad_input_is_named(change, message):
    good = {"adata": example(), "embedding_key": "X_state", "gene_sets": SETS, **KEYS}
    with pytest.raises(InputError, match=message):
        gene_set_preservation(**good | change)


def test_counts_are_refused():
    adata = example()
    adata.X = sparse.csr_matrix(np.expm1(adata.X.toarray()).round())
    with pytest.raises(InputError, match="looks like raw counts"):
        gene_set_preservation(adata, "X_state", SETS, **KEYS)
