"""The command and the code of a report make the same embedding again, to the bit."""

import ast
import shlex
import warnings
from dataclasses import replace

import anndata
import numpy as np
import pytest
from click.testing import CliRunner

import sysvi
from sysvi import ModelSettings, Ramp, TrainSettings
from sysvi._core.settings import CONSERVATIVE, MIXING, PAPER
from sysvi.cli import main
from sysvi.data.columns import Columns
from sysvi.reporting.recipe import (
    chosen_settings,
    comparison_recipes,
    python_code,
    r_code,
    recipes,
    shell_command,
    tuning_recipes,
)
from sysvi.reporting.run_record import RunRecord, read_record


def make_record(preset, n_cells, columns=None, preparation=None, n_systems=2, **train):
    """The record of a run with the settings of a preset and some others."""
    given = preset.settings_for(n_cells, n_systems) | train
    parts = [
        kind(**{name: value for name, value in given.items() if name in kind.__dataclass_fields__})
        for kind in (ModelSettings, TrainSettings)
    ]
    seeds = tuple(range(preset.members))
    columns = columns or Columns("system", "batch")
    losses = ({"epoch": []},) * len(seeds)
    return RunRecord(columns, 9, n_systems, *parts, 7, seeds, losses, None, "finished", {}, (), preparation)


@pytest.mark.parametrize("n_systems", [2, 3])
@pytest.mark.parametrize("preset", [MIXING, CONSERVATIVE, PAPER])
def test_a_preset_is_recognised(preset, n_systems):
    chosen = chosen_settings(make_record(preset, 5_000, n_systems=n_systems), 5_000)
    names = {id(MIXING): "mixing", id(CONSERVATIVE): None, id(PAPER): "paper"}  # the default needs no name
    assert chosen.preset == names[id(preset)]
    assert (chosen.members, dict(chosen.settings)) == (None, {})


def test_ramps_are_numbers_where_the_preset_has_the_same_ramp():
    chosen = chosen_settings(make_record(MIXING, 900, cycle_weight=2), 900)
    assert chosen.settings == {"cycle_weight": 2}
    record = make_record(MIXING, 900, cycle_weight=Ramp(2, 0, 0.5))
    chosen = chosen_settings(record, 900)
    assert chosen.settings == {"cycle_weight": Ramp(2, 0, 0.5)}
    assert shell_command(record, "X_sysVI", chosen) is None
    assert "cycle_weight=sysvi.Ramp(value=2.0, start=0.0, end=0.5)" in python_code(record, "X_sysVI", chosen)
    assert "cycle_weight = c(2.0, 0.0, 0.5)" in r_code(record, "sysvi", chosen)


def test_odd_names_are_quoted():
    odd = 'it\'s "a" $(rm) \\ column'
    record = make_record(MIXING, 900, Columns(odd, None, odd, (odd,), (odd,), True))
    chosen = chosen_settings(record, 900)
    words = shlex.split(shell_command(record, odd, chosen).replace("\\\n", ""))
    for option in ("--system", "--layer", "--covariate", "--continuous", "--key"):
        assert words[words.index(option) + 1] == odd
    assert {"--weight-systems", "--all-genes"} <= set(words)
    tree = ast.parse(python_code(record, odd, chosen))
    assert [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)].count(odd) == 6


def test_what_only_python_can_set_is_not_given_to_the_shell():
    preparation = {"normalize": True, "target_sum": 1e3, "flavor": "cell_ranger", "n_top_genes": 3000, "min_cells": 20}
    record = make_record(MIXING, 900, preparation=preparation)
    assert [recipe.language for recipe in recipes(record, "X_sysVI", 900, False)] == ["python"]
    assert "target_sum=1000.0" in recipes(record, "X_sysVI", 900, False)[0].code
    assert [recipe.language for recipe in recipes(record, "sysvi", 900, True)] == ["r"]


