"""Differential expression by sampling the model: function and method, against an independent implementation."""

import inspect
import warnings
from types import SimpleNamespace

import numpy as np
import oracle
import pandas as pd
import pytest

import sysvi
from sysvi import InputError, SysVI, differential_expression

pytestmark = pytest.mark.filterwarnings(
    "ignore:System .* has fewer cells",
    "ignore:The model has seen no cells",
    "ignore:The model does not record how its cells were normalised",
)

# Those of scvi.external.SysVI.differential_expression in scvi-tools 1.5.1, in their order
SCVI_DEFAULTS = {
    **{"adata": None, "groupby": None, "group1": None, "group2": None, "idx1": None, "idx2": None},
    **{"mode": "vanilla", "delta": 0.25, "batch_size": None, "all_stats": True, "batch_correction": False},
    **{"batchid1": None, "batchid2": None, "fdr_target": 0.05, "silent": False, "weights": "uniform"},
    **{"filter_outlier_cells": False, "importance_weighting_kwargs": None, "dataloader": None},
}
CHANGE = [
    *(
        "proba_de",
        "proba_not_de",
        "bayes_factor",
        "scale1",
        "scale2",
        "pseudocounts",
        "delta",
        "lfc_mean",
        "lfc_median",
    ),
    *("lfc_std", "lfc_min", "lfc_max"),
]
ORDER = ["proba_m1", "proba_m2", "bayes_factor", "scale1", "scale2"]
MEASURED = [
    f"{name}{i}" for i in (1, 2) for name in ("raw_mean", "non_zeros_proportion", "raw_normalized_mean")
]  # of group 1, then of group 2
GROUPS = ["comparison", "group1", "group2"]


@pytest.fixture(scope="module")
def adata(make_adata):
    """Read-only: the data of `model`."""
    return make_adata()


@pytest.fixture(scope="module")
def model(adata, make_sysvi):
    """Read-only: a trained model with batch, sex and age."""
    return make_sysvi(adata)


@pytest.fixture(scope="module")
def ensemble(adata, model, make_sysvi):
    """Read-only: `model` and another one."""
    return sysvi.Ensemble([model, make_sysvi(adata.copy(), seed=1)])


def compared(model, adata, *groups, **arguments):
    return differential_expression(model, adata, *groups, progress=False, **arguments)


def sampled(members, rows, conditions, n=3000, seed=0):
    """Samples of decoded expression in float64, (n, genes): random rows, mean over members and weighted conditions.

    `conditions` are the weight of system and batch codes, None for a cell's own.
    """
    rng = np.random.default_rng(seed)
    drawn, total = rng.choice(rows, n), 0
    for member in members:
        p, v, own = oracle.arrays(member.module.state_dict()), member.vocabulary, member.cells.covariates
        mean, var = member.get_latent_representation(return_dist=True)
        z = mean[drawn] + np.sqrt(var[drawn]) * rng.normal(size=(n, mean.shape[1]))
        for weight, system, batch in conditions:
            categorical = own.categorical.numpy()[drawn].copy()
            if batch is not None:
                categorical[:, 0] = batch
            code = SimpleNamespace(
                system=own.system.numpy()[drawn] if system is None else np.full(n, system),
                categorical=categorical,
                continuous=own.continuous.numpy()[drawn],
            )
            c = oracle.covariate_code(p, code, len(v.systems), v.n_categories)
            total = total + weight / len(members) * oracle.decode(p, z, c, training=False)[0]
    return total


def assert_close(table, first, second):
    """Means and probabilities of a table and of independent samples; 3,000 samples scatter by a hundredth or two."""
    found = table.loc[list(GENES)]
    np.testing.assert_allclose(found["scale1"], first.mean(axis=0), atol=0.12)
    np.testing.assert_allclose(found["scale2"], second.mean(axis=0), atol=0.12)
    change = (np.maximum(first, 0) - np.maximum(second, 0)) / np.log(2)
    error = change.std(axis=0) * np.sqrt(1 / len(change) + 1 / 5000)
    assert (np.abs(found["lfc_mean"] - change.mean(axis=0)) < 5 * error + 1e-3).all()
    proba = np.maximum((change >= 0.5).mean(axis=0), (change < -0.5).mean(axis=0))
    np.testing.assert_allclose(found["proba_de"], proba, atol=0.06)
    assert proba.max() > 0.8


GENES = [f"gene_{i}" for i in range(100)]


def test_arguments_are_those_of_scvi_tools():
    for kind in (SysVI, sysvi.Ensemble):
        given = inspect.signature(kind.differential_expression).parameters
        names = [n for n, p in given.items() if p.kind is p.POSITIONAL_OR_KEYWORD and n != "self"]
        assert {name: given[name].default for name in names} == SCVI_DEFAULTS
        assert names == list(SCVI_DEFAULTS)
    ours = list(inspect.signature(differential_expression).parameters)
    assert ours[1:15] == list(SCVI_DEFAULTS)[:14]


