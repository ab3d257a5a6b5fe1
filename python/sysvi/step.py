"""One step of training, and what it is done with at each moment."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from sysvi.adam import Adam
from sysvi.cells import Minibatch
from sysvi.networks import Training
from sysvi.objective import Objective, Weights
from sysvi.settings import RAMPS, TrainSettings


def train_step(
    objective: Objective,
    optimiser: Adam,
    batch: Minibatch,
    settings: TrainSettings,
    progress: float,
    training: Training,
) -> Tensor:
    """One step on a minibatch, at `progress` in [0, 1) of training; the loss terms, as `sysvi.train.TERMS`."""
    weights, lr = weights_at(settings, progress), learning_rate(settings, progress)
    return update(objective, optimiser, batch, weights, lr, settings.clip_norm, training)


def update(
    objective: Objective,
    optimiser: Adam,
    batch: Minibatch,
    weights: Weights,
    lr: float | Tensor,
    clip_norm: float | None,
    training: Training,
) -> Tensor:
    """Losses of a minibatch, their gradients, and the change of the parameters; the loss terms."""
    losses = objective(batch, weights, training)
    losses.total.backward()
    if clip_norm is not None:
        nn.utils.clip_grad_norm_(optimiser.parameters, clip_norm)
    optimiser.step(lr)
    return torch.stack([term.detach() for term in losses])


def learning_rate(settings: TrainSettings, progress: float) -> float:
    """Learning rate at `progress` in [0, 1): constant, or a short rise and then half a cosine down to a hundredth."""
    assert settings.lr is not None
    if settings.lr_schedule == "constant":
        return settings.lr
    rise = 0.05
    if progress < rise:
        return settings.lr * (0.1 + 0.9 * progress / rise)
    fall = (progress - rise) / (1 - rise)
    return settings.lr * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * fall)))


def weights_at(settings: TrainSettings, progress: float) -> Weights:
    """Loss weights at `progress` in [0, 1]."""
    return Weights(*(getattr(settings, name).at(progress) for name in RAMPS))
