"""Ensembles: several models, one embedding."""

import functools
import json
import warnings
from dataclasses import fields, replace

import anndata
import numpy as np
import pandas as pd
import pytest
import safetensors
import torch

import sysvi
from sysvi import Ensemble, InputError, Ramp, SysVI
from sysvi._core.settings import DEFAULT_PRESET
from sysvi.api import support
from sysvi.model.anchors import Moves, find_moves
from sysvi.model.checkpoint import FORMAT_VERSION, read_file, write_file
from sysvi.model.combination import combine
from sysvi.training.loop import train

pytestmark = pytest.mark.filterwarnings(
    "ignore:System .* has fewer cells", "ignore:The integration leaves", "ignore:Some cells have no counterpart"
)

FILE = "model.safetensors"
SMALL = {"n_hidden": 16, "n_latent": 4, "max_epochs": 2, "batch_size": 50, "device": "cpu", "progress": False}


def integrate(adata, **arguments):
    return sysvi.integrate(adata, "system", "batch", **({"members": 3} | SMALL | arguments))


@pytest.fixture(scope="module")
def adata(make_adata):
    """Read-only: the data that `model` was trained on, with its results."""
    return make_adata()


@pytest.fixture(scope="module")
def model(adata):
    """Read-only: an ensemble of three members."""
    return integrate(adata, seed=5)


@pytest.fixture(scope="module")
def saved(model, tmp_path_factory):
    """Read-only: folder of `model`, saved."""
    folder = tmp_path_factory.mktemp("saved") / "model"
    model.save(folder)
    return folder


def weights(model):
    return [member.module.encoder.head.weight.detach().numpy().tobytes() for member in model.members]


def assert_equal_members(a, b):
    assert len(a.members) == len(b.members)
    for one, other in zip(a.members, b.members, strict=True):
        assert one.module.state_dict().keys() == other.module.state_dict().keys()
        for name, tensor in one.module.state_dict().items():
            assert torch.equal(tensor, other.module.state_dict()[name]), name
        assert one.record() == other.record()
        assert one._history == other._history


# -- the embedding ----------------------------------------------------------------------------------------------------


def test_the_embedding_is_that_of_the_members_combined_and_moved_onto_each_other(model, adata):
    own = [member.get_latent_representation() for member in model.members]
    combined = combine(own).apply(own)
    codes = adata.obs["system"].cat.codes.to_numpy()
    expected = find_moves(own, combined, codes, 1.35).apply(combined, codes)
    np.testing.assert_array_equal(adata.obsm["X_sysVI"], expected.astype(np.float32))
    np.testing.assert_array_equal(model.get_latent_representation(), adata.obsm["X_sysVI"])
    assert adata.obsm["X_sysVI"].shape == (300, 4)
    assert adata.obsm["X_sysVI"].dtype == np.float32


def test_moves_hold_for_other_cells_and_are_saved(model, adata, tmp_path):
    """Cells of the second system are moved by 1 in the first dimension, those of the first are not."""
    in_members = np.stack(model.member_embeddings()).astype(np.float64)
    position = model.combination.apply(in_members)
    codes = adata.obs["system"].cat.codes.to_numpy().astype(np.int64)
    move = np.outer(codes == 1, [1.0, 0, 0, 0])
    moved = Ensemble(model.members, 5, model.combination, Moves(codes, in_members, position, move))
    np.testing.assert_allclose(moved.get_latent_representation(), position + move, atol=1e-5)
    moved.save(tmp_path)
    some = adata[::3].copy()
    for found in (moved, sysvi.load(tmp_path)):
        np.testing.assert_allclose(found.get_latent_representation(some), (position + move)[::3], atol=1e-5)
        mean, variance = found.get_latent_representation(some, return_dist=True)
        np.testing.assert_allclose(mean, (position + move)[::3], atol=1e-5)
        np.testing.assert_array_equal(variance, model.get_latent_representation(some, return_dist=True)[1])


