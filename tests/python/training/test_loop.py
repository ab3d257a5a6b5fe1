import contextlib
import copy
import signal
import threading

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

import sysvi
from sysvi._core.seeds import generator
from sysvi._core.settings import ModelSettings, Ramp, TrainSettings
from sysvi.data.cells import Cells
from sysvi.data.columns import Columns
from sysvi.data.from_anndata import cells_from_anndata, read_vocabulary
from sysvi.model.cvae import Model
from sysvi.model.objective import Objective, Weights
from sysvi.training.loop import TERMS, NonFiniteLossError, split_cells, train
from sysvi.training.optimiser import Adam
from sysvi.training.step import learning_rate

SHORT = {"max_epochs": 3, "batch_size": 10}


def finite(model):
    return all(value.isfinite().all() for value in model.state_dict().values())


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.values(), b.values(), strict=True))


def fit(make_cells, make_model, on_event=lambda event: None, *, model=None, **train_settings):
    """Train a small model: model, cells, run."""
    cells = make_cells()
    model = make_model(cells, dropout_rate=0.1, **(model or {}))
    return model, cells, train(model, cells, TrainSettings(**{**SHORT, **train_settings}), on_event)


# -- learning ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_losses_go_down_on_simulated_data():
    counts = sysvi.datasets.simulate_systems(400, 200, seed=1)
    adata = sysvi.prepare(counts, system_key="system", batch_key="batch", min_cells=3)
    columns = Columns("system", "batch")
    vocabulary = read_vocabulary(adata, columns)
    cells = cells_from_anndata(adata, columns, vocabulary)
    s = ModelSettings(n_hidden=64, n_latent=10)
    model = Model(s, cells.n_genes, cells.n_systems, vocabulary.n_categories, 0, generator(0, "weights"))
    model.init_prior(cells, torch.arange(s.n_prior_components), generator(0, "prior"))
    run = train(model, cells, TrainSettings(max_epochs=40, batch_size=64, cycle_weight=Ramp(5.0), train_size=0.8))
    spread = 0.5 * cells.dense(torch.arange(cells.n_cells)).var(0).sum().item()
    for kind in ("train", "validation"):
        total, reconstruction, cycle = (
            np.array(run.history[f"{term}_{kind}"]) for term in ("total", "reconstruction", "cycle")
        )
        for term in (total, reconstruction, cycle):
            assert term[-5:].mean() < 0.9 * term[:5].mean()
        # at unit variance, guessing each gene's mean costs half its variance: the model must do better
        assert reconstruction[-1] < spread + 0.5 * np.log(2 * np.pi) * cells.n_genes
    embedding, variance = model.embed(cells)
    assert embedding.isfinite().all()
    assert (variance > 0).all()
    labels = adata.obs["cell_type"].astype(str).to_numpy()
    near = torch.cdist(embedding, embedding).fill_diagonal_(torch.inf).argmin(1).numpy()
    chance = np.square(np.unique(labels, return_counts=True)[1] / len(labels)).sum()
    assert (labels[near] == labels).mean() > chance + 5 * (chance * (1 - chance) / len(labels)) ** 0.5


FAMILY = [
    pytest.param(prior, cycle, adversary, variance, id=f"{prior}-cycle{cycle}-adversary{adversary}-{variance}")
    for prior in ("standard_normal", "vamp", "gmm")
    for cycle in (0, 5)
    for adversary in (0, 1)
    for variance in ("feature", "sample_feature")
]


