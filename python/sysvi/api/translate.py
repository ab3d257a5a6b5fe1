"""Decoded expression: cells as the model expects them to be in another system, or without noise in their own."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import NamedTuple
from warnings import warn

import numpy as np
import pandas as pd
import torch
from anndata import AnnData

from sysvi._core.arguments import check_types, gene_positions
from sysvi._core.checks import check_anndata, check_obs_column, listing
from sysvi._core.errors import InputError
from sysvi._core.events import Event, OnEvent, preparation_reporter
from sysvi._core.files import write_atomically
from sysvi._core.memory import check_memory
from sysvi._core.progress import as_callback
from sysvi._core.settings import whole_number
from sysvi.api.ensemble import Ensemble
from sysvi.api.query import decode_missing_genes
from sysvi.api.results import check_result_name
from sysvi.api.sysvi import SysVI, posteriors
from sysvi.data.cells import Cells, Covariates
from sysvi.data.from_anndata import cells_from_anndata
from sysvi.data.h5ad import check_output, write_with_layer
from sysvi.data.query import prepare_query
from sysvi.model.decode import Batches, block_size, decode

LAYER = "sysvi_translated"
RECORD_KEY = "sysvi_translate"
AVERAGE = "average"
BLOCK_CELLS = 4096  # cells whose decoded expression is in memory at a time, about


def translate(
    model: SysVI | Ensemble,
    adata: AnnData,
    to_system: str | None = None,
    to_batch: str | None = None,
    *,
    genes: Sequence[str] | None = None,
    layer: str | None = None,
    key_added: str = LAYER,
    output: str | PathLike[str] | None = None,
    overwrite: bool = False,
    batch_size: int | None = None,
    progress: bool | OnEvent = True,
) -> AnnData | None:
    """Decode the expression that cells would have in another system, or, without noise, have in their own.

    Each cell is embedded under its own covariates, and the mean of its embedding is decoded under those of the target.
    Of an ensemble, the expression is the mean over the members, each of which decodes its own embedding. In another
    system, this is first displaced to where cells of that system lie that have the same place in the ensemble's
    embedding: an ensemble moves the systems onto each other after its members are combined.

    The values are expectations of the model on the scale of its input, log-normalised expression: no counts, and
    smoother than measured cells, since noise is left out. Values that would be below 0 are 0, and genes that the target
    system lacks (``prepare(genes="union")``) are NaN. What a system has in no
    cell that the model has seen cannot be translated to it: docs/translate.md measures what is right and what is not.

    Parameters
    ----------
    model
        A trained model (:func:`sysvi.integrate`, :func:`sysvi.load`), on the device that is to compute
        (``model.to_device``).
    adata
        The cells, as counts or log-normalised, of systems and batches that the model knows, under the names of its
        columns. Genes may be in any order, further ones are not used, and missing ones get the expression that the
        model decodes, as in :func:`sysvi.map_query`. `adata` is not changed.
    to_system
        Name of the target system. None: each cell stays in its own system, where its expression is denoised.
    to_batch
        Batch under which cells are decoded. None: the cell's own batch, if the target system has cells of it, and
        otherwise as ``"average"``: the mean over all batches of the target system, weighted by their number of cells in
        the model's data, which does not depend on the cell's batch. Or the name of one batch. All further covariates
        stay those of the cell.
    genes
        Names of the genes to decode, in the order of the result; by default all genes of the model, in its order.
    layer
        Layer with the expression; by default that of the model, or ``adata.X`` if there is none of this name.
    key_added
        Name of the layer with the result.
    output
        An h5ad file into which the result is written in blocks of cells, without being in memory as a whole. The file
        appears when it is complete.
    overwrite
        Whether `output` may replace a file.
    batch_size
        Number of cells to decode at a time; by default chosen for the device.
    progress
        True shows what is done, False is silent, a function is called with each :class:`sysvi.Event`.

    Returns
    -------
    anndata.AnnData
        A new object of the same cells and the decoded genes: the decoded expression, float32, cells x genes, in
        ``layers[key_added]``; the cells' own log-normalised expression in ``X``; ``obs`` and ``obsm`` of `adata`; and
        target, settings and versions in ``uns["sysvi_translate"]``. None with `output`, where this object is written.

    Raises
    ------
    InputError
        If the model is not trained, does not know the target, systems or batches of the cells, or lacks genes that
        were asked for; if the expression cannot be used; or if the result does not fit into memory.

    Warns
    -----
    UserWarning
        If cells are decoded under a batch, or keep another category, of which the target system has no cells: the model
        has not seen them together.

    See Also
    --------
    sysvi.SysVI.get_normalized_expression : samples of decoded expression, with the arguments of scvi-tools.

    References
    ----------
    Hrovatin, Moinfar et al., Integrating single-cell RNA-seq datasets with substantial batch effects, BMC Genomics
    (2025): the decoder and the cycle. Lotfollahi et al., scGen predicts single-cell perturbation responses, Nature
    Methods (2019): decoding under a condition in which the cell was not measured.

    Examples
    --------
    >>> import sysvi
    >>> adata = sysvi.prepare(sysvi.datasets.simulate_systems(300, 200, seed=1), "system", "batch", min_cells=3)
    >>> model = sysvi.integrate(adata, "system", "batch", members=2, max_epochs=2, progress=False)
    >>> first = adata[adata.obs["system"] == "system1"].copy()
    >>> translated = sysvi.translate(model, first, to_system="system2", progress=False)
    >>> translated.layers["sysvi_translated"].shape == first.shape
    True
    >>> genes = list(adata.var_names[:2])
    >>> denoised = sysvi.translate(model, adata, genes=genes, progress=False)
    >>> denoised.shape
    (300, 2)
    """
    check_types(translate, model=model, adata=adata, to_system=to_system, to_batch=to_batch, genes=genes, layer=layer)
    check_types(translate, key_added=key_added, output=output, overwrite=overwrite)
    check_result_name(key_added)
    batch_size = None if batch_size is None else whole_number("batch_size", batch_size, 1)
    on_event = as_callback(progress)
    first = model.members[0]
    first.summary()  # which refuses untrained models
    system = _system_code(first, to_system)
    chosen = gene_positions(first.vocabulary.genes, genes, "genes")
    n_values = adata.n_obs * len(chosen)
    path = None if output is None else Path(output)
    if path is None:
        check_memory(
            4 * n_values,
            f"The translated expression of {adata.n_obs:,} cells and {len(chosen):,} genes",
            "write it to a file, which is done in blocks of cells (output), or choose genes (genes)",
        )
    else:
        check_output(path, overwrite, 4 * n_values)
    cells = read_cells(model.members, adata, layer, on_event)
    target = find_target(first, cells, system, to_batch)
    for message in target.warnings:
        warn(message, stacklevel=2)
    on_event(target.describe(cells.n_cells, len(chosen)))

    result = _measured(adata, cells, first.vocabulary.genes, chosen)
    asked = {"to_system": to_system, "to_batch": to_batch}
    result.uns[RECORD_KEY] = model.record() | {name: json.dumps(value) for name, value in asked.items()}
    embeddings = [mean for mean, _ in posteriors(model.members, cells, np.arange(cells.n_cells), batch_size)]
    if system is not None and isinstance(model, Ensemble):
        own = cells.covariates.system.cpu().numpy()
        there = model.as_of_system([z.numpy() for z in embeddings], own, system)
        embeddings = [torch.from_numpy(z) for z in there]
    blocks = decoded_blocks(model.members, embeddings, cells, target, chosen, batch_size)
    if path is not None:
        write_atomically(path, lambda part: write_with_layer(part, result, key_added, blocks), overwrite=overwrite)
        return None
    expression = np.empty(result.shape, np.float32)
    start = 0
    for block in blocks:
        expression[start : start + len(block)] = block
        start += len(block)
    result.layers[key_added] = expression
    return result


class Target(NamedTuple):
    """Covariates under which cells are decoded.

    Parameters
    ----------
    covariates
        Covariates of the cells, with the target system.
    batches
        Batches in place of theirs; None for a model without batches.
    place
        The target in words.
    warnings
        Sentences about combinations of covariates that the model has not seen.
    """

    covariates: Covariates
    batches: Batches | None
    place: str
    warnings: tuple[str, ...]

    def select(self, index: torch.Tensor) -> tuple[Covariates, Batches | None]:
        """Covariates and batches of some cells."""
        batches = None if self.batches is None else self.batches._replace(choice=self.batches.choice[index])
        return self.covariates.select(index), batches

    def describe(self, n_cells: int, n_genes: int) -> Event:
        """The event that says what is decoded."""
        return Event("translate", f"Decoding {n_genes:,} genes of {n_cells:,} cells {self.place}", {"cells": n_cells})


def _system_code(model: SysVI, to_system: str | None) -> int | None:
    """Code of the target system."""
    systems = model.vocabulary.systems
    if to_system is None:
        return None
    if to_system not in systems:
        raise InputError(f"to_system is {to_system!r}, but the model knows the systems {listing(systems)}.")
    return systems.index(to_system)


def read_cells(members: Sequence[SysVI], adata: AnnData, layer: str | None, on_event: OnEvent) -> Cells:
    """Cells in the model's terms, on its device."""
    first = members[0]
    if adata is first.adata and layer is None:
        return first.cells_of(None)
    columns, vocabulary, reference = first.summary()
    check_anndata(adata)
    for key, known in {columns.system: vocabulary.systems, **vocabulary.categorical}.items():
        names = set(check_obs_column(adata, key, "system_key" if key == columns.system else "covariate"))
        if new := sorted(names.difference(known)):
            raise InputError(
                f"adata.obs[{key!r}] has {listing(new, 5)}, which the model does not know (it knows "
                f"{listing(known)}): let it learn them with sysvi.extend_model first, and use the model that "
                "this returns."
            )
    report = preparation_reporter(on_event)
    prepared = prepare_query(adata, columns, vocabulary, reference, layer=layer, report=report, stacklevel=3)
    cells = cells_from_anndata(prepared, columns, vocabulary, first.device)
    return decode_missing_genes(members, prepared, cells)


