import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse, stats

from sysvi._core.errors import InputError
from sysvi.data.cells import Cells, minibatches, n_minibatches


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@st.composite
def matrices(draw):
    """A random CSR matrix, often with empty rows, and an order of its rows with repeats."""
    n, g = draw(st.integers(1, 12)), draw(st.integers(1, 8))
    density, seed = draw(st.sampled_from([0.0, 0.1, 0.5, 1.0])), draw(st.integers(0, 2**32 - 1))
    x = sparse.random(n, g, density, format="csr", dtype=np.float32, random_state=np.random.default_rng(seed))
    return x, draw(st.lists(st.integers(0, n - 1), min_size=1, max_size=30))


@given(matrices())
def test_dense_equals_scipy(case):
    x, rows = case
    cells = Cells(x, np.zeros(x.shape[0]), n_systems=1)
    dense = cells.dense(torch.tensor(rows))
    assert dense.dtype == torch.float32
    np.testing.assert_array_equal(dense.numpy(), x.toarray()[rows])


@given(matrices())
def test_dense_as_on_a_gpu_equals_scipy(case):
    """On a GPU all rows are padded to the length of the longest one; the padding must add nothing."""
    x, rows = case
    cells = Cells(x, np.zeros(x.shape[0]), n_systems=1)
    cells.device_csr = cells._csr_on_device(torch.device("cpu"))
    np.testing.assert_array_equal(cells.dense(torch.tensor(rows)).numpy(), x.toarray()[rows])


def test_dense_reads_unsorted_columns_explicit_zeros_and_empty_rows():
    data, columns, starts = np.array([3.0, 0.0, 1.0, 2.0], np.float32), [2, 0, 1, 0], [0, 0, 2, 4, 4]
    x = sparse.csr_matrix((data, columns, starts), shape=(4, 3))
    rows = [3, 2, 0, 1, 2]
    np.testing.assert_array_equal(Cells(x, np.zeros(4), n_systems=1).dense(torch.tensor(rows)), x.toarray()[rows])


sizes = st.integers(2, 40).flatmap(lambda batch: st.tuples(st.integers(2, 3 * batch), st.just(batch)))


@pytest.mark.slow
@settings(max_examples=300)
@given(sizes, st.none() | st.integers(0, 100))
def test_minibatches_cut_fairly(size, seed):
    n, batch_size = size
    index = torch.arange(n) * 7 + 3  # rows need not be 0..n-1
    batches = list(minibatches(index, batch_size, None if seed is None else generator(seed)))
    together, lengths = torch.cat(batches), [len(b) for b in batches]
    assert torch.equal(together.sort().values, index)
    assert min(lengths) >= 2
    assert max(lengths) - min(lengths) <= 1
    lone_cell_left = batch_size == 2 and n % 2 == 1  # the only case where pairs cannot do
    assert max(lengths) <= batch_size + lone_cell_left
    assert len(batches) == n_minibatches(n, batch_size)
    assert lone_cell_left or len(batches) == -(-n // batch_size)  # no more than needed
    if seed is None:
        assert torch.equal(together, index)


def test_minibatches_are_shuffled_anew_by_their_generator():
    index, order = torch.arange(100), generator(1)
    first, second = (torch.cat(list(minibatches(index, 32, order))) for _ in range(2))
    again = torch.cat(list(minibatches(index, 32, generator(1))))
    assert not torch.equal(first, index)
    assert not torch.equal(first, second)
    assert torch.equal(first, again)


@pytest.mark.parametrize("n", [0, 1])
def test_too_few_cells_are_refused(n):
    with pytest.raises(InputError, match=rf"too few cells to train on \({n}\).*at least two"):
        list(minibatches(torch.arange(n), 8))


# -- swapped covariates -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def swaps(make_cells):
    """Function that swaps every cell of 3 systems many times."""
    cells = make_cells(60, n_systems=3)
    index = torch.arange(60).repeat(200)
    return cells, lambda how, seed=0: cells.minibatch(index, how, generator(seed))


@pytest.mark.parametrize("how", ["resampled", "observed", "zero"])
def test_swapped_system_is_uniform_among_the_others(swaps, how):
    batch = swaps[1](how)
    own, swapped = batch.covariates.system, batch.swapped_covariates.system
    assert (own != swapped).all()
    for system in range(3):
        counts = torch.bincount(swapped[own == system], minlength=3).numpy()
        others = np.delete(counts, system)
        assert stats.chisquare(others).pvalue > 1e-3


def test_resampled_covariates_are_those_of_a_uniform_cell_of_the_target_system(swaps):
    cells, swap = swaps
    batch = swap("resampled").swapped_covariates
    value, place = np.unique(cells.covariates.continuous.numpy()[:, 0], return_inverse=True)  # tells the cell
    assert len(value) == cells.n_cells
    cell_of = np.argsort(place)
    drawn = torch.from_numpy(cell_of[np.searchsorted(value, batch.continuous.numpy()[:, 0])])
    source = cells.covariates.select(drawn)
    assert torch.equal(source.system, batch.system)
    assert torch.equal(source.categorical, batch.categorical)
    assert torch.equal(source.continuous, batch.continuous)
    for system in range(3):
        members = (cells.covariates.system == system).nonzero()[:, 0].numpy()
        counts = np.bincount(drawn[batch.system == system], minlength=cells.n_cells)[members]
        assert stats.chisquare(counts).pvalue > 1e-3


def test_observed_covariates_are_the_cells_own(swaps):
    batch = swaps[1]("observed")
    assert torch.equal(batch.swapped_covariates.categorical, batch.covariates.categorical)
    assert torch.equal(batch.swapped_covariates.continuous, batch.covariates.continuous)


def test_zero_covariates_are_zeros_in_the_code(swaps, make_model):
    cells, swap = swaps
    batch = swap("zero")
    code = make_model(cells).code(batch.swapped_covariates)
    assert (code[:, 3:] == 0).all()
    assert torch.equal(code[:, :3].argmax(1), batch.swapped_covariates.system)
    assert (code[:, :3].sum(1) == 1).all()


def test_minibatch_carries_what_was_observed_and_repeats_with_its_seed(swaps):
    cells, swap = swaps
    batch, again, other = swap("resampled"), swap("resampled"), swap("resampled", seed=1)
    index = torch.arange(60).repeat(200)
    assert torch.equal(batch.x, cells.dense(index))
    assert torch.equal(batch.covariates.system, cells.covariates.system[index])
    assert torch.equal(batch.covariates.categorical, cells.covariates.categorical[index])
    assert batch.weight is None
    assert torch.equal(batch.swapped_covariates.continuous, again.swapped_covariates.continuous)
    assert not torch.equal(batch.swapped_covariates.continuous, other.swapped_covariates.continuous)


@pytest.mark.parametrize("n_systems", [2, 3])
def test_weighted_systems_count_the_same(make_cells, n_systems):
    cells = make_cells(100, n_systems=n_systems, weight_systems=True)
    assert len(set(cells.system_size.tolist())) == n_systems  # of different sizes
    assert cells.weight.mean().item() == pytest.approx(1, rel=1e-6)
    total = torch.bincount(cells.covariates.system, weights=cells.weight)
    torch.testing.assert_close(total, torch.full_like(total, 100 / n_systems))
    batch = cells.minibatch(torch.tensor([5, 0]), "zero", generator())
    assert torch.equal(batch.weight, cells.weight[[5, 0]])