@pytest.mark.slow
@pytest.mark.parametrize("embed", [False, True], ids=["one_hot", "embedded"])
@pytest.mark.parametrize("mixture", ["joint", "dimension"])
@pytest.mark.parametrize(("prior", "cycle", "adversary", "variance"), FAMILY)
def test_every_member_of_the_family_trains(make_cells, make_model, prior, cycle, adversary, variance, mixture, embed):
    cells = make_cells(n_systems=3, weight_systems=embed)
    model = make_model(
        cells, prior=prior, out_var_mode=variance, mixture=mixture, embed_categorical_covariates=embed, dropout_rate=0.1
    )
    before = copy.deepcopy(model.state_dict())
    run = train(
        model,
        cells,
        TrainSettings(max_epochs=2, batch_size=16, cycle_weight=Ramp(cycle), adversarial_weight=adversary),
    )
    assert run.status == "finished"
    assert set(run.history) == {f"{term}_train" for term in TERMS}
    assert all(len(values) == 2 and np.isfinite(values).all() for values in run.history.values())
    assert (run.history["cycle_train"][0] > 0) == (cycle > 0)
    assert (run.history["adversary_train"][0] > 0) == (adversary > 0)
    assert finite(model)
    for name, parameter in model.named_parameters():
        assert not torch.equal(parameter, before[name]), name


@pytest.mark.parametrize("prior", ["vamp", "gmm"])
def test_frozen_prior_stays(make_cells, make_model, prior):
    cells = make_cells()
    model = make_model(cells, prior=prior, trainable_priors=False)
    before = copy.deepcopy(model.prior.state_dict())
    train(model, cells, TrainSettings(**SHORT))
    assert same(model.prior.state_dict(), before)


@pytest.mark.parametrize(("n", "batch_size"), [(31, 10), (11, 10), (21, 20), (3, 2), (2, 256)])
def test_no_rest_of_cells_is_too_small(make_cells, make_model, n, batch_size):
    cells = make_cells(n)
    model = make_model(cells, n_prior_components=2)
    assert train(model, cells, TrainSettings(max_epochs=2, batch_size=batch_size)).status == "finished"
    assert finite(model)


# -- randomness -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("swapped", ["resampled", "observed", "zero"])
def test_same_seed_same_bits(make_cells, make_model, swapped):
    first, second, other = (
        fit(make_cells, make_model, seed=seed, swapped_covariates=swapped, train_size=0.8) for seed in (1, 1, 2)
    )
    assert same(first[0].state_dict(), second[0].state_dict())
    assert first[2].history == second[2].history
    assert not same(first[0].state_dict(), other[0].state_dict())
    assert not torch.equal(first[2].validation_index, other[2].validation_index)


def test_global_random_state_is_neither_read_nor_moved(make_cells, make_model):
    torch.manual_seed(1)
    np.random.seed(1)  # noqa: NPY002 (the global state is the point)
    before = torch.random.get_rng_state(), np.random.get_state()  # noqa: NPY002
    first, *_ = fit(make_cells, make_model, adversarial_weight=1.0, train_size=0.8)
    assert torch.equal(torch.random.get_rng_state(), before[0])
    assert all(np.array_equal(a, b) for a, b in zip(np.random.get_state(), before[1], strict=True))  # noqa: NPY002
    torch.manual_seed(2)
    np.random.seed(2)  # noqa: NPY002
    second, *_ = fit(make_cells, make_model, adversarial_weight=1.0, train_size=0.8)
    assert same(first.state_dict(), second.state_dict())


# -- events -----------------------------------------------------------------------------------------------------------


