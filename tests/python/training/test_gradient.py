"""The loss of a minibatch, in float64: against the NumPy oracle, fused against plain, and where gradients flow."""

import copy
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import oracle
import pytest
import torch

import sysvi.model.cvae
from sysvi._core.parallel import run_sequentially, two_thread_executor
from sysvi.data.cells import Covariates, Minibatch
from sysvi.model.cvae import one_hot
from sysvi.model.networks import Discriminator, TrainingContext
from sysvi.model.objective import Objective, Weights, standardised_distance
from sysvi.training.gradient import backpropagate, n_dropout_seeds
from sysvi.training.loop import train_only

WEIGHTS = Weights(reconstruction=1.3, kl=0.7, cycle=4.0, adversary=2.5, mixture=0.3)
PRIORS = [("standard_normal", "dimension"), *((p, m) for p in ("vamp", "gmm") for m in ("dimension", "joint"))]
B = 20

every_prior = pytest.mark.parametrize(("prior", "mixture"), PRIORS)
every_variance = pytest.mark.parametrize("variance", ["feature", "sample_feature"])
every_code = pytest.mark.parametrize("embed", [False, True], ids=["one_hot", "embedded"])
every_weighting = pytest.mark.parametrize("weighted", [False, True], ids=["unweighted", "weighted"])
every_swap = pytest.mark.parametrize("swapped", ["resampled", "observed", "zero"])
every_form = pytest.mark.parametrize("fused", [False, True], ids=["plain", "fused"])
every_place = pytest.mark.parametrize(  # where the decoder sees the covariates
    "place", [{}, {"covariates_in_mean": False}, {"covariates_in_hidden": False}], ids=["both", "hidden", "mean"]
)
every_number_of_systems = pytest.mark.parametrize("n_systems", [2, 3])


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def as_float64(batch):
    own, swapped = (replace(c, continuous=c.continuous.double()) for c in (batch.covariates, batch.swapped_covariates))
    return Minibatch(batch.x.double(), own, swapped, None if batch.weight is None else batch.weight.double())


@pytest.fixture
def make_case(make_cells, make_model, monkeypatch):
    """Maker of a model, a discriminator and a minibatch, all float64."""

    def make(
        *,
        n_systems=2,
        weighted=False,
        swapped="resampled",
        index=None,
        embed=False,
        variance="feature",
        own_genes=None,
        **model,
    ):
        cells = make_cells(n_systems=n_systems, weight_systems=weighted, own_genes=own_genes)
        model = make_model(
            cells, own_genes=own_genes, embed_categorical_covariates=embed, out_var_mode=variance, **model
        ).double()
        index = torch.arange(B) if index is None else index(cells)
        batch = as_float64(cells.minibatch(index, swapped, generator(1)))
        discriminator = Discriminator(model.settings.n_latent, 8, n_systems, generator(2)).double()
        # the model makes its one-hot codes float32, like all of its input
        monkeypatch.setattr(sysvi.model.cvae, "one_hot", lambda code, n: one_hot(code, n).double())
        return SimpleNamespace(
            model=model, batch=batch, discriminator=discriminator, n_systems=n_systems, own_genes=own_genes
        )

    return make


def gradients(module):
    """Gradient of every trainable parameter, None where none arrived."""
    return {name: p.grad for name, p in module.named_parameters() if p.requires_grad}


def trained(objective, batch, weights, training, fused, run_pair=run_sequentially):
    """Loss terms of a minibatch, the gradients left in the parameters: written by hand, or by autograd."""
    if fused:
        return backpropagate(objective, batch, weights, training, run_pair)
    losses = objective(batch, weights, training)
    losses.total.backward()
    return losses


def normal_draws(shape, seed):
    return torch.empty(shape, dtype=torch.float64).normal_(generator=generator(seed))


def as_arrays(batch):
    """The minibatch as the oracle reads it."""
    own, swapped = (
        SimpleNamespace(
            system=c.system.numpy(), categorical=c.categorical.numpy(), continuous=c.continuous.numpy().astype(float)
        )
        for c in (batch.covariates, batch.swapped_covariates)
    )
    weight = None if batch.weight is None else batch.weight.numpy()
    return SimpleNamespace(x=batch.x.numpy(), covariates=own, swapped_covariates=swapped, weight=weight)