def test_values_are_those_of_an_independent_implementation(model, adata, ensemble):
    assert list(adata.var_names) == GENES
    label = adata.obs["cell_type"].to_numpy()
    first, second = (np.flatnonzero(label == name) for name in ("type1", "type2"))
    own = [(1.0, None, None)]
    for kind, members in ((model, [model]), (ensemble, ensemble.members)):
        table = compared(kind, adata, "cell_type", "type1", "type2", delta=0.5)
        assert_close(table, sampled(members, first, own), sampled(members, second, own, seed=1))


def test_correction_averages_over_systems_and_their_batches(model, adata):
    system, batch = (model.cells.covariates.system.numpy(), model.cells.covariates.categorical[:, 0].numpy())
    every = [
        (np.mean(batch[system == s] == b) / 2, s, b)
        for s in (0, 1)
        for b in range(4)
        if ((batch == b) & (system == s)).any()
    ]
    one = [(2 * weight, s, b) for weight, s, b in every if s == 1]
    rows = [np.flatnonzero(adata.obs["cell_type"] == name) for name in ("type1", "type2")]
    table = compared(model, adata, "cell_type", "type1", "type2", delta=0.5, batch_correction=True)
    assert_close(table, *(sampled([model], r, every, seed=i) for i, r in enumerate(rows)))
    arguments = {"batch_correction": True, "batchid1": ["system2"], "batchid2": ["system2", "system1"]}
    table = compared(model, adata, "cell_type", "type1", "type2", delta=0.5, **arguments)
    assert_close(table, sampled([model], rows[0], one), sampled([model], rows[1], every, seed=1))


def test_columns_are_those_of_scvi_tools(model, adata):
    table = compared(model, adata, "cell_type", "type1", n_samples_overall=50)
    assert list(table) == [*CHANGE, *MEASURED, "is_de_fdr_0.05", *GROUPS]
    assert table.index.name == "gene"
    assert sorted(table.index) == sorted(adata.var_names)
    assert (table["comparison"] == "type1 vs Rest").all()
    assert table["proba_de"].is_monotonic_decreasing
    short = compared(model, adata, "cell_type", "type1", "type2", all_stats=False, mode="vanilla", n_samples_overall=50)
    assert list(short) == [*ORDER, *GROUPS]
    assert short["bayes_factor"].is_monotonic_decreasing
    arguments = {"idx1": [0, 1, 2], "idx2": [3, 4, 5], "fdr_target": 0.2, "cred_interval_lvls": [0.5]}
    by_row = compared(model, adata, n_samples_overall=50, **arguments)
    interval = ["lfc_confidence_interval_0.5_min", "lfc_confidence_interval_0.5_max"]
    assert list(by_row) == [*CHANGE, *interval, *MEASURED, "is_de_fdr_0.2"]


def test_measured_expression(model, adata):
    table = compared(model, adata, "cell_type", "type1", "type3", n_samples_overall=10).loc[GENES]
    for i, name in ((1, "type1"), (2, "type3")):
        x = adata.X[(adata.obs["cell_type"] == name).to_numpy()].toarray().astype(float)
        np.testing.assert_allclose(table[f"raw_mean{i}"], x.mean(axis=0), rtol=1e-5)
        np.testing.assert_allclose(table[f"non_zeros_proportion{i}"], (x > 0).mean(axis=0))
        np.testing.assert_allclose(table[f"raw_normalized_mean{i}"], np.expm1(x).mean(axis=0), rtol=1e-5)


def test_groups_by_name_rows_mask_and_condition_are_the_same(model, adata):
    is_first = (adata.obs["cell_type"] == "type1").to_numpy()
    by_name = compared(model, adata, "cell_type", "type1", n_samples_overall=40).drop(columns=GROUPS)
    rest = np.flatnonzero(~is_first)
    for idx1, idx2 in (
        (is_first, None),
        (np.flatnonzero(is_first), rest),
        ("cell_type == 'type1'", "cell_type != 'type1'"),
    ):
        pd.testing.assert_frame_equal(compared(model, adata, idx1=idx1, idx2=idx2, n_samples_overall=40), by_name)


def test_each_comparison_is_the_same_alone(model, adata):
    together = compared(model, adata, "cell_type", n_samples_overall=40)
    assert list(together["group1"].unique()) == ["type1", "type2", "type3"]
    alone = compared(model, adata, "cell_type", ["type2"], n_samples_overall=40)
    pd.testing.assert_frame_equal(together[together["group1"] == "type2"], alone)
    against = compared(model, adata, "cell_type", group2="type2", n_samples_overall=40)
    assert list(against["comparison"].unique()) == ["type1 vs type2", "type3 vs type2"]


