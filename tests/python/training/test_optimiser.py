"""Adam against torch's, in float64, and that a step count shared by all parameters is right for this model."""

import copy

import pytest
import torch

from sysvi._core.settings import Ramp, TrainSettings
from sysvi.model.networks import TrainingContext
from sysvi.model.objective import Objective, Weights
from sysvi.training.gradient import backpropagate
from sysvi.training.loop import make_objective
from sysvi.training.optimiser import Adam

SHAPES = [(3, 4), (5,), (1,), (2, 2, 2)]
RATES = [1e-3, 1e-2, 1e-1, 3e-3]  # learning rates of successive steps, again and again

every_decay = pytest.mark.parametrize("weight_decay", [0.0, 1e-6, 0.1])
every_eps = pytest.mark.parametrize("eps", [1e-8, 0.01])


def parameters(dtype=torch.float64, seed=0):
    rng = torch.Generator().manual_seed(seed)
    return [torch.nn.Parameter(torch.randn(*s, generator=rng, dtype=torch.float64).to(dtype)) for s in SHAPES]


def gradient(p, step, i):
    """Of sizes from 1e-6 to 1e3, changing sign."""
    rng = torch.Generator().manual_seed(1000 * i + step)
    return (torch.randn(p.shape, generator=rng, dtype=torch.float64) * 10.0 ** (step % 10 - 6)).to(p.dtype)


def torchs(theirs, eps, weight_decay, **how):
    return torch.optim.Adam(theirs, lr=1.0, betas=(0.9, 0.999), eps=eps, weight_decay=weight_decay, **how)


def step_both(ours, theirs, step, used):
    """One step of our optimiser and of torch's with the same gradients for the parameters in `used`."""
    for p in theirs.param_groups[0]["params"]:
        p.grad = None
    for i in used:
        ours.parameters[i].grad = gradient(ours.parameters[i], step, i)
        theirs.param_groups[0]["params"][i].grad = gradient(ours.parameters[i], step, i)
    theirs.param_groups[0]["lr"] = RATES[step % 4]
    ours.step(RATES[step % 4])
    theirs.step()


@pytest.mark.slow
@every_decay
@every_eps
def test_matches_torch_in_float64_over_many_steps(eps, weight_decay):
    a, b = parameters(), parameters()
    ours, theirs = Adam(a, eps, weight_decay), torchs(b, eps, weight_decay, foreach=False)
    for step in range(200):
        step_both(ours, theirs, step, range(len(SHAPES)))
    for p, q, start in zip(a, b, parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-10, atol=1e-12)
        assert (p - start).abs().min() > 1e-3  # all have moved
    assert ours.n_steps == 200


@pytest.mark.slow
@every_decay
def test_equals_torchs_fused_form_bit_by_bit_in_float32(weight_decay):
    a, b = parameters(torch.float32), parameters(torch.float32)
    ours, theirs = Adam(a, 0.01, weight_decay), torchs(b, 0.01, weight_decay, fused=True)
    for step in range(50):
        step_both(ours, theirs, step, range(len(SHAPES)))
    assert all(torch.equal(p, q) for p, q in zip(a, b, strict=True))


def test_first_step_is_the_formulas():
    """After bias correction the first step is lr g / (|g| + eps), the decay being part of g."""
    a = parameters()
    before, optimiser = copy.deepcopy(a), Adam(a, eps=0.01, weight_decay=0.1)
    for i, p in enumerate(a):
        p.grad = gradient(p, 5, i)
    optimiser.step(0.3)
    for i, (p, start) in enumerate(zip(a, before, strict=True)):
        g = gradient(p, 5, i) + 0.1 * start
        torch.testing.assert_close(p, start - 0.3 * g / (g.abs() + 0.01))


# -- parameters without a gradient ------------------------------------------------------------------------------------


def test_without_gradient_a_parameter_and_its_moments_stay():
    a, b = parameters(), parameters()
    ours, theirs = Adam(a, 0.01, 0.1), torchs(b, 0.01, 0.1, foreach=False)
    for step in range(5):
        step_both(ours, theirs, step, range(len(SHAPES)))
    before = [t.clone() for t in (a[1], ours.first_moments[1], ours.second_moments[1])]
    for step in range(5, 9):
        step_both(ours, theirs, step, [0, 2, 3])
    assert all(
        torch.equal(x, y) for x, y in zip((a[1], ours.first_moments[1], ours.second_moments[1]), before, strict=True)
    )
    for i in (0, 2, 3):
        torch.testing.assert_close(a[i], b[i], rtol=1e-12, atol=1e-12)


