"""Settings of the model and of its training: name, type, default, limits and help of each, in one place.

The Python functions, the command line, saved models and R take them from here.
"""

from __future__ import annotations

import math
from collections.abc import Callable
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
Initialisation = Literal["data", "linear", "random"]
Variance = Literal["feature", "sample_feature"]
LearningRateSchedule = Literal["constant", "cosine"]
SwappedCovariates = Literal["resampled", "observed", "zero"]
Precision = Literal["auto", "float32", "bfloat16"]


LARGEST_SIZE = (
    10**9
)  # of whole numbers that are no seeds: R, torch and NumPy can hold it, and count a matrix of its square
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
        default=128, metadata=about("Width of the hidden layers of encoder and decoder.", Limits(min=1))
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
    covariates_in_mean: bool = field(
        default=True,
        metadata=about(
            "Let covariates also add to the mean expression of each gene directly, besides entering the hidden layers; "
            "false, as in the paper: hidden layers only."
        ),
    )
    covariates_in_hidden: bool = field(
        default=True,
        metadata=about(
            "Let covariates enter the hidden layers of the decoder; false: only the mean expression of each gene, so "
            "that cells differ by the same genes in all systems. The preset conservative has true for two systems, "
            "and false for more."
        ),
    )
    initialisation: Initialisation = field(
        default="linear",
        metadata=about(
            "Start of training: effects of the covariates and principal components (linear), random combinations of "
            "components (data), or random weights, as in the paper."
        ),
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
        if not (self.covariates_in_mean or self.covariates_in_hidden):
            raise InputError(
                "covariates_in_mean and covariates_in_hidden are both false, so that the decoder would know no system: "
                "set one of them to true."
            )


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
        default=Ramp(30.0, start=0.1, end=0.6),
        metadata=about(
            "Weight of the cycle loss, the strength of integration; 100 mixes more, 10 keeps more of the differences "
            "between neighbouring cells.",
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
    if f.name == "seed":
        return random_seed(value)
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
    if get_origin(kind) is Literal and not (isinstance(value, str) and value in get_args(kind)):
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


def whole_number(name: str, value: Any, least: int, most: int | None = LARGEST_SIZE) -> int:
    """The value of setting `name` as a plain int from `least` to `most`, or an InputError that names it.

    Examples
    --------
    >>> whole_number("n_cells", 3, 1)
    3
    >>> whole_number("n_cells", 2**64, 1)
    Traceback (most recent call last):
        ...
    sysvi._core.errors.InputError: n_cells is 18446744073709551616; it must be a whole number of 1000000000 or less.
    """
    try:
        whole = index(value)
        good = whole >= least and not isinstance(value, bool)
    except TypeError:
        good = False
    if not good:
        raise InputError(f"{name} is {value!r}; it must be a whole number of {least} or more.")
    if most is not None and whole > most:
        raise InputError(f"{name} is {whole}; it must be a whole number of {most} or less.")
    return whole


def random_seed(value: Any, name: str = "seed") -> int:
    """A random seed as a plain int: a whole number of any size that is not negative; or an InputError."""
    return whole_number(name, value, 0, most=None)


def number(name: str, value: Any, limits: Limits) -> float:
    """The value of setting `name` as a plain float within limits, or an InputError that names it."""
    try:
        good = not isinstance(value, bool) and limits.contain(float(0 + value))  # 0 + refuses strings
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
    """Default number of cells in a minibatch: large for speed, small where an epoch would have few minibatches.

    Examples
    --------
    >>> [default_batch_size(n) for n in (500, 5_000, 50_000, 500_000)]
    [128, 256, 1024, 2048]
    """
    for at_least, size in ((100_000, 2048), (20_000, 1024), (1_000, 256)):
        if n_cells >= at_least:
            return size
    return 128


def default_lr(batch_size: int) -> float:
    """Default learning rate: 0.002, or 0.004 for 2,048 cells in a minibatch or more."""
    return 2e-3 if batch_size < 2048 else 4e-3


def default_max_epochs(n_cells: int, steps_per_epoch: int) -> int:
    """Default number of epochs: 520 steps for 1,000 cells or fewer, 1,310 for 10,000, at least 20 epochs.

    The number of steps grows with the number of cells to the power of 0.4: more cells show more to learn, but each of
    them need not be seen as often.

    Examples
    --------
    >>> default_max_epochs(1_000, 4), default_max_epochs(10_000, 40), default_max_epochs(1_000_000, 489)
    (130, 33, 20)
    """
    steps = 520 * max(1.0, n_cells / 1000) ** 0.4
    return max(20, math.ceil(steps / steps_per_epoch))


class Preset(NamedTuple):
    """Settings that go together, under one name.

    Parameters
    ----------
    members
        Number of models in the ensemble.
    settings
        Settings of the model and of its training.
    epochs
        Number of epochs by number of cells; None: our default.
    for_several
        Settings that are different for more than two systems.
    """

    members: int
    settings: dict[str, Any]
    epochs: Callable[[int], int] | None = None
    for_several: dict[str, Any] = {}  # noqa: RUF012 (never changed)

    def settings_for(self, n_cells: int, n_systems: int) -> dict[str, Any]:
        """The settings for a number of cells and of systems."""
        epochs = {} if self.epochs is None else {"max_epochs": self.epochs(n_cells)}
        return {**self.settings, **epochs, **(self.for_several if n_systems > 2 else {})}


def epochs_of_the_paper(n_cells: int) -> int:
    """Number of epochs of scvi-tools, in which the paper's model was published: 400, fewer above 20,000 cells.

    Examples
    --------
    >>> epochs_of_the_paper(5_000), epochs_of_the_paper(100_000)
    (400, 80)
    """
    return max(1, min(round(20_000 / n_cells * 400), 400))


# The paper's model and training: the whole VampPrior and cycle weight from the first step, no covariates in the cycle.
PAPER = Preset(
    members=1,
    settings={
        "n_hidden": 256,
        "covariates_in_mean": False,
        "initialisation": "random",
        "prior": "vamp",
        "n_prior_components": 5,
        "mixture_share": Ramp(1.0),
        "cycle_weight": Ramp(5.0),
        "kl_weight": Ramp(1.0),
        "swapped_covariates": "zero",
        "batch_size": 128,
        "lr": 1e-3,
    },
    epochs=epochs_of_the_paper,
)
# The settings of a single model as they are; they mix systems well, and sometimes types that only one system has.
MIXING = Preset(members=4, settings={})
# Keeps cell types of single systems apart: the model starts as a linear one, in which a type has the same markers in
# all systems, and does not go far from there. Eight members make fewer common mistakes than four. With more than two
# systems, hidden layers that know them would still decode different types from the same place (docs/trust.md).
CONSERVATIVE = Preset(
    members=8,
    settings={"cycle_weight": Ramp(10.0, 0.1, 0.6), "max_epochs": 24},
    for_several={"covariates_in_hidden": False},
)
PRESETS = {"mixing": MIXING, "conservative": CONSERVATIVE, "paper": PAPER}
DEFAULT_PRESET = CONSERVATIVE  # compared in benchmarks/paper/anchors.py and trust.py
