"""The class `SysVI`: the engine behind AnnData, with the names of `scvi.external.SysVI`."""

from __future__ import annotations

import json
import math
import platform
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, fields
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from anndata.io import write_h5ad

from sysvi._core.checks import check_anndata, check_obs_column, get_expression
from sysvi._core.device import choose_device
from sysvi._core.errors import InputError
from sysvi._core.events import OnEvent
from sysvi._core.files import write_atomically
from sysvi._core.progress import as_callback
from sysvi._core.seeds import generator
from sysvi._core.settings import ModelSettings, TrainSettings, flag, number, whole_number
from sysvi._version import __version__
from sysvi.data.cells import Cells, Vocabulary
from sysvi.data.from_anndata import Columns, cells_from_anndata, read_vocabulary, warn_about_undetected_genes
from sysvi.model.checkpoint import read_model, write_model
from sysvi.model.cvae import Model
from sysvi.training.loop import NonFiniteLossError, TrainingRun, train

SETUP_KEY = "sysvi_setup"
MODEL_FILE = "model.safetensors"

# Names of scvi-tools' history beside ours.
HISTORY_NAMES = {"total": "loss", "reconstruction": "reconstruction_loss", "kl": "kl_local", "cycle": "cycle_loss"}
# Arguments of scvi-tools' and Lightning's trainers that mean nothing here and may be dropped.
FOREIGN_TRAIN_ARGUMENTS = {
    "benchmark",
    "callbacks",
    "datasplitter_kwargs",
    "default_root_dir",
    "early_stopping_min_delta",
    "early_stopping_mode",
    "early_stopping_monitor",
    "early_stopping_warmup_epochs",
    "enable_checkpointing",
    "enable_model_summary",
    "enable_progress_bar",
    "learning_rate_monitor",
    "load_sparse_tensor",
    "log_every_n_steps",
    "log_save_dir",
    "logger",
    "num_sanity_val_steps",
    "shuffle_set_split",
    "simple_progress_bar",
    "strategy",
    "val_check_interval",
}
FOREIGN_PLAN_ARGUMENTS = {
    "compile",
    "compile_kwargs",
    "lr_factor",
    "lr_min",
    "lr_patience",
    "lr_scheduler_metric",
    "lr_threshold",
    "max_kl_weight",
    "min_kl_weight",
    "n_epochs_kl_warmup",
    "n_steps_kl_warmup",
    "on_epoch",
    "on_step",
    "optimizer",
    "reduce_lr_on_plateau",
}


