"""Decoded expression with the arguments of scvi-tools."""

import inspect
from types import SimpleNamespace

import numpy as np
import oracle
import pandas as pd
import pytest

import sysvi
from sysvi import InputError, SysVI

pytestmark = pytest.mark.filterwarnings("ignore:System .* has fewer cells", "ignore:The model has seen no cells")

# Those of scvi.external.SysVI.get_normalized_expression in scvi-tools 1.5.1, in their order
ARGUMENTS = (
    *("adata", "indices", "transform_batch", "gene_list", "library_size", "n_samples", "n_samples_overall", "weights"),
    *("batch_size", "return_mean", "return_numpy", "silent", "dataloader", "data_loader_kwargs"),
)


@pytest.fixture(scope="module")
def adata(make_adata):
    """Read-only: the data of `model`."""
    return make_adata()


@pytest.fixture(scope="module")
def model(adata, make_sysvi):
    """Read-only: a trained model with batch, sex and age."""
    return make_sysvi(adata)


def decoded(model, system=None, seed=None):
    """Expression that is decoded in float64 from a sample of the embedding; `system` is a code."""
    p, v, covariates = oracle.arrays(model.module.state_dict()), model.vocabulary, model.cells.covariates
    own = covariates.system.numpy()
    target = SimpleNamespace(
        system=own if system is None else np.full_like(own, system),
        categorical=covariates.categorical.numpy(),
        continuous=covariates.continuous.numpy(),
    )
    z = model.get_latent_representation(give_mean=False, seed=seed).astype(np.float64)
    c = oracle.covariate_code(p, target, len(v.systems), v.n_categories)
    return oracle.decode(p, z, c, training=False)[0]


def test_arguments_are_those_of_scvi_tools():
    given = inspect.signature(SysVI.get_normalized_expression).parameters
    positional = [name for name, value in given.items() if value.kind is value.POSITIONAL_OR_KEYWORD]
    assert tuple(positional[1:]) == ARGUMENTS
    defaults = {name: given[name].default for name in ARGUMENTS}
    assert defaults == dict.fromkeys(ARGUMENTS) | {
        "library_size": 1,
        "n_samples": 1,
        "return_mean": True,
        "silent": True,
    }


@pytest.mark.parametrize(
    "settings",
    [{}, {"prior": "gmm"}, {"covariates_in_mean": False}, {"covariates_in_hidden": False}, {"n_layers": 1}],
    ids=str,
)
def test_values_are_those_of_an_independent_implementation(adata, make_sysvi, settings):
    own = make_sysvi(adata.copy(), **settings)
    for system, name in ((None, None), (0, "system1"), (1, "system2")):
        found = own.get_normalized_expression(transform_batch=name, seed=5)
        np.testing.assert_allclose(found, decoded(own, system, seed=5), rtol=1e-3, atol=1e-4)


def test_there_is_no_library_size(model):
    """``"latent"`` is 1, as expression is that of the input; the module draws no expression, as in scvi-tools."""
    expected = model.get_normalized_expression(return_numpy=True)
    np.testing.assert_array_equal(model.get_normalized_expression(library_size="latent", return_numpy=True), expected)
    with pytest.raises(NotImplementedError, match=r"get_normalized_expression and sysvi\.translate decode"):
        model.module.sample()


def test_several_systems_are_averaged(model):
    found = model.get_normalized_expression(transform_batch=["system1", None], return_numpy=True)
    np.testing.assert_allclose(found, (decoded(model, 0) + decoded(model)) / 2, rtol=1e-3, atol=1e-4)