def test_four_members_by_default(make_adata):
    adata = make_adata()
    model = integrate(adata, members=None, max_epochs=1)
    assert isinstance(model, Ensemble)
    assert len(model.members) == DEFAULT_PRESET.members == 8
    assert {member.run.n_epochs for member in model.members} == {1}


def test_each_member_is_the_single_model_of_its_seed(model, make_adata):
    """Also its weights and prior, which `train_each` takes apart from the other settings."""
    given = {"cycle_weight": 3, "kl_weight": Ramp(0.5, 0.2, 0.4), "prior": "gmm", "swapped_covariates": "zero"}
    ensemble = integrate(make_adata(), members=2, **given)
    for member in ensemble.members:
        alone = integrate(make_adata(), members=1, seed=member.seed, **given)
        assert isinstance(alone, SysVI)
        assert alone.members == (alone,)
        assert member.train_settings == alone.train_settings
        assert member.train_settings.cycle_weight == Ramp(3.0, 0.1, 0.6)  # start and end of the default
        np.testing.assert_array_equal(member.get_latent_representation(), alone.get_latent_representation())


def test_same_seed_same_bits_whatever_the_number_of_threads(model, adata, make_adata):
    threads = torch.get_num_threads()
    for n_threads in (1, 3):
        again = make_adata()
        torch.set_num_threads(n_threads)
        try:
            assert_equal_members(integrate(again, seed=5), model)
        finally:
            torch.set_num_threads(threads)
        np.testing.assert_array_equal(again.obsm["X_sysVI"], adata.obsm["X_sysVI"])
        pd.testing.assert_frame_equal(again.obsm["sysvi_support"], adata.obsm["sysvi_support"], check_exact=True)


def test_members_of_one_ensemble_and_of_several_have_different_seeds(model, make_adata):
    other = integrate(make_adata(), seed=6, max_epochs=1)
    seeds = [member.seed for member in (*model.members, *other.members)]
    assert len(set(seeds)) == 6
    assert all(0 <= seed < 2**31 for seed in seeds)  # also in R
    assert len({*weights(model), *weights(other)}) == 6
    more = integrate(make_adata(), seed=5, members=5, max_epochs=1)
    assert [member.seed for member in more.members][:3] == seeds[:3]


def test_cells_are_embedded_alike_on_their_own_and_among_others(model, adata):
    rows = np.arange(0, 300, 7)
    some = adata[rows, np.arange(100)[::-1]].copy()
    expected = adata.obsm["X_sysVI"][rows]
    for found in (model.get_latent_representation(some), model.get_latent_representation(indices=rows, batch_size=10)):
        np.testing.assert_allclose(found, expected, atol=1e-5)
    with pytest.raises(InputError, match="genes are not in"):
        model.get_latent_representation(adata[:, 5:].copy())


def test_variance_is_that_of_a_sum_of_linear_maps(model):
    mean, variance = model.get_latent_representation(return_dist=True)
    np.testing.assert_array_equal(mean, model.get_latent_representation())
    assert variance.dtype == np.float32
    covariance = np.zeros((300, 4, 4))
    for member, a in zip(model.members, model.combination.matrix, strict=True):
        _, own = member.get_latent_representation(return_dist=True)
        for i in range(300):
            covariance[i] += a.T @ np.diag(own[i].astype(np.float64)) @ a
    np.testing.assert_allclose(variance, np.diagonal(covariance, axis1=1, axis2=2), rtol=1e-5)


def test_samples_are_reproducible_and_have_this_variance(model):
    first = model.get_latent_representation(give_mean=False)
    np.testing.assert_array_equal(model.get_latent_representation(give_mean=False), first)
    np.testing.assert_array_equal(model.get_latent_representation(give_mean=False, seed=5), first)  # its own seed
    samples = np.stack([model.get_latent_representation(give_mean=False, seed=seed) for seed in range(100)])
    mean, variance = model.get_latent_representation(return_dist=True)
    z = (samples - mean) / np.sqrt(variance)
    assert z.mean() == pytest.approx(0, abs=0.02)
    assert z.var() == pytest.approx(1, abs=0.02)
    np.testing.assert_allclose(z.var(axis=0).mean(axis=0), 1, atol=0.05)