class SysVI:
    """Integrate systems with a conditional VAE, a VampPrior and latent cycle-consistency.

    A drop-in for ``scvi.external.SysVI``: the same names with the same meanings, so its `batch_key` is the *system*.
    For a single call see :func:`sysvi.integrate`.

    Parameters
    ----------
    adata
        Set up with :meth:`setup_anndata`. Log-normalised expression, cells x genes.
    prior
        ``"vamp"`` (posteriors of trainable pseudo-inputs), ``"gmm"`` (a free Gaussian mixture) or
        ``"standard_normal"``. The first two come in during training (``mixture_share`` of :meth:`train`).
    n_prior_components
        Components of the mixture.
    pseudoinputs_data_indices
        Rows of `adata` at which the components start; by default chosen by `pseudoinputs`.
    pseudoinputs
        Cells at which the components start: ``"random"``, ``"system"`` (random cells of `pseudoinputs_system`),
        ``"balanced_system"`` (as many from every system), ``"balanced_label"`` (as many from every label of
        `pseudoinputs_label_key`), or, for the Gaussian mixture alone, ``"noise"`` (standard normal draws, no cells).
    pseudoinputs_system
        The system for ``pseudoinputs="system"``.
    pseudoinputs_label_key
        Column of ``adata.obs`` for ``pseudoinputs="balanced_label"``.
    trainable_priors
        Train the components or keep them where they start.
    mixture
        How components mix: ``"dimension"``, log p(z) = Σ_d log Σ_k w_k N(z_d; m_kd, v_kd), as in the paper's code; or
        ``"joint"``, log p(z) = log Σ_k w_k Π_d N(z_d; m_kd, v_kd).
    n_latent, n_hidden, n_layers, dropout_rate
        Size of the latent space, width and number of hidden layers, and dropout of encoder and decoder.
    out_var_mode
        Variance of expression per gene (``"feature"``) or per cell and gene (``"sample_feature"``).
    embed_categorical_covariates
        Learn a vector for each category instead of one-hot codes; for covariates of many categories.
    embedding_kwargs
        ``{"embedding_dim": 5}``: length of these vectors.
    encoder_decoder_kwargs
        Accepted for compatibility; must be empty.
    seed
        Determines initial weights, pseudo-inputs and, unless :meth:`train` is given another, training.

    Attributes
    ----------
    adata
        The data of the model, or None after loading without.
    module
        The torch module.
    history
        Loss per epoch, a DataFrame per term.
    kernels
        How training computed, and why so.
    is_trained, status
        Whether and how training ended: ``"untrained"``, ``"finished"``, ``"stopped_early"``, ``"interrupted"`` or
        ``"failed"`` (the loss became non-finite after some epochs; the model is of the last good one).

    Raises
    ------
    InputError
        For settings that make no sense, or data that :meth:`setup_anndata` has not seen.

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
    _cells: Cells | None

    def __init__(
        self,
        adata: AnnData,
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
        _beside: SysVI | None = None,  # a model of the same AnnData, whose cells in memory this one shares
        **model_kwargs: Any,
    ):
        check_anndata(adata)
        if SETUP_KEY not in adata.uns:
            raise InputError("This AnnData is not set up: call SysVI.setup_anndata(adata, batch_key=...) first.")
        if encoder_decoder_kwargs:
            raise InputError(
                f"encoder_decoder_kwargs {dict(encoder_decoder_kwargs)} are not supported; leave them out."
            )
        model_kwargs |= dict(embedding_kwargs or {})
        known = {f.name for f in fields(ModelSettings)}
        if unknown := sorted(set(model_kwargs) - known):
            raise InputError(
                f"SysVI has no argument {', '.join(unknown)}; model arguments are {', '.join(sorted(known))}."
            )
        settings = ModelSettings(
            prior=prior,
            n_prior_components=n_prior_components,
            pseudoinputs=pseudoinputs,  # type: ignore[arg-type]
            pseudoinputs_system=pseudoinputs_system,
            **model_kwargs,
        )
        if _beside is None:
            columns = _read_setup(adata)
            vocabulary = read_vocabulary(adata, columns)
            cells = cells_from_anndata(adata, columns, vocabulary)
            if not cells.x.data.any():
                where, _ = get_expression(adata, columns.layer)
                raise InputError(f"{where} is zero in all cells: choose the layer that holds the expression.")
            warn_about_undetected_genes(cells, vocabulary)
        else:
            columns, vocabulary, cells = _beside.columns, _beside.vocabulary, _beside._cells_for(None)
        self._restore(columns, vocabulary, settings, seed)
        self.adata = adata
        self._cells = cells
        start = _prior_rows(cells, vocabulary, settings, pseudoinputs_data_indices, adata, pseudoinputs_label_key, seed)
        self.module.init_prior(cells, start, generator(seed, "prior"))

    def _restore(self, columns: Columns, vocabulary: Vocabulary, settings: ModelSettings, seed: int) -> None:
        """Everything that does not need data: shared by a new model and a loaded one."""
        seed = whole_number("seed", seed, 0)
        self.columns, self.vocabulary, self.model_settings, self.seed = columns, vocabulary, settings, seed
        self.module = Model(
            settings,
            len(vocabulary.genes),
            len(vocabulary.systems),
            vocabulary.n_categories,
            len(vocabulary.continuous),
            generator(seed, "weights"),
        )
        self.adata = None
        self._cells = None
        self._history: dict[str, list[float]] = {}
        self.train_settings: TrainSettings | None = None
        self.run: TrainingRun | None = None
        self.kernels: dict[str, Any] | None = None
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
        """Say where the model finds its input. Writes ``adata.uns["sysvi_setup"]`` and nothing else.

        Parameters
        ----------
        adata
            Log-normalised expression of all systems, cells x genes.
        batch_key
            Column of ``adata.obs`` with the **system**: the substantial effect that the cycle loss removes.
        layer
            Layer with the expression; ``adata.X`` by default.
        categorical_covariate_keys
            Columns with weaker categorical effects (sample, donor).
        continuous_covariate_keys
            Columns with continuous effects; they are standardised.
        weight_batches
            Weight cells by the inverse size of their system in every loss term, so that systems count the same.

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
        check_anndata(adata)
        if adata.isbacked and adata.is_view:
            raise InputError(
                "adata is a view of an object on disk, into which nothing can be written: take adata.to_memory() first."
            )
        for name, keys in (("categorical", categorical_covariate_keys), ("continuous", continuous_covariate_keys)):
            if isinstance(keys, str):
                raise InputError(f"{name}_covariate_keys is the text {keys!r}; give a list of columns: [{keys!r}].")
        columns = Columns(
            batch_key,
            layer,
            tuple(categorical_covariate_keys or ()),
            tuple(continuous_covariate_keys or ()),
            flag("weight_systems (of SysVI: weight_batches)", weight_batches),
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # SysVI(adata) looks again and warns then
            read_vocabulary(adata, columns)
        adata.uns[SETUP_KEY] = {
            "system_key": batch_key,
            "layer": layer or "",
            "categorical": list(columns.categorical),
            "continuous": list(columns.continuous),
            "weight_systems": columns.weight_systems,
        }

    def _cells_for(self, adata: AnnData | None) -> Cells:
        if adata is not None and adata is not self.adata:
            return cells_from_anndata(adata, self.columns, self.vocabulary, self.device)
        if self._cells is None:
            raise InputError("This model was loaded without data: pass adata.")
        if self._cells.covariates.system.device != self.device:  # a model that shares them has moved them
            self._cells.to(self.device)
        return self._cells

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(self.module.parameters()).device

    def to_device(self, device: str | torch.device) -> None:
        """Move model and data to ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ``"mps"`` or ``"auto"``."""
        chosen = choose_device(device)
        self.module.to(chosen)
        if self._cells is not None and self._cells.device != chosen:
            self._cells.to(chosen)

    # -- training -----------------------------------------------------------------------------------------------------

    def train(
        self,
        max_epochs: int | None = None,
        accelerator: str = "auto",
        devices: int | Sequence[int] | str = "auto",
        train_size: float | None = None,
        validation_size: float | None = None,
        batch_size: int | None = None,
        early_stopping: bool = False,
        plan_kwargs: Mapping[str, Any] | None = None,
        *,
        check_val_every_n_epoch: int | None = None,
        early_stopping_patience: int | None = None,
        device: str | None = None,
        seed: int | None = None,
        progress: bool | OnEvent = True,
        stop: Callable[[], bool] | None = None,
        **settings: Any,
    ) -> None:
        """Train the model; again to start over from the present weights.

        Parameters
        ----------
        max_epochs
            Passes over the data; by default chosen from the number of cells and printed.
        accelerator, devices
            scvi-tools' way to name the device: ``"cpu"``, ``"gpu"``/``"cuda"``, ``"mps"``, ``"auto"``; first card.
        train_size
            Fraction of cells trained on. By default 1, or 0.9 where held-out cells are asked for (`early_stopping`,
            `check_val_every_n_epoch` or `validation_size`).
        validation_size
            Fraction held out, instead of `train_size`.
        batch_size
            Cells of a minibatch; by default chosen from the number of cells and printed.
        early_stopping
            Stop when the loss on held-out cells has not improved, and go back to the best epoch. Watches from the
            moment on at which all weights have reached their values.
        plan_kwargs
            ``kl_weight``, ``z_distance_cycle_weight``, ``reconstruction_weight``, ``adversarial_weight``, ``lr``,
            ``weight_decay``, ``eps``. A weight is a number or a :class:`sysvi.Ramp`; a number for the cycle weight
            is ramped up from a tenth to six tenths of training, for the others it is constant.
        check_val_every_n_epoch
            Any value holds out cells and evaluates them at every epoch.
        early_stopping_patience
            Epochs without improvement before stopping.
        device
            Our way to name the device; goes before `accelerator`.
        seed
            Order of cells and noise; by default the model's seed.
        progress
            True draws a progress bar, False is silent, a function gets each :class:`sysvi.Event`.
        stop
            Asked after each step instead of listening to Ctrl-C: True ends training as Ctrl-C does.
        **settings
            Further fields of :class:`sysvi.TrainSettings`, for example ``swapped_covariates``; or ``mixture_share``,
            the share of a VampPrior or Gaussian mixture in the divergence, of which the standard normal has the rest:
            by default 0 up to a tenth of training, 1 from six tenths on, and ``sysvi.Ramp(1.0)`` is the paper's, the
            mixture alone from the first step.

        Raises
        ------
        InputError
            For unknown or impossible settings.
        sysvi.NonFiniteLossError
            If the loss is not finite; the model then holds the last good weights, which can be used if an epoch had
            ended (``status == "failed"``).

        Notes
        -----
        Ctrl-C stops after the current step and leaves a usable model with ``status == "interrupted"``.
        """
        wants_validation = early_stopping or check_val_every_n_epoch is not None
        if train_size is None:
            train_size = 0.9 if wants_validation else 1.0
            if validation_size:
                train_size = 1 - number("validation_size", validation_size, "above 0 and below 1", lambda x: 0 < x < 1)
        if early_stopping_patience is not None:
            settings["patience"] = early_stopping_patience
        for name in sorted(FOREIGN_TRAIN_ARGUMENTS & set(settings)):
            warnings.warn(f"train({name}=...) has no meaning here and is ignored.", stacklevel=2)
            settings.pop(name)
        train_settings = _train_settings(
            {**_plan(plan_kwargs or {}), **settings},
            max_epochs=max_epochs,
            batch_size=batch_size,
            train_size=train_size,
            early_stopping=early_stopping,
            seed=self.seed if seed is None else seed,
        )
        self.to_device(device or _lightning_device(accelerator, devices))
        try:
            run = train(self.module, self._cells_for(None), train_settings, as_callback(progress), stop)
        except NonFiniteLossError as error:
            if error.run is not None and error.run.n_epochs:
                self._remember(error.run)
            raise
        self._remember(run)

    def _remember(self, run: TrainingRun) -> None:
        """Take note of what training did."""
        self.run, self.train_settings, self.status = run, run.settings, run.status
        self.kernels = None if run.kernels is None else run.kernels.as_dict()
        for name, values in run.history.items():
            self._history.setdefault(name, []).extend(values)

    @property
    def is_trained(self) -> bool:
        """Whether the model has been trained, be it to the end or not."""
        return self.status != "untrained"

    @property
    def history(self) -> dict[str, pd.DataFrame]:
        """Loss per epoch: ``"reconstruction_loss_train"``, ``"kl_local_train"``, ``"cycle_loss_train"``, ...

        Terms are unweighted means over cells; ``_validation`` in place of ``_train`` for held-out cells.
        """
        frames = {}
        for name, values in self._history.items():
            term, kind = name.rsplit("_", 1)
            key = f"{HISTORY_NAMES.get(term, term)}_{kind}"
            frames[key] = pd.DataFrame({key: values}, index=pd.RangeIndex(len(values), name="epoch"))
        for ours, theirs in (("loss_train", "train_loss_epoch"), ("loss_validation", "validation_loss")):
            if ours in frames:
                frames[theirs] = frames[ours].rename(columns={ours: theirs})
        return frames

    @property
    def trainer(self) -> SimpleNamespace:
        """For scripts that read ``model.trainer.logger.history``."""
        return SimpleNamespace(logger=SimpleNamespace(history=self.history))

    @property
    def train_indices(self) -> np.ndarray | None:
        """Rows of the data that were trained on."""
        return None if self.run is None else self.run.train_index.numpy()

    @property
    def validation_indices(self) -> np.ndarray | None:
        """Rows of the data that were held out."""
        return None if self.run is None else self.run.validation_index.numpy()

    # -- results ------------------------------------------------------------------------------------------------------

    def get_latent_representation(
        self,
        adata: AnnData | None = None,
        indices: Sequence[int] | np.ndarray | None = None,
        give_mean: bool = True,
        return_dist: bool = False,
        batch_size: int | None = None,
        *,
        seed: int | None = None,
    ) -> np.ndarray | tuple[np.ndarray, np.ndarray]:
        """Embedding of cells.

        Parameters
        ----------
        adata
            Cells with the model's genes and known systems and categories; the model's own by default.
        indices
            Rows to embed; all by default.
        give_mean
            The mean of q(z | x, c); otherwise a sample of it.
        return_dist
            Return mean and variance.
        batch_size
            Cells encoded at a time.
        seed
            Of the sample; the model's by default.

        Returns
        -------
        numpy.ndarray
            float32, cells x latent dimensions; with `return_dist` a pair of these, mean and variance.

        Raises
        ------
        InputError
            If the model is untrained, or `adata` does not fit it.
        """
        if not self.is_trained:
            raise InputError("The model is not trained yet: call train() first.")
        cells = self._cells_for(adata)
        index = torch.from_numpy(_rows(indices, cells.n_cells)).to(cells.device)
        at_once = None if batch_size is None else whole_number("batch_size", batch_size, 1)
        mean, var = self.module.embed(cells, index, at_once)
        if return_dist:
            return mean.numpy(), var.numpy()
        if not give_mean:
            noise = generator(self.seed if seed is None else seed, "sample")
            mean = mean + var.sqrt() * torch.randn(mean.shape, generator=noise)
        return mean.numpy()

    def record(self) -> dict[str, str]:
        """What made the embedding, as JSON texts (h5ad keeps them as they are): settings, status, seed, versions."""
        return {name: json.dumps(value) for name, value in self._made().items()}

    def _made(self) -> dict[str, Any]:
        return {
            "versions": {"sysvi": __version__}  # inside the R package sysvi runs without being installed
            | {p: version(p) for p in ("torch", "numpy", "anndata", "scanpy")}
            | {"python": platform.python_version()},
            "model_settings": asdict(self.model_settings),
            "train_settings": None if self.train_settings is None else self.train_settings.as_dict(),
            "kernels": self.kernels,
            "status": self.status,
            "seed": self.seed,
        }

    # -- saving -------------------------------------------------------------------------------------------------------

    def save(
        self, dir_path: str | Path, overwrite: bool = False, save_anndata: bool = False, prefix: str | None = None
    ) -> None:
        """Save the model as ``dir_path/model.safetensors``: parameters, genes, categories, settings, history, versions.

        Parameters
        ----------
        dir_path
            Folder; made if missing.
        overwrite
            Replace a model that is there. The new file appears whole or not at all.
        save_anndata
            Also write the data as ``adata.h5ad``.
        prefix
            Put before the file names.

        Raises
        ------
        InputError
            If there is a model already, or the folder cannot be written.
        """
        folder, prefix = Path(dir_path), prefix or ""
        if save_anndata and self.adata is None:
            raise InputError("This model was loaded without data: there is no AnnData to save.")
        data_file = folder / f"{prefix}adata.h5ad"
        if save_anndata and data_file.exists() and not overwrite:
            raise InputError(f"{data_file} exists already; pass overwrite=True to replace it.")
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"Cannot make the folder {folder} ({error.strerror}).") from error
        v = self.vocabulary
        description = {
            "genes": v.genes,
            "system_key": v.system_key,
            "systems": v.systems,
            "categorical": v.categorical,
            "continuous": v.continuous,
            "columns": asdict(self.columns),
            "history": {name: [x if math.isfinite(x) else None for x in xs] for name, xs in self._history.items()},
            **self._made(),
        }
        write_model(folder / f"{prefix}{MODEL_FILE}", self.module.state_dict(), description, overwrite)
        if save_anndata and self.adata is not None:
            adata = self.adata
            # Not AnnData's method of this name, after which a backed object would be that of the temporary file.
            write_atomically(data_file, lambda temporary: write_h5ad(temporary, adata))

    @classmethod
    def load(
        cls,
        dir_path: str | Path,
        adata: AnnData | None = None,
        accelerator: str = "auto",
        device: str | int | None = None,
        prefix: str | None = None,
    ) -> SysVI:
        """Load a model. Opening the file never executes code.

        Parameters
        ----------
        dir_path
            Folder given to :meth:`save`, or the file itself.
        adata
            Data to embed or to train on; its genes may come in another order and there may be more of them, and it
            must not have systems or categories that the model does not know. Without, only cells passed to
            :meth:`get_latent_representation` can be embedded.
        accelerator, device
            Where to put the model: ``"auto"``, ``"cpu"``, ``"cuda"``, ... or the number of a CUDA card.
        prefix
            As in :meth:`save`.

        Raises
        ------
        InputError
            If the file is missing, damaged or foreign, or `adata` does not fit; it says what differs.
        """
        path = Path(dir_path)
        if not path.is_file():
            path = path / f"{prefix or ''}{MODEL_FILE}"
        tensors, d = read_model(path)
        try:
            c = d["columns"]
            columns = Columns(
                c["system_key"], c["layer"], tuple(c["categorical"]), tuple(c["continuous"]), c["weight_systems"]
            )
            vocabulary = Vocabulary(
                tuple(d["genes"]),
                d["system_key"],
                tuple(d["systems"]),
                {k: tuple(v) for k, v in d["categorical"].items()},
                {k: (v[0], v[1]) for k, v in d["continuous"].items()},
            )
            model = cls.__new__(cls)
            model._restore(columns, vocabulary, ModelSettings(**d["model_settings"]), d["seed"])
            model.module.load_state_dict(tensors)
            saved = d["train_settings"]
            model.train_settings = None if saved is None else TrainSettings(**saved)
            model._history, model.status, model.kernels = dict(d["history"]), d["status"], d.get("kernels")
        except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
            what = str(error).partition("\n")[0].rstrip(":.")
            raise InputError(f"{path} does not hold together: {what}.") from error
        if adata is not None:
            model._cells = cells_from_anndata(adata, columns, vocabulary)
            model.adata = adata
        if isinstance(device, int):
            device = f"cuda:{device}"
        model.to_device(_lightning_device(accelerator if device is None else str(device), "auto"))
        return model


