"""One step of training: losses, gradients, and the update of the parameters."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from sysvi._core.parallel import PairExecutor, Task, do_nothing, run_sequentially
from sysvi._core.ranks import Ranks
from sysvi._core.settings import RAMPS, TrainSettings
from sysvi.data.cells import Minibatch
from sysvi.model.networks import TrainingContext
from sysvi.model.objective import Objective, Weights
from sysvi.training.gradient import backpropagate
from sysvi.training.optimiser import Adam


@dataclass(frozen=True)
class Stepper:
    """Takes steps of training.

    Parameters
    ----------
    objective, optimiser
        What is trained, and the optimiser of its parameters.
    settings
        Training settings in which epochs, minibatch size and learning rate are decided.
    context
        Random generators and number types of a step.
    run_pair
        Runs two independent parts of a step.
    """

    objective: Objective
    optimiser: Adam
    settings: TrainSettings
    context: TrainingContext
    run_pair: PairExecutor = run_sequentially

    def step(self, batch: Minibatch, progress: float, prefetch: Task = do_nothing) -> Tensor:
        """Take a step on a minibatch, at `progress` in [0, 1) of training; the loss terms, as in `Losses`, (6,).

        `prefetch` is run during the step, where there is time for it.
        """
        weights, lr = loss_weights(self.settings, progress), learning_rate(self.settings, progress)
        return self.update(batch, weights, lr, self.context, prefetch)

    def update(
        self,
        batch: Minibatch,
        weights: Weights,
        lr: float | Tensor,
        context: TrainingContext,
        prefetch: Task = do_nothing,
    ) -> Tensor:
        """As `step`, with loss weights, learning rate and random generators given."""
        if context.frozen_layers:
            losses = self.objective(batch, weights, context)
            losses.total.backward()
            prefetch()
        else:
            losses = backpropagate(self.objective, batch, weights, context, self.run_pair, prefetch)
        terms = torch.stack([term.detach() for term in losses])
        if batch.part is not None:
            terms = sum_over_ranks(batch.part.ranks, self.optimiser.parameters, terms)
        if self.settings.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.optimiser.parameters, self.settings.clip_norm)
        self.optimiser.step(lr, self.run_pair)
        return terms


def sum_over_ranks(ranks: Ranks, parameters: Iterable[nn.Parameter], terms: Tensor) -> Tensor:
    """Sum the gradients of the parameters and the loss terms, (6,), over the processes, in one communication."""
    trained = [parameter for parameter in parameters if parameter.grad is not None]
    summands = [terms, *(cast(Tensor, parameter.grad) for parameter in trained)]
    sums = ranks.total(torch.cat([x.flatten() for x in summands])).split([x.numel() for x in summands])
    for parameter, gradient in zip(trained, sums[1:], strict=True):
        parameter.grad = gradient.view_as(parameter)
    return sums[0]


def learning_rate(settings: TrainSettings, progress: float) -> float:
    """Learning rate at `progress` in [0, 1): constant, or a warm-up and then half a cosine down to a hundredth."""
    assert settings.lr is not None
    if settings.lr_schedule == "constant":
        return settings.lr
    warm_up = 0.05
    if progress < warm_up:
        return settings.lr * (0.1 + 0.9 * progress / warm_up)
    decay = (progress - warm_up) / (1 - warm_up)
    return settings.lr * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * decay)))


def loss_weights(settings: TrainSettings, progress: float) -> Weights:
    """Loss weights at `progress` in [0, 1]."""
    return Weights(*(getattr(settings, name).value_at(progress) for name in RAMPS))
