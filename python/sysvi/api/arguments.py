"""Arguments of the functions that train, split into those of the model and those of its training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from sysvi._core.errors import InputError
from sysvi._core.settings import (
    DEFAULT_PRESET,
    PRESETS,
    ModelSettings,
    Preset,
    Ramp,
    TrainSettings,
    as_ramp,
    whole_number,
)
from sysvi.api.sysvi import MODEL_ARGUMENTS

CHOSEN_IF_NONE = ("max_epochs", "batch_size", "lr")  # settings of training that None leaves to the defaults


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


def find_preset(name: str | None) -> Preset:
    """The preset of a name; the default one for None; an InputError for a name that is not known."""
    if name is None:
        return DEFAULT_PRESET
    if not isinstance(name, str) or name not in PRESETS:
        raise InputError(f"preset is {name!r}; it must be one of {', '.join(PRESETS)}.")
    return PRESETS[name]


def number_of_members(members: int | None, preset: Preset) -> int:
    """Number of models of an ensemble: the one given, or that of a preset.

    Examples
    --------
    >>> paper = PRESETS["paper"]
    >>> number_of_members(None, paper), number_of_members(2, paper)
    (1, 2)
    """
    return preset.members if members is None else whole_number("members", members, 1)


def fill_in(preset: Preset, settings: Mapping[str, Any], n_cells: int, n_systems: int) -> dict[str, Any]:
    """The settings of a preset, of which those that the user gave take precedence.

    A loss weight that was given as a number takes the ramp of the preset. None counts as not given for
    the number of epochs, the minibatch size and the learning rate.

    Examples
    --------
    >>> from sysvi._core.settings import PAPER
    >>> fill_in(PAPER, {"cycle_weight": 2}, 5_000, 2)["cycle_weight"]
    Ramp(value=2.0, start=0.0, end=0.0)
    """
    of_preset = preset.settings_for(n_cells, n_systems)
    given = {
        name: as_ramp(value, ramp, name) if isinstance(ramp := of_preset.get(name), Ramp) else value
        for name, value in settings.items()
        if value is not None or name not in CHOSEN_IF_NONE
    }
    return {**of_preset, **given}
