"""The last words of commands: each command that they suggest can be typed as it stands."""

import shlex
from pathlib import Path

import pytest

from sysvi.cli import main
from sysvi.closing import of_compare, of_integrate, of_map, of_prepare, of_tune
from sysvi.data.columns import Columns

PLAIN, ODD = Columns("species"), Columns("the species", "donor's")
IN, OUT, FOLDER = Path("my cells.h5ad"), Path("out/integrated v1.h5ad"), Path("out.v1")


def integrated(columns, key="X_sysVI", label=None, report=None, model=None, output=OUT, has_expression=True):
    given = {"label_key": label, "shape": (1200, 30), "n_members": 8, "report": report, "model": model}
    given["has_expression"] = has_expression
    return of_integrate(output, columns, key, **given)


def tuned(n_without_result=0, label=None, report=None):
    given = {"label_key": label, "setting": "cycle weight 5", "n_runs": 6, "report": report}
    return of_tune(FOLDER, FOLDER / "integrated.h5ad", ODD, n_without_result=n_without_result, **given)


CLOSINGS = {
    "integrate": integrated(PLAIN),
    "integrate with all": integrated(ODD, "X_own", "cell type", Path("r.html"), FOLDER),
    "integrate in place": integrated(PLAIN, model=FOLDER, output=Path("cells.zarr")),
    "integrate without expression": integrated(PLAIN, has_expression=False),
    "prepare": of_prepare(OUT, ODD, (1200, 30)),
    "prepare from disk": of_prepare(Path("cells.zarr"), PLAIN, None),
    "map": of_map(IN, OUT, FOLDER, "X_sysVI", 50, None, None),
    "map with labels": of_map(IN, OUT, FOLDER, "X_own", 50, "cell type", 3),
    "tune": tuned(),
    "tune with all": tuned(2, "cell type", Path("r.html")),
    "compare": of_compare(FOLDER, "sysVI", 12, 0, None),
    "compare without results": of_compare(FOLDER, None, 12, 12, None),
}


@pytest.mark.parametrize("name", CLOSINGS)
def test_commands_are_understood(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("REFERENCE.h5ad").touch()  # stands for a file of the user
    for step in CLOSINGS[name].steps:
        words = shlex.split(step.command)
        if words[0] != "sysvi":
            assert words == ["r.html"]
            continue
        context = main.commands[words[1]].make_context(words[1], words[2:])
        values = list(context.params.values())
        for option in ("--system", "--batch", "--label", "--key", "--model"):
            if option in words:
                assert any(str(value) == words[words.index(option) + 1] for value in values)


def test_principal_components_are_not_suggested_without_expression():
    (command,) = [step.command for step in CLOSINGS["integrate without expression"].steps if "evaluate" in step.command]
    assert "--embedding X_sysVI" in command
    assert "X_pca" not in command


def test_what_was_done_is_said():
    assert CLOSINGS["integrate"].lines("2 s", 0)[0] == "Done in 2 s. Integrated 1,200 cells on 30 genes with 8 models."
    assert CLOSINGS["map with labels"].done == "Mapped 50 cells and labelled 47 of them"
    assert CLOSINGS["tune with all"].done == (
        "Compared 6 runs and chose cycle weight 5; 2 runs have no result (the same command tries again)"
    )
    assert CLOSINGS["compare"].done == "Compared methods over 12 runs; sysVI has the highest score"
    assert CLOSINGS["compare"].lines("1 h 2 min", 2) == [
        "Done in 1 h 2 min. Compared methods over 12 runs; sysVI has the highest score. 2 warnings above.",
        "Next:",
        "  All runs on one page, with why:",
        "    sysvi report out.v1 -o out.v1.html",
    ]


def test_files_of_a_report_are_named_after_the_results():
    commands = [step.command for step in CLOSINGS["integrate"].steps]
    assert commands[0] == "sysvi report 'out/integrated v1.h5ad' -o 'out/integrated v1.html'"
    assert "--label CELL_TYPE" in commands[1]
    assert "--label 'cell type' --embedding X_pca --embedding X_own" in CLOSINGS["integrate with all"].steps[1].command
