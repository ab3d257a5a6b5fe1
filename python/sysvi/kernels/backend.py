"""The backend: which implementation of the training kernels runs on a device, chosen here and only here.

Training spends its time in matrix products, which torch computes, and in a few kernels between them, which are listed
in `Backend` and exist three times, each a module with the same functions:

- `sysvi.kernels.cpu_backend`: compiled by numba, for CPUs;
- `sysvi.kernels.cuda_backend`: written in Triton, for NVIDIA GPUs with Triton installed and able to compile;
- `sysvi.kernels.torch_backend`: torch's own operations, for every other device; the tests compare the others with it.

Shapes: B cells of a minibatch, H hidden units, C covariate width, G genes, L latent dimensions, K prior components.
"""

from __future__ import annotations

from functools import cache
from typing import Protocol

import torch
from torch import Tensor

from sysvi._core.ranks import Part
from sysvi.kernels.sparse import SparseExpression


class Backend(Protocol):
    """The kernels of a training step between its matrix products."""

    def normalise(
        self,
        a: Tensor,
        c: Tensor,
        cov_weight: Tensor,
        scale: Tensor,
        shift: Tensor,
        rate: float,
        seed: int | Tensor,
        out: torch.dtype,
        part: Part | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Compute dropout(relu(batchnorm(a + c U))) with the minibatch's statistics; c U is added to `a` in place.

        The factor 1 / (1 - rate) of dropout is folded into the slope and offset of the batch normalisation, since it
        commutes with the ReLU. The result is exactly 0 where the ReLU or dropout set it to 0, which is all that the
        backward pass needs to know about either.

        Parameters
        ----------
        a
            The layer's input times its weights, (B, H); float32, float64 or bfloat16.
        c, cov_weight
            Covariates (B, C) and their weights U (C, H).
        scale, shift
            Parameters of the batch normalisation, (H,).
        rate, seed
            Dropout rate and seed.
        out
            Type of the result.
        part
            The part of the minibatch that these cells are; None: the whole.

        Returns
        -------
        y
            The layer's output, (B, H).
        moments
            Mean, variance and 1 / standard deviation of a + c U over the cells of the whole minibatch, (3, H).
        """
        ...

    def normalise_backward(
        self,
        grad: Tensor,
        y: Tensor,
        a: Tensor,
        c: Tensor,
        moments: Tensor,
        scale: Tensor,
        rate: float,
        part: Part | None = None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Turn the gradient of y = `normalise(a, c, U, ...)`, (B, H), into those of a, U, scale and shift.

        Of a `part`, the gradients of the parameters are those of its cells, to be summed over the processes.
        """
        ...

    def gene_sums(self, x: Tensor | SparseExpression, w: Tensor) -> tuple[Tensor, Tensor]:
        """Compute Σ_i w_i x_ig and Σ_i w_i x_ig² of each gene, (G,) each, from expression (B, G) and weights (B,).

        The two nearly cancel later on, so they are summed with as little rounding as the device allows.
        """
        ...

    def gene_residuals(
        self,
        r: Tensor,
        cross: Tensor,
        weight: Tensor,
        bias: Tensor,
        precision: Tensor,
        n: Tensor,
        sum_h: Tensor,
        sum_x: Tensor,
        sum_xx: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Complete the residual statistics of the Gaussian likelihood (see `sysvi.model.likelihoods.GeneStatistics`).

        `r` is W (h'(w∘h)), (G, H), and is changed in place into the residuals R times the precision. `cross` is
        X'(w∘h), (G, H); `n` the sum of the cells' weights; `sum_h` (H,), `sum_x` and `sum_xx` (G,) weighted sums.

        Returns
        -------
        q, rss
            Weighted sum of the residuals and of the squared residuals of each gene, (G,) each. The latter is never
            below 0, whatever the rounding.
        """
        ...

    def mixture_kl(
        self,
        mean: Tensor,
        var: Tensor,
        z: Tensor,
        means: Tensor,
        variances: Tensor,
        log_w: Tensor,
        share: float | Tensor,
    ) -> Tensor:
        """Estimate the KL divergence of each cell from a mixture that is mixed per dimension; differentiable.

        (B, L), (B, L), (B, L), (K, L), (K, L), (K,) -> (B,); see `sysvi.model.priors.mixture_kl`.
        """
        ...

    def dense_rows(
        self,
        starts: Tensor,
        columns: Tensor,
        values: Tensor,
        rows: Tensor,
        n_genes: int,
        max_stored: int,
        dtype: torch.dtype,
    ) -> Tensor:
        """Copy rows (B,) of a CSR matrix into a dense matrix (B, G); each has at most `max_stored` stored values."""
        ...


def choose_backend(device: torch.device) -> Backend:
    """The backend of a device."""
    return _choose(device)[0]


def explain_backend(device: torch.device) -> str:
    """Why a device has the backend that it has, in a line."""
    return _choose(device)[1]


@cache
def _choose(device: torch.device) -> tuple[Backend, str]:
    from sysvi.kernels import torch_backend

    if device.type == "cpu":
        from sysvi.kernels import cpu_backend

        return cpu_backend, "numba kernels: a CPU"
    if device.type != "cuda":
        return torch_backend, f"torch's operations: there are no kernels for {device.type} devices"
    try:
        from sysvi.kernels import cuda_backend

        cuda_backend.compile_probe(device)
    except Exception as error:  # Triton fails in many ways (missing, no C compiler, old driver); torch always works
        reason = str(error).partition("\n")[0]
        return torch_backend, f"torch's operations: Triton cannot be used ({type(error).__name__}: {reason})"
    return cuda_backend, "Triton kernels: they compile on this GPU"
