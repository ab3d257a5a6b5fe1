"""Priors p(z) and their divergence from q(z | x, c).

Shapes: B cells of a minibatch, L latent dimensions, K prior components, G genes, C covariate width.

A mixture of K diagonal Gaussians with weights w = softmax(logits) is offered in two forms:

- ``"dimension"`` (the paper's code): log p(z) = Σ_d log Σ_k w_k N(z_d; m_kd, v_kd), mixed in each dimension alone;
- ``"joint"`` (the textbook): log p(z) = log Σ_k w_k Π_d N(z_d; m_kd, v_kd).
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from sysvi.fused import card_kernels
from sysvi.likelihood import LOG_2PI
from sysvi.networks import Encoder, positive


def normal_log_density(z: Tensor, mean: Tensor, var: Tensor) -> Tensor:
    """Log N(z; mean, var), element by element."""
    rstd = var.rsqrt()
    return torch.add(rstd.log() - 0.5 * LOG_2PI, ((z - mean) * rstd).square(), alpha=-0.5)


def mixture_log_density(z: Tensor, mean: Tensor, var: Tensor, logits: Tensor, form: str) -> Tensor:
    """Log p(z) of the mixture: z (B, L), mean and var (K, L), logits (K,) -> (B,)."""
    log_w = logits.log_softmax(0)  # (K,)
    log_density = normal_log_density(z[:, None], mean, var)  # (B, K, L)
    if form == "joint":
        return (log_density.sum(2) + log_w).logsumexp(1)
    return (log_density + log_w[:, None]).logsumexp(1).sum(1)


def kl_standard_normal(mean: Tensor, var: Tensor) -> Tensor:
    """KL(q || N(0, I)) of each cell: (B, L), (B, L) -> (B,)."""
    return 0.5 * (var + mean.square() - 1 - var.log()).sum(1)


def mixture_kl(
    mean: Tensor,
    var: Tensor,
    z: Tensor,
    means: Tensor,
    variances: Tensor,
    logits: Tensor,
    form: str,
    share: float | Tensor = 1.0,
) -> Tensor:
    """Log q(z) - log p(z) at the sampled z of each cell: (B, L), (B, L), (B, L), (K, L), (K, L), (K,) -> (B,).

    The mixture has this share of the divergence, the standard normal the rest.
    """
    triton = card_kernels(z.device).module
    if form == "dimension" and triton is not None:
        return triton.MixtureKL.apply(mean, var, z, means, variances, logits.log_softmax(0), share)
    kl = normal_log_density(z, mean, var).sum(1) - mixture_log_density(z, means, variances, logits, form)
    if not isinstance(share, Tensor) and share == 1:
        return kl
    return kl_standard_normal(mean, var).lerp(kl, share)


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