def oracle_losses(case, eps, p, discriminator=None, **mode):
    """The oracle's losses of a case at the parameters and running statistics `p`, which training moves."""
    sizes = case.n_systems, case.model.code.n_categories
    return oracle.losses(
        p, case.model.settings, as_arrays(case.batch), WEIGHTS, eps, *sizes, discriminator, case.own_genes, **mode
    )


def assert_losses_match_oracle(case):
    """Losses in training and on held-out cells, and running statistics, are the oracle's, with either gradient."""
    p, discriminator = oracle.arrays(case.model.state_dict()), oracle.arrays(case.discriminator.state_dict())
    validation = oracle_losses(case, np.zeros((B, 3)), p, discriminator, training=False)
    eps = normal_draws((B, 3), seed=7).numpy()  # without dropout, the only draw
    training = oracle_losses(case, eps, p, discriminator, training=True)
    for fused in (False, True):
        objective = Objective(copy.deepcopy(case.model), case.discriminator)
        held_out = objective(case.batch, WEIGHTS, None)
        losses = trained(objective, case.batch, WEIGHTS, TrainingContext(generator(7)), fused)
        for reference, ours in ((validation, held_out), (training, losses)):
            for term, value in ours._asdict().items():
                np.testing.assert_allclose(value.item(), getattr(reference, term), rtol=1e-8, err_msg=term)
        for name, statistic in objective.model.named_buffers():
            if case.own_genes is not None and name not in p:  # the masks of genes are not among the saved tensors
                continue
            np.testing.assert_allclose(statistic, p[name], rtol=1e-9, err_msg=name)


# -- values -----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@every_prior
@every_variance
@every_code
@every_weighting
@every_swap
@every_number_of_systems
def test_losses_match_oracle(make_case, prior, mixture, variance, embed, weighted, swapped, n_systems):
    case = make_case(
        prior=prior,
        mixture=mixture,
        variance=variance,
        embed=embed,
        weighted=weighted,
        swapped=swapped,
        n_systems=n_systems,
    )
    assert_losses_match_oracle(case)


@pytest.mark.slow
@every_form
@every_prior
@every_variance
@every_weighting
def test_gradient_is_the_oracles_slope(make_case, prior, mixture, variance, weighted, fused):
    """Along random directions in all parameters, against finite differences of the oracle.

    So all gradients flow that the formulae imply: through the standard deviation of the cycle, the decoder's
    translation and the prior's components. (No adversary: two losses with opposite aims have no common slope.)
    """
    case = make_case(prior=prior, mixture=mixture, variance=variance, weighted=weighted, embed=True, n_systems=3)
    eps = normal_draws((B, 3), seed=7).numpy()
    p = oracle.arrays(case.model.state_dict())
    trained(Objective(case.model), case.batch, WEIGHTS, TrainingContext(generator(7)), fused)
    oracle_losses(case, eps, p, training=True)  # moves the running statistics once; from here they are constants
    rng = np.random.default_rng(0)
    for _ in range(2):
        direction = {name: rng.normal(size=grad.shape) for name, grad in gradients(case.model).items()}
        slope = sum((grad.numpy() * direction[name]).sum() for name, grad in gradients(case.model).items())
        step = 1e-6
        up, down = (
            oracle_losses(
                case, eps, {k: v + s * direction.get(k, 0.0) for k, v in p.items()}, training=True, momentum=0.0
            ).total
            for s in (step, -step)
        )
        assert slope == pytest.approx((up - down) / (2 * step), rel=1e-4)


@pytest.mark.slow
@every_prior
@every_variance
@every_weighting
@every_swap
@every_number_of_systems
@pytest.mark.parametrize("dropout_rate", [0.0, 0.3])
def test_fused_equals_plain_in_values_and_gradients(
    make_case, prior, mixture, variance, weighted, swapped, n_systems, dropout_rate
):
    case = make_case(
        prior=prior,
        mixture=mixture,
        variance=variance,
        weighted=weighted,
        swapped=swapped,
        n_systems=n_systems,
        embed=True,
        dropout_rate=dropout_rate,
    )
    results = []
    for fused in (False, True):
        objective = Objective(copy.deepcopy(case.model), copy.deepcopy(case.discriminator))
        losses = trained(
            objective, case.batch, WEIGHTS, TrainingContext(generator(7), dropout_seeds=generator(8)), fused
        )
        results.append((losses._asdict(), gradients(objective), dict(objective.named_buffers())))
    for plain, fused in zip(*results, strict=True):
        assert plain.keys() == fused.keys()
        for name in plain:
            torch.testing.assert_close(
                fused[name], plain[name], rtol=1e-8, atol=1e-9, msg=lambda m, n=name: f"{n}: {m}"
            )
    assert all(grad is not None for grad in results[0][1].values())