def _rows(indices: Sequence[int] | np.ndarray | None, n_cells: int) -> np.ndarray:
    """Rows asked for, as whole numbers from 0: all, by number (negative ones from the end) or by a mask."""
    if indices is None:
        return np.arange(n_cells)
    rows = np.asarray(indices)
    if rows.dtype == bool:
        if rows.shape != (n_cells,):
            raise InputError(f"indices is a mask of shape {rows.shape}; there are {n_cells} cells.")
        return np.flatnonzero(rows)
    if rows.size and not np.issubdtype(rows.dtype, np.integer):
        raise InputError(f"indices are of type {rows.dtype}; they must be whole numbers or a mask.")
    if rows.ndim != 1:
        raise InputError(f"indices are of shape {rows.shape}; give a list of rows, [3] for one.")
    rows = rows.astype(np.int64)
    if rows.size and not -n_cells <= rows.min() <= rows.max() < n_cells:
        raise InputError(f"indices reach from {rows.min()} to {rows.max()}, but there are {n_cells} cells.")
    return np.where(rows < 0, rows + n_cells, rows)


def _read_setup(adata: AnnData) -> Columns:
    setup = adata.uns[SETUP_KEY]
    return Columns(
        str(setup["system_key"]),
        str(setup["layer"]) or None,
        tuple(map(str, setup["categorical"])),
        tuple(map(str, setup["continuous"])),
        bool(setup["weight_systems"]),
    )


