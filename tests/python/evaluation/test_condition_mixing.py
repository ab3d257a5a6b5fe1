import anndata
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.neighbors import NearestNeighbors

from sysvi import InputError
from sysvi.evaluation.condition_mixing import condition_mixing

SIMILAR, DISSIMILAR = ("organoid", "periphery"), ("organoid", "fovea")


def example(shift=1.5, sizes=(120, 120, 120), seed=0):
    """Cells of three regions and two types; cells of the fovea are shifted by `shift`."""
    rng = np.random.default_rng(seed)
    region = np.repeat(["organoid", "periphery", "fovea"], sizes)
    n = len(region)
    label = rng.choice(["Mueller cell", "cone"], n, p=[0.8, 0.2])
    place = rng.normal(size=(n, 3)) + shift * (region == "fovea")[:, None] + 50.0 * (label == "cone")[:, None]
    adata = anndata.AnnData(obs=pd.DataFrame({"region": region, "label": label}, index=map(str, range(n))))
    adata.obsm["X"] = place
    return adata


def simpson(points, group, k):
    """iLISI computed by scib-metrics."""
    import scib_metrics

    distances, indices = NearestNeighbors(n_neighbors=k + 1).fit(points).kneighbors(points)
    neighbors = scib_metrics.nearest_neighbors.NeighborsResults(indices, distances)
    return scib_metrics.ilisi_knn(neighbors, group, scale=True)


@pytest.mark.slow
def test_is_ilisi_of_the_cells_of_the_pair_by_scib_metrics():
    adata = example()
    mueller = adata[adata.obs["label"] == "Mueller cell"]
    size = mueller.obs["region"].value_counts().min()
    equal = mueller[
        mueller.obs.groupby("region").cumcount() < size
    ].copy()  # groups of equal size, so that no cell is dropped
    mixing = condition_mixing(equal, "X", "region", SIMILAR, DISSIMILAR)
    for name, pair in (("similar", SIMILAR), ("dissimilar", DISSIMILAR)):
        cells = equal[equal.obs["region"].isin(pair)]
        expected = simpson(cells.obsm["X"], cells.obs["region"].to_numpy(), 89)
        assert mixing.table.loc[name, "ilisi"] == pytest.approx(expected, rel=1e-4)
        assert tuple(mixing.table.loc[name, ["group_a", "group_b", "n_cells"]]) == (*pair, size)
    assert mixing.difference == mixing.table.at["similar", "ilisi"] - mixing.table.at["dissimilar", "ilisi"]


@pytest.mark.slow
@settings(max_examples=15, deadline=None)
@given(st.integers(0, 1000), st.floats(0, 10), st.lists(st.integers(30, 150), min_size=3, max_size=3))
def test_range_and_symmetry(seed, shift, sizes):
    adata = example(shift, sizes, seed)
    mixing = condition_mixing(adata, "X", "region", SIMILAR, DISSIMILAR, seed=seed)
    assert mixing.table["ilisi"].between(0, 1).all()
    assert (mixing.table["n_cells"] == min(sizes)).all()
    swapped = condition_mixing(adata, "X", "region", DISSIMILAR, SIMILAR, seed=seed)
    if sizes[0] == sizes[1] == sizes[2]:
        assert swapped.difference == pytest.approx(-mixing.difference)
    assert condition_mixing(adata, "X", "region", SIMILAR, DISSIMILAR, seed=seed).difference == mixing.difference


def test_the_farther_the_dissimilar_pair_the_larger_the_difference():
    differences = [condition_mixing(example(s), "X", "region", SIMILAR, DISSIMILAR).difference for s in (0, 1, 2, 4)]
    assert abs(differences[0]) < 0.1
    assert differences == sorted(differences)
    assert differences[-1] > 0.7


def test_sizes_do_not_decide():
    """With ten times as many cells of the fovea, pairs of unequal size would have different ranges."""
    mixing = condition_mixing(example(0, (100, 100, 1000)), "X", "region", SIMILAR, DISSIMILAR)
    assert abs(mixing.difference) < 0.1
    assert mixing.table["ilisi"].min() > 0.8


