"""The cycle's decoding and encoding as one product: decoded expression, (B, G), is never formed.

With a mean h W_o' + b that is linear in the decoder's last hidden layer h, decoding and encoding multiply by W_o' and
W_1 one after the other, and (h W_o') W_1 = h (W_o' W_1).

Where systems lack genes, the encoder sees those of the target system only, so that the product differs between cells.
It is a sum over blocks of genes that the same systems have (`sysvi.model.own_genes`): with s_p = 1 for cells whose
target has the genes of block p, and 0 for others, it is Σ_p s_p (h W_op' W_1p + b_p W_1p). That is one product of
[s_1 h | s_2 h | ... | s_1 s_2 ...] with the matrices of all blocks and the rows b_p W_1p below each other.

Shapes: B cells of a minibatch, G genes, H hidden units (those of the decoder may include the covariates), P blocks.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sysvi.model.networks import Linear
from sysvi.model.own_genes import GeneBlock
from sysvi.training.layer_pass import Gradients


class CycleProduct:
    """The product of a linear mean and the encoder's first layer.

    Parameters
    ----------
    head
        The linear mean, with W_o and b.
    first_weight
        W_1, (G, H).
    dtype
        Type of the products.
    blocks
        Blocks of genes, with the cells whose target system has them; none if all systems have all genes.

    Attributes
    ----------
    weight
        What takes the place of the first layer's weight.
    """

    def __init__(self, head: Linear, first_weight: Tensor, dtype: torch.dtype, blocks: Sequence[GeneBlock] = ()):
        self.head, self.first_weight, self.blocks = head, first_weight, blocks
        self.w_o, self.w_1 = head.weight.to(dtype), first_weight.to(dtype)  # (G, H)
        if not blocks:
            self.weight = self.w_o.T @ self.w_1  # (H, H)
            return
        self.scales = torch.stack([block.cells for block in blocks], dim=1).to(dtype)  # (B, P)
        products = [self.w_o[block.genes].T @ self.w_1[block.genes] for block in blocks]
        rows = [head.bias[block.genes] @ first_weight[block.genes] for block in blocks]
        self.weight = torch.cat([*products, torch.stack(rows).to(dtype)])  # (P H + P, H)

    def input(self, h: Tensor) -> Tensor:
        """What is multiplied by `weight`, from the decoder's last hidden layer, (B, H)."""
        if not self.blocks:
            return h
        return torch.cat([*(scale[:, None] * h for scale in self.scales.T), self.scales], dim=1)  # (B, P H + P)

    def constant(self) -> Tensor | float:
        """What the product leaves out because it is the same for all cells, (H,) or 0."""
        return 0.0 if self.blocks else self.head.bias @ self.first_weight

    def backward_input(self, d: Tensor) -> Tensor:
        """From the gradient of `input` to that of h, (B, H)."""
        if not self.blocks:
            return d
        n = (d.shape[1] - len(self.blocks)) // len(self.blocks)
        parts = d[:, : n * len(self.blocks)].unflatten(1, (len(self.blocks), n))  # (B, P, H)
        return (self.scales[:, :, None] * parts).sum(1)

    def backward_weight(self, d: Tensor, gradients: Gradients) -> None:
        """From the gradient of `weight` to those of W_o, W_1 and b."""
        if not self.blocks:
            gradients.add(self.head.weight, self.w_1 @ d.T)
            gradients.add(self.first_weight, self.w_o @ d)
            return
        n = self.w_o.shape[1]
        d_w_o, d_w_1, d_bias = (torch.empty_like(w) for w in (self.w_o, self.w_1, self.head.bias))
        for i, (genes, _) in enumerate(self.blocks):
            d_product, d_row = d[i * n : (i + 1) * n], d[len(self.blocks) * n + i]
            d_w_o[genes] = self.w_1[genes] @ d_product.T
            d_w_1[genes] = self.w_o[genes] @ d_product + torch.outer(self.head.bias[genes].to(d.dtype), d_row)
            d_bias[genes] = (self.w_1[genes] @ d_row).to(d_bias.dtype)
        gradients.add(self.head.weight, d_w_o)
        gradients.add(self.first_weight, d_w_1)
        gradients.add(self.head.bias, d_bias)
