"""Mapping new cells, the query, onto a trained model without moving the cells it was trained on, its reference."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike

import numpy as np
import pandas as pd
from anndata import AnnData

from sysvi._core.arguments import check_types
from sysvi._core.checks import listing
from sysvi._core.events import Event, OnEvent, preparation_reporter
from sysvi._core.progress import as_callback
from sysvi._core.seeds import member_seeds
from sysvi._core.settings import flag, random_seed, whole_number
from sysvi.api.ensemble import Ensemble
from sysvi.api.results import check_embedding_name
from sysvi.api.support import remove_support
from sysvi.api.sysvi import SysVI
from sysvi.api.train_many import train_extended
from sysvi.data.cells import Cells
from sysvi.data.from_anndata import ModelData, cells_from_anndata, check_writable
from sysvi.data.query import QUERY_KEY, prepare_query, read_query, set_genes
from sysvi.model.decode import decode


def map_query(
    model: SysVI | Ensemble,
    query: AnnData,
    system_key: str | None = None,
    batch_key: str | None = None,
    *,
    layer: str | None = None,
    orthologs: pd.DataFrame | str | PathLike[str] | None = None,
    fractional_counts: bool = False,
    max_epochs: int | None = None,
    key_added: str = "X_sysVI",
    device: str = "auto",
    seed: int = 0,
    progress: bool | OnEvent = True,
) -> AnnData:
    """Embed new cells with a trained model, whose own cells stay where they are.

    Cells of systems and batches that the model knows are encoded. A new batch, or a new system, gets weights of its own
    (:func:`sysvi.extend_model`), and only these are trained; a new system is then moved onto the known ones around
    cells that correspond in all members of the ensemble. The model that was given does not change.

    Parameters
    ----------
    model
        A trained model (:func:`sysvi.integrate`, :func:`sysvi.load`).
    query
        New cells, as counts or log-normalised. Genes may be in any order, and further ones are ignored. Missing ones
        get the expression that the model decodes from a first embedding, in which they have the mean of the reference.
        Of genes that not all of the model's systems have (``prepare(genes="union")``), a new system lacks those that
        the query lacks.
        The embedding (float32, cells x latent dimensions) is written into
        ``obsm[key_added]``, settings and versions into ``uns["sysvi"]``, and the missing genes into
        ``uns["sysvi_query"]``.
    system_key, batch_key
        Columns of ``query.obs`` with the systems and the batches; by default those of the model. Further covariates of
        the model have to be there under their names. A batch or system that has the name of one of the reference's is
        taken as the same.
    layer
        Layer with the expression; by default that of the model, or ``query.X`` if there is none of this name.
    orthologs
        Table of orthologues (a DataFrame or a file, as for :func:`sysvi.map_orthologs`) if the genes of the query are
        those of another species.
    fractional_counts
        Whether values with fractions are counts too, as in :func:`sysvi.prepare`. By default, such counts are
        recognised and refused.
    max_epochs
        Passes over the query, if there are new batches or systems; by default chosen from the number of cells.
    key_added
        Name of the embedding in ``query.obsm``.
    device
        Device, named as in :func:`sysvi.integrate`.
    seed
        Random seed of the training of new weights; the same seed gives the same embedding.
    progress
        True draws a progress bar, False is silent, a function is called with each :class:`sysvi.Event`. An event
        ``"map"`` says which systems and batches are known and which are new.

    Returns
    -------
    anndata.AnnData
        `query`, with the embedding.

    Raises
    ------
    InputError
        If more than half of the model's genes are missing, columns are missing, a new system has fewer than 10 cells,
        or the expression cannot be used.

    Warns
    -----
    UserWarning
        If more than a tenth of the genes are missing, genes are found without regard to upper and lower case, or a
        batch has the name of a batch of another system.

    See Also
    --------
    sysvi.extend_model : the model with the new weights, to be saved or to embed further cells of the new batches.

    Examples
    --------
    >>> import sysvi
    >>> cells = sysvi.datasets.simulate_systems(400, 200, seed=1)
    >>> is_new = (cells.obs["batch"] == cells.obs["batch"].iloc[0]).to_numpy()
    >>> reference = sysvi.prepare(cells[~is_new], "system", "batch", min_cells=3)
    >>> model = sysvi.integrate(reference, "system", "batch", members=2, max_epochs=2, progress=False)
    >>> query = sysvi.map_query(model, cells[is_new].copy(), progress=False)
    >>> query.obsm["X_sysVI"].shape == (is_new.sum(), 15)
    True
    """
    check_embedding_name(key_added)
    check_writable(query)
    extended = _extend(
        model, query, system_key, batch_key, layer, orthologs, fractional_counts, max_epochs, device, seed, progress
    )
    remove_support(query)
    query.obsm[key_added] = extended.get_latent_representation()
    query.uns["sysvi"] = extended.record()
    assert extended.adata is not None
    query.uns[QUERY_KEY] = extended.adata.uns[QUERY_KEY]
    return query


def extend_model(
    model: SysVI | Ensemble,
    query: AnnData,
    system_key: str | None = None,
    batch_key: str | None = None,
    *,
    layer: str | None = None,
    orthologs: pd.DataFrame | str | PathLike[str] | None = None,
    fractional_counts: bool = False,
    max_epochs: int | None = None,
    device: str = "auto",
    seed: int = 0,
    progress: bool | OnEvent = True,
) -> SysVI | Ensemble:
    """A new model that knows the batches and systems of new cells besides those of the model that was given.

    All weights of the model stay. Each new batch or system gets weights of its own wherever the model sees the
    covariates, which start at the mean of the known batches of its system and are trained on the new cells
    (architectural surgery, Lotfollahi et al. 2022). Batches of fewer than 10 cells keep this start.

    Parameters
    ----------
    model, query, system_key, batch_key, layer, orthologs, fractional_counts, max_epochs, device, seed, progress
        As in :func:`sysvi.map_query`; the query is not changed.

    Returns
    -------
    SysVI or Ensemble
        The extended model. Its ``adata`` is the query with the model's genes, normalised as the reference was; it
        embeds these cells, those of the reference (as the model that was given does), and further ones of the same
        batches; and it can be saved, loaded and extended again.

    Raises
    ------
    InputError
        As :func:`sysvi.map_query`.

    Examples
    --------
    >>> import sysvi
    >>> cells = sysvi.datasets.simulate_systems(400, 200, seed=1)
    >>> is_new = (cells.obs["batch"] == cells.obs["batch"].iloc[0]).to_numpy()
    >>> reference = sysvi.prepare(cells[~is_new], "system", "batch", min_cells=3)
    >>> model = sysvi.integrate(reference, "system", "batch", members=1, max_epochs=2, progress=False)
    >>> extended = sysvi.extend_model(model, cells[is_new], progress=False)
    >>> len(extended.vocabulary.categorical["batch"]) - len(model.vocabulary.categorical["batch"])
    1
    """
    return _extend(
        model, query, system_key, batch_key, layer, orthologs, fractional_counts, max_epochs, device, seed, progress
    )


def _extend(
    model: SysVI | Ensemble,
    query: AnnData,
    system_key: str | None,
    batch_key: str | None,
    layer: str | None,
    orthologs: pd.DataFrame | str | PathLike[str] | None,
    fractional_counts: bool,
    max_epochs: int | None,
    device: str,
    seed: int,
    progress: bool | OnEvent,
) -> SysVI | Ensemble:
    """`extend_model`, as both public functions call it, so that warnings point to the user's line."""
    check_types(extend_model, model=model, query=query, system_key=system_key, batch_key=batch_key, layer=layer)
    check_types(extend_model, orthologs=orthologs)
    train_kwargs = {} if max_epochs is None else {"max_epochs": whole_number("max_epochs", max_epochs, 1)}
    seed, on_event = random_seed(seed), as_callback(progress)
    fractional_counts = flag("fractional_counts", fractional_counts)
    first, *_ = members = model.members
    prepared = prepare_query(
        query,
        *first.summary(),
        system_key=system_key,
        batch_key=batch_key,
        layer=layer,
        orthologs=orthologs,
        fractional_counts=fractional_counts,
        report=preparation_reporter(on_event),
        stacklevel=3,
    )
    data = read_query(prepared, *first.summary(), stacklevel=3)
    on_event(_describe(first, data))
    seeds = [seed] if len(members) == 1 else member_seeds(seed, "query", len(members))
    extended = [member.extend(prepared, data, member_seed) for member, member_seed in zip(members, seeds, strict=True)]
    if extended[0].is_trained:
        for member in extended:
            member.to_device(device)
    else:
        train_extended(extended, train_kwargs, device, on_event)
    cells = decode_missing_genes(extended, prepared, extended[0].cells_of(None))
    for member in extended:
        member.cells = cells
    return model.extended(extended) if isinstance(model, Ensemble) else extended[0]


