"""The loss of one minibatch: a pure function of model, minibatch, loss weights and noise.

    L = w_rec reconstruction + w_kl KL + w_cyc cycle (+ w_adv adversary), each term a mean over cells

Shapes: B cells of a minibatch, G genes, H hidden units, L latent dimensions, C covariate width, S systems.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from sysvi._core.ranks import Part
from sysvi.data.cells import Minibatch
from sysvi.model.cvae import Model
from sysvi.model.networks import Discriminator, TrainingContext


class Weights(NamedTuple):
    """Weights of the loss terms at one moment of training, in the order of `settings.RAMPS`.

    Numbers, or scalar tensors on the device.
    """

    reconstruction: float | Tensor
    kl: float | Tensor
    cycle: float | Tensor  # for the number 0, the passes of the cycle are left out
    adversary: float | Tensor
    mixture: float | Tensor = 1.0  # share of a mixture prior in the divergence


class Losses(NamedTuple):
    """Loss terms, unweighted means over the cells of a minibatch; `total` is what is minimised."""

    total: Tensor
    reconstruction: Tensor
    kl: Tensor
    cycle: Tensor
    adversary: Tensor
    discriminator: Tensor


class Objective(nn.Module):
    """The model and, for the ADV baseline, its adversary, as one module whose forward is the loss.

    This is the plain form, differentiated by autograd. It computes the loss on held-out cells, and is the reference
    that the tests compare the hand-written gradient (`sysvi.training.gradient`) with.

    Parameters
    ----------
    model
        The model.
    discriminator
        Predicts the system from z; None without an adversary.
    """

    def __init__(self, model: Model, discriminator: Discriminator | None = None):
        super().__init__()
        self.model = model
        self.discriminator = discriminator

    def forward(self, batch: Minibatch, weights: Weights, context: TrainingContext | None) -> Losses:
        """Loss terms of a minibatch; without a `context`, those of evaluation (no dropout, z at its mean).

        Of a part of a minibatch, they are terms of a sum over the processes.
        """
        model, encoder, decoder = self.model, self.model.encoder, self.model.decoder
        system, swapped = batch.covariates.system, batch.swapped_covariates.system
        c, c_swapped = model.code(batch.covariates), model.code(batch.swapped_covariates)  # (B, C)
        layers = None if context is None or context.frozen_layers else context
        mean, var = encoder(batch.x, c, layers)  # (B, L)
        z = mean + var.sqrt() * normal_like(mean, context, batch.part)
        reconstruction = model.nll(batch.x.to_dense(), decoder(z, c, layers), system)  # (B,)
        mean_cycled = None
        if isinstance(weights.cycle, Tensor) or weights.cycle > 0:
            translated = model.mean(decoder(z, c_swapped, layers), swapped)  # (B, G)
            mean_cycled, _ = encoder(translated, c_swapped, layers)
        # Last, since the VampPrior encodes its pseudo-inputs with the running statistics that the passes above change.
        latent = self.latent_terms(batch, weights.mixture, mean, var, z, mean_cycled)
        return self.losses(weights, weighted_mean(reconstruction, batch.weight, batch.part), *latent)

    def latent_terms(
        self,
        batch: Minibatch,
        mixture: float | Tensor,
        mean: Tensor,
        var: Tensor,
        z: Tensor,
        mean_cycled: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """KL, cycle, adversary and discriminator terms, from latent variables (B, L)."""
        w, part = batch.weight, batch.part
        cycle = adversary = discriminator = torch.zeros((), device=z.device)
        if mean_cycled is not None:
            cycle = weighted_mean(standardised_distance(mean, mean_cycled, part), w, part)
        kl = weighted_mean(self.model.prior.kl(mean, var, z, self.model.encoder, mixture), w, part)
        if self.discriminator is not None:
            adversary, discriminator = self._adversary(z, batch.covariates.system, w, part)
        return kl, cycle, adversary, discriminator

    @staticmethod
    def losses(
        weights: Weights,
        reconstruction: Tensor,
        kl: Tensor,
        cycle: Tensor,
        adversary: Tensor,
        discriminator: Tensor,
    ) -> Losses:
        """The terms together with their weighted sum."""
        total = (
            weights.reconstruction * reconstruction
            + weights.kl * kl
            + weights.cycle * cycle
            + weights.adversary * adversary
            + discriminator
        )
        return Losses(total, reconstruction, kl, cycle, adversary, discriminator)

    def _adversary(self, z: Tensor, system: Tensor, w: Tensor | None, part: Part | None) -> tuple[Tensor, Tensor]:
        """Loss of the encoder, which hides the system, and of the discriminator, which predicts it.

        The encoder's loss is the cross-entropy between the discriminator's prediction and the uniform distribution over
        systems (domain confusion, Tzeng et al., ICCV 2015). It passes through a copy of the discriminator that gets no
        gradient. The discriminator's loss is the cross-entropy with the true system, and its gradient stops at z. So
        one backward pass trains both against each other. (If the encoder aimed at the *other* systems instead, it
        would not stop where the systems are mixed: they would swap places.)
        """
        assert self.discriminator is not None
        frozen = {name: p.detach() for name, p in self.discriminator.named_parameters()}
        log_p = functional_call(self.discriminator, frozen, z).log_softmax(1)  # (B, S)
        adversary = -log_p.mean(1)  # (B,)
        prediction = F.cross_entropy(self.discriminator(z.detach()), system, reduction="none")
        return weighted_mean(adversary, w, part), weighted_mean(prediction, w, part)


def standardised_distance(z: Tensor, z_cycled: Tensor, part: Part | None = None) -> Tensor:
    """Squared distance of two embeddings, both standardised by their joint standard deviation: (B, L), (B, L) -> (B,).

    The joint mean cancels in the difference. The gradient passes through the standard deviation: otherwise the model
    could reduce the distance by shrinking z.
    """
    both = torch.cat([z, z_cycled])
    if part is None:
        var = both.var(0)  # (L,), over 2B rows
    else:
        n = 2 * part.n_cells
        mean = part.ranks.total(both.detach().sum(0)) / n  # without a gradient, which would be 0
        var = part.total((both - mean).square().sum(0)) / (n - 1)
    return ((z - z_cycled).square() / (var + 1e-12)).sum(1)


def weighted_mean(per_cell: Tensor, w: Tensor | None, part: Part | None = None) -> Tensor:
    """Mean over cells, (B,) -> (), each counted with its weight; of a part of a minibatch, its term of this mean."""
    weighted = per_cell if w is None else w * per_cell
    return weighted.mean() if part is None else weighted.sum() / part.n_cells


def normal_like(x: Tensor, context: TrainingContext | None, part: Part | None = None) -> Tensor:
    """Standard normal draws in the shape of x; without a `context` their mean, 0.

    For a part of a minibatch, they are drawn for all its cells, so that they do not depend on the parts.
    """
    if context is None:
        return torch.zeros_like(x)
    if part is not None:
        return x.new_empty(part.n_cells, x.shape[1]).normal_(generator=context.noise)[part.places]
    return torch.empty_like(x).normal_(generator=context.noise)
