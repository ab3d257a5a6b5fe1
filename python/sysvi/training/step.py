"""One step of training, and what it is done with at each moment."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sysvi._core.parallel import PairExecutor, Task, do_nothing, run_sequentially
from sysvi._core.settings import RAMPS, TrainSettings
from sysvi.data.cells import Minibatch
from sysvi.model.networks import Training
from sysvi.model.objective import Objective, Weights
from sysvi.training.gradient import backpropagate
from sysvi.training.optimiser import Adam


@dataclass(frozen=True)
class Stepper:
    """Takes steps of training.

    Parameters
    ----------
    objective, optimiser
        What is trained, and how it is changed.
    settings
        How to train; decided.
    training
        What a step draws from, and the type of its products.
    fused
        Gradients by hand (`sysvi.training.gradient`), or of the plain loss by autograd.
    beside
        How two parts of a step of which neither waits for the other are done.
    """

    objective: Objective
    optimiser: Adam
    settings: TrainSettings
    training: Training
    fused: bool = True
    beside: PairExecutor = run_sequentially

    def step(self, batch: Minibatch, progress: float, prefetch: Task = do_nothing) -> Tensor:
        """One step on a minibatch, at `progress` in [0, 1) of training; the loss terms, as `sysvi.train.TERMS`.

        `prefetch` is done too, where there is time for it.
        """
        weights, lr = loss_weights(self.settings, progress), learning_rate(self.settings, progress)
        return self.update(batch, weights, lr, self.training, prefetch)

    def update(
        self, batch: Minibatch, weights: Weights, lr: float | Tensor, training: Training, prefetch: Task = do_nothing
    ) -> Tensor:
        """Losses of a minibatch, their gradients, and the change of the parameters; the loss terms."""
        if self.fused:
            losses = backpropagate(self.objective, batch, weights, training, self.beside, prefetch)
        else:
            losses = self.objective(batch, weights, training)
            losses.total.backward()
            prefetch()
        if self.settings.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.optimiser.parameters, self.settings.clip_norm)
        self.optimiser.step(lr, self.beside)
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


def loss_weights(settings: TrainSettings, progress: float) -> Weights:
    """Loss weights at `progress` in [0, 1]."""
    return Weights(*(getattr(settings, name).value_at(progress) for name in RAMPS))