def find_target(model: SysVI, cells: Cells, system: int | None, to_batch: str | None) -> Target:
    """Covariates under which cells are decoded in a system, or in their own for None."""
    vocabulary, reference, own = model.vocabulary, model.reference, cells.covariates
    name = None if system is None else vocabulary.systems[system]
    place = "in their own systems" if name is None else f"in system {name!r}"
    covariates = own if system is None else replace(own, system=torch.full_like(own.system, system))
    codes, categorical = covariates.system.cpu().numpy(), own.categorical.cpu().numpy().copy()
    if not vocabulary.categorical:
        if to_batch is not None:
            raise InputError("The model was trained without batches: leave to_batch out.")
        return Target(covariates, None, place, ())
    batch_key, names = next(iter(vocabulary.categorical.items()))
    counts = reference.n_cells[0]
    n_systems, n_batches = counts.shape
    # choices: the average over the batches of each system, then each batch alone
    sizes = np.maximum(counts.sum(axis=1, keepdims=True), 1)
    weights = np.vstack([counts / sizes, np.eye(n_batches)])
    if to_batch is None:
        has_own = counts[codes, categorical[:, 0]] > 0
        choice = np.where(has_own, n_systems + categorical[:, 0], codes)
        n_own = int(has_own.sum())
        parts = [f"{n_own:,} in their own batches"] if n_own else []
        parts += [f"{len(codes) - n_own:,} averaged over its batches"] if n_own < len(codes) else []
        place += f", {' and '.join(parts)}"
    elif to_batch == AVERAGE:
        choice, place = codes, f"{place}, averaged over {'their' if name is None else 'its'} batches"
    elif to_batch in names:
        choice, place = np.full_like(codes, n_systems + names.index(to_batch)), f"{place} and batch {to_batch!r}"
    else:
        raise InputError(
            f"to_batch is {to_batch!r}, but the model knows the batches {listing(names)} (of {batch_key!r}); "
            f"{AVERAGE!r} averages over those of the target system."
        )
    # batches of an average are those that the system has
    categorical[:, 0] = np.where(choice < n_systems, counts.argmax(axis=1)[codes], choice - n_systems)
    unseen = reference.unseen(codes, categorical, vocabulary)
    where = "the systems of some cells" if name is None else f"system {name!r}"
    sentences = tuple(
        f"The model has seen no cells of {listing(new, 5)} (of {key!r}) in {where}, where cells are decoded with "
        f"{'it' if len(new) == 1 else 'them'}: the result is an extrapolation."
        for key, new in unseen.items()
    )
    batches = Batches.from_weights(weights, choice, covariates.system.device)
    return Target(covariates, batches, place, sentences)


