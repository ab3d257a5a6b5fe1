"""The class as a drop-in for scvi.external.SysVI, and `integrate`."""

import inspect
import json
import warnings

import anndata
import numpy as np
import pandas as pd
import pytest
import torch
from scipy import sparse

import sysvi
from sysvi import Event, InputError, SysVI

pytestmark = pytest.mark.filterwarnings("ignore:System .* has fewer cells")

SMALL = {"n_hidden": 16, "n_latent": 4}
FAST = {"max_epochs": 2, "progress": False, "device": "cpu"}


@pytest.fixture(scope="module")
def adata(make_adata):
    """Read-only: the data of `model`."""
    return make_adata()


@pytest.fixture(scope="module")
def model(adata, make_sysvi):
    """Read-only: a trained model."""
    return make_sysvi(adata, train={"check_val_every_n_epoch": 1})


@pytest.fixture(scope="module")
def embedding(model):
    return model.get_latent_representation()


# -- setup and constructor -------------------------------------------------------------------------------------------


def test_setup_takes_positions_and_names_alike(make_adata):
    by_place, by_name = make_adata(), make_adata()
    by_place.layers["log"] = by_name.layers["log"] = by_place.X
    SysVI.setup_anndata(by_place, "system", "log", ["batch"], ["age"], True)
    SysVI.setup_anndata(
        adata=by_name,
        batch_key="system",
        layer="log",
        categorical_covariate_keys=["batch"],
        continuous_covariate_keys=["age"],
        weight_batches=True,
    )
    assert by_place.uns["sysvi_setup"] == by_name.uns["sysvi_setup"]
    vocabulary = SysVI(by_place, **SMALL).vocabulary
    assert vocabulary.systems == ("system1", "system2")
    assert list(vocabulary.categorical) == ["batch"]
    assert list(vocabulary.continuous) == ["age"]


# Names and order of the positional parameters in scvi-tools 1.5.1, of scvi.external.SysVI and the classes that it
# inherits from. All that follows `plan_kwargs` in train is passed by name there, too.
POSITIONAL_IN_SCVI_TOOLS = {
    "__init__": "adata registry prior n_prior_components pseudoinputs_data_indices",
    "setup_anndata": "adata batch_key layer categorical_covariate_keys continuous_covariate_keys weight_batches",
    "train": "plan_kwargs",
    "get_latent_representation": "adata indices give_mean mc_samples batch_size return_dist dataloader",
    "get_normalized_expression": "adata indices transform_batch gene_list library_size n_samples n_samples_overall "
    "weights batch_size return_mean return_numpy silent dataloader data_loader_kwargs",
    "differential_expression": "adata groupby group1 group2 idx1 idx2 mode delta batch_size all_stats batch_correction "
    "batchid1 batchid2 fdr_target silent weights filter_outlier_cells importance_weighting_kwargs dataloader",
    "save": "dir_path prefix overwrite save_anndata save_kwargs legacy_mudata_format datamodule",
    "load": "dir_path adata accelerator device prefix backup_url datamodule allowed_classes_names_list",
    "prepare_query_anndata": "adata reference_model return_reference_var_names inplace",
    "load_query_data": "adata reference_model registry inplace_subset_query_vars accelerator device unfrozen",
}


@pytest.mark.parametrize("method", POSITIONAL_IN_SCVI_TOOLS)
def test_positional_parameters_are_those_of_scvi_tools(method):
    parameters = inspect.signature(getattr(SysVI, method)).parameters.values()
    positional = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD and p.name != "self"]
    assert positional == POSITIONAL_IN_SCVI_TOOLS[method].split()


def test_positional_arguments_reach_their_parameters(make_adata, tmp_path):
    adata = make_adata()
    SysVI.setup_anndata(adata, "system", None, ["batch"])
    model = SysVI(adata, None, "gmm", 3, np.arange(3), **SMALL)
    assert (model.model_settings.prior, model.model_settings.n_prior_components) == ("gmm", 3)
    model.train({"kl_weight": 0.5}, max_epochs=1, progress=False)
    assert model.train_settings.kl_weight.value == 0.5
    mean, variance = model.get_latent_representation(None, [1, 2], True, 5000, 10, True)
    assert mean.shape == variance.shape == (2, 4)
    model.save(tmp_path, "first_", False, True)
    assert {path.name for path in tmp_path.iterdir()} == {"first_model.safetensors", "first_adata.h5ad"}
    again = SysVI.load(tmp_path, adata, "cpu", "auto", "first_")
    np.testing.assert_array_equal(again.get_latent_representation(None, [1, 2]), mean)