def test_gradients_are_forgotten():
    a = parameters()
    optimiser = Adam(a, 0.01, 0.0)
    for i, p in enumerate(a):
        p.grad = gradient(p, 0, i)
    optimiser.step(0.1)
    assert all(p.grad is None for p in a)
    before = copy.deepcopy(a)
    a[0].grad = gradient(a[0], 1, 0)
    optimiser.step(0.1)
    assert [torch.equal(p, q) for p, q in zip(a, before, strict=True)] == [False, True, True, True]


def test_frozen_parameters_are_left_out():
    a = parameters()
    a[2].requires_grad_(False)
    assert [id(p) for p in Adam(a, 0.01, 0.0).parameters] == [id(a[i]) for i in (0, 1, 3)]


def test_a_late_parameter_is_where_one_step_count_differs_from_torchs():
    """Torch counts each parameter's own steps. Ours would take a parameter whose first gradient comes at step n as one
    whose gradients were 0 before; the tests below say that the model has no such parameter.
    """
    a, b = parameters(), parameters()
    ours, theirs = Adam(a, 1e-15, 0.0), torchs(b, 1e-15, 0.0, foreach=False)
    late = 1
    for step in range(20):
        step_both(ours, theirs, step, [0, 2, 3])
    start = a[late].detach().clone()
    g = gradient(a[late], 20, late)
    step_both(ours, theirs, 20, range(len(SHAPES)))
    lr = RATES[20 % 4]
    torch.testing.assert_close(start - b[late], lr * g.sign(), rtol=1e-6, atol=0)
    shrunk = (0.1 / (1 - 0.9**21)) / (0.001 / (1 - 0.999**21)) ** 0.5  # about a half: as if 21 steps old
    torch.testing.assert_close(start - a[late], shrunk * lr * g.sign(), rtol=1e-6, atol=0)
    for i in (0, 2, 3):
        torch.testing.assert_close(a[i], b[i], rtol=1e-12, atol=1e-12)


FAMILY = [
    pytest.param(prior, variance, embed, adversary, id=f"{prior}-{variance}-{embed}-{adversary}")
    for prior in ("standard_normal", "vamp", "gmm")
    for variance in ("feature", "sample_feature")
    for embed in (False, True)
    for adversary in (0.0, 1.0)
]


@pytest.mark.slow
@pytest.mark.parametrize("fused", [False, True], ids=["plain", "fused"])
@pytest.mark.parametrize("cycle", [0.0, 5.0])
@pytest.mark.parametrize(("prior", "variance", "embed", "adversary"), FAMILY)
def test_every_parameter_has_a_gradient_at_every_step(
    make_cells, make_model, prior, variance, embed, adversary, cycle, fused
):
    """The cycle has weight 0 in the first tenth of training, yet no parameter waits for it: all step together."""
    cells = make_cells()
    model = make_model(cells, prior=prior, out_var_mode=variance, embed_categorical_covariates=embed, dropout_rate=0.1)
    settings = TrainSettings(adversarial_weight=Ramp(adversary))
    objective = make_objective(model, cells, settings)
    noise = torch.Generator().manual_seed(0)
    for sparse in {False, fused}:
        batch = cells.minibatch(torch.arange(20), "observed", noise, sparse=sparse)
        objective.zero_grad()
        weights = Weights(1.0, 1.0, cycle, adversary)
        if fused:
            backpropagate(objective, batch, weights, TrainingContext(noise))
        else:
            objective(batch, weights, TrainingContext(noise)).total.backward()
        optimiser = Adam(objective.parameters(), settings.eps, settings.weight_decay)
        assert len(optimiser.parameters) > 10
        without = [name for name, p in objective.named_parameters() if p.requires_grad and p.grad is None]
        assert without == []


def test_terms_of_weight_zero_still_give_gradients(make_cells, make_model):
    """A ramp of another term that starts at 0 must not start its parameters late either."""
    cells = make_cells()
    objective = Objective(make_model(cells, prior="vamp"))
    noise = torch.Generator().manual_seed(0)
    batch = cells.minibatch(torch.arange(20), "observed", noise)
    backpropagate(objective, batch, Weights(0.0, 0.0, 0.0, 0.0), TrainingContext(noise))
    assert all(p.grad is not None for p in objective.parameters())