def test_order_and_scale_do_not_matter_where_no_cell_is_dropped():
    adata = example()
    mixing = condition_mixing(adata, "X", "region", SIMILAR, DISSIMILAR)
    other = adata[np.random.default_rng(0).permutation(adata.n_obs)].copy()
    other.obsm["X"] *= 1000
    pd.testing.assert_frame_equal(
        condition_mixing(other, "X", "region", SIMILAR[::-1], DISSIMILAR).table[["n_cells", "ilisi"]],
        mixing.table[["n_cells", "ilisi"]],
        rtol=1e-6,
    )


def test_within_one_type_only_its_cells_count():
    adata = example()
    where = {"label_key": "label", "label": "Mueller cell"}
    mixing = condition_mixing(adata, "X", "region", SIMILAR, DISSIMILAR, **where)
    adata.obsm["X"][adata.obs["label"] == "cone"] = np.random.default_rng(1).normal(size=3)
    again = condition_mixing(adata, "X", "region", SIMILAR, DISSIMILAR, **where)
    pd.testing.assert_frame_equal(again.table, mixing.table)
    alone = condition_mixing(adata[adata.obs["label"] == "Mueller cell"].copy(), "X", "region", SIMILAR, DISSIMILAR)
    pd.testing.assert_frame_equal(alone.table, mixing.table)


def test_unlabelled_cells_are_left_out():
    adata = example()
    where = {"label_key": "label", "label": "Mueller cell"}
    wanted = condition_mixing(adata, "X", "region", SIMILAR, DISSIMILAR, **where)
    label = adata.obs["label"].astype(object)
    cones = np.flatnonzero(label == "cone")
    label.iloc[cones[:5]], label.iloc[cones[5:9]] = np.nan, "unknown"
    adata.obs["label"] = label
    with pytest.warns(UserWarning, match="9 of 360 cells have no label in .*'label'.* left out"):
        mixing = condition_mixing(adata, "X", "region", SIMILAR, DISSIMILAR, **where)
    pd.testing.assert_frame_equal(mixing.table, wanted.table)
    with (
        pytest.warns(UserWarning, match="9 of 360"),
        pytest.raises(InputError, match="no label 'unknown': choose one of Mueller cell"),
    ):
        condition_mixing(adata, "X", "region", SIMILAR, DISSIMILAR, label_key="label", label="unknown")


def test_four_groups_and_few_neighbours():
    adata = example(3, (40, 40, 40))
    adata.obs["region"] = adata.obs["region"] + np.where(np.arange(120) % 2, "1", "2")
    with pytest.raises(InputError, match="has 20 cells, but at least 30"):
        condition_mixing(adata, "X", "region", ("organoid1", "organoid2"), ("fovea1", "periphery1"))
    adata = example(3, (80, 80, 80))
    adata.obs["region"] = adata.obs["region"] + np.where(np.arange(240) % 2, "1", "2")
    mixing = condition_mixing(  # 79 other cells are fewer than 89
        adata, "X", "region", ("organoid1", "organoid2"), ("fovea1", "periphery1")
    )
    assert mixing.table["n_cells"].tolist() == [40, 40]
    assert mixing.difference > 0.2


def test_cells_in_one_place_count_as_mixed():
    adata = example()
    adata.obsm["X"][:] = 0
    table = condition_mixing(adata, "X", "region", SIMILAR, DISSIMILAR).table
    assert np.isfinite(table["ilisi"]).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"embedding_key": "X_pca"}, "no embedding 'X_pca'"),
        ({"group_key": "area"}, "group_key='area' is not a column"),
        ({"similar": ("organoid", "macula")}, "Group 'macula' of .* has 0 cells"),
        ({"similar": "ab"}, "similar is 'ab': give two different groups"),
        ({"dissimilar": ("fovea", "fovea")}, "dissimilar is .* two different groups"),
        ({"label_key": "label"}, "give both"),
        ({"label": "cone"}, "give both"),
        ({"label_key": "label", "label": "rod"}, "no label 'rod': choose one of Mueller cell, cone"),
    ],
)
def test_bad_input_is_named(change, message):
    good = {"embedding_key": "X", "group_key": "region", "similar": SIMILAR, "dissimilar": DISSIMILAR}
    with pytest.raises(InputError, match=message):
        condition_mixing(example(), **good | change)
