"""The names and arguments of scvi-tools and Lightning that scripts written for ``scvi.external.SysVI`` use."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from typing import TYPE_CHECKING, Any, NoReturn, cast

import anndata
import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from sysvi._core.checks import check_anndata, listing
from sysvi._core.errors import InputError
from sysvi.data.from_anndata import check_writable, write_setup
from sysvi.data.query import read_query

if TYPE_CHECKING:
    from sysvi.api.sysvi import SysVI

MIN_SHARE_OF_GENES = 0.8  # of the model's; with fewer, scvi-tools warns

# Loss terms of our history, and their names in the history of scvi-tools.
HISTORY_NAMES = {"total": "loss", "reconstruction": "reconstruction_loss", "kl": "kl_local", "cycle": "cycle_loss"}
# Arguments of the trainers of scvi-tools and Lightning that have no effect here: they are ignored with a warning.
IGNORED_TRAIN_ARGUMENTS = {
    "benchmark",
    "callbacks",
    "checkpointing_monitor",
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
    "progress_bar_refresh_rate",
    "shuffle_set_split",
    "simple_progress_bar",
    "strategy",
    "val_check_interval",
}
# Those that would change the result: they must be left out or None.
REFUSED_TRAIN_ARGUMENTS = {
    "datamodule": "the model trains on the AnnData that it was made with",
    "plan_config": "pass plan_kwargs",
    "trainer_config": "pass its fields to train",
}
IGNORED_PLAN_ARGUMENTS = {
    "compile",
    "compile_kwargs",
    "fused_optimizer",
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
    "optimizer_creator",
    "reduce_lr_on_plateau",
    "update_only_decoder",
}


def check_sample_weights(weights: str | None) -> None:
    """Refuse scvi-tools' ways to weight samples, as all count the same here."""
    if weights not in (None, "uniform"):
        raise InputError(f"weights is {weights!r}; sysVI weights all samples alike: leave weights out.")


class NotInSysVI:
    """A method of scvi-tools' models that sysVI does not have: a call says what to do instead."""

    def __init__(self, instead: str):
        self.instead = instead

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, instance: object, owner: type) -> Callable[..., NoReturn]:
        def refuse(*args: Any, **kwargs: Any) -> NoReturn:
            raise InputError(f"SysVI has no {self.name} of scvi-tools: {self.instead}.")

        return refuse


class AttributeNotInSysVI:
    """An attribute of scvi-tools' models that sysVI does not have: reading it says what to read instead."""

    def __init__(self, instead: str):
        self.instead = instead

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, instance: object, owner: type) -> NoReturn:
        raise AttributeError(f"SysVI has no {self.name} of scvi-tools: {self.instead}.")