def test_events_tell_the_plan_each_epoch_and_the_end(make_cells, make_model):
    events = []
    _, cells, run = fit(make_cells, make_model, events.append, train_size=0.8)
    assert [event.stage for event in events] == ["plan", "epoch", "epoch", "epoch", "end"]
    plan, *epochs, end = events
    assert plan.message
    assert plan.values.pop("expected_seconds") > 0
    assert plan.values.pop("device")
    assert plan.values.pop("kernels") == run.kernels.as_dict()
    assert plan.values == {
        "cells": 24,
        "genes": cells.n_genes,
        "systems": 2,
        "epochs": 3,
        "batch_size": 10,
        "steps_per_epoch": 3,
        "lr": run.settings.lr,
    }
    for i, epoch in enumerate(epochs):
        assert (epoch.values["epoch"], epoch.values["epochs"]) == (i + 1, 3)
        assert epoch.values["losses"] == {name: values[i] for name, values in run.history.items()}
        assert set(epoch.values["losses"]) == {f"{term}_{kind}" for term in TERMS for kind in ("train", "validation")}
        assert epoch.values["cells_per_second"] > 0
        assert (epoch.values["seconds_left"] > 0) == (i < 2)
    assert (end.values["status"], end.values["epochs"]) == (run.status, 3) == ("finished", 3)
    assert end.values["seconds"] == run.seconds > 0
    assert end.values["cells_per_second"] == run.cells_per_second == pytest.approx(3 * 24 / run.seconds)


def test_history_adds_up(make_cells, make_model):
    """The total of an epoch is the weighted sum of its terms while the weights are constant."""
    weights = {"reconstruction_weight": 0.5, "kl_weight": 2.0, "cycle_weight": Ramp(3.0), "adversarial_weight": 4.0}
    history = fit(make_cells, make_model, **weights, train_size=0.8)[2].history
    for kind in ("train", "validation"):
        terms = {term: np.array(history[f"{term}_{kind}"]) for term in TERMS}
        total = 0.5 * terms["reconstruction"] + 2 * terms["kl"] + 3 * terms["cycle"] + 4 * terms["adversary"]
        np.testing.assert_allclose(terms["total"], total + terms["discriminator"], rtol=1e-5)


# -- interruption -----------------------------------------------------------------------------------------------------


def raising(epoch):
    """An on_event that raises KeyboardInterrupt after `epoch`."""

    def on_event(event):
        if event.stage == "epoch" and event.values["epoch"] == epoch:
            raise KeyboardInterrupt

    return on_event


def pressing(epoch):
    """An on_event that presses Ctrl-C after `epoch`."""

    def on_event(event):
        if event.stage == "epoch" and event.values["epoch"] == epoch:
            signal.raise_signal(signal.SIGINT)

    return on_event


@pytest.mark.slow
@pytest.mark.parametrize("interrupt", [raising, pressing])
@pytest.mark.parametrize("train_size", [1.0, 0.8])
def test_interrupted_training_leaves_a_usable_model(make_cells, make_model, interrupt, train_size):
    stages = []
    on_event = interrupt(2)

    def listen(event):
        stages.append(event.stage)
        on_event(event)

    handler = signal.getsignal(signal.SIGINT)
    model, cells, run = fit(make_cells, make_model, listen, max_epochs=50, train_size=train_size)
    assert run.status == "interrupted"
    assert len(run.history["total_train"]) == 2
    assert stages == ["plan", "epoch", "epoch", "end"]
    assert finite(model)
    assert model.embed(cells)[0].isfinite().all()
    assert signal.getsignal(signal.SIGINT) is handler
    assert train(model, cells, TrainSettings(**SHORT)).status == "finished"  # and can be trained further


def test_second_ctrl_c_interrupts_at_once_and_restores_the_handler(make_cells, make_model):
    def twice(event):
        if event.stage == "epoch":
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
            pytest.fail("the second Ctrl-C did not interrupt")

    handler = signal.getsignal(signal.SIGINT)
    assert fit(make_cells, make_model, twice, max_epochs=50)[2].status == "interrupted"
    assert signal.getsignal(signal.SIGINT) is handler


def test_handler_is_restored_after_an_error(make_cells, make_model):
    def fail(event):
        if event.stage == "epoch":
            raise RuntimeError("of the listener")

    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(RuntimeError, match="of the listener"):
        fit(make_cells, make_model, fail)
    assert signal.getsignal(signal.SIGINT) is handler


def test_training_works_outside_the_main_thread(make_cells, make_model):
    runs = []
    thread = threading.Thread(target=lambda: runs.append(fit(make_cells, make_model)[2]))
    thread.start()
    thread.join()
    assert runs[0].status == "finished"


