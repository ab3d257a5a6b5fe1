"""Trainings that are stopped and go on from their state, against trainings without interruption: all bits are equal."""

import json
from itertools import count

import numpy as np
import pytest
import torch
from anndata.io import sparse_dataset, write_elem

from sysvi._core.errors import InputError
from sysvi._core.settings import Ramp, TrainSettings
from sysvi._core.tensor_files import open_tensors, read_tensors, write_tensors
from sysvi.data.cells import Cells
from sysvi.data.stored import StoredExpression
from sysvi.training import loop
from sysvi.training import state as module
from sysvi.training.epochs import PlainEpochs
from sysvi.training.loop import NonFiniteLossError, train
from sysvi.training.state import StateFile

SHORT = {"max_epochs": 4, "batch_size": 10}
N_STEPS = 12  # of SHORT with 30 cells
SETTINGS = {
    "plain": {},
    "held-out cells": {"train_size": 0.8},
    "early stopping": {"train_size": 0.8, "early_stopping": True, "max_epochs": 12, "patience": 1, "lr": 0.05},
    "adversary": {"adversarial_weight": Ramp(1.0), "clip_norm": 0.5, "lr_schedule": "cosine"},
    "resampled": {"swapped_covariates": "resampled", "weight_decay": 0.01},
}


@pytest.fixture
def file(tmp_path):
    return StateFile(tmp_path / "member.safetensors", "a run")


@pytest.fixture
def start(make_cells, make_model, tmp_path):
    """Function that trains a new small model; returns it and its run."""
    in_memory = make_cells()

    def stored():
        """The cells on disk, read in windows of two minibatches."""
        import h5py

        path = tmp_path / "x.h5"
        if not path.exists():
            with h5py.File(path, "w") as group:
                write_elem(group, "x", in_memory.x)
        c = in_memory.covariates
        x = StoredExpression(sparse_dataset(h5py.File(path)["x"]), 20)
        return Cells(x, c.system.numpy(), c.categorical.numpy(), c.continuous.numpy(), n_systems=2)

    def train_new(file=None, stop=None, on_disk=False, on_event=lambda event: None, **settings):
        cells = stored() if on_disk else in_memory
        model = make_model(in_memory, dropout_rate=0.1)
        run = train(model, cells, TrainSettings(**{**SHORT, **settings}), on_event, stop, state_file=file)
        return model, run

    return train_new


@pytest.fixture
def after(monkeypatch):
    """Function that makes a function that asks to stop after n steps of a training, counted from its beginning."""
    latest = {}

    class Known(PlainEpochs):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            latest["epochs"] = self

    monkeypatch.setattr(loop, "PlainEpochs", Known)
    return lambda n: lambda: latest["epochs"].n_done >= n


def assert_same(found, expected):
    (model, run), (other, other_run) = found, expected
    for name, tensor in other.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor), name
    assert run.history == other_run.history
    assert run.status == other_run.status


@pytest.mark.slow
@pytest.mark.parametrize("n_steps", [1, 3, 4, 8, 11])
@pytest.mark.parametrize("on_disk", [False, True], ids=["memory", "disk"])
@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_a_stopped_training_goes_on_with_the_same_bits(start, file, after, settings, on_disk, n_steps):
    expected = start(on_disk=on_disk, **settings)
    _, stopped = start(file, after(n_steps), on_disk, **settings)
    assert stopped.status == "interrupted"
    assert_same(start(file, None, on_disk, **settings), expected)


def test_a_training_can_be_stopped_at_every_step(start, file, after):
    expected = start()
    statuses = [start(file, after(n))[1].status for n in range(1, N_STEPS + 1)]
    assert_same(start(file), expected)
    assert set(statuses) == {"interrupted"}


@pytest.mark.parametrize("on_disk", [False, True], ids=["memory", "disk"])
@pytest.mark.parametrize("n_written", [1, 2, 5, 12])
def test_a_killed_training_goes_on_from_the_last_state(start, file, monkeypatch, on_disk, n_written):
    """The state is written after each step; what comes after the last one is lost."""
    expected = start(on_disk=on_disk)
    monkeypatch.setattr(module, "SECONDS_BETWEEN_WRITES", 0)
    write, written = module.write_tensors, count(1)

    def killed(*args, **kwargs):
        if next(written) > n_written:
            raise SystemExit
        write(*args, **kwargs)

    monkeypatch.setattr(module, "write_tensors", killed)
    with pytest.raises(SystemExit):
        start(file, on_disk=on_disk)
    monkeypatch.setattr(module, "write_tensors", write)
    assert_same(start(file, on_disk=on_disk), expected)


