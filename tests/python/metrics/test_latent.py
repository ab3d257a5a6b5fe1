import anndata
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.preprocessing import StandardScaler

from sysvi import InputError
from sysvi.metrics._latent import get_embedding, latent_spread, standardise
from sysvi.metrics._lisi import ilisi
from sysvi.metrics._neighbors import nearest_neighbors


def draw(seed, n=50, d=4):
    rng = np.random.default_rng(seed)
    return rng.normal(3, 1, (n, d)) * 10.0 ** rng.uniform(-4, 4, d)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 60), st.integers(1, 6))
def test_spread_is_its_definition(seed, n, d):
    points = draw(seed, n, d)
    table = latent_spread(points)
    std = [np.sqrt(sum((x - sum(x) / n) ** 2) / n) for x in points.T]
    np.testing.assert_allclose(table["std"], std, rtol=1e-9)
    np.testing.assert_allclose(table["share"], np.square(std) / sum(np.square(std)), rtol=1e-9)
    assert table["share"].sum() == pytest.approx(1)
    assert table["collapsed"].tolist() == [s < 0.05 * max(std) for s in std]
    assert table.index.tolist() == list(range(d))


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.floats(1e-6, 1e6))
def test_spread_knows_neither_scale_nor_place(seed, factor):
    points = draw(seed)
    table, other = latent_spread(points), latent_spread(factor * points[::-1])
    np.testing.assert_allclose(other["std"], factor * table["std"], rtol=1e-6)
    np.testing.assert_allclose(other["share"], table["share"], rtol=1e-6)
    assert (other["collapsed"] == table["collapsed"]).all()


def test_collapse_is_a_matter_of_the_widest_dimension():
    points = np.random.default_rng(0).normal(size=(1000, 3)) * [1, 0.04, 0.06]
    assert latent_spread(points)["collapsed"].tolist() == [False, True, False]
    assert latent_spread(points, collapsed_below=0.01)["collapsed"].tolist() == [False, False, False]
    assert latent_spread(points[:, 1:])["collapsed"].tolist() == [False, False]


def test_cells_in_one_place():
    table = latent_spread(np.full((5, 2), 0.1, np.float32))
    assert table["std"].tolist() == [0, 0]
    assert table["share"].tolist() == [0, 0]
    assert table["collapsed"].tolist() == [True, True]
    assert (standardise(np.full((5, 2), 0.1)) == 0).all()


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 60), st.integers(1, 6))
def test_standardised_is_scikit_learns(seed, n, d):
    points = draw(seed, n, d)
    kept = points.copy()
    result = standardise(points)
    np.testing.assert_allclose(result, StandardScaler().fit_transform(points), atol=1e-6)
    np.testing.assert_allclose(result.std(0), 1, rtol=1e-6)
    np.testing.assert_array_equal(points, kept)
    again = standardise(-5 * points + 2)
    np.testing.assert_allclose(again, -result, atol=1e-6)


def test_standardised_keeps_type_and_constant_dimensions():
    points = np.column_stack([np.arange(9), np.full(9, 0.1)]).astype(np.float32)
    result = standardise(points)
    assert result.dtype == np.float32
    assert (result[:, 1] == 0).all()
    assert result[:, 0].std() == pytest.approx(1)


def test_shrinking_a_dimension_fakes_mixing_until_it_is_standardised():
    """As in Fig. 2 of the paper."""
    rng = np.random.default_rng(0)
    system = np.repeat(["human", "mouse"], 200)
    points = rng.normal(size=(400, 3))
    points[:, 2] += 8 * (system == "mouse")  # tells the systems apart
    shrunk = points * [1, 1, 1e-3]
    raw, faked, honest = (ilisi(nearest_neighbors(x), system).value for x in (points, shrunk, standardise(shrunk)))
    assert raw < 0.1
    assert faked > 0.7
    assert honest < 0.3
    assert latent_spread(shrunk)["collapsed"].tolist() == [False, False, True]


@pytest.mark.parametrize("bad", [np.zeros(4), np.zeros((0, 2)), np.array([[np.nan, 1.0]])])
def test_bad_embeddings_are_named(bad):
    for function in (latent_spread, standardise):
        with pytest.raises(InputError, match="embedding"):
            function(bad)


def test_embedding_of_finds_it_by_name():
    adata = anndata.AnnData(obs=pd.DataFrame(index=list("ab")), obsm={"X_pca": np.array([[1, 2], [3, 4]])})
    adata.obsm["frame"] = pd.DataFrame({"x": [1.0, 2.0]}, index=list("ab"))
    assert get_embedding(adata, "X_pca").dtype == np.float64
    assert get_embedding(adata, "frame").tolist() == [[1.0], [2.0]]
    with pytest.raises(InputError, match=r"no embedding 'X_sysVI': choose one of its keys \(X_pca, frame\)"):
        get_embedding(adata, "X_sysVI")