def test_positional_arguments_of_earlier_versions_are_told_in_a_sentence(model, make_adata, tmp_path):
    with pytest.raises(InputError, match=r"give the number of epochs by name: train\(max_epochs=5\)"):
        model.train(5)
    with pytest.raises(InputError, match=r"registry is not supported.*pass settings by name \(prior="):
        SysVI(model.adata, "gmm")
    with pytest.raises(InputError, match="prefix is True; it must be"):
        model.save(tmp_path, True)
    with pytest.raises(InputError, match="dataloader is not supported: give the cells as adata"):
        model.get_latent_representation(dataloader=[1])


@pytest.mark.parametrize(
    "arguments",
    [
        {"prior": "standard_normal"},
        {"prior": "vamp", "n_prior_components": 5, "pseudoinputs_data_indices": np.array(range(5))},
        {"prior": "gmm", "n_prior_components": 3},
        {"n_layers": 1, "dropout_rate": 0.0},
        {"n_layers": 3, "dropout_rate": 0.3, "out_var_mode": "sample_feature"},
        {"embed_categorical_covariates": True},
        {"embed_categorical_covariates": True, "embedding_kwargs": {"embedding_dim": 2}},
        {"trainable_priors": False},
        {"encoder_decoder_kwargs": {}},
    ],
    ids=str,
)
def test_constructor_arguments_build_models_that_train(make_adata, make_sysvi, arguments):
    model = make_sysvi(make_adata(), train={"max_epochs": 1}, **arguments)
    latent = model.get_latent_representation()
    assert latent.shape == (300, 4)
    assert np.isfinite(latent).all()


def test_sizes_reach_the_module(make_adata, make_sysvi):
    model = make_sysvi(make_adata(), train=None, n_latent=7, n_hidden=24, n_layers=3, n_prior_components=9)
    shapes = {tuple(p.shape) for p in model.module.parameters()}
    assert model.module.prior.x.shape == (9, 100)
    assert any(24 in shape for shape in shapes)
    assert model.model_settings.n_layers == 3


def test_embedded_categories_are_learned_vectors(make_adata, make_sysvi):
    model = make_sysvi(
        make_adata(), train=None, embed_categorical_covariates=True, embedding_kwargs={"embedding_dim": 3}
    )
    assert [tuple(table.shape) for table in model.module.code.tables] == [(4, 3), (2, 3)]  # batches, sexes


def test_trainable_and_frozen_pseudoinputs(make_adata, make_sysvi):
    for trainable in (True, False):
        model = make_sysvi(make_adata(), train=None, trainable_priors=trainable)
        before = model.module.prior.x.detach().clone()
        model.train(**FAST)
        assert torch.equal(before, model.module.prior.x) is not trainable


def test_data_without_setup_is_refused(make_adata):
    with pytest.raises(InputError, match="setup_anndata"):
        SysVI(make_adata())


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"n_latents": 3}, "n_latents"),
        ({"prior": "normal"}, "prior is 'normal'"),
        ({"out_var_mode": "gene"}, "out_var_mode is 'gene'"),
        ({"n_hidden": 0}, "n_hidden is 0"),
        ({"dropout_rate": 1.0}, "dropout_rate is 1.0"),
        ({"encoder_decoder_kwargs": {"activation": "relu"}}, "activation"),
        ({"embedding_kwargs": {"max_norm": 1}}, "max_norm"),
        ({"pseudoinputs_data_indices": [0, 1]}, r"shape \(2,\).*n_prior_components=5"),
        ({"pseudoinputs_data_indices": [0, 1, 2, 3, 300]}, "from 0 to 299"),
        ({"pseudoinputs_data_indices": [0.5, 1, 2, 3, 4]}, "whole numbers"),
        ({"pseudoinputs": "first"}, "pseudoinputs is 'first'"),
        ({"pseudoinputs": "system"}, "pseudoinputs_system is None.*system1, system2"),
        ({"pseudoinputs": "system", "pseudoinputs_system": "zebrafish"}, "'zebrafish'.*system1, system2"),
        ({"pseudoinputs": "balanced_label"}, "pseudoinputs_label_key"),
        ({"pseudoinputs": "balanced_label", "pseudoinputs_label_key": "organ"}, "organ"),
        ({"pseudoinputs": "noise"}, "'noise'.*prior='vamp' needs cells"),
        ({"seed": -1}, "seed"),
    ],
    ids=str,
)
def test_unusable_constructor_argument_is_named(make_adata, make_sysvi, arguments, name):
    with pytest.raises(InputError, match=name):
        make_sysvi(make_adata(), train=None, **arguments)


# -- pseudo-inputs ---------------------------------------------------------------------------------------------------


def rows_of(model, adata):
    """The cells that the prior's components are, by their expression."""
    x = adata.X.toarray()
    equal = (model.module.prior.x.detach().numpy()[:, None] == x).all(2)  # (K, n)
    assert (equal.sum(1) == 1).all()
    return equal.argmax(1)


