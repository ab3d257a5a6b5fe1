"""The gradient of a minibatch's loss written by hand; `Objective.forward` and autograd are its oracle.

It is cheap by algebra: the likelihood from per-gene statistics, and a cycle that writes no expression, as decoding and
encoding multiply by W_o' and W_1 one after the other: (h W_o') W_1 = h (W_o' W_1). And the work comes in pairs of which
neither waits for the other, to be done side by side. What is small, all that happens in the latent space, is left to
autograd.

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
from sysvi.model.cvae import Model
from sysvi.model.likelihoods import GeneStatistics, gaussian_nll
from sysvi.model.networks import Layer, Linear, Training, positive, positive_slope
from sysvi.model.objective import Losses, Objective, Weights, normal_like, weighted_mean
from sysvi.training.layer_pass import Gradients, Pass, times


def backpropagate(
    objective: Objective,
    batch: Minibatch,
    weights: Weights,
    training: Training,
    beside: PairExecutor = run_sequentially,
    prefetch: Task = do_nothing,
) -> Losses:
    """Loss terms of a minibatch in training, and their gradients in the parameters' ``grad``.

    `prefetch` is done too, where there is time for it.
    """
    step = _Step(objective, batch, weights, training)
    beside(step.encode, step.prepare)
    step.sample(training)
    beside(step.reconstruct, step.compare)
    beside(step.return_to_expression, lambda: (step.return_across(), prefetch()))
    step.leave_gradients()
    return objective.losses(weights, step.reconstruction, *step.latent)


def n_seeds(model: Model, cycles: bool) -> int:
    """How many seeds of dropout a step draws: one for each layer of each pass."""
    layers = chain(model.encoder.layers, model.decoder.layers)
    return (2 if cycles else 1) * sum(cast(Layer, layer).dropout_rate > 0 for layer in layers)


class _Step:
    """The parts of a step and what they hand on; each is called once, in the order above.

    Of a pair, the first leaves its gradients in `gradients`, the second in `others`.
    """

    def __init__(self, objective: Objective, batch: Minibatch, weights: Weights, training: Training):
        self.objective, self.batch, self.weights = objective, batch, weights
        self.encoder, self.decoder = encoder, decoder = objective.model.encoder, objective.model.decoder
        self.cycles = isinstance(weights.cycle, Tensor) or weights.cycle > 0
        self.c = objective.model.code(batch.covariates)
        self.c_swapped = objective.model.code(batch.swapped_covariates)
        self.encoding, self.decoding = (Pass(part.layers, self.c, training) for part in (encoder, decoder))
        if self.cycles:
            c = self.c_swapped
            self.translating, self.returning = (Pass(part.layers, c, training) for part in (decoder, encoder))
        self.first = self.encoding.layers[0].weight  # (G, H)
        self.x = (
            batch.x.to(training.products or self.first.dtype) if batch.x_matmul is None else batch.x_matmul
        )  # (B, G)
        self.gradients, self.others = Gradients(), Gradients()

    @no_grad()
    def encode(self) -> None:
        """Means and log-variances of the cells' posteriors, (B, 2L)."""
        self.h = self.encoding.forward(self.x)
        self.stats = times(self.h, self.encoder.head.weight) + self.encoder.head.bias
        self.encoding.settle()

    @no_grad()
    def prepare(self) -> None:
        """What the decoder's passes need that does not depend on z."""
        decoder, head = self.decoder, self.decoder.mean
        if decoder.per_gene:
            x, w, factor = self.batch.x, self.batch.weight, self.weights.reconstruction / len(self.x)
            var = positive(decoder.log_var)  # (G,)
            self.likelihood = GeneStatistics(x, head.weight, head.bias, var, factor, w, self.x)
        if self.cycles:
            self.w_o, self.w_1 = head.weight.to(self.x.dtype), self.first.to(self.x.dtype)  # (G, H)
            self.across = self.w_o.T @ self.w_1  # (H, H)

    def sample(self, training: Training) -> None:
        """Draw z from the posteriors, (B, L)."""
        mean, log_var = self.stats.requires_grad_().chunk(2, dim=1)
        var = positive(log_var)
        self.posterior = mean, var, mean + var.sqrt() * normal_like(mean, training)

    @no_grad()
    def reconstruct(self) -> None:
        """Decode z under the cells' own covariates; likelihood, and from it back to z."""
        decoder, head = self.decoder, self.decoder.mean
        h = self.decoding.forward(self.posterior[2].detach())  # (B, H)
        if decoder.per_gene:
            fit = self.likelihood(h)
            self.reconstruction, d_h = fit.total / len(h), fit.h
            self.gradients.add(head.weight, fit.weight)
            self.gradients.add(head.bias, fit.bias)
            self.gradients.add(decoder.log_var, fit.var * positive_slope(decoder.log_var))
        else:
            parameters = [*head.parameters(), *decoder.log_var_head.parameters()]
            with enable_grad():
                x, h = self.batch.x.to_dense(), h.requires_grad_()
                loss = weighted_mean(gaussian_nll(x, head(h), decoder.variance(h)), self.batch.weight)
                d_h, *of_parameters = grad(self.weights.reconstruction * loss, [h, *parameters])
            self.reconstruction = loss.detach()
            for parameter, gradient in zip(parameters, of_parameters, strict=True):
                self.gradients.add(parameter, gradient)
        self.d_z = self.decoding.backward(d_h, self.gradients)

    @no_grad()
    def compare(self) -> None:
        """Decode z under the swapped covariates and encode that again; all latent terms, and from them back to z."""
        mean, var, z = (point.detach().requires_grad_() for point in self.posterior)
        points, mean_cycled = [mean, var, z], None
        if self.cycles:
            h = self.translating.forward(z.detach(), out=self.x.dtype)
            h = self.returning.forward(h, first=self.across)  # (B, H)
            # Before the divergence, for which pseudo-inputs are encoded with the running statistics of then.
            self.returning.settle(self.decoder.mean.bias @ self.first)
            head, n_latent = self.encoder.head, z.shape[1]
            mean_cycled = (times(h, head.weight[:n_latent]) + head.bias[:n_latent]).requires_grad_()  # (B, L)
            points.append(mean_cycled)
        parameters = [p for p in self.objective.parameters() if p.requires_grad]
        with enable_grad():
            terms = self.objective.latent_terms(self.batch, self.weights.mixture, mean, var, z, mean_cycled)
            total = self.objective.losses(self.weights, torch.zeros_like(terms[0]), *terms).total
            gradients = grad(total, [*points, *parameters], allow_unused=True)
        self.latent = [term.detach() for term in terms]
        of_points = [torch.zeros_like(p) if d is None else d for p, d in zip(points, gradients, strict=False)]
        for parameter, gradient in zip(parameters, gradients[len(points) :], strict=True):
            if gradient is not None:
                self.others.add(parameter, gradient)
        if self.cycles:
            d_h = _back_through(self.encoder.head, h, of_points.pop(), self.others)
            d_h = self.returning.backward(d_h, self.others)
            of_points[2] += self.translating.backward(d_h, self.others)
        self.d_posterior = of_points

    @no_grad()
    def return_to_expression(self) -> None:
        """From the posteriors back through the encoder."""
        d_mean, d_var, d_z = self.d_posterior
        (d_stats,) = grad(self.posterior, self.stats, [d_mean, d_var, d_z + self.d_z])
        d_h = _back_through(self.encoder.head, self.h, d_stats, self.gradients)
        self.encoding.backward(d_h, self.gradients, to_x=False)

    @no_grad()
    def return_across(self) -> None:
        """From W_o' W_1 back to its factors."""
        if self.cycles:
            d_across = self.others.pop(self.across)
            self.others.add(self.decoder.mean.weight, self.w_1 @ d_across.T)
            self.others.add(self.first, self.w_o @ d_across)

    def leave_gradients(self) -> None:
        """In the parameters, of both sides together; and move the decoder's running statistics, in order."""
        self.decoding.settle()
        if self.cycles:
            self.translating.settle()
        self.gradients.merge(self.others)
        for layer in chain(self.encoding.layers, self.decoding.layers):  # the mean over cells takes their biases away
            self.gradients.setdefault(layer.bias, torch.zeros_like(layer.bias))
        codes = {c: self.gradients.pop(c) for c in (self.c, self.c_swapped) if c in self.gradients}
        for parameter, gradient in self.gradients.items():
            parameter.grad = gradient
        if codes:  # of learned vectors
            torch.autograd.backward([*codes], [*codes.values()])


def _back_through(head: Linear, h: Tensor, grad: Tensor, gradients: Gradients) -> Tensor:
    """From the gradient of the first n values of head(h), (B, n), that of h, (B, H), and those of parameters."""
    n = grad.shape[1]
    rest = len(head.bias) - n
    gradients.add(head.weight, pad(grad.T @ h, (0, 0, 0, rest)))
    gradients.add(head.bias, pad(grad.sum(0), (0, rest)))
    return grad @ head.weight[:n]
