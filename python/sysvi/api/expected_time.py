"""How long a training would take, from a few steps on random values.

Shapes: n cells, G genes, B cells of a minibatch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from scipy import sparse

from sysvi._core.parallel import single_thread_pool
from sysvi._core.seeds import generator
from sysvi._core.settings import PRIORS, ModelSettings, TrainSettings
from sysvi._core.words import duration
from sysvi.api.train_many import n_parallel_models
from sysvi.data.cells import Cells, Vocabulary, n_minibatches
from sysvi.model.cvae import Model
from sysvi.training.loop import train

# The longest expected time is so many times the shortest: the first steps of a training are the fastest, and windows,
# held-out cells and other work on the machine are not measured.
SPREAD = 2.0


def expected_seconds(
    vocabulary: Vocabulary,
    n_genes: int,
    density: float,
    n_trained: int,
    n_members: int,
    model_settings: ModelSettings,
    training: TrainSettings,
    device: torch.device,
) -> tuple[float, float]:
    """Measure a few steps, and estimate the time of training from them.

    Parameters
    ----------
    vocabulary
        Systems and covariates of the cells.
    n_genes, density
        Number of genes, G, and fraction of values that are not zero.
    n_trained
        Number of cells that are trained on.
    n_members
        Number of models.
    model_settings, training
        Settings of a model and of its training, with epochs and minibatch size decided.
    device
        Device on which they would be trained.

    Returns
    -------
    shortest, longest
        Seconds of the training alone, a rough range.
    """
    assert training.batch_size is not None
    assert training.max_epochs is not None
    n_at_once = 1 if n_members == 1 else min(n_members, n_parallel_models(device))
    cells = _random_cells(vocabulary, n_genes, density, min(n_trained, 2 * training.batch_size), device)
    # Without early stopping, which needs held-out cells; the time of an epoch does not depend on it.
    settings = replace(training, max_epochs=1, train_size=1.0, early_stopping=False)

    def step_seconds(seed: int) -> float:
        model = _new_model(vocabulary, n_genes, model_settings, cells, seed).to(device)
        events: list[Mapping[str, Any]] = []
        train(model, cells, settings, lambda event: events.append(event.values), stop=lambda: True)
        return float(events[0]["expected_seconds"]) / n_minibatches(cells.n_cells, settings.batch_size or 1)

    if n_members == 1:
        seconds = step_seconds(0)
    else:  # as in `train_each`: each model in a thread of its own, as many as would be trained in parallel
        with single_thread_pool(device, n_at_once) as pool:
            seconds = max(pool.map(step_seconds, range(n_at_once)))
    n_steps = training.max_epochs * n_minibatches(n_trained, training.batch_size)
    shortest = seconds * n_steps * -(-n_members // n_at_once)
    return shortest, SPREAD * shortest


def describe_seconds(shortest: float, longest: float) -> str:
    """A range of time in words.

    Examples
    --------
    >>> describe_seconds(3.2, 6.4), describe_seconds(200, 400), describe_seconds(9000, 18000)
    ('3 to 7 s', '3 to 7 min', '2.5 to 5.0 h')
    """
    if longest < 90:
        return f"{int(shortest)} to {duration(int(longest) + 1)}"
    if longest < 90 * 60:
        return f"{int(shortest // 60)} to {int(longest // 60) + 1} min"
    return f"{shortest / 3600:.1f} to {longest / 3600:.1f} h"


def _random_cells(vocabulary: Vocabulary, n_genes: int, density: float, n: int, device: torch.device) -> Cells:
    """Cells of random expression and covariates, (n, G)."""
    rng = np.random.default_rng(0)
    x = sparse.random(n, n_genes, density, format="csr", dtype=np.float32, rng=rng)
    system = rng.permutation(np.arange(n) % len(vocabulary.systems))
    categorical = (
        np.stack([rng.integers(0, k, n) for k in vocabulary.n_categories], 1) if vocabulary.categorical else None
    )
    continuous = rng.normal(size=(n, len(vocabulary.continuous)))
    return Cells(x, system, categorical, continuous, n_systems=len(vocabulary.systems), device=device)


def _new_model(vocabulary: Vocabulary, n_genes: int, settings: ModelSettings, cells: Cells, seed: int) -> Model:
    """An untrained model for these cells, whose prior starts at some of them."""
    v, init = vocabulary, generator(seed, "weights")
    model = Model(settings, n_genes, len(v.systems), v.n_categories, len(v.continuous), init)
    rows = torch.arange(settings.n_prior_components, device=cells.device) % cells.n_cells
    model.init_prior(cells, rows if PRIORS[settings.prior].starts_at_cells else None, init)
    return model