# -- what is written into the data ------------------------------------------------------------------------------------


def test_support_of_the_members_is_written(model, adata):
    table = adata.obsm["sysvi_support"]
    system = adata.obs["system"].to_numpy().astype(str).astype(object)
    expected = support.neighbor_support([member.get_latent_representation() for member in model.members], system)
    assert table.index.equals(adata.obs_names)
    pd.testing.assert_frame_equal(table.reset_index(drop=True), expected)
    np.testing.assert_array_equal(adata.obs["sysvi_support"], expected.max(axis=1).astype(np.float32))


def test_results_survive_a_file(model, adata, tmp_path):
    adata.write_h5ad(tmp_path / "cells.h5ad")
    back = anndata.read_h5ad(tmp_path / "cells.h5ad")
    np.testing.assert_array_equal(back.obsm["X_sysVI"], adata.obsm["X_sysVI"])
    pd.testing.assert_frame_equal(back.obsm["sysvi_support"], adata.obsm["sysvi_support"])
    np.testing.assert_array_equal(back.obs["sysvi_support"], adata.obs["sysvi_support"])
    record = {name: json.loads(text) for name, text in back.uns["sysvi"].items()}
    assert (record["seed"], record["status"], record["members"]) == (5, "finished", 3)
    assert record["member_seeds"] == [member.seed for member in model.members]
    assert record["model_settings"]["n_latent"] == 4


def test_three_systems_whose_names_may_have_slashes(make_adata, tmp_path):
    adata = make_adata()
    system = adata.obs["system"].astype(str).replace({"system1": "cells/nuclei"})
    system.iloc[::3] = "third"
    adata.obs["system"] = system
    sysvi.integrate(adata, "system", members=2, **SMALL)
    table = adata.obsm["sysvi_support"]
    assert list(table) == ["cells|nuclei", "system2", "third"]
    assert (table.notna().sum(axis=1) == 2).all()
    highest = np.where(system == "third", table[["cells|nuclei", "system2"]].max(axis=1), 0)
    highest = np.where(system == "system2", np.fmax(table["cells|nuclei"], table["third"]), highest)
    highest = np.where(system == "cells/nuclei", np.fmax(table["system2"], table["third"]), highest)
    np.testing.assert_allclose(adata.obs["sysvi_support"], highest, rtol=1e-6)
    assert (table.max(axis=1) > table.min(axis=1)).any()
    with warnings.catch_warnings():
        warnings.simplefilter("error", FutureWarning)  # anndata's, of slashes
        adata.write_h5ad(tmp_path / "cells.h5ad")


def test_support_of_an_earlier_call_is_removed_by_a_single_model(make_adata):
    adata = make_adata()
    integrate(adata, members=2, max_epochs=1)
    first = adata.obs["sysvi_support"].copy()
    integrate(adata, members=2, max_epochs=1, seed=1)
    assert (adata.obs["sysvi_support"] != first).any()
    assert "members" in adata.uns["sysvi"]
    integrate(adata, members=1, max_epochs=1)
    assert "sysvi_support" not in adata.obs
    assert "sysvi_support" not in adata.obsm
    assert "members" not in adata.uns["sysvi"]


