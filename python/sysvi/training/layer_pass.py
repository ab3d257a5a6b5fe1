"""Passes of a minibatch through hidden layers, forward and backward, with hand-written gradients.

Autograd's bookkeeping takes a sixth of a step and leaves no control over the order of the work. The plain form, with
which the tests compare this one, is `sysvi.model.networks.Layer.forward`.

Shapes: B cells of a minibatch, I inputs, H hidden units, C covariate width.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from sysvi._core.ranks import Part
from sysvi.kernels.backend import choose_backend
from sysvi.kernels.sparse import SparseExpression
from sysvi.model.networks import BN_MOMENTUM, Layer, TrainingContext

FEW_COLUMNS = 64


class Gradients(dict[Tensor, Tensor]):
    """Gradients by tensor, summed over the uses of the tensor."""

    def add(self, tensor: Tensor, gradient: Tensor) -> None:
        """Add the gradient of one more use, in the tensor's type."""
        gradient = gradient.to(tensor.dtype)
        self[tensor] = self[tensor].add_(gradient) if tensor in self else gradient

    def merge(self, other: Gradients) -> None:
        """Add all gradients of another part of the step."""
        shared = [tensor for tensor in other if tensor in self]
        if shared:
            torch._foreach_add_([self[tensor] for tensor in shared], [other[tensor] for tensor in shared])
        self.update((tensor, gradient) for tensor, gradient in other.items() if tensor not in self)


def multiply_transposed(a: Tensor, weight: Tensor) -> Tensor:
    """Compute a W', (B, I) by (J, I) -> (B, J).

    For few columns J it is computed as (W a')': on a CPU that takes half of the time for 15 or 30 columns.
    """
    return (weight @ a.T).T.contiguous() if len(weight) < FEW_COLUMNS else a @ weight.T


class _PassedLayer(NamedTuple):
    """A layer in the forward pass, and what its backward pass needs."""

    layer: Layer
    weight: Tensor  # (I, H), the layer's, or the matrix used in its place
    x: Tensor | SparseExpression  # (B, I)
    cast_weight: Tensor  # (I, H), the weight in the type of x
    a: Tensor  # (B, H), before normalisation
    y: Tensor  # (B, H)
    moments: Tensor  # (3, H), of a


class LayerPass:
    """A training pass of a minibatch through hidden layers: `forward`, then `backward` with the gradient of its result.

    Values between the layers, and so the factors of matrix products, have the type `context.matmul_dtype`; products are
    summed in float32.

    Parameters
    ----------
    layers
        Hidden layers.
    c
        Covariates, (B, C), which each layer sees.
    context
        Source of the dropout seeds. All are drawn by the constructor, so that passes may then run at the same time.
    part
        The part of the minibatch that these cells are; None: the whole.
    beside
        Covariates, (B, C), that stand beside the last hidden layer in the result, (B, H + C), as in that of `Decoder`;
        None: they do not.
    """

    def __init__(
        self,
        layers: Iterable[nn.Module],
        c: Tensor,
        context: TrainingContext,
        part: Part | None = None,
        *,
        beside: Tensor | None = None,
    ):
        self.layers = [cast(Layer, layer) for layer in layers]
        self.c, self.matmul_dtype, self.beside = c, context.matmul_dtype, beside
        self.seeds = [context.draw_dropout_seed() if layer.dropout_rate > 0 else 0 for layer in self.layers]
        self.part = part
        self.passed: list[_PassedLayer] = []
        self.backend = choose_backend(c.device)

    def forward(
        self, x: Tensor | SparseExpression, *, first_weight: Tensor | None = None, out: torch.dtype | None = None
    ) -> Tensor:
        """(B, I) -> (B, H) or (B, H + C), in the type `out` (default: that of the parameters).

        `first_weight` is used in place of the first layer's weight.
        """
        last = self.layers[-1]
        for layer, seed in zip(self.layers, self.seeds, strict=True):
            weight = layer.weight if first_weight is None or self.passed else first_weight
            out_dtype = out if layer is last else self.matmul_dtype
            cast_weight = weight.to(x.dtype)
            a = x @ cast_weight  # without the bias, which the batch normalisation subtracts again
            norm = layer.scale, layer.shift, layer.dropout_rate, seed, out_dtype or layer.weight.dtype
            y, moments = self.backend.normalise(a, self.c, layer.cov_weight, *norm, self.part)
            self.passed.append(_PassedLayer(layer, weight, x, cast_weight, a, y, moments))
            x = y
        h = cast(Tensor, x)
        return h if self.beside is None else torch.cat([h, self.beside.to(h.dtype)], dim=1)

    def backward(self, grad: Tensor, gradients: Gradients, *, to_input: bool = True) -> Tensor:
        """Add the gradients of all parameters to `gradients`, and return that of the input, (B, I).

        Biases get none: the batch normalisation subtracts them again. Without `to_input`, the input's gradient is not
        computed.
        """
        if self.beside is not None:
            n_beside = self.beside.shape[1]
            grad, d_beside = grad.split([grad.shape[1] - n_beside, n_beside], dim=1)
            grad = grad.contiguous()
            if self.beside.requires_grad:
                gradients.add(self.beside, d_beside)
        for i, (layer, weight, x, cast_weight, a, y, moments) in reversed([*enumerate(self.passed)]):
            norm = moments, layer.scale, layer.dropout_rate, self.part
            d_a, *d_norm = self.backend.normalise_backward(grad, y, a, self.c, *norm)
            gradients.add(weight, x.T @ d_a)
            for parameter, gradient in zip((layer.cov_weight, layer.scale, layer.shift), d_norm, strict=True):
                gradients.add(parameter, gradient)
            if self.c.requires_grad:
                gradients.add(self.c, d_a.to(self.c.dtype) @ layer.cov_weight.T)
            if i or to_input:
                grad = multiply_transposed(d_a, cast_weight)
        return grad

    @torch.no_grad()
    def update_running_statistics(self, first_bias: Tensor | float = 0.0) -> None:
        """Move the layers' running statistics towards those of this pass.

        `first_bias` is added to the mean of the first layer, for an input that came without it.
        """
        running, seen = [], []
        for i, (layer, *_, a, _, (mean, var, _)) in enumerate(self.passed):
            running += [layer.running_mean, layer.running_var]
            n = len(a) if self.part is None else self.part.n_cells
            seen += [mean + layer.bias + (0 if i else first_bias), var * (n / (n - 1))]
        torch._foreach_lerp_(running, seen, BN_MOMENTUM)
