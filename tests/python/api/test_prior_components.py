import importlib

import numpy as np
import oracle
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import softmax
from scipy.stats import norm

from sysvi import Ensemble, InputError
from sysvi.api.prior_components import prior_components

module = importlib.import_module("sysvi.api.prior_components")  # sysvi.prior_components may be the function


def components_of(model):
    """Weights, means and variances of the prior's components in float64 NumPy."""
    p = oracle.arrays(model.module.state_dict())
    if model.model_settings.prior == "vamp":
        mean, var = oracle.encode(p, p["prior.x"], p["prior.c"], training=False)
    else:
        mean, var = p["prior.mean"], oracle.variance(p["prior.log_var"])
    return softmax(p["prior.logits"]), mean, var


def mixing(counts, sizes):
    """Entropy of systems counted relative to their sizes, by its definition."""
    if len(sizes) < 2 or sum(counts) == 0:
        return np.nan
    relative = [count / size for count, size in zip(counts, sizes, strict=True)]
    shares = [r / sum(relative) for r in relative]
    return -sum(s * np.log(s) for s in shares if s > 0) / np.log(len(sizes))


@pytest.fixture(scope="module")
def make(make_adata, make_sysvi):
    """Maker of data and a trained model whose components have unequal weights."""

    def trained(**arguments):
        adata = make_adata()
        arguments = {"n_prior_components": 6, "pseudoinputs": "balanced_system", **arguments}
        model = make_sysvi(adata, train={"max_epochs": 30, "kl_weight": 0.01}, **arguments)
        if model.model_settings.prior != "standard_normal":
            weights = 0.1 * np.random.default_rng(0).normal(size=6)
            with torch.no_grad():
                model.module.prior.logits.copy_(torch.from_numpy(weights))
        return adata, model

    return trained


@pytest.mark.slow
@pytest.mark.parametrize("form", ["dimension", "joint"])
@pytest.mark.parametrize("prior", ["vamp", "gmm"])
def test_best_component_is_its_definition(make, prior, form):
    adata, model = make(prior=prior, mixture=form)
    result = prior_components(model, adata, "cell_type")
    weights, mean, var = components_of(model)
    z = model.get_latent_representation(adata).astype(np.float64)
    n, d = z.shape
    support = np.empty((n, 6))
    for i in range(n):
        for k in range(6):
            support[i, k] = sum(norm.logpdf(z[i, j], mean[k, j], np.sqrt(var[k, j])) for j in range(d))
            support[i, k] += np.log(weights[k]) * (d if form == "dimension" else 1)
    expected = support.argmax(1)
    top = np.sort(support, 1)
    clear = top[:, -1] - top[:, -2] > 1e-3  # beyond rounding of the encoder
    assert clear.mean() > 0.95
    assert len(set(expected)) > 1
    np.testing.assert_array_equal(result.component[clear], expected[clear])
    np.testing.assert_allclose(result.probability, softmax(support, 1).max(1), rtol=1e-3)
    assert list(result.component.index) == list(result.probability.index) == list(adata.obs_names)
    np.testing.assert_allclose(result.table["weight"], weights, rtol=1e-5)


@pytest.mark.slow
def test_tables_count_the_cells(make):
    adata, model = make()
    result = prior_components(model, adata, "cell_type")
    component, system, label = result.component, adata.obs["system"], adata.obs["cell_type"]
    for table, column in ((result.systems, system), (result.labels, label)):
        assert table.to_numpy().sum() == adata.n_obs
        assert list(table.index) == list(range(6))
        for k in range(6):
            for name in column.unique():
                assert table.loc[k, name] == ((component == k) & (column == name)).sum()
    sizes = result.systems.sum()
    for k, row in result.table.iterrows():
        own = label[component == k]
        assert row["n_cells"] == len(own)
        assert row["share"] == pytest.approx(len(own) / adata.n_obs)
        np.testing.assert_allclose(row["system_mixing"], mixing(result.systems.loc[k], sizes), atol=1e-12)
        if len(own):
            assert row["label"] == own.value_counts().idxmax() or own.value_counts().nunique() < len(own.unique())
            assert row["purity"] == pytest.approx(own.value_counts().max() / len(own))


@pytest.mark.slow
def test_without_labels(make):
    adata, model = make()
    result, with_labels = prior_components(model, adata), prior_components(model, adata, "cell_type")
    assert result.labels is None
    assert list(result.table) == ["weight", "n_cells", "share", "system_mixing"]
    pd.testing.assert_frame_equal(result.table, with_labels.table[list(result.table)])


@pytest.mark.slow
def test_unlabelled_cells_are_left_out_of_the_labels_alone(make):
    adata, model = make()
    adata.obs["partial"] = adata.obs["cell_type"].astype(str)
    names = ["Unknown", "unassigned", "", np.nan, " nan "]
    adata.obs.loc[adata.obs_names[:50], "partial"] = [names[i % 5] for i in range(50)]
    result, labelled = prior_components(model, adata, "partial"), adata.obs["partial"].iloc[50:]
    assert set(result.labels.columns) == set(labelled)
    for k, row in result.table.iterrows():
        counts = labelled[result.component.iloc[50:] == k].value_counts()
        assert result.labels.loc[k].sum() == counts.sum()
        if len(counts):
            assert row["purity"] == pytest.approx(counts.max() / counts.sum())
    whole = prior_components(model, adata, "cell_type")
    pd.testing.assert_series_equal(result.component, whole.component)
    pd.testing.assert_frame_equal(result.table.iloc[:, :4], whole.table.iloc[:, :4])