def test_cells_without_counterparts_are_warned_of_after_all_is_written(make_adata, monkeypatch):
    monkeypatch.setattr(support, "LOW_SUPPORT", 2)  # of all cells
    adata = make_adata()
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "Some cells have no counterpart")
        with pytest.raises(UserWarning, match="150 of 150 cells of system1 in system2; 150 of 150 cells of system2 in"):
            integrate(adata, members=2, max_epochs=1)
    assert "sysvi_support" in adata.obs
    assert "sysvi_support" in adata.obsm
    assert "X_sysVI" in adata.obsm
    assert json.loads(adata.uns["sysvi"]["members"]) == 2
    with pytest.warns(UserWarning, match="Some cells have no counterpart") as seen:
        sysvi.integrate(adata, "system", "batch", members=2, **SMALL)
    assert {w.filename for w in seen if "counterpart" in str(w.message)} == {__file__}


def test_events_are_those_of_several_trainings_and_of_the_support(make_adata):
    events = []
    integrate(make_adata(), members=2, progress=events.append)
    stages = [event.stage for event in events]
    assert stages[0] == "plan"
    assert sorted(stages[1:-2]) == ["epoch"] * 4 + ["model"] * 2
    assert stages[-2:] == ["end", "support"]
    assert {row["system"] for row in events[-1].values["low_support"]} == {"system1", "system2"}


@pytest.mark.slow
def test_the_support_does_not_stand_in_the_way_of_measuring(adata, model):
    arguments = {"system_key": "system", "label_key": "cell_type", "metrics": ["iLISI", "NMI", "Moran"]}
    arguments |= {"batch_key": "batch", "min_cells": 20, "device": "cpu", "progress": False}
    table = sysvi.evaluate(adata, ["X_sysVI"], **arguments)
    without = adata.copy()
    del without.obsm["sysvi_support"], without.obs["sysvi_support"]
    pd.testing.assert_frame_equal(table, sysvi.evaluate(without, ["X_sysVI"], **arguments))


# -- settings ---------------------------------------------------------------------------------------------------------


def test_the_preset_paper_is_the_papers_model_and_training(make_adata):
    model = integrate(make_adata(), members=None, preset="paper", **dict.fromkeys(("n_hidden", "batch_size"), 64))
    assert isinstance(model, SysVI)
    s, t = model.model_settings, model.train_settings
    assert (s.n_hidden, s.n_latent, s.prior, s.n_prior_components) == (64, 4, "vamp", 5)  # two of them were given
    assert (t.cycle_weight, t.kl_weight, t.mixture_share) == (Ramp(5.0), Ramp(1.0), Ramp(1.0))
    assert (t.swapped_covariates, t.lr, t.batch_size, t.max_epochs) == ("zero", 0.001, 64, 2)


def test_the_preset_paper_with_nothing_given(make_adata):
    """400 epochs of minibatches of 128 cells are set; here training ends after the first."""

    def stop(event):
        if event.stage == "epoch":
            raise KeyboardInterrupt

    model = sysvi.integrate(make_adata(), "system", "batch", preset="paper", device="cpu", progress=stop)
    s, t = model.model_settings, model.train_settings
    assert (s.n_hidden, s.n_latent, s.n_layers) == (256, 15, 2)
    assert (t.batch_size, t.max_epochs, t.seed) == (128, 400, 0)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({}, ("linear", 10.0, 24)),
        ({"preset": "conservative"}, ("linear", 10.0, 24)),
        ({"cycle_weight": 7, "max_epochs": 5}, ("linear", 7.0, 5)),
        ({"preset": "mixing"}, ("linear", 30.0, 174)),
    ],
    ids=str,
)
@pytest.mark.parametrize("n_systems", [2, 3])
def test_the_preset_conservative_is_the_default(make_adata, n_systems, arguments, expected):
    """Training ends after its first epoch."""
    adata = make_adata()
    adata.obs["system"] = [f"system{i % n_systems}" for i in range(adata.n_obs)]

    def stop(event):
        if event.stage == "epoch":
            raise KeyboardInterrupt

    model = sysvi.integrate(adata, "system", **({"n_hidden": 16, "device": "cpu", "progress": stop} | arguments))
    t = model.members[0].train_settings
    assert len(model.vocabulary.systems) == n_systems
    assert (model.model_settings.initialisation, t.cycle_weight.value, t.max_epochs) == expected