def test_rows_and_genes(model, adata):
    whole = model.get_normalized_expression()
    assert isinstance(whole, pd.DataFrame)
    assert list(whole.index) == list(adata.obs_names)
    assert list(whole.columns) == list(adata.var_names)
    assert (whole.dtypes == np.float32).all()
    genes = list(adata.var_names[[20, 3, 7]])
    some = model.get_normalized_expression(gene_list=genes)
    pd.testing.assert_frame_equal(some, whole[list(adata.var_names[[3, 7, 20]])])  # in the order of the model
    rows = np.array([5, -1, 17])
    few = model.get_normalized_expression(indices=rows, n_samples=400, seed=1)
    assert list(few.index) == list(adata.obs_names[rows])
    many = model.get_normalized_expression(n_samples=400, seed=2).iloc[rows]
    np.testing.assert_allclose(few, many, atol=0.15)
    other = model.get_normalized_expression(adata[rows].copy()[:, ::-1].copy(), n_samples=400, seed=1)
    np.testing.assert_allclose(other, few, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(model.get_normalized_expression(batch_size=7), whole, rtol=1e-4, atol=1e-5)


def test_samples(model, adata):
    genes = list(adata.var_names[:4])
    samples = model.get_normalized_expression(gene_list=genes, n_samples=3, return_mean=False)
    assert samples.shape == (3, adata.n_obs, 4)
    assert (samples[0] != samples[1]).any()
    mean = model.get_normalized_expression(gene_list=genes, n_samples=3)
    np.testing.assert_allclose(samples.mean(axis=0), mean, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(samples[0], model.get_normalized_expression(gene_list=genes))
    one = model.get_normalized_expression(gene_list=genes, return_mean=False, return_numpy=True)
    np.testing.assert_array_equal(one, samples[0])
    other = model.get_normalized_expression(gene_list=genes, seed=9, return_numpy=True)
    assert (other != samples[0]).any()
    with pytest.warns(UserWarning, match="return_numpy=False has no effect"):
        model.get_normalized_expression(gene_list=genes, n_samples=2, return_mean=False, return_numpy=False)


def test_a_latent_library_size_is_none(model):
    pd.testing.assert_frame_equal(
        model.get_normalized_expression(library_size="latent"), model.get_normalized_expression()
    )


def test_samples_of_all_cells_together(model, adata):
    rows = [1, 2, 3]
    found = model.get_normalized_expression(indices=rows, n_samples_overall=300, seed=1)
    assert found.shape == (300, adata.n_vars)
    numbers = found.index.value_counts()
    assert set(numbers.index) == set(adata.obs_names[rows])
    assert numbers.min() > 70
    mean = model.get_normalized_expression(indices=rows, n_samples=300, seed=2)
    np.testing.assert_allclose(found.groupby(level=0).mean().loc[mean.index], mean, atol=0.25)
    drawn = model.get_normalized_expression(indices=rows, n_samples_overall=5, return_numpy=True)
    assert isinstance(drawn, np.ndarray)


def test_the_mean_of_the_embedding_is_what_translate_decodes(model, adata):
    """Where samples scatter little, both are the same but for values below 0."""
    samples = model.get_normalized_expression(n_samples=300, return_numpy=True)
    translated = sysvi.translate(model, adata, progress=False).layers["sysvi_translated"]
    assert np.abs(samples.clip(min=0) - translated).mean() < 0.03


@pytest.mark.filterwarnings("default:The model has seen no cells")
def test_batches_that_the_target_lacks_are_warned_of(model, adata):
    first = np.flatnonzero(adata.obs["system"] == "system1")
    with pytest.warns(UserWarning, match=r"no cells of .* \(of 'batch'\) in system 'system2', .*sysvi.translate"):
        model.get_normalized_expression(indices=first, transform_batch="system2")


REFUSED = [
    ({"library_size": 1e4}, "library_size is 10000.0, but sysVI models log-normalised expression, .* counts: leave"),
    ({"library_size": "observed"}, "library_size is 'observed', but"),
    ({"weights": "importance"}, "weights is 'importance'; sysVI weights all samples alike"),
    ({"dataloader": [1]}, "dataloader is not supported: give the cells as adata"),
    ({"data_loader_kwargs": {"x": 1}}, "data_loader_kwargs is not supported"),
    ({"n_mc_samples": 3}, "has no argument n_mc_samples"),
    ({"transform_batch": "rat"}, "transform_batch is 'rat', but the model knows the systems system1, system2"),
    ({"transform_batch": ["rat", "system1", 0]}, "transform_batch is 'rat', 0, but"),
    ({"transform_batch": []}, "transform_batch is empty"),
    ({"gene_list": ["INS"]}, "lacks 1 of the 1 genes that were asked for .INS."),
    ({"gene_list": "gene_1"}, r"gene_list is the string 'gene_1'; it must be .*\['gene_1'\]"),
    ({"gene_list": []}, "gene_list is empty"),
    ({"n_samples": 0}, "n_samples is 0"),
    ({"n_samples": 2, "n_samples_overall": 5}, "leave n_samples out"),
    ({"n_samples_overall": 0}, "n_samples_overall is 0"),
    ({"indices": [], "n_samples_overall": 3}, "indices choose no cells"),
    ({"indices": [1000]}, "indices reach from 1000"),
    ({"batch_size": 0}, "batch_size is 0"),
    ({"return_mean": "no"}, "return_mean"),
    ({"adata": "cells.h5ad"}, "adata must be an AnnData"),
]


@pytest.mark.parametrize(("arguments", "words"), REFUSED)
def test_what_makes_no_sense_is_refused(model, arguments, words):
    with pytest.raises(InputError, match=words):
        model.get_normalized_expression(**arguments)


def test_models_that_cannot_decode_say_why(adata, model, make_sysvi, tmp_path, monkeypatch):
    with pytest.raises(InputError, match="not trained yet"):
        make_sysvi(adata.copy(), train=None).get_normalized_expression()
    model.save(tmp_path)
    loaded = SysVI.load(tmp_path)
    with pytest.raises(InputError, match="loaded without data: pass adata"):
        loaded.get_normalized_expression()
    pd.testing.assert_frame_equal(loaded.get_normalized_expression(adata), model.get_normalized_expression())
    members = [model, make_sysvi(adata.copy(), seed=1)]
    with pytest.raises(InputError, match=r"sysvi.translate decodes with all members of an ensemble"):
        sysvi.Ensemble(members).get_normalized_expression()
    monkeypatch.setattr("sysvi._core.memory.free_memory", lambda device: 1e4)
    with pytest.raises(InputError, match=r"of 300 cells and 100 genes, 3 times, takes .* choose genes .gene_list."):
        model.get_normalized_expression(n_samples=3, return_mean=False)
