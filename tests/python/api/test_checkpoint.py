"""Integrations with a checkpoint: those that were ended go on with the same bits, and other ones are refused."""

import json
import signal

import anndata
import numpy as np
import pytest
import torch

import sysvi
import sysvi.api.integrate as integrate_module
from sysvi._core.interrupts import STOP_SIGNALS, TO_BE_CONTINUED
from sysvi._core.parallel import restore_thread_count
from sysvi.api.storage import Storage
from sysvi.training import state

TINY = {"max_epochs": 3, "n_hidden": 16, "batch_size": 70}
EARLY = {"members": 1, "early_stopping": True, "train_size": 0.8, "patience": 1, "max_epochs": 8, "lr": 0.03}
ENSEMBLE = {"members": 2}


@pytest.fixture(scope="module")
def prepared():
    """Shared: do not modify."""
    return sysvi.prepare(sysvi.datasets.simulate_systems(300, 150, seed=1), "system", "batch", min_cells=3)


@pytest.fixture(scope="module")
def h5ad(prepared, tmp_path_factory):
    path = tmp_path_factory.mktemp("cells") / "prepared.h5ad"
    prepared.write_h5ad(path)
    return path


@pytest.fixture
def integrate(prepared, h5ad, monkeypatch):
    """Function that integrates the cells, in memory or from disk in windows of 140 cells."""
    monkeypatch.setattr(integrate_module, "choose_storage", lambda *arguments: Storage(140, 0.0, "a test"))

    def run(adata=None, on_disk=False, progress=False, **arguments):
        cells = (h5ad if on_disk else prepared.copy()) if adata is None else adata
        memory = "1GB" if on_disk else None
        return sysvi.integrate(cells, "system", "batch", progress=progress, memory=memory, **{**TINY, **arguments})

    return run


def interrupt_at(n):
    """A progress callback that interrupts at the n-th epoch of all models together."""
    seen = []

    def on_event(event):
        if event.stage == "epoch":
            seen.append(event)
            if len(seen) == n:
                raise KeyboardInterrupt

    return on_event


def assert_same(found, expected):
    assert type(found) is type(expected)
    assert found.status == expected.status
    for ours, theirs in zip(found.members, expected.members, strict=True):
        a, b = ours.module.state_dict(), theirs.module.state_dict()
        assert all(np.array_equal(a[name], b[name]) for name in b)
        assert all(ours.history[name].equals(theirs.history[name]) for name in theirs.history)
    for name in expected.adata.obsm:
        np.testing.assert_array_equal(found.adata.obsm[name], expected.adata.obsm[name])


@pytest.mark.slow
@pytest.mark.parametrize("n_epochs", [1, 2, 4])
@pytest.mark.parametrize("on_disk", [False, True], ids=["memory", "disk"])
@pytest.mark.parametrize("settings", [ENSEMBLE, EARLY], ids=["ensemble", "early stopping"])
def test_an_interrupted_integration_goes_on_with_the_same_bits(integrate, tmp_path, settings, on_disk, n_epochs):
    expected = integrate(on_disk=on_disk, **settings)
    kept = {"checkpoint": tmp_path / "kept", "on_disk": on_disk, **settings}
    stopped = integrate(progress=interrupt_at(n_epochs), **kept)
    assert stopped.status == "interrupted"
    assert_same(integrate(**kept), expected)
    assert not [path for path in (tmp_path / "kept").iterdir() if path.name.startswith(".")]


@pytest.mark.slow
@pytest.mark.parametrize("members", [1, 3])
def test_members_that_are_trained_in_parallel_go_on_with_the_same_bits(integrate, tmp_path, members):
    """With two threads, two members are trained at the same time, and the steps of a single model run in two."""
    with restore_thread_count():
        torch.set_num_threads(2)
        expected = integrate(members=members)
        stopped = integrate(members=members, checkpoint=tmp_path, progress=interrupt_at(2))
        assert stopped.status == "interrupted"
        assert_same(integrate(members=members, checkpoint=tmp_path), expected)