@pytest.mark.parametrize("variance", ["feature", "sample_feature"])
@pytest.mark.parametrize("cycle", [0.0, 4.0])
def test_two_threads_give_the_bits_of_one(make_case, variance, cycle):
    case = make_case(variance=variance, embed=True, dropout_rate=0.3, weighted=True)
    results = []
    with two_thread_executor() as in_threads:
        for run_pair in (run_sequentially, in_threads):
            objective = Objective(copy.deepcopy(case.model), copy.deepcopy(case.discriminator))
            weights = WEIGHTS._replace(cycle=cycle)
            losses = trained(objective, case.batch, weights, TrainingContext(generator(7)), True, run_pair)
            results.append((losses._asdict(), gradients(objective), dict(objective.named_buffers())))
    for first, second in zip(*results, strict=True):
        assert first.keys() == second.keys()
        assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(("cycle", "n_layers"), [(4.0, 1), (0.0, 2)])
def test_a_step_draws_as_many_seeds_as_it_says(make_case, cycle, n_layers):
    case = make_case(dropout_rate=0.3, n_layers=n_layers)
    n = n_dropout_seeds(case.model, cycle > 0)
    assert n == (4 if cycle else 2) * n_layers
    for fused in (False, True):
        seeds = iter(torch.arange(1, n + 1))
        weights, training = WEIGHTS._replace(cycle=cycle), TrainingContext(generator(7), None, seeds)
        trained(Objective(case.model), case.batch, weights, training, fused)
        assert next(seeds, None) is None
    assert n_dropout_seeds(make_case(dropout_rate=0.0).model, True) == 0


def test_fused_equals_plain_in_float32(monkeypatch, make_case):
    case = make_case(dropout_rate=0.3)
    monkeypatch.undo()
    b = case.batch
    own, swapped = (
        Covariates(c.system, c.categorical, c.continuous.float()) for c in (b.covariates, b.swapped_covariates)
    )
    batch = Minibatch(b.x.float(), own, swapped, None)
    results = []
    for fused in (False, True):
        objective = Objective(copy.deepcopy(case.model).float())
        losses = trained(objective, batch, WEIGHTS, TrainingContext(generator(7), dropout_seeds=generator(8)), fused)
        results.append((losses.total, *(p.grad for p in objective.parameters())))
    for plain, fused in zip(*results, strict=True):
        assert fused.dtype == torch.float32
        # biases before a batch normalisation have no gradient but rounding, hence the absolute tolerance
        torch.testing.assert_close(fused, plain, rtol=1e-4, atol=1e-4 * results[0][0].item())


# -- genes that systems lack --------------------------------------------------------------------------------------


def own_genes_of(n_systems, seed=3):
    """Some genes for all systems, some for one or two, and one for none: (S, 12) bool."""
    own = np.random.default_rng(seed).random((n_systems, 12)) < 0.6
    own[:, :4], own[:, 4] = True, False
    return own


every_mask = pytest.mark.parametrize(("n_systems", "seed"), [(2, 3), (2, 4), (3, 3), (3, 5)])


@every_mask
@every_variance
@every_weighting
@every_place
def test_with_lacking_genes_losses_match_oracle(make_case, n_systems, seed, variance, weighted, place):
    case = make_case(
        n_systems=n_systems,
        own_genes=own_genes_of(n_systems, seed),
        variance=variance,
        weighted=weighted,
        **place,
    )
    assert_losses_match_oracle(case)