@pytest.mark.slow
def test_in_chunks_and_in_another_order_it_is_the_same(make, monkeypatch):
    adata, model = make()
    whole = prior_components(model, adata)
    monkeypatch.setattr(module, "MAX_DENSITIES", 6 * 4 * 7)  # seven cells
    order = np.random.default_rng(0).permutation(adata.n_obs)
    other = prior_components(model, adata[order].copy())
    pd.testing.assert_series_equal(other.component[adata.obs_names], whole.component)
    pd.testing.assert_series_equal(other.probability[adata.obs_names], whole.probability, rtol=1e-5)
    pd.testing.assert_frame_equal(other.table, whole.table)


@pytest.mark.slow
def test_a_component_far_from_all_cells_has_none(make):
    adata, model = make(prior="gmm")
    with torch.no_grad():
        model.module.prior.mean[2] = 1e3
    result = prior_components(model, adata, "cell_type")
    row = result.table.loc[2]
    assert row["n_cells"] == row["share"] == 0
    assert row[["system_mixing", "label", "purity"]].isna().all()
    assert np.isfinite(result.probability).all()


@pytest.mark.slow
def test_components_at_the_types_are_pure_and_at_the_systems_unmixed(make):
    """Components placed by hand at the centres of labels or of systems are found to be theirs."""
    adata, model = make(prior="gmm", n_latent=2)
    far = 100 * np.eye(6, 2)  # the two systems lie far apart
    for column, names in (("system", sorted(adata.obs["system"].unique())), ("cell_type", None)):
        names = names or sorted(adata.obs["cell_type"].unique())
        places = np.vstack([far[:2], [-100, -100], [-100, 100], [0, 300], [300, 0]])
        code = adata.obs[column].astype(str).map({name: i for i, name in enumerate(names)}).to_numpy()
        model.get_latent_representation = lambda a, code=code, places=places: places[code].astype(np.float32)
        with torch.no_grad():
            model.module.prior.mean.copy_(torch.from_numpy(places))
        result = prior_components(model, adata, "cell_type")
        used = result.table[result.table["n_cells"] > 0]
        np.testing.assert_array_equal(result.component, code)
        assert len(used) == len(names)
        if column == "system":
            assert (used["system_mixing"] == 0).all()
        else:
            assert (used["purity"] == 1).all()
            assert used["label"].tolist() == names
            assert (used["system_mixing"] > 0.9).all()


@settings(max_examples=30, deadline=None)
@given(st.lists(st.lists(st.integers(0, 50), min_size=3, max_size=3), min_size=1, max_size=5))
def test_mixing_is_its_definition(rows):
    counts = np.array(rows) + np.eye(len(rows), 3, dtype=int)[:, :3]
    counts[0] += 1  # no system is empty
    found = module._mixing(counts)
    np.testing.assert_allclose(found, [mixing(row, counts.sum(0)) for row in counts], atol=1e-12)
    assert np.nanmin(found) >= -1e-12
    assert np.nanmax(found) <= 1 + 1e-12


def test_mixing_is_relative_to_the_data():
    """A tenth of the cells is of the second system; a component with a tenth of it is fully mixed."""
    np.testing.assert_allclose(module._mixing(np.array([[90, 10], [900, 100]])), [1, 1])
    assert module._mixing(np.array([[90, 0], [0, 10]])).tolist() == [0, 0]
    assert np.isnan(module._mixing(np.array([[3], [4]]))).all()


@pytest.mark.slow
def test_cells_of_one_system_have_no_mixing(make):
    adata, model = make()
    human = adata[adata.obs["system"] == adata.obs["system"].iloc[0]].copy()
    result = prior_components(model, human)
    assert result.systems.shape == (6, 1)
    assert result.table["system_mixing"].isna().all()
    assert result.table["n_cells"].sum() == human.n_obs


@pytest.mark.slow
def test_bad_input_is_named(make, make_adata, make_sysvi):
    adata, model = make()
    with pytest.raises(InputError, match="label_key='type' is not a column"):
        prior_components(model, adata, "type")
    with pytest.raises(InputError, match="genes are not in"):
        prior_components(model, adata[:, 5:].copy())
    untrained = make_sysvi(make_adata(), train=None)
    with pytest.raises(InputError, match="not trained"):
        prior_components(untrained, adata)
    ensemble = Ensemble([model, model])
    with pytest.raises(InputError, match=r"Each member .* pass one of model\.members"):
        prior_components(ensemble, adata)
    pd.testing.assert_frame_equal(
        prior_components(ensemble.members[0], adata).table, prior_components(model, adata).table
    )
    adata, normal = make(prior="standard_normal")
    with pytest.raises(InputError, match="standard normal prior has no components"):
        prior_components(normal, adata)
