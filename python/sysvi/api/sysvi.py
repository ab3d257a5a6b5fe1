"""The class `SysVI`: the model of an AnnData, with the names of `scvi.external.SysVI`."""

from __future__ import annotations

import json
import math
import platform
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from anndata import AnnData

from sysvi._core.arguments import check_types, row_numbers
from sysvi._core.checks import check_anndata
from sysvi._core.device import choose_device
from sysvi._core.errors import InputError
from sysvi._core.events import OnEvent
from sysvi._core.files import create_folder, write_atomically
from sysvi._core.forks import check_fork
from sysvi._core.memory import check_memory
from sysvi._core.progress import as_callback
from sysvi._core.samples import sample_groups
from sysvi._core.seeds import generator
from sysvi._core.settings import (
    PRIORS,
    RAMPS,
    Limits,
    ModelSettings,
    Ramp,
    TrainSettings,
    number,
    random_seed,
    whole_number,
)
from sysvi._version import __version__
from sysvi.api.differential_methods import DifferentialMethodsOfScvi
from sysvi.api.normalized_expression import DecodingMethodsOfScvi
from sysvi.api.scvi_compat import (
    MethodsOfScvi,
    QueryMethodsOfScvi,
    device_name,
    history_frames,
    ignore_arguments,
    translate_training,
)
from sysvi.data.cells import Cells, Vocabulary, n_minibatches
from sysvi.data.columns import Columns
from sysvi.data.from_anndata import (
    ModelData,
    cells_from_anndata,
    check_writable,
    read_data,
    read_setup,
    read_vocabulary,
    write_setup,
)
from sysvi.data.h5ad import write_anndata
from sysvi.data.labels import read_labels
from sysvi.data.prepare import read_preparation
from sysvi.data.reference import Reference, count_cells
from sysvi.model.checkpoint import MODEL_FILE, Checkpoint, corruption_as_input_error, load_checkpoint, save_checkpoint
from sysvi.model.cvae import Model, embed
from sysvi.model.extension import decode_prior_samples, extend, find_starts
from sysvi.model.pseudoinputs import check_pseudoinput_rows, choose_pseudoinput_rows
from sysvi.training.history import summarise_losses
from sysvi.training.loop import NonFiniteLossError, TrainingRun, train
from sysvi.training.state import StateFile

# Arguments of SysVI that are no settings of the model: where the components of the prior start.
PRIOR_ARGUMENTS = ("pseudoinputs_data_indices", "pseudoinputs_label_key")
MODEL_ARGUMENTS = {*PRIOR_ARGUMENTS, "embedding_kwargs"}
# Training of the weights of new covariates, which are few (benchmarks/mapping.py)
SURGERY_STEPS, SURGERY_STEPS_OF_SYSTEM, SURGERY_BATCH_SIZE, SURGERY_LR = 100, 300, 128, 0.03
MAX_TRAINED_CELLS = 3_200  # new cells that their weights are trained on, beside as many that the model decodes
# Numbers that training keeps for each parameter: its value, now and after the last epoch, its gradient, two of Adam.
TRAINING_COPIES = 5
VALIDATION_SIZE_LIMITS = Limits(min=0, max=1, min_open=True, max_open=True)


class Surgery(NamedTuple):
    """What is trained of a model that was extended by new systems and categories, and how.

    Parameters
    ----------
    new_weights
        Masks of the weights of the new systems and categories, by the names of the parameters; the others stay.
    cells
        New cells, and as many that are decoded from samples of the prior, for the cycle between them.
    settings
        Settings of training.
    """

    new_weights: dict[str, torch.Tensor]
    cells: Cells
    settings: dict[str, Any]


def surgery_settings(trained: TrainSettings, n_cells: int, has_new_system: bool) -> dict[str, Any]:
    """How the weights of new systems and categories are trained: with the last loss weights of the model's training."""
    weights = {name: Ramp(getattr(trained, name).value) for name in RAMPS} | {"adversarial_weight": Ramp(0.0)}
    steps = SURGERY_STEPS_OF_SYSTEM if has_new_system else SURGERY_STEPS
    epochs = math.ceil(steps / n_minibatches(n_cells, SURGERY_BATCH_SIZE))
    return weights | {
        "swapped_covariates": trained.swapped_covariates,
        "batch_size": SURGERY_BATCH_SIZE,
        "max_epochs": epochs,
        "lr": SURGERY_LR,
        "lr_schedule": "cosine",
    }