@pytest.mark.slow
@pytest.mark.parametrize("n_written", [0, 1, 7, 20])
def test_an_integration_that_died_goes_on_with_the_same_bits(integrate, tmp_path, monkeypatch, n_written):
    """It dies in place of writing a state, as if killed; 15 states are written for each of two members."""
    expected = integrate(members=2)
    monkeypatch.setattr(state, "SECONDS_BETWEEN_WRITES", 0)
    write, written = state.write_tensors, []

    def die(*arguments):
        if len(written) >= n_written:
            raise RuntimeError("killed")
        written.append(write(*arguments))

    monkeypatch.setattr(state, "write_tensors", die)
    with pytest.raises(RuntimeError, match="killed"):
        integrate(members=2, checkpoint=tmp_path)
    monkeypatch.setattr(state, "write_tensors", write)
    assert_same(integrate(members=2, checkpoint=tmp_path), expected)


def test_a_checkpoint_changes_nothing_and_is_used_again(integrate, tmp_path):
    expected, events = integrate(members=2), []
    assert_same(integrate(members=2, checkpoint=tmp_path / "kept"), expected)
    files = {path.name: path.read_bytes() for path in (tmp_path / "kept").iterdir()}
    assert sorted(files) == ["member-0.safetensors", "member-1.safetensors", "run.json"]
    assert_same(integrate(members=2, checkpoint=tmp_path / "kept", progress=events.append), expected)
    assert {path.name: path.read_bytes() for path in (tmp_path / "kept").iterdir()} == files
    assert "epoch" not in [event.stage for event in events]
    (event,) = [event for event in events if event.stage == "checkpoint"]
    assert event.message == (f"Training goes on from the checkpoint in {tmp_path / 'kept'}: 2 of 2 models had begun.")


# -- signals ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sent", [sent for sent in STOP_SIGNALS if sent != signal.SIGINT], ids=lambda sent: sent.name)
@pytest.mark.parametrize("members", [1, 2])
def test_a_signal_of_a_batch_system_ends_the_program_to_be_continued(
    integrate, tmp_path, default_hangup_handler, members, sent
):
    events = []

    def send(event):
        events.append(event)
        if event.stage == "epoch":
            signal.raise_signal(sent)

    with pytest.raises(SystemExit) as ended:
        integrate(members=members, checkpoint=tmp_path, progress=send)
    assert ended.value.code == TO_BE_CONTINUED == 75
    assert events[-1].message == (
        f"Stopped by {sent.name}. When it is run again, it goes on from the checkpoint in {tmp_path}."
    )
    assert_same(integrate(members=members, checkpoint=tmp_path), integrate(members=members))


def test_ctrl_c_gives_what_was_trained_as_without_a_checkpoint(integrate, tmp_path):
    def send(event):
        if event.stage == "epoch":
            signal.raise_signal(signal.SIGINT)

    stopped = integrate(members=1, checkpoint=tmp_path, progress=send)
    assert stopped.status == "interrupted"
    assert_same(integrate(members=1, checkpoint=tmp_path), integrate(members=1))


def test_a_signal_without_a_checkpoint_gives_what_was_trained(integrate):
    def send(event):
        if event.stage == "epoch":
            signal.raise_signal(signal.SIGTERM)

    assert integrate(members=1, progress=send).status == "interrupted"


# -- what is refused --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def begun(prepared, tmp_path_factory):
    """A folder with the checkpoint of a whole integration. Shared: do not modify."""
    folder = tmp_path_factory.mktemp("begun")
    sysvi.integrate(prepared.copy(), "system", "batch", members=2, checkpoint=folder, progress=False, **TINY)
    return folder


def refusal(integrate, folder, *arguments, **settings):
    with pytest.raises(sysvi.InputError) as error:
        integrate(*arguments, **{"members": 2, "checkpoint": folder, **settings})
    return str(error.value)


