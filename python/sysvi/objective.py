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

from sysvi.cells import Minibatch
from sysvi.expression import Sparse
from sysvi.likelihood import gaussian_nll, gaussian_nll_total
from sysvi.model import Model
from sysvi.networks import Discriminator, Training


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

    Being one module, it can be wrapped for distributed training.

    Parameters
    ----------
    model
        The model.
    discriminator
        Guesses the system from z; None where there is no adversary.
    fused
        Use the cheap forms where they apply: the likelihood from per-gene statistics (needs one variance per gene) and
        a cycle that never writes expression. Same values and gradients as the plain forms.
    """

    def __init__(self, model: Model, discriminator: Discriminator | None = None, *, fused: bool = True):
        super().__init__()
        self.model = model
        self.discriminator = discriminator
        self.fused = fused

    def forward(self, batch: Minibatch, weights: Weights, training: Training | None) -> Losses:
        """Losses of a minibatch; without `training`, those of validation (no dropout, z at its mean)."""
        model, w = self.model, batch.weight
        c = model.code(batch.own)  # (B, C)
        mean, var = model.encoder(batch.x, c, training)  # (B, L)
        z = mean + var.sqrt() * _normal_like(mean, training)

        reconstruction = self._reconstruction(batch.x, z, c, w, training)
        zero = torch.zeros((), device=z.device)
        cycle = adversary = discriminator = zero
        if isinstance(weights.cycle, Tensor) or weights.cycle > 0:
            mean_cycled = self._cycled_mean(batch.x, z, model.code(batch.swapped), training)
            cycle = _mean(standardised_distance(mean, mean_cycled), w)
        # After the passes that change the encoder's running statistics, with which pseudo-inputs are encoded.
        kl = _mean(model.prior.kl(mean, var, z, model.encoder, weights.mixture), w)
        if self.discriminator is not None:
            adversary, discriminator = self._adversary(z, batch.own.system, w)
        total = (
            weights.reconstruction * reconstruction
            + weights.kl * kl
            + weights.cycle * cycle
            + weights.adversary * adversary
            + discriminator
        )
        return Losses(total, reconstruction, kl, cycle, adversary, discriminator)

    def _fuses(self, x: Tensor | Sparse) -> bool:
        """Whether the fused forms pay: for a dense minibatch they trade B x G x H products for H x G x H ones."""
        return self.fused and (isinstance(x, Sparse) or 2 * len(x) > self.model.settings.n_hidden)

    def _reconstruction(
        self, x: Tensor | Sparse, z: Tensor, c: Tensor, w: Tensor | None, training: Training | None
    ) -> Tensor:
        """Mean over cells of -log p(x | z, c)."""
        decoder = self.model.decoder
        h = decoder.hidden(z, c, training)  # (B, H)
        if self._fuses(x) and decoder.per_gene:
            head, products = decoder.mean, None if training is None else training.products
            return gaussian_nll_total(x, h, head.weight, head.bias, decoder.variance(h), w, products) / len(x)
        return _mean(gaussian_nll(x.to_dense(), decoder.mean(h), decoder.variance(h)), w)

    def _cycled_mean(self, x: Tensor | Sparse, z: Tensor, c: Tensor, training: Training | None) -> Tensor:
        """Decode z under the other system's covariates c, encode that expression under c: mean z' (B, L)."""
        encoder, decoder = self.model.encoder, self.model.decoder
        if not self._fuses(x):
            return encoder(decoder.mean(decoder.hidden(z, c, training)), c, training)[0]
        h = decoder.hidden(z, c, training, None if training is None else training.products)  # (B, H)
        return encoder.after(decoder.mean, h, c, training)[0]

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
        return _mean(adversary, w), _mean(guess, w)


def standardised_distance(z: Tensor, z_cycled: Tensor) -> Tensor:
    """Squared distance of two embeddings after standardising both with the joint std: (B, L), (B, L) -> (B,).

    The mean cancels in the difference. The gradient passes through the standard deviation: without it the model
    could shrink the distance by shrinking z.
    """
    var = torch.cat([z, z_cycled]).var(0)  # (L,), over 2B rows
    return ((z - z_cycled).square() / (var + 1e-12)).sum(1)


def _mean(per_cell: Tensor, w: Tensor | None) -> Tensor:
    """Mean over cells (B,), each counted with its weight."""
    return per_cell.mean() if w is None else (w * per_cell).mean()


def _normal_like(x: Tensor, training: Training | None) -> Tensor:
    if training is None:
        return torch.zeros_like(x)
    return torch.empty_like(x).normal_(generator=training.noise)
