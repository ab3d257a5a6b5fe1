"""Decoded expression with the names of scvi-tools; `sysvi.translate` is the same for ensembles and for many cells."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pandas as pd
import torch
from anndata import AnnData

from sysvi._core.arguments import check_types, gene_positions, row_numbers
from sysvi._core.checks import listing
from sysvi._core.errors import InputError
from sysvi._core.forks import check_fork
from sysvi._core.memory import check_memory
from sysvi._core.seeds import generator
from sysvi._core.settings import flag, random_seed, whole_number
from sysvi.api.scvi_compat import check_sample_weights
from sysvi.data.cells import Covariates
from sysvi.model.decode import decode

if TYPE_CHECKING:
    from sysvi.api.sysvi import SysVI


class DecodingMethodsOfScvi:
    """Decoding with a single model, as in scvi-tools."""

    def get_normalized_expression(
        self,
        adata: AnnData | None = None,
        indices: Sequence[int] | np.ndarray | None = None,
        transform_batch: Sequence[str | None] | str | None = None,
        gene_list: Sequence[str] | None = None,
        library_size: float | str = 1,
        n_samples: int = 1,
        n_samples_overall: int | None = None,
        weights: str | None = None,
        batch_size: int | None = None,
        return_mean: bool = True,
        return_numpy: bool | None = None,
        silent: bool = True,
        dataloader: None = None,
        data_loader_kwargs: Mapping[str, Any] | None = None,
        *,
        seed: int | None = None,
        **importance_weighting_kwargs: Any,
    ) -> pd.DataFrame | np.ndarray:
        """Decode expression from samples of the embedding, under the covariates of the cells or in other systems.

        The values are those that the model expects, on the log-normalised scale of its input: no counts and no
        frequencies. They can be slightly below 0.

        Parameters
        ----------
        adata
            Cells with the model's genes and known systems and categories; the model's own by default.
        indices
            Rows to decode; all by default.
        transform_batch
            Name of the **system** in which all cells are decoded, or several, over which the result is averaged. None:
            the system of each cell. All other covariates, the batch among them, stay those of the cells.
        gene_list
            Names of the genes to return, which come in the model's order; all by default.
        library_size
            1 or ``"latent"``, which are the same: log-normalised expression has no library size.
        n_samples
            Number of samples of q(z | x, c) of each cell.
        n_samples_overall
            Draw this number of samples in all, each of a random cell, instead of `n_samples` of every cell.
        weights
            Must be None or ``"uniform"``: all samples count the same.
        batch_size
            Number of cells to decode at a time; by default chosen for the device.
        return_mean
            Return the mean over the samples of each cell; False: all samples.
        return_numpy
            Return an array, not a DataFrame. By default an array only if all of several samples are returned.
        silent
            Accepted for compatibility; there is no progress bar.
        dataloader, data_loader_kwargs
            Accepted for compatibility; must be None.
        seed
            Random seed of the samples; by default the model's.
        **importance_weighting_kwargs
            Accepted for compatibility; there must be none.

        Returns
        -------
        pandas.DataFrame or numpy.ndarray
            Decoded expression, float32, cells x genes; samples x cells x genes for several samples with
            ``return_mean=False``; `n_samples_overall` x genes, with the names of the sampled cells.

        Raises
        ------
        InputError
            If the model is untrained or lacks a gene or system, the result does not fit into memory, or an argument is
            not supported.

        Warns
        -----
        UserWarning
            If cells are decoded in a system in which the model has seen no cells of their batch (or of another
            category): :func:`sysvi.translate` averages over the batches of the target.

        See Also
        --------
        sysvi.translate : decodes the mean of the embedding, by models and ensembles, also for many cells into a file.

        Examples
        --------
        >>> import sysvi
        >>> adata = sysvi.prepare(sysvi.datasets.simulate_systems(300, 200, seed=1), "system", "batch", min_cells=3)
        >>> sysvi.SysVI.setup_anndata(adata, batch_key="system")
        >>> model = sysvi.SysVI(adata)
        >>> model.train(max_epochs=2, progress=False)
        >>> genes = list(adata.var_names[:3])
        >>> model.get_normalized_expression(transform_batch="system2", gene_list=genes, n_samples=5).shape
        (300, 3)
        """
        model = cast("SysVI", self)
        function = DecodingMethodsOfScvi.get_normalized_expression
        check_types(function, library_size=library_size, weights=weights, gene_list=gene_list, return_mean=return_mean)
        _check_unsupported(library_size, weights, dataloader, data_loader_kwargs, importance_weighting_kwargs)
        model.summary()  # which refuses untrained models
        genes = np.sort(gene_positions(model.vocabulary.genes, gene_list, "gene_list"))
        systems = _system_codes(model.vocabulary.systems, transform_batch)
        n_samples = whole_number("n_samples", n_samples, 1)
        returns_numpy = _returns_numpy(return_numpy, n_samples, n_samples_overall, return_mean)
        batch_size = None if batch_size is None else whole_number("batch_size", batch_size, 1)
        noise = generator(model.seed if seed is None else random_seed(seed), "sample")
        check_fork()
        cells = model.cells_of(adata, warn_of_large=True)
        rows = row_numbers(indices, cells.n_cells)
        if n_samples_overall is not None:
            if n_samples != 1:
                raise InputError("n_samples_overall draws samples of all cells together: leave n_samples out.")
            n_drawn = whole_number("n_samples_overall", n_samples_overall, 1)
            if not len(rows):
                raise InputError("indices choose no cells: there is nothing to draw samples of.")
            rows = rows[torch.randint(len(rows), (n_drawn,), generator=noise).numpy()]
        n_kept = 1 if return_mean else n_samples
        check_memory(
            4 * n_kept * len(rows) * len(genes),
            f"The decoded expression of {len(rows):,} cells and {len(genes):,} genes, {n_kept} times,",
            "choose genes (gene_list) or cells (indices), or write it to a file with sysvi.translate",
        )
        index = torch.from_numpy(rows).to(cells.device)
        covariates = cells.covariates.select(index)
        _warn_of_unseen(model, covariates, systems)
        mean, var = model.module.embed(cells, index, batch_size)

        def decode_sample() -> np.ndarray:
            z = mean + var.sqrt() * torch.randn(mean.shape, generator=noise)
            total = np.zeros((len(rows), len(genes)), np.float32)
            for system in systems:
                code = covariates.system if system is None else torch.full_like(covariates.system, system)
                total += decode(model.module, z, replace(covariates, system=code), genes, batch_size=batch_size)
            return total / np.float32(len(systems))

        if return_mean or n_samples == 1:
            result = decode_sample()
            for _ in range(n_samples - 1):
                result += decode_sample()
            result /= np.float32(n_samples)
        else:
            result = np.stack([decode_sample() for _ in range(n_samples)])
        if returns_numpy:
            return result
        names = (model.adata if adata is None else adata).obs_names  # type: ignore[union-attr]
        columns = pd.Index(model.vocabulary.genes)[genes]
        return pd.DataFrame(result, index=names[rows], columns=columns)


def _check_unsupported(
    library_size: float | str,
    weights: str | None,
    dataloader: object,
    data_loader_kwargs: object,
    importance_weighting_kwargs: Mapping[str, Any],
) -> None:
    """Refuse arguments of scvi-tools that a model of log-normalised expression cannot follow."""
    if library_size not in (1, "latent"):
        raise InputError(
            f"library_size is {library_size!r}, but sysVI models log-normalised expression, which has no library size "
            "and cannot be scaled to counts: leave library_size out."
        )
    check_sample_weights(weights)
    for name, value in (("dataloader", dataloader), ("data_loader_kwargs", data_loader_kwargs)):
        if value is not None:
            raise InputError(f"{name} is not supported: give the cells as adata, and rows of them as indices.")
    if importance_weighting_kwargs:
        raise InputError(f"get_normalized_expression has no argument {listing(sorted(importance_weighting_kwargs))}.")


def _returns_numpy(return_numpy: bool | None, n_samples: int, n_samples_overall: int | None, return_mean: bool) -> bool:
    """Whether the result is an array; several samples of each cell do not fit into a DataFrame."""
    is_cube = n_samples_overall is None and n_samples != 1 and not return_mean
    return_numpy = None if return_numpy is None else flag("return_numpy", return_numpy)
    if is_cube and return_numpy is False:
        warnings.warn(
            "return_numpy=False has no effect with return_mean=False and n_samples > 1: an array is returned.",
            stacklevel=3,
        )
    return is_cube or return_numpy is True


def _system_codes(systems: Sequence[str], transform_batch: Sequence[str | None] | str | None) -> list[int | None]:
    """Codes of the systems in which cells are decoded; None for each cell's own."""
    is_list = not isinstance(transform_batch, str) and isinstance(transform_batch, Sequence | np.ndarray)
    names = list(transform_batch) if is_list else [transform_batch]  # type: ignore[arg-type]
    if not names:
        raise InputError("transform_batch is empty: name a system, or leave it out for the system of each cell.")
    if unknown := [name for name in names if name is not None and str(name) not in systems]:
        raise InputError(
            f"transform_batch is {listing(map(repr, unknown))}, but the model knows the systems {listing(systems)}."
        )
    return [None if name is None else systems.index(str(name)) for name in names]


def _warn_of_unseen(model: SysVI, covariates: Covariates, systems: Sequence[int | None]) -> None:
    """Warn of cells that are decoded in systems in which the model has seen no cells of their categories."""
    own, categorical = covariates.system.cpu().numpy(), covariates.categorical.cpu().numpy()
    for system in systems:
        if system is None:
            continue
        unseen = model.reference.unseen(np.full_like(own, system), categorical, model.vocabulary)
        for key, names in unseen.items():
            warnings.warn(
                f"The model has seen no cells of {listing(names, 5)} (of {key!r}) in system "
                f"{model.vocabulary.systems[system]!r}, where they are decoded: sysvi.translate averages over the "
                "batches of the target instead.",
                stacklevel=3,
            )
