"""A new prior and a new likelihood, each written here and nowhere else, train, save, load and fall back to autograd."""

import copy
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import sysvi
import sysvi.training.loop
from sysvi._core.settings import LIKELIHOODS, PRIORS, ModelSettings, TrainSettings
from sysvi.kernels.densities import normal_log_density
from sysvi.kernels.plan import choose_compute_plan
from sysvi.model.likelihoods import Likelihood
from sysvi.model.networks import Linear, TrainingContext
from sysvi.model.objective import Objective, Weights
from sysvi.model.priors import Prior
from sysvi.training.gradient import backpropagate
from sysvi.training.graphs import GraphEpochs
from sysvi.training.loop import train


class LaplacePrior(Prior):
    """p(z) = Π_d Laplace(0, b_d) with trainable scales b; the divergence is estimated at one sample."""

    def __init__(self, settings, n_genes, n_covariates):
        super().__init__(settings, n_genes, n_covariates)
        self.log_scale = nn.Parameter(torch.zeros(settings.n_latent))

    def kl(self, mean, var, z, encoder, share=1.0):
        log_p = -z.abs() / self.log_scale.exp() - self.log_scale - np.log(2)
        return (normal_log_density(z, mean, var) - log_p).sum(1)


class LaplaceLikelihood(Likelihood):
    """x ~ Laplace(softplus(h W' + b), s) with a trainable scale s per gene: neither linear nor of statistics."""

    def __init__(self, settings, n_inputs, n_genes, init):
        super().__init__(settings, n_inputs, n_genes, init)
        self.head = Linear(n_inputs, n_genes, init)
        self.log_scale = nn.Parameter(torch.zeros(n_genes))

    def mean(self, h):
        return F.softplus(self.head(h))

    def nll(self, x, h):
        return ((x - self.mean(h)).abs() / self.log_scale.exp() + self.log_scale + np.log(2)).sum(1)


class LinearLaplaceLikelihood(LaplaceLikelihood):
    """The same with a linear mean, with which the cycle never forms expression."""

    def mean(self, h):
        return self.head(h)

    @property
    def linear_mean(self):
        return self.head


NEW = [
    {"prior": "laplace"},
    {"likelihood": "laplace"},
    {"likelihood": "linear_laplace"},
    {"prior": "laplace", "likelihood": "laplace"},
]
every_new = pytest.mark.parametrize("new", NEW, ids=lambda new: "-".join(new.values()))


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    """The three are registered during a test."""
    for registry in (PRIORS, LIKELIHOODS):
        monkeypatch.setattr(registry, "_classes", dict(registry._classes))
    PRIORS.register("laplace")(LaplacePrior)
    LIKELIHOODS.register("laplace")(LaplaceLikelihood)
    LIKELIHOODS.register("linear_laplace")(LinearLaplaceLikelihood)


@pytest.mark.slow
@every_new
def test_they_train_save_and_load(make_adata, tmp_path, new):
    adata = make_adata()
    model = sysvi.integrate(adata, "system", "batch", members=1, max_epochs=3, progress=False, **new)
    losses = model.history["reconstruction_loss_train"].to_numpy()
    assert np.isfinite(losses).all()
    assert losses[-1] < losses[0]
    model.save(tmp_path)
    loaded = sysvi.SysVI.load(tmp_path, adata)
    np.testing.assert_array_equal(loaded.get_latent_representation(), adata.obsm["X_sysVI"])
    assert loaded.model_settings == model.model_settings == replace(ModelSettings(), **new)
    for name, tensor in model.module.state_dict().items():
        assert torch.equal(loaded.module.state_dict()[name], tensor), name
    if "prior" in new:
        assert (model.module.state_dict()["prior.log_scale"] != 0).all()


def test_names_that_nobody_registered_are_refused(make_adata, tmp_path):
    adata = make_adata()
    sysvi.integrate(adata, "system", members=1, max_epochs=1, progress=False, likelihood="laplace").save(tmp_path)
    script = f"import sysvi; sysvi.SysVI.load({str(tmp_path)!r})"
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", script], capture_output=True, text=True)
    assert done.returncode != 0
    assert "likelihood is 'laplace'; it must be one of gaussian" in done.stderr
    for kind in ("prior", "likelihood"):
        with pytest.raises(sysvi.InputError, match=f"{kind} is 'nonsense'; it must be one of "):
            ModelSettings(**{kind: "nonsense"})