def _measured(adata: AnnData, cells: Cells, known: Sequence[str], genes: np.ndarray) -> AnnData:
    """The cells with their own expression of some genes of the model."""
    names = pd.Index(known)[genes]
    has_all = names.isin(adata.var_names).all()
    var = adata.var.loc[names].copy() if has_all else pd.DataFrame(index=names)
    obsm: Mapping[str, np.ndarray] = {name: values.copy() for name, values in adata.obsm.items()}
    return AnnData(cells.read_genes(genes), obs=adata.obs.copy(), var=var, obsm=obsm)


def decoded_blocks(
    members: Sequence[SysVI],
    embeddings: Sequence[torch.Tensor],
    cells: Cells,
    target: Target,
    genes: np.ndarray,
    batch_size: int | None,
) -> Iterator[np.ndarray]:
    """Expression, not below 0, decoded from the members' embeddings of cells, (n, L) each, and averaged.

    It comes in blocks of cells, (B, G) float32 each.
    """
    size = block_size(cells.device, batch_size)
    step = size * max(1, BLOCK_CELLS // size)  # whole blocks, so that bits do not depend on it
    for start in range(0, cells.n_cells, step):
        rows = torch.arange(start, min(start + step, cells.n_cells))
        covariates, batches = target.select(rows.to(cells.device))
        total = np.zeros((len(rows), len(genes)), np.float32)
        for member, z in zip(members, embeddings, strict=True):
            total += decode(member.module, z[rows], covariates, genes, batches, batch_size)
        yield np.maximum(total / np.float32(len(members)), 0, out=total)
