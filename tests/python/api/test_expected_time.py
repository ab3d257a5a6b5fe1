"""The expected time of a training: which steps are measured, and how their time is multiplied."""

import pytest
import torch

from sysvi._core.events import Event
from sysvi._core.settings import ModelSettings, Ramp, TrainSettings
from sysvi.api import expected_time as module
from sysvi.api.expected_time import expected_seconds
from sysvi.data.cells import Vocabulary

VOCABULARY = Vocabulary(
    tuple(f"gene {i}" for i in range(50)),
    "system",
    ("human", "mouse", "rat"),
    {"batch": ("a", "b", "c", "d")},
    {"age": (40.0, 10.0)},
)
SMALL = ModelSettings(n_hidden=8, n_latent=3, n_prior_components=4)
TRAINING = TrainSettings(max_epochs=7, batch_size=10)
CPU = torch.device("cpu")


def expected(n_trained=100, n_members=1, model=SMALL, training=TRAINING, density=0.2, vocabulary=VOCABULARY):
    return expected_seconds(vocabulary, 50, density, n_trained, n_members, model, training, CPU)


@pytest.mark.parametrize(
    ("n_trained", "n_members", "n_steps"), [(100, 1, 7 * 10), (95, 1, 7 * 10), (1000, 4, 4 * 7 * 100), (15, 1, 7 * 2)]
)
def test_the_time_of_a_step_is_multiplied(monkeypatch, n_trained, n_members, n_steps):
    """A step takes three seconds, and one model is trained at a time."""

    def train(model, cells, settings, on_event, stop):
        assert (cells.n_genes, cells.n_systems) == (50, 3)
        assert stop()
        assert settings.max_epochs == 1
        on_event(Event("plan", values={"expected_seconds": 3.0 * -(-cells.n_cells // settings.batch_size)}))

    monkeypatch.setattr(module, "train", train)
    monkeypatch.setattr(module, "n_parallel_models", lambda device: 1)
    assert expected(n_trained, n_members) == pytest.approx((3.0 * n_steps, 6.0 * n_steps))
    monkeypatch.setattr(module, "n_parallel_models", lambda device: 3)
    at_once = min(3, n_members)
    rounds = -(-n_members // at_once)
    assert expected(n_trained, n_members)[0] == pytest.approx(3.0 * n_steps * rounds / n_members)


@pytest.mark.parametrize(
    ("model", "training"),
    [
        ({"prior": "standard_normal"}, {}),
        ({"prior": "gmm", "pseudoinputs": "noise"}, {}),
        ({"out_var_mode": "sample_feature", "embed_categorical_covariates": True}, {}),
        ({"n_layers": 3, "n_prior_components": 200}, {"adversarial_weight": Ramp(1.0)}),
        ({}, {"early_stopping": True, "train_size": 0.9}),
    ],
)
def test_any_settings_are_measured(model, training):
    settings = {"n_hidden": 8, "n_latent": 3, "n_prior_components": 4, **model}
    train_settings = TrainSettings(**{"max_epochs": 2, "batch_size": 10, **training})
    shortest, longest = expected(model=ModelSettings(**settings), training=train_settings)
    assert 0 < shortest < longest


@pytest.mark.parametrize("density", [0.0, 0.02, 1.0])
def test_any_density_is_measured(density):
    assert expected(density=density)[0] > 0


def test_cells_without_covariates_and_members_in_parallel_are_measured():
    plain = Vocabulary(VOCABULARY.genes, "system", ("human", "mouse"))
    assert expected(vocabulary=plain, n_members=3)[0] > 0
    assert expected(n_trained=2)[0] > 0