@every_mask
@every_variance
@every_weighting
@every_swap
@every_place
def test_with_lacking_genes_the_hand_written_gradient_is_autograds(
    make_case, n_systems, seed, variance, weighted, swapped, place
):
    case = make_case(
        n_systems=n_systems,
        own_genes=own_genes_of(n_systems, seed),
        variance=variance,
        weighted=weighted,
        swapped=swapped,
        **place,
        embed=True,
        dropout_rate=0.3,
    )
    results = []
    for fused in (False, True):
        objective = Objective(copy.deepcopy(case.model), copy.deepcopy(case.discriminator))
        context = TrainingContext(generator(7), dropout_seeds=generator(8))
        losses = trained(objective, case.batch, WEIGHTS, context, fused)
        results.append((losses._asdict(), gradients(objective), dict(objective.named_buffers())))
    for plain, fused in zip(*results, strict=True):
        assert plain.keys() == fused.keys()
        for name in plain:
            torch.testing.assert_close(
                fused[name], plain[name], rtol=1e-8, atol=1e-9, msg=lambda m, n=name: f"{n}: {m}"
            )


@every_form
@every_variance
def test_if_no_system_lacks_a_gene_masks_change_nothing(make_case, monkeypatch, fused, variance):
    results = []
    for own_genes in (None, np.ones((3, 12), bool)):
        monkeypatch.undo()  # a model is made as float32
        case = make_case(n_systems=3, variance=variance, own_genes=own_genes, embed=True, dropout_rate=0.3)
        objective = Objective(case.model, case.discriminator)
        context = TrainingContext(generator(7), dropout_seeds=generator(8))
        losses = trained(objective, case.batch, WEIGHTS, context, fused)
        results.append({**losses._asdict(), **gradients(objective)})
    for name, without in results[0].items():
        torch.testing.assert_close(results[1][name], without, rtol=1e-9, atol=1e-10, msg=lambda m, n=name: f"{n}: {m}")


@every_form
def test_weights_of_a_gene_that_no_system_has_change_nothing(make_case, monkeypatch, fused):
    """And weights of a gene that the cells of a minibatch lack, before and after the translation."""
    own_genes = own_genes_of(2)
    own_genes[:, 5] = [False, True]
    results = []
    for shift in (0.0, 5.0):
        monkeypatch.undo()
        case = make_case(
            own_genes=own_genes,
            index=lambda cells: (cells.covariates.system == 0).nonzero()[:, 0],
            swapped="zero",
            prior="standard_normal",
        )
        with torch.no_grad():
            for weight in (case.model.likelihood.head.weight, case.model.encoder.layers[0].weight):
                weight[4] += shift  # of no system
            case.model.likelihood.log_var[5] += shift  # of the other system, so not in the likelihood
        losses = trained(Objective(case.model), case.batch, WEIGHTS, TrainingContext(generator(7)), fused)
        d_head, d_first = case.model.likelihood.head.weight.grad, case.model.encoder.layers[0].weight.grad
        assert not d_head[4].any()
        assert not d_first[4].any()
        assert d_first[5].any()  # through the cycle
        results.append(losses._asdict())
    for name, value in results[0].items():
        torch.testing.assert_close(results[1][name], value, rtol=1e-10, atol=0, msg=lambda m, n=name: f"{n}: {m}")


# -- the cycle --------------------------------------------------------------------------------------------------------

CYCLE_ALONE = Weights(reconstruction=0.0, kl=0.0, cycle=1.0, adversary=0.0)


@pytest.mark.parametrize("own", [0, 1])
@pytest.mark.parametrize(
    ("n_systems", "training", "fused"), [(2, False, False), (3, False, False), (3, True, False), (3, True, True)]
)
def test_cycle_gradient_passes_through_the_other_systems_decoder(make_case, fused, own, n_systems, training):
    """A minibatch of one system is translated: the decoder's weights of the *other* systems get the gradient.

    A well-known implementation decodes in the cell's own system instead, and its cycle never trains the translation.
    (In training, with one other system only, its column is the same for all cells and batch normalisation removes it.)
    """
    case = make_case(n_systems=n_systems, index=lambda cells: (cells.covariates.system == own).nonzero()[:, 0])
    assert (case.batch.covariates.system == own).all()
    if training:
        trained(Objective(case.model), case.batch, CYCLE_ALONE, TrainingContext(generator(7)), fused)
    else:
        Objective(case.model)(case.batch, CYCLE_ALONE, None).total.backward()
    decoder = case.model.decoder
    for layer in decoder.layers:
        per_system = layer.cov_weight.grad[:n_systems].abs().sum(1)
        for system in range(n_systems):
            if system == own:
                assert per_system[system] == 0
            else:
                assert per_system[system] > 1e-6
    assert case.model.likelihood.head.weight.grad.abs().sum() > 1e-6
    assert training or case.model.likelihood.head.bias.grad.abs().sum() > 1e-6


