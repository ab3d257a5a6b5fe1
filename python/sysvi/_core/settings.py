"""Every default of the model and of its training, in one place.

The CLI, the Python functions, the saved file and (later) R read their defaults from here.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from operator import index
from typing import Any, Literal, NamedTuple

import numpy as np

from sysvi._core.errors import InputError

Prior = Literal["vamp", "gmm", "standard_normal"]
Mixture = Literal["dimension", "joint"]
Pseudoinputs = Literal["random", "system", "balanced_system", "balanced_label", "noise"]
Variance = Literal["feature", "sample_feature"]
LearningRateSchedule = Literal["constant", "cosine"]
SwappedCovariates = Literal["resampled", "observed", "zero"]
Precision = Literal["auto", "float32", "bfloat16"]


RAMPS = ("reconstruction_weight", "kl_weight", "cycle_weight", "adversarial_weight", "mixture_share")


class Ramp(NamedTuple):
    """A loss weight over training: 0 until `start`, then linear up to `value` at `end`.

    Parameters
    ----------
    value
        The weight from `end` on.
    start, end
        Fractions of training in [0, 1]. With ``start == end == 0`` the weight is constant.

    Examples
    --------
    >>> ramp = Ramp(4.0, start=0.25, end=0.75)
    >>> ramp.value_at(0.0), ramp.value_at(0.5), ramp.value_at(1.0)
    (0.0, 2.0, 4.0)
    """

    value: float
    start: float = 0.0
    end: float = 0.0

    def value_at(self, progress: float) -> float:
        """Weight at `progress`, the fraction of training already done."""
        if progress >= self.end:
            return self.value
        if progress <= self.start:
            return 0.0
        return self.value * ((progress - self.start) / (self.end - self.start))  # never above value


def as_ramp(weight: float | Ramp | tuple[float, float, float], default: Ramp, name: str) -> Ramp:
    """Read a weight: a plain number keeps the shape of the default ramp; a Ramp is taken as it is."""
    try:
        ramp = Ramp(*weight) if isinstance(weight, (tuple, list)) else default._replace(value=weight)
        ramp = Ramp(*(float(0 + number) for number in ramp))  # 0 + refuses texts
    except (TypeError, ValueError):
        raise InputError(f"{name} is {weight!r}; it must be a number or sysvi.Ramp(value, start, end).") from None
    if not (ramp.value >= 0 and ramp.value < float("inf")):
        raise InputError(f"{name} is {ramp.value}; it must be a finite number of 0 or more.")
    if not 0 <= ramp.start <= ramp.end <= 1:
        raise InputError(f"{name} ramps from {ramp.start} to {ramp.end}; both are fractions of training, start <= end.")
    return ramp


@dataclass(frozen=True)
class ModelSettings:
    """What the model is. The names are the paper's; see :class:`sysvi.SysVI` for their meaning."""

    n_latent: int = 15
    n_hidden: int = 256
    n_layers: int = 2
    dropout_rate: float = 0.1
    prior: Prior = "vamp"
    n_prior_components: int = 5
    mixture: Mixture = "dimension"
    pseudoinputs: Pseudoinputs = "random"
    pseudoinputs_system: str | None = None
    trainable_priors: bool = True
    out_var_mode: Variance = "feature"
    embed_categorical_covariates: bool = False
    embedding_dim: int = 5

    def __post_init__(self) -> None:
        for name in ("n_latent", "n_hidden", "n_layers", "n_prior_components", "embedding_dim"):
            _read(self, name, whole_number, 1)
        _read(self, "dropout_rate", number, "at least 0 and below 1", lambda x: 0 <= x < 1)
        for name in ("trainable_priors", "embed_categorical_covariates"):
            _read(self, name, flag)
        _check_choice("prior", self.prior, Prior)
        _check_choice("mixture", self.mixture, Mixture)
        _check_choice("pseudoinputs", self.pseudoinputs, Pseudoinputs)
        _check_choice("out_var_mode", self.out_var_mode, Variance)


