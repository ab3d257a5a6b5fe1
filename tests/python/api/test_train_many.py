import json
import signal
import threading

import numpy as np
import pytest
import torch

import sysvi
from sysvi._core.events import as_json
from sysvi.data.cells import Cells
from sysvi.training.loop import train

DATA = {"categorical_covariate_keys": ["sex"], "continuous_covariate_keys": ["age"]}
SMALL = {"n_hidden": 16, "n_latent": 4, "device": "cpu", "max_epochs": 2, "batch_size": 50, "progress": False} | DATA
PATIENCE = 600  # seconds that a busy machine may take
GRID = {"seeds": [3, 1], "cycle_weights": [0, 4], "kl_weights": [1, 0.5]}
NAMES = [(s, c, k, "vamp") for s in GRID["seeds"] for c in GRID["cycle_weights"] for k in GRID["kl_weights"]]


@pytest.fixture(autouse=True)
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def adata(make_adata):
    return make_adata()


def many(adata, **settings):
    threads = torch.get_num_threads()
    try:
        return sysvi.train_many(adata, "system", "batch", **(SMALL | settings))
    finally:
        assert torch.get_num_threads() == threads  # given back, however it ended


def alone(adata, **settings):
    """The model that integrate gives in one thread, of a copy of the data."""
    torch.set_num_threads(1)
    return sysvi.integrate(adata.copy(), "system", "batch", preset="mixing", members=1, **(SMALL | settings))


def names(runs):
    return [(run.seed, run.cycle_weight, run.kl_weight, run.prior) for run in runs]


def assert_equal(model, other):
    weights, others = model.module.state_dict(), other.module.state_dict()
    assert weights.keys() == others.keys()
    for name, value in weights.items():
        assert torch.equal(value, others[name]), name
    assert model._history == other._history
    assert model.record() == other.record()


# -- the same models --------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("threads", [2, 3])
def test_few_threads_give_the_bits_of_one(adata, threads):
    expected = alone(adata)
    torch.set_num_threads(threads)
    given = adata.copy()
    model = sysvi.integrate(given, "system", "batch", preset="mixing", members=1, **SMALL)
    weights = expected.module.state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in model.module.state_dict().items())
    np.testing.assert_array_equal(given.obsm["X_sysVI"], expected.get_latent_representation())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("prior", "settings"),
    [
        ("vamp", {}),
        ("gmm", {"pseudoinputs": "balanced_system", "weight_systems": True}),
        ("standard_normal", {"out_var_mode": "sample_feature", "adversarial_weight": 1.0}),
        ("vamp", {"early_stopping": True, "patience": 1, "max_epochs": 12, "lr": 0.05}),
    ],
    ids=lambda given: given if isinstance(given, str) else "-".join(given),
)
def test_each_is_the_model_trained_alone_to_the_bit(adata, prior, settings):
    runs = many(adata, **GRID, priors=[prior], **settings)
    assert names(runs) == [(*name[:-1], prior) for name in NAMES]
    for run in runs:
        own = {"seed": run.seed, "cycle_weight": run.cycle_weight, "kl_weight": run.kl_weight}
        assert_equal(run.model, alone(adata, **own, prior=prior, **settings))
        assert run.error is None
        assert run.status == run.model.status
    different = {run.model.module.encoder.head.weight.detach().numpy().tobytes() for run in runs}
    assert len(different) == len(runs)


@pytest.mark.slow
def test_priors_side_by_side(adata):
    """Each the model trained alone to the bit, though all share their cells."""
    priors = ["standard_normal", "vamp", "gmm"]
    runs = many(adata, seeds=[2], cycle_weights=[0, 4], priors=priors)
    assert names(runs) == [(2, c, 1, prior) for c in (0, 4) for prior in priors]
    for run in runs:
        assert_equal(run.model, alone(adata, seed=2, cycle_weight=run.cycle_weight, prior=run.prior))