def test_given_rows_start_the_components_with_their_covariates(adata, make_adata, make_sysvi):
    rows = np.array([299, 3, 7, 150, 20])
    model = make_sysvi(make_adata(), train=None, pseudoinputs_data_indices=rows)
    np.testing.assert_array_equal(rows_of(model, adata), rows)
    code = model.module.prior.c.detach().numpy()
    systems = pd.get_dummies(adata.obs["system"].iloc[rows]).to_numpy(float)
    np.testing.assert_array_equal(code[:, :2], systems)
    age = adata.obs["age"]
    np.testing.assert_allclose(code[:, -1], (age.iloc[rows] - age.mean()) / age.std(ddof=0), rtol=1e-5)


@pytest.mark.parametrize("k", [1, 5, 40])
def test_random_pseudoinputs_are_different_cells(adata, make_adata, make_sysvi, k):
    rows = rows_of(make_sysvi(make_adata(), train=None, n_prior_components=k), adata)
    assert len(set(rows)) == k


def test_pseudoinputs_of_one_system(adata, make_adata, make_sysvi):
    model = make_sysvi(
        make_adata(), train=None, n_prior_components=12, pseudoinputs="system", pseudoinputs_system="system2"
    )
    assert set(adata.obs["system"].iloc[rows_of(model, adata)]) == {"system2"}


@pytest.mark.parametrize("k", [2, 7, 10])
@pytest.mark.parametrize(("mode", "column"), [("balanced_system", "system"), ("balanced_label", "cell_type")])
def test_balanced_pseudoinputs_count_groups_the_same(make_adata, make_sysvi, mode, column, k):
    adata = make_adata()
    keep = np.r_[:300][(adata.obs["system"] == "system1").to_numpy() | (np.arange(300) % 10 == 0)]
    adata = adata[keep].copy()  # systems of unequal size
    label = {"pseudoinputs_label_key": column} if mode == "balanced_label" else {}
    model = make_sysvi(adata.copy(), train=None, n_prior_components=k, pseudoinputs=mode, **label)
    rows = rows_of(model, adata)
    counts = adata.obs[column].iloc[rows].value_counts()  # zeros too: the column is categorical
    assert counts.max() - counts.min() <= 1
    assert len(set(rows)) == k


def test_unlabelled_cells_are_no_label_at_which_components_start(adata, make_adata, make_sysvi):
    other = make_adata()
    other.obs["type"] = other.obs["cell_type"].astype(object)
    other.obs.loc[other.obs_names[:150], "type"] = [None, "Unknown", "nan"] * 50
    arguments = {"pseudoinputs": "balanced_label", "pseudoinputs_label_key": "type", "n_prior_components": 40}
    model = make_sysvi(other, train=None, **arguments)
    assert min(rows_of(model, adata)) >= 150


def test_more_components_than_cells_repeat_cells(adata, make_adata, make_sysvi):
    model = make_sysvi(make_adata(), train=None, n_prior_components=400)
    assert set(rows_of(model, adata)) <= set(range(300))


@pytest.mark.slow
def test_mixture_starts_at_encoded_cells_or_at_noise(make_adata, make_sysvi):
    cells = make_sysvi(make_adata(), train=None, prior="gmm", pseudoinputs_data_indices=np.arange(5))
    mean, var = cells.module.eval().embed(cells.cells, torch.arange(5))
    for start, expected in zip(cells.module.prior.components(cells.module.encoder), (mean, var), strict=True):
        torch.testing.assert_close(start.detach(), expected)
    noise = make_sysvi(make_adata(), train=None, prior="gmm", pseudoinputs="noise", n_prior_components=500)
    assert noise.module.prior.mean.mean().item() == pytest.approx(0, abs=0.1)
    assert noise.module.prior.mean.std().item() == pytest.approx(1, abs=0.1)
    assert noise.module.prior.log_var.detach().abs().max() == 0


def test_pseudoinputs_depend_on_the_seed_alone(adata, make_adata, make_sysvi):
    draws = [tuple(rows_of(make_sysvi(make_adata(), train=None, seed=seed), adata)) for seed in (1, 1, 2)]
    assert draws[0] == draws[1] != draws[2]


# -- training --------------------------------------------------------------------------------------------------------


