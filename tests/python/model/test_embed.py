"""Embedding all cells: block by block, in as many threads as torch has, with the running statistics in the weights."""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import oracle
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import sysvi.kernels.plan
from sysvi._core.parallel import restore_thread_count
from sysvi.kernels.sparse import SparseExpression

N = 30
few = settings(max_examples=25, deadline=None)


@pytest.fixture(params=["sparse", "dense"])
def expression(request, monkeypatch):
    """How the encoder gets expression: whatever its density, as stored values, or dense."""
    monkeypatch.setattr(sysvi.kernels.plan, "MAX_SPARSE_DENSITY", 1.0 if request.param == "sparse" else -1.0)
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

    def encode(x, c):
        kinds.append(type(x))
        return torch.zeros(2, len(x), 3)

    monkeypatch.setattr(model.encoder, "fold_batchnorm", lambda: encode)
    model.embed(cells, batch_size=20)
    assert kinds == [SparseExpression if expression == "sparse" else torch.Tensor] * 2


@few
@given(rows=st.lists(st.integers(0, N - 1), min_size=1, max_size=70), batch_size=st.integers(1, 80))
@pytest.mark.parametrize("dense", [False, True], ids=["sparse", "dense"])
def test_any_rows_in_any_order_by_any_batch_size(case, dense, rows, batch_size):
    cells, model, mean, var = case
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sysvi.kernels.plan, "MAX_SPARSE_DENSITY", -1.0 if dense else 1.0)
        assert_embedded(model.embed(cells, torch.tensor(rows), batch_size), mean[rows], var[rows])


def test_each_cell_alone_is_the_encoder_of_its_dense_expression(expression, case):
    cells, model, *_ = case
    ours = model.embed(cells, batch_size=7)
    with torch.no_grad():
        for i in range(N):
            row = torch.tensor([i])
            alone = model.encoder(cells.dense(row), model.code(cells.covariates.select(row)))
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


def test_the_same_bits_in_any_number_of_threads(expression, case):
    cells, model, *_ = case
    with restore_thread_count():
        torch.set_num_threads(1)
        alone = model.embed(cells, batch_size=4)
        torch.set_num_threads(3)
        together = model.embed(cells, batch_size=4)
        assert torch.get_num_threads() == 3
    assert all(torch.equal(a, b) for a, b in zip(alone, together, strict=True))


def test_an_error_ends_it_and_leaves_no_thread(case, monkeypatch):
    """Blocks after the one that fails wait until the blocks that have not begun are cancelled."""
    cells, model, *_ = case
    begun, before, get, cancelled = [], threading.active_count(), cells.expression, threading.Event()
    shut_down = ThreadPoolExecutor.shutdown

    def expression(rows, sparse):
        begun.append(int(rows[0]))
        if begun[-1] == 3:
            raise MemoryError("no more")
        if begun[-1] > 3:
            cancelled.wait(20)
        return get(rows, sparse=sparse)

    def cancel(pool, wait=True, *, cancel_futures=False):
        shut_down(pool, wait=False, cancel_futures=cancel_futures)
        cancelled.set()
        shut_down(pool, wait=wait)

    monkeypatch.setattr(ThreadPoolExecutor, "shutdown", cancel)
    monkeypatch.setattr(cells, "expression", expression)
    with pytest.raises(MemoryError, match="no more"):
        model.embed(cells, batch_size=1)
    assert len(begun) < N  # the rest was not begun
    assert threading.active_count() == before


def test_weights_are_folded_anew(case):
    cells, model, *_ = case
    before = model.embed(cells)[0]
    with torch.no_grad():
        model.encoder.layers[0].running_mean += 1
    after = model.embed(cells)[0]
    with torch.no_grad():
        model.encoder.layers[0].running_mean -= 1
    assert not torch.allclose(before, after)
