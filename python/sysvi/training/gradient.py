"""The hand-written gradient of a minibatch's loss; the tests compare it with autograd of `Objective.forward`.

Two facts make it cheap. The likelihood may be computed from per-gene statistics (`Likelihood.fuse`). And where the mean
of the likelihood is linear in the decoder's last hidden layer h (`Likelihood.linear_mean`), the cycle never forms
expression (`sysvi.training.cycle_product`). A likelihood without one of the two is differentiated by autograd there,
and nothing else changes.

The work is split into pairs of independent parts, which an executor may run at the same time. What is small, which is
everything that happens in the latent space, is left to autograd.

Shapes: B cells of a minibatch, G genes, H hidden units, L latent dimensions, C covariate width.
"""

from __future__ import annotations

from itertools import chain
from typing import cast

import torch
from torch import Tensor, enable_grad, no_grad
from torch.autograd import grad
from torch.nn.functional import pad

from sysvi._core.parallel import PairExecutor, Task, do_nothing, run_sequentially
from sysvi.data.cells import Minibatch
from sysvi.kernels.sparse import SparseExpression
from sysvi.model.cvae import Model
from sysvi.model.networks import Layer, Linear, TrainingContext, variance_from_log
from sysvi.model.objective import Losses, Objective, Weights, normal_like, weighted_mean
from sysvi.model.own_genes import GeneBlock
from sysvi.training.cycle_product import CycleProduct
from sysvi.training.layer_pass import Gradients, LayerPass, multiply_transposed


def backpropagate(
    objective: Objective,
    batch: Minibatch,
    weights: Weights,
    context: TrainingContext,
    run_pair: PairExecutor = run_sequentially,
    prefetch: Task = do_nothing,
) -> Losses:
    """Compute the loss terms of a minibatch, and leave their gradients in the parameters' ``grad``.

    Of a part of a minibatch, both are terms of a sum over the processes.

    Parameters
    ----------
    objective
        Model and adversary.
    batch
        The minibatch.
    weights
        Weights of the loss terms.
    context
        Random generators and number types.
    run_pair
        Runs two independent parts of the step.
    prefetch
        A further task, such as making the next minibatch, that is run during the part that leaves time for it.
    """
    step = _GradientStep(objective, batch, weights, context)
    run_pair(step.encode, step.prepare_decoding)
    step.sample(context)
    run_pair(step.reconstruct, step.cycle_and_latent_terms)
    run_pair(step.backward_encoder, lambda: (step.backward_translation(), prefetch()))
    step.write_gradients()
    return objective.losses(weights, step.reconstruction, *step.latent)


def n_dropout_seeds(model: Model, cycles: bool) -> int:
    """Number of dropout seeds that a step draws: one for each layer of each pass."""
    layers = chain(model.encoder.layers, model.decoder.layers)
    return (2 if cycles else 1) * sum(cast(Layer, layer).dropout_rate > 0 for layer in layers)


def explain_gradient(model: Model) -> str:
    """How the gradient of this model's likelihood is computed, in a line."""
    likelihood, name = model.likelihood, model.settings.likelihood
    if likelihood.linear_mean is None:
        return f"likelihood and the cycle's decoded expression by autograd: the mean of {name!r} is not linear"
    if not likelihood.can_fuse:
        return f"likelihood by autograd: {name!r} has no per-gene statistics with these settings"
    return f"likelihood from per-gene statistics: {name!r} has a linear mean and a variance per gene"