def test_seed_decides_and_nothing_is_changed(model, adata):
    before = adata.copy()
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    one, same, other = (compared(model, adata, "sex", "f", n_samples_overall=30, seed=seed) for seed in (7, 7, 8))
    pd.testing.assert_frame_equal(one, same)
    assert (one["scale1"] != other["scale1"].loc[one.index]).any()
    np.testing.assert_array_equal(np.random.get_state()[1], state)  # noqa: NPY002
    pd.testing.assert_frame_equal(adata.obs, before.obs)


def test_cells_may_come_in_another_form(model, adata):
    expected = compared(model, adata, "cell_type", "type1", n_samples_overall=30)
    given = adata[:, ::-1].copy()
    pd.testing.assert_frame_equal(compared(model, given, "cell_type", "type1", n_samples_overall=30), expected)
    given = adata.copy()
    given.X = given.layers["counts"].copy()
    found = compared(model, given, "cell_type", "type1", n_samples_overall=30)
    np.testing.assert_allclose(found.loc[GENES, "raw_mean1"], expected.loc[GENES, "raw_mean1"], rtol=1e-4, atol=1e-5)


def test_cells_without_a_group_are_left_out(model, adata):
    given = adata.copy()
    given.obs["cell_type"] = given.obs["cell_type"].astype(object)
    missing = given.obs["cell_type"] == "type3"
    given.obs.loc[missing, "cell_type"] = np.nan
    found = compared(model, given, "cell_type", "type1", n_samples_overall=30).drop(columns=GROUPS)
    rows = [np.flatnonzero(adata.obs["cell_type"] == name) for name in ("type1", "type2")]
    pd.testing.assert_frame_equal(found, compared(model, given, idx1=rows[0], idx2=rows[1], n_samples_overall=30))


def test_outliers_of_the_embedding_are_left_out(model, ensemble, adata):
    rows = np.flatnonzero(adata.obs["cell_type"] == "type1"), np.flatnonzero(adata.obs["cell_type"] == "type2")
    for kind in (model, ensemble):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            found = compared(kind, adata, idx1=rows[0], idx2=rows[1], filter_outlier_cells=True, n_samples_overall=30)
        whole = compared(kind, adata, idx1=rows[0], idx2=rows[1], n_samples_overall=30)
        assert (found.loc[GENES, "raw_mean1"] != whole.loc[GENES, "raw_mean1"]).any()
    few = compared_with_warning(model, adata, "too small to find outliers", idx1=[0, 1, 2], idx2=[3, 4, 5, 6])
    pd.testing.assert_frame_equal(few, compared(model, adata, idx1=[0, 1, 2], idx2=[3, 4, 5, 6], n_samples_overall=30))


def compared_with_warning(model, adata, words, **arguments):
    with pytest.warns(UserWarning, match=words):
        return compared(model, adata, filter_outlier_cells=True, n_samples_overall=30, **arguments)


def test_groups_of_one_batch_are_warned_of(model, adata):
    batch = adata.obs["batch"].iloc[0]
    with pytest.warns(UserWarning, match=rf"^Group '{batch}' has cells of a single batch, .* between donors"):
        compared(model, adata, "batch", batch, n_samples_overall=10)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        compared(model, adata, "cell_type", "type1", n_samples_overall=10)


def test_the_method_is_the_function_with_the_defaults_of_scvi_tools(model, ensemble, adata, capsys):
    for kind in (model, ensemble):
        found = kind.differential_expression(groupby="cell_type", group1="type1", silent=True, n_samples_overall=30)
        pd.testing.assert_frame_equal(
            found, compared(kind, adata, "cell_type", "type1", mode="vanilla", n_samples_overall=30)
        )
    assert capsys.readouterr().out == ""
    found = model.differential_expression(None, "cell_type", "type1", mode="change", silent=True, test_mode="two")
    assert found["is_de_fdr_0.05"].dtype == bool