@pytest.mark.parametrize(
    ("settings", "different"),
    [
        ({"seed": 1}, "seed: 0 there, 1 here"),
        ({"members": 3}, "members: 2 there, 3 here"),
        ({"max_epochs": 4, "seed": 2}, "seed: 0 there, 2 here; setting max_epochs: 3 there, 4 here"),
        ({"n_latent": 7}, "setting n_latent: the default there, 7 here"),
        ({"cycle_weight": sysvi.Ramp(2.0, 0.1, 0.2)}, "other setting cycle_weight"),
        ({"weight_systems": True}, "other columns"),
        ({"on_disk": True}, "cells in memory at a time: the default there, 140 here"),
    ],
)
def test_other_settings_are_refused(integrate, begun, settings, different):
    message = refusal(integrate, begun, **settings)
    assert message == (
        f"The folder {begun} holds the checkpoint of another run ({different}): choose another folder, or remove this "
        "one to begin again."
    )


@pytest.mark.parametrize(
    ("change", "different"),
    [
        (lambda a: a[:-1].copy(), "number of cells: 300 there, 299 here; other names of the cells"),
        (lambda a: a[:, :-1].copy(), "number of genes"),
        (lambda a: a[::-1].copy(), "(other names of the cells"),
        (lambda a: anndata.AnnData(1.01 * a.X, a.obs, a.var), "(other expression)"),
        (lambda a: anndata.AnnData(a.X, a.obs.assign(batch=a.obs["batch"].to_numpy()[::-1]), a.var), "batches"),
        (lambda a: anndata.AnnData(a.X, a.obs, a.var.set_index(a.var_names + "x")), "(other names of the genes"),
    ],
)
def test_other_data_are_refused(integrate, prepared, begun, change, different):
    message = refusal(integrate, begun, change(prepared))
    assert f"The folder {begun} holds the checkpoint of another run (" in message
    assert different in message


def test_another_version_is_refused(integrate, begun, monkeypatch):
    monkeypatch.setattr("sysvi.api.training_folder.__version__", "99.0")
    assert "(version of sysvi: " in refusal(integrate, begun)


def copied(begun, folder):
    for file in begun.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": "other"}', '{"format": "sysvi-checkpoint"}', "[" * 99_999])
def test_a_damaged_description_is_refused(integrate, begun, tmp_path, text):
    (copied(begun, tmp_path) / "run.json").write_text(text)
    assert "run.json is damaged or was not written by sysVI: choose another folder" in refusal(integrate, tmp_path)


def test_another_format_version_is_refused(integrate, begun, tmp_path):
    path = copied(begun, tmp_path) / "run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format_version": 2}))
    assert "run.json has format version 2, but this version of sysvi reads 1 only" in refusal(integrate, tmp_path)


def test_a_damaged_state_is_refused(integrate, begun, tmp_path):
    path = copied(begun, tmp_path) / "member-1.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    assert f"{path} is damaged (" in refusal(integrate, tmp_path)
    path.unlink()  # as the message says
    assert integrate(members=2, checkpoint=tmp_path).status == "finished"


def test_states_of_another_folder_are_refused(integrate, begun, tmp_path):
    copied(begun, tmp_path)
    (tmp_path / "run.json").unlink()
    assert "is the state of a training of other data or settings" in refusal(integrate, tmp_path, seed=1)


def test_a_folder_in_use_is_refused(integrate, tmp_path):
    from sysvi._core.files import locked_folder

    with locked_folder(tmp_path):
        assert f"Another run is working in the folder {tmp_path}" in refusal(integrate, tmp_path)


def test_a_path_that_is_no_folder_is_refused_before_any_work(integrate, tmp_path):
    (tmp_path / "file").write_text("")
    events = []
    assert "is not a folder" in refusal(integrate, tmp_path / "file", progress=events.append)
    assert not events
    assert "checkpoint is 3; it must be" in refusal(integrate, 3)
