"""Passes of a minibatch through hidden layers, forwards and back, written by hand.

Autograd's bookkeeping costs a sixth of a step, and decides when what is computed. The plain form is the oracle:
`sysvi.model.networks`.
Shapes: B cells of a minibatch, I inputs, H units, C covariate width.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from sysvi.kernels.layers import back, normalise
from sysvi.kernels.sparse import Sparse
from sysvi.model.networks import BN_MOMENTUM, Layer, Training

FEW_COLUMNS = 64


class Gradients(dict[Tensor, Tensor]):
    """Tensor -> its gradient, summed over what it was used for."""

    def add(self, of: Tensor, gradient: Tensor) -> None:
        """One more use; of the tensor's type."""
        gradient = gradient.to(of.dtype)
        self[of] = self[of].add_(gradient) if of in self else gradient

    def merge(self, other: Gradients) -> None:
        """All gradients of another part of the step."""
        both = [of for of in other if of in self]
        if both:
            torch._foreach_add_([self[of] for of in both], [other[of] for of in both])
        self.update((of, gradient) for of, gradient in other.items() if of not in self)


def times(a: Tensor, weight: Tensor) -> Tensor:
    """The product a W', (B, I) by (J, I) -> (B, J).

    Where J is small it is made the other way round: on a CPU that takes half of the time for 15 or 30 columns.
    """
    return (weight @ a.T).T.contiguous() if len(weight) < FEW_COLUMNS else a @ weight.T


class _Layer(NamedTuple):
    """A layer that was passed, and what its way back needs."""

    layer: Layer
    weight: Tensor  # (I, H), the one of the layer or what took its place
    x: Tensor | Sparse  # (B, I)
    short: Tensor  # (I, H), the weight in the type of its products
    a: Tensor  # (B, H), before normalisation
    y: Tensor  # (B, H)
    moments: Tensor  # (3, H), of a


class Pass:
    """A minibatch in training through hidden layers: `forward`, then `backward` with the gradient of its result.

    Values between the layers are of the type `training.products`, and so are the factors of the products with weights,
    which are summed in float32.

    Parameters
    ----------
    layers
        Layers to go through.
    c
        Covariates, (B, C), seen by each.
    training
        Gives the layers' seeds of dropout, which are drawn at once: passes may then run side by side.
    """

    def __init__(self, layers: Iterable[nn.Module], c: Tensor, training: Training):
        self.layers = [cast(Layer, layer) for layer in layers]
        self.c, self.products = c, training.products
        self.seeds = [training.seed() if layer.dropout_rate > 0 else 0 for layer in self.layers]
        self.passed: list[_Layer] = []

    def forward(self, x: Tensor | Sparse, *, first: Tensor | None = None, out: torch.dtype | None = None) -> Tensor:
        """(B, I) -> (B, H), of the parameters' type or `out`; `first` in place of the first layer's weight."""
        last = self.layers[-1]
        for layer, seed in zip(self.layers, self.seeds, strict=True):
            weight = layer.weight if first is None or self.passed else first
            given = out if layer is last else self.products
            short = weight.to(x.dtype)
            a = x @ short  # without the bias, which only the running mean must know
            norm = layer.scale, layer.shift, layer.dropout_rate, seed
            y, moments = normalise(a, self.c, layer.cov_weight, *norm, given or layer.weight.dtype)
            self.passed.append(_Layer(layer, weight, x, short, a, y, moments))
            x = y
        return cast(Tensor, x)

    def backward(self, grad: Tensor, gradients: Gradients, *, to_x: bool = True) -> Tensor:
        """From the gradient of the result that of x, unless it is not asked for, and those of all parameters.

        But for the biases, which the mean over the minibatch takes away again.
        """
        for i, (layer, weight, x, short, a, y, moments) in reversed([*enumerate(self.passed)]):
            d_a, *others = back(grad, y, a, self.c, moments, layer.scale, layer.dropout_rate)
            gradients.add(weight, x.T @ d_a)
            for of, gradient in zip((layer.cov_weight, layer.scale, layer.shift), others, strict=True):
                gradients.add(of, gradient)
            if self.c.requires_grad:
                gradients.add(self.c, d_a.to(self.c.dtype) @ layer.cov_weight.T)
            if i or to_x:
                grad = times(d_a, short)
        return grad

    @torch.no_grad()
    def settle(self, bias: Tensor | float = 0.0) -> None:
        """Move the running statistics of the layers; `bias` is added to the first one's."""
        running, seen = [], []
        for i, (layer, *_, a, _, (mean, var, _)) in enumerate(self.passed):
            running += [layer.running_mean, layer.running_var]
            seen += [mean + layer.bias + (0 if i else bias), var * (len(a) / (len(a) - 1))]
        torch._foreach_lerp_(running, seen, BN_MOMENTUM)