@every_form
def test_cycle_depends_on_the_swapped_covariates_only_after_encoding(make_case, fused):
    """What is decoded and encoded again follows `swapped`; own covariates matter for z alone."""
    case = make_case(n_systems=3, prior="standard_normal")  # pseudo-inputs see running statistics of both passes

    def losses(batch):
        return trained(Objective(copy.deepcopy(case.model)), batch, CYCLE_ALONE, TrainingContext(generator(7)), fused)

    observed, swapped = case.batch.covariates, case.batch.swapped_covariates
    to_others = replace(swapped, system=3 - observed.system - swapped.system)
    base, other = losses(case.batch), losses(replace(case.batch, swapped_covariates=to_others))
    assert abs(base.cycle - other.cycle) > 1e-6
    assert torch.equal(base.reconstruction, other.reconstruction)
    assert torch.equal(base.kl, other.kl)


@every_form
def test_cycle_of_weight_zero_is_not_computed(make_case, fused):
    case = make_case()
    losses = trained(
        Objective(case.model), case.batch, WEIGHTS._replace(cycle=0.0), TrainingContext(generator(7)), fused
    )
    assert losses.cycle == 0


def test_standardised_distance_matches_oracle_and_ignores_scale_and_shift():
    z, z_cycled = torch.randn(2, 10, 3, generator=generator(), dtype=torch.float64)
    distance = standardised_distance(z, z_cycled)
    np.testing.assert_allclose(distance, oracle.cycle_distance(z.numpy(), z_cycled.numpy()), rtol=1e-9)
    scale = torch.tensor([1e-2, 1.0, 1e3], dtype=torch.float64)
    torch.testing.assert_close(standardised_distance(z * scale + 5, z_cycled * scale + 5), distance, rtol=1e-6, atol=0)


def test_gradient_of_standardised_distance_flows_through_the_deviation():
    z, z_cycled = (t.requires_grad_() for t in torch.randn(2, 10, 3, generator=generator(), dtype=torch.float64))
    assert torch.autograd.gradcheck(standardised_distance, (z, z_cycled))
    # Scaling both changes nothing, so the gradient has no part along (z, z'); a detached deviation would leave one.
    grads = torch.autograd.grad(standardised_distance(z, z_cycled).sum(), (z, z_cycled))
    along = sum((g * t).sum() for g, t in zip(grads, (z, z_cycled), strict=True))
    assert abs(along) < 1e-8
    assert sum(g.square().sum() for g in grads) > 1


def test_standardised_distance_of_collapsed_embeddings_is_finite():
    z = torch.ones(10, 3, dtype=torch.float64, requires_grad=True)
    distance = standardised_distance(z, z.clone()).sum()
    distance.backward()
    assert distance == 0
    assert z.grad.isfinite().all()


# -- the adversary ----------------------------------------------------------------------------------------------------