# -- losses that are not finite ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("train_size", [1.0, 0.8])
def test_poisoned_weights_are_replaced_by_the_last_good_ones(make_cells, make_model, train_size):
    cells = make_cells()
    model = make_model(cells)
    after = {}

    def poison(event):
        if event.stage == "epoch":
            after[event.values["epoch"]] = copy.deepcopy(model.state_dict())
            if event.values["epoch"] == 2:
                with torch.no_grad():
                    model.likelihood.head.weight[0, 0] = torch.nan

    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(NonFiniteLossError, match=r"epoch 3.*reconstruction"):
        train(model, cells, TrainSettings(max_epochs=9, batch_size=10, train_size=train_size), poison)
    assert list(after) == [1, 2]
    assert same(model.state_dict(), after[2])
    assert signal.getsignal(signal.SIGINT) is handler


def loss_at(model, cells):
    """Mean validation loss of the model as it is."""
    batch = cells.minibatch(torch.arange(cells.n_cells), "zero", generator(0, "check"))
    return Objective(model)(batch, Weights(1.0, 1.0, 1.0, 0.0), None).total


@pytest.mark.parametrize("batch_size", [10, 30], ids=["several_steps", "one_step"])
def test_exploding_training_leaves_a_usable_model(make_cells, make_model, batch_size):
    """The step that ruins the weights may be the last of an epoch, whose losses were still finite."""
    cells = make_cells()
    model = make_model(cells)
    with pytest.raises(NonFiniteLossError, match="learning rate"):
        train(model, cells, TrainSettings(max_epochs=9, batch_size=batch_size, lr=1e30))
    assert finite(model)
    assert model.embed(cells)[0].isfinite().all()
    assert loss_at(model, cells).isfinite()


def test_a_last_step_that_ruins_the_weights_is_noticed(make_cells, make_model):
    cells = make_cells()
    model = make_model(cells)
    with pytest.raises(NonFiniteLossError):
        train(model, cells, TrainSettings(max_epochs=1, batch_size=30, lr=1e30))
    assert loss_at(model, cells).isfinite()


# -- held-out cells ---------------------------------------------------------------------------------------------------


@given(st.integers(2, 200), st.floats(0.01, 1), st.integers(0, 10))
def test_split_is_disjoint_and_complete(n, train_size, seed):
    s = TrainSettings(train_size=train_size, seed=seed)
    training, held_out = split_cells(n, s)
    assert torch.equal(torch.cat([training, held_out]).sort().values, torch.arange(n))
    assert len(training) == max(2, round(train_size * n))
    assert all(torch.equal(a, b) for a, b in zip(split_cells(n, s), (training, held_out), strict=True))
    for part in (training, held_out):
        assert torch.equal(part, part.sort().values)


def test_held_out_cells_do_not_touch_the_weights(make_cells, make_model):
    """Other expression in the held-out cells: the same model, another validation loss."""
    results = []
    for change in (False, True):
        cells = make_cells()
        model = make_model(cells)
        s = TrainSettings(**SHORT, train_size=0.8)
        if change:
            for row in split_cells(cells.n_cells, s)[1]:
                cells.x.data[cells.x.indptr[row] : cells.x.indptr[row + 1]] += 1
        results.append((model, train(model, cells, s)))
    (model, run), (changed_model, changed_run) = results
    assert same(model.state_dict(), changed_model.state_dict())
    assert run.history["total_train"] == changed_run.history["total_train"]
    assert run.history["total_validation"] != changed_run.history["total_validation"]


