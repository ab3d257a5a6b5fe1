"""The names and arguments of scvi-tools and Lightning that scripts written for ``scvi.external.SysVI`` use."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from sysvi._core.errors import InputError

# Loss terms of our history, and their names in the history of scvi-tools.
HISTORY_NAMES = {"total": "loss", "reconstruction": "reconstruction_loss", "kl": "kl_local", "cycle": "cycle_loss"}
# Arguments of the trainers of scvi-tools and Lightning that have no effect here: they are ignored with a warning.
IGNORED_TRAIN_ARGUMENTS = {
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
IGNORED_PLAN_ARGUMENTS = {
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


def translate_training(settings: Mapping[str, Any], plan_kwargs: Mapping[str, Any] | None) -> dict[str, Any]:
    """Arguments of scvi-tools' ``train`` and its ``plan_kwargs`` as fields of :class:`sysvi.TrainSettings`.

    Arguments without effect here are dropped with a warning, which points to the line that called ``SysVI.train``.

    Raises
    ------
    InputError
        If another optimiser than Adam is asked for.

    Examples
    --------
    >>> translate_training({"patience": 5}, {"z_distance_cycle_weight": 2.0})
    {'cycle_weight': 2.0, 'patience': 5}
    """
    training, plan = dict(settings), dict(plan_kwargs or {})
    for name in sorted(IGNORED_TRAIN_ARGUMENTS & set(training)):
        warnings.warn(f"train({name}=...) has no effect in sysVI and is ignored.", stacklevel=3)
        training.pop(name)
    if plan.get("optimizer", "Adam") != "Adam":
        raise InputError(f"optimizer {plan['optimizer']!r} is not supported; sysVI trains with Adam.")
    for name in sorted(IGNORED_PLAN_ARGUMENTS & set(plan)):
        if plan.pop(name) not in (None, 0, False, "Adam"):
            reason = "KL warm-up hurts the cycle model" if "warmup" in name else "it has no effect in sysVI"
            warnings.warn(f"plan_kwargs[{name!r}] is ignored: {reason}.", stacklevel=3)
    if "z_distance_cycle_weight" in plan:
        plan["cycle_weight"] = plan.pop("z_distance_cycle_weight")
    return {**plan, **training}


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