@every_form
@every_weighting
@every_number_of_systems
def test_one_step_trains_two_adversaries(make_case, weighted, n_systems, fused):
    case = make_case(weighted=weighted, n_systems=n_systems)
    batch, w = case.batch, 1.0 if case.batch.weight is None else case.batch.weight
    together = Objective(copy.deepcopy(case.model), copy.deepcopy(case.discriminator))
    trained(together, batch, WEIGHTS, TrainingContext(generator(7)), fused)

    # the model's terms without an adversary, and its wish to fool a discriminator that stays as it is
    alone = Objective(copy.deepcopy(case.model))
    trained(alone, batch, WEIGHTS, TrainingContext(generator(7)), fused)
    fooling, noise = copy.deepcopy(case.model), generator(7)
    mean, var = fooling.encoder(batch.x, fooling.code(batch.covariates), TrainingContext(noise))
    z = mean + var.sqrt() * torch.empty_like(mean).normal_(generator=noise)
    log_p = copy.deepcopy(case.discriminator).requires_grad_(False)(z).log_softmax(1)
    (WEIGHTS.adversary * (w * -log_p.sum(1) / n_systems).mean()).backward()
    assert fooling.encoder.layers[0].weight.grad.abs().sum() > 1e-3
    for name, gradient in gradients(together.model).items():
        pushes = [g for g in (gradients(alone.model)[name], gradients(fooling)[name]) if g is not None]
        torch.testing.assert_close(gradient, sum(pushes), rtol=1e-8, atol=1e-9, msg=lambda m, n=name: f"{n}: {m}")

    # the discriminator alone, at a z that stays as it is
    guess = torch.nn.functional.cross_entropy(case.discriminator(z.detach()), batch.covariates.system, reduction="none")
    (w * guess).mean().backward()
    for name, gradient in gradients(together.discriminator).items():
        assert gradient.abs().sum() > 0
        torch.testing.assert_close(gradient, gradients(case.discriminator)[name], rtol=1e-8, atol=1e-10)


# -- training and validation ------------------------------------------------------------------------------------------


def test_validation_is_deterministic_and_leaves_running_statistics(make_case):
    case = make_case(dropout_rate=0.5)
    objective = Objective(case.model, case.discriminator)
    before = copy.deepcopy(objective.state_dict())
    first, second = (objective(case.batch, WEIGHTS, None) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    for name, value in objective.state_dict().items():
        assert torch.equal(value, before[name]), name
    # a cell's reconstruction and KL do not depend on the cells beside it
    b = case.batch
    parts = [
        Minibatch(b.x[i], b.covariates.select(i), b.swapped_covariates.select(i), None)
        for i in torch.arange(B).split(B // 2)
    ]
    for term in ("reconstruction", "kl"):
        halves = [getattr(objective(part, WEIGHTS, None), term).item() for part in parts]
        assert np.mean(halves) == pytest.approx(getattr(first, term).item(), rel=1e-9)


@every_code
@every_variance
@pytest.mark.parametrize(("prior", "mixture"), PRIORS[:2])
def test_frozen_layers_against_the_oracle(make_case, prior, mixture, variance, embed):
    """Weights of chosen covariates have the gradient of the oracle's loss of evaluation; no others have any."""
    case = make_case(prior=prior, mixture=mixture, variance=variance, embed=embed, dropout_rate=0.3)
    model, weights = case.model, WEIGHTS._replace(adversary=0.0)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    masks = {}
    for name, parameter in model.named_parameters():
        if name.endswith("cov_weight") or name.startswith("code.tables"):
            masks[name] = torch.zeros(len(parameter), 1, dtype=torch.float64)
            masks[name][1] = 1
        if name in ("likelihood.head.weight", "likelihood.log_var_head.weight"):
            masks[name] = torch.zeros(1, parameter.shape[1], dtype=torch.float64)
            masks[name][0, -2] = 1
    with train_only(model, masks):
        losses = Objective(model)(case.batch, weights, TrainingContext(generator(3), frozen_layers=True))
        losses.total.backward()
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    eps = normal_draws((B, model.settings.n_latent), 3).numpy()

    def loss(p):
        sizes = case.n_systems, model.code.n_categories
        return oracle.losses(p, model.settings, as_arrays(case.batch), weights, eps, *sizes, training=False).total

    arrays = oracle.arrays(state)
    assert losses.total.item() == pytest.approx(loss(arrays), rel=1e-9)
    for name, parameter in model.named_parameters():
        if name not in masks:
            assert parameter.grad is None, name
            continue
        mask = masks[name].expand_as(parameter).numpy()
        gradient = parameter.grad.numpy()
        assert not gradient[mask == 0].any(), name
        for place in np.argwhere(mask)[::3]:
            difference = 0.0
            for sign in (1, -1):
                moved = dict(arrays) | {name: arrays[name].copy()}
                moved[name][tuple(place)] += sign * 1e-5
                difference += sign * loss(moved)
            assert gradient[tuple(place)] == pytest.approx(difference / 2e-5, rel=1e-4, abs=1e-5), name
