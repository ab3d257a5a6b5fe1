"""Adam over all parameters, on torch's fused kernel.

It computes the same update as ``torch.optim.Adam(fused=True)``, to the bit. A step of that class is as fast, to within
the noise (`benchmarks/steps.py`), but its first use imports torch's compiler, which takes as long as importing torch
itself (`benchmarks/imports.py`): as long as a small training. Here the parameters are updated in two halves, which an
executor may run at the same time.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

import torch
from torch import Tensor, nn

from sysvi._core.parallel import PairExecutor, run_sequentially

BETA_1, BETA_2 = 0.9, 0.999


class Adam:
    """Adam with L2 weight decay (Kingma and Ba, 2015).

    Parameters
    ----------
    parameters
        Parameters to train, all on one device; those that need no gradient are left out.
    eps
        Added to the square root of the second moment.
    weight_decay
        Factor of the parameter that is added to its gradient.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], eps: float, weight_decay: float):
        self.parameters = [p for p in parameters if p.requires_grad]
        self.eps, self.weight_decay = eps, weight_decay
        self.first_moments = [torch.zeros_like(p) for p in self.parameters]
        self.second_moments = [torch.zeros_like(p) for p in self.parameters]
        self.n_steps = torch.zeros((), device=self.parameters[0].device)
        self.halves = _split_evenly([p.numel() for p in self.parameters])

    def state_tensors(self) -> list[Tensor]:
        """All tensors that a step changes, but for the parameters."""
        return [*self.first_moments, *self.second_moments, self.n_steps]

    def step(self, lr: float | Tensor, run_pair: PairExecutor = run_sequentially) -> None:
        """Update the parameters from their gradients, then drop these. A parameter without a gradient is unchanged."""
        self.n_steps += 1
        run_pair(*(partial(self._update, half, lr) for half in self.halves))
        for p in self.parameters:
            p.grad = None

    @torch.no_grad()
    def _update(self, indices: Iterable[int], lr: float | Tensor) -> None:
        states = ((self.parameters[i], self.first_moments[i], self.second_moments[i]) for i in indices)
        used = [(p, p.grad, first, second) for p, first, second in states if p.grad is not None]
        if not used:
            return
        parameters, gradients, first, second = map(list, zip(*used, strict=True))
        torch._fused_adam_(
            parameters,
            gradients,
            first,
            second,
            [],
            [self.n_steps] * len(used),
            lr=lr,
            beta1=BETA_1,
            beta2=BETA_2,
            weight_decay=self.weight_decay,
            eps=self.eps,
            amsgrad=False,
            maximize=False,
        )


def _split_evenly(sizes: list[int]) -> tuple[list[int], list[int]]:
    """Split indices into two groups of about the same total size.

    Examples
    --------
    >>> _split_evenly([1, 5, 4])
    ([1], [2, 0])
    """
    groups: tuple[list[int], list[int]] = [], []
    totals = [0, 0]
    for i in sorted(range(len(sizes)), key=lambda i: -sizes[i]):
        smaller = totals.index(min(totals))
        groups[smaller].append(i)
        totals[smaller] += sizes[i]
    return groups
