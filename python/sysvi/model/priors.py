"""Priors p(z) and their divergence from q(z | x, c).

Shapes: B cells of a minibatch, L latent dimensions, K prior components, G genes, C covariate width.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from sysvi.model.divergence import kl_standard_normal, mixture_kl
from sysvi.model.networks import Encoder, positive


class StandardNormal(nn.Module):
    """p(z) = N(0, I): the divergence has a closed form."""

    def kl(self, mean: Tensor, var: Tensor, z: Tensor, encoder: Encoder, share: float | Tensor = 1.0) -> Tensor:
        """KL(q || p) of each cell: (B, L), (B, L), (B, L) -> (B,)."""
        return kl_standard_normal(mean, var)


class _Mixture(nn.Module, ABC):
    """What the mixtures share: one Monte-Carlo sample of the divergence. Subclasses give the components."""

    def __init__(self, n_components: int, form: str, trainable: bool):
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(n_components), requires_grad=trainable)
        self.form = form

    @abstractmethod
    def components(self, encoder: Encoder) -> tuple[Tensor, Tensor]:
        """Means and variances, each (K, L)."""

    def kl(self, mean: Tensor, var: Tensor, z: Tensor, encoder: Encoder, share: float | Tensor = 1.0) -> Tensor:
        """See `mixture_kl`: (B, L), (B, L), (B, L) -> (B,)."""
        return mixture_kl(mean, var, z, *self.components(encoder), self.logits, self.form, share)


class VampPrior(_Mixture):
    """Components are the encoder's posteriors of K pseudo-inputs (expression and covariates), in evaluation mode."""

    def __init__(self, x: Tensor, c: Tensor, form: str, trainable: bool):
        super().__init__(len(x), form, trainable)
        self.x = nn.Parameter(x.clone(), requires_grad=trainable)  # (K, G)
        self.c = nn.Parameter(c.clone(), requires_grad=trainable)  # (K, C)

    def components(self, encoder: Encoder) -> tuple[Tensor, Tensor]:
        """Means and variances, each (K, L)."""
        return encoder(self.x, self.c)


class GaussianMixture(_Mixture):
    """Components are free means and variances in latent space."""

    def __init__(self, mean: Tensor, var: Tensor, form: str, trainable: bool):
        super().__init__(len(mean), form, trainable)
        self.mean = nn.Parameter(mean.clone(), requires_grad=trainable)  # (K, L)
        self.log_var = nn.Parameter(var.log(), requires_grad=trainable)  # (K, L), before `positive`

    def components(self, encoder: Encoder) -> tuple[Tensor, Tensor]:
        """Means and variances, each (K, L)."""
        return self.mean, positive(self.log_var)
