"""Cells as plain arrays, and the minibatches that training takes from them.

The model and its training know nothing of AnnData or Seurat, only the classes of this module. Shapes: n cells, G genes,
B cells of a minibatch, P categorical and Q continuous covariates, S systems, nnz stored (nonzero) values.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from sysvi._core.errors import InputError
from sysvi._core.forks import check_fork
from sysvi._core.ranks import ALONE, Part, Ranks, Share
from sysvi.data.row_blocks import row_blocks, select_genes
from sysvi.data.scan import Scan, scan
from sysvi.data.stored import SharedExpression, StoredExpression, Window, epoch_groups, is_sorted, n_cells_of_block
from sysvi.data.summary import Summary, align_systems, sample_for_summary, summarise
from sysvi.kernels.backend import choose_backend
from sysvi.kernels.sparse import SparseExpression


@dataclass(frozen=True)
class Vocabulary:
    """Names of genes, systems and covariate categories, in the order of the model's inputs.

    Parameters
    ----------
    genes
        Gene names, in the order of the columns of the expression.
    system_key
        Column of ``adata.obs`` with the systems.
    systems
        Names of the systems; the position of a name is the system's code.
    categorical
        For each categorical covariate its categories; the position of a category is its code.
    continuous
        For each continuous covariate the mean and standard deviation by which it is standardised.
    lacking
        The genes that a system lacks, by its name; systems that have all genes are left out.
    """

    genes: tuple[str, ...]
    system_key: str
    systems: tuple[str, ...]
    categorical: dict[str, tuple[str, ...]] = field(default_factory=dict)
    continuous: dict[str, tuple[float, float]] = field(default_factory=dict)
    lacking: dict[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def own_genes(self) -> np.ndarray | None:
        """Whether each system has each gene, (S, G) bool; None if all systems have all genes.

        Examples
        --------
        >>> lacking = {"mouse": ("INS",), "human": ("Ins1",)}
        >>> vocabulary = Vocabulary(("INS", "GCG", "Ins1"), "species", ("human", "mouse"), lacking=lacking)
        >>> vocabulary.own_genes.tolist()
        [[True, True, False], [False, True, True]]
        """
        if not self.lacking:
            return None
        return np.stack([~np.isin(self.genes, self.lacking.get(name, ())) for name in self.systems])

    @property
    def n_categories(self) -> list[int]:
        """Number of categories of each categorical covariate."""
        return [len(categories) for categories in self.categorical.values()]

    def extend(
        self, systems: Iterable[str], categorical: Mapping[str, Iterable[str]], lacking: Iterable[str] = ()
    ) -> Vocabulary:
        """The same with further systems and categories, in the order of their names, after the known ones.

        New systems lack the genes in `lacking`.

        Examples
        --------
        >>> Vocabulary(("INS",), "species", ("human", "mouse")).extend(["rat", "human"], {}).systems
        ('human', 'mouse', 'rat')
        """

        def and_new(known: tuple[str, ...], names: Iterable[str]) -> tuple[str, ...]:
            return known + tuple(sorted(set(names) - set(known)))

        categories = {key: and_new(known, categorical.get(key, ())) for key, known in self.categorical.items()}
        extended, genes = and_new(self.systems, systems), tuple(lacking)
        of_new = dict.fromkeys(extended[len(self.systems) :], genes) if genes else {}
        return replace(self, systems=extended, categorical=categories, lacking=self.lacking | of_new)


@dataclass(frozen=True)
class Covariates:
    """System and covariates of n cells.

    Parameters
    ----------
    system
        Codes of the systems, (n,) int64.
    categorical
        Codes of the categorical covariates, (n, P) int64; -1 for none.
    continuous
        Standardised continuous covariates, (n, Q) float32.
    """

    system: Tensor
    categorical: Tensor
    continuous: Tensor

    def select(self, index: Tensor) -> Covariates:
        """Select the covariates of the cells in `index`, (B,)."""
        return Covariates(self.system[index], self.categorical[index], self.continuous[index])


@dataclass(frozen=True)
class Minibatch:
    """Input of one training step: B cells.

    Parameters
    ----------
    x
        Log-normalised expression, (B, G); 0 for genes that a cell's system lacks.
    covariates
        Observed covariates.
    swapped_covariates
        Covariates with each cell's system replaced by another one, under which the cycle decodes.
    weight
        Weight of each cell in the loss, (B,), 1 on average; None for equal weights.
    x_matmul
        `x` in the dtype of the matrix products; None if it has not been converted yet.
    part
        The part of the minibatch that one of several processes has: the B cells are its own. None: the whole.
    """

    x: Tensor | SparseExpression
    covariates: Covariates
    swapped_covariates: Covariates
    weight: Tensor | None
    x_matmul: Tensor | SparseExpression | None = None
    part: Part | None = None

    def __len__(self) -> int:
        """Number of cells of the whole minibatch."""
        return len(self.x) if self.part is None else self.part.n_cells


class Cells:
    """Log-normalised expression and covariates of n cells, on one device.

    The covariates of all cells are in memory. Their expression is too, or it stays on disk (`StoredExpression`); then
    `load` gives copies of the cells that hold a window of it.

    Parameters
    ----------
    x
        Log-normalised expression, of shape (n, G): CSR in memory, float32, or on disk. Several processes have a share
        of it each.
    system
        Codes of the systems, (n,).
    categorical
        Codes of the categorical covariates, (n, P); None for no covariates.
    continuous
        Standardised continuous covariates, (n, Q); None for no covariates.
    n_systems
        Number of systems, S.
    weight_systems
        Whether cells are weighted by the inverse size of their system, so that every system contributes equally to the
        loss.
    device
        Device of the tensors; minibatches are made there.
    """

    def __init__(
        self,
        x: sp.csr_matrix | StoredExpression | SharedExpression,
        system: np.ndarray,
        categorical: np.ndarray | None = None,
        continuous: np.ndarray | None = None,
        *,
        n_systems: int,
        weight_systems: bool = False,
        device: torch.device | str = "cpu",
    ):
        check_fork()
        n = x.shape[0]
        self.x = x
        self.share = None if isinstance(x, sp.csr_matrix) else x.share
        self.n_cells, self.n_genes = map(int, x.shape)
        self.n_systems = n_systems
        self.window: Window | None = None  # of the expression on disk, in the copies that `load` makes
        self.device = torch.device("cpu")
        self.device_csr: tuple[Tensor, Tensor, Tensor] | None = None  # row starts, columns and values
        self._summary: Summary | None = None
        self._scan: Scan | None = None
        self._is_sorted: bool | None = None
        categorical = np.zeros((n, 0)) if categorical is None else categorical
        continuous = np.zeros((n, 0)) if continuous is None else continuous
        self.covariates = Covariates(
            torch.from_numpy(np.asarray(system, np.int64)),
            torch.from_numpy(np.asarray(categorical, np.int64)),
            torch.from_numpy(np.asarray(continuous, np.float32)),
        )
        sizes = torch.bincount(self.covariates.system, minlength=n_systems)  # (S,)
        self.system_order = torch.argsort(self.covariates.system, stable=True)  # (n,) cells sorted by system
        self.system_start = torch.cumsum(sizes, 0) - sizes  # (S,) position of each system in system_order
        self.system_size = sizes
        weight_of_system = n / (n_systems * sizes.clamp_min(1)).float()  # (S,)
        self.weight = weight_of_system[self.covariates.system] if weight_systems else None  # (n,)
        self.to(torch.device(device))

    @property
    def density(self) -> float:
        """Fraction of expression values that are stored (nonzero)."""
        return self.x.nnz / max(1, self.x.shape[0] * self.x.shape[1])

    @property
    def ranks(self) -> Ranks:
        """The processes that share the cells; usually a single one."""
        return ALONE if self.share is None else self.share.ranks

    @property
    def is_stored(self) -> bool:
        """Whether the expression is on disk."""
        return isinstance(self.x, StoredExpression)

    def summary(self, n_categories: Sequence[int]) -> Summary:
        """Linear model of the expression, computed once.

        Its design is one-hot system | one-hot categorical covariates, of so many categories | continuous covariates.
        """
        if self._summary is None:
            c = self.covariates
            rows = sample_for_summary(self.n_cells)
            codes = zip([c.system, *c.categorical.T], [self.n_systems, *n_categories], strict=True)
            one_hot = [code.cpu().numpy()[rows, None] == np.arange(n) for code, n in codes]
            x, design = self.x[rows], np.hstack([*one_hot, c.continuous.cpu().numpy()[rows]])
            self._summary = align_systems(summarise(x, design), x, design, self.n_systems)
        return self._summary

    def is_sorted(self) -> bool:
        """Whether neighbouring cells are of the same system or categories more often than by chance, computed once."""
        if self._is_sorted is None:
            c = self.covariates
            self._is_sorted = is_sorted(torch.cat([c.system[:, None], c.categorical], dim=1).cpu())
        return self._is_sorted

    def scan(self) -> Scan:
        """What one pass over the expression tells of each gene in each system, computed once."""
        if self._scan is None:
            system = self.covariates.system.cpu().numpy()
            self._scan = scan(self.blocks(), system, self.n_systems, self.n_genes).total(self.ranks)
        return self._scan

    def blocks(self) -> Iterator[tuple[int, int, sp.csr_matrix]]:
        """The expression in blocks of consecutive cells: first row, last row + 1, and CSR without stored zeros.

        One of several processes has the blocks of its own cells.
        """
        if self.share is not None:
            return self._own_blocks(self.share)
        return row_blocks(self.x.matrix if isinstance(self.x, StoredExpression) else self.x)

    def _own_blocks(self, share: Share) -> Iterator[tuple[int, int, sp.csr_matrix]]:
        assert not isinstance(self.x, sp.csr_matrix)
        for start, stop in share.runs(self.n_cells):
            yield start, stop, self.x.read_own(np.arange(start, stop))

    def read_genes(self, genes: np.ndarray) -> sp.csr_matrix:
        """Expression of some genes, columns of `x`, in all cells."""
        return select_genes(self.x.matrix, genes) if isinstance(self.x, StoredExpression) else self.x[:, genes]

    def to(self, device: torch.device) -> None:
        """Move the tensors to a device. The expression given at creation also stays in main memory."""
        self.device = device
        in_memory = isinstance(self.x, sp.csr_matrix)
        self.device_csr = self._csr_on_device(device) if in_memory and device.type != "cpu" else None
        self._own: Cells | None = None
        for name in ("system_order", "system_start", "system_size"):
            setattr(self, name, getattr(self, name).to(device))
        c = self.covariates
        self.covariates = Covariates(c.system.to(device), c.categorical.to(device), c.continuous.to(device))
        self.weight = None if self.weight is None else self.weight.to(device)

    def select(self, rows: np.ndarray) -> Cells:
        """Some of the cells, as new cells of equal weight on this device."""
        c = self.covariates.select(torch.from_numpy(rows).to(self.device))
        values = (getattr(c, name).cpu().numpy() for name in Covariates.__dataclass_fields__)
        return Cells(self.x[rows], *values, n_systems=self.n_systems, device=self.device)

    def join(self, other: Cells) -> Cells:
        """These cells and others with the same genes and categories, as new cells of equal weight on this device."""
        parts = self.covariates, other.covariates
        values = (np.concatenate([getattr(c, name).cpu() for c in parts]) for name in Covariates.__dataclass_fields__)
        assert isinstance(self.x, sp.csr_matrix)  # `select` gives cells in memory
        x = sp.csr_matrix(sp.vstack([self.x, other.x], format="csr"))
        return Cells(x, *values, n_systems=self.n_systems, device=self.device)

    def groups(self, index: Tensor, batch_size: int, order: torch.Generator) -> Iterator[Iterable[Tensor]]:
        """Shuffle the cells in `index` and split them into the minibatches of an epoch, in groups for `load`."""
        if isinstance(self.x, StoredExpression):
            n_batches = n_minibatches(len(index), batch_size)
            window, shuffled = self.x.window_cells, self.x.is_shuffled
            of_block = n_cells_of_block(window, sorted_cells=self.is_sorted(), is_shuffled=shuffled)
            yield from epoch_groups(index, n_batches, window, order, of_block)
        else:
            yield minibatches(index, batch_size, order)

    def group_in_order(self, batches: Sequence[Tensor]) -> Iterator[Sequence[Tensor]]:
        """Put minibatches of about the same size into groups for `load`, in their order."""
        n = len(batches)
        if isinstance(self.x, StoredExpression):
            n = max(1, self.x.window_cells // max(map(len, batches), default=1))
        for first in range(0, len(batches), max(1, n)):
            yield batches[first : first + n]

    def load(self, groups: Iterable[Iterable[Tensor]]) -> Iterator[tuple[Cells, Iterable[Tensor]]]:
        """Give each group of minibatches cells whose expression of these is in memory.

        These are the cells themselves, or copies of them that hold a window of the expression on disk; the next window
        is read meanwhile. One of several processes gets the expression of its own cells.
        """
        if isinstance(self.x, SharedExpression):
            if self._own is None:
                self._own = self._holding(self.x.own)
            for group in groups:
                yield self._own, group
            return
        if not isinstance(self.x, StoredExpression):
            for group in groups:
                yield self, group
            return
        for window, batches in self.x.read_ahead(groups):
            yield self._holding(window), batches

    def _holding(self, window: Window) -> Cells:
        """A copy of the cells that holds a window of the expression."""
        cells = copy.copy(self)
        cells.x, cells.window = window.x, Window(window.x, window.rows.to(self.device))
        cells.device_csr = None if self.device.type == "cpu" else cells._csr_on_device(self.device)
        return cells

    def _rows(self, index: Tensor) -> sp.csr_matrix:
        """Expression of the cells in `index`, CSR in main memory, (B, G)."""
        return self.x[self._positions(index.cpu()).numpy()]

    def _positions(self, index: Tensor) -> Tensor:
        """Rows of `x` that hold the cells in `index`, (B,)."""
        return index if self.window is None else self.window.positions(index)

    def _csr_on_device(self, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        """Copy the CSR expression to a device: row starts (n + 1,), columns (nnz,) and values (nnz,)."""
        assert isinstance(self.x, sp.csr_matrix)
        self.max_values_per_cell = int(np.diff(self.x.indptr).max(initial=0))
        starts, columns = self.x.indptr.astype(np.int64), self.x.indices.astype(np.int32, copy=False)
        starts, columns, values = (torch.from_numpy(part).to(device) for part in (starts, columns, self.x.data))
        return starts, columns, values

    def expression(
        self, index: Tensor, *, sparse: bool, dtype: torch.dtype = torch.float32
    ) -> Tensor | SparseExpression:
        """Expression of the cells in `index`, (B, G): sparse on the CPU, or dense on the cells' device."""
        return SparseExpression(self._rows(index)).to(dtype) if sparse else self.dense(index, dtype)

    def dense(self, index: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """Expression of the cells in `index` as a dense tensor on the cells' device, (B, G)."""
        if self.device_csr is None:
            return torch.from_numpy(self._rows(index).toarray()).to(dtype).to(self.device)
        starts, columns, values = self.device_csr
        rows = self._positions(index.to(self.device))
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
        """Make a minibatch of the cells in `index`, and draw another system for each cell.

        Parameters
        ----------
        index
            Rows of the cells, (B,) int64 on the cells' device.
        swapped_covariates
            Covariates that accompany the other system: ``"resampled"`` (those of a random cell of that system),
            ``"observed"`` (those of the cell itself) or ``"zero"`` (none, as in the paper's code).
        noise
            Generator that draws the systems, and the cells for ``"resampled"``.
        sparse
            Whether the expression is sparse (CPU only) or dense.
        dtype
            Type of the expression.
        matmul_dtype
            Type of the matrix products, to which a copy of the expression is converted; None for no copy.
        """
        observed = self.covariates.select(index)
        swapped = self._swap(observed, swapped_covariates, noise)
        part = None
        if self.share is not None:  # the same draws for all cells in each process, which then takes its own cells
            part = self.share.part(index)
            index, observed, swapped = index[part.places], observed.select(part.places), swapped.select(part.places)
        weight = None if self.weight is None else self.weight[index]
        x = self.expression(index, sparse=sparse, dtype=dtype)
        return Minibatch(x, observed, swapped, weight, None if matmul_dtype is None else x.to(matmul_dtype), part)

    def _swap(self, observed: Covariates, mode: str, noise: torch.Generator) -> Covariates:
        """Replace each cell's system by one of the S - 1 others, drawn uniformly; `mode` chooses the covariates."""
        n_cells = len(observed.system)
        step = torch.randint(1, self.n_systems, (n_cells,), generator=noise, device=self.device)
        system = (observed.system + step) % self.n_systems
        if mode == "resampled":
            u = torch.rand(n_cells, generator=noise, device=self.device)
            size = self.system_size[system]
            position = torch.minimum((u * size).long(), size - 1)  # a random cell of the system
            return self.covariates.select(self.system_order[self.system_start[system] + position])
        if mode == "observed":
            return Covariates(system, observed.categorical, observed.continuous)
        return Covariates(system, torch.full_like(observed.categorical, -1), torch.zeros_like(observed.continuous))


def shuffle(index: Tensor, order: torch.Generator) -> Tensor:
    """Shuffle the cells in `index`, (n,), with a generator on the CPU."""
    return index[torch.randperm(len(index), generator=order).to(index.device)]


def minibatches(index: Tensor, batch_size: int, order: torch.Generator | None = None) -> Iterator[Tensor]:
    """Split cells into minibatches of nearly equal size, none of them of a single cell.

    Batch normalisation would be unreliable in a small minibatch left over at the end.

    Parameters
    ----------
    index
        Rows of the cells of one epoch, (n,) with n >= 2.
    batch_size
        Maximum size. It is exceeded by one where a single cell would remain: 5 cells with ``batch_size=2`` become
        minibatches of 3 and 2.
    order
        Generator on the CPU that shuffles the cells first; None to keep their order.

    Yields
    ------
    torch.Tensor
        Rows of the cells of each minibatch, (B,).

    Raises
    ------
    InputError
        If there are fewer than two cells.

    Examples
    --------
    >>> [len(b) for b in minibatches(torch.arange(10), 4)]
    [4, 3, 3]
    """
    n = len(index)
    if n < 2:
        raise InputError(f"There are too few cells to train on ({n}): batch normalisation needs at least two.")
    if order is not None:
        index = shuffle(index, order)
    yield from torch.tensor_split(index, n_minibatches(n, batch_size))


def n_minibatches(n: int, batch_size: int) -> int:
    """Number of minibatches into which `minibatches` splits n cells."""
    return max(1, min(-(-n // batch_size), n // 2))