def test_given_settings_take_precedence_over_the_preset(make_adata):
    given = {"members": 2, "cycle_weight": 2, "kl_weight": Ramp(3.0, 0.2, 0.4)}
    model = integrate(make_adata(), preset="paper", max_epochs=1, **given)
    assert len(model.members) == 2
    for member in model.members:
        t = member.train_settings
        assert (t.cycle_weight, t.kl_weight, t.max_epochs) == (Ramp(2.0), Ramp(3.0, 0.2, 0.4), 1)
        assert t.swapped_covariates == "zero"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"members": 0}, "members is 0; it must be a whole number of 1 or more"),
        ({"members": 2.5}, "members is 2.5"),
        ({"preset": "quick"}, "preset is 'quick'; it must be one of mixing, conservative, paper"),
        ({"key_added": "sysvi_support"}, "under which the support is stored"),
        ({"key_added": "a/b"}, "without a slash"),
        ({"seed": -1}, "seed is -1"),
        ({"prior": "flat"}, "prior is 'flat'"),
        ({"cycle_weight": -2}, "cycle_weight is -2"),
        ({"kl_weight": "strong"}, "kl_weight is 'strong'"),
        ({"lr": 0}, "lr is 0"),
        ({"pseudoinputs": "balanced_label"}, "pseudoinputs_label_key"),
    ],
    ids=str,
)
def test_arguments_that_cannot_be_used_leave_the_data_as_they_are(make_adata, arguments, message):
    adata = make_adata()
    with pytest.raises(InputError, match=message):
        integrate(adata, **arguments)
    assert "X_sysVI" not in adata.obsm
    assert "sysvi" not in adata.uns


# -- members that fail, and Ctrl-C ------------------------------------------------------------------------------------


@pytest.fixture
def fail(monkeypatch):
    """Function that makes the training of some members fail; they are counted in the order of their training."""

    def make(*numbers):
        trained = []
        original = SysVI.train

        @functools.wraps(SysVI.train)
        def train(self, *args, **kwargs):
            trained.append(self)
            if len(trained) - 1 in numbers:
                raise sysvi.NonFiniteLossError("The loss is NaN.")
            original(self, *args, **kwargs)

        monkeypatch.setattr(SysVI, "train", train)

    return make


def test_a_member_that_fails_is_left_out_with_a_warning(make_adata, fail, model, adata):
    fail(1)
    given = make_adata()
    with pytest.warns(UserWarning, match=r"1 of 3 members failed and are left out\. The loss is NaN") as seen:
        found = sysvi.integrate(given, "system", "batch", members=3, seed=5, **SMALL)
    assert [w.filename for w in seen if "left out" in str(w.message)] == [__file__]
    assert found.status == "finished"
    seeds = [member.seed for member in model.members]
    assert [member.seed for member in found.members] == [seeds[0], seeds[2]]
    assert json.loads(given.uns["sysvi"]["members"]) == 2
    assert "sysvi_support" in given.obs


def test_one_member_that_remains_is_returned_itself(make_adata, fail):
    fail(0, 2)
    adata = make_adata()
    with pytest.warns(UserWarning, match="2 of 3 members failed"):
        found = integrate(adata)
    assert isinstance(found, SysVI)
    assert found.status == "finished"
    assert "sysvi_support" not in adata.obs
    np.testing.assert_array_equal(adata.obsm["X_sysVI"], found.get_latent_representation())


def test_if_all_fail_their_error_is_raised(make_adata, fail):
    fail(0, 1)
    adata = make_adata()
    with pytest.raises(sysvi.NonFiniteLossError, match="The loss is NaN"):
        integrate(adata, members=2)
    assert "X_sysVI" not in adata.obsm