class MethodsOfScvi:
    """Methods and attributes that scripts for scvi-tools may use and that sysVI does not have."""

    _NO_DISTRIBUTION = (
        "it decodes expected expression only, with get_normalized_expression and sysvi.translate, not the distribution "
        "around it"
    )
    _NO_REGISTRY = "sysVI has no registry; setup_anndata writes adata.uns['sysvi_setup']"
    _VOCABULARY = "read the names of columns in model.columns, and genes, systems and categories in model.vocabulary"
    _NO_POSTERIOR = "get_latent_representation with return_dist=True gives mean and variance of each cell's posterior"
    _NO_ELBO = "the loss terms of each epoch are in model.history"

    get_likelihood_parameters = NotInSysVI(_NO_DISTRIBUTION)
    posterior_predictive_sample = NotInSysVI(_NO_DISTRIBUTION)
    get_feature_correlation_matrix = NotInSysVI(_NO_DISTRIBUTION)
    differential_abundance = NotInSysVI(
        "compare numbers of cells in neighbourhoods of the embedding, for example with milo"
    )
    get_elbo = NotInSysVI(_NO_ELBO)
    get_reconstruction_error = NotInSysVI(_NO_ELBO)
    get_marginal_ll = NotInSysVI(_NO_ELBO)
    view_anndata_setup = NotInSysVI(_NO_REGISTRY)
    register_manager = NotInSysVI(_NO_REGISTRY)
    deregister_manager = NotInSysVI(_NO_REGISTRY)
    get_anndata_manager = NotInSysVI(_NO_REGISTRY)
    get_from_registry = NotInSysVI(_NO_REGISTRY)
    get_setup_arg = NotInSysVI(_NO_REGISTRY)
    get_state_registry = NotInSysVI(_NO_REGISTRY)
    load_registry = NotInSysVI(_NO_REGISTRY)
    transfer_fields = NotInSysVI(_NO_REGISTRY)
    update_setup_method_args = NotInSysVI(_NO_REGISTRY)
    view_registry = NotInSysVI(_NO_REGISTRY)
    view_setup_args = NotInSysVI(_NO_REGISTRY)
    view_setup_method_args = NotInSysVI(_NO_REGISTRY)
    get_var_names = NotInSysVI("model.vocabulary.genes has the names of the genes")
    setup_annbatch = NotInSysVI("it reads AnnData, with setup_anndata")
    prepare_query_mudata = NotInSysVI("it reads AnnData, with prepare_query_anndata")
    get_latent_library_size = NotInSysVI("its input is normalised, so that it models no library size")
    get_aggregated_posterior = NotInSysVI(_NO_POSTERIOR)
    get_importance_weights = NotInSysVI(_NO_POSTERIOR)
    convert_legacy_save = NotInSysVI("models are saved as one safetensors file, with save and load")
    minify_adata = NotInSysVI("the embedding in adata.obsm is all that is needed of the cells")
    adata_manager = AttributeNotInSysVI(_VOCABULARY)
    data_registry = AttributeNotInSysVI(_VOCABULARY)
    registry = AttributeNotInSysVI(_VOCABULARY)
    summary_string = AttributeNotInSysVI("print(model) describes it")
    test_indices = AttributeNotInSysVI("cells are trained on or held out (train_indices, validation_indices)")
    run_id = AttributeNotInSysVI("model.record() tells how it was made")
    run_name = AttributeNotInSysVI("model.record() tells how it was made")
    predict = NotInSysVI("it does not predict labels; take those of the nearest neighbours in the embedding")


