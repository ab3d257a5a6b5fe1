"""Integration in one call: read the data, train a model, write the embedding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from anndata import AnnData

from sysvi._core.checks import check_obs_column
from sysvi._core.errors import InputError
from sysvi._core.events import OnEvent
from sysvi._core.settings import ModelSettings, TrainSettings
from sysvi.api.separation import warn_about_separated_systems
from sysvi.api.sysvi import MODEL_ARGUMENTS, SysVI
from sysvi.data.columns import Columns
from sysvi.data.from_anndata import check_writable, read_data, write_setup


def integrate(
    adata: AnnData,
    system_key: str,
    batch_key: str | None = None,
    *,
    layer: str | None = None,
    categorical_covariate_keys: Sequence[str] | None = None,
    continuous_covariate_keys: Sequence[str] | None = None,
    weight_systems: bool = False,
    key_added: str = "X_sysVI",
    device: str = "auto",
    seed: int = 0,
    progress: bool | OnEvent = True,
    **settings: Any,
) -> SysVI:
    """Train a model on `adata` and write the integrated embedding into it.

    Parameters
    ----------
    adata
        Log-normalised expression of all systems, cells x genes, as :func:`sysvi.prepare` returns it. The embedding
        (float32, cells x latent dimensions) is written into ``obsm[key_added]``, settings and versions into
        ``uns["sysvi"]``, the columns into ``uns["sysvi_setup"]``.
    system_key
        Column of ``adata.obs`` with the systems: the substantial effect to remove (species, organoid and tissue, ...).
    batch_key
        Column with the batches (samples, donors), a weaker effect to remove.
    layer
        Layer with the expression; ``adata.X`` by default.
    categorical_covariate_keys, continuous_covariate_keys
        Columns with further covariates whose effects are removed.
    weight_systems
        Let all systems count the same in the loss, whatever their number of cells.
    key_added
        Name of the embedding in ``adata.obsm``.
    device
        Device to train on: ``"auto"``, ``"cpu"``, ``"cuda"``, ``"cuda:1"`` or ``"mps"``.
    seed
        Random seed. The same seed gives the same embedding; on a CPU every bit is the same for up to three torch
        threads, and for any fixed number of more.
    progress
        True draws a progress bar, False is silent, a function is called with each :class:`sysvi.Event`.
    **settings
        Any argument of :class:`sysvi.SysVI` and any field of :class:`sysvi.TrainSettings`: ``cycle_weight`` (20 mixes
        systems more), ``max_epochs``, ``batch_size``, ``n_latent``, ``prior``, ...

    Returns
    -------
    SysVI
        The trained model.

    Raises
    ------
    InputError
        For data or settings that cannot be used.

    Warns
    -----
    UserWarning
        If a system stays apart: its cells have less than a twentieth of the neighbours from other systems that they
        would have in a fully mixed embedding (15 nearest neighbours among up to 10,000 cells; labels are not needed).

    Examples
    --------
    >>> import sysvi
    >>> adata = sysvi.prepare(sysvi.datasets.simulate_systems(300, 200, seed=1), "system", "batch", min_cells=3)
    >>> model = sysvi.integrate(adata, "system", "batch", max_epochs=2, progress=False)
    >>> adata.obsm["X_sysVI"].shape
    (300, 15)
    """
    model_kwargs, train_kwargs = split_settings("integrate", settings)
    if not isinstance(key_added, str) or not key_added or "/" in key_added:
        raise InputError(f"key_added is {key_added!r}; it must be a string, not empty and without a slash.")
    columns = Columns.from_arguments(
        system_key,
        batch_key,
        layer=layer,
        categorical_covariate_keys=categorical_covariate_keys,
        continuous_covariate_keys=continuous_covariate_keys,
        weight_systems=weight_systems,
    )
    check_writable(adata)
    data = read_data(adata, columns)
    model = SysVI.from_data(adata, data, seed=seed, **model_kwargs)
    write_setup(adata, columns)
    model.train(device=device, progress=progress, **train_kwargs)
    adata.obsm[key_added] = model.get_latent_representation()
    adata.uns["sysvi"] = model.record()
    system = check_obs_column(adata, system_key, "system_key")
    assert model.run is not None
    warn_about_separated_systems(
        adata.obsm[key_added], system, model.run.n_epochs, model.run.usual_epochs, stacklevel=2
    )
    return model


def split_settings(caller: str, settings: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Separate the arguments of :class:`sysvi.SysVI` from those of its training.

    Parameters
    ----------
    caller
        Name of the function that was given the settings, for the error message.
    settings
        Settings of both kinds.

    Returns
    -------
    tuple of dict
        Arguments of the model, and arguments of training.

    Raises
    ------
    InputError
        For settings that are neither.
    """
    train_names = {f.name for f in fields(TrainSettings)}
    model_names = {f.name for f in fields(ModelSettings)} | MODEL_ARGUMENTS
    if unknown := sorted(set(settings) - train_names - model_names):
        known = ", ".join(sorted(train_names | model_names))
        raise InputError(f"{caller} has no setting {', '.join(unknown)}; settings are {known}.")
    model_kwargs = {name: value for name, value in settings.items() if name in model_names}
    train_kwargs = {name: value for name, value in settings.items() if name in train_names}
    return model_kwargs, train_kwargs