def test_embeddings_are_those_of_integrate(make_adata):
    """To the bit in one thread, to rounding in two."""
    adata, before = make_adata(), make_adata()
    weight = sysvi.Ramp(3.0, 0.2, 0.4)
    settings = {"max_epochs": 1, "batch_size": 150, "precision": "float32"}
    (run,) = many(adata, seeds=[5], cycle_weights=[weight], **settings)
    assert set(adata.obsm) == set(before.obsm)
    assert set(adata.uns) == {*before.uns, "sysvi_setup"}
    assert (run.seed, run.cycle_weight, run.kl_weight) == (5, 3.0, 1.0)
    rounded = sysvi.integrate(adata, "system", "batch", members=1, seed=5, cycle_weight=weight, **(SMALL | settings))
    same = alone(adata, seed=5, cycle_weight=weight, **settings)
    embedding = run.model.get_latent_representation()
    np.testing.assert_array_equal(embedding, same.get_latent_representation(), strict=True)
    np.testing.assert_allclose(embedding, rounded.get_latent_representation(), rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_all_share_one_copy_of_the_cells(adata, monkeypatch):
    made = []

    class CountedCells(Cells):
        def __init__(self, *args, **kwargs):
            made.append(self)
            super().__init__(*args, **kwargs)

    monkeypatch.setattr("sysvi.data.from_anndata.Cells", CountedCells)
    runs = many(adata, **GRID)
    assert len(made) == 1
    assert all(run.model.cells is made[0] for run in runs)
    assert all(run.model.adata is adata for run in runs)


def test_results_come_in_order_whoever_ends_first(adata, monkeypatch):
    """The first model waits until all others have ended."""
    others = threading.Semaphore(0)

    def slow_first(model, cells, settings, *args):
        if settings.seed == 0:
            for _ in range(3):
                assert others.acquire(timeout=PATIENCE)
        try:
            return train(model, cells, settings, *args)
        finally:
            others.release()

    monkeypatch.setattr("sysvi.api.sysvi.train", slow_first)
    ended = []
    runs = many(adata, seeds=range(4), on_run=ended.append)
    assert [run.seed for run in runs] == [0, 1, 2, 3]
    assert ended[-1] is runs[0]
    assert all(any(run is other for other in ended) for run in runs)


@pytest.mark.slow
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_as_many_train_side_by_side_as_torch_has_threads(adata, monkeypatch, threads):
    """Trainings wait for each other, as many as torch has threads."""
    now, most, lock, together = 0, 0, threading.Lock(), threading.Barrier(threads)

    def counted(*args):
        nonlocal now, most
        assert torch.get_num_threads() == 1
        with lock:
            now += 1
            most = max(most, now)
        try:
            together.wait(PATIENCE)
            return train(*args)
        finally:
            with lock:
                now -= 1

    monkeypatch.setattr("sysvi.api.sysvi.train", counted)
    events = []
    torch.set_num_threads(threads)
    many(adata, seeds=range(6), progress=events.append)
    assert most == threads == events[0].values["at_once"]


# -- events -----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_events_are_those_of_one_training_of_all(adata):
    events, ended, threads = [], [], set()

    def listen(event):
        events.append(event)
        threads.add(threading.current_thread())

    def on_run(run):
        ended.append(run)
        assert sum(event.stage == "model" for event in events) == len(ended) - 1  # it is told of after it is safe
        threads.add(threading.current_thread())

    runs = many(adata, **GRID, progress=listen, on_run=on_run)
    assert threads == {threading.current_thread()}
    assert len(ended) == len(runs) == 8
    plan, *middle, end = events
    assert (plan.stage, end.stage) == ("plan", "end")
    assert {event.stage for event in middle} == {"epoch", "model"}
    assert (plan.values["models"], plan.values["epochs"], plan.values["at_once"]) == (8, 16, 2)
    assert "8 models, 2 at a time" in plan.message
    epochs = [event.values for event in middle if event.stage == "epoch"]
    assert [v["epoch"] for v in epochs] == list(range(1, 17))
    assert {v["epochs"] for v in epochs} == {16}
    assert epochs[-1]["seconds_left"] == 0 < epochs[0]["seconds_left"]
    assert all(v["cells_per_second"] > 0 for v in epochs)
    for i, run in enumerate(runs, 1):
        own = [v for v in epochs if v["model"] == i]
        assert all((v["seed"], v["cycle_weight"], v["kl_weight"], v["prior"]) == NAMES[i - 1] for v in own)
        assert [v["losses"] for v in own] == [
            {name: values[epoch] for name, values in run.model.run.history.items()} for epoch in range(2)
        ]
        (model,) = [event for event in middle if event.stage == "model" and event.values["model"] == i]
        assert model.values["status"] == "finished"
        assert f"Model {i} of 8 (seed {run.seed}, cycle weight {run.cycle_weight:g}, KL" in model.message
    assert end.values.pop("seconds") > 0
    assert end.values == {"status": "finished", "models": 8, "begun": 8, "failed": 0}
    for event in events:
        json.loads(as_json(event))


def test_progress_counts_over_all_models(adata, capsys):
    many(adata, seeds=[0, 1], progress=True)
    out, err = capsys.readouterr()
    assert not out
    assert "Model 2 of 2 (seed 1, cycle weight 30, KL weight 1, prior vamp): finished." in err
    assert "4 of 4 epochs" in err
    assert "2 of 2 models in" in err


def test_an_error_of_the_listener_ends_all(adata):
    def fail(event):
        if event.stage == "epoch":
            raise RuntimeError("of the listener")

    handler, before = signal.getsignal(signal.SIGINT), threading.active_count()
    with pytest.raises(RuntimeError, match="of the listener"):
        many(adata, **GRID, max_epochs=100_000, progress=fail)
    assert signal.getsignal(signal.SIGINT) is handler
    assert threading.active_count() == before


# -- failure ----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_run_that_fails_does_not_end_the_others(adata):
    events = []
    weights = [1.0, 1e38, 2.0]
    runs = many(adata, seeds=[0, 1], kl_weights=weights, lr=0.01, progress=events.append)
    assert [run.status for run in runs] == ["finished", "failed", "finished"] * 2
    for run in runs:
        own = {"seed": run.seed, "kl_weight": run.kl_weight, "lr": 0.01}
        if run.error is None:
            assert_equal(run.model, alone(adata, **own))
        else:
            assert isinstance(run.error, sysvi.NonFiniteLossError)
            assert not run.model.is_trained
            assert all(value.isfinite().all() for value in run.model.module.state_dict().values())
            with pytest.raises(sysvi.NonFiniteLossError) as told:
                alone(adata, **own)
            assert str(run.error) == str(told.value)
    ends = {event.values["model"]: event for event in events if event.stage == "model"}
    assert ends[2].values["status"] == "failed"
    assert "non-finite" in ends[2].message
    assert events[-1].values["failed"] == 2
    assert "4 finished, 2 failed" in events[-1].message


# -- interruption -----------------------------------------------------------------------------------------------------


def raise_interrupt():
    raise KeyboardInterrupt


def press():
    signal.raise_signal(signal.SIGINT)


def press_later():
    """Ctrl-C that comes while the caller waits for events."""
    main = threading.main_thread().ident
    threading.Timer(0.05, signal.pthread_kill, (main, signal.SIGINT)).start()


@pytest.mark.slow
@pytest.mark.parametrize("interrupt", [raise_interrupt, press, press_later])
def test_interrupted_models_are_usable_and_the_rest_is_left_out(adata, interrupt):
    """The first two of eight train together; the interrupt comes when both have begun."""
    events, begun = [], set()

    def listen(event):
        events.append(event)
        if event.stage == "epoch" and len(begun) < 2:
            begun.add(event.values["model"])
            if len(begun) == 2:
                interrupt()

    handler = signal.getsignal(signal.SIGINT)
    runs = many(adata, **GRID, max_epochs=100_000, progress=listen)
    assert signal.getsignal(signal.SIGINT) is handler
    assert names(runs) == NAMES[:2]
    for run in runs:
        assert run.status == run.model.status == "interrupted"
        assert run.error is None
        assert np.isfinite(run.model.get_latent_representation()).all()
    torch.set_num_threads(1)
    for run in runs:
        run.model.train(max_epochs=1, progress=False, device="cpu")  # and can be trained further
        assert run.model.status == "finished"
    values = events[-1].values
    assert [event.stage for event in events[-3:]] == ["model", "model", "end"]
    assert (values["status"], values["begun"], values["models"]) == ("interrupted", 2, 8)
    assert "2 of 8 models in" in events[-1].message


@pytest.mark.slow
def test_finished_models_outlive_an_interrupt(adata):
    """Other models go on until the caller has the event, on a busy machine for longer: so there are many of them."""
    ended = set()

    def stop(run):
        ended.add(run.seed)
        if run.seed <= 2 and {0, 1, 2} <= ended:  # once, at the last of them
            raise_interrupt()

    runs = many(adata, seeds=range(40), max_epochs=20, on_run=stop)
    assert 3 <= len(runs) < 40
    assert [run.seed for run in runs] == list(range(len(runs)))
    assert all(run.status == "finished" for run in runs[:3])
    assert {run.status for run in runs} <= {"finished", "interrupted"}
    for run in [run for run in runs if run.status == "finished"][:4]:
        assert_equal(run.model, alone(adata, seed=run.seed, max_epochs=20))


@pytest.mark.parametrize("interrupt", [raise_interrupt, press])
def test_second_interrupt_raises(adata, interrupt):
    def twice(event):
        if event.stage in ("epoch", "model"):  # the epoch of one model, then the end of another
            interrupt()

    handler, before = signal.getsignal(signal.SIGINT), threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        many(adata, **GRID, max_epochs=100_000, progress=twice)
    assert signal.getsignal(signal.SIGINT) is handler
    assert threading.active_count() == before


def test_works_outside_the_main_thread(adata):
    results = []
    thread = threading.Thread(target=lambda: results.append(many(adata, seeds=[0, 1])))
    thread.start()
    thread.join()
    assert [run.status for run in results[0]] == ["finished", "finished"]


# -- input that cannot be used ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"seeds": 3}, r"seeds is 3; give a list: seeds=\[3\]"),
        ({"seeds": []}, "seeds is .*at least one"),
        ({"seeds": [1, 2, 1]}, "seeds is .*twice"),
        ({"seeds": [-1]}, "seed is -1"),
        ({"seeds": "12"}, "seeds is '12'"),
        ({"cycle_weights": 5.0}, "cycle_weights is 5.0; give a list"),
        ({"cycle_weights": sysvi.Ramp(5.0)}, "cycle_weights is Ramp.*give a list"),
        ({"cycle_weights": [1, "2"]}, "cycle_weight is '2'"),
        ({"cycle_weights": [1, 1.0]}, "twice"),
        ({"kl_weights": [float("nan")]}, "kl_weight is nan"),
        ({"seed": 1}, r"no setting seed: give a list, seeds=\[1\]"),
        ({"cycle_weight": 1}, r"no setting cycle_weight: give a list, cycle_weights=\[1\]"),
        ({"kl_weight": 2}, r"kl_weights=\[2\]"),
        ({"prior": "gmm"}, r"no setting prior: give a list, priors=\['gmm'\]"),
        ({"priors": "gmm"}, r"priors is 'gmm'; give a list: priors=\['gmm'\]"),
        ({"priors": ["gmm", "gmm"]}, "priors is .*twice"),
        ({"priors": ["normal"]}, "prior is 'normal'; it must be one of vamp, gmm, standard_normal"),
        ({"speed": 1}, "train_many has no setting speed; settings are"),
        ({"key_added": "X"}, "no setting key_added"),
        ({"n_latent": 0}, "n_latent"),
        ({"lr": -1}, "lr is -1"),
        ({"early_stopping": True, "train_size": 0.999}, "holds none out"),
        ({"device": "abacus"}, "device"),
        ({"layer": "none"}, "layer"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_bad_settings_are_told_before_any_training(adata, settings, message):
    events = []
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(sysvi.InputError, match=message):
        many(adata, **({"progress": events.append} | settings))
    assert not events
    assert signal.getsignal(signal.SIGINT) is handler