class QueryMethodsOfScvi:
    """Mapping new cells onto a single model step by step, as in scvi-tools; `sysvi.map_query` does it all at once."""

    @classmethod
    def prepare_query_anndata(
        cls,
        adata: AnnData,
        reference_model: SysVI | str | PathLike[str],
        return_reference_var_names: bool = False,
        inplace: bool = True,
    ) -> AnnData | pd.Index | None:
        """Give new cells the genes of a model in its order; missing genes are 0.

        Parameters
        ----------
        adata
            New cells, normalised as those of the model.
        reference_model
            The model, or the folder in which it is saved.
        return_reference_var_names
            Return the names of the model's genes, and do nothing else.
        inplace
            Change `adata`; False: return a new object.

        Raises
        ------
        InputError
            If the query has none of the model's genes.

        Warns
        -----
        UserWarning
            If it has less than 80 % of them. (:func:`sysvi.map_query` takes the mean expression of the reference for
            missing genes, which is closer to the truth than 0.)
        """
        genes = pd.Index(cls._as_model(reference_model).vocabulary.genes)
        if return_reference_var_names:
            return genes
        check_anndata(adata)
        found, missing = genes.intersection(adata.var_names), genes.difference(adata.var_names)
        if found.empty:
            raise InputError(
                "No reference var names found in query data. Please rerun with return_reference_var_names=True to see "
                "reference var names."
            )
        if len(found) < MIN_SHARE_OF_GENES * len(genes):
            warnings.warn(
                f"Query data contains less than {MIN_SHARE_OF_GENES:.0%} of reference var names "
                f"({len(found)} of {len(genes)}). This may result in poor performance.",
                stacklevel=2,
            )
        prepared = adata[:, found].copy()
        if len(missing):
            zeros = sparse.csr_matrix((adata.n_obs, len(missing)), dtype=np.float32)
            layers = dict.fromkeys(adata.layers, zeros)
            padding = AnnData(zeros, obs=adata.obs[[]], var=pd.DataFrame(index=missing), layers=layers)
            prepared = anndata.concat([prepared, padding], axis=1, merge="first", uns_merge="first")[:, genes].copy()
        if not inplace:
            return prepared
        adata._init_as_actual(prepared)
        return None

    @classmethod
    def load_query_data(
        cls,
        adata: AnnData,
        reference_model: SysVI | str | PathLike[str],
        registry: Mapping[str, Any] | None = None,
        inplace_subset_query_vars: bool = False,
        accelerator: str = "auto",
        device: str | int = "auto",
        unfrozen: bool = False,
        **freeze: bool,
    ) -> SysVI:
        """A model of new cells with the weights of a trained one, whose ``train`` trains those of new categories only.

        Parameters
        ----------
        adata
            New cells with the model's genes and columns, normalised as those of the model. Systems may be new, too.
        reference_model
            The model, or the folder in which it is saved.
        registry
            Must be None: sysVI has no registry.
        inplace_subset_query_vars
            Reduce `adata` to the genes of the model, in its order.
        accelerator, device
            Device as in :meth:`sysvi.SysVI.load`.
        unfrozen
            Must be False: to train all weights, train on all cells together.
        **freeze
            Arguments of scvi-tools that choose what is frozen; ignored with a warning, since the weights of new
            categories are all that is trained. With ``transfer_batch``, whether True or False, new systems are refused
            as in scvi-tools.

        Returns
        -------
        SysVI
            The model of the new cells. Train it before it embeds cells, unless it knows all their categories.

        Raises
        ------
        InputError
            If genes or columns are missing, an argument is not supported, or a system is new and ``transfer_batch`` is
            given.

        Examples
        --------
        >>> import sysvi
        >>> cells = sysvi.datasets.simulate_systems(400, 200, seed=1)
        >>> cells = sysvi.prepare(cells, "system", "batch", min_cells=3)
        >>> is_new = (cells.obs["batch"] == cells.obs["batch"].iloc[0]).to_numpy()
        >>> reference, query = cells[~is_new].copy(), cells[is_new].copy()
        >>> sysvi.SysVI.setup_anndata(reference, batch_key="system", categorical_covariate_keys=["batch"])
        >>> model = sysvi.SysVI(reference)
        >>> model.train(max_epochs=2, progress=False)
        >>> mapped = sysvi.SysVI.load_query_data(query, model)
        >>> mapped.train(progress=False)
        >>> mapped.get_latent_representation().shape == (is_new.sum(), 15)
        True
        """
        model = cls._as_model(reference_model)
        if registry is not None:
            raise InputError("registry is not supported, since sysVI has none: leave it out.")
        if unfrozen:
            raise InputError("unfrozen=True is not supported: to train all weights, train on all cells together.")
        if unknown := sorted(name for name in freeze if not name.startswith("freeze_") and name != "transfer_batch"):
            raise InputError(f"load_query_data has no argument {', '.join(unknown)}.")
        keeps_systems = freeze.pop("transfer_batch", None) is not None
        if keeps_systems:
            warnings.warn(
                "The setting of transfer_batch is disabled in SysVI and is automatically set to False. Leave it out to "
                "map cells of new systems.",
                stacklevel=2,
            )
        for name in freeze:
            warnings.warn(
                f"load_query_data({name}=...) is ignored: only weights of new categories are trained.", stacklevel=2
            )
        check_anndata(adata)
        check_writable(adata)
        if inplace_subset_query_vars:
            adata._inplace_subset_var([gene for gene in model.vocabulary.genes if gene in adata.var_names])
        extended = model.extend(
            adata, read_query(adata, *model.summary(), warn_of_large=True, stacklevel=2), model.seed
        )
        if keeps_systems and (new := extended.vocabulary.systems[len(model.vocabulary.systems) :]):
            raise InputError(
                "This model does not allow for query having batch categories missing from the reference. These systems "
                f"are new: {listing(new)}. Leave transfer_batch out to map them."
            )
        write_setup(adata, model.columns)
        extended.attach(None, None, accelerator, None if device == "auto" else device)
        return extended

    @classmethod
    def _as_model(cls, reference_model: Any) -> Any:
        """The model itself, or the saved one."""
        if isinstance(reference_model, str | PathLike):
            return cast(Any, cls).load(reference_model, device="cpu")
        if not isinstance(reference_model, cls):
            raise InputError(
                f"reference_model is of type {type(reference_model).__name__}; give a SysVI or its folder, or map new "
                "cells onto an ensemble with sysvi.map_query."
            )
        return reference_model