@pytest.mark.slow
def test_early_stopping_stops_and_restores_the_best_epoch(make_cells, make_model):
    """A dozen training cells, mostly noise, and a high learning rate: held-out cells soon get worse."""
    cells = make_cells(60)
    model = make_model(cells)
    after = []

    def keep(event):
        if event.stage == "epoch":
            after.append(copy.deepcopy(model.state_dict()))

    constant = {"cycle_weight": Ramp(0.0), "mixture_share": Ramp(1.0)}
    s = TrainSettings(
        max_epochs=300, batch_size=10, lr=0.03, train_size=0.2, early_stopping=True, patience=7, **constant
    )
    run = train(model, cells, s, keep)
    losses = run.history["total_validation"]
    best = int(np.argmin(losses))
    assert run.status == "stopped_early"
    assert len(losses) == len(after) == best + 1 + 7 < 300
    assert same(model.state_dict(), after[best])
    assert not same(model.state_dict(), after[-1])


@pytest.mark.parametrize("ramp", ["cycle_weight", "mixture_share"])
def test_early_stopping_waits_for_the_ramps(make_cells, make_model, ramp):
    """While weights change, losses are of different things: only epochs with the final weights compete."""
    s = {"train_size": 0.5, "early_stopping": True, "patience": 1, "lr": 0.1, "max_epochs": 20}
    ramps = {"cycle_weight": Ramp(0.0), "mixture_share": Ramp(1.0)} | {ramp: Ramp(1.0, 0.1, 0.6)}
    run = fit(make_cells, make_model, **ramps, **s)[2]
    assert len(run.history["total_validation"]) >= 0.6 * 20


@pytest.mark.parametrize("prior", ["vamp", "gmm"])
def test_a_mixture_without_a_share_is_the_standard_normal(make_cells, make_model, prior):
    """But for rounding; and from half of training on it is another model."""
    cells = make_cells()

    def weights(prior, share):
        model = make_model(cells, prior=prior)
        train(model, cells, TrainSettings(max_epochs=2, batch_size=16, mixture_share=share))
        return {name: value for name, value in model.state_dict().items() if not name.startswith("prior.")}

    normal = weights("standard_normal", Ramp(1.0))
    near = {"rtol": 1e-4, "atol": 1e-5}
    torch.testing.assert_close(weights(prior, Ramp(0.0)), normal, **near)
    with pytest.raises(AssertionError, match="not close"):
        torch.testing.assert_close(weights(prior, Ramp(1.0, 0.5, 0.5)), normal, **near)


@pytest.mark.parametrize("train_size", [0.97, 0.99])
def test_early_stopping_of_few_cells_works_or_says_why_not(make_cells, make_model, train_size):
    """30 cells times 0.99 round to 30: none would be held out."""
    with contextlib.suppress(sysvi.InputError):
        run = fit(make_cells, make_model, train_size=train_size, early_stopping=True, cycle_weight=Ramp(0.0))[2]
        assert len(run.validation_index)


# -- learning rate ----------------------------------------------------------------------------------------------------


@given(st.floats(1e-6, 1), st.floats(0, 1, exclude_max=True))
def test_learning_rate_stays_in_bounds(lr, progress):
    assert learning_rate(TrainSettings(lr=lr), progress) == lr
    cosine = learning_rate(TrainSettings(lr=lr, lr_schedule="cosine"), progress)
    assert 0.01 * lr * (1 - 1e-9) <= cosine <= lr * (1 + 1e-9)


def test_cosine_rises_shortly_and_falls_to_a_hundredth():
    s = TrainSettings(lr=1.0, lr_schedule="cosine")
    rates = np.array([learning_rate(s, p) for p in np.linspace(0, 1, 1001)])
    top = rates.argmax()
    assert (np.diff(rates[: top + 1]) > 0).all()
    assert (np.diff(rates[top:]) < 0).all()
    assert 0 < top < 100
    assert rates[[0, top, -1]] == pytest.approx([0.1, 1, 0.01], rel=1e-6)
    assert np.abs(np.diff(rates)).max() < 0.03  # no jumps


