"""Priors p(z), and their KL divergence from q(z | x, c) = N(mean, diag var).

To add one, subclass `Prior` and register it: ``@PRIORS.register("name")``. `kl` is enough to train, save and load it.

A mixture of K diagonal Gaussians with weights w = softmax(logits) has two forms:

- ``"dimension"`` (the paper's code): log p(z) = Σ_d log Σ_k w_k N(z_d; m_kd, v_kd), mixed in each dimension by itself;
- ``"joint"`` (the textbook): log p(z) = log Σ_k w_k Π_d N(z_d; m_kd, v_kd).

Shapes: B cells of a minibatch, L latent dimensions, K prior components, G genes, C covariate width.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor, nn

from sysvi._core.settings import PRIORS, ModelSettings
from sysvi.kernels.backend import choose_backend
from sysvi.kernels.densities import kl_standard_normal, normal_log_density
from sysvi.model.networks import VAR_EPS, Encoder, variance_from_log


class Prior(nn.Module, ABC):
    """Distribution of the latent variables.

    Parameters
    ----------
    settings
        Settings of the model.
    n_genes, n_covariates
        Number of genes G and width C of the covariate code.
    """

    starts_at_cells: ClassVar[bool] = False  # whether components start at cells, the pseudo-inputs
    starts_at_random: ClassVar[bool] = False  # whether they can start at random draws (``pseudoinputs="noise"``)

    def __init__(self, settings: ModelSettings, n_genes: int, n_covariates: int):
        super().__init__()

    @abstractmethod
    def kl(self, mean: Tensor, var: Tensor, z: Tensor, encoder: Encoder, share: float | Tensor = 1.0) -> Tensor:
        """Divergence of q from the prior for each cell, exact or estimated at one sample z of q.

        Parameters
        ----------
        mean, var
            Parameters of q, (B, L) each.
        z
            A sample of q for each cell, (B, L).
        encoder
            The model's encoder.
        share
            Share of this prior in the divergence; the standard normal has the rest. Priors that are no mixture may
            ignore it.

        Returns
        -------
        Tensor
            (B,).
        """

    def sample(self, n: int, encoder: Encoder, noise: torch.Generator) -> Tensor:
        """Draw n latent variables on the CPU, (n, L); those of a standard normal, which all priors start from."""
        n_latent = encoder.head.weight.shape[0] // 2
        return torch.randn(n, n_latent, generator=noise)

    def start_at_cells(self, x: Tensor, c: Tensor, encoder: Encoder) -> None:
        """Set the initial components from K cells: expression (K, G) and covariates (K, C)."""

    def start_at_random(self, init: torch.Generator) -> None:
        """Set the initial components from random draws."""


@PRIORS.register("standard_normal")
class StandardNormal(Prior):
    """p(z) = N(0, I), whose divergence has a closed form."""

    def kl(self, mean: Tensor, var: Tensor, z: Tensor, encoder: Encoder, share: float | Tensor = 1.0) -> Tensor:
        """(B, L), (B, L), (B, L) -> (B,)."""
        return kl_standard_normal(mean, var)


class MixturePrior(Prior):
    """What the mixtures share: weights, and the divergence estimated at one sample. Subclasses give the components."""

    starts_at_cells = True

    def __init__(self, settings: ModelSettings, n_genes: int, n_covariates: int):
        super().__init__(settings, n_genes, n_covariates)
        self.form, self.trainable = settings.mixture, settings.trainable_priors
        self.logits = self._parameter(settings.n_prior_components)

    def _parameter(self, *shape: int) -> nn.Parameter:
        return nn.Parameter(torch.zeros(shape), requires_grad=self.trainable)

    @abstractmethod
    def components(self, encoder: Encoder) -> tuple[Tensor, Tensor]:
        """Means and variances of the components, (K, L) each."""

    @torch.no_grad()
    def sample(self, n: int, encoder: Encoder, noise: torch.Generator) -> Tensor:
        """Draw from the mixture, on the CPU, (n, L)."""
        means, variances = (part.cpu() for part in self.components(encoder))  # (K, L)
        shape = (n, means.shape[1] if self.form == "dimension" else 1)
        weights = self.logits.detach().cpu().softmax(0)
        component = torch.multinomial(weights, shape[0] * shape[1], replacement=True, generator=noise)
        component = component.reshape(shape).expand(n, means.shape[1])
        noisy = torch.randn(n, means.shape[1], generator=noise)
        return means.gather(0, component) + variances.gather(0, component).sqrt() * noisy

    def kl(self, mean: Tensor, var: Tensor, z: Tensor, encoder: Encoder, share: float | Tensor = 1.0) -> Tensor:
        """See `mixture_kl`: (B, L), (B, L), (B, L) -> (B,)."""
        return mixture_kl(mean, var, z, *self.components(encoder), self.logits, self.form, share)


@PRIORS.register("vamp")
class VampPrior(MixturePrior):
    """Components are the posteriors of K trainable pseudo-inputs (expression and covariates), without dropout."""

    def __init__(self, settings: ModelSettings, n_genes: int, n_covariates: int):
        super().__init__(settings, n_genes, n_covariates)
        self.x = self._parameter(settings.n_prior_components, n_genes)
        self.c = self._parameter(settings.n_prior_components, n_covariates)

    def components(self, encoder: Encoder) -> tuple[Tensor, Tensor]:
        """Means and variances of the components, (K, L) each."""
        return encoder(self.x, self.c)

    def start_at_cells(self, x: Tensor, c: Tensor, encoder: Encoder) -> None:
        """The cells themselves are the first pseudo-inputs."""
        self.x.copy_(x)
        self.c.copy_(c)


@PRIORS.register("gmm")
class GaussianMixture(MixturePrior):
    """Components are free means and variances in latent space."""

    starts_at_random = True

    def __init__(self, settings: ModelSettings, n_genes: int, n_covariates: int):
        super().__init__(settings, n_genes, n_covariates)
        self.mean = self._parameter(settings.n_prior_components, settings.n_latent)
        self.log_var = self._parameter(settings.n_prior_components, settings.n_latent)  # see `variance_from_log`

    def components(self, encoder: Encoder) -> tuple[Tensor, Tensor]:
        """Means and variances of the components, (K, L) each."""
        return self.mean, variance_from_log(self.log_var)

    def start_at_cells(self, x: Tensor, c: Tensor, encoder: Encoder) -> None:
        """The posteriors of the cells are the first components."""
        mean, var = encoder(x, c)
        self.mean.copy_(mean)
        self.log_var.copy_((var - VAR_EPS).clamp_min(1e-8).log())

    def start_at_random(self, init: torch.Generator) -> None:
        """Means are drawn from the standard normal, variances are 1."""
        self.mean.normal_(generator=init)


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
    """Estimate the divergence as log q(z) - log p(z) at the sampled z of each cell.

    (B, L), (B, L), (B, L), (K, L), (K, L), (K,) -> (B,). The mixture has this share of the divergence, the standard
    normal the rest.
    """
    if form == "dimension":
        backend = choose_backend(z.device)
        return backend.mixture_kl(mean, var, z, means, variances, logits.log_softmax(0), share)
    log_q = normal_log_density(z, mean, var).sum(1)
    log_w = logits.log_softmax(0)  # (K,)
    log_density = normal_log_density(z[:, None], means, variances)  # (B, K, L)
    log_p = (log_density.sum(2) + log_w).logsumexp(1)
    return kl_standard_normal(mean, var).lerp(log_q - log_p, share)
