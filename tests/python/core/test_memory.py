"""Memory that is needed is compared with what is free before it is taken."""

import os
import re
import subprocess
import sys

import pytest
import torch

import sysvi
from sysvi._core import memory
from sysvi._core.memory import check_memory, free_memory

LIMITED = """
import resource, torch
from pathlib import Path
from sysvi._core.memory import free_memory
size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
limit = size + 2**27  # torch alone may take gigabytes of addresses
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
print(free_memory(torch.device("cpu")) / limit)
"""
FAST = {"members": 1, "max_epochs": 1, "n_hidden": 16, "n_latent": 4, "progress": False, "device": "cpu"}


@pytest.fixture(scope="module")
def prepared():
    return sysvi.prepare(sysvi.datasets.simulate_systems(300, 100, seed=1), "system", "batch", min_cells=3)


@pytest.fixture
def let_be_free(monkeypatch):
    """Function that sets how many bytes are free."""
    return lambda n_bytes: monkeypatch.setattr(memory, "free_memory", lambda device: n_bytes)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere free memory is not known")
def test_free_memory_is_no_more_than_that_of_the_machine():
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with open("/proc/swaps") as file:
        swap = sum(1024 * int(line.split()[2]) for line in file.readlines()[1:])
    assert 0 < free_memory(torch.device("cpu")) <= physical + swap


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere free memory is not known")
def test_a_limit_of_the_process_counts():
    assert float(subprocess.check_output([sys.executable, "-c", LIMITED])) <= 1


def test_the_message_says_how_much_is_needed_and_how_much_is_free(let_be_free):
    let_be_free(1.5e9)
    check_memory(1.5e9, "Training", "lower n_hidden")
    message = "Training takes at least 12.3 GB of memory, but only 1.5 GB are free: lower n_hidden."
    with pytest.raises(sysvi.InputError, match=f"^{re.escape(message)}$"):
        check_memory(12.34e9, "Training", "lower n_hidden")


@pytest.mark.parametrize(
    "settings",
    [{}, {"n_layers": 1}, {"n_layers": 3, "prior": "gmm"}, {"embed_categorical_covariates": True}],
    ids=str,
)
def test_a_model_takes_five_numbers_for_each_parameter(prepared, let_be_free, settings):
    model = sysvi.integrate(prepared.copy(), "system", "batch", **FAST, **settings)
    needed = 5 * 4 * sum(tensor.numel() for tensor in model.module.state_dict().values())
    let_be_free(max(needed, 8 * 300 * prepared.n_vars))
    sysvi.integrate(prepared.copy(), "system", "batch", **FAST, **settings)
    let_be_free(needed - 1)
    with pytest.raises(sysvi.InputError, match=f"Training a model of {needed // 20:,} parameters takes at least"):
        sysvi.integrate(prepared.copy(), "system", "batch", **FAST, **settings)


def test_a_minibatch_takes_two_numbers_for_each_value(prepared, let_be_free):
    needed = 8 * 300 * prepared.n_vars  # more than the model
    let_be_free(needed)
    sysvi.integrate(prepared.copy(), "system", "batch", batch_size=1000, **FAST)
    let_be_free(needed - 1)
    with pytest.raises(sysvi.InputError, match=rf"A minibatch of 300 cells and {prepared.n_vars} genes takes .* GB"):
        sysvi.integrate(prepared.copy(), "system", "batch", batch_size=1000, **FAST)
