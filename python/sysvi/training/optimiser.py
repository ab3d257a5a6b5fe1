"""Adam over all parameters in one kernel.

The same update as `torch.optim.Adam(fused=True)`, whose bookkeeping (a step count for every parameter) costs as much
as the update at this size, and whose import costs a second.
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
        What to train, all on one device.
    eps
        Added to the root of the second moment.
    weight_decay
        Times the parameter, added to its gradient.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], eps: float, weight_decay: float):
        self.parameters = [p for p in parameters if p.requires_grad]
        self.eps, self.weight_decay = eps, weight_decay
        self.first = [torch.zeros_like(p) for p in self.parameters]  # moving means of the gradients
        self.second = [torch.zeros_like(p) for p in self.parameters]  # and of their squares
        self.n_steps = torch.zeros((), device=self.parameters[0].device)
        self.halves: tuple[list[int], list[int]] = [], []  # numbers of parameters, about as many values in either
        sizes = [0, 0]
        for i in sorted(range(len(self.parameters)), key=lambda i: -self.parameters[i].numel()):
            smaller = sizes.index(min(sizes))
            self.halves[smaller].append(i)
            sizes[smaller] += self.parameters[i].numel()

    def step(self, lr: float | Tensor, beside: PairExecutor = run_sequentially) -> None:
        """One update from the gradients, which are then forgotten. A parameter without gradient stays."""
        self.n_steps += 1
        beside(*(partial(self._update, half, lr) for half in self.halves))
        for p in self.parameters:
            p.grad = None

    @torch.no_grad()
    def _update(self, which: Iterable[int], lr: float | Tensor) -> None:
        of = ((self.parameters[i], self.first[i], self.second[i]) for i in which)
        used = [(p, p.grad, first, second) for p, first, second in of if p.grad is not None]
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