def test_optimiser_follows_the_schedule(make_cells, make_model, monkeypatch):
    """Each step is taken at the learning rate of its moment."""
    seen = []
    step = Adam.step

    def spy(self, lr, *how):
        seen.append(lr)
        step(self, lr, *how)

    monkeypatch.setattr(Adam, "step", spy)
    run = fit(make_cells, make_model, lr_schedule="cosine", max_epochs=4)[2]
    expected = [learning_rate(run.settings, i / 12) for i in range(12)]
    assert seen[-12:] == expected  # the first are the timing's


# -- what must not matter ---------------------------------------------------------------------------------------------

few = settings(max_examples=15, deadline=None)


def embedding(model, cells, batch_size=4096):
    return torch.cat(model.embed(cells, batch_size=batch_size), 1)


@few
@given(st.permutations(range(30)), st.integers(1, 40))
def test_order_of_cells_does_not_change_the_embedding(make_cells, make_model, order, batch_size):
    cells = make_cells()
    model = make_model(cells)
    order = torch.tensor(order)
    expected = embedding(model, cells)
    torch.testing.assert_close(torch.cat(model.embed(cells, order, batch_size), 1), expected[order])
    c = cells.covariates.select(order)
    reordered = Cells(
        sparse.csr_matrix(cells.dense(order).numpy()), c.system.numpy(), c.categorical.numpy(), c.continuous.numpy(),
        n_systems=2,
    )  # fmt: skip
    torch.testing.assert_close(embedding(model, reordered, batch_size), expected[order])


@few
@given(st.integers(0, 12))
def test_a_silent_gene_without_weights_does_not_change_the_embedding(make_cells, make_model, place):
    cells = make_cells()
    model = make_model(cells)
    x = cells.dense(torch.arange(30)).numpy()
    c = cells.covariates
    more = Cells(
        sparse.csr_matrix(np.insert(x, place, 0, axis=1)),
        c.system.numpy(),
        c.categorical.numpy(),
        c.continuous.numpy(),
        n_systems=2,
    )
    wider = Model(model.settings, 13, 2, model.code.n_categories, 1, generator(1, "other"))
    state = {}
    for name, value in model.state_dict().items():
        shape = wider.state_dict()[name].shape
        axis = [i for i, (a, b) in enumerate(zip(shape, value.shape, strict=True)) if a != b]
        state[name] = torch.from_numpy(np.insert(value.numpy(), place, 0, axis=axis[0])) if axis else value
    wider.load_state_dict(state)
    torch.testing.assert_close(embedding(wider, more), embedding(model, cells))


@few
@given(st.permutations(range(2)), st.permutations(range(4)), st.permutations(range(2)))
def test_names_of_categories_do_not_change_the_embedding(make_cells, make_model, systems, batches, sexes):
    """Codes permuted, and the columns of the covariate weights with them."""
    cells = make_cells()
    model = make_model(cells)
    c = cells.covariates
    new_codes = [np.argsort(order) for order in (systems, batches, sexes)]  # code `order[j]` becomes j
    renamed = Cells(
        sparse.csr_matrix(cells.dense(torch.arange(30)).numpy()),
        new_codes[0][c.system],
        np.stack([new_codes[1][c.categorical[:, 0]], new_codes[2][c.categorical[:, 1]]], 1),
        c.continuous.numpy(),
        n_systems=2,
    )
    columns = torch.tensor([*systems, *(2 + j for j in batches), *(6 + j for j in sexes), 8])
    renamed_model = copy.deepcopy(model)
    with torch.no_grad():
        for name, parameter in renamed_model.named_parameters():
            if name.endswith("cov_weight"):
                parameter.copy_(parameter[columns].clone())
            elif name == "prior.c":
                parameter.copy_(parameter[:, columns].clone())
    torch.testing.assert_close(embedding(renamed_model, renamed), embedding(model, cells))
    if systems != sorted(systems):
        assert not torch.allclose(embedding(model, renamed), embedding(model, cells))
