"""Likelihoods p(x | h): the distribution of a cell's expression given the decoder's output h.

To add one, subclass `Likelihood` and register it: ``@LIKELIHOODS.register("name")``. `mean` and `nll` are enough to
train, save and load it. The further members say what the hand-written gradient (`sysvi.training.gradient`) can use; a
likelihood without them is differentiated by autograd, and everything else stays as fast as before.

Shapes: B cells of a minibatch, G genes, H width of the decoder's output: the hidden units and, with the setting
`covariates_in_mean`, the covariates.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from sysvi._core.settings import LIKELIHOODS, ModelSettings
from sysvi.kernels.backend import choose_backend
from sysvi.kernels.densities import LOG_2PI
from sysvi.kernels.sparse import SparseExpression, product_in_float32
from sysvi.model.networks import Linear, variance_from_log, variance_slope
from sysvi.model.own_genes import GeneBlock


class LikelihoodGradient(NamedTuple):
    """Negative log-likelihood of a minibatch and its gradients, times the factor that they were asked for with."""

    total: Tensor  # () sum over the cells, each counted with its weight
    h: Tensor  # (B, H) gradient with respect to the hidden layer
    parameters: list[tuple[nn.Parameter, Tensor]]  # parameters of the likelihood and their gradients


FusedLikelihood = Callable[[Tensor], LikelihoodGradient]


class Likelihood(nn.Module, ABC):
    """Distribution of expression given the decoder's output.

    Parameters
    ----------
    settings
        Settings of the model.
    n_inputs
        Width H of the decoder's output.
    n_genes
        Number of genes G.
    init
        Generator of the initial weights, on the CPU.
    """

    def __init__(self, settings: ModelSettings, n_inputs: int, n_genes: int, init: torch.Generator):
        super().__init__()

    @abstractmethod
    def mean(self, h: Tensor) -> Tensor:
        """Expected expression, (B, H) -> (B, G): what the cycle encodes again."""

    @abstractmethod
    def nll(self, x: Tensor, h: Tensor, own: Tensor | None = None) -> Tensor:
        """Negative log-likelihood of each cell, summed over genes: (B, G), (B, H) -> (B,).

        With `own`, (B, G) bool, it is summed over the genes that the cell's system has, without any factor for their
        number. It is given if some systems lack genes only; a likelihood that has no such argument cannot be used then.
        """

    def start_at(self, mean: Tensor, effects: Tensor | None, variance: Tensor, hidden: Tensor | None) -> None:
        """Set the initial parameters from a linear model of the expression; without this, they are random.

        Parameters
        ----------
        mean, variance
            Mean of each gene, and its variance around the prediction, (G,).
        effects
            Effect of each covariate on each gene, (C, G); None if covariates are not part of h.
        hidden
            Effect of each hidden unit on each gene, (G, H); None: random.
        """

    @property
    def linear_mean(self) -> Linear | None:
        """The layer that computes `mean`, if that is linear: the cycle then never forms expression (B, G)."""
        return None

    @property
    def can_fuse(self) -> bool:
        """Whether `fuse` can be called: whether the loss has a form that never forms the mean (B, G)."""
        return False

    def fuse(
        self,
        x: Tensor | SparseExpression,
        factor: float | Tensor,
        w: Tensor | None,
        x_matmul: Tensor | SparseExpression,
        blocks: Sequence[GeneBlock] = (),
    ) -> FusedLikelihood:
        """Prepare a function of h that returns the loss and its gradients without forming the mean (B, G).

        It is called before h is known, so that what does not depend on h can be computed at the same time as h.

        Parameters
        ----------
        x
            Expression, (B, G).
        factor
            Factor of the gradients: the weight of the reconstruction loss over the number of cells.
        w
            Weight of each cell, (B,); None: 1.
        x_matmul
            Expression in the type of the products of hidden layers.
        blocks
            Blocks of genes, and the cells that have them, if some systems lack genes: the loss covers those alone.
        """
        raise TypeError(f"{type(self).__name__} has no form without the mean of all cells and genes")


@LIKELIHOODS.register("gaussian")
class Gaussian(Likelihood):
    """x ~ N(h W' + b, v), with a variance v per gene (``out_var_mode="feature"``) or per cell and gene."""

    def __init__(self, settings: ModelSettings, n_inputs: int, n_genes: int, init: torch.Generator):
        super().__init__(settings, n_inputs, n_genes, init)
        self.head = Linear(n_inputs, n_genes, init)
        self.per_gene = settings.out_var_mode == "feature"
        if self.per_gene:
            self.log_var = nn.Parameter(torch.zeros(n_genes))
        else:
            self.log_var_head = Linear(n_inputs, n_genes, init)

    @torch.no_grad()
    def start_at(self, mean: Tensor, effects: Tensor | None, variance: Tensor, hidden: Tensor | None) -> None:
        """See `Likelihood`."""
        n_hidden = self.head.weight.shape[1] - (0 if effects is None else len(effects))
        if hidden is not None:
            self.head.weight[:, :n_hidden] = hidden
        if effects is not None:
            self.head.weight[:, n_hidden:] = effects.T
        self.head.bias.copy_(mean)
        log_var = self.log_var if self.per_gene else self.log_var_head.bias
        log_var.copy_(variance.log())

    def mean(self, h: Tensor) -> Tensor:
        """(B, H) -> (B, G)."""
        return self.head(h)

    def variance(self, h: Tensor) -> Tensor:
        """(G,) for a variance per gene, else (B, G)."""
        return variance_from_log(self.log_var if self.per_gene else self.log_var_head(h))

    def nll(self, x: Tensor, h: Tensor, own: Tensor | None = None) -> Tensor:
        """(B, G), (B, H), (B, G) -> (B,)."""
        return gaussian_nll(x, self.mean(h), self.variance(h), own)

    @property
    def linear_mean(self) -> Linear:
        """The head."""
        return self.head

    @property
    def can_fuse(self) -> bool:
        """With a variance per gene."""
        return self.per_gene

    def fuse(
        self,
        x: Tensor | SparseExpression,
        factor: float | Tensor,
        w: Tensor | None,
        x_matmul: Tensor | SparseExpression,
        blocks: Sequence[GeneBlock] = (),
    ) -> FusedLikelihood:
        """See `GeneStatistics`."""
        var = variance_from_log(self.log_var)
        statistics = GeneStatistics(x, self.head.weight, self.head.bias, var, factor, w, x_matmul, blocks)

        def fused(h: Tensor) -> LikelihoodGradient:
            fit = statistics(h)
            d_log_var = fit.var * variance_slope(self.log_var)
            parameters = [(self.head.weight, fit.weight), (self.head.bias, fit.bias), (self.log_var, d_log_var)]
            return LikelihoodGradient(fit.total, fit.h, parameters)

        return fused


def gaussian_nll(x: Tensor, mean: Tensor, var: Tensor, own: Tensor | None = None) -> Tensor:
    """Compute -log N(x; mean, var), summed over genes: (B, G), (B, G), (G,) or (B, G) -> (B,).

    With `own`, (B, G) bool, the sum is over the genes for which it is True.
    """
    terms = (x - mean).square() / var + var.log() + LOG_2PI
    return 0.5 * (terms if own is None else torch.where(own, terms, 0.0)).sum(1)


class GaussianGradients(NamedTuple):
    """Negative log-likelihood of a Gaussian with a linear mean and a variance per gene, and its gradients."""

    total: Tensor  # ()
    h: Tensor  # (B, H)
    weight: Tensor  # (G, H)
    bias: Tensor  # (G,)
    var: Tensor  # (G,)


class GeneStatistics:
    """Σ_i w_i `gaussian_nll` for mean = h W' + b, and `factor` times its gradients, without forming the mean (B, G).

    The squared residuals of gene g sum to S_g = Σ_i w_i (x_ig - b_g - h_i·W_g)², which expands to statistics of the
    minibatch: Σ w x² (G,), X'(w∘h) (G, H) and h'(w∘h) (H, H). With v_g the gene's variance and n = Σ w_i, the sum is
    ½ Σ_g (S_g / v_g + n log 2πv_g). With m the mean, R = Σ w (m - x) h' (G, H) and Q = Σ w (m - x) (G,) carry both the
    value and the gradients.

    What does not depend on h is computed by the constructor: sums over x, and -X V⁻¹W, a part of the gradient of h,
    which is w∘(m - x) V⁻¹W.

    With `blocks`, the sum over the cells of a gene is over those that have it. What is summed over x does not change,
    as x is 0 in the others; what depends on h and n is computed for each block of genes, with the weights of its cells.

    Parameters
    ----------
    x
        Expression, (B, G).
    weight, bias
        Parameters of the mean, (G, H) and (G,).
    var
        Variance per gene, (G,).
    factor
        Factor of the gradients.
    w
        Weight of each cell, (B,); None: 1.
    x_matmul
        Expression in the type of the products that give the gradient of h, which goes on through hidden layers; by
        default `x`. The value and the other gradients are small differences of large sums, so they are always computed
        from `x`.
    blocks
        Blocks of genes with the cells that have them; none: all cells have all genes.
    """

    def __init__(
        self,
        x: Tensor | SparseExpression,
        weight: Tensor,
        bias: Tensor,
        var: Tensor,
        factor: float | Tensor = 1.0,
        w: Tensor | None = None,
        x_matmul: Tensor | SparseExpression | None = None,
        blocks: Sequence[GeneBlock] = (),
    ):
        self.x, self.weight, self.bias, self.var, self.factor, self.w = x, weight, bias, var, factor, w
        x_matmul = x if x_matmul is None else x_matmul
        self.backend = choose_backend(var.device)
        self.precision = factor / var  # (G,)
        scaled = self.precision[:, None] * weight  # (G, H)
        self.scaled = scaled.to(x_matmul.dtype)
        self.x_term = x_matmul @ self.scaled  # (B, H)
        weights = var.new_ones(len(x)) if w is None else w
        self.sum_x, self.sum_xx = self.backend.gene_sums(x, weights)
        if not blocks:
            self.blocks = [_Block(slice(None), None, w, weights.sum(), bias @ scaled)]
        else:
            of_blocks = [(genes, cells, weights * cells) for genes, cells in blocks]
            self.blocks = [_Block(g, cells, wc, wc.sum(), bias[g] @ scaled[g]) for g, cells, wc in of_blocks]

    def __call__(self, h: Tensor) -> GaussianGradients:
        """Value and gradients at the hidden layer before the mean, (B, H)."""
        x, w = self.x, self.w
        rounded = h.to(x.dtype)  # all statistics use the same rounded numbers
        cross = product_in_float32(x.T, _weighted(rounded, w))  # (G, H)
        fits = [self._fit_block(block, h, rounded, cross) for block in self.blocks]
        if len(fits) == 1:
            (fit,) = fits
        else:
            genes = torch.cat([cast(Tensor, block.genes) for block in self.blocks])
            place = torch.argsort(genes)  # of each gene among those of all blocks
            totals, d_hs, *of_genes = zip(*fits, strict=True)
            weight, bias, var = (torch.cat(parts)[place] for parts in of_genes)
            fit = GaussianGradients(torch.stack(totals).sum(), torch.stack(d_hs).sum(0), weight, bias, var)
        d_h = fit.h.sub_(self.x_term)
        if w is not None:
            d_h *= w[:, None]
        return fit

    def _fit_block(self, block: _Block, h: Tensor, rounded: Tensor, cross: Tensor) -> GaussianGradients:
        """Value and gradients of the genes of a block; that of h without `x_term` and without the weights of cells."""
        genes, n = block.genes, block.n
        weight, bias, var, precision, scaled, cross, sum_x, sum_xx = (
            part[genes]
            for part in (
                self.weight,
                self.bias,
                self.var,
                self.precision,
                self.scaled,
                cross,
                self.sum_x,
                self.sum_xx,
            )
        )
        wh = _weighted(rounded, block.w)
        r = weight @ product_in_float32(rounded.T, wh)  # (genes, H), still without bias and x
        sum_h = wh.sum(0, dtype=h.dtype)
        q, rss = self.backend.gene_residuals(r, cross, weight, bias, precision, n, sum_h, sum_x, sum_xx)
        total = 0.5 * (rss / var + n * (var.log() + LOG_2PI)).sum()
        h_term = weight.to(scaled.dtype).T @ scaled  # (H, H)
        d_h = (h.to(h_term.dtype) @ h_term).to(h.dtype).add_(block.bias_term)
        if block.cells is not None:
            d_h *= block.cells[:, None]
        d_var = 0.5 * precision * (n - rss / var)
        return GaussianGradients(total, d_h, r, precision * q, d_var)


class _Block(NamedTuple):
    """Genes of the same cells, and what `GeneStatistics` needs of them that does not depend on h."""

    genes: Tensor | slice  # positions
    cells: Tensor | None  # (B,) 1 for cells that have the genes, otherwise 0; None: all have them
    w: Tensor | None  # (B,) weights of these cells, 0 for others; None: 1
    n: Tensor  # () sum of the weights
    bias_term: Tensor  # (H,)


def _weighted(h: Tensor, w: Tensor | None) -> Tensor:
    """Multiply the rows of h, (B, H), by weights, (B,), in the type of h."""
    return h if w is None else (w[:, None] * h).to(h.dtype)
