"""A plain description of the cells, and minibatches cut from it.

Below this line the engine knows arrays only: no AnnData, no Seurat. Shapes: n cells, G genes, B cells of a minibatch,
P categorical and Q continuous covariates, S systems, nnz stored values.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from sysvi._core.errors import InputError
from sysvi.kernels.backend import choose_backend
from sysvi.kernels.sparse import SparseExpression


@dataclass(frozen=True)
class Vocabulary:
    """Names and orders: what the model's input columns mean.

    The one place that decides the order of genes, systems and categories.
    """

    genes: tuple[str, ...]
    system_key: str
    systems: tuple[str, ...]
    categorical: dict[str, tuple[str, ...]] = field(default_factory=dict)
    continuous: dict[str, tuple[float, float]] = field(default_factory=dict)  # name -> (mean, standard deviation)

    @property
    def n_categories(self) -> list[int]:
        """Number of categories of each categorical covariate."""
        return [len(categories) for categories in self.categorical.values()]


@dataclass(frozen=True)
class Covariates:
    """Integer codes and standardised values of some cells."""

    system: Tensor  # (n,) int64
    categorical: Tensor  # (n, P) int64
    continuous: Tensor  # (n, Q) float32

    def select(self, index: Tensor) -> Covariates:
        """The covariates of the cells in `index`."""
        return Covariates(self.system[index], self.categorical[index], self.continuous[index])


@dataclass(frozen=True)
class Minibatch:
    """What one training step sees."""

    x: Tensor | SparseExpression  # (B, G)
    covariates: Covariates  # as observed
    swapped_covariates: Covariates  # with the system exchanged for another one: input of the cycle's decoding
    weight: Tensor | None  # (B,) weight of each cell in the loss, 1 on average; None: all the same
    x_matmul: Tensor | SparseExpression | None = (
        None  # x converted to the dtype of matrix products, if it has been already
    )

    def __len__(self) -> int:
        return len(self.x)


class Cells:
    """Log-normalised expression (CSR) and covariates of n cells, on one device.

    Parameters
    ----------
    x
        Expression, cells x genes, CSR, float32.
    system
        Code of each cell's system, (n,).
    categorical
        Codes of the other categorical covariates, (n, P).
    continuous
        Standardised continuous covariates, (n, Q).
    n_systems
        Number of systems S.
    weight_systems
        Weight cells by the inverse size of their system, so that every system counts the same in the loss.
    device
        Where the tensors live.
    """

    def __init__(
        self,
        x: sp.csr_matrix,
        system: np.ndarray,
        categorical: np.ndarray | None = None,
        continuous: np.ndarray | None = None,
        *,
        n_systems: int,
        weight_systems: bool = False,
        device: torch.device | str = "cpu",
    ):
        n = x.shape[0]
        self.x = x
        self.n_cells, self.n_genes = x.shape
        self.n_systems = n_systems
        self.max_values_per_cell = int(np.diff(x.indptr).max(initial=0))  # values of one cell
        self.device = torch.device("cpu")
        self.device_csr: tuple[Tensor, Tensor, Tensor] | None = None  # starts, places and values, on another device
        categorical = np.zeros((n, 0)) if categorical is None else categorical
        continuous = np.zeros((n, 0)) if continuous is None else continuous
        self.covariates = Covariates(
            torch.from_numpy(np.asarray(system, np.int64)),
            torch.from_numpy(np.asarray(categorical, np.int64)),
            torch.from_numpy(np.asarray(continuous, np.float32)),
        )
        sizes = torch.bincount(self.covariates.system, minlength=n_systems)  # (S,)
        self.system_order = torch.argsort(self.covariates.system, stable=True)  # (n,) cells grouped by system
        self.system_start = torch.cumsum(sizes, 0) - sizes  # (S,)
        self.system_size = sizes
        per_system = n / (n_systems * sizes.clamp_min(1)).float()  # (S,)
        self.weight = per_system[self.covariates.system] if weight_systems else None  # (n,)
        self.to(torch.device(device))

    @property
    def density(self) -> float:
        """Fraction of values that are stored."""
        return self.x.nnz / max(1, self.n_cells * self.n_genes)

    def to(self, device: torch.device) -> None:
        """Move everything to another device; the CPU keeps the expression it was given."""
        self.device = device
        self.device_csr = None if device.type == "cpu" else self._csr_on_device(device)
        for name in ("system_order", "system_start", "system_size"):
            setattr(self, name, getattr(self, name).to(device))
        c = self.covariates
        self.covariates = Covariates(c.system.to(device), c.categorical.to(device), c.continuous.to(device))
        self.weight = None if self.weight is None else self.weight.to(device)

    def _csr_on_device(self, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        """Starts of rows, places and values of the expression on a device."""
        starts, places = self.x.indptr.astype(np.int64), self.x.indices.astype(np.int32, copy=False)
        starts, places, values = (torch.from_numpy(part).to(device) for part in (starts, places, self.x.data))
        return starts, places, values

    def expression(
        self, index: Tensor, *, sparse: bool, dtype: torch.dtype = torch.float32
    ) -> Tensor | SparseExpression:
        """Expression of the cells in `index`, (B, G), dense on the device or as stored values on the CPU."""
        return SparseExpression(self.x[index.numpy()]).to(dtype) if sparse else self.dense(index, dtype)

    def dense(self, index: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """Expression of the cells in `index` as a dense (B, G) tensor on the device."""
        if self.device_csr is None:
            return torch.from_numpy(self.x[index.numpy()].toarray()).to(dtype)
        starts, columns, values = self.device_csr
        rows = index.to(self.device)
        backend = choose_backend(self.device)
        return backend.dense_rows(starts, columns, values, rows, self.n_genes, self.max_values_per_cell, dtype)

    def minibatch(
        self,
        index: Tensor,
        swapped_covariates: str,
        noise: torch.Generator,
        *,
        sparse: bool = False,
        dtype: torch.dtype = torch.float32,
        matmul_dtype: torch.dtype | None = None,
    ) -> Minibatch:
        """The cells in `index` with their own covariates, and those of another system drawn for each cell.

        Parameters
        ----------
        index
            Rows, (B,) int64 on the device.
        swapped_covariates
            Covariates beside the system in the swapped pass: ``"resampled"`` (those of a random cell of the system
            swapped to), ``"observed"`` (the cell's own) or ``"zero"`` (none; the paper's code).
        noise
            Draws the systems and the cells.
        sparse
            Leave the expression sparse (on the CPU) or make it dense.
        dtype
            Type of the expression.
        matmul_dtype
            Another type in which it is wanted too.
        """
        own = self.covariates.select(index)
        swapped = self._swap(own, swapped_covariates, noise)
        weight = None if self.weight is None else self.weight[index]
        x = self.expression(index, sparse=sparse, dtype=dtype)
        return Minibatch(x, own, swapped, weight, None if matmul_dtype is None else x.to(matmul_dtype))

    def _swap(self, own: Covariates, how: str, noise: torch.Generator) -> Covariates:
        """Uniformly another system for each cell, with covariates to go with it."""
        n_cells = len(own.system)
        step = torch.randint(1, self.n_systems, (n_cells,), generator=noise, device=self.device)
        system = (own.system + step) % self.n_systems  # uniform among the S - 1 others
        if how == "resampled":
            u = torch.rand(n_cells, generator=noise, device=self.device)
            size = self.system_size[system]
            place = torch.minimum((u * size).long(), size - 1)
            return self.covariates.select(self.system_order[self.system_start[system] + place])
        if how == "observed":
            return Covariates(system, own.categorical, own.continuous)
        return Covariates(system, torch.full_like(own.categorical, -1), torch.zeros_like(own.continuous))


def shuffle(index: Tensor, order: torch.Generator) -> Tensor:
    """The cells in `index`, (n,), in an order drawn from a generator on the CPU."""
    return index[torch.randperm(len(index), generator=order).to(index.device)]


def minibatches(index: Tensor, batch_size: int, order: torch.Generator | None = None) -> Iterator[Tensor]:
    """Cut `index` into minibatches of nearly equal size, never of a single cell.

    Equal sizes instead of a rest at the end: batch normalisation sees no tiny minibatch.

    Parameters
    ----------
    index
        Cells to go through once, (n,) with n >= 2.
    batch_size
        Upper bound of the size (exceeded by one where a lone cell would be left: 5 cells by 2 are 3 + 2).
    order
        Shuffles the cells first; None keeps their order.

    Examples
    --------
    >>> [len(b) for b in minibatches(torch.arange(10), 4)]
    [4, 3, 3]
    """
    n = len(index)
    if n < 2:
        raise InputError(f"{n} cell cannot be trained on; batch normalisation needs at least two.")
    if order is not None:
        index = shuffle(index, order)
    yield from torch.tensor_split(index, n_minibatches(n, batch_size))


def n_minibatches(n: int, batch_size: int) -> int:
    """How many minibatches `minibatches` makes of n cells."""
    return max(1, min(-(-n // batch_size), n // 2))