@pytest.mark.slow
def test_command_and_code_give_the_same_bits(input_cells, integrated, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    input_cells.write_h5ad("cells.h5ad")
    shell, python = recipes(read_record(integrated), "X_sysVI", integrated.n_obs, False)
    words = shlex.split(shell.code.replace("\\\n", ""))
    words = words[1 : words.index("--report")]  # the report itself is tested elsewhere
    result = CliRunner().invoke(main, [*words, "--quiet"])
    assert result.exit_code == 0, result.output
    found = anndata.read_h5ad("integrated.h5ad")
    np.testing.assert_array_equal(found.obsm["X_sysVI"], integrated.obsm["X_sysVI"])
    code = "\n".join(line for line in python.code.splitlines() if not line.startswith("sysvi.report"))
    names = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exec(code, names)
    np.testing.assert_array_equal(names["adata"].obsm["X_sysVI"], integrated.obsm["X_sysVI"])
    again, record = read_record(names["adata"]), read_record(integrated)
    assert replace(again, agreement=None) == replace(record, agreement=None)
    assert sysvi.__version__ in again.versions["sysvi"]


PREPARATION = {"n_top_genes": 500, "min_cells": 20, "normalize": True, "fractional_counts": True, "layer": "counts"}
TRIED = {"cycle_weights": [0.0, 5.5], "kl_weights": [1.0], "priors": ["vamp", "gmm"], "seeds": [0, 1]}
TRIED |= {"label_key": "cell type", "min_cells": 30, "max_cells": 50_000}


def understood(code):
    """What the command line makes of a command: its options by name."""
    words = shlex.split(code.replace("\\\n", ""))
    assert words[0] == "sysvi"
    return main.commands[words[1]].make_context(words[1], words[2:]).params


def arguments_of(code, function):
    """The arguments by name that Python code gives a function."""
    calls = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Call)]
    (call,) = [node for node in calls if ast.unparse(node.func) == function]
    return {keyword.arg: ast.literal_eval(keyword.value) for keyword in call.keywords}


def test_a_tuning_is_made_again_with_its_arguments():
    columns = Columns("the system", "batch", None, ("sex",), (), True)
    record = make_record(CONSERVATIVE, 900, columns, PREPARATION, lr=0.5)
    shell, python = tuning_recipes(record, TRIED, 900)
    given = understood(shell.code)
    assert given["cycle_weights"] == (0, 5.5)
    assert (given["kl_weights"], given["priors"], given["seeds"]) == ((1,), ("vamp", "gmm"), 2)
    assert (given["system_key"], given["label_key"], given["layer"]) == ("the system", "cell type", "counts")
    assert (given["n_top_genes"], given["fractional_counts"], given["min_cells"]) == (500, True, 30)
    assert (given["lr"], given["weight_systems"], given["categorical_covariate_keys"]) == (0.5, True, ("sex",))
    given = arguments_of(python.code, "sysvi.tune")
    assert {name: given[name] for name in TRIED} == TRIED
    assert (given["lr"], given["weight_systems"], given["categorical_covariate_keys"]) == (0.5, True, ["sex"])
    assert "cycle_weight" not in given
    assert arguments_of(python.code, "sysvi.prepare")["n_top_genes"] == 500


@pytest.mark.parametrize(
    ("arguments", "preparation"),
    [({"seeds": [3]}, {}), ({"max_cells": 100}, {}), ({}, {"min_cells": 3}), ({}, {"target_sum": 1e6}), ({}, None)],
)
def test_what_the_command_line_cannot_say_is_python_only(arguments, preparation):
    given = None if preparation is None else PREPARATION | preparation
    (only,) = tuning_recipes(make_record(CONSERVATIVE, 900, preparation=given), TRIED | arguments, 900)
    assert only.language == "python"
    ast.parse(only.code)


def test_a_comparison_is_made_again_with_its_arguments():
    arguments = {"system_key": "the system", "batch_key": "batch", "label_key": "type", "layer": None, "epochs": 3}
    arguments |= {"methods": ["pca", "scvi"], "grid": "default", "seeds": [0, 1], "timeout": 60.0, "jobs": 2}
    arguments |= {"min_cells": 20, "own_adapters": False}
    shell, python = comparison_recipes(arguments)
    given = understood(shell.code)
    expected = {name: value for name, value in arguments.items() if name != "own_adapters"}
    assert {name: given[name] for name in expected} == expected | {"methods": "pca,scvi", "seeds": 2}
    assert arguments_of(python.code, "sysvi.compare") == {n: v for n, v in expected.items() if v is not None}
    (only,) = comparison_recipes(arguments | {"seeds": [5], "own_adapters": True})
    assert arguments_of(only.code, "sysvi.compare")["adapters"] == "adapters"
