"""The command and the code that make an integration, a tuning or a comparison again."""

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
MAX_CELLS_OF_TUNE = 50_000  # that sysvi.tune measures on by default
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
    given = preset.settings_for(n_cells, record.n_systems)
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


def differing_settings(record: RunRecord, n_cells: int) -> dict[str, Any]:
    """Settings of a run that the default preset does not give, as arguments of a function that has no presets."""
    return _differing(record, DEFAULT_PRESET, n_cells)


def tuning_recipes(record: RunRecord, arguments: Mapping[str, Any], n_cells: int) -> list[Recipe]:
    """The ways to make a tuning again: the command line, if it has an option for all settings, and Python.

    Parameters
    ----------
    record
        How the models of the chosen setting were made.
    arguments
        Arguments of the tuning, as in :class:`sysvi.tuning.tune.Tuning`.
    n_cells
        Number of cells.
    """
    tried = ("cycle_weights", "kl_weights", "priors", "seeds")
    shared = {name: v for name, v in differing_settings(record, n_cells).items() if f"{name}s" not in tried}
    columns, preparation, seeds = record.columns, record.preparation or {}, arguments["seeds"]
    given = {
        "label_key": arguments["label_key"],
        "layer": columns.layer,
        **{name: arguments[name] for name in tried},
        "categorical_covariate_keys": list(columns.categorical) or None,
        "continuous_covariate_keys": list(columns.continuous) or None,
        "weight_systems": columns.weight_systems or None,
        "min_cells": arguments["min_cells"],
        "max_cells": arguments["max_cells"],
        **shared,
        "output": "tuning",
    }
    lines = [
        *_preparation_lines(record),
        "tuning = sysvi.tune(",
        "    adata,",
        f"    {columns.system!r},",
        f"    {columns.batch!r},",
        *(f"    {name}={_python(value)}," for name, value in given.items() if value is not None),
        ")",
        'sysvi.report(tuning, "tuning.html")',
    ]
    python = Recipe("In Python", "python", "\n".join(lines) + "\n")
    not_given = ("min_cells", *PYTHON_ONLY_DEFAULTS)  # of the preparation: sysvi tune has no options for these
    usual = PREPARE_DEFAULTS | PYTHON_ONLY_DEFAULTS
    if (
        any(isinstance(value, Ramp) for value in shared.values())
        or record.preparation is None
        or any(preparation.get(name, usual[name]) != usual[name] for name in not_given)
        or seeds != list(range(len(seeds)))
        or arguments["max_cells"] != MAX_CELLS_OF_TUNE
    ):
        return [python]
    words = [["sysvi", "tune", "cells.h5ad"], *_column_words(record)]
    if arguments["label_key"] is not None:
        words.append(["--label", arguments["label_key"]])
    for name in tried[:3]:
        words += [[f"--{name.removesuffix('s').replace('_', '-')}", f"{value}"] for value in arguments[name]]
    words += [["--seeds", str(len(seeds))], ["--min-cells", str(arguments["min_cells"])]]
    words += _setting_words(_differing_preparation(preparation) | {"weight_systems": columns.weight_systems} | shared)
    words.append(["-o", "tuning", "--report", "tuning.html"])
    return [Recipe("In a shell", "sh", _command(words)), python]


def comparison_recipes(arguments: Mapping[str, Any]) -> list[Recipe]:
    """The ways to make a comparison again; `arguments` are those of :class:`sysvi.comparison.result.Comparison`."""
    names = ("system_key", "batch_key", "label_key", "layer", "methods", "grid", "seeds", "epochs", "timeout", "jobs")
    given = {name: arguments[name] for name in (*names, "min_cells") if arguments[name] is not None}
    if arguments["own_adapters"]:
        given["adapters"] = "adapters"
    lines = [
        "import anndata",
        "import sysvi",
        "",
        'cells = anndata.read_h5ad("cells.h5ad")',
        "comparison = sysvi.compare(",
        "    cells,",
        '    "comparison",',
        *(f"    {name}={_python(value)}," for name, value in given.items()),
        ")",
        'sysvi.report(comparison, "comparison.html")',
    ]
    python = Recipe("In Python", "python", "\n".join(lines) + "\n")
    seeds = given.pop("seeds")
    if seeds != list(range(len(seeds))):
        return [python]
    given |= {"seeds": len(seeds), "methods": ",".join(given["methods"])}
    words = [["sysvi", "compare", "cells.h5ad"]]
    words += [[f"--{name.removesuffix('_key').replace('_', '-')}", str(value)] for name, value in given.items()]
    words.append(["-o", "comparison", "--report", "comparison.html"])
    return [Recipe("In a shell", "sh", _command(words)), python]


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
    columns = record.columns
    lines = _preparation_lines(record)
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


def _preparation_lines(record: RunRecord) -> list[str]:
    """Python code that reads and prepares the cells."""
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
    return lines


def shell_command(record: RunRecord, key: str, chosen: ChosenSettings) -> str | None:
    """The command that integrates and reports; None if an option for a setting is missing."""
    columns, preparation = record.columns, record.preparation
    if any(isinstance(value, Ramp) for value in chosen.settings.values()):
        return None  # the command line takes numbers only
    if any((preparation or {}).get(name, value) != value for name, value in PYTHON_ONLY_DEFAULTS.items()):
        return None
    words = [["sysvi", "integrate", "cells.h5ad"], *_column_words(record)]
    settings = {**_differing_preparation(preparation or {}), "weight_systems": columns.weight_systems}
    settings |= {"all_genes": preparation is None} | dict(chosen.settings)
    given = {"--members": chosen.members, "--preset": chosen.preset, "--seed": record.seed}
    given["--key"] = None if key == "X_sysVI" else key
    words += [[option, str(value)] for option, value in given.items() if value is not None]
    words += _setting_words(settings)
    words.append(["-o", "integrated.h5ad", "--report", "report.html"])
    return _command(words)


def _column_words(record: RunRecord) -> list[list[str]]:
    """Options for the columns and the layer."""
    columns, preparation = record.columns, record.preparation
    layer = columns.layer if preparation is None else preparation.get("layer")
    options = [("--system", columns.system), ("--batch", columns.batch), ("--layer", layer)]
    options += [("--covariate", name) for name in columns.categorical]
    options += [("--continuous", name) for name in columns.continuous]
    return [[option, str(value)] for option, value in options if value is not None]


def _setting_words(settings: Mapping[str, Any]) -> list[list[str]]:
    """Options for settings; those that are True or False have no value."""
    defaults = {f.name: f.default for f in (*fields(ModelSettings), *fields(TrainSettings))}
    words = []
    for name, value in settings.items():
        option = OPTION_NAMES.get(name, f"--{name.replace('_', '-')}")
        if not isinstance(value, bool):
            words += [] if value is None else [[option, str(value)]]
        elif value:
            words.append([option])
        elif defaults.get(name) is True:
            words.append([option.replace("--", "--no-", 1)])
    return words


def _command(words: Iterable[list[str]]) -> str:
    """A command of options with their values, one a line."""
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
