"""Integration in one call: read the data, train a model, write the embedding."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from os import PathLike
from pathlib import Path
from typing import Any

from anndata import AnnData

from sysvi._core.arguments import check_types
from sysvi._core.checks import check_obs_column
from sysvi._core.device import choose_device, device_of_rank
from sysvi._core.events import Event, OnEvent
from sysvi._core.files import check_folder
from sysvi._core.progress import as_callback
from sysvi._core.ranks import current_ranks
from sysvi._core.seeds import member_seeds
from sysvi._core.settings import (
    ModelSettings,
    TrainSettings,
    random_seed,
)
from sysvi.api.arguments import fill_in, find_preset, number_of_members, split_settings
from sysvi.api.ensemble import Ensemble
from sysvi.api.results import check_embedding_name, check_input_columns, check_support_names, write_results
from sysvi.api.same_call import check_same_call
from sysvi.api.separation import report_weak_effect, warn_about_separated_systems
from sysvi.api.storage import choose_storage, storage_values
from sysvi.api.sysvi import SysVI
from sysvi.api.train_many import Combination, combinations, common_settings, train_each
from sysvi.api.training_folder import TrainingFolder, identify_run, open_training_folder
from sysvi.data.columns import Columns
from sysvi.data.from_anndata import ModelData, check_writable, read_data, write_setup
from sysvi.data.stores import open_cells


def integrate(
    adata: AnnData | str | PathLike[str],
    system_key: str,
    batch_key: str | None = None,
    *,
    layer: str | None = None,
    categorical_covariate_keys: Sequence[str] | None = None,
    continuous_covariate_keys: Sequence[str] | None = None,
    weight_systems: bool = False,
    members: int | None = None,
    preset: str | None = None,
    key_added: str = "X_sysVI",
    device: str = "auto",
    memory: str | float | None = None,
    checkpoint: str | PathLike[str] | None = None,
    seed: int = 0,
    progress: bool | OnEvent = True,
    **settings: Any,
) -> SysVI | Ensemble:
    """Train an ensemble of models on `adata` and write the integrated embedding into it.

    Models that differ only in their seed agree about what the data show and disagree about what a model learned by
    chance. Their embeddings are therefore combined (:class:`sysvi.Ensemble`), and how far they agree about the
    counterparts of a cell is written down as its support.

    Parameters
    ----------
    adata
        Log-normalised expression of all systems, cells x genes, as :func:`sysvi.prepare` returns it. The embedding
        (float32, cells x latent dimensions) is written into ``obsm[key_added]``, settings and versions into
        ``uns["sysvi"]``, the columns into ``uns["sysvi_setup"]``. With two members or more, ``obsm["sysvi_support"]``
        is a table of how far they agree, from 0 to 1, that a cell (row) has counterparts in each other system (column;
        NaN for its own; a slash in the name becomes a bar), and ``obs["sysvi_support"]`` has the highest value of each
        cell. The path of an h5ad file or a zarr store opens it with the expression on disk; the results are then in
        ``adata`` of the model that is returned.
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
    members
        Number of models in the ensemble, 8 by default (of the preset ``"mixing"`` 4); 1 trains a single model, and no
        support is computed.
    preset
        Settings that go together; those that are given take precedence. ``"conservative"``, the default, keeps cell
        types of single systems apart: training starts from a linear model, the cycle weight is 10, and there are 24
        epochs. ``"mixing"`` mixes systems more, but sometimes types of single systems too: a cycle weight of 30, and
        longer training. ``"paper"``: model and training of the paper, a single model.
    key_added
        Name of the embedding in ``adata.obsm``.
    device
        Device to train on: ``"auto"``, ``"cpu"``, ``"cuda"``, ``"cuda:1"`` or ``"mps"``.
    memory
        Memory that the run may take, such as ``"4GB"`` or a number of bytes. If the expression of `adata` is on disk (a
        path, or ``anndata.read_h5ad(path, backed="r")``) and the run would take more with it in memory, it stays there,
        and training and embedding read it in windows of cells (docs/scale.md); an event ``"storage"`` says what was
        chosen and why. By default, it is read into memory.
    checkpoint
        Folder in which the state of training is kept, every two minutes and at its end. After the program was ended,
        even by a kill or a power failure, the same call goes on from there; on a CPU, every bit of the result is that
        of a call without interruption. A folder of other data or settings is refused. The folder is kept after the end;
        the same call then trains nothing.
    seed
        Random seed. The same seed gives the same embedding; on a CPU every bit is the same for up to three torch
        threads, and for any fixed number of more.
    progress
        True draws a progress bar, False is silent, a function is called with each :class:`sysvi.Event`. An event
        ``"effect"`` reports systems that differ little: their cells have neighbours from other systems before the
        integration.
    **settings
        Any argument of :class:`sysvi.SysVI` and any field of :class:`sysvi.TrainSettings`: ``cycle_weight`` (100 mixes
        systems more), ``max_epochs``, ``batch_size``, ``n_latent``, ``prior``, ...

    Returns
    -------
    Ensemble or SysVI
        The trained ensemble, or the model if there is one member.

    Raises
    ------
    InputError
        For data or settings that cannot be used.
    SystemExit
        With status 75 ("to be continued"), if training with a `checkpoint` is stopped by SIGTERM, SIGUSR1 or SIGHUP, as
        batch systems send them; the state is written before.

    Warns
    -----
    UserWarning
        If a twentieth of a system's cells or more have a support below 0.2 in another system; or if a system stays
        apart: its cells have less than a twentieth of the neighbours from other systems that they would have in a fully
        mixed embedding (15 nearest neighbours among up to 10,000 cells). Labels are not needed for either.
        If the loss of a member became non-finite, the others are used.

    Notes
    -----
    Ctrl-C stops the training. The members that had ended by then make up the ensemble, or if none had, all whose
    training had begun; its ``status`` is ``"interrupted"``. If it is one member, that model is returned, without a
    support.

    Where a process group of ``torch.distributed`` with several processes was initialised, all of them call this
    function with the same arguments and train together: each reads a share of the expression, and losses and embedding
    are those of one process to rounding. All return the same model; the first shows progress and warnings. If a process
    ends early, a RuntimeError ends the others. See docs/scale.md.

    Examples
    --------
    >>> import sysvi
    >>> adata = sysvi.prepare(sysvi.datasets.simulate_systems(300, 200, seed=1), "system", "batch", min_cells=3)
    >>> model = sysvi.integrate(adata, "system", "batch", max_epochs=2, progress=False)
    >>> adata.obsm["X_sysVI"].shape
    (300, 15)
    >>> bool(adata.obs["sysvi_support"].between(0, 1).all())
    True
    """
    split_settings("integrate", settings)  # for its checks, before the data are read
    if isinstance(adata, str | PathLike):
        adata = open_cells(Path(adata))
    chosen = find_preset(preset)
    n_members = number_of_members(members, chosen)
    check_embedding_name(key_added)
    check_types(integrate, checkpoint=checkpoint)
    if checkpoint is not None:
        check_folder(Path(checkpoint), may_be_missing=True)
    columns = Columns.from_arguments(
        system_key,
        batch_key,
        layer=layer,
        categorical_covariate_keys=categorical_covariate_keys,
        continuous_covariate_keys=continuous_covariate_keys,
        weight_systems=weight_systems,
    )
    check_input_columns(columns)
    check_writable(adata)
    ranks, window_cells = current_ranks(), None
    call = {
        "members": n_members,
        "seed": random_seed(seed),
        "preset": preset,
        "name of the embedding": key_added,
        "device": str(device),
        "memory": memory,
        "checkpoint": checkpoint is not None,
        **{f"setting {name}": value for name, value in sorted(settings.items())},
    }
    check_same_call(ranks, adata, columns, call)
    device = device_of_rank(device, ranks)
    on_event = ranks.only_first(as_callback(progress))
    with ranks.only_first_warns():
        if memory is not None:
            storage = choose_storage(adata, layer, memory, n_members, choose_device(device))
            window_cells = storage.window_cells
            on_event(Event("storage", storage.why, storage_values(storage)))
        data = read_data(adata, columns, window_cells=window_cells, ranks=ranks)
        if n_members > 1:
            check_support_names(data.vocabulary.systems)
        usual = chosen.settings_for(data.cells.n_cells, data.cells.n_systems)
        settings = fill_in(chosen, settings, data.cells.n_cells, data.cells.n_systems)
        system = check_obs_column(adata, system_key, "system_key")
        report_weak_effect(data.cells.x, system, on_event)
        with _training_folder(
            checkpoint, adata, data, n_members, seed, settings, device, window_cells, on_event
        ) as kept:
            model = _train(adata, data, n_members, seed, settings, device, on_event, kept)
        write_results(adata, model, key_added, on_event, stacklevel=2)
        run = model.members[0].run
        assert run is not None
        usual_epochs = usual.get("max_epochs", run.usual_epochs)
        warn_about_separated_systems(adata.obsm[key_added], system, run.n_epochs, usual_epochs, stacklevel=2)
    return model


def _training_folder(
    checkpoint: str | PathLike[str] | None,
    adata: AnnData,
    data: ModelData,
    n_members: int,
    seed: int,
    settings: Mapping[str, Any],
    device: str,
    window_cells: int | None,
    on_event: OnEvent,
) -> AbstractContextManager[TrainingFolder | None]:
    """The folder of a checkpoint, checked to be that of these data and settings; None without a checkpoint."""
    if checkpoint is None:
        return nullcontext()
    run = identify_run(adata, data, n_members, random_seed(seed), settings, choose_device(device), window_cells)
    return open_training_folder(Path(checkpoint), run, n_members, on_event, data.cells.ranks)


def _train(
    adata: AnnData,
    data: ModelData,
    n_members: int,
    seed: int,
    settings: Mapping[str, Any],
    device: str,
    on_event: OnEvent,
    kept: TrainingFolder | None,
) -> SysVI | Ensemble:
    """Train a single model, or the members of an ensemble."""
    if n_members > 1:
        grid = member_grid(n_members, seed, settings)
        write_setup(adata, data.columns)
        return train_ensemble(adata, data, grid, seed, settings, device, on_event, kept)
    model_kwargs, train_kwargs = split_settings("integrate", settings)
    model = SysVI.from_data(adata, data, seed=seed, **model_kwargs)
    write_setup(adata, data.columns)
    state_file = None if kept is None else kept.state_files[0]
    model.train(device=device, progress=on_event, state_file=state_file, **train_kwargs)
    if kept is not None:
        kept.exit_if_stopped(model.status == "interrupted")
    return model


def member_grid(n_members: int, seed: int, settings: Mapping[str, Any]) -> list[Combination]:
    """Seeds and weights of the members of an ensemble. The seeds of different ensembles are different."""
    seed = random_seed(seed)
    return combinations(
        member_seeds(seed, "member", n_members),
        [settings.get("cycle_weight", TrainSettings.cycle_weight)],
        [settings.get("kl_weight", TrainSettings.kl_weight)],
        [settings.get("prior", ModelSettings.prior)],
    )


def train_ensemble(
    adata: AnnData,
    data: ModelData,
    grid: Sequence[Combination],
    seed: int,
    settings: Mapping[str, Any],
    device: str,
    on_event: OnEvent,
    kept: TrainingFolder | None = None,
) -> SysVI | Ensemble:
    """Train the members of an ensemble in parallel; after Ctrl-C, those that had ended, or all that had begun.

    Members whose loss became non-finite are left out with a warning. If one member remains, it is returned itself.
    """
    model_kwargs, train_kwargs = split_settings("integrate", common_settings(settings))
    state_files = () if kept is None else kept.state_files
    runs = train_each(adata, data, grid, model_kwargs, train_kwargs, device, on_event, state_files=state_files)
    interrupted = len(runs) < len(grid) or any(run.status == "interrupted" for run in runs)
    if kept is not None:
        kept.exit_if_stopped(interrupted)
    failed = [run.error for run in runs if run.error is not None]
    usable = [run for run in runs if run.error is None]
    if not usable and failed:
        raise failed[0]
    if not usable:  # Ctrl-C came before any member had begun
        raise KeyboardInterrupt
    if failed:
        warnings.warn(f"{len(failed)} of {len(runs)} members failed and are left out. {failed[0]}", stacklevel=4)
    members = [run.model for run in usable if run.status != "interrupted"] or [run.model for run in usable]
    if len(members) > 1:
        return Ensemble(members, seed, status="interrupted" if interrupted else None)
    if interrupted:
        members[0].status = "interrupted"
    return members[0]