def test_plan_of_scvi_tools_is_understood(make_adata, make_sysvi):
    plan = {"kl_weight": 0.5, "z_distance_cycle_weight": 2.0, "lr": 2e-3, "n_epochs_kl_warmup": None}
    model = make_sysvi(make_adata(), train={"plan_kwargs": plan})
    settings = model.train_settings
    assert (settings.kl_weight.value, settings.cycle_weight.value, settings.lr) == (0.5, 2.0, 2e-3)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"plan_kwargs": {"n_epochs_kl_warmup": 20}}, "n_epochs_kl_warmup.*ignored.*warm-up"),
        (
            {"plan_kwargs": {"n_steps_kl_warmup": 1}},
            r"The use of KL weight warmup is not recommended in SysVI\. .*n_steps_kl_warmup",
        ),
        ({"plan_kwargs": {"update_only_decoder": True}}, "update_only_decoder.*ignored"),
        ({"plan_kwargs": {"reduce_lr_on_plateau": True}}, "reduce_lr_on_plateau.*ignored"),
        ({"log_every_n_steps": 1}, "log_every_n_steps=.*ignored"),
        ({"enable_checkpointing": False}, "enable_checkpointing=.*ignored"),
    ],
)
def test_foreign_settings_are_ignored_with_a_warning(make_adata, make_sysvi, arguments, name):
    with pytest.warns(UserWarning, match=name):
        foreign = make_sysvi(make_adata(), train={"max_epochs": 1, **arguments})
    without = make_sysvi(make_adata(), train={"max_epochs": 1})
    np.testing.assert_array_equal(foreign.get_latent_representation(), without.get_latent_representation())


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"max_epoch": 3}, "max_epoch"),
        ({"plan_kwargs": {"cycle": 3}}, "cycle"),
        ({"plan_kwargs": {"optimizer": "AdamW"}}, "AdamW"),
        ({"plan_config": {"lr": 0.1}}, "plan_config=.*not supported: pass plan_kwargs"),
        ({"plan_kwargs": {"z_distance_cycle_weight": -1}}, "cycle_weight is -1"),
        ({"max_epochs": 0}, "max_epochs is 0"),
        ({"batch_size": 1}, "batch_size is 1"),
        ({"train_size": 0.0}, "train_size is 0"),
        ({"train_size": 1.5}, "train_size is 1.5"),
        *(({"validation_size": value}, f"validation_size is {value!r}") for value in (1.0, "0.1")),
        ({"accelerator": "tpu", "device": None}, "tpu"),
        ({"seed": -1}, "seed"),
    ],
    ids=str,
)
def test_unusable_training_argument_is_named(make_adata, make_sysvi, arguments, name):
    with pytest.raises(InputError, match=name):
        make_sysvi(make_adata(), train=arguments)


def test_history_is_that_of_scvi_tools(model):
    names = ["loss", "reconstruction_loss", "kl_local", "cycle_loss"]
    for key in [f"{n}_{kind}" for n in names for kind in ("train", "validation")]:
        frame = model.history[key]
        assert isinstance(frame, pd.DataFrame)
        assert frame.shape == (2, 1)
        assert list(frame.columns) == [key]
        assert frame.index.name == "epoch"
        assert np.isfinite(frame.to_numpy()).all()
    for theirs, ours in (("train_loss_epoch", "loss_train"), ("validation_loss", "loss_validation")):
        np.testing.assert_array_equal(model.history[theirs], model.history[ours])
        assert list(model.history[theirs].columns) == [theirs]
    for key, frame in model.trainer.logger.history.items():
        pd.testing.assert_frame_equal(frame, model.history[key])


def test_loss_is_the_weighted_sum_of_its_terms(make_adata, make_sysvi):
    weights = {"kl_weight": 0.5, "z_distance_cycle_weight": sysvi.Ramp(3.0)}
    h = make_sysvi(make_adata(), train={"plan_kwargs": weights}).history
    terms = [h[f"{name}_train"].to_numpy() for name in ("reconstruction_loss", "kl_local", "cycle_loss")]
    np.testing.assert_allclose(h["loss_train"], terms[0] + 0.5 * terms[1] + 3 * terms[2], rtol=1e-4)


def test_held_out_cells_are_those_asked_for(make_adata, make_sysvi):
    for arguments, n in (({}, 300), ({"check_val_every_n_epoch": 1}, 270), ({"train_size": 0.8}, 240)):
        model = make_sysvi(make_adata(), train={"max_epochs": 1, **arguments})
        assert len(model.train_indices) == n
        assert ("loss_validation" in model.history) == (n < 300)
        parts = np.concatenate([model.train_indices, model.validation_indices])
        np.testing.assert_array_equal(np.sort(parts), np.arange(300))
    by_rest = make_sysvi(make_adata(), train={"max_epochs": 1, "validation_size": 0.2})
    assert len(by_rest.validation_indices) == 60