@every_new
@pytest.mark.parametrize("cycle", [0.0, 4.0])
@pytest.mark.parametrize("sparse", [False, True], ids=["dense", "sparse"])
def test_gradients_are_those_of_autograd(make_cells, make_model, new, cycle, sparse):
    """The hand-written gradient falls back to autograd where it must, without giving up the rest."""
    cells = make_cells(n_systems=3, weight_systems=True)
    model = make_model(cells, dropout_rate=0.3, embed_categorical_covariates=True, **new)
    weights = Weights(1.3, 0.7, cycle, 0.0, 0.3)
    batch = cells.minibatch(torch.arange(20), "observed", torch.Generator().manual_seed(0), sparse=sparse)
    results = []
    for by_hand in (True, False):
        objective = Objective(copy.deepcopy(model))
        noise, seeds = (torch.Generator().manual_seed(seed) for seed in (1, 2))
        context = TrainingContext(noise, dropout_seeds=seeds)
        if by_hand:
            losses = backpropagate(objective, batch, weights, context)
        else:
            losses = objective(batch, weights, context)
            losses.total.backward()
        gradients = {name: p.grad for name, p in objective.named_parameters()}
        results.append((losses._asdict(), gradients, dict(objective.named_buffers())))
    scale = results[1][0]["total"].item()
    for ours, expected in zip(*results, strict=True):
        assert ours.keys() == expected.keys()
        for name, value in expected.items():
            torch.testing.assert_close(
                ours[name], value, rtol=1e-3, atol=1e-5 * scale, msg=lambda m, n=name: f"{n}: {m}"
            )
    assert all(gradient is not None for gradient in results[0][1].values())


@pytest.mark.parametrize(
    ("new", "reason"),
    [
        ({}, "likelihood from per-gene statistics: 'gaussian' has a linear mean and a variance per gene"),
        ({"prior": "laplace"}, "likelihood from per-gene statistics: "),
        ({"out_var_mode": "sample_feature"}, "likelihood by autograd: 'gaussian' has no per-gene statistics"),
        ({"likelihood": "linear_laplace"}, "likelihood by autograd: 'linear_laplace' has no per-gene statistics"),
        ({"likelihood": "laplace"}, "likelihood and the cycle's decoded expression by autograd: the mean of 'laplace'"),
    ],
)
def test_the_run_says_what_falls_back_and_keeps_the_rest(make_cells, make_model, new, reason):
    """Sparse expression and bfloat16 products stay."""
    cells = make_cells()
    cells.x.data[cells.x.data < 1.5] = 0
    cells.x.eliminate_zeros()
    run = train(make_model(cells, **new), cells, TrainSettings(max_epochs=2, precision="bfloat16"))
    assert run.kernels.why[-1].startswith(reason)
    assert (run.kernels.sparse, run.kernels.matmul_dtype) == (True, torch.bfloat16)
    assert np.isfinite(run.history["total_train"]).all()


@pytest.mark.slow
@every_new
def test_graphs_stay(make_cells, make_model, monkeypatch, new):
    """Steps are captured as on a GPU; without one, the replay is run by Python."""

    def with_graph(*args, **kwargs):
        return replace(choose_compute_plan(torch.device("cuda"), 0.5, precision="float32"), concurrent=False)

    class PythonEpochs(GraphEpochs):
        def __init__(self, *args):
            super().__init__(*args, capture=lambda task, device, generators=(): task)

    losses = []
    for graph in (True, False):
        with monkeypatch.context() as patch:
            if graph:
                patch.setattr(sysvi.training.loop, "choose_compute_plan", with_graph)
                patch.setattr(sysvi.training.loop, "GraphEpochs", PythonEpochs)
            cells = make_cells()
            settings = TrainSettings(max_epochs=3, batch_size=10, precision="float32")
            run = train(make_model(cells, **new), cells, settings)  # without dropout, whose seeds differ
            assert run.kernels.graph == graph
            losses.append(run.history["total_train"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