REFUSED = [
    ({}, r"no groups to compare: name the column of adata.obs with them \(groupby\), or give rows"),
    ({"groupby": "none"}, "'none'"),
    ({"groupby": "cell_type", "group1": "type9"}, r"no group 'type9': choose of type1, type2, type3"),
    ({"groupby": "cell_type", "group1": ["type1", "x"], "group2": "y"}, "no group 'x', 'y'"),
    ({"groupby": "cell_type", "group1": "type1", "group2": "type1"}, "are both 'type1'"),
    ({"groupby": "cell_type", "idx1": [1]}, "given twice"),
    ({"groupby": "cell_type", "idx2": [1]}, "no groups to compare"),
    ({"groupby": "one"}, r"adata.obs\['one'\] has fewer than two groups"),
    ({"groupby": 3}, "groupby is 3"),
    ({"idx1": []}, "idx1 has no cells"),
    ({"idx1": [1], "idx2": "age > 1000"}, "idx2 has no cells"),
    ({"idx1": [1, 2], "idx2": [2, 3]}, "idx1 and idx2 have 1 cells in common"),
    ({"idx1": [1000]}, "idx1 reach from 1000"),
    ({"idx1": "age >"}, "idx1 is 'age >', which is no condition"),
    ({"idx1": "nothing == 1"}, "no condition on columns of adata.obs"),
    ({"idx1": [0.5]}, "idx1 are of type float64"),
    ({"groupby": "sex", "mode": "both"}, "mode is 'both'; it must be one of 'change', 'vanilla'"),
    ({"groupby": "sex", "test_mode": "one"}, "test_mode is 'one'"),
    ({"groupby": "sex", "delta": -1}, "delta is -1"),
    ({"groupby": "sex", "delta": None}, "delta"),
    ({"groupby": "sex", "fdr_target": 1}, "fdr_target is 1"),
    ({"groupby": "sex", "pseudocounts": 0}, "pseudocounts is 0"),
    ({"groupby": "sex", "cred_interval_lvls": [95]}, "cred_interval_lvls is 95"),
    ({"groupby": "sex", "n_samples_overall": 1}, "n_samples_overall is 1"),
    ({"groupby": "sex", "batch_size": 0}, "batch_size is 0"),
    ({"groupby": "sex", "batchid1": ["system1"]}, "batchid1 needs batch_correction=True"),
    ({"groupby": "sex", "batch_correction": True, "batchid2": ["cow"]}, "batchid2 names cow, but the model knows"),
    ({"groupby": "sex", "batch_correction": True, "batchid1": []}, "batchid1 is empty"),
    ({"groupby": "sex", "batch_correction": "yes"}, "batch_correction"),
    ({"groupby": "sex", "layer": "none"}, "none"),
]


@pytest.mark.parametrize(("arguments", "words"), REFUSED)
def test_what_makes_no_sense_is_refused(model, adata, arguments, words):
    given = adata
    if arguments.get("groupby") == "one":
        given = adata.copy()
        given.obs["one"] = "a"
    with pytest.raises(InputError, match=words):
        compared(model, given, **arguments)


def test_cells_that_the_model_does_not_know_are_refused(model, adata, monkeypatch):
    given = adata.copy()
    given.obs["system"] = "cow"
    with pytest.raises(InputError, match="cow, which the model does not know"):
        compared(model, given, "cell_type")
    with pytest.raises(InputError, match="adata must be an AnnData"):
        compared(model, "cells.h5ad", "cell_type")
    with pytest.raises(InputError, match="model is of type AnnData"):
        compared(adata, adata, "cell_type")
    scaled = adata.copy()
    scaled.X = scaled.X.toarray() - 1
    with pytest.raises(InputError, match="negative"):
        compared(model, scaled, "cell_type")
    monkeypatch.setattr("sysvi._core.memory.free_memory", lambda device: 1e4)
    words = r"of 5,000 samples of two groups and 100 genes takes .* lower n_samples_overall"
    with pytest.raises(InputError, match=words):
        compared(model, adata, "cell_type")


def test_methods_refuse_what_scvi_tools_would_do_differently(model, adata, make_sysvi, tmp_path):
    for arguments, words in (
        ({"weights": "importance"}, "weights is 'importance'"),
        ({"dataloader": [1]}, "dataloader is not supported"),
        ({"importance_weighting_kwargs": {"n": 1}}, "importance_weighting_kwargs is not supported"),
        ({"change_fn": "log-fold"}, "has no argument change_fn; .* it has cred_interval_lvls, n_samples_overall"),
    ):
        with pytest.raises(InputError, match=words):
            model.differential_expression(groupby="cell_type", **arguments)
    with pytest.raises(InputError, match="not trained yet"):
        make_sysvi(adata.copy(), train=None).differential_expression(groupby="cell_type")
    model.save(tmp_path)
    with pytest.raises(InputError, match="loaded without data: pass adata"):
        SysVI.load(tmp_path).differential_expression(groupby="cell_type")


def test_a_model_without_batches(adata, make_sysvi):
    own = make_sysvi(adata.copy(), setup={})
    found = compared(own, own.adata, "cell_type", "type1", batch_correction=True, n_samples_overall=30)
    assert np.isfinite(found[CHANGE]).all(axis=None)