class SysVI(QueryMethodsOfScvi, DecodingMethodsOfScvi, DifferentialMethodsOfScvi, MethodsOfScvi):
    """Integrate systems with a conditional VAE, a VampPrior and latent cycle-consistency.

    A drop-in for ``scvi.external.SysVI``: the same names with the same meanings, so its `batch_key` is the *system*.
    For a single call see :func:`sysvi.integrate`.

    Parameters
    ----------
    adata
        Log-normalised expression, cells x genes, set up with :meth:`setup_anndata`.
    registry
        Accepted for compatibility, as scvi-tools' second argument; must be None.
    prior
        ``"vamp"`` (posteriors of trainable pseudo-inputs), ``"gmm"`` (a free Gaussian mixture) or
        ``"standard_normal"``. The first two are ramped up during training (``mixture_share`` of :meth:`train`).
    n_prior_components
        Number of components of the mixture.
    pseudoinputs_data_indices
        Rows of `adata` at which the components start; by default chosen by `pseudoinputs`.
    pseudoinputs
        Cells at which the components start: ``"random"``, ``"system"`` (random cells of `pseudoinputs_system`),
        ``"balanced_system"`` (equally many from every system), ``"balanced_label"`` (equally many from every label of
        `pseudoinputs_label_key`), or, for the Gaussian mixture only, ``"noise"`` (standard normal draws, no cells).
    pseudoinputs_system
        The system for ``pseudoinputs="system"``.
    pseudoinputs_label_key
        Column of ``adata.obs`` for ``pseudoinputs="balanced_label"``; unlabelled cells are left out.
    trainable_priors
        Whether the components are trained; otherwise they stay where they start.
    mixture
        How components mix: ``"dimension"``, log p(z) = Σ_d log Σ_k w_k N(z_d; m_kd, v_kd), as in the paper's code; or
        ``"joint"``, log p(z) = log Σ_k w_k Π_d N(z_d; m_kd, v_kd).
    n_latent, n_hidden, n_layers, dropout_rate
        Number of latent dimensions, width and number of hidden layers, and dropout rate of encoder and decoder.
    out_var_mode
        Variance of the expression per gene (``"feature"``) or per cell and gene (``"sample_feature"``).
    covariates_in_hidden
        Let covariates enter the decoder's hidden layers; False: they only add to the mean expression of each gene.
    covariates_in_mean
        Let covariates also add to the mean expression of each gene directly. Differences between systems that are the
        same in all cells then need no hidden layer.
    initialisation
        Start of training. ``"linear"``: the effects of systems and other covariates on each gene, and the principal
        components of the expression without these effects, as in probabilistic principal component analysis. Where
        types differ in frequency between systems, the effects of the systems are corrected for it, if this is clear.
        ``"data"``: the same effects, and random combinations of the components; ``"random"``: random weights.
    embed_categorical_covariates
        Learn a vector for each category instead of one-hot codes; for covariates of many categories.
    embedding_kwargs
        ``{"embedding_dim": 5}``: length of these vectors.
    encoder_decoder_kwargs
        Accepted for compatibility; must be None or empty.
    seed
        Random seed of the initial weights, of the pseudo-inputs and, unless :meth:`train` is given another, of
        training.

    Attributes
    ----------
    adata
        The data of the model, or None for a model that was loaded without data.
    module
        The torch module.
    history
        Loss terms per epoch, a DataFrame for each term.
    kernels
        How training was computed (sparse or dense, precision, CUDA graphs), and why.
    is_trained, status
        Whether and how training ended: ``"untrained"``, ``"finished"``, ``"stopped_early"``, ``"interrupted"`` or
        ``"failed"`` (the loss became non-finite after some epochs; the model holds the weights of the last good one).

    Raises
    ------
    InputError
        For settings that contradict each other, or data on which :meth:`setup_anndata` was not called.

    References
    ----------
    Hrovatin, Moinfar et al., Integrating single-cell RNA-seq datasets with substantial batch effects, BMC Genomics
    (2025).

    Examples
    --------
    >>> import sysvi
    >>> adata = sysvi.prepare(sysvi.datasets.simulate_systems(300, 200, seed=1), "system", "batch", min_cells=3)
    >>> sysvi.SysVI.setup_anndata(adata, batch_key="system", categorical_covariate_keys=["batch"])
    >>> model = sysvi.SysVI(adata)
    >>> model.train(max_epochs=2, progress=False)
    >>> model.get_latent_representation().shape
    (300, 15)
    """

    adata: AnnData | None
    cells: Cells | None

    def __init__(
        self,
        adata: AnnData,
        registry: None = None,
        prior: str = "vamp",
        n_prior_components: int = 5,
        pseudoinputs_data_indices: Sequence[int] | np.ndarray | None = None,
        *,
        pseudoinputs: str = "random",
        pseudoinputs_system: str | None = None,
        pseudoinputs_label_key: str | None = None,
        embedding_kwargs: Mapping[str, Any] | None = None,
        encoder_decoder_kwargs: Mapping[str, Any] | None = None,
        seed: int = 0,
        **model_kwargs: Any,
    ):
        check_anndata(adata)
        columns = read_setup(adata)
        if registry is not None:
            raise InputError(
                "registry is not supported, since sysVI has none: leave it out, and pass settings by name (prior=...)."
            )
        if encoder_decoder_kwargs:
            raise InputError(
                f"encoder_decoder_kwargs {dict(encoder_decoder_kwargs)} are not supported; leave them out."
            )
        model_kwargs |= {
            "prior": prior,
            "n_prior_components": n_prior_components,
            "pseudoinputs_data_indices": pseudoinputs_data_indices,
            "pseudoinputs": pseudoinputs,
            "pseudoinputs_system": pseudoinputs_system,
            "pseudoinputs_label_key": pseudoinputs_label_key,
            "embedding_kwargs": embedding_kwargs,
        }
        settings, prior_kwargs = _model_settings(model_kwargs)
        self._build(adata, read_data(adata, columns, warn_of_large=True), settings, seed, **prior_kwargs)

    @classmethod
    def from_data(cls, adata: AnnData, data: ModelData, *, seed: int = 0, **model_kwargs: Any) -> SysVI:
        """A new model of data that were read already; models of the same cells share them in memory.

        Parameters
        ----------
        adata
            The AnnData from which `data` were read.
        data
            Columns, vocabulary and cells of `adata`.
        seed, **model_kwargs
            As in :class:`SysVI`.
        """
        settings, prior_kwargs = _model_settings(model_kwargs)
        model = cls.__new__(cls)
        model._build(adata, data, settings, seed, **prior_kwargs)
        return model

    def _build(
        self,
        adata: AnnData,
        data: ModelData,
        settings: ModelSettings,
        seed: int,
        pseudoinputs_data_indices: Sequence[int] | np.ndarray | None = None,
        pseudoinputs_label_key: str | None = None,
    ) -> None:
        """Create the module and start its prior at the chosen cells."""
        columns, vocabulary, cells, reference = data
        _check_memory(settings, vocabulary)
        self._create_module(columns, vocabulary, reference, settings, seed)
        self.adata, self.cells = adata, cells
        self.preparation = read_preparation(adata)
        if settings.initialisation != "random":
            self.module.start_at_data(cells, generator(seed, "start"))
        if pseudoinputs_data_indices is None or not PRIORS[settings.prior].starts_at_cells:
            label = None
            if settings.pseudoinputs == "balanced_label" and pseudoinputs_label_key is not None:
                names, labelled = read_labels(adata, pseudoinputs_label_key, argument="pseudoinputs_label_key")
                label = np.where(labelled, np.asarray(names), "")
            system = cells.covariates.system.cpu().numpy()
            rows = choose_pseudoinput_rows(settings, system, vocabulary.systems, label, seed)
        else:
            rows = check_pseudoinput_rows(pseudoinputs_data_indices, settings.n_prior_components, cells.n_cells)
        start = None if rows is None else torch.from_numpy(rows)
        self.module.init_prior(cells, start, generator(seed, "prior"))

    def _create_module(
        self, columns: Columns, vocabulary: Vocabulary, reference: Reference, settings: ModelSettings, seed: int
    ) -> None:
        """Set up everything that does not need data, for a new model and for a loaded one."""
        seed = random_seed(seed)
        self.columns, self.vocabulary, self.reference = columns, vocabulary, reference
        self.model_settings, self.seed = settings, seed
        self.module = Model.of_vocabulary(settings, vocabulary, generator(seed, "weights"))
        self.adata = None
        self.cells = None
        self.surgery: Surgery | None = None
        self._history: dict[str, list[float]] = {}
        self.train_settings: TrainSettings | None = None
        self.run: TrainingRun | None = None
        self.kernels: dict[str, Any] | None = None
        self.preparation = None
        self.status = "untrained"

    def __repr__(self) -> str:
        v, s = self.vocabulary, self.model_settings
        return (
            f"SysVI: {len(v.genes):,} genes, {len(v.systems)} systems ({', '.join(v.systems)}) from {v.system_key!r}, "
            f"covariates {', '.join([*v.categorical, *v.continuous]) or 'none'}; prior {s.prior}, "
            f"{s.n_latent} latent dimensions; {self.status}"
        )

    # -- data ---------------------------------------------------------------------------------------------------------

    @classmethod
    def setup_anndata(
        cls,
        adata: AnnData,
        batch_key: str,
        layer: str | None = None,
        categorical_covariate_keys: Sequence[str] | None = None,
        continuous_covariate_keys: Sequence[str] | None = None,
        weight_batches: bool = False,
    ) -> None:
        """Choose the columns and the layer that the model reads. Writes ``adata.uns["sysvi_setup"]`` and nothing else.

        Parameters
        ----------
        adata
            Log-normalised expression of all systems, cells x genes.
        batch_key
            Column of ``adata.obs`` with the **systems**: the substantial effect that the cycle loss removes.
        layer
            Layer with the expression; ``adata.X`` by default.
        categorical_covariate_keys
            Columns with weaker categorical covariates (batches: samples, donors).
        continuous_covariate_keys
            Columns with continuous covariates; they are standardised.
        weight_batches
            Weight each cell by the inverse size of its system in every loss term, so that all systems count the same.

        Raises
        ------
        InputError
            If a column or layer is missing or unusable.

        Examples
        --------
        >>> import sysvi
        >>> adata = sysvi.datasets.simulate_systems(300, 200)
        >>> sysvi.SysVI.setup_anndata(adata, batch_key="system", categorical_covariate_keys=["batch"])
        """
        columns = Columns.from_arguments(
            batch_key,
            layer=layer,
            categorical_covariate_keys=categorical_covariate_keys,
            continuous_covariate_keys=continuous_covariate_keys,
            weight_systems=weight_batches,
        )
        check_writable(adata)
        read_vocabulary(adata, columns)  # for its checks
        write_setup(adata, columns)

    def cells_of(self, adata: AnnData | None, warn_of_large: bool = False) -> Cells:
        """Cells of `adata` in the model's terms, on the model's device; the model's own cells for None.

        With `warn_of_large`, values that are too large for logarithms are warned about, not refused.
        """
        if adata is not None and adata is not self.adata:
            return cells_from_anndata(adata, self.columns, self.vocabulary, self.device, warn_of_large)
        if self.cells is None:
            raise InputError("This model was loaded without data: pass adata.")
        if self.cells.covariates.system.device != self.device:  # another model that shares these cells has moved them
            self.cells.to(self.device)
        return self.cells

    @property
    def device(self) -> torch.device:
        """Device of the parameters."""
        return next(self.module.parameters()).device

    def to_device(self, device: str | torch.device) -> None:
        """Move model and data to a device: ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ``"mps"`` or ``"auto"``."""
        chosen = choose_device(device)
        self.module.to(chosen)
        if self.cells is not None and self.cells.device != chosen:
            self.cells.to(chosen)

    # -- new cells ----------------------------------------------------------------------------------------------------

    def summary(self) -> tuple[Columns, Vocabulary, Reference]:
        """Columns, genes and categories of the model, and the summary of the cells it was trained on.

        Raises
        ------
        InputError
            If the model is not trained.
        """
        if not self.is_trained:
            raise InputError("The model is not trained yet: call train() first.")
        return self.columns, self.vocabulary, self.reference

    def extend(self, adata: AnnData, query: ModelData, seed: int) -> SysVI:
        """A new model of new cells that has this one's weights, and further ones for their new systems and categories.

        Its :meth:`train` trains these weights alone; without any, the new model is trained already. The cycle runs
        between the new cells and cells of the known systems that the model decodes from samples of its prior.

        Parameters
        ----------
        adata, query
            New cells, prepared, and what was read of them (:mod:`sysvi.data.query`).
        seed
            Random seed of the new model.
        """
        _, known, reference = self.summary()
        n_systems, vocabulary, cells = len(known.systems), query.vocabulary, query.cells
        sizes = cells.system_size.cpu().numpy()
        starts = find_starts(n_systems, reference.n_cells, count_cells(cells, vocabulary), sizes)
        extension = extend(self.module, vocabulary, starts)
        model = type(self).__new__(type(self))
        model._create_module(self.columns, vocabulary, query.reference, extension.model.settings, seed)
        model.module, model.adata, model.cells = extension.model, adata, cells
        model.train_settings, model.preparation = self.train_settings, self.preparation
        if not extension.new_weights:
            model.status, model.surgery = self.status, Surgery({}, cells, {})
            return model
        groups = torch.column_stack([cells.covariates.system, cells.covariates.categorical]).cpu().numpy()
        trained_on = cells.select(sample_groups(groups, MAX_TRAINED_CELLS))
        n_each, noise = -(-trained_on.n_cells // n_systems), generator(seed, "replay")
        decoded = decode_prior_samples(self.module, reference.n_cells, n_each, len(vocabulary.systems), noise)
        trained_on = trained_on.join(decoded)
        settings = surgery_settings(
            self.train_settings or TrainSettings(), trained_on.n_cells, len(vocabulary.systems) > n_systems
        )
        model.surgery = Surgery(extension.new_weights, trained_on, settings)
        return model

    # -- training -----------------------------------------------------------------------------------------------------

    def train(
        self,
        plan_kwargs: Mapping[str, Any] | None = None,
        *,
        max_epochs: int | None = None,
        accelerator: str = "auto",
        devices: int | Sequence[int] | str = "auto",
        train_size: float | None = None,
        validation_size: float | None = None,
        batch_size: int | None = None,
        early_stopping: bool = False,
        check_val_every_n_epoch: int | None = None,
        early_stopping_patience: int | None = None,
        device: str | None = None,
        seed: int | None = None,
        progress: bool | OnEvent = True,
        stop: Callable[[], bool] | None = None,
        state_file: StateFile | None = None,
        **settings: Any,
    ) -> None:
        """Train the model; a further call continues from the present weights.

        Parameters
        ----------
        plan_kwargs
            Arguments of scvi-tools' training plan: ``kl_weight``, ``z_distance_cycle_weight``,
            ``reconstruction_weight``, ``adversarial_weight``, ``lr``, ``weight_decay``, ``eps``. A weight is a number
            or a :class:`sysvi.Ramp`; a number for the cycle weight is ramped up from 0.1 to 0.6 of training, for the
            others it is constant.
        max_epochs
            Passes over the data; by default chosen from the number of cells and reported.
        accelerator, devices
            Device as scvi-tools names it: ``"cpu"``, ``"gpu"`` or ``"cuda"``, ``"mps"``, ``"auto"``; the first of
            `devices` is used.
        train_size
            Fraction of cells to train on. By default 1, or 0.9 with `early_stopping` or
            `check_val_every_n_epoch`, which need held-out cells.
        validation_size
            Fraction of cells to hold out, instead of `train_size`.
        batch_size
            Cells in a minibatch; by default chosen from the number of cells and reported.
        early_stopping
            Stop when the loss on held-out cells no longer improves, and restore the weights of the best epoch. Epochs
            count from the end of the last ramp on.
        check_val_every_n_epoch
            Any value holds out cells and evaluates the loss on them at every epoch.
        early_stopping_patience
            Epochs without improvement before training stops.
        device
            Device as :func:`sysvi.integrate` names it; takes precedence over `accelerator`.
        seed
            Random seed of the order of cells and of the noise; by default the model's.
        progress
            True draws a progress bar, False is silent, a function gets each :class:`sysvi.Event`.
        stop
            Called after each step; training ends when it returns True. If given, Ctrl-C is not handled.
        state_file
            File in which the state of training is kept and from which it goes on: that of the ``checkpoint`` of
            :func:`sysvi.integrate`.
        **settings
            Further fields of :class:`sysvi.TrainSettings`, for example ``swapped_covariates`` or ``mixture_share``.

        Raises
        ------
        InputError
            For unknown settings, or values that are not allowed.
        sysvi.NonFiniteLossError
            If the loss is not finite. The model then holds the weights of the last good epoch and can be used
            (``status == "failed"``), unless no epoch had ended.

        Notes
        -----
        Ctrl-C stops after the current step and leaves a usable model with ``status == "interrupted"``.
        """
        if isinstance(plan_kwargs, int):
            raise InputError(
                f"plan_kwargs is {plan_kwargs}; give the number of epochs by name: train(max_epochs={plan_kwargs})."
            )
        check_types(SysVI.train, plan_kwargs=plan_kwargs, early_stopping=early_stopping, stop=stop)
        check_types(SysVI.train, validation_size=validation_size)
        if train_size is None:
            train_size = 0.9 if early_stopping or check_val_every_n_epoch is not None else 1.0
            if validation_size:
                train_size = 1 - number("validation_size", validation_size, VALIDATION_SIZE_LIMITS)
        surgery = self.surgery
        if surgery is not None and not surgery.new_weights:
            warnings.warn(
                "Nothing is trained: the model knows all systems and categories of these cells.", stacklevel=2
            )
            return
        if surgery is not None:
            named = {"max_epochs": max_epochs, "batch_size": batch_size}
            given = translate_training(settings, plan_kwargs) | {k: v for k, v in named.items() if v is not None}
            settings, plan_kwargs = surgery.settings | given, None
        if early_stopping_patience is not None:
            settings["patience"] = early_stopping_patience
        train_settings = _train_settings(
            translate_training(settings, plan_kwargs),
            max_epochs=max_epochs,
            batch_size=batch_size,
            train_size=train_size,
            early_stopping=early_stopping,
            seed=self.seed if seed is None else seed,
        )
        self.to_device(device_name(accelerator, devices) if device is None else device)
        try:
            if surgery is None:
                cells, on_event = self.cells_of(None), as_callback(progress)
                run = train(self.module, cells, train_settings, on_event, stop, None, state_file)
            else:
                surgery.cells.to(self.device)
                run = train(
                    self.module, surgery.cells, train_settings, as_callback(progress), stop, surgery.new_weights
                )
        except NonFiniteLossError as error:
            if error.run is not None and error.run.n_epochs:
                self._store_run(error.run)
            raise
        self._store_run(run)

    def _store_run(self, run: TrainingRun) -> None:
        """Store settings, history and status of a training run."""
        self.run, self.train_settings, self.status = run, run.settings, run.status
        self.kernels = None if run.kernels is None else run.kernels.as_dict()
        for name, values in run.history.items():
            self._history.setdefault(name, []).extend(values)

    @property
    def is_trained(self) -> bool:
        """Whether the model has been trained, to the end or until it was interrupted."""
        return self.status != "untrained"

    @property
    def history(self) -> dict[str, pd.DataFrame]:
        """Loss terms per epoch: ``"reconstruction_loss_train"``, ``"kl_local_train"``, ``"cycle_loss_train"``, ...

        Terms are unweighted means over cells; ``_validation`` in place of ``_train`` for held-out cells.
        """
        return history_frames(self._history)

    @property
    def trainer(self) -> SimpleNamespace:
        """A stand-in for scvi-tools' trainer, for scripts that read ``model.trainer.logger.history``."""
        return SimpleNamespace(logger=SimpleNamespace(history=self.history))

    @property
    def train_indices(self) -> np.ndarray | None:
        """Rows of the data that were trained on."""
        return None if self.run is None else self.run.train_index.numpy()

    @property
    def validation_indices(self) -> np.ndarray | None:
        """Rows of the data that were held out."""
        return None if self.run is None else self.run.validation_index.numpy()

    @property
    def members(self) -> tuple[SysVI]:
        """The model itself, as the only member, so that single models and ensembles can be treated alike."""
        return (self,)

    # -- results ------------------------------------------------------------------------------------------------------

    def get_latent_representation(
        self,
        adata: AnnData | None = None,
        indices: Sequence[int] | np.ndarray | None = None,
        give_mean: bool = True,
        mc_samples: int | None = None,
        batch_size: int | None = None,
        return_dist: bool = False,
        dataloader: None = None,
        *,
        seed: int | None = None,
    ) -> np.ndarray | tuple[np.ndarray, np.ndarray]:
        """Embed cells.

        Parameters
        ----------
        adata
            Cells with the model's genes and known systems and categories; the model's own by default.
        indices
            Rows to embed; all by default.
        give_mean
            Return the mean of q(z | x, c); False: a sample of it.
        mc_samples
            Accepted for compatibility: the mean of a normal posterior needs no samples, in scvi-tools neither.
        batch_size
            Number of cells to encode at a time; by default chosen for the device.
        return_dist
            Return mean and variance of q(z | x, c).
        dataloader
            Accepted for compatibility; must be None.
        seed
            Random seed of the sample; by default the model's.

        Returns
        -------
        numpy.ndarray
            Embedding, float32, cells x latent dimensions; with `return_dist` mean and variance, each of this shape.

        Raises
        ------
        InputError
            If the model is untrained, or `adata` lacks genes or has systems or categories that the model does not know.
        """
        check_types(SysVI.get_latent_representation, give_mean=give_mean, return_dist=return_dist)
        if dataloader is not None:
            raise InputError("dataloader is not supported: give the cells as adata, and rows of it as indices.")
        if not self.is_trained:
            raise InputError("The model is not trained yet: call train() first.")
        cells = self.cells_of(adata, warn_of_large=True)
        [(mean, var)] = posteriors([self], cells, row_numbers(indices, cells.n_cells), batch_size)
        if return_dist:
            return mean.numpy(), var.numpy()
        if not give_mean:
            noise = generator(self.seed if seed is None else seed, "sample")
            mean = mean + var.sqrt() * torch.randn(mean.shape, generator=noise)
        return mean.numpy()

    def checkpoint(self) -> Checkpoint:
        """The model's present state, as a saved file holds it."""
        libraries = {name: version(name) for name in ("torch", "numpy", "anndata", "scanpy")}
        return Checkpoint(
            self.module.state_dict(),
            self.columns,
            self.vocabulary,
            self.reference,
            self.model_settings,
            self.train_settings,
            self._history,
            self.kernels,
            self.status,
            self.seed,
            # sysvi's own version is not looked up: inside the R package it is not installed
            {"sysvi": __version__} | libraries | {"python": platform.python_version()},
            self.preparation,
        )

    def record(self) -> dict[str, str]:
        """How the model was made, as JSON strings, which h5ad files keep.

        Settings, status, seed, versions, columns of the cells, numbers of genes, and losses.
        """
        own = {
            "columns": self.columns.to_json(),
            "n_genes": len(self.vocabulary.genes),
            "n_systems": len(self.vocabulary.systems),
            "losses": [summarise_losses(self._history)],
        }
        return {name: json.dumps(value) for name, value in {**self.checkpoint().provenance(), **own}.items()}

    # -- saving -------------------------------------------------------------------------------------------------------

    def save(
        self,
        dir_path: str | Path,
        prefix: str | None = None,
        overwrite: bool = False,
        save_anndata: bool = False,
        save_kwargs: Mapping[str, Any] | None = None,
        legacy_mudata_format: bool = False,
        datamodule: Any = None,
        **unknown: Any,
    ) -> None:
        """Save the model as ``dir_path/model.safetensors``: parameters, genes, categories, settings, history, versions.

        Parameters
        ----------
        dir_path
            Folder; created if missing.
        prefix
            Prefix of the file names.
        overwrite
            Replace a model that is in the folder. The new file appears whole or not at all.
        save_anndata
            Also write the data as ``adata.h5ad``.
        save_kwargs, legacy_mudata_format, datamodule
            Arguments of scvi-tools; they have no effect, which a warning says.
        **unknown
            Refused.

        Raises
        ------
        InputError
            If the folder holds a model already, or cannot be written; or for an unknown argument.
        """
        if unknown:
            raise InputError(f"save has no argument {', '.join(unknown)}.")
        ignore_arguments(
            "save", save_kwargs=save_kwargs, legacy_mudata_format=legacy_mudata_format, datamodule=datamodule
        )

        def write(path: Path) -> None:
            save_checkpoint(path, self.checkpoint(), overwrite)

        write_model_folder(dir_path, write, overwrite, self.adata, save_anndata, prefix)

    @classmethod
    def from_checkpoint(cls, saved: Checkpoint) -> SysVI:
        """The model that a file holds, on the CPU and without data."""
        model = cls.__new__(cls)
        model._create_module(saved.columns, saved.vocabulary, saved.reference, saved.model_settings, saved.seed)
        model.module.load_state_dict(dict(saved.tensors))
        model.train_settings, model.kernels = saved.train_settings, saved.kernels
        model._history, model.status = saved.history, saved.status
        model.preparation = saved.preparation
        return model

    def attach(self, adata: AnnData | None, cells: Cells | None, accelerator: str, device: str | int | None) -> None:
        """Give a loaded model its data, unless there are none, and move it to its device.

        `cells` are those of `adata` if they were read already.
        """
        if adata is not None:
            if cells is None:
                cells = cells_from_anndata(adata, self.columns, self.vocabulary, warn_of_large=True)
            self.cells = cells
            self.adata = adata
        if isinstance(device, int):
            device = f"cuda:{device}"
        self.to_device(device_name(accelerator if device is None else str(device)))

    @classmethod
    def load(
        cls,
        dir_path: str | Path,
        adata: AnnData | None = None,
        accelerator: str = "auto",
        device: str | int | None = None,
        prefix: str | None = None,
        backup_url: str | None = None,
        datamodule: Any = None,
        allowed_classes_names_list: Sequence[str] | None = None,
    ) -> SysVI:
        """Load a model. Opening the file never executes code.

        Parameters
        ----------
        dir_path
            Folder that was given to :meth:`save`, or the file itself.
        adata
            Data to embed or to train on. It must have all genes of the model (in any order) and no systems or
            categories that the model does not know. Without data, the model embeds the cells that are passed to
            :meth:`get_latent_representation`.
        accelerator, device
            Device of the model: ``"auto"``, ``"cpu"``, ``"cuda"``, ... or the number of a CUDA device.
        prefix
            Prefix of the file names, as in :meth:`save`.
        backup_url, datamodule, allowed_classes_names_list
            Arguments of scvi-tools; they have no effect, which a warning says.

        Raises
        ------
        InputError
            If the file is missing, damaged or not a sysVI model, or `adata` does not fit the model.
        """
        ignore_arguments(
            "load",
            backup_url=backup_url,
            datamodule=datamodule,
            allowed_classes_names_list=allowed_classes_names_list,
        )
        path = model_file(dir_path, prefix)
        saved = load_checkpoint(path)
        with corruption_as_input_error(path):
            model = cls.from_checkpoint(saved)
        model.attach(adata, None, accelerator, device)
        return model


def model_file(dir_path: str | Path, prefix: str | None = None) -> Path:
    """The file of a saved model, from its folder or the file itself."""
    check_types(model_file, dir_path=dir_path, prefix=prefix)
    path = Path(dir_path)
    return path if path.is_file() else path / f"{prefix or ''}{MODEL_FILE}"


def write_model_folder(
    dir_path: str | Path,
    write: Callable[[Path], None],
    overwrite: bool,
    adata: AnnData | None,
    save_anndata: bool,
    prefix: str | None,
) -> None:
    """Create the folder of a model, and write the model's file (by `write`) and, if asked for, its data into it."""
    check_types(SysVI.save, dir_path=dir_path, prefix=prefix, overwrite=overwrite, save_anndata=save_anndata)
    folder, prefix = Path(dir_path), prefix or ""
    if save_anndata and adata is None:
        raise InputError("This model was loaded without data: there is no AnnData to save.")
    data_file = folder / f"{prefix}adata.h5ad"
    if save_anndata and data_file.exists() and not overwrite:
        raise InputError(f"{data_file} exists already; pass overwrite=True to replace it.")
    create_folder(folder)
    write(folder / f"{prefix}{MODEL_FILE}")
    if save_anndata and adata is not None:
        write_atomically(data_file, lambda temporary: write_anndata(temporary, adata), overwrite=overwrite)


def posteriors(
    models: Sequence[SysVI], cells: Cells, rows: np.ndarray, batch_size: int | None
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Mean and variance of q(z | x, c) of some rows of the cells, from each of several models, on the CPU."""
    check_fork()
    index = torch.from_numpy(rows).to(cells.device)
    chunk_size = None if batch_size is None else whole_number("batch_size", batch_size, 1)
    return embed([model.module for model in models], cells, index, chunk_size)


def _check_memory(settings: ModelSettings, vocabulary: Vocabulary) -> None:
    """Check that the parameters of a model, and what training keeps for each of them, fit into memory."""
    one, two = (
        sum(tensor.numel() for tensor in Model.shapes(replace(settings, n_layers=n), vocabulary).values())
        for n in (1, 2)
    )
    n_parameters = one + (settings.n_layers - 1) * (two - one)
    check_memory(
        4 * TRAINING_COPIES * n_parameters,
        f"Training a model of {n_parameters:,} parameters",
        "lower n_hidden, n_layers, n_latent or n_prior_components, or use fewer genes",
    )


def _model_settings(model_kwargs: Mapping[str, Any]) -> tuple[ModelSettings, dict[str, Any]]:
    """Arguments of `SysVI` as settings, and those that are not settings: where the prior's components start."""
    given = dict(model_kwargs)
    check_types(SysVI.__init__, embedding_kwargs=given.get("embedding_kwargs"))
    given |= dict(given.pop("embedding_kwargs", None) or {})
    prior_kwargs = {name: given.pop(name) for name in PRIOR_ARGUMENTS if name in given}
    known = {f.name for f in fields(ModelSettings)}
    if unknown := sorted(set(given) - known):
        names = ", ".join(sorted(known | MODEL_ARGUMENTS))
        raise InputError(f"SysVI has no argument {', '.join(unknown)}; model arguments are {names}.")
    return ModelSettings(**given), prior_kwargs


def _train_settings(given: Mapping[str, Any], **named: Any) -> TrainSettings:
    known = {f.name for f in fields(TrainSettings)}
    if unknown := sorted(set(given) - known):
        raise InputError(f"Training has no setting {', '.join(unknown)}; settings are {', '.join(sorted(known))}.")
    return TrainSettings(**{**named, **given})
