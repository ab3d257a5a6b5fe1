"""Arguments of the functions that train: settings of model and training, and presets."""

import pytest

from sysvi import InputError, Ramp
from sysvi._core.settings import CONSERVATIVE, MIXING, PAPER, Preset
from sysvi.api.arguments import fill_in, find_preset, split_settings


def test_settings_are_split_into_those_of_model_and_training():
    settings = {"prior": "gmm", "lr": 0.01, "pseudoinputs_label_key": "type", "embedding_kwargs": {}, "max_epochs": 3}
    model, training = split_settings("integrate", settings)
    assert model == {"prior": "gmm", "pseudoinputs_label_key": "type", "embedding_kwargs": {}}
    assert training == {"lr": 0.01, "max_epochs": 3}


def test_unknown_settings_are_named_with_the_function():
    with pytest.raises(InputError, match=r"tune has no setting lrr, priors; settings are .*lr, .*prior,"):
        split_settings("tune", {"priors": ["gmm"], "lr": 1, "lrr": 2})


def test_presets_are_found_by_name():
    assert find_preset(None) is CONSERVATIVE
    assert find_preset("paper") is PAPER
    with pytest.raises(InputError, match="preset is 'fast'; it must be one of mixing, conservative, paper"):
        find_preset("fast")


PRESET = Preset(
    members=1,
    settings={"cycle_weight": Ramp(5.0), "kl_weight": Ramp(1.0, 0.2, 0.4), "lr": 0.5},
    epochs=lambda n_cells: 2 * n_cells,
)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, {"max_epochs": 20}),
        ({"lr": 0.1, "n_latent": 3}, {"lr": 0.1, "n_latent": 3, "max_epochs": 20}),
        ({"max_epochs": 7}, {"max_epochs": 7}),
        (
            {"cycle_weight": 2, "kl_weight": 3},
            {"cycle_weight": Ramp(2), "kl_weight": Ramp(3, 0.2, 0.4), "max_epochs": 20},
        ),
        ({"kl_weight": Ramp(3.0, 0.5, 0.6)}, {"kl_weight": Ramp(3.0, 0.5, 0.6), "max_epochs": 20}),
        ({"kl_weight": [3, 0.5, 0.6]}, {"kl_weight": Ramp(3.0, 0.5, 0.6), "max_epochs": 20}),
    ],
    ids=str,
)
def test_given_settings_take_precedence_and_numbers_keep_the_ramp_of_the_preset(given, expected):
    before = dict(PRESET.settings)
    assert fill_in(PRESET, given, 10, 2) == before | expected
    assert PRESET.settings == before


def test_none_is_not_given():
    assert fill_in(CONSERVATIVE, {"max_epochs": None, "batch_size": None, "lr": None}, 10, 2) == fill_in(
        CONSERVATIVE, {}, 10, 2
    )


def test_a_preset_without_settings_changes_nothing():
    assert fill_in(MIXING, {"cycle_weight": 2}, 10, 2) == {"cycle_weight": 2}
    assert fill_in(PRESET._replace(epochs=None), {}, 10, 2) == PRESET.settings
    with pytest.raises(InputError, match="kl_weight is 'strong'"):
        fill_in(PRESET, {"kl_weight": "strong"}, 10, 2)


def test_the_default_differs_for_more_than_two_systems():
    assert CONSERVATIVE.settings_for(10, 2) == CONSERVATIVE.settings
    assert CONSERVATIVE.settings_for(10, 3) == CONSERVATIVE.settings | {"covariates_in_hidden": False}
    assert fill_in(CONSERVATIVE, {"covariates_in_hidden": True}, 10, 3)["covariates_in_hidden"] is True
    for preset in (MIXING, PAPER):
        assert preset.settings_for(10, 3) == preset.settings_for(10, 2)
