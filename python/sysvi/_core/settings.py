"""Settings of the model and of its training: name, type, default, limits and help of each, in one place.

The Python functions, the command line, saved models and R take them from here.
"""

from __future__ import annotations

import math
from dataclasses import Field, dataclass, field, fields
from functools import cache
from operator import index
from types import NoneType
from typing import Any, Literal, NamedTuple, cast, get_args, get_origin, get_type_hints

from sysvi._core.errors import InputError
from sysvi._core.registry import Registry

# The built-in names, with the modules that register their classes; further priors and likelihoods register themselves.
PRIORS: Registry[Any] = Registry("prior", dict.fromkeys(["vamp", "gmm", "standard_normal"], "sysvi.model.priors"))
LIKELIHOODS: Registry[Any] = Registry("likelihood", {"gaussian": "sysvi.model.likelihoods"})

Mixture = Literal["dimension", "joint"]
Pseudoinputs = Literal["random", "system", "balanced_system", "balanced_label", "noise"]
Variance = Literal["feature", "sample_feature"]
LearningRateSchedule = Literal["constant", "cosine"]
SwappedCovariates = Literal["resampled", "observed", "zero"]
Precision = Literal["auto", "float32", "bfloat16"]


RAMPS = ("reconstruction_weight", "kl_weight", "cycle_weight", "adversarial_weight", "mixture_share")