def test_early_stopping_stops(make_adata, make_sysvi):
    train = {"max_epochs": 60, "early_stopping": True, "early_stopping_patience": 1, "mixture_share": sysvi.Ramp(1.0)}
    train["plan_kwargs"] = {"z_distance_cycle_weight": sysvi.Ramp(0.0), "lr": 0.1}  # no ramp to wait for
    model = make_sysvi(make_adata(), train=train)
    assert model.status == "stopped_early"
    assert len(model.history["loss_train"]) < 60


def test_training_again_goes_on(make_adata, make_sysvi):
    model = make_sysvi(make_adata())
    first = model.get_latent_representation()
    model.train(**FAST)
    assert len(model.history["loss_train"]) == 4
    assert not np.array_equal(first, model.get_latent_representation())


@pytest.mark.parametrize(("n_good", "settings"), [(0, {"lr": 1e30}), (2, {})])
def test_model_of_the_last_good_epoch_can_be_used(make_adata, make_sysvi, n_good, settings):
    model, fine = make_sysvi(make_adata(), train=None), make_sysvi(make_adata(), train=None)

    def ruin(event):
        if event.stage == "epoch" and event.values["epoch"] == n_good:
            with torch.no_grad():
                model.module.encoder.head.bias.fill_(torch.nan)

    with pytest.raises(sysvi.NonFiniteLossError, match="epoch before" if n_good else "before training"):
        model.train(**FAST | settings | {"max_epochs": 4, "progress": ruin})
    assert model.status == ("failed" if n_good else "untrained")
    assert model.is_trained == bool(n_good)
    assert [len(frame) for frame in model.history.values()] == [n_good] * len(model.history)
    if n_good:
        fine.train(**FAST | {"max_epochs": 4, "progress": lambda event: stop_after(event, n_good)})
        np.testing.assert_array_equal(model.get_latent_representation(), fine.get_latent_representation())


def stop_after(event, n_epochs):
    if event.stage == "epoch" and event.values["epoch"] == n_epochs:
        raise KeyboardInterrupt


def test_weighted_systems_count_the_same(make_adata, make_sysvi):
    adata = make_adata()
    adata = adata[(adata.obs["system"] == "system1").to_numpy() | (np.arange(300) % 5 == 0)].copy()
    models = [make_sysvi(adata, setup={"weight_batches": weight}) for weight in (True, False)]
    weight = models[0].cells.weight.numpy()
    totals = pd.Series(weight).groupby(adata.obs["system"].to_numpy()).sum()
    assert totals["system1"] == pytest.approx(totals["system2"])
    assert weight.sum() == pytest.approx(len(adata), rel=1e-5)
    a, b = (m.get_latent_representation() for m in models)
    assert not np.array_equal(a, b)


# -- embedding -------------------------------------------------------------------------------------------------------


def test_embedding_is_float32_of_the_right_shape(embedding):
    assert embedding.shape == (300, 4)
    assert embedding.dtype == np.float32
    assert np.isfinite(embedding).all()
    assert embedding.std(0).min() > 0


def test_untrained_model_does_not_embed(make_adata, make_sysvi):
    model = make_sysvi(make_adata(), train=None)
    assert not model.is_trained
    with pytest.raises(InputError, match="not trained"):
        model.get_latent_representation()


@pytest.mark.parametrize(
    "indices",
    [[5, 3, 3, 299], np.array([0]), [-1, -300], np.arange(300) % 3 == 0, range(4), np.array([], dtype=int)],
    ids=["list", "one", "negative", "bool", "range", "none"],
)
def test_rows_are_chosen_as_by_numpy(model, embedding, indices):
    expected = embedding[np.asarray(indices)]
    np.testing.assert_allclose(model.get_latent_representation(indices=indices), expected, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    "indices",
    [[300], [-301], np.ones(20, dtype=bool), [0.5], 3, [[1, 2]]],
    ids=["high", "low", "short mask", "fraction", "number", "table"],
)
def test_impossible_rows_are_refused(model, indices):
    with pytest.raises(InputError, match="indices"):
        model.get_latent_representation(indices=indices)


@pytest.mark.parametrize("batch_size", [1, 7, 299, 10_000])
def test_batch_size_does_not_matter(model, embedding, batch_size):
    np.testing.assert_allclose(model.get_latent_representation(batch_size=batch_size), embedding, atol=1e-5)


@pytest.mark.parametrize("batch_size", [-1, 1.5])
def test_impossible_batch_size_is_refused(model, batch_size):
    with pytest.raises(InputError, match="batch_size"):
        model.get_latent_representation(batch_size=batch_size)


