"""The main job in one call."""

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
from sysvi.api.sysvi import SysVI


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
        Log-normalised expression of all systems, cells x genes, as :func:`sysvi.prepare` gives it. Gets the
        embedding, float32 cells x latent dimensions, in ``obsm[key_added]``, what made it in ``uns["sysvi"]``, and
        ``uns["sysvi_setup"]``.
    system_key
        Column of ``adata.obs`` with the systems: the substantial effect (species, organoid and tissue, ...).
    batch_key
        Column with the batches (samples, donors), a weaker effect.
    layer
        Layer with the expression; ``adata.X`` by default.
    categorical_covariate_keys, continuous_covariate_keys
        Columns with further effects to remove.
    weight_systems
        Count all systems the same in the loss, whatever their number of cells.
    key_added
        Where the embedding goes.
    device
        ``"auto"``, ``"cpu"``, ``"cuda"``, ``"cuda:1"`` or ``"mps"``.
    seed
        The same seed gives the same embedding (on a CPU to the bit, with up to three threads of torch or at a
        given number of more).
    progress
        True draws a progress bar, False is silent, a function gets each :class:`sysvi.Event`.
    **settings
        Any argument of :class:`sysvi.SysVI` and any field of :class:`sysvi.TrainSettings`: ``cycle_weight=20`` mixes
        systems more, ``max_epochs``, ``batch_size``, ``n_latent``, ``prior``, ...

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
        Where the embedding leaves a system apart: less than a twentieth of the neighbours from other systems that its
        cells would have if all was mixed (15 nearest of up to 10,000 cells; no labels are needed).

    Examples
    --------
    >>> import sysvi
    >>> adata = sysvi.prepare(sysvi.datasets.simulate_systems(300, 200, seed=1), "system", "batch", min_cells=3)
    >>> model = sysvi.integrate(adata, "system", "batch", max_epochs=2, progress=False)
    >>> adata.obsm["X_sysVI"].shape
    (300, 15)
    """
    of_model, of_training = split_settings("integrate", settings)
    if not isinstance(key_added, str) or not key_added or "/" in key_added:
        raise InputError(f"key_added is {key_added!r}; a name in obsm is a text, not empty and without a slash.")
    categorical = with_batch(batch_key, categorical_covariate_keys)
    SysVI.setup_anndata(adata, system_key, layer, categorical, continuous_covariate_keys, weight_systems)
    model = SysVI(adata, seed=seed, **of_model)
    model.train(device=device, progress=progress, **of_training)
    adata.obsm[key_added] = model.get_latent_representation()
    adata.uns["sysvi"] = model.record()
    run, system = model.run, check_obs_column(adata, system_key, "system_key")
    assert run is not None
    warn_about_separated_systems(adata.obsm[key_added], system, run.n_epochs, run.usual_epochs, stacklevel=2)
    return model


def split_settings(caller: str, settings: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The settings for :class:`SysVI` and those for its training; an InputError that names those for neither."""
    training = {f.name for f in fields(TrainSettings)}
    modelling = {f.name for f in fields(ModelSettings)}
    modelling |= {"pseudoinputs_data_indices", "pseudoinputs_label_key", "embedding_kwargs"}
    if unknown := sorted(set(settings) - training - modelling):
        raise InputError(
            f"{caller} has no setting {', '.join(unknown)}; settings are {', '.join(sorted(training | modelling))}."
        )
    of_model, of_training = ({k: v for k, v in settings.items() if k in names} for names in (modelling, training))
    return of_model, of_training


def with_batch(batch_key: str | None, keys: Sequence[str] | None) -> list[str]:
    """The batch, where there is one, and the other categorical covariates."""
    if isinstance(keys, str):
        raise InputError(f"categorical_covariate_keys is the text {keys!r}; give a list of columns: [{keys!r}].")
    return [*([] if batch_key is None else [batch_key]), *(keys or [])]
