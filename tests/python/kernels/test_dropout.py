"""The bits of dropout, against SplitMix64 written number by number, and their statistics."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sysvi.kernels.cpu_backend import normalise
from sysvi.kernels.dropout import dropped, kept_share, threshold

CPU = torch.device("cpu")
WIDTHS, RATES = [1, 3, 5, 255, 256], [0.0, 0.1, 0.5, 0.999]
LAST_SEED = 2**63 - 1
MASK = 2**64 - 1


def splitmix64(seed):
    """The stream of Steele, Lea and Flood (2014), as published: the state moves by the golden gamma, then is mixed."""
    state = seed
    while True:
        state = (state + 0x9E3779B97F4A7C15) & MASK
        z = state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
        yield z ^ (z >> 31)


def oracle(shape, rate, seed):
    """Four units share a draw, lowest sixteen bits first; a row begins with a new draw."""
    draws, rows = splitmix64(seed), []
    for _ in range(shape[0]):
        numbers = [next(draws) for _ in range(math.ceil(shape[1] / 4))]
        bits = [z >> 16 * k & 0xFFFF for z in numbers for k in range(4)][: shape[1]]
        rows.append([b < round(rate * 65536) for b in bits])
    return np.array(rows)


def kernels_mask(shape, rate, seed):
    """What the kernel drops: a batch norm of scale 0 and shift 1 passes 1 where it drops nothing."""
    n, width = shape
    no_covariates, flat = (torch.zeros(n, 0), torch.zeros(0, width)), (torch.zeros(width), torch.ones(width))
    y = normalise(torch.randn(shape), *no_covariates, *flat, rate, seed, torch.float32)[0]
    assert len(y[y != 0].unique()) <= 1
    return y == 0


@pytest.mark.parametrize(
    ("seed", "first"),
    [
        (0, [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]),
        (1234567, [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]),
    ],
)
def test_oracle_gives_the_published_numbers(seed, first):
    assert [z for z, _ in zip(splitmix64(seed), first, strict=False)] == first


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 12), st.integers(1, 40), st.floats(0, 0.999), st.integers(0, LAST_SEED))
def test_mask_is_the_published_stream(n_rows, n_units, rate, seed):
    mask = dropped((n_rows, n_units), rate, seed, CPU)
    assert mask.dtype == torch.bool
    np.testing.assert_array_equal(mask.numpy(), oracle((n_rows, n_units), rate, seed))


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("n_units", WIDTHS)
@pytest.mark.parametrize("seed", [0, 1, 2**32 + 5, LAST_SEED])
def test_kernel_drops_the_same_units(n_units, rate, seed):
    shape = (37, n_units)
    assert torch.equal(kernels_mask(shape, rate, seed), dropped(shape, rate, seed, CPU))


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 20), st.integers(1, 70), st.floats(0, 0.999), st.integers(0, LAST_SEED))
def test_kernel_drops_the_same_units_whatever_the_shape(n_rows, n_units, rate, seed):
    shape = (n_rows, n_units)
    assert torch.equal(kernels_mask(shape, rate, seed), dropped(shape, rate, seed, CPU))


def test_a_row_keeps_its_bits_when_rows_are_added_and_the_rate_only_adds_to_the_dropped():
    few, many = (dropped((n, 30), 0.3, 5, CPU) for n in (4, 9))
    assert torch.equal(few, many[:4])
    assert (dropped((9, 30), 0.6, 5, CPU) >= many).all()


@pytest.mark.parametrize("rate", [0.0, 2**-16, 0.1, 0.25, 0.5, 0.999, 0.99999, 0.999999, 1 - 2**-40])
def test_kept_share_is_that_of_the_bits(rate):
    """Every rate below 1, which the settings allow, keeps a share to divide by."""
    kept = sum(bits >= threshold(rate) for bits in range(2**16)) / 2**16
    assert kept_share(rate) == kept > 0
    assert abs(kept_share(rate) - (1 - rate)) <= 2**-16


# -- statistics -------------------------------------------------------------------------------------------------------

SHAPE = (512, 255)
N = SHAPE[0] * SHAPE[1]


def standard_score(count, n, p):
    """How many standard deviations a count is off its binomial mean."""
    return (count - n * p) / math.sqrt(n * p * (1 - p))


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_units_are_dropped_at_the_rate(rate):
    p = 1 - kept_share(rate)
    mask = dropped(SHAPE, rate, 11, CPU).double()
    assert abs(standard_score(mask.sum().item(), N, p)) < 4
    for axis in (0, 1):  # every unit and every row: the largest of a few hundred scores
        scores = standard_score(mask.sum(axis).numpy(), SHAPE[axis], p)
        assert np.abs(scores).max() < 5
        assert 0.8 < scores.std() < 1.2


def agreements(a, b, p):
    """Standard score of the number of places at which two masks agree, over what independent ones would."""
    return standard_score((a == b).sum().item(), a.numel(), p**2 + (1 - p) ** 2)


@pytest.mark.parametrize("rate", [0.1, 0.3])
def test_neighbouring_seeds_rows_and_units_are_independent(rate):
    p = 1 - kept_share(rate)
    seeds = [7, 8, 9, 7 + 2**32, LAST_SEED, 0, 1]
    masks = [dropped(SHAPE, rate, seed, CPU) for seed in seeds]
    pairs = [(a, b) for i, a in enumerate(masks) for b in masks[:i]]
    for lag in range(1, 9):  # across and within the draws of four
        pairs += [(masks[0][lag:], masks[0][:-lag]), (masks[0][:, lag:], masks[0][:, :-lag])]
    scores = np.array([agreements(a, b, p) for a, b in pairs])
    assert np.abs(scores).max() < 4.5


def test_scores_of_independence_would_show_shared_bits():
    """The check above has the power to find half a per cent of shared bits."""
    p = 1 - kept_share(0.3)
    a, b = (dropped(SHAPE, 0.3, seed, CPU) for seed in (7, 8))
    shared = torch.arange(N).view(SHAPE) % 40 == 0
    assert agreements(a, torch.where(shared, a, b), p) > 4.5