def interrupt_at(stage, n=1):
    """A progress callback that raises KeyboardInterrupt at the n-th event of a stage."""
    seen = []

    def listen(event):
        seen.append(event.stage)
        if event.stage == stage and seen.count(stage) == n:
            raise KeyboardInterrupt

    return listen


@pytest.fixture
def short_first(monkeypatch, model):
    """Function that makes all but the first members of an ensemble of seed 5 train for very long."""

    def make(n_short):
        short = {member.seed for member in model.members[:n_short]}

        def of_length(module, cells, settings, *args):
            longer = settings if settings.seed in short else replace(settings, max_epochs=1_000_000)
            return train(module, cells, longer, *args)

        monkeypatch.setattr("sysvi.api.sysvi.train", of_length)

    return make


def test_finished_members_outlive_an_interrupt(make_adata, short_first, model):
    short_first(2)
    adata = make_adata()
    found = integrate(adata, seed=5, progress=interrupt_at("model", 2))
    assert isinstance(found, Ensemble)
    assert [member.seed for member in found.members] == [member.seed for member in model.members][:2]
    assert [member.status for member in found.members] == ["finished", "finished"]
    assert found.status == json.loads(adata.uns["sysvi"]["status"]) == "interrupted"
    assert "sysvi_support" in adata.obs
    assert weights(found) == weights(model)[:2]


def test_one_finished_member_is_returned_itself_after_an_interrupt(make_adata, short_first):
    short_first(1)
    adata = make_adata()
    found = integrate(adata, seed=5, progress=interrupt_at("model"))
    assert isinstance(found, SysVI)
    assert found.run.status == "finished"
    assert found.status == json.loads(adata.uns["sysvi"]["status"]) == "interrupted"
    assert "sysvi_support" not in adata.obs


def test_without_a_finished_member_all_that_had_begun_are_used(make_adata):
    begun = set()

    def interrupt_both(event):
        if event.stage == "epoch":
            begun.add(event.values["model"])
            if len(begun) == 2:
                raise KeyboardInterrupt

    threads = torch.get_num_threads()
    torch.set_num_threads(2)  # two members train at the same time
    try:
        found = integrate(make_adata(), max_epochs=1_000_000, progress=interrupt_both)
    finally:
        torch.set_num_threads(threads)
    assert isinstance(found, Ensemble)
    assert [member.status for member in found.members] == ["interrupted", "interrupted"]
    assert found.status == "interrupted"
    assert np.isfinite(found.get_latent_representation()).all()


# -- the class --------------------------------------------------------------------------------------------------------


def test_members_must_be_several_trained_and_alike(model, make_adata, make_sysvi):
    with pytest.raises(InputError, match="at least two members"):
        Ensemble(model.members[:1])
    setup = {"categorical_covariate_keys": ["batch"]}
    with pytest.raises(InputError, match="must be trained"):
        Ensemble([*model.members, make_sysvi(make_adata(), setup=setup, train=None)])
    for other in (
        make_sysvi(make_adata(), setup=setup, n_latent=3),
        make_sysvi(make_adata()[:, :90].copy(), setup=setup),
        make_sysvi(make_adata(), setup={**setup, "weight_batches": True}),
    ):
        with pytest.raises(InputError, match="same genes, systems, columns and model settings"):
            Ensemble([model.members[0], other])


def test_the_status_is_the_worst_of_the_members(model):
    assert model.status == "finished"
    members = model.members[:2]
    before = members[1].status
    try:
        members[1].status = "stopped_early"
        assert Ensemble(members).status == "stopped_early"
        members[1].status = "failed"
        assert Ensemble(members).status == "failed"
        assert Ensemble(members, status="interrupted").status == "interrupted"
    finally:
        members[1].status = before


def test_the_history_has_a_column_for_each_member(model):
    history = model.history
    assert history.keys() == model.members[0].history.keys()
    table = history["reconstruction_loss_train"]
    assert list(table) == [f"reconstruction_loss_train of member {i}" for i in range(3)]
    for i, member in enumerate(model.members):
        np.testing.assert_array_equal(table.iloc[:, i], member.history["reconstruction_loss_train"].iloc[:, 0])