def test_samples_follow_mean_and_variance(model, embedding):
    mean, var = model.get_latent_representation(return_dist=True)
    np.testing.assert_array_equal(mean, embedding)
    assert (var > 0).all()
    assert var.dtype == np.float32
    one = model.get_latent_representation(give_mean=False, seed=0)
    np.testing.assert_array_equal(one, model.get_latent_representation(give_mean=False, seed=0))
    assert not np.array_equal(one, embedding)
    assert not np.array_equal(one, model.get_latent_representation(give_mean=False, seed=1))
    draws = [model.get_latent_representation(give_mean=False, seed=seed) for seed in range(100)]
    standardised = (np.stack(draws) - mean) / np.sqrt(var)
    assert np.abs(standardised.mean(0)).max() < 0.5
    assert standardised.std() == pytest.approx(1, abs=0.02)


def test_other_order_and_more_genes_change_nothing(model, adata, embedding):
    order = np.random.default_rng(0).permutation(adata.n_vars)
    np.testing.assert_array_equal(model.get_latent_representation(adata[:, order].copy()), embedding)
    np.testing.assert_array_equal(model.get_latent_representation(adata[:, order]), embedding)  # a view
    more = adata[:, :30].copy()
    more.var_names = [f"other{i}" for i in range(30)]
    wide = anndata.concat([more, adata], axis="var", merge="first")
    np.testing.assert_array_equal(model.get_latent_representation(wide), embedding)


def test_some_cells_are_embedded_as_all_are(model, adata, embedding):
    some = adata[(adata.obs["system"] == "system2").to_numpy() & (adata.obs["sex"] == "f").to_numpy()]
    rows = adata.obs_names.get_indexer(some.obs_names)
    np.testing.assert_allclose(model.get_latent_representation(some.copy()), embedding[rows], atol=1e-5)


def test_embedding_few_cells_says_nothing_of_silent_genes(model, adata):
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        model.get_latent_representation(adata[[0, 1, 299]].copy())


@pytest.mark.filterwarnings("ignore:Variable names are not unique")
def test_data_that_do_not_fit_are_refused(model, adata):
    with pytest.raises(InputError, match=r"2 of the model's 100 genes.*\(gene"):
        model.get_latent_representation(adata[:, 2:].copy())
    twice = anndata.concat([adata, adata[:, :1]], axis="var", merge="first")
    with pytest.raises(InputError, match="more than once"):
        model.get_latent_representation(twice)
    stranger = adata.copy()
    stranger.obs["system"] = "zebrafish"
    with pytest.raises(InputError, match=r"does not know \(zebrafish\); it knows system1, system2"):
        model.get_latent_representation(stranger)
    counts = adata.copy()
    counts.X = counts.layers["counts"]
    with pytest.raises(InputError, match="raw counts"):
        model.get_latent_representation(counts)


# -- kinds of input --------------------------------------------------------------------------------------------------

KINDS = ["csr", "csc", "dense", "float64", "unsorted", "layer", "view", "csr_array"]
KINDS += ["backed_csr", "backed_csc", "backed_dense", "backed_layer"]


def of_kind(adata, kind, folder):
    """The same cells in another guise, and the layer of the expression."""
    layer = "log" if "layer" in kind else None
    if kind.endswith("csc"):
        adata.X = sparse.csc_matrix(adata.X)
    elif kind.endswith("dense"):
        adata.X = adata.X.toarray()
    elif kind == "float64":
        adata.X = adata.X.astype(np.float64)
    elif kind == "csr_array":
        adata.X = sparse.csr_array(adata.X)
    elif kind == "unsorted":
        x = adata.X
        for start, stop in zip(x.indptr[:-1], x.indptr[1:], strict=True):
            x.indices[start:stop], x.data[start:stop] = x.indices[start:stop][::-1].copy(), x.data[start:stop][::-1]
        x.has_sorted_indices = False
    elif kind == "view":
        adata = anndata.concat([adata, adata[:5]], index_unique="-", merge="same", uns_merge="same")[:300]
    elif layer:
        adata.layers["log"], adata.X = adata.X, adata.layers["counts"]
    if kind.startswith("backed"):
        adata.write_h5ad(folder / "cells.h5ad")
        adata = anndata.read_h5ad(folder / "cells.h5ad", backed="r")
    return adata, layer


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.filterwarnings("ignore::anndata.ImplicitModificationWarning")
def test_all_kinds_of_input_give_the_same_bits(make_adata, make_sysvi, kind, tmp_path):
    setup = {"categorical_covariate_keys": ["batch"]}
    expected = make_sysvi(make_adata(), setup=setup, train={"max_epochs": 1})
    other, layer = of_kind(make_adata(), kind, tmp_path)
    model = make_sysvi(other, setup=setup | {"layer": layer}, train={"max_epochs": 1})
    np.testing.assert_array_equal(model.get_latent_representation(), expected.get_latent_representation())
    order = np.random.default_rng(0).permutation(100)
    (tmp_path / "again").mkdir()
    again, _ = of_kind(make_adata()[:, order].copy(), kind, tmp_path / "again")
    np.testing.assert_array_equal(model.get_latent_representation(again), expected.get_latent_representation())


