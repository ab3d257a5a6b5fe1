"""Log-densities of Gaussians, and the KL divergence from the standard normal distribution.

Shapes: B cells of a minibatch, L latent dimensions.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

LOG_2PI = math.log(2 * math.pi)


def normal_log_density(z: Tensor, mean: Tensor, var: Tensor) -> Tensor:
    """Compute log N(z; mean, var) element by element."""
    rstd = var.rsqrt()
    return torch.add(rstd.log() - 0.5 * LOG_2PI, ((z - mean) * rstd).square(), alpha=-0.5)


def kl_standard_normal(mean: Tensor, var: Tensor) -> Tensor:
    """Compute KL(N(mean, diag var) || N(0, I)) of each cell: (B, L), (B, L) -> (B,)."""
    return 0.5 * (var + mean.square() - 1 - var.log()).sum(1)
