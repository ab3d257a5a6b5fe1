"""The one place that chooses how training computes, and says why."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch

from sysvi.kernels.layers import card_kernels

DENSEST = 0.4  # of sparse products: above this, dense ones are as fast


@dataclass(frozen=True)
class ComputePlan:
    """How training computes; the same model whatever is chosen.

    Parameters
    ----------
    fused
        Gradients written by hand: the likelihood from per-gene statistics, a cycle that writes no expression; otherwise
        torch's operations one by one, the oracle of the tests.
    sparse
        Multiply expression as it is stored, or as a dense minibatch.
    products
        Type of the values that hidden layers pass on, and so of their matrix products; sums, statistics of genes and
        units, losses and parameters are float32 always.
    expression
        Type of the expression, of which the statistics are.
    why
        Reasons, a sentence for each choice.
    beside
        Do two parts of a step at once where neither waits for the other.
    graph
        Record a step once and replay it (a CUDA graph), or start its operations one by one.
    """

    fused: bool
    sparse: bool
    products: torch.dtype
    why: tuple[str, ...]
    expression: torch.dtype = torch.float32
    beside: bool = False
    graph: bool = False

    @property
    def of_expression(self) -> dict[str, Any]:
        """How `Cells.minibatch` makes expression."""
        return {"sparse": self.sparse, "dtype": self.expression, "matmul_dtype": self.products if self.fused else None}

    def as_dict(self) -> dict[str, object]:
        """Plain values for events and files."""
        names = {name: str(getattr(self, name)).removeprefix("torch.") for name in ("products", "expression")}
        return asdict(self) | names | {"why": list(self.why)}


def choose_compute_plan(
    device: torch.device, density: float, *, fused: bool = True, precision: str = "auto"
) -> ComputePlan:
    """Choose by device, fraction of non-zero expression and the user's wish.

    Examples
    --------
    >>> kernels = choose_compute_plan(torch.device("cpu"), density=0.1, precision="float32")
    >>> kernels.sparse, kernels.products
    (True, torch.float32)
    """
    if not fused:
        return ComputePlan(False, False, torch.float32, ("plain, dense and float32: fused=False was asked for",))
    sparse = multiplies_sparse(device, density)
    about_x = (
        f"{'sparse' if sparse else 'dense'} expression: {density:.0%} of it is not zero, on a {device.type} device"
    )
    short = precision == "bfloat16" or (precision == "auto" and _has_bfloat16(device))
    products = torch.bfloat16 if short else torch.float32
    name = str(products).removeprefix("torch.")
    reason = f"precision={precision!r} was asked for" if precision != "auto" else _about_bfloat16(short)
    why = (about_x, f"{name} products of hidden layers: {reason}")
    if device.type == "cuda":
        why_not = card_kernels(device).why_not
        layers = f"layers by torch's operations: {why_not}" if why_not else "layers by Triton's kernels: they work here"
        at_once = "parts of a step at once: on two of the card's streams"
        again = "steps replayed: a card waits for Python otherwise"
        return ComputePlan(True, sparse, products, (*why, layers, at_once, again), products, beside=True, graph=True)
    threads = torch.get_num_threads()
    if device.type != "cpu":
        return ComputePlan(True, sparse, products, (*why, f"parts of a step in turn: a {device.type} device"))
    how = "in turn: torch has 1 thread" if threads == 1 else f"at once: torch has {threads} threads"
    return ComputePlan(True, sparse, products, (*why, f"parts of a step {how}"), beside=threads > 1)


def multiplies_sparse(device: torch.device, density: float) -> bool:
    """Whether products with expression are faster from its stored values."""
    return device.type == "cpu" and density <= DENSEST


def _has_bfloat16(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 by instructions of its own."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")  # older versions of torch lack them
    return device.type == "cpu" and any(getattr(torch.cpu, check, bool)() for check in checks)


def _about_bfloat16(has: bool) -> str:
    return f"the device has {'' if has else 'no '}instructions for bfloat16"
