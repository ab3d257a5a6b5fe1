"""Training by several ranks: sums over them are those of one process, whatever part of a minibatch each has."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from ranks import in_ranks
from scipy import sparse

import sysvi.model.cvae
from sysvi._core.ranks import ALONE, Part, Ranks, Share
from sysvi._core.settings import Ramp, TrainSettings
from sysvi.data.cells import Cells, Minibatch
from sysvi.data.row_blocks import read_rows
from sysvi.data.stored import SharedExpression, StoredExpression
from sysvi.kernels import cpu_backend, torch_backend
from sysvi.model.cvae import embed, one_hot
from sysvi.model.networks import Discriminator, TrainingContext
from sysvi.model.objective import Objective, Weights
from sysvi.training.gradient import backpropagate
from sysvi.training.loop import train
from sysvi.training.step import sum_over_ranks

WEIGHTS = Weights(reconstruction=1.3, kl=0.7, cycle=4.0, adversary=2.5, mixture=0.3)
B = 20
PLACES = {  # which rank has which cell of a minibatch; the last rank of the second kind has none
    "in turn": [i % 3 for i in range(B)],
    "one is empty": [int(i in (0, 7, 8, 15)) for i in range(B)],
    "one has a single cell": [2 * int(i == 4) + int(i > 11) * (i != 4) for i in range(B)],
}
every_parts = pytest.mark.parametrize("parts", PLACES)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def part_of(batch, owner, ranks):
    """The part of a minibatch that a rank has."""
    places = torch.tensor(owner).eq(ranks.rank).nonzero()[:, 0]
    weight = None if batch.weight is None else batch.weight[places]
    part = Part(ranks, places, len(batch))
    own = batch.covariates.select(places), batch.swapped_covariates.select(places)
    return Minibatch(batch.x[places], *own, weight, part=part)


def step(objective, batch, weights, ranks):
    """Loss terms, gradients and running statistics of a step."""
    objective = copy.deepcopy(objective)
    context = TrainingContext(generator(7), None, generator(8))
    terms = torch.stack([x.detach() for x in backpropagate(objective, batch, weights, context)])
    if ranks.size > 1:
        terms = sum_over_ranks(ranks, objective.parameters(), terms)
    gradients = {name: p.grad for name, p in objective.named_parameters() if p.grad is not None}
    return {"terms": terms, **gradients, **dict(objective.named_buffers())}


@every_parts
@pytest.mark.parametrize("weighted", [False, True], ids=["unweighted", "weighted"])
@pytest.mark.parametrize(
    "settings",
    [
        {"prior": "vamp", "dropout_rate": 0.3},
        {"prior": "gmm", "mixture": "joint", "embed_categorical_covariates": True},
        {"prior": "standard_normal", "out_var_mode": "sample_feature", "n_layers": 1},
        {"prior": "vamp", "own": True, "dropout_rate": 0.1},
    ],
    ids=["vamp", "gmm", "standard_normal", "own_genes"],
)
def test_the_sum_of_gradients_is_that_of_one_process(make_cells, make_model, monkeypatch, settings, weighted, parts):
    settings = dict(settings)
    own = np.arange(12) != np.array([[3], [5]]) if settings.pop("own", False) else None
    cells = make_cells(weight_systems=weighted, own_genes=own)
    model = make_model(cells, own_genes=own, **settings).double()
    batch = cells.minibatch(torch.arange(B), "resampled", generator(1))
    codes = [replace(c, continuous=c.continuous.double()) for c in (batch.covariates, batch.swapped_covariates)]
    batch = Minibatch(batch.x.double(), *codes, None if batch.weight is None else batch.weight.double())
    monkeypatch.setattr(sysvi.model.cvae, "one_hot", lambda code, n: one_hot(code, n).double())
    objective = Objective(model, Discriminator(3, 8, 2, generator(2)).double())
    expected = step(objective, batch, WEIGHTS, ALONE)
    found = in_ranks(3, lambda ranks: step(objective, part_of(batch, PLACES[parts], ranks), WEIGHTS, ranks))
    assert expected["terms"].isfinite().all()
    assert sum(name.startswith("model.encoder") for name in expected) > 5
    for of_rank in found:
        assert set(of_rank) == set(expected)
        for name, value in expected.items():
            torch.testing.assert_close(
                of_rank[name], value, rtol=1e-8, atol=1e-9, msg=lambda m, name=name: f"{name}: {m}"
            )


@every_parts
@pytest.mark.parametrize("backend", [cpu_backend, torch_backend])
def test_a_layer_of_parts_is_that_of_the_whole(backend, parts):
    rng = generator(3)
    h = 7

    def draw(*shape):
        return torch.empty(shape, dtype=torch.float64).normal_(generator=rng)

    a, c, u, scale, shift, grad = draw(B, h) + 5, draw(B, 3), draw(3, h), draw(h), draw(h), draw(B, h)
    whole = a.clone()
    y, moments = torch_backend.normalise(whole, c, u, scale, shift, 0.4, 11, torch.float64)
    d_a, *d_norm = torch_backend.normalise_backward(grad, y, whole, c, moments, scale, 0.4)

    def run(ranks):
        places = torch.tensor(PLACES[parts]).eq(ranks.rank).nonzero()[:, 0]
        own, part = a[places].clone(), Part(ranks, places, B)
        own_y, own_moments = backend.normalise(own, c[places], u, scale, shift, 0.4, 11, torch.float64, part)
        back = grad[places], own_y, own, c[places], own_moments, scale, 0.4, part
        return places, own_y, own_moments, *backend.normalise_backward(*back)

    found = in_ranks(3, run)
    assert 0.2 < (y == 0).double().mean() < 0.9
    for places, own_y, own_moments, own_d_a, *_ in found:
        torch.testing.assert_close(own_y, y[places])
        torch.testing.assert_close(own_moments, moments)
        torch.testing.assert_close(own_d_a, d_a[places])
    for i, expected in enumerate(d_norm):
        torch.testing.assert_close(sum(result[4 + i] for result in found), expected)


# -- whole trainings --------------------------------------------------------------------------------------------------

SETTINGS = TrainSettings(max_epochs=3, batch_size=25, lr=1e-3, precision="float32")


def shared(cells, ranks, window=None):
    """The cells as one of several ranks has them, in memory or on disk."""
    c = cells.covariates
    share = Share.of(ranks, cells.n_cells)
    if window is not None:
        x = StoredExpression(cells.x, window, share)
    else:
        x = SharedExpression(cells.x[share.rows(cells.n_cells)], cells.n_cells, share) if share else cells.x
    weighted = cells.weight is not None
    values = (c.system.numpy(), c.categorical.numpy(), c.continuous.numpy())
    return Cells(x, *values, n_systems=cells.n_systems, weight_systems=weighted)


def trained(cells, model, settings, stop=None):
    model = copy.deepcopy(model)
    run = train(model, cells, settings, stop=stop or (lambda: False))
    return run, model, embed([model], cells)[0]


@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("window", [None, 50], ids=["memory", "disk"])
@pytest.mark.parametrize(
    ("settings", "model"),
    [
        ({}, {"dropout_rate": 0.2}),
        ({"train_size": 0.7, "early_stopping": True}, {"prior": "gmm"}),
        ({"adversarial_weight": Ramp(0.5), "clip_norm": 1.0}, {"prior": "standard_normal"}),
    ],
    ids=["vamp", "gmm_held_out", "normal_adversary"],
)
def test_ranks_train_as_one_process(make_cells, make_model, size, window, settings, model):
    cells = make_cells(n_cells=90, weight_systems=True)
    model, settings = make_model(cells, **model), replace(SETTINGS, **settings)
    alone, alone_model, (mean, var) = trained(shared(cells, ALONE, window), model, settings)
    for run, rank_model, (rank_mean, rank_var) in in_ranks(
        size, lambda ranks: trained(shared(cells, ranks, window), model, settings)
    ):
        assert run.status == alone.status
        assert set(run.history) == set(alone.history)
        for name, losses in alone.history.items():
            np.testing.assert_allclose(run.history[name], losses, rtol=1e-4, atol=1e-5, err_msg=name)
        for name, value in alone_model.state_dict().items():
            torch.testing.assert_close(rank_model.state_dict()[name], value, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(rank_mean, mean, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(rank_var, var, rtol=1e-3, atol=1e-4)


def test_all_ranks_stop_after_the_same_step_if_one_is_asked_to(make_cells, make_model):
    cells = make_cells(n_cells=90)
    model = make_model(cells)

    def run(ranks):
        asked = iter([False] * 5 + [ranks.rank == 1] * 100)
        return trained(shared(cells, ranks), model, SETTINGS, stop=lambda: next(asked))

    (first, _, (mean, _)), (second, _, (other, _)) = in_ranks(2, run)
    assert first.status == second.status == "interrupted"
    assert first.n_epochs == second.n_epochs == 1  # of four steps; the sixth one is in the second epoch
    torch.testing.assert_close(mean, other, rtol=0, atol=0)


# -- shares of the cells ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [2, 3, 7])
@pytest.mark.parametrize("n", [1, 10, 1000, 100_000])
def test_each_cell_belongs_to_one_rank(n, size):
    shares = [Share.of(Ranks(rank, size), n) for rank in range(size)]
    rows = [share.rows(n) for share in shares]
    np.testing.assert_array_equal(np.sort(np.concatenate(rows)), np.arange(n))
    for share, own in zip(shares, rows, strict=True):
        runs = [np.arange(start, stop) for start, stop in share.runs(n)]
        np.testing.assert_array_equal(np.concatenate([*runs, []]), own)
        if n >= 1000:
            assert abs(len(own) - n / size) <= 512
    assert Share.of(ALONE, n) is None


@pytest.mark.parametrize("window", [None, 50], ids=["memory", "disk"])
def test_a_rank_reads_its_own_cells_alone(make_cells, window):
    cells = make_cells(n_cells=300)

    class Watched:
        """A matrix that notes which rows are read."""

        shape, nnz = cells.x.shape, cells.x.nnz

        def __init__(self):
            self.read = set()

        def __getitem__(self, rows):
            self.read |= set(range(*rows.indices(300)))
            return cells.x[rows]

    def run(ranks):
        watched, c = Watched(), cells.covariates
        share = Share(ranks, 50)  # rows of two blocks are too far apart to be read at once
        own = share.rows(300)
        x = StoredExpression(watched, 50, share) if window else SharedExpression(read_rows(watched, own), 300, share)
        ours = Cells(x, c.system.numpy(), c.categorical.numpy(), c.continuous.numpy(), n_systems=2)
        ours.scan()
        batches = [batch for group in ours.groups(torch.arange(300), 30, generator()) for batch in group]
        for loaded, group in ours.load([batches]):
            for batch in group:
                loaded.minibatch(batch, "resampled", generator())
        any_rows = np.array([7, 3, 299, 120, 3])
        np.testing.assert_array_equal(ours.x[any_rows].toarray(), cells.x[any_rows].toarray())
        return watched.read, set(own.tolist()), ours.scan()

    results = in_ranks(3, run)
    alone = cells.scan()
    for read, own, found in results:
        assert read == own
        np.testing.assert_allclose(found.sums, alone.sums)
        np.testing.assert_array_equal(found.n_detected, alone.n_detected)
        assert (found.smallest, found.largest) == (alone.smallest, alone.largest)


def test_expression_that_is_shared_out_refuses_what_needs_all(make_cells):
    cells = make_cells(n_cells=90)
    with pytest.raises(sysvi.InputError, match="in a single process"):
        in_ranks(2, lambda ranks: shared(cells, ranks).read_genes(np.arange(3)))


def test_a_scan_passes_nan_on(make_cells):
    x = sparse.csr_matrix(np.array([[1.5, 0], [0, np.nan], [2.5, 1], [1, 1]] * 20, np.float32))

    def run(ranks):
        share = Share.of(ranks, 80)
        cells = Cells(SharedExpression(x[share.rows(80)], 80, share), np.arange(80) % 2, n_systems=2)
        return cells.scan()

    for found in in_ranks(2, run):
        assert np.isnan(found.smallest)
        assert np.isnan(found.largest)
