"""Embedding all cells: block by block, the next block cut while the model works with the one before."""

import threading
from collections import deque
from contextlib import closing

import numpy as np
import oracle
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import sysvi.kernels
from sysvi.cells import one_ahead
from sysvi.expression import Sparse

WAIT = 10  # seconds, for a thread that should long be there

# -- one_ahead --------------------------------------------------------------------------------------------------------


@given(st.lists(st.integers()))
def test_one_ahead_is_map(items):
    assert list(one_ahead(lambda x: [x], iter(items))) == [[x] for x in items]


def test_the_next_is_made_while_the_caller_works():
    started = [threading.Event() for _ in range(3)]

    def make(i):
        started[i].set()
        return i

    for i in one_ahead(make, range(3)):
        if i < 2:
            assert started[i + 1].wait(WAIT)  # without an ask for it


def test_no_more_than_one_is_made_ahead_and_in_another_thread():
    made, threads = [], set()

    def make(i):
        made.append(i)
        threads.add(threading.get_ident())
        return i

    for i in one_ahead(make, range(6)):
        threading.Event().wait(0.02)  # time to run further ahead, were it so
        assert len(made) <= i + 2
    assert made == list(range(6))  # one after another
    assert len(threads) == 1
    assert threading.get_ident() not in threads


def test_an_error_comes_at_its_place_and_ends_the_work():
    def make(i):
        if i == 2:
            raise ValueError("two")
        return i

    ahead = one_ahead(make, range(9))
    assert [next(ahead), next(ahead)] == [0, 1]
    with pytest.raises(ValueError, match="two"):
        next(ahead)
    assert list(ahead) == []


def test_an_error_of_the_items_is_raised():
    def items():
        yield 1
        raise KeyError("items")

    with pytest.raises(KeyError, match="items"):
        deque(one_ahead(str, items()))


def test_leaving_early_ends_the_thread_and_makes_nothing_more():
    made, before = [], threading.active_count()
    with closing(one_ahead(lambda i: made.append(i), range(100))) as ahead:
        next(ahead)
        next(ahead)
    assert made in ([0, 1], [0, 1, 2])
    assert threading.active_count() == before


# -- Model.embed ------------------------------------------------------------------------------------------------------

N = 30
few = settings(max_examples=25, deadline=None)


@pytest.fixture(params=["sparse", "dense"])
def expression(request, monkeypatch):
    """How the encoder gets expression: whatever its density, as stored values, or dense."""
    monkeypatch.setattr(sysvi.kernels, "DENSEST", 1.0 if request.param == "sparse" else -1.0)
    return request.param


@pytest.fixture(scope="module")
def case(make_cells, make_model):
    """Cells (one of them without expression, one gene too), a model, and the embedding of each cell by the oracle."""
    cells = make_cells(N)
    cells.x = (
        cells.x.multiply((np.arange(N) != 4)[:, None] & (np.arange(cells.n_genes) != 7)).tocsr().astype(np.float32)
    )
    cells.x.eliminate_zeros()
    model = make_model(cells, n_layers=3, dropout_rate=0.3)
    p = oracle.arrays(model.state_dict())
    c = oracle.covariate_code(p, as_arrays(cells.covariates), 2, model.code.n_categories)
    mean, var = oracle.encode(p, cells.x.toarray().astype(np.float64), c, training=False)
    return cells, model, mean, var


def as_arrays(covariates):
    return type(covariates)(*(t.numpy() for t in vars(covariates).values()))


def assert_embedded(ours, mean, var):
    for tensor, expected in zip(ours, (mean, var), strict=True):
        assert (tensor.dtype, tensor.device.type, tensor.requires_grad) == (torch.float32, "cpu", False)
        np.testing.assert_allclose(tensor.numpy(), expected, rtol=2e-5, atol=2e-6)


def test_embedding_is_the_oracles(expression, case):
    cells, model, mean, var = case
    assert_embedded(model.embed(cells), mean, var)


def test_the_encoder_gets_what_was_chosen(expression, case, monkeypatch):
    cells, model, *_ = case
    kinds = []
    monkeypatch.setattr(model.encoder, "forward", lambda x, c: kinds.append(type(x)) or torch.zeros(2, len(x), 3))
    model.embed(cells, batch_size=20)
    assert kinds == [Sparse if expression == "sparse" else torch.Tensor] * 2


@few
@given(rows=st.lists(st.integers(0, N - 1), min_size=1, max_size=70), batch_size=st.integers(1, 80))
@pytest.mark.parametrize("dense", [False, True], ids=["sparse", "dense"])
def test_any_rows_in_any_order_by_any_batch_size(case, dense, rows, batch_size):
    cells, model, mean, var = case
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sysvi.kernels, "DENSEST", -1.0 if dense else 1.0)
        assert_embedded(model.embed(cells, torch.tensor(rows), batch_size), mean[rows], var[rows])


def test_each_cell_alone_is_the_encoder_of_its_dense_expression(expression, case):
    cells, model, *_ = case
    ours = model.embed(cells, batch_size=7)
    with torch.no_grad():
        for i in range(N):
            row = torch.tensor([i])
            alone = model.encoder(cells.dense(row), model.code(cells.covariates.at(row)))
            for both, one in zip(ours, alone, strict=True):
                torch.testing.assert_close(both[i], one[0], rtol=1e-5, atol=1e-6)


def test_embedding_of_no_cells_is_empty(expression, case):
    cells, model, *_ = case
    mean, var = model.embed(cells, torch.empty(0, dtype=torch.int64))
    assert mean.shape == var.shape == (0, 3)


def test_embedding_leaves_model_and_cells_alone(expression, case):
    cells, model, *_ = case
    before, x = {k: v.clone() for k, v in model.state_dict().items()}, cells.x.copy()
    first, second = (torch.cat(model.embed(cells, batch_size=8)) for _ in range(2))
    assert torch.equal(first, second)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    np.testing.assert_array_equal(cells.x.toarray(), x.toarray())
