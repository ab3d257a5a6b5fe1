"""What an integration would do: cells, training, memory, passes over the expression, size of the output."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import torch
from anndata import AnnData

from sysvi._core.checks import get_expression
from sysvi._core.device import describe_device
from sysvi._core.events import Event
from sysvi._core.settings import ModelSettings, TrainSettings
from sysvi.api.arguments import fill_in, find_preset, number_of_members, split_settings
from sysvi.api.expected_time import describe_seconds, expected_seconds
from sysvi.api.storage import Storage, storage_values
from sysvi.data.columns import Columns
from sysvi.data.from_anndata import read_vocabulary
from sysvi.data.row_blocks import n_stored_values
from sysvi.data.stored import BYTES_PER_VALUE
from sysvi.training.loop import resolve_settings, split_cells

OF_A_CELL = 100  # bytes of obs in the output
SETTINGS_OF_MODELS = {field.name for field in fields(ModelSettings)}


def output_bytes(n_cells: int, n_latent: int, n_systems: int = 2) -> int:
    """Size of an output without expression, roughly: obs, embedding and support."""
    return n_cells * (OF_A_CELL + 4 * (n_latent + n_systems))


def describe_run(
    adata: AnnData,
    columns: Columns,
    storage: Storage,
    n_top_genes: int | None,
    copied: int,
    settings: Mapping[str, Any],
    device: torch.device | None = None,
) -> Event:
    """Describe what :func:`sysvi.integrate` would do, without reading the expression.

    The time of training is estimated from a few steps on random values of the same density.

    Parameters
    ----------
    adata
        The cells, with their expression in memory or on disk.
    columns
        Columns and layer that are read.
    storage
        Where the expression is during training.
    n_top_genes
        Number of variable genes that are chosen first in each system; None: the genes are used as they are.
    copied
        Size of the file that is copied into the output, in bytes; 0 for none.
    settings
        Other arguments of :func:`sysvi.integrate`.
    device
        Device on which would be trained, and on which a few steps are measured; None: nothing is measured.

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
    chosen = fill_in(preset, given, n, len(vocabulary.systems))
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
    n_values = n_stored_values(get_expression(adata, columns.layer)[1])
    n_bytes = BYTES_PER_VALUE * n_values
    n_used = n_genes if n_top_genes is None else min(n_genes, n_top_genes)
    model_settings = ModelSettings(**{name: x for name, x in model_kwargs.items() if name in SETTINGS_OF_MODELS})
    density = n_values / max(1, n * n_genes)
    seconds, time = None, ""
    if device is not None:
        seconds = expected_seconds(vocabulary, n_used, density, n_trained, n_members, model_settings, training, device)
        time = (
            f" It would take roughly {describe_seconds(*seconds)} on {describe_device(device)}, by a few steps that "
            "were measured on random values; reading, choosing genes and embedding come on top."
        )
    output = copied + output_bytes(n, n_latent, len(vocabulary.systems))
    genes = f"{n_genes:,} genes" + ("" if n_top_genes is None else ", of which variable ones would be chosen")
    lines = [
        f"Cells: {n:,} x {genes}, of {len(vocabulary.systems)} systems ({', '.join(vocabulary.systems)}).",
        f"Training: {n_members} {'model' if n_members == 1 else 'models'} of {training.max_epochs} epochs in "
        f"minibatches of up to {training.batch_size:,} cells.{time}",
        storage.why,
    ]
    if storage.window_cells is not None:
        lines.append(f"The expression would be read {n_passes} times, about {n_passes * n_bytes / 1e9:,.1f} GB in all.")
    else:
        lines.append(f"The run would take up to about {storage.n_bytes / 1e9:.1f} GB of memory.")
    lines.append(f"The output would take about {max(output / 1e6, 1):,.0f} MB. Nothing was done.")
    values = {
        "cells": n,
        "genes": n_genes,
        "members": n_members,
        "epochs": training.max_epochs,
        "batch_size": training.batch_size,
        "passes": n_passes if storage.window_cells is not None else 1,
        "output_bytes": output,
        "expected_seconds": None if seconds is None else list(seconds),
        **storage_values(storage),
    }
    return Event("dry-run", "\n".join(lines), values)
