"""The compute plan: how training computes on a device, chosen once before it starts, with the reasons."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from sysvi._core.ranks import Ranks
from sysvi.kernels.backend import explain_backend

MAX_SPARSE_DENSITY = 0.4  # of denser expression, dense products are as fast as sparse ones


@dataclass(frozen=True)
class ComputePlan:
    """How training computes. The model is the same whatever is chosen, up to rounding.

    Parameters
    ----------
    sparse
        Whether expression is multiplied as it is stored (`SparseExpression`) or as a dense minibatch.
    matmul_dtype
        Type of the values that hidden layers pass on, and so of their matrix products. Sums, statistics of genes and
        units, losses and parameters are always float32.
    why
        The reasons, a sentence for each choice.
    expression
        Type of the expression in a minibatch, and so of the statistics of genes.
    concurrent
        Whether two independent parts of a step are computed at the same time.
    graph
        Whether a step is captured once as a CUDA graph and replayed.
    """

    sparse: bool
    matmul_dtype: torch.dtype
    why: tuple[str, ...]
    expression: torch.dtype = torch.float32
    concurrent: bool = False
    graph: bool = False

    @property
    def minibatch_arguments(self) -> dict[str, Any]:
        """Arguments of `Cells.minibatch` that decide the form of the expression."""
        return {"sparse": self.sparse, "dtype": self.expression, "matmul_dtype": self.matmul_dtype}

    def as_dict(self) -> dict[str, object]:
        """Plain values for events and files."""
        names = {name: str(getattr(self, name)).removeprefix("torch.") for name in ("matmul_dtype", "expression")}
        return asdict(self) | names | {"why": list(self.why)}


def choose_compute_plan(device: torch.device, density: float, *, precision: str = "auto") -> ComputePlan:
    """Choose how to compute.

    Parameters
    ----------
    device
        Where training runs.
    density
        Fraction of the expression values that are not 0.
    precision
        ``"float32"``, ``"bfloat16"``, or ``"auto"``: bfloat16 where the device has instructions for it.

    Examples
    --------
    >>> plan = choose_compute_plan(torch.device("cpu"), density=0.1, precision="float32")
    >>> plan.sparse, plan.matmul_dtype
    (True, torch.float32)
    """
    sparse = prefer_sparse_products(device, density)
    bfloat16 = precision == "bfloat16" or (precision == "auto" and _has_bfloat16(device))
    matmul_dtype = torch.bfloat16 if bfloat16 else torch.float32
    reason = f"precision={precision!r} was requested"
    if precision == "auto":
        reason = f"the device has {'' if bfloat16 else 'no '}instructions for bfloat16"
    why = [
        f"{'sparse' if sparse else 'dense'} expression: {density:.0%} of it is not zero, on a {device.type} device",
        f"{str(matmul_dtype).removeprefix('torch.')} products of hidden layers: {reason}",
    ]
    if device.type == "cuda":
        why += [
            f"layers by {explain_backend(device)}",
            "independent parts of a step at the same time: on two CUDA streams",
            "steps captured as CUDA graphs and replayed: otherwise the GPU waits for Python",
        ]
        return ComputePlan(sparse, matmul_dtype, tuple(why), expression=matmul_dtype, concurrent=True, graph=True)
    if device.type != "cpu":
        why.append(f"parts of a step one after another: a {device.type} device")
        return ComputePlan(sparse, matmul_dtype, tuple(why))
    threads = torch.get_num_threads()
    if threads == 1:
        why.append("parts of a step one after another: torch has 1 thread")
    else:
        why.append(f"independent parts of a step at the same time: torch has {threads} threads")
    return ComputePlan(sparse, matmul_dtype, tuple(why), concurrent=threads > 1)


def without_graph(plan: ComputePlan, reason: str) -> ComputePlan:
    """The same plan with steps taken one by one, for a reason; a plan without a graph stays as it is."""
    if not plan.graph:
        return plan
    why = [line for line in plan.why if not line.startswith("steps captured")]
    return replace(plan, graph=False, why=(*why, f"steps one by one: {reason}"))


def for_ranks(plan: ComputePlan, ranks: Ranks) -> ComputePlan:
    """The same plan with the parts of a step one after another, if several processes train: they communicate in order.

    Examples
    --------
    >>> plan = choose_compute_plan(torch.device("cpu"), density=0.1)
    >>> for_ranks(plan, Ranks(0, 2)).why[-1]
    'parts of a step one after another: 2 processes train together'
    """
    if ranks.size == 1:
        return plan
    plan = without_graph(plan, "several processes train together")
    why = [line for line in plan.why if " of a step " not in line]
    why.append(f"parts of a step one after another: {ranks.size} processes train together")
    return replace(plan, concurrent=False, why=tuple(why))


def prefer_sparse_products(device: torch.device, density: float) -> bool:
    """Whether products with expression are faster from its stored values."""
    return device.type == "cpu" and density <= MAX_SPARSE_DENSITY


def _has_bfloat16(device: torch.device) -> bool:
    """Whether the device has instructions that multiply bfloat16."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")  # missing in older versions of torch
    return device.type == "cpu" and any(getattr(torch.cpu, check, bool)() for check in checks)
