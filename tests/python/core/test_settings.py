from dataclasses import asdict

import numpy as np
import oracle
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sysvi._core.errors import InputError
from sysvi._core.settings import ModelSettings, Ramp, TrainSettings, as_ramp

fraction = st.floats(0, 1)
ramps = st.builds(lambda value, ends: Ramp(value, *sorted(ends)), st.floats(0, 1e6), st.tuples(fraction, fraction))


@given(ramps, fraction, fraction)
def test_ramp_rises_and_stays_in_bounds(ramp, a, b):
    early, late = sorted((a, b))
    assert 0 <= ramp.value_at(early) <= ramp.value_at(late) <= ramp.value
    assert ramp.value_at(1.0) == ramp.value


@given(ramps, fraction)
def test_ramp_matches_oracle(ramp, progress):
    np.testing.assert_allclose(ramp.value_at(progress), oracle.ramp(progress, *ramp), rtol=1e-9, atol=1e-9)


def test_ramp_is_zero_up_to_start_and_constant_without_ends():
    assert Ramp(5.0, 0.2, 0.6).value_at(0.2) == 0
    assert Ramp(5.0, 0.2, 0.6).value_at(0.4) == pytest.approx(2.5)
    assert Ramp(5.0).value_at(0.0) == 5.0


def test_a_number_keeps_the_shape_of_the_default():
    assert as_ramp(2, Ramp(5.0, 0.1, 0.6), "w") == Ramp(2.0, 0.1, 0.6)
    assert as_ramp((2.0, 0.3, 0.4), Ramp(5.0, 0.1, 0.6), "w") == Ramp(2.0, 0.3, 0.4)
    assert as_ramp(Ramp(2.0), Ramp(5.0, 0.1, 0.6), "w") == Ramp(2.0)


def test_settings_read_weights_as_ramps():
    settings = TrainSettings(cycle_weight=7, kl_weight=(1.0, 0.0, 0.5))
    default = TrainSettings().cycle_weight
    assert settings.cycle_weight == Ramp(7.0, default.start, default.end)
    assert settings.kl_weight == Ramp(1.0, 0.0, 0.5)
    assert asdict(settings)["lr"] == settings.lr


COUNTS = ["n_latent", "n_hidden", "n_layers", "n_prior_components", "embedding_dim"]
WEIGHTS = ["reconstruction_weight", "kl_weight", "cycle_weight", "adversarial_weight", "mixture_share"]
MODEL_FLAGS = ["trainable_priors", "embed_categorical_covariates"]
NAN, INF = float("nan"), float("inf")
REJECTED = [
    *((ModelSettings, name, value) for name in COUNTS for value in (0, -1, 2.5, "3", None)),
    *((ModelSettings, "dropout_rate", value) for value in (-0.1, 1, NAN, "0.1", None)),
    *((ModelSettings, name, value) for name in MODEL_FLAGS for value in ("no", None, 2, 0.5)),
    *((ModelSettings, name, "other") for name in ("prior", "mixture", "pseudoinputs", "out_var_mode")),
    *((TrainSettings, name, value) for name in WEIGHTS for value in (-1, NAN, INF)),
    *((TrainSettings, name, (1.0, *ends)) for name in WEIGHTS for ends in ((0.6, 0.1), (-0.1, 0.5), (0.5, 1.5))),
    (TrainSettings, "mixture_share", 1.1),
    *((TrainSettings, "max_epochs", value) for value in (0, -5, 1.5)),
    *((TrainSettings, "batch_size", value) for value in (0, 1, 64.0)),
    *((TrainSettings, "lr", value) for value in (0, -1e-3, NAN, INF, "x", [1e-3], 10**400)),
    *((TrainSettings, "train_size", value) for value in (0, -0.5, 1.1, NAN, "x", None)),
    *((TrainSettings, name, value) for name in ("early_stopping",) for value in ("no", None, 2, 0.5)),
    (TrainSettings, "early_stopping", True),  # with nothing held out
    (TrainSettings, "swapped_covariates", "other"),
    (TrainSettings, "lr_schedule", "other"),
    *((TrainSettings, "weight_decay", value) for value in (-1e-6, NAN, None, "0")),
    *((TrainSettings, "eps", value) for value in (-1e-8, NAN, None, "a")),
    *((TrainSettings, "clip_norm", value) for value in (0, -1.0, NAN, "1")),
    *((TrainSettings, "patience", value) for value in (0, -1)),
    (TrainSettings, "seed", -1),
]


@pytest.mark.parametrize(("kind", "name", "value"), REJECTED)
def test_unusable_setting_is_named_in_one_sentence(kind, name, value):
    with pytest.raises(InputError) as error:
        kind(**{name: value})
    message = str(error.value)
    assert name in message
    assert message.endswith(".")
    assert "\n" not in message


@pytest.mark.parametrize("weight", ["heavy", None, (1.0, 0.1), (1.0, 0.1, 0.6, 0.9), ("1", 0.0, 0.5)])
def test_weight_that_is_no_number_is_rejected_by_name(weight):
    with pytest.raises(InputError, match="kl_weight"):
        TrainSettings(kl_weight=weight)


@pytest.mark.parametrize(
    ("kind", "name", "value", "plain"),
    [
        *((ModelSettings, name, np.int64(7), int) for name in COUNTS),
        *((TrainSettings, name, np.int32(7), int) for name in ("max_epochs", "batch_size", "patience", "seed")),
        (ModelSettings, "dropout_rate", np.float32(0.5), float),
        *((TrainSettings, name, np.float32(0.5), float) for name in ("lr", "weight_decay", "eps", "clip_norm")),
        (TrainSettings, "train_size", np.float64(0.5), float),
        *((ModelSettings, name, np.True_, bool) for name in MODEL_FLAGS),
        *((TrainSettings, "early_stopping", value, bool) for value in (np.False_, 0, np.int64(0))),
    ],
)
def test_numbers_of_numpy_become_plain(kind, name, value, plain):
    setting = getattr(kind(**{name: value}), name)
    assert type(setting) is plain
    assert setting == value


@pytest.mark.parametrize("settings", [ModelSettings(), TrainSettings()])
def test_settings_cannot_change(settings):
    with pytest.raises(AttributeError):
        settings.seed = 3


def test_bounds_themselves_are_usable():
    assert TrainSettings(max_epochs=1, batch_size=2, train_size=0.5, early_stopping=True).batch_size == 2
    assert ModelSettings(n_latent=1, n_layers=1, dropout_rate=0).n_layers == 1
