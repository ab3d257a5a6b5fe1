"""Extending a trained model by systems and categories that it does not know (architectural surgery, scArches).

Every weight of the trained model stays. Each new system and category gets weights of its own beside them wherever the
model sees the covariates: a row of the covariate weights of each layer, and a column in the mean of each gene. They
start at a mean of known ones, and are all that is trained afterwards. If the decoder's hidden layers do not see the
covariates, those of the extended model do, with weights of zero for all that are known: how new cells differ from the
reference may well depend on the cell.

Reference: Lotfollahi et al., Mapping single-cell data to reference atlases by transfer learning, Nat. Biotechnol.
(2022).

Shapes: C covariate width of the trained model, D of the extended one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from sysvi.data.cells import Cells, Covariates, Vocabulary
from sysvi.model.cvae import Model

MIN_TRAINED_CELLS = 10  # weights of a category of fewer cells would fit these cells, not the category


class NewCategories(NamedTuple):
    """New systems, or new categories of a covariate.

    Parameters
    ----------
    start
        The mean of known categories at which the weights of each new one start, (new, known); rows sum to 1.
    trained
        Whether the weights of each new one are trained, or stay there, (new,) bool.
    """

    start: Tensor
    trained: Tensor


class Extension(NamedTuple):
    """A model that knows new systems and categories, and masks, 1 or 0, of the weights to train, by parameter name."""

    model: Model
    new_weights: dict[str, Tensor]


class _Rows(NamedTuple):
    """Known and new rows of weights: where each starts among the known ones, which are new and which are trained."""

    start: Tensor  # (D, C)
    is_new: Tensor  # (D,)
    trained: Tensor  # (D,)

    @classmethod
    def of_categories(cls, new: NewCategories) -> _Rows:
        known = torch.zeros(new.start.shape[1], dtype=torch.bool)
        start = torch.cat([torch.eye(len(known)), new.start])
        is_new = torch.cat([known, torch.ones_like(new.trained)])
        return cls(start, is_new, torch.cat([known, new.trained]))


def find_starts(
    n_systems: int, known: Sequence[np.ndarray], query: Sequence[np.ndarray], system_sizes: np.ndarray
) -> list[NewCategories]:
    """Where the weights of new systems and categories start.

    A new category starts at the mean of the known categories of the systems in which it occurs; a new system, and a
    category that occurs in new systems only, at the mean of all.

    Parameters
    ----------
    n_systems
        Number of known systems.
    known
        Number of cells of each system and category that the model was trained on, (systems, categories), for each
        categorical covariate.
    query
        The same for the new cells, with new systems and categories at the end.
    system_sizes
        Number of new cells of each system, known and new.

    Returns
    -------
    list of NewCategories
        Systems, then the categories of each covariate. Those of fewer than 10 cells are not trained.
    """
    starts = [_starts(np.ones((len(system_sizes) - n_systems, n_systems)), system_sizes[n_systems:])]
    for before, now in zip(known, query, strict=True):
        new = now[:, before.shape[1] :]  # (systems, new)
        starts.append(_starts(new[:n_systems].T @ before > 0, new.sum(axis=0)))
    return starts


def _starts(means: np.ndarray, sizes: np.ndarray) -> NewCategories:
    """Each of the new ones starts at the mean of some known ones, a mask (new, known); of all, if there are none."""
    masks = np.where(means.any(axis=1, keepdims=True), means, 1).astype(np.float32)
    shares = masks / masks.sum(axis=1, keepdims=True)
    return NewCategories(torch.from_numpy(shares), torch.from_numpy(sizes >= MIN_TRAINED_CELLS))


@torch.no_grad()
def extend(model: Model, vocabulary: Vocabulary, new: Sequence[NewCategories]) -> Extension:
    """A copy of a model, on the CPU, that also knows further systems and categories.

    Parameters
    ----------
    model
        The trained model, which is not changed.
    vocabulary
        Systems and categories of the extended model; the new ones are at the end of each list.
    new
        The new systems, and the new categories of each categorical covariate.
    """
    settings = replace(model.settings, covariates_in_hidden=True)
    extended = Model.of_vocabulary(settings, vocabulary, torch.Generator())
    blocks = [_Rows.of_categories(part) for part in new]
    in_code = blocks[:1] if model.code.embed else blocks
    rest = _known_rows(model.code.width - sum(block.start.shape[1] for block in in_code))
    code = _side_by_side([*in_code, rest])
    shapes = {name: weight.shape for name, weight in extended.state_dict().items()}
    weights, new_weights = {}, {}
    for name, tensor in model.state_dict().items():
        weight, shape = tensor.cpu(), shapes[name]
        if not len(weight) and name.endswith("cov_weight"):
            weight = torch.zeros(model.code.width, shape[1])
        if weight.shape == shape:
            weights[name] = weight
            continue
        rows = blocks[1 + int(name.rpartition(".")[2])] if name.startswith("code.tables.") else code
        dim = next(d for d, (before, after) in enumerate(zip(weight.shape, shape, strict=True)) if before != after)
        in_prior = name.startswith("prior.")  # the covariates of pseudo-inputs, which stay what they are
        weights[name] = _widen(weight, dim, rows, start_at_zero=in_prior)
        if rows.trained.any() and not in_prior:
            mask = torch.zeros(shape[dim])
            mask[-len(rows.trained) :] = rows.trained.float()
            new_weights[name] = mask.reshape([-1 if d == dim else 1 for d in range(len(shape))])
    extended.load_state_dict(weights)
    return Extension(extended, new_weights)


def _known_rows(n: int) -> _Rows:
    return _Rows.of_categories(NewCategories(torch.zeros(0, n), torch.zeros(0, dtype=torch.bool)))


def _side_by_side(blocks: Sequence[_Rows]) -> _Rows:
    start, is_new, trained = zip(*blocks, strict=True)
    return _Rows(torch.block_diag(*start), torch.cat(is_new), torch.cat(trained))


def _widen(weight: Tensor, dim: int, rows: _Rows, *, start_at_zero: bool) -> Tensor:
    """Replace the last C entries of a dimension, those of the covariates, by D."""
    by_row = weight.movedim(dim, 0)
    n_other = len(by_row) - rows.start.shape[1]
    known = by_row[n_other:].flatten(1)  # (C, ...)
    wide = torch.zeros(len(rows.start), known.shape[1])
    wide[~rows.is_new] = known  # copied, and so the same to the bit
    if not start_at_zero:
        wide[rows.is_new] = rows.start[rows.is_new] @ known
    return torch.cat([by_row[:n_other], wide.reshape(-1, *by_row.shape[1:])]).movedim(0, dim).contiguous()


@torch.no_grad()
def decode_prior_samples(
    model: Model, n_cells: Sequence[np.ndarray], n: int, n_systems: int, noise: torch.Generator
) -> Cells:
    """Cells decoded from samples of the prior: equally many of each system, with covariates that occur in it.

    Parameters
    ----------
    model
        The trained model.
    n_cells
        Number of cells of each of its systems and categories, (systems, categories), for each categorical covariate.
    n
        Number of cells to make of each system.
    n_systems
        Number of systems of the cells to make, known and new.
    noise
        Generator of the samples and of the categories, on the CPU.
    """
    device = model.encoder.head.weight.device
    system = torch.arange(model.code.n_systems).repeat_interleave(n)
    shares = [torch.from_numpy(table.astype(np.float32)) for table in n_cells]
    drawn = [torch.multinomial(share, n, replacement=True, generator=noise).flatten() for share in shares]
    categorical = torch.stack(drawn, 1) if drawn else torch.zeros(len(system), 0, dtype=torch.int64)
    continuous = torch.zeros(len(system), model.code.n_continuous)
    z = model.prior.sample(len(system), model.encoder, noise)
    system, z = system.to(device), z.to(device)
    c = model.code(Covariates(system, categorical.to(device), continuous.to(device)))
    x = model.mean(model.decoder(z, c), system).clamp_min(0).cpu().numpy()
    codes = (part.cpu().numpy() for part in (system, categorical, continuous))
    return Cells(sp.csr_matrix(x), *codes, n_systems=n_systems)
