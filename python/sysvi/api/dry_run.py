"""What an integration would do: cells, training, memory, passes over the expression, size of the output."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from anndata import AnnData

from sysvi._core.checks import get_expression
from sysvi._core.events import Event
from sysvi._core.settings import ModelSettings, TrainSettings
from sysvi.api.arguments import fill_in, find_preset, number_of_members, split_settings
from sysvi.api.storage import Storage, storage_values
from sysvi.data.columns import Columns
from sysvi.data.from_anndata import read_vocabulary
from sysvi.data.row_blocks import n_stored_values
from sysvi.data.stored import BYTES_PER_VALUE
from sysvi.training.loop import resolve_settings, split_cells

OF_A_CELL = 100  # bytes of obs in the output


def describe_run(
    adata: AnnData, columns: Columns, storage: Storage, is_prepared: bool, copied: int, settings: Mapping[str, Any]
) -> Event:
    """Describe what :func:`sysvi.integrate` would do, without reading the expression.

    Parameters
    ----------
    adata
        The cells, with their expression in memory or on disk.
    columns
        Columns and layer that are read.
    storage
        Where the expression is during training.
    is_prepared
        Whether the genes are used as they are; otherwise variable ones are chosen first.
    copied
        Size of the file that is copied into the output, in bytes; 0 for none.
    settings
        Other arguments of :func:`sysvi.integrate`.

    Returns
    -------
    Event
        Of stage ``"dry-run"``, with one line for each part, and its numbers.

    Raises
    ------
    InputError
        For columns or settings that cannot be used.
    """
    vocabulary = read_vocabulary(adata, columns)
    n, n_genes = adata.shape
    given = dict(settings)
    preset = find_preset(given.pop("preset", None))
    n_members = number_of_members(given.pop("members", None), preset)
    chosen = fill_in(preset, given, n)
    model_kwargs, train_kwargs = split_settings("integrate", chosen)
    held_out = {"train_size": 0.9} if train_kwargs.get("early_stopping") else {}
    training = TrainSettings(**(held_out | train_kwargs))
    n_trained = len(split_cells(n, training)[0])
    training = resolve_settings(training, n_trained)
    assert training.max_epochs is not None
    n_latent = model_kwargs.get("n_latent", ModelSettings.n_latent)
    n_embeddings = 1 if n_members == 1 else 2  # an ensemble embeds to combine its members, and to write the result
    of_epoch = 1 if n_trained == n else 2  # held-out cells lie between the others
    n_passes = 1 + n_members * of_epoch * training.max_epochs + n_embeddings
    n_bytes = BYTES_PER_VALUE * n_stored_values(get_expression(adata, columns.layer)[1])
    output = copied + n * (OF_A_CELL + 4 * (n_latent + len(vocabulary.systems)))
    genes = f"{n_genes:,} genes" if is_prepared else f"{n_genes:,} genes, of which variable ones would be chosen"
    lines = [
        f"Cells: {n:,} x {genes}, of {len(vocabulary.systems)} systems ({', '.join(vocabulary.systems)}).",
        f"Training: {n_members} {'model' if n_members == 1 else 'models'} of {training.max_epochs} epochs in "
        f"minibatches of up to {training.batch_size:,} cells.",
        storage.why,
    ]
    if storage.window_cells is not None:
        lines.append(f"The expression would be read {n_passes} times, about {n_passes * n_bytes / 1e9:,.1f} GB in all.")
    else:
        lines.append(f"The run would take up to about {storage.n_bytes / 1e9:.1f} GB of memory.")
    lines.append(f"The output would take about {output / 1e6:,.0f} MB. Nothing was done.")
    values = {
        "cells": n,
        "genes": n_genes,
        "members": n_members,
        "epochs": training.max_epochs,
        "batch_size": training.batch_size,
        "passes": n_passes if storage.window_cells is not None else 1,
        "output_bytes": output,
        **storage_values(storage),
    }
    return Event("dry-run", "\n".join(lines), values)
