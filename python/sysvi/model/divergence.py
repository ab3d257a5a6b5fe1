"""The divergence of q(z | x, c) = N(mean, diag var) from a standard normal and from mixtures.

A mixture of K diagonal Gaussians with weights w = softmax(logits) has two forms:

- ``"dimension"`` (the paper's code): log p(z) = Σ_d log Σ_k w_k N(z_d; m_kd, v_kd), mixed in each dimension alone;
- ``"joint"`` (the textbook): log p(z) = log Σ_k w_k Π_d N(z_d; m_kd, v_kd).

Shapes: B cells of a minibatch, L latent dimensions, K components.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from sysvi.kernels.layers import card_kernels, kernel
from sysvi.model.likelihoods import LOG_2PI


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
    if form == "dimension":
        arguments = mean, var, z, means, variances, logits.log_softmax(0), share
        if z.device.type == "cpu":
            return MixtureKL.apply(*arguments)
        if (triton := card_kernels(z.device).module) is not None:
            return triton.MixtureKL.apply(*arguments)
    return mixture_kl_by_torch(mean, var, z, means, variances, logits, form, share)


def mixture_kl_by_torch(
    mean: Tensor,
    var: Tensor,
    z: Tensor,
    means: Tensor,
    variances: Tensor,
    logits: Tensor,
    form: str,
    share: float | Tensor = 1.0,
) -> Tensor:
    """As `mixture_kl`, by torch's operations one by one."""
    kl = normal_log_density(z, mean, var).sum(1) - mixture_log_density(z, means, variances, logits, form)
    return kl_standard_normal(mean, var).lerp(kl, share)


class MixtureKL(torch.autograd.Function):
    """As `mixture_kl` of the form "dimension", on the CPU: in one pass over the cells, and one back."""

    @staticmethod
    def forward(ctx, mean, var, z, means, variances, log_w, share):  # type: ignore[no-untyped-def]
        """(B, L), (B, L), (B, L), (K, L), (K, L), (K,), number -> (B,)."""
        ctx.share = float(share)
        ctx.save_for_backward(mean, var, z, means, variances, log_w)
        kl, r = z.new_empty(len(z)), z.new_empty(*z.shape, len(log_w))
        _mixture_kl(*_arrays(mean, var, z, means, variances, log_w), ctx.share, *_arrays(kl, r))
        ctx.r = r
        return kl

    @staticmethod
    def backward(ctx, grad):  # type: ignore[no-untyped-def]
        """Gradients of all but the share."""
        mean, var, z, means, variances, log_w = ctx.saved_tensors
        d_latent, d_mixture, d_log_w = z.new_empty(3, *z.shape), z.new_zeros(2, *means.shape), torch.zeros_like(log_w)
        given = *_arrays(mean, var, z, means, variances), ctx.share, *_arrays(ctx.r, grad)
        _back_mixture_kl(*given, *_arrays(d_latent, d_mixture, d_log_w))
        return *d_latent, *d_mixture, d_log_w, None


def _arrays(*tensors: Tensor) -> list[np.ndarray]:
    return [tensor.detach().contiguous().numpy() for tensor in tensors]


@kernel
def _mixture_kl(mean, var, z, means, variances, log_w, share, kl, r):  # type: ignore[no-untyped-def]
    """The divergence of each cell, and r (B, L, K): each component's part in the density of a dimension."""
    n_components, n_dims = means.shape
    half, zero = z.dtype.type(0.5), z.dtype.type(0)
    precision, offset = np.empty_like(means), np.empty_like(means)
    for k in range(n_components):
        for d in range(n_dims):
            precision[k, d] = 1 / variances[k, d]
            offset[k, d] = log_w[k] - half * np.log(variances[k, d])
    for i in range(len(z)):
        total = 0.0
        for d in range(n_dims):
            most = z.dtype.type(-np.inf)
            for k in range(n_components):
                e = z[i, d] - means[k, d]
                r[i, d, k] = offset[k, d] - half * e * e * precision[k, d]
                most = max(most, r[i, d, k])
            density = zero
            for k in range(n_components):
                r[i, d, k] = np.exp(r[i, d, k] - most)
                density += r[i, d, k]
            for k in range(n_components):
                r[i, d, k] /= density
            log_var, e = np.log(var[i, d]), z[i, d] - mean[i, d]
            of_mixture = -half * (log_var + e * e / var[i, d]) - most - np.log(density)  # log(2π) / 2 cancels
            of_normal = half * (var[i, d] + mean[i, d] * mean[i, d] - 1 - log_var)
            total += share * of_mixture + (1 - share) * of_normal
        kl[i] = total


@kernel
def _back_mixture_kl(mean, var, z, means, variances, share, r, grad, d_latent, d_mixture, d_log_w):  # type: ignore[no-untyped-def]
    n_components, n_dims = means.shape
    half, share = z.dtype.type(0.5), z.dtype.type(share)
    rest = 1 - share
    for i in range(len(z)):
        for d in range(n_dims):
            precision = 1 / var[i, d]
            e = (z[i, d] - mean[i, d]) * precision
            d_z = -e
            for k in range(n_components):
                of_k = 1 / variances[k, d]
                u = (z[i, d] - means[k, d]) * of_k
                d_z += r[i, d, k] * u
                weight = -share * grad[i] * r[i, d, k]
                d_mixture[0, k, d] += weight * u
                d_mixture[1, k, d] += weight * half * (u * u - of_k)
                d_log_w[k] += weight
            d_latent[0, i, d] = grad[i] * (share * e + rest * mean[i, d])
            d_latent[1, i, d] = grad[i] * half * (share * (e * e - precision) + rest * (1 - precision))
            d_latent[2, i, d] = grad[i] * share * d_z