def test_only_the_documented_entries_of_the_object_change(make_adata, make_sysvi, assert_same):
    adata, before = make_adata(), make_adata()
    make_sysvi(adata, train={"max_epochs": 1})
    del adata.uns["sysvi_setup"]
    assert_same(adata, before)
    sysvi.integrate(adata, "system", "batch", members=1, **SMALL, **FAST)
    del adata.uns["sysvi_setup"], adata.uns["sysvi"], adata.obsm["X_sysVI"]
    assert_same(adata, before)


# -- integrate -------------------------------------------------------------------------------------------------------


def test_integrate_is_the_class_in_one_call(make_adata, make_sysvi):
    adata = make_adata()
    model = sysvi.integrate(
        adata,
        "system",
        "batch",
        categorical_covariate_keys=["sex"],
        continuous_covariate_keys=["age"],
        members=1,
        preset="mixing",  # the defaults of the class
        key_added="X_here",
        **SMALL,
        **FAST,
    )
    by_class = make_sysvi(make_adata())
    np.testing.assert_array_equal(adata.obsm["X_here"], by_class.get_latent_representation())
    np.testing.assert_array_equal(adata.obsm["X_here"], model.get_latent_representation())
    assert adata.obsm["X_here"].dtype == np.float32


def test_seeds(make_adata):
    def embed(seed):
        adata = make_adata()
        sysvi.integrate(adata, "system", "batch", members=1, seed=seed, **SMALL, **FAST)
        return adata.obsm["X_sysVI"]

    first = embed(3)
    np.testing.assert_array_equal(embed(3), first)
    assert not np.allclose(embed(4), first)


def test_settings_go_where_they_belong_and_into_the_record(make_adata, tmp_path):
    adata = make_adata()
    settings = {"prior": "gmm", "cycle_weight": 7, "kl_weight": 0.5, "batch_size": 64, "swapped_covariates": "zero"}
    sysvi.integrate(adata, "system", "batch", members=1, seed=5, **settings, **SMALL, **FAST)
    adata.write_h5ad(tmp_path / "cells.h5ad")
    back = anndata.read_h5ad(tmp_path / "cells.h5ad")
    np.testing.assert_array_equal(back.obsm["X_sysVI"], adata.obsm["X_sysVI"])
    record = {name: json.loads(text) for name, text in back.uns["sysvi"].items()}
    assert record["model_settings"]["prior"] == "gmm"
    assert record["model_settings"]["n_latent"] == 4
    training = record["train_settings"]
    assert (training["batch_size"], training["max_epochs"], training["swapped_covariates"]) == (64, 2, "zero")
    assert training["cycle_weight"][0] == 7
    assert (record["status"], record["seed"]) == ("finished", 5)
    assert record["versions"]["sysvi"] == sysvi.__version__
    assert SysVI(back, **SMALL).vocabulary.systems == ("system1", "system2")  # the setup survives the file too


def test_setup_without_covariates_survives_a_file(make_adata, tmp_path):
    adata = make_adata()
    SysVI.setup_anndata(adata, "system")
    adata.write_h5ad(tmp_path / "cells.h5ad")
    vocabulary = SysVI(anndata.read_h5ad(tmp_path / "cells.h5ad"), **SMALL).vocabulary
    assert (vocabulary.categorical, vocabulary.continuous) == ({}, {})


def test_unknown_setting_of_integrate_is_named_before_any_work(make_adata):
    adata = make_adata()
    with pytest.raises(InputError, match="z_distance"):
        sysvi.integrate(adata, "system", z_distance=3)
    assert "sysvi_setup" not in adata.uns


def test_a_function_gets_all_events(make_adata):
    events = []
    sysvi.integrate(make_adata(), "system", "batch", members=1, max_epochs=3, progress=events.append, **SMALL)
    assert all(isinstance(event, Event) for event in events)
    assert [event.stage for event in events] == ["plan", "epoch", "epoch", "epoch", "end"]
    assert [event.values["epoch"] for event in events[1:4]] == [1, 2, 3]


def test_progress_is_drawn_on_standard_error_or_not_at_all(make_adata, make_sysvi, capfd):
    adata = make_adata()
    make_sysvi(adata, train={"progress": True})
    out, err = capfd.readouterr()
    assert out == ""
    assert "Training on 300 cells x 100 genes of 2 systems: 2 epochs" in err
    assert "Trained 2 epochs" in err
    make_sysvi(adata, train={"progress": False})
    assert capfd.readouterr() == ("", "")