def test_what_the_members_have_in_common_is_that_of_the_ensemble(model, adata):
    assert model.adata is adata
    assert model.is_trained
    assert model.vocabulary.systems == ("system1", "system2")
    assert model.columns.batch == "batch"
    assert model.model_settings.n_latent == 4
    assert model.train_settings.max_epochs == 2
    assert model.device == torch.device("cpu")
    model.to_device("cpu")
    assert "Ensemble of 3 members: SysVI: 100 genes" in repr(model)
    assert all(member.cells is model.members[0].cells for member in model.members)


# -- saving and loading -----------------------------------------------------------------------------------------------


def test_round_trip_keeps_everything(model, saved, adata):
    assert [path.name for path in saved.iterdir()] == [FILE]
    loaded = sysvi.load(saved, adata)
    assert isinstance(loaded, Ensemble)
    assert_equal_members(loaded, model)
    for name in ("center", "matrix"):
        np.testing.assert_array_equal(getattr(loaded.combination, name), getattr(model.combination, name), strict=True)
    for name in ("system", "in_members", "position", "move"):
        np.testing.assert_array_equal(getattr(loaded.moves, name), getattr(model.moves, name), strict=True)
    assert (loaded.seed, loaded.status, loaded.record(), repr(loaded)) == (5, "finished", model.record(), repr(model))
    np.testing.assert_array_equal(loaded.get_latent_representation(), adata.obsm["X_sysVI"])
    for name, table in model.history.items():
        pd.testing.assert_frame_equal(loaded.history[name], table)
    assert loaded.adata is adata
    assert all(member.cells is loaded.members[0].cells for member in loaded.members)


def test_saving_twice_gives_the_same_file(saved, tmp_path):
    sysvi.load(saved / FILE).save(tmp_path)
    assert (tmp_path / FILE).read_bytes() == (saved / FILE).read_bytes()


def test_without_data_other_cells_are_embedded(saved, adata):
    loaded = sysvi.load(saved, device="cpu")
    assert loaded.adata is None
    with pytest.raises(InputError, match="loaded without data"):
        loaded.get_latent_representation()
    np.testing.assert_array_equal(loaded.get_latent_representation(adata), adata.obsm["X_sysVI"])


def test_status_of_an_interrupted_ensemble_is_remembered(model, tmp_path):
    Ensemble(model.members[:2], 1, status="interrupted").save(tmp_path, prefix="a_")
    assert sysvi.load(tmp_path, prefix="a_").status == "interrupted"


def test_each_loader_takes_what_it_can(saved, model, adata, tmp_path):
    with pytest.raises(InputError, match=rf"{FILE} holds an ensemble, not a single model: load it with sysvi\.load"):
        SysVI.load(saved)
    model.members[1].save(tmp_path)
    single = sysvi.load(tmp_path, adata)
    assert isinstance(single, SysVI)
    assert single.adata is adata
    expected = model.members[1].get_latent_representation()
    np.testing.assert_array_equal(single.get_latent_representation(), expected)
    with pytest.raises(InputError, match="no saved model"):
        sysvi.load(tmp_path / "nothing")


def test_an_existing_model_is_not_overwritten_unasked(model, tmp_path):
    (tmp_path / FILE).write_bytes(b"precious")
    with pytest.raises(InputError, match=r"exists already.*overwrite=True"):
        model.save(tmp_path)
    assert (tmp_path / FILE).read_bytes() == b"precious"
    model.save(tmp_path, overwrite=True, save_anndata=True)
    cells = anndata.read_h5ad(tmp_path / "adata.h5ad")
    np.testing.assert_array_equal(sysvi.load(tmp_path, cells).get_latent_representation(), cells.obsm["X_sysVI"])


