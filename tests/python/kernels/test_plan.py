"""How training computes: the choice and its reasons, and that the same model is trained whatever is chosen."""

import itertools
import json
import math

import numpy as np
import pytest
import torch

import sysvi.kernels.plan
import sysvi.training.step
from sysvi._core.settings import Ramp, TrainSettings
from sysvi.kernels.plan import MAX_SPARSE_DENSITY, ComputePlan, choose_compute_plan, prefer_sparse_products
from sysvi.model.networks import TrainingContext
from sysvi.model.objective import Objective, Weights
from sysvi.training.gradient import backpropagate
from sysvi.training.loop import NonFiniteLossError, train

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
every_precision = pytest.mark.parametrize("precision", ["float32", "bfloat16"])
every_expression = pytest.mark.parametrize("sparse", [True, False], ids=["sparse", "dense"])

INSTRUCTIONS = ["_is_avx512_bf16_supported", "_is_amx_tile_supported"]


@pytest.fixture
def processor(monkeypatch):
    """Function that sets which of the bfloat16 instructions the CPU and GPU have; None: torch cannot tell."""

    def have(*, avx512=False, amx=False, cuda=False):
        for check, has in zip(INSTRUCTIONS, (avx512, amx), strict=True):
            if has is None:
                monkeypatch.delattr(torch.cpu, check, raising=False)
            else:
                monkeypatch.setattr(torch.cpu, check, lambda has=has: has, raising=False)

        def is_bf16_supported(including_emulation=True):
            return cuda or including_emulation

        monkeypatch.setattr(torch.cuda, "is_bf16_supported", is_bf16_supported)

    return have


# -- the choice -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("device", "density", "sparse"),
    [
        ("cpu", 0.0, True),
        ("cpu", 0.1, True),
        ("cpu", MAX_SPARSE_DENSITY, True),
        ("cpu", math.nextafter(MAX_SPARSE_DENSITY, 1), False),
        ("cpu", 1.0, False),
        ("cuda", 0.0, False),
        ("cuda", 0.1, False),
        ("mps", 0.1, False),
    ],
)
def test_expression_is_sparse_on_the_cpu_where_it_is_sparse_enough(processor, device, density, sparse):
    processor()
    device = torch.device(device)
    assert prefer_sparse_products(device, density) is sparse
    kernels = choose_compute_plan(device, density)
    assert kernels.sparse is sparse
    about = kernels.why[0]
    assert about.startswith("sparse expression: " if sparse else "dense expression: ")
    assert f"{density:.0%}" in about
    assert device.type in about


@pytest.mark.parametrize(
    ("device", "has", "short"),
    [
        ("cpu", {}, False),
        ("cpu", {"avx512": True}, True),
        ("cpu", {"amx": True}, True),
        ("cpu", {"avx512": True, "amx": True}, True),
        ("cpu", {"avx512": None, "amx": None}, False),
        ("cpu", {"avx512": True, "amx": None}, True),
        ("cpu", {"cuda": True}, False),
        ("cuda", {"cuda": True}, True),
        ("cuda", {"cuda": False, "avx512": True}, False),
        ("mps", {"avx512": True, "cuda": True}, False),
    ],
)
def test_auto_takes_bfloat16_where_the_device_has_instructions_for_it(processor, device, has, short):
    processor(**has)
    kernels = choose_compute_plan(torch.device(device), 0.1)
    assert kernels.matmul_dtype == (torch.bfloat16 if short else torch.float32)
    name, reason = kernels.why[1].split(" products of hidden layers: ")
    assert name == ("bfloat16" if short else "float32")
    assert reason == f"the device has {'' if short else 'no '}instructions for bfloat16"


@pytest.mark.parametrize("device", [CPU, CUDA], ids=str)
@pytest.mark.parametrize("has", [False, True])
@every_precision
def test_a_wish_overrules_the_device(processor, device, has, precision):
    processor(avx512=has, cuda=has)
    kernels = choose_compute_plan(device, 0.1, precision=precision)
    assert kernels.matmul_dtype == getattr(torch, precision)
    assert kernels.why[1].startswith(f"{precision} products")
    assert kernels.why[1].endswith(f"precision='{precision}' was requested")