def test_global_random_state_is_not_touched(make_adata):
    adata = make_adata()
    np.random.seed(1)  # noqa: NPY002
    torch.manual_seed(1)
    before = np.random.get_state()[1].copy(), torch.get_rng_state()  # noqa: NPY002
    sysvi.integrate(adata, "system", "batch", members=1, **SMALL, **FAST)
    np.testing.assert_array_equal(np.random.get_state()[1], before[0])  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), before[1])


def test_repr_tells_what_the_model_is(model):
    text = repr(model)
    assert all(part in text for part in ("100 genes", "system1, system2", "batch, sex, age", "vamp", "finished"))


# -- a script written for scvi-tools ---------------------------------------------------------------------------------


def test_script_of_the_scvi_tools_tutorial_runs_after_changing_its_import(make_adata, tmp_path):
    """The calls of scvi-tools' sysVI tutorial, their keyword spelling kept."""
    adata = make_adata()
    SysVI.setup_anndata(adata=adata, batch_key="system", categorical_covariate_keys=["batch"])
    model = SysVI(
        adata=adata,
        prior="vamp",
        n_prior_components=5,
        pseudoinputs_data_indices=np.array(range(5)),
        embed_categorical_covariates=True,
    )
    max_epochs = 3
    with pytest.warns(UserWarning, match="log_every_n_steps"):
        model.train(
            max_epochs=max_epochs,
            accelerator="cpu",
            devices=1,
            check_val_every_n_epoch=1,
            log_every_n_steps=1,
            plan_kwargs={"kl_weight": 1.0, "z_distance_cycle_weight": 2.0},
        )
    epochs_detail_plot = 2
    for l_train in ["reconstruction_loss_train", "kl_local_train", "cycle_loss_train"]:
        l_val = l_train.replace("_train", "_validation")
        history = model.trainer.logger.history
        assert len(history[l_train].index) == len(history[l_val].index) == max_epochs
        detail = history[l_val].values.ravel()[epochs_detail_plot:]
        assert np.isfinite(detail).all()
    embed = model.get_latent_representation(adata=adata)
    embed = anndata.AnnData(embed, obs=adata.obs)
    assert embed.shape == (300, 15)
    model.save(str(tmp_path / "model"), overwrite=True)
    again = SysVI.load(str(tmp_path / "model"), adata=adata)
    np.testing.assert_array_equal(again.get_latent_representation(), embed.X)


@pytest.mark.parametrize(
    ("name", "instead"),
    [
        ("adata_manager", r"model\.columns.*model\.vocabulary"),
        ("registry", r"model\.vocabulary"),
        ("summary_string", r"print\(model\)"),
        ("test_indices", "train_indices, validation_indices"),
        ("run_id", r"model\.record\(\)"),
    ],
)
def test_attributes_of_scvi_tools_that_are_missing_name_what_to_read_instead(model, name, instead):
    with pytest.raises(AttributeError, match=f"SysVI has no {name} of scvi-tools: .*{instead}"):
        getattr(model, name)
    assert not hasattr(model, name)
    assert not hasattr(SysVI, name)
    assert getattr(model, name, "default") == "default"


def test_methods_of_scvi_tools_that_are_missing_name_what_to_call_instead(model):
    with pytest.raises(InputError, match=r"SysVI has no get_var_names of scvi-tools: model\.vocabulary\.genes"):
        model.get_var_names()
    with pytest.raises(InputError, match=r"SysVI has no get_aggregated_posterior .*return_dist=True"):
        model.get_aggregated_posterior()
    with pytest.raises(InputError, match="SysVI has no load_registry of scvi-tools"):
        SysVI.load_registry("model")


def test_arguments_of_scvi_tools_without_effect(model, make_adata, tmp_path, recwarn):
    embedding = model.get_latent_representation()
    np.testing.assert_array_equal(model.get_latent_representation(mc_samples=10), embedding)
    model.save(tmp_path / "model", datamodule=None, legacy_mudata_format=False)
    SysVI.load(tmp_path / "model", backup_url=None, accelerator="cpu", device="auto")
    assert not [str(warning.message) for warning in recwarn if "no effect" in str(warning.message)]
    with pytest.warns(UserWarning, match=r"save\(save_kwargs=\.\.\.\) has no effect"):
        model.save(tmp_path / "model", overwrite=True, save_kwargs={"pickle_protocol": 2})
    with pytest.warns(UserWarning, match=r"load\(backup_url=\.\.\.\) has no effect"):
        SysVI.load(tmp_path / "model", backup_url="model")
    with pytest.raises(InputError, match="save has no argument overwright"):
        model.save(tmp_path / "model", overwright=True)
    adata = make_adata()
    SysVI.setup_anndata(adata, batch_key="system")
    assert SysVI(adata, registry=None).status == "untrained"
    with pytest.raises(InputError, match="registry is not supported"):
        SysVI(adata, registry={})