def translate_training(settings: Mapping[str, Any], plan_kwargs: Mapping[str, Any] | None) -> dict[str, Any]:
    """Arguments of scvi-tools' ``train`` and its ``plan_kwargs`` as fields of :class:`sysvi.TrainSettings`.

    Arguments without effect here are dropped with a warning, which points to the line that called ``SysVI.train``.

    Raises
    ------
    InputError
        If another optimiser than Adam is asked for, or an argument that would change the result in another way.

    Examples
    --------
    >>> translate_training({"patience": 5}, {"z_distance_cycle_weight": 2.0})
    {'cycle_weight': 2.0, 'patience': 5}
    """
    training, plan = dict(settings), dict(plan_kwargs or {})
    for name in sorted(IGNORED_TRAIN_ARGUMENTS & set(training)):
        warnings.warn(f"train({name}=...) has no effect in sysVI and is ignored.", stacklevel=3)
        training.pop(name)
    for name in sorted(set(REFUSED_TRAIN_ARGUMENTS) & set(training)):
        if training.pop(name) is not None:
            raise InputError(f"train({name}=...) is not supported: {REFUSED_TRAIN_ARGUMENTS[name]}.")
    if plan.get("optimizer", "Adam") != "Adam":
        raise InputError(f"optimizer {plan['optimizer']!r} is not supported; sysVI trains with Adam.")
    for name in sorted(IGNORED_PLAN_ARGUMENTS & set(plan)):
        if plan.pop(name) not in (None, 0, False, "Adam"):
            advice = "The use of KL weight warmup is not recommended in SysVI. " if "warmup" in name else ""
            reason = "KL warm-up hurts the cycle model" if "warmup" in name else "it has no effect in sysVI"
            warnings.warn(f"{advice}plan_kwargs[{name!r}] is ignored: {reason}.", stacklevel=3)
    if "z_distance_cycle_weight" in plan:
        plan["cycle_weight"] = plan.pop("z_distance_cycle_weight")
    return {**plan, **training}


def ignore_arguments(function: str, **given: Any) -> None:
    """Warn of arguments of scvi-tools that have no effect here; those that are None or False are passed over."""
    for name, value in given.items():
        if value is not None and value is not False:
            warnings.warn(f"{function}({name}=...) has no effect in sysVI and is ignored.", stacklevel=3)


def history_frames(history: Mapping[str, Sequence[float]]) -> dict[str, pd.DataFrame]:
    """Loss terms per epoch as scvi-tools gives them: a DataFrame of one column for each term, indexed by epoch.

    Examples
    --------
    >>> list(history_frames({"kl_train": [2.0, 1.5]}))
    ['kl_local_train']
    """
    frames = {}
    for name, values in history.items():
        term, cells = name.rsplit("_", 1)  # "train" or "validation"
        key = f"{HISTORY_NAMES.get(term, term)}_{cells}"
        frames[key] = pd.DataFrame({key: values}, index=pd.RangeIndex(len(values), name="epoch"))
    for ours, theirs in (("loss_train", "train_loss_epoch"), ("loss_validation", "validation_loss")):
        if ours in frames:
            frames[theirs] = frames[ours].rename(columns={ours: theirs})
    return frames


def device_name(accelerator: str, devices: int | Sequence[int] | str = "auto") -> str:
    """Lightning's `accelerator` and `devices` as the name of one device.

    Examples
    --------
    >>> device_name("gpu"), device_name("gpu", [1, 2]), device_name("cpu", 4)
    ('cuda', 'cuda:1', 'cpu')
    """
    name = "cuda" if accelerator == "gpu" else accelerator
    first = devices[0] if isinstance(devices, (list, tuple)) and devices else None
    return f"cuda:{first}" if name == "cuda" and first is not None else name