def _prior_rows(
    cells: Cells,
    vocabulary: Vocabulary,
    settings: ModelSettings,
    indices: Sequence[int] | np.ndarray | None,
    adata: AnnData,
    label_key: str | None,
    seed: int,
) -> torch.Tensor | None:
    """Rows at which the prior's components start, (K,); None where they start at no cells."""
    k, n = settings.n_prior_components, cells.n_cells
    if settings.prior == "standard_normal":
        return None
    if indices is not None:
        rows = np.asarray(indices)
        if rows.ndim != 1 or len(rows) != k:
            raise InputError(
                f"pseudoinputs_data_indices has shape {rows.shape}; n_prior_components={k} rows are needed."
            )
        if not np.issubdtype(rows.dtype, np.integer) or rows.min() < 0 or rows.max() >= n:
            raise InputError(f"pseudoinputs_data_indices must be whole numbers from 0 to {n - 1}.")
        return torch.from_numpy(rows.astype(np.int64))
    draw = np.random.default_rng([seed, 1])
    if settings.pseudoinputs == "noise":
        if settings.prior != "gmm":
            raise InputError("pseudoinputs='noise' starts a Gaussian mixture (prior='gmm'); a VampPrior needs cells.")
        return None
    system = cells.covariates.system.cpu().numpy()
    if settings.pseudoinputs == "random":
        groups = [np.arange(n)]
    elif settings.pseudoinputs == "system":
        if settings.pseudoinputs_system not in vocabulary.systems:
            raise InputError(
                f"pseudoinputs_system is {settings.pseudoinputs_system!r}; "
                f"it must be one of the systems {', '.join(vocabulary.systems)}."
            )
        groups = [np.flatnonzero(system == vocabulary.systems.index(settings.pseudoinputs_system))]
    else:
        labels = system
        if settings.pseudoinputs == "balanced_label":
            if label_key is None:
                raise InputError("pseudoinputs='balanced_label' needs pseudoinputs_label_key, a column of adata.obs.")
            labels = check_obs_column(adata, label_key, "pseudoinputs_label_key").astype(str)
        groups = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    # As many from every group as can be, without repeats while the group lasts; the remainder to random groups.
    share = np.full(len(groups), k // len(groups))
    share[draw.permutation(len(groups))[: k % len(groups)]] += 1
    drawn = [draw.choice(g, m, replace=m > len(g)) for g, m in zip(groups, share, strict=True)]
    return torch.from_numpy(np.concatenate(drawn))


def _plan(plan_kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """scvi-tools' plan_kwargs in our terms."""
    plan = dict(plan_kwargs)
    if plan.get("optimizer", "Adam") != "Adam":
        raise InputError(f"optimizer {plan['optimizer']!r} is not supported; sysVI trains with Adam.")
    for name in sorted(FOREIGN_PLAN_ARGUMENTS & set(plan)):
        if plan.pop(name) not in (None, 0, False, "Adam"):
            why = "KL warm-up hurts the cycle model" if "warmup" in name else "it has no meaning here"
            warnings.warn(f"plan_kwargs[{name!r}] is ignored: {why}.", stacklevel=3)
    if "z_distance_cycle_weight" in plan:
        plan["cycle_weight"] = plan.pop("z_distance_cycle_weight")
    return plan


def _train_settings(given: Mapping[str, Any], **named: Any) -> TrainSettings:
    known = {f.name for f in fields(TrainSettings)}
    if unknown := sorted(set(given) - known):
        raise InputError(f"Training has no setting {', '.join(unknown)}; settings are {', '.join(sorted(known))}.")
    return TrainSettings(**{**named, **given})


def _lightning_device(accelerator: str, devices: Any) -> str:
    """Lightning's accelerator and devices as one device name."""
    name = "cuda" if accelerator in ("gpu", "cuda") else accelerator
    first = devices[0] if isinstance(devices, (list, tuple)) and devices else None
    return f"cuda:{first}" if name == "cuda" and first is not None else name