def test_writing_states_changes_nothing(start, file, monkeypatch):
    expected = start()
    monkeypatch.setattr(module, "SECONDS_BETWEEN_WRITES", 0)
    assert_same(start(file), expected)


def test_without_time_the_state_is_written_at_the_end_alone(start, file, monkeypatch):
    written, write = [], module.write_tensors
    monkeypatch.setattr(module, "write_tensors", lambda *args: written.append(write(*args)))
    start(file)
    assert len(written) == 1


@pytest.mark.parametrize("settings", [SETTINGS["plain"], SETTINGS["early stopping"]], ids=["plain", "early stopping"])
def test_a_training_that_had_ended_takes_no_further_step(start, file, settings):
    expected, events = start(file, **settings), []
    before = file.path.read_bytes()
    assert_same(start(file, on_event=events.append, **settings), expected)
    assert "epoch" not in [event.stage for event in events]
    assert file.path.read_bytes() == before


def test_an_interrupt_by_an_event_keeps_the_epoch(start, file):
    def interrupt(event):
        if event.stage == "epoch" and event.values["epoch"] == 2:
            raise KeyboardInterrupt

    _, stopped = start(file, on_event=interrupt)
    assert stopped.n_epochs == 2
    events = []
    assert_same(start(file, on_event=events.append), start())
    assert [event.values["epoch"] for event in events if event.stage == "epoch"] == [3, 4]


def test_a_loss_that_is_not_finite_fails_again(start, file):
    """The state of a training that failed is that before; the weights are those of the last good epoch."""
    settings = {"lr": 1e30, "max_epochs": 20}
    with pytest.raises(NonFiniteLossError) as first:
        start(**settings)
    with pytest.raises(NonFiniteLossError) as second:
        start(file, **settings)
    assert str(first.value) == str(second.value)
    assert not file.path.exists()


def test_the_file_executes_no_code_and_is_plain(start, file, after):
    start(file, after(5))
    with open_tensors(file.path) as (handle, header):
        tensors = read_tensors(handle, dict(header))
    assert header["format"] == "sysvi-training"
    assert header["steps"] == 5
    assert len(header["history"]["total_train"]) == 1
    assert {name.partition(".")[0] for name in tensors} == {"objective", "optimiser", "last_good", "epoch", "generator"}
    json.dumps(header, allow_nan=False)


def test_a_state_of_another_run_is_refused(start, file, after):
    start(file, after(5))
    with pytest.raises(InputError, match="is the state of a training of other data or settings: give the checkpoint"):
        start(StateFile(file.path, "another run"))


def test_a_damaged_state_is_refused(start, file, after):
    start(file, after(5))
    content = file.path.read_bytes()
    rng = np.random.default_rng(0)
    for place in (0, 100, len(content) - 1, *rng.integers(0, len(content), 20).tolist()):
        file.path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        with pytest.raises(InputError, match=r"is damaged \(|is no state of a training"):
            start(file)
    for size in (0, 7, len(content) // 2, len(content) - 1):
        file.path.write_bytes(content[:size])
        with pytest.raises(InputError, match=r"is damaged \(.*\): remove this file"):
            start(file)


@pytest.mark.parametrize(
    "change",
    [
        lambda tensors, header: header.pop("history"),
        lambda tensors, header: header.update(steps="many"),
        lambda tensors, header: tensors.pop("epoch.sums"),
        lambda tensors, header: tensors.update({"epoch.sums": torch.zeros(7)}),
        lambda tensors, header: tensors.update({"generator.order": torch.zeros(3, dtype=torch.uint8)}),
    ],
)
def test_a_state_that_contradicts_itself_is_refused(start, file, after, change):
    start(file, after(5))
    with open_tensors(file.path) as (handle, header):
        tensors = read_tensors(handle, header)
    change(tensors, header)
    write_tensors(file.path, tensors, header)
    with pytest.raises(InputError, match=r"is damaged \(.*\): remove this file"):
        start(file)
