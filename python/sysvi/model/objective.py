"""The loss of one minibatch: a pure function of model, minibatch, weights and noise.

    L = reconstruction + w_kl KL + w_cyc cycle (+ w_adv adversary), each a mean over cells

Shapes: B cells, G genes, H hidden units, L latent dimensions, C covariate width.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from sysvi.data.cells import Minibatch
from sysvi.model.cvae import Model
from sysvi.model.likelihoods import gaussian_nll
from sysvi.model.networks import Discriminator, Training


class Weights(NamedTuple):
    """Weights of the loss terms at one moment of training, numbers or scalars on the device; as `settings.RAMPS`."""

    reconstruction: float | Tensor
    kl: float | Tensor
    cycle: float | Tensor  # without the cycle's passes where it is the number 0
    adversary: float | Tensor
    mixture: float | Tensor = 1.0  # share of the mixture prior in the divergence


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

    It is written plainly, and serves for validation and as the oracle of `sysvi.training.gradient`.

    Parameters
    ----------
    model
        The model.
    discriminator
        Guesses the system from z; None where there is no adversary.
    """

    def __init__(self, model: Model, discriminator: Discriminator | None = None):
        super().__init__()
        self.model = model
        self.discriminator = discriminator

    def forward(self, batch: Minibatch, weights: Weights, training: Training | None) -> Losses:
        """Losses of a minibatch; without `training`, those of validation (no dropout, z at its mean)."""
        model, encoder, decoder = self.model, self.model.encoder, self.model.decoder
        c, c_swapped = model.code(batch.covariates), model.code(batch.swapped_covariates)  # (B, C)
        mean, var = encoder(batch.x, c, training)  # (B, L)
        z = mean + var.sqrt() * normal_like(mean, training)
        reconstruction = gaussian_nll(batch.x.to_dense(), *decoder(z, c, training))  # (B,)
        mean_cycled = None
        if isinstance(weights.cycle, Tensor) or weights.cycle > 0:
            translated, _ = decoder(z, c_swapped, training)  # (B, G)
            mean_cycled, _ = encoder(translated, c_swapped, training)
        # After the passes that change the encoder's running statistics, with which pseudo-inputs are encoded.
        latent = self.latent_terms(batch, weights.mixture, mean, var, z, mean_cycled)
        return self.losses(weights, weighted_mean(reconstruction, batch.weight), *latent)

    def latent_terms(
        self,
        batch: Minibatch,
        mixture: float | Tensor,
        mean: Tensor,
        var: Tensor,
        z: Tensor,
        mean_cycled: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Divergence, cycle, adversary and discriminator, from what is of (B, L)."""
        w = batch.weight
        cycle = adversary = discriminator = torch.zeros((), device=z.device)
        if mean_cycled is not None:
            cycle = weighted_mean(standardised_distance(mean, mean_cycled), w)
        kl = weighted_mean(self.model.prior.kl(mean, var, z, self.model.encoder, mixture), w)
        if self.discriminator is not None:
            adversary, discriminator = self._adversary(z, batch.covariates.system, w)
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
        """The terms and what is minimised."""
        total = (
            weights.reconstruction * reconstruction
            + weights.kl * kl
            + weights.cycle * cycle
            + weights.adversary * adversary
            + discriminator
        )
        return Losses(total, reconstruction, kl, cycle, adversary, discriminator)

    def _adversary(self, z: Tensor, system: Tensor, w: Tensor | None) -> tuple[Tensor, Tensor]:
        """Losses of the encoder, which wants its system unknown, and of the discriminator, which wants it found.

        The encoder's loss is the cross-entropy of the discriminator's guess to the uniform distribution over systems
        (domain confusion, Tzeng et al., ICCV 2015); it passes through a copy of the discriminator that gets no
        gradient. The discriminator's is the cross-entropy to the true system and stops at z. So one backward pass
        updates both as adversaries. (A guess of the *other* systems as the encoder's aim has no rest where systems are
        mixed: they change places instead.)
        """
        assert self.discriminator is not None
        frozen = {name: p.detach() for name, p in self.discriminator.named_parameters()}
        log_p = functional_call(self.discriminator, frozen, z).log_softmax(1)  # (B, S)
        adversary = -log_p.mean(1)  # (B,)
        guess = F.cross_entropy(self.discriminator(z.detach()), system, reduction="none")
        return weighted_mean(adversary, w), weighted_mean(guess, w)


def standardised_distance(z: Tensor, z_cycled: Tensor) -> Tensor:
    """Squared distance of two embeddings after standardising both with the joint std: (B, L), (B, L) -> (B,).

    The mean cancels in the difference. The gradient passes through the standard deviation: without it the model
    could shrink the distance by shrinking z.
    """
    var = torch.cat([z, z_cycled]).var(0)  # (L,), over 2B rows
    return ((z - z_cycled).square() / (var + 1e-12)).sum(1)


def weighted_mean(per_cell: Tensor, w: Tensor | None) -> Tensor:
    """Mean over cells (B,), each counted with its weight."""
    return per_cell.mean() if w is None else (w * per_cell).mean()


def normal_like(x: Tensor, training: Training | None) -> Tensor:
    """Standard normal draws of the shape of x; without `training` their mean, 0."""
    if training is None:
        return torch.zeros_like(x)
    return torch.empty_like(x).normal_(generator=training.noise)