@pytest.mark.parametrize("device", ["cpu", "cuda", "mps"])
def test_steps_are_replayed_on_a_cuda_card_alone(processor, device):
    processor(cuda=True)
    kernels = choose_compute_plan(torch.device(device), 0.1)
    assert kernels.graph == (device == "cuda") == kernels.why[-1].startswith("steps captured")


@pytest.mark.parametrize(
    ("device", "threads", "concurrent", "why"),
    [
        ("cpu", 1, False, "parts of a step one after another: torch has 1 thread"),
        ("cpu", 2, True, "independent parts of a step at the same time: torch has 2 threads"),
        ("mps", 2, False, "parts of a step one after another: "),
        ("cuda", 1, True, "independent parts of a step at the same time: on two CUDA streams"),
    ],
)
def test_parts_of_a_step_are_done_at_once_where_the_device_can(
    processor, monkeypatch, device, threads, concurrent, why
):
    processor(cuda=True)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    kernels = choose_compute_plan(torch.device(device), 0.1)
    assert kernels.concurrent is concurrent
    assert any(line.startswith(why) for line in kernels.why)


def test_a_sentence_for_each_choice_and_plain_values(processor):
    for has, density, precision in itertools.product([False, True], [0.1, 0.9], ["auto", "float32", "bfloat16"]):
        processor(avx512=has)
        kernels = choose_compute_plan(CPU, density, precision=precision)
        assert isinstance(kernels, ComputePlan)
        assert len(kernels.why) == 3  # of expression, of products, of what is done at once
        assert all(line.count(": ") == 1 and "\n" not in line for line in kernels.why)
        values = json.loads(json.dumps(kernels.as_dict()))
        assert values["matmul_dtype"] in {"float32", "bfloat16"}
        assert values == {
            "expression": "float32",
            "sparse": density < 0.5,
            "matmul_dtype": str(kernels.matmul_dtype).split(".")[1],
            "why": list(kernels.why),
            "concurrent": torch.get_num_threads() > 1,
            "graph": False,
        }


def test_the_choice_is_recorded_with_the_run(fit):
    for sparse, precision in itertools.product([True, False], ["float32", "bfloat16"]):
        kernels = fit(sparse=sparse, precision=precision, max_epochs=1)[0].kernels
        assert (kernels.sparse, kernels.matmul_dtype) == (sparse, getattr(torch, precision))


# -- the same model whatever is chosen --------------------------------------------------------------------------------


def by_autograd(objective, batch, weights, context, run_pair, prefetch):
    """`backpropagate` as autograd of the plain loss."""
    losses = objective(batch, weights, context)
    losses.total.backward()
    prefetch()
    return losses


@pytest.fixture
def fit(make_cells, make_model, monkeypatch):
    """Function that trains the same model from the same seed: its run and its parameters.

    Expression is sparse or dense as told, whatever its density. With `plain`, gradients are those of autograd.
    """

    def fit_one(*, sparse, model=None, start=lambda model: None, plain=False, **settings):
        if plain:
            monkeypatch.setattr(sysvi.training.step, "backpropagate", by_autograd)
        monkeypatch.setattr(sysvi.kernels.plan, "MAX_SPARSE_DENSITY", 1.0 if sparse else -1.0)
        cells = make_cells(200, n_genes=40, weight_systems=True)
        made = make_model(cells, n_hidden=32, dropout_rate=0.1, **(model or {}))
        start(made)
        defaults = {"max_epochs": 4, "batch_size": 50, "cycle_weight": Ramp(5.0, 0.1, 0.6), "train_size": 0.8}
        run = train(made, cells, TrainSettings(**{**defaults, **settings}))
        return run, made.state_dict()

    return fit_one