class _GradientStep:
    """The parts of a step and what they hand to one another; each is called once, in the order of `backpropagate`.

    Of a pair of parts, the first adds its gradients to `gradients`, the second to `pair_gradients`.
    """

    def __init__(self, objective: Objective, batch: Minibatch, weights: Weights, context: TrainingContext):
        self.objective, self.batch, self.weights = objective, batch, weights
        model = objective.model
        self.encoder, self.decoder, self.likelihood = model.encoder, model.decoder, model.likelihood
        self.cycles = isinstance(weights.cycle, Tensor) or weights.cycle > 0
        self.c, self.c_swapped = model.code(batch.covariates), model.code(batch.swapped_covariates)
        self.part, self.n_cells = batch.part, len(batch)
        self.encoding = LayerPass(self.encoder.layers, self.c, context, self.part)
        self.decoding = self._decoder_pass(self.c, context)
        if self.cycles:
            self.translating = self._decoder_pass(self.c_swapped, context)
            self.cycling = LayerPass(self.encoder.layers, self.c_swapped, context, self.part)
        self.first_weight = self.encoding.layers[0].weight  # (G, H)
        self.mean_head = self.likelihood.linear_mean
        self.x: Tensor | SparseExpression  # (B, G), in the type of matrix products
        if batch.x_matmul is None:
            self.x = batch.x.to(context.matmul_dtype or self.first_weight.dtype)
        else:
            self.x = batch.x_matmul
        self.gradients, self.pair_gradients = Gradients(), Gradients()

    def _decoder_pass(self, c: Tensor, context: TrainingContext) -> LayerPass:
        """A pass through the decoder's layers with these covariates, (B, C)."""
        decoder = self.decoder
        beside = c if decoder.passes_covariates else None
        return LayerPass(decoder.layers, decoder.seen_by_layers(c), context, self.part, beside=beside)

    @no_grad()
    def encode(self) -> None:
        """Means and log-variances of the cells' posteriors, (B, 2L)."""
        self.h = self.encoding.forward(self.x)
        self.posterior_head = multiply_transposed(self.h, self.encoder.head.weight) + self.encoder.head.bias
        self.encoding.update_running_statistics()

    @no_grad()
    def prepare_decoding(self) -> None:
        """What the decoder's passes need that does not depend on z."""
        factor = self.weights.reconstruction / self.n_cells
        self.fused_likelihood = None
        if self.likelihood.can_fuse:
            blocks = self._blocks(self.batch.covariates.system)
            given = self.batch.x, factor, self.batch.weight, self.x
            self.fused_likelihood = self.likelihood.fuse(*given, blocks) if blocks else self.likelihood.fuse(*given)
        if self.cycles and self.mean_head is not None:
            blocks = self._blocks(self.batch.swapped_covariates.system)
            self.cycle_product = CycleProduct(self.mean_head, self.first_weight, self.x.dtype, blocks)

    def _blocks(self, system: Tensor) -> list[GeneBlock]:
        """Blocks of genes, and which cells of these systems, (B,), have them; none if all systems have all genes."""
        own_genes = self.objective.model.own_genes
        return [] if own_genes is None else own_genes.blocks(system, self.first_weight.dtype)

    def sample(self, context: TrainingContext) -> None:
        """Draw z from the posteriors, (B, L)."""
        mean, log_var = self.posterior_head.requires_grad_().chunk(2, dim=1)
        var = variance_from_log(log_var)
        self.posterior = mean, var, mean + var.sqrt() * normal_like(mean, context, self.part)

    @no_grad()
    def reconstruct(self) -> None:
        """Decode z with the cells' own covariates, compute the likelihood, and go back to z."""
        h = self.decoding.forward(self.posterior[2].detach())  # (B, H + C)
        if self.fused_likelihood is not None:
            fit = self.fused_likelihood(h)
            self.reconstruction, d_h, parameter_gradients = fit.total / self.n_cells, fit.h, fit.parameters
        else:
            parameters = [p for p in self.likelihood.parameters() if p.requires_grad]
            with enable_grad():
                x, h = self.batch.x.to_dense(), h.requires_grad_()
                nll = self.objective.model.nll(x, h, self.batch.covariates.system)
                loss = weighted_mean(nll, self.batch.weight, self.part)
                d_h, *d_parameters = grad(self.weights.reconstruction * loss, [h, *parameters], allow_unused=True)
            self.reconstruction = loss.detach()
            parameter_gradients = [(p, g) for p, g in zip(parameters, d_parameters, strict=True) if g is not None]
        for parameter, gradient in parameter_gradients:
            self.gradients.add(parameter, gradient)
        self.d_z = self.decoding.backward(d_h, self.gradients)

    @no_grad()
    def cycle_and_latent_terms(self) -> None:
        """Run the cycle, compute all terms of the latent space, and go back to z."""
        mean, var, z = (point.detach().requires_grad_() for point in self.posterior)
        points, mean_cycled = [mean, var, z], None
        if self.cycles:
            h = self._cycle_forward(z)
            head, n_latent = self.encoder.head, z.shape[1]
            mean_cycled = multiply_transposed(h, head.weight[:n_latent]) + head.bias[:n_latent]  # (B, L)
            points.append(mean_cycled.requires_grad_())
        parameters = [p for p in self.objective.parameters() if p.requires_grad]
        with enable_grad():
            terms = self.objective.latent_terms(self.batch, self.weights.mixture, mean, var, z, mean_cycled)
            total = self.objective.losses(self.weights, torch.zeros_like(terms[0]), *terms).total
            gradients = grad(total, [*points, *parameters], allow_unused=True)
        self.latent = [term.detach() for term in terms]
        d_points = [torch.zeros_like(p) if d is None else d for p, d in zip(points, gradients, strict=False)]
        for parameter, gradient in zip(parameters, gradients[len(points) :], strict=True):
            if gradient is not None:
                self.pair_gradients.add(parameter, gradient)
        if self.cycles:
            d_h = _backward_head(self.encoder.head, h, d_points.pop(), self.pair_gradients)
            d_points[2] += self._cycle_backward(d_h)
        self.d_posterior = d_points

    def _cycle_forward(self, z: Tensor) -> Tensor:
        """Decode z with the swapped covariates and encode that again: (B, L) -> (B, H)."""
        if self.mean_head is not None:
            h = self.translating.forward(z.detach(), out=self.x.dtype)
            h = self.cycling.forward(self.cycle_product.input(h), first_weight=self.cycle_product.weight)
            # Before the divergence: the VampPrior encodes its pseudo-inputs with the updated running statistics.
            self.cycling.update_running_statistics(self.cycle_product.constant())
            return h
        with enable_grad():
            self.h_translated = self.translating.forward(z.detach()).requires_grad_()  # (B, H)
            self.x_translated = self.objective.model.mean(
                self.h_translated, self.batch.swapped_covariates.system
            )  # (B, G)
        h = self.cycling.forward(self.x_translated.detach().to(self.x.dtype))
        self.cycling.update_running_statistics()
        return h

    def _cycle_backward(self, d_h: Tensor) -> Tensor:
        """From the gradient of the cycle's last hidden layer, (B, H), to that of z, (B, L)."""
        d = self.cycling.backward(d_h, self.pair_gradients)  # of `cycle_product`'s input, otherwise (B, G)
        if self.mean_head is not None:
            d = self.cycle_product.backward_input(d)
        else:
            parameters = [p for p in self.likelihood.parameters() if p.requires_grad]
            tensors, d_x = [self.h_translated, *parameters], d.to(self.x_translated.dtype)
            d, *d_parameters = grad(self.x_translated, tensors, d_x, allow_unused=True)
            for parameter, gradient in zip(parameters, d_parameters, strict=True):
                if gradient is not None:
                    self.pair_gradients.add(parameter, gradient)
        return self.translating.backward(d, self.pair_gradients)

    @no_grad()
    def backward_encoder(self) -> None:
        """From the posteriors back through the encoder."""
        d_mean, d_var, d_z = self.d_posterior
        (d_head,) = grad(self.posterior, self.posterior_head, [d_mean, d_var, d_z + self.d_z])
        d_h = _backward_head(self.encoder.head, self.h, d_head, self.gradients)
        self.encoding.backward(d_h, self.gradients, to_input=False)

    @no_grad()
    def backward_translation(self) -> None:
        """From the gradient of the cycle's product to those of its factors."""
        if self.cycles and self.mean_head is not None:
            gradient = self.pair_gradients.pop(self.cycle_product.weight)
            self.cycle_product.backward_weight(gradient, self.pair_gradients)

    def write_gradients(self) -> None:
        """Write the sums of both parts' gradients into the parameters, and update the decoder's running statistics."""
        self.decoding.update_running_statistics()
        if self.cycles:
            self.translating.update_running_statistics()
        self.gradients.merge(self.pair_gradients)
        for layer in chain(self.encoding.layers, self.decoding.layers):  # batch normalisation subtracts their biases
            self.gradients.setdefault(layer.bias, torch.zeros_like(layer.bias))
        codes = {c: self.gradients.pop(c) for c in (self.c, self.c_swapped) if c in self.gradients}
        for parameter, gradient in self.gradients.items():
            parameter.grad = gradient
        if codes:  # learned vectors of categories
            torch.autograd.backward([*codes], [*codes.values()])


def _backward_head(head: Linear, h: Tensor, d_out: Tensor, gradients: Gradients) -> Tensor:
    """From the gradient of the first n outputs of head(h), (B, n), to that of h, (B, H), and of the parameters."""
    n = d_out.shape[1]
    rest = len(head.bias) - n
    gradients.add(head.weight, pad(d_out.T @ h, (0, 0, 0, rest)))
    gradients.add(head.bias, pad(d_out.sum(0), (0, rest)))
    return d_out @ head.weight[:n]