def test_the_file_is_readable_without_sysvi(model, saved):
    with safetensors.safe_open(saved / FILE, framework="np") as file:
        header = json.loads(file.metadata()["sysvi"])
        names = set(file.keys())
    own = {f"{i}.{name}" for i, member in enumerate(model.members) for name in member.module.state_dict()}
    combination = {"combination.center", "combination.matrix", *(f"moves.{field.name}" for field in fields(Moves))}
    assert names == own | combination
    assert header["genes"] == list(model.vocabulary.genes)
    assert [member["seed"] for member in header["members"]] == [member.seed for member in model.members]
    assert (header["seed"], header["status"], header["model_settings"]["n_latent"]) == (5, "finished", 4)


def change_members(change):
    def apply(tensors, header):
        header["members"] = change(header["members"])

    return apply


def change_tensor(name, change):
    def apply(tensors, header):
        tensors[name] = change(tensors[name]).contiguous()

    return apply


def without_tensor(name):
    return lambda tensors, header: tensors.pop(name)


DAMAGES = {
    "members are no list": change_members(lambda members: 3),
    "one member": change_members(lambda members: members[:1]),
    "a member too few": change_members(lambda members: members[:2]),
    "a member too many": change_members(lambda members: [*members, members[0]]),
    "a member without settings": change_members(lambda members: [{"seed": 1}, *members[1:]]),
    "an untrained member": change_members(lambda members: [members[0] | {"status": "untrained"}, *members[1:]]),
    "other settings of a member": change_members(
        lambda members: [
            members[0] | {"model_settings": members[0]["model_settings"] | {"dropout_rate": 0.5}},
            *members[1:],
        ]
    ),
    "no status": lambda tensors, header: header.pop("status"),
    "version of a single model": lambda tensors, header: header.update(format_version=FORMAT_VERSION),
    "no centers": without_tensor("combination.center"),
    "no matrices": without_tensor("combination.matrix"),
    "no moves": without_tensor("moves.move"),
    "fewer moves": change_tensor("moves.move", lambda x: x[:-1]),
    "moves of fewer dimensions": change_tensor("moves.move", lambda x: x[:, :3]),
    "fewer systems of moves": change_tensor("moves.system", lambda x: x[:-1]),
    "systems of moves in a table": change_tensor("moves.system", lambda x: x[:, None]),
    "a weight too few": without_tensor("1.encoder.head.weight"),
    "fewer centers": change_tensor("combination.center", lambda x: x[:2]),
    "fewer matrices": change_tensor("combination.matrix", lambda x: x[:2]),
    "centers in three dimensions": change_tensor("combination.center", lambda x: x[:, :3]),
    "matrices that are not square": change_tensor("combination.matrix", lambda x: x[:, :, :3]),
    "a flat matrix": change_tensor("combination.matrix", lambda x: x.flatten()),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_corrupted_file_is_refused(saved, tmp_path, damage):
    tensors, header = read_file(saved / FILE)
    DAMAGES[damage](tensors, header)
    write_file(tmp_path / FILE, tensors, header, overwrite=False)
    with pytest.raises(InputError, match=rf"{FILE} is corrupted") as caught:
        sysvi.load(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_combination_of_fewer_latent_dimensions_is_refused(saved, tmp_path):
    """Its parts fit each other, but not the members."""
    tensors, header = read_file(saved / FILE)
    tensors["combination.center"] = tensors["combination.center"][:, :3].contiguous()
    tensors["combination.matrix"] = tensors["combination.matrix"][:, :3, :3].contiguous()
    write_file(tmp_path / FILE, tensors, header, overwrite=False)
    with pytest.raises(InputError, match="corrupted: the combination does not fit the members"):
        sysvi.load(tmp_path)


def test_a_truncated_file_is_refused(saved, tmp_path):
    (tmp_path / FILE).write_bytes((saved / FILE).read_bytes()[:-1])
    with pytest.raises(InputError, match="damaged or another kind of file"):
        sysvi.load(tmp_path)