class Ramp(NamedTuple):
    """The schedule of a loss weight over training: 0 until `start`, then linear up to `value` at `end`.

    Parameters
    ----------
    value
        Weight from `end` on.
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
        """The weight at `progress`, the fraction of training that is done."""
        if progress >= self.end:
            return self.value
        if progress <= self.start:
            return 0.0
        return self.value * ((progress - self.start) / (self.end - self.start))  # never above value


class Limits(NamedTuple):
    """The range of a number; `min_open` and `max_open` exclude the bounds themselves.

    Examples
    --------
    >>> Limits(min=0, max=1, max_open=True).describe()
    'at least 0 and below 1'
    """

    min: float = -math.inf
    max: float = math.inf
    min_open: bool = False
    max_open: bool = False

    def contain(self, value: float) -> bool:
        """Whether `value` is finite and within the range."""
        above = value > self.min if self.min_open else value >= self.min
        below = value < self.max if self.max_open else value <= self.max
        return above and below and math.isfinite(value)

    def describe(self) -> str:
        """The range in words, to go after "it must be"."""
        if self.max == math.inf:
            return "a positive number" if self.min_open else f"a finite number of {self.min:g} or more"
        lower, upper = "above" if self.min_open else "at least", "below" if self.max_open else "at most"
        return f"{lower} {self.min:g} and {upper} {self.max:g}"


POSITIVE = Limits(min=0, min_open=True)
NOT_NEGATIVE = Limits(min=0)


def about(
    help: str, limits: Limits | None = None, unset: str = "", registry: Registry[Any] | None = None
) -> dict[str, Any]:
    """Metadata of a setting: its help, the limits of a number, what None means, and the registry of its names."""
    return {"help": help, "limits": limits, "unset": unset, "registry": registry}


@cache
def setting_types(settings: type) -> dict[str, Any]:
    """Type of each setting of a class of settings: int, float, bool, str, Ramp or a Literal; None is left out.

    Examples
    --------
    >>> setting_types(TrainSettings)["max_epochs"]
    <class 'int'>
    """
    hints = get_type_hints(settings)
    return {
        name: next(part for part in get_args(hint) if part is not NoneType) if NoneType in get_args(hint) else hint
        for name, hint in hints.items()
    }


@dataclass(frozen=True)
class ModelSettings:
    """Settings of the model."""

    n_latent: int = field(default=15, metadata=about("Number of latent dimensions.", Limits(min=1)))
    n_hidden: int = field(
        default=256, metadata=about("Width of the hidden layers of encoder and decoder.", Limits(min=1))
    )
    n_layers: int = field(default=2, metadata=about("Number of hidden layers of encoder and decoder.", Limits(min=1)))
    dropout_rate: float = field(
        default=0.1, metadata=about("Dropout rate of the hidden layers.", Limits(min=0, max=1, max_open=True))
    )
    prior: str = field(
        default="vamp",
        metadata=about(
            "Prior: posteriors of trainable pseudo-inputs (vamp), a Gaussian mixture (gmm) or a standard normal.",
            registry=PRIORS,
        ),
    )
    n_prior_components: int = field(
        default=5, metadata=about("Number of components of a vamp or gmm prior.", Limits(min=1))
    )
    mixture: Mixture = field(
        default="dimension",
        metadata=about(
            "How prior components mix: in each latent dimension on its own, as in the paper's code, or jointly."
        ),
    )
    pseudoinputs: Pseudoinputs = field(
        default="random",
        metadata=about(
            "Cells at which the prior components start: random ones, those of one system, equally many from every "
            "system or label, or none (noise; gmm only)."
        ),
    )
    pseudoinputs_system: str | None = field(
        default=None, metadata=about("The system whose cells pseudoinputs 'system' takes.")
    )
    trainable_priors: bool = field(
        default=True, metadata=about("Train the prior components, or keep them where they start.")
    )
    likelihood: str = field(
        default="gaussian",
        metadata=about("Distribution of expression given the latent variables.", registry=LIKELIHOODS),
    )
    out_var_mode: Variance = field(
        default="feature",
        metadata=about("Variance of the expression: per gene (feature) or per cell and gene (sample_feature)."),
    )
    embed_categorical_covariates: bool = field(
        default=False,
        metadata=about("Learn a vector for each category instead of one-hot codes; for covariates of many categories."),
    )
    embedding_dim: int = field(
        default=5, metadata=about("Length of the vector that is learned for each category.", Limits(min=1))
    )

    def __post_init__(self) -> None:
        _check_settings(self)


@dataclass(frozen=True)
class TrainSettings:
    """Settings of training. A loss weight is a number or a :class:`Ramp`; a number keeps the ramp of the default."""

    max_epochs: int | None = field(
        default=None,
        metadata=about("Number of passes over the data.", Limits(min=1), "chosen from the number of cells"),
    )
    batch_size: int | None = field(
        default=None,
        metadata=about("Number of cells in a minibatch.", Limits(min=2), "chosen from the number of cells"),
    )
    lr: float | None = field(
        default=None, metadata=about("Learning rate of Adam.", POSITIVE, "chosen from the minibatch size")
    )
    lr_schedule: LearningRateSchedule = field(
        default="constant", metadata=about("Learning rate during training: constant, or decreasing along a cosine.")
    )
    weight_decay: float = field(default=1e-6, metadata=about("Weight decay of Adam.", NOT_NEGATIVE))
    eps: float = field(
        default=0.01, metadata=about("Epsilon of Adam, added to the denominator of its steps.", NOT_NEGATIVE)
    )
    clip_norm: float | None = field(
        default=None,
        metadata=about(
            "Largest norm of the gradient; larger gradients are scaled down to it.", POSITIVE, "no clipping"
        ),
    )
    reconstruction_weight: Ramp = field(
        default=Ramp(1.0), metadata=about("Weight of the reconstruction loss.", NOT_NEGATIVE)
    )
    kl_weight: Ramp = field(
        default=Ramp(1.0),
        metadata=about(
            "Weight of the KL divergence from the prior; raising it shrinks latent dimensions, which only looks like "
            "mixing.",
            NOT_NEGATIVE,
        ),
    )
    cycle_weight: Ramp = field(
        default=Ramp(10.0, start=0.1, end=0.6),
        metadata=about(
            "Weight of the cycle loss, the strength of integration; with enough epochs 20 or 50 mix cells of one type "
            "more and of different types less.",
            NOT_NEGATIVE,
        ),
    )
    adversarial_weight: Ramp = field(
        default=Ramp(0.0),
        metadata=about("Weight of an adversary that tells the systems apart; 0: no adversary.", NOT_NEGATIVE),
    )
    mixture_share: Ramp = field(
        default=Ramp(1.0, start=0.1, end=0.6),
        metadata=about(
            "Share of a vamp or gmm prior in the KL divergence, of which the standard normal has the rest; rises from "
            "0.1 to 0.6 of training.",
            Limits(min=0, max=1),
        ),
    )
    swapped_covariates: SwappedCovariates = field(
        default="resampled",
        metadata=about(
            "Covariates other than the system in the cycle: those of a random cell of the other system (resampled), "
            "the cell's own (observed) or none (zero, as in the paper's code)."
        ),
    )
    train_size: float = field(
        default=1.0,
        metadata=about("Fraction of cells to train on; the others are held out.", Limits(min=0, max=1, min_open=True)),
    )
    early_stopping: bool = field(
        default=False, metadata=about("Stop when the loss on held-out cells no longer improves.")
    )
    patience: int = field(
        default=20, metadata=about("Epochs without improvement before early stopping.", Limits(min=1))
    )
    precision: Precision = field(
        default="auto",
        metadata=about(
            "Number format of the matrix products in hidden layers; auto: bfloat16 where the processor has "
            "instructions for it, else float32."
        ),
    )
    seed: int = field(default=0, metadata=about("Random seed; the same seed gives the same result.", Limits(min=0)))

    def __post_init__(self) -> None:
        _check_settings(self)
        if self.early_stopping and self.train_size == 1:
            raise InputError("early_stopping watches held-out cells: set train_size below 1, for example 0.9.")


def _check_settings(settings: Any) -> None:
    """Check each setting by its type and limits and make it a plain value (NumPy's numbers become Python's)."""
    types: dict[str, Any] = setting_types(type(settings))  # type: ignore[arg-type]
    for f in fields(settings):
        value = getattr(settings, f.name)
        if value is not None or f.default is not None:
            object.__setattr__(settings, f.name, _checked(f, types[f.name], value))


def _checked(f: Field[Any], kind: Any, value: Any) -> Any:
    """The value of a setting as its type, or an InputError that names the setting."""
    limits = f.metadata["limits"]
    if kind is int:
        return whole_number(f.name, value, int(limits.min))
    if kind is float:
        return number(f.name, value, limits)
    if kind is bool:
        return flag(f.name, value)
    if kind is Ramp:
        return as_ramp(value, cast(Ramp, f.default), f.name, limits)
    if f.metadata["registry"] is not None:
        f.metadata["registry"].check(value)
    if get_origin(kind) is Literal and value not in get_args(kind):
        raise InputError(f"{f.name} is {value!r}; it must be one of {', '.join(get_args(kind))}.")
    return value


def as_ramp(
    weight: float | Ramp | tuple[float, float, float], default: Ramp, name: str, limits: Limits = NOT_NEGATIVE
) -> Ramp:
    """Read a weight: a number takes start and end of the default ramp; a Ramp, or its three numbers, stays as it is."""
    try:
        ramp = Ramp(*weight) if isinstance(weight, (tuple, list)) else default._replace(value=weight)
        ramp = Ramp(*(float(0 + number) for number in ramp))  # 0 + refuses strings
    except (TypeError, ValueError):
        raise InputError(f"{name} is {weight!r}; it must be a number or sysvi.Ramp(value, start, end).") from None
    if not limits.contain(ramp.value):
        raise InputError(f"{name} is {ramp.value}; it must be {limits.describe()}.")
    if not 0 <= ramp.start <= ramp.end <= 1:
        raise InputError(f"{name} ramps from {ramp.start} to {ramp.end}; both are fractions of training, start <= end.")
    return ramp


def whole_number(name: str, value: Any, least: int) -> int:
    """The value of setting `name` as a plain int, at least `least`, or an InputError that names it."""
    try:
        value = index(value)
        good = value >= least
    except TypeError:
        good = False
    if not good:
        raise InputError(f"{name} is {value!r}; it must be a whole number of {least} or more.")
    return int(value)


def number(name: str, value: Any, limits: Limits) -> float:
    """The value of setting `name` as a plain float within limits, or an InputError that names it."""
    try:
        value = float(0 + value)  # 0 + refuses strings
        good = limits.contain(value)
    except (TypeError, ValueError, OverflowError):
        good = False
    if not good:
        raise InputError(f"{name} is {value!r}; it must be {limits.describe()}.")
    return float(value)


def positive_number(name: str, value: Any) -> float:
    """The value of setting `name` as a plain float above 0, or an InputError that names it."""
    return number(name, value, POSITIVE)


def flag(name: str, value: Any) -> bool:
    """The value of setting `name` as a plain bool (0 and 1 are accepted), or an InputError that names it."""
    try:
        numpy_bool = getattr(value, "shape", None) == () and value.dtype == bool  # has no __index__
        good = numpy_bool or index(value) in (0, 1)
    except TypeError:
        good = False
    if not good:
        raise InputError(f"{name} is {value!r}; it must be True or False.")
    return bool(value)


def default_batch_size(n_cells: int) -> int:
    """Default number of cells in a minibatch: large for speed, small where an epoch would have few minibatches."""
    for at_least, size in ((50_000, 2048), (5_000, 1024), (1_000, 256)):
        if n_cells >= at_least:
            return size
    return 128


def default_lr(batch_size: int) -> float:
    """Default learning rate: 0.001 up to 512 cells in a minibatch, then proportional to its size, at most 0.004.

    It lets an epoch of few large minibatches achieve what one of many small ones does (Goyal et al., 2017).
    """
    return 1e-3 * min(max(1.0, batch_size / 512), 4.0)


def default_max_epochs(steps_per_epoch: int, lr: float) -> int:
    """Default number of epochs: enough for 4,400 steps at a learning rate of 0.001, and at least 20."""
    return max(20, math.ceil(4.4 / lr / steps_per_epoch))