def decode_missing_genes(members: Sequence[SysVI], prepared: AnnData, cells: Cells) -> Cells:
    """Give genes that new cells lack the expression that the members decode from the embeddings of `cells`.

    Parameters
    ----------
    members
        The models, which know all systems and categories of the cells.
    prepared
        The cells as :func:`sysvi.data.query.prepare_query` returns them; changed if genes are missing.
    cells
        The same, on the device of the models.

    Returns
    -------
    Cells
        The cells with this expression; `cells` itself if no genes are missing.
    """
    columns, vocabulary = members[0].columns, members[0].vocabulary
    missing = np.flatnonzero(np.isin(vocabulary.genes, prepared.uns[QUERY_KEY]["missing_genes"]))
    if not len(missing):
        return cells
    modules = [member.module for member in members]
    expected = np.mean(
        [decode(module, module.embed(cells)[0], cells.covariates, missing) for module in modules], axis=0
    )
    set_genes(prepared, columns.layer, missing, np.nan_to_num(expected).clip(min=0))  # NaN: the system lacks the gene
    return cells_from_anndata(prepared, columns, vocabulary, cells.device)


def _describe(model: SysVI, data: ModelData) -> Event:
    """The event that says which systems and categories of the query are known to the model, and which are new."""
    covariates = data.cells.covariates
    codes = [covariates.system, *covariates.categorical.T]
    names = {data.vocabulary.system_key: data.vocabulary.systems, **data.vocabulary.categorical}
    known = {model.vocabulary.system_key: model.vocabulary.systems, **model.vocabulary.categorical}
    parts, new = [], {}
    for (key, categories), code in zip(names.items(), codes, strict=True):
        present = [categories[i] for i in np.unique(code.cpu().numpy())]
        new[key] = [name for name in present if name not in known[key]]
        old = [name for name in present if name in known[key]]
        sentence = f"{key}: {listing(old, 5)} known" if old else f"{key}:"
        parts.append(sentence + (f"{',' if old else ''} {listing(new[key], 5)} new" if new[key] else ""))
    what = "only weights of what is new are trained" if any(new.values()) else "nothing is trained"
    return Event(
        "map",
        f"Mapping {data.cells.n_cells:,} cells ({'; '.join(parts)}); names of the reference mean the same; {what}.",
        {"cells": data.cells.n_cells, "new": new},
    )