@dataclass(frozen=True)
class TrainSettings:
    """How the model is trained. ``None`` for epochs, minibatch or learning rate: chosen from the number of cells.

    ``mixture_share`` is the share that a VampPrior or Gaussian mixture has in the KL term; the standard normal has the
    rest. ``Ramp(1.0)`` is the paper's: the mixture alone, from the first step.
    """

    max_epochs: int | None = None
    batch_size: int | None = None
    lr: float | None = None
    lr_schedule: LearningRateSchedule = "constant"
    weight_decay: float = 1e-6
    eps: float = 0.01
    clip_norm: float | None = None
    reconstruction_weight: Ramp = Ramp(1.0)
    kl_weight: Ramp = Ramp(1.0)
    cycle_weight: Ramp = Ramp(10.0, start=0.1, end=0.6)
    adversarial_weight: Ramp = Ramp(0.0)
    mixture_share: Ramp = Ramp(1.0, start=0.1, end=0.6)
    swapped_covariates: SwappedCovariates = "resampled"
    train_size: float = 1.0
    early_stopping: bool = False
    patience: int = 20
    precision: Precision = "auto"
    seed: int = 0

    def __post_init__(self) -> None:
        for f in RAMPS:
            object.__setattr__(self, f, as_ramp(getattr(self, f), getattr(type(self), f), f))
        if self.mixture_share.value > 1:
            raise InputError(f"mixture_share is {self.mixture_share.value}; it is a share, at most 1.")
        for name, least in (("max_epochs", 1), ("batch_size", 2), ("patience", 1), ("seed", 0)):
            if getattr(self, name) is not None:
                _read(self, name, whole_number, least)
        for name in ("lr", "clip_norm"):
            if getattr(self, name) is not None:
                _read(self, name, positive_number)
        for name in ("weight_decay", "eps"):
            _read(self, name, number, "a finite number of 0 or more", lambda x: 0 <= x < math.inf)
        _read(self, "train_size", number, "above 0 and at most 1", lambda x: 0 < x <= 1)
        _read(self, "early_stopping", flag)
        if self.early_stopping and self.train_size == 1:
            raise InputError("early_stopping watches held-out cells: set train_size below 1, for example 0.9.")
        _check_choice("lr_schedule", self.lr_schedule, LearningRateSchedule)
        _check_choice("swapped_covariates", self.swapped_covariates, SwappedCovariates)
        _check_choice("precision", self.precision, Precision)

    def as_dict(self) -> dict[str, Any]:
        """Plain values only, for the saved file."""
        return asdict(self)


def whole_number(name: str, value: Any, least: int) -> int:
    """A setting as a plain int (NumPy's integers become one), or an InputError that names it."""
    try:
        value = index(value)
        good = value >= least
    except TypeError:
        good = False
    if not good:
        raise InputError(f"{name} is {value!r}; it must be a whole number of {least} or more.")
    return int(value)


def number(name: str, value: Any, wish: str, fits: Callable[[float], bool]) -> float:
    """A setting as a plain float (NumPy's numbers become one), or an InputError that names it and what it must be."""
    try:
        value = float(0 + value)  # 0 + refuses texts
        good = fits(value)
    except (TypeError, ValueError, OverflowError):
        good = False
    if not good:
        raise InputError(f"{name} is {value!r}; it must be {wish}.")
    return float(value)


def positive_number(name: str, value: Any) -> float:
    """As `number`, finite and above 0."""
    return number(name, value, "a positive number", lambda x: 0 < x < math.inf)


def flag(name: str, value: Any) -> bool:
    """A setting as a plain bool (0, 1 and NumPy's become one), or an InputError that names it."""
    if not isinstance(value, (int, np.integer, np.bool_)) or value not in (0, 1):
        raise InputError(f"{name} is {value!r}; it must be True or False.")
    return bool(value)


def _read(settings: Any, name: str, read: Callable[..., Any], *how: Any) -> None:
    object.__setattr__(settings, name, read(name, getattr(settings, name), *how))


def _check_choice(name: str, value: Any, choices: Any) -> None:
    if value not in choices.__args__:
        raise InputError(f"{name} is {value!r}; it must be one of {', '.join(choices.__args__)}.")


def default_batch_size(n_cells: int) -> int:
    """Cells in a minibatch: large ones cost less for each cell, small data need some minibatches an epoch."""
    for at_least, size in ((50_000, 2048), (5_000, 1024), (1_000, 256)):
        if n_cells >= at_least:
            return size
    return 128


def default_lr(batch_size: int) -> float:
    """Learning rate: 0.001 up to 512 cells in a minibatch, from there in proportion, to 0.004.

    With it, an epoch of few large minibatches achieves what one of many small ones does (Goyal et al., 2017).
    """
    return 1e-3 * min(max(1.0, batch_size / 512), 4.0)


def default_max_epochs(steps_per_epoch: int, lr: float) -> int:
    """Passes over the data: enough for 4,400 steps at a learning rate of 0.001, and never under 20."""
    return max(20, math.ceil(4.4 / lr / steps_per_epoch))