def losses(run):
    """Every term, of training and held-out cells, at every epoch: names and (terms, epochs)."""
    names = [name for name in run.history if "advers" not in name and "discrim" not in name]
    return names, np.array([run.history[name] for name in names])


def assert_close_runs(ours, reference, rtol, atol=0.0):
    names, values = losses(ours)
    names_too, expected = losses(reference)
    assert names == names_too
    assert len(names) == 8  # total, reconstruction, KL and cycle, of training and held-out cells
    np.testing.assert_allclose(values, expected, rtol=rtol, atol=atol)


MODELS = {
    "default": {"seed": 1},  # from seed 0, rounding switches a ReLU unit, which training then amplifies
    "gmm_joint_embedded": {"prior": "gmm", "mixture": "joint", "embed_categorical_covariates": True},
    "variance_per_cell": {"out_var_mode": "sample_feature"},
    "one_layer": {"prior": "standard_normal", "n_layers": 1},
}


@pytest.mark.slow
@every_expression
@pytest.mark.parametrize("model", MODELS)
def test_fused_training_equals_plain_training_to_float32_rounding(fit, model, sparse):
    fused, parameters = fit(sparse=sparse, model=MODELS[model], precision="float32")
    plain, expected = fit(sparse=False, model=MODELS[model], precision="float32", plain=True)
    assert_close_runs(fused, plain, rtol=1e-5)
    for name, value in parameters.items():
        difference = (value - expected[name]).norm()
        assert difference <= 1e-4 * expected[name].norm() + 1e-5, name


@pytest.mark.slow
@every_expression
def test_bfloat16_training_stays_near_float32(fit, sparse):
    short, _ = fit(sparse=sparse, precision="bfloat16")
    full, _ = fit(sparse=sparse, precision="float32")
    assert_close_runs(short, full, rtol=0.05, atol=0.01)  # nats: the estimate of the divergence crosses zero
    assert not np.array_equal(losses(short)[1], losses(full)[1])


@pytest.mark.slow
@every_precision
@every_expression
def test_same_seed_same_bits(fit, sparse, precision):
    (first, a), (second, b), (other, _) = (
        fit(sparse=sparse, precision=precision, max_epochs=2, seed=seed, swapped_covariates="resampled")
        for seed in (3, 3, 4)
    )
    assert first.history == second.history
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert first.history != other.history


# -- weights that are not finite --------------------------------------------------------------------------------------

every_bad_value = pytest.mark.parametrize("bad", [math.nan, math.inf])
every_bad_weight = pytest.mark.parametrize(
    "name", ["encoder.layers.0.weight", "encoder.layers.1.scale", "decoder.layers.1.cov_weight"]
)


def spoil(model, name, bad):
    with torch.no_grad():
        model.get_parameter(name)[..., 0] = bad


@pytest.mark.slow
@every_precision
@every_expression
@every_bad_weight
@every_bad_value
def test_training_ends_with_an_error(fit, name, bad, sparse, precision):
    with pytest.raises(NonFiniteLossError, match=r"epoch 1 .*reconstruction"):
        fit(sparse=sparse, precision=precision, max_epochs=1, start=lambda model: spoil(model, name, bad))


@every_precision
@every_expression
@every_bad_weight
@every_bad_value
def test_the_loss_of_the_step_itself_is_not_finite(make_cells, make_model, name, bad, sparse, precision):
    """Not only the losses of the check after the epoch, in which torch's own operations compute."""
    cells = make_cells()
    model = make_model(cells)
    spoil(model, name, bad)
    noise = torch.Generator().manual_seed(0)
    batch = cells.minibatch(torch.arange(20), "observed", noise, sparse=sparse)
    weights, training = Weights(1.0, 0.0, 1.0, 0.0), TrainingContext(noise, getattr(torch, precision))
    losses = backpropagate(Objective(model), batch, weights, training)
    assert not losses.reconstruction.isfinite()
    assert not losses.cycle.isfinite()
