"""The command and the code that make an integration again."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from sysvi._core.settings import DEFAULT_PRESET, PRESETS, ModelSettings, Preset, Ramp, TrainSettings
from sysvi.reporting.run_record import RunRecord

# Settings of `prepare` with their defaults, of which code names those that differ.
PREPARE_DEFAULTS = {"n_top_genes": 3000, "min_cells": 20, "fractional_counts": False}
PYTHON_ONLY_DEFAULTS = {"target_sum": 1e4, "flavor": "cell_ranger"}  # neither the command line nor R has these
OPTION_NAMES = {"max_epochs": "--epochs", "n_top_genes": "--genes"}  # options with names of their own
R_ARGUMENTS = ("cycle_weight", "max_epochs", "n_latent")  # of RunSysVI(); other settings are those of sysvi_options()


@dataclass(frozen=True)
class ChosenSettings:
    """Settings of a run as one would give them: a preset, the number of models, and what differs from the preset."""

    preset: str | None
    members: int | None
    settings: Mapping[str, Any]  # a Ramp where a number would take another ramp


@dataclass(frozen=True)
class Recipe:
    """One way to make the integration again: a title, the language of the code, and the code."""

    title: str
    language: str
    code: str


def chosen_settings(record: RunRecord, n_cells: int) -> ChosenSettings:
    """The shortest list of arguments that gives the settings of a run.

    Of all presets, the one is named from which the fewest settings differ, unless it is the default.
    Settings that training chose itself, such as the number of epochs, are listed with their values.

    Examples
    --------
    >>> import sysvi
    >>> adata = sysvi.prepare(sysvi.datasets.simulate_systems(300, 200, seed=1), "system", "batch", min_cells=3)
    >>> model = sysvi.integrate(adata, "system", "batch", members=1, max_epochs=2, cycle_weight=5, progress=False)
    >>> from sysvi.reporting.run_record import read_record
    >>> chosen_settings(read_record(adata), 300)  # doctest: +ELLIPSIS
    ChosenSettings(preset=None, members=1, settings={'max_epochs': 2, ..., 'cycle_weight': 5.0})
    """
    presets = sorted(PRESETS.items(), key=lambda item: item[1] is not DEFAULT_PRESET)  # the default wins ties
    found = [(name, preset, _differing(record, preset, n_cells)) for name, preset in presets]
    name, preset, settings = min(found, key=lambda item: len(item[2]))
    members = None if record.n_members == preset.members else record.n_members
    return ChosenSettings(None if preset is DEFAULT_PRESET else name, members, settings)


def _differing(record: RunRecord, preset: Preset, n_cells: int) -> dict[str, Any]:
    """Settings of a run that a preset does not give."""
    given = dict(preset.settings)
    if preset.epochs is not None:
        given["max_epochs"] = preset.epochs(n_cells)
    found: dict[str, Any] = {}
    for settings in (record.model_settings, record.train_settings):
        for f in fields(settings):
            value, usual = getattr(settings, f.name), given.get(f.name, f.default)
            if f.name == "seed" or value == usual:
                continue
            if f.name == "train_size" and value == 1 and not record.train_settings.early_stopping:
                continue  # what training chooses where nothing is said
            same_ramp = isinstance(value, Ramp) and isinstance(usual, Ramp) and value[1:] == usual[1:]
            found[f.name] = value.value if same_ramp else value
    return found


def recipes(record: RunRecord, key: str, n_cells: int, for_r: bool) -> list[Recipe]:
    """The ways to make an integration again: in R for users of R, otherwise the command line and Python.

    Parameters
    ----------
    record
        How the embedding was made.
    key
        Name of the embedding.
    n_cells
        Number of cells.
    for_r
        Whether R made the embedding.
    """
    chosen = chosen_settings(record, n_cells)
    if for_r:
        return [Recipe("In R", "r", r_code(record, key, chosen))]
    command = shell_command(record, key, chosen)
    shell = [] if command is None else [Recipe("In a shell", "sh", command)]
    return [*shell, Recipe("In Python", "python", python_code(record, key, chosen))]


def python_code(record: RunRecord, key: str, chosen: ChosenSettings) -> str:
    """Python code that prepares, integrates and reports."""
    columns, preparation = record.columns, record.preparation
    lines = ["import anndata", "import sysvi", ""]
    if preparation is None:
        lines.append(
            f'adata = anndata.read_h5ad("cells.h5ad")  # log-normalised values of the {record.n_genes:,} genes'
        )
    else:
        arguments = [repr(columns.system), repr(columns.batch)]
        given = {"layer": preparation.get("layer"), **_differing_preparation(preparation)}
        if not preparation["normalize"]:
            given["normalize"] = False
            given.pop("fractional_counts", None)
        arguments += [f"{name}={value!r}" for name, value in given.items() if value is not None]
        lines += ['cells = anndata.read_h5ad("cells.h5ad")', f"adata = sysvi.prepare(cells, {', '.join(arguments)})"]
    values: dict[str, Any] = {
        "layer": columns.layer,
        "categorical_covariate_keys": list(columns.categorical) or None,
        "continuous_covariate_keys": list(columns.continuous) or None,
        "weight_systems": columns.weight_systems or None,
        "members": chosen.members,
        "preset": chosen.preset,
        "key_added": None if key == "X_sysVI" else key,
        "seed": record.seed,
        **chosen.settings,
    }
    given = {name: value for name, value in values.items() if value is not None}
    lines += [
        "model = sysvi.integrate(",
        "    adata,",
        f"    {columns.system!r},",
        f"    {columns.batch!r},",
        *(f"    {name}={_python(value)}," for name, value in given.items()),
        ")",
        'sysvi.report(adata, "report.html")'
        if key == "X_sysVI"
        else f'sysvi.report(adata, "report.html", embedding={key!r})',
        'adata.write_h5ad("integrated.h5ad")',
    ]
    return "\n".join(lines) + "\n"


def shell_command(record: RunRecord, key: str, chosen: ChosenSettings) -> str | None:
    """The command that integrates and reports; None if an option for a setting is missing."""
    columns, preparation = record.columns, record.preparation
    if any(isinstance(value, Ramp) for value in chosen.settings.values()):
        return None  # the command line takes numbers only
    if any((preparation or {}).get(name, value) != value for name, value in PYTHON_ONLY_DEFAULTS.items()):
        return None
    words: list[list[str]] = [["sysvi", "integrate", "cells.h5ad"], ["--system", columns.system]]

    def add(option: str, value: Any) -> None:
        if value is not None:
            words.append([option, str(value)])

    add("--batch", columns.batch)
    add("--layer", columns.layer if preparation is None else preparation.get("layer"))
    for name in columns.categorical:
        add("--covariate", name)
    for name in columns.continuous:
        add("--continuous", name)
    settings = {**_differing_preparation(preparation or {}), "weight_systems": columns.weight_systems}
    settings |= {"all_genes": preparation is None} | dict(chosen.settings)
    add("--members", chosen.members)
    add("--preset", chosen.preset)
    add("--seed", record.seed)
    add("--key", None if key == "X_sysVI" else key)
    defaults = {f.name: f.default for f in (*fields(ModelSettings), *fields(TrainSettings))}
    for name, value in settings.items():
        option = OPTION_NAMES.get(name, f"--{name.replace('_', '-')}")
        if not isinstance(value, bool):
            add(option, value)
        elif value:
            words.append([option])
        elif defaults.get(name) is True:
            words.append([option.replace("--", "--no-", 1)])
    words.append(["-o", "integrated.h5ad", "--report", "report.html"])
    return " \\\n  ".join(shlex.join(part) for part in words) + "\n"


def r_code(record: RunRecord, key: str, chosen: ChosenSettings) -> str:
    """R code that integrates and reports."""
    columns, preparation = record.columns, record.preparation
    arguments: dict[str, Any] = {"system": columns.system, "batch": columns.batch}
    arguments["covariates"] = list(columns.categorical) or None
    arguments["continuous"] = list(columns.continuous) or None
    options: dict[str, Any] = {"weight_systems": columns.weight_systems or None}
    comment = ""
    if preparation is None:
        comment = f"# features: names of the {record.n_genes:,} genes\n"
    else:
        differing = _differing_preparation(preparation)
        arguments["n_top_genes"], options["min_cells"] = differing.get("n_top_genes"), differing.get("min_cells")
    arguments |= {"members": chosen.members, "preset": chosen.preset, "seed": record.seed}
    for name, value in chosen.settings.items():
        (arguments if name in R_ARGUMENTS else options)[name] = value
    parts = ["object", *(f"{name} = {_r(value)}" for name, value in arguments.items() if value is not None)]
    if preparation is None:
        parts.append("features = features")
    if given := [f"{name} = {_r(value)}" for name, value in options.items() if value is not None]:
        parts.append(f"options = sysvi_options({', '.join(given)})")
    lines = ",\n  ".join(parts)
    name = f", name = {_r(key)}"
    return f'{comment}object <- RunSysVI(\n  {lines}\n)\nReportSysVI(object, "report.html"{name})\n'


def _differing_preparation(preparation: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of `prepare` that differ from their defaults."""
    defaults = {**PREPARE_DEFAULTS, **PYTHON_ONLY_DEFAULTS}
    return {name: preparation[name] for name, usual in defaults.items() if preparation.get(name, usual) != usual}


def _python(value: Any) -> str:
    """A value as Python code."""
    return f"sysvi.{value!r}" if isinstance(value, Ramp) else repr(value)


def _r(value: Any) -> str:
    """A value as R code."""
    if isinstance(value, bool):
        return "TRUE" if value else "FALSE"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, Iterable):
        return f"c({', '.join(map(_r, value))})"
    return repr(value)
