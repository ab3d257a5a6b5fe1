"""`sysvi compare` with small adapters written here: runs that finish, fail, are interrupted and reused; its files."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import anndata
import matplotlib.image
import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

import sysvi
from sysvi import InputError
from sysvi.cli import main
from sysvi.comparison.methods import ADAPTERS, choose_methods, read_methods
from sysvi.comparison.tables import scored_runs, summary_table

pytestmark = pytest.mark.filterwarnings("ignore:Only .* genes remain")

COLUMNS = {"system_key": "system", "batch_key": "batch", "label_key": "cell_type"}
OPTIONS = ["--system", "system", "--batch", "batch", "--label", "cell_type"]
QUICK = {"min_cells": 20, "progress": False}
PATIENCE = 600  # seconds that a busy machine may take

HEADER = """# /// script
# dependencies = []
#
# [tool.sysvi]
# package = "numpy"
# imports = ["numpy"]
#
# [tool.sysvi.methods.{name}]
# title = "{name}"
# {further}
# ///
import json, os, sys, time
import h5py, numpy as np

run = json.loads(sys.argv[3])
with h5py.File(sys.argv[1]) as file:
    system = file["obs/system/codes"][:]
    label = file["obs/label/codes"][:]
rng = np.random.default_rng(run["seed"])
embedding = np.eye(8)[label] * 3 + rng.normal(size=(len(system), 8))
"""
GOOD = """
embedding[:, 0] += run["settings"]["shift"] * system
np.save(sys.argv[2], embedding)
with open(os.environ["COUNTER"], "a") as file:
    file.write(json.dumps(run) + "\\n")
"""
SLOW = """
if run["seed"] == 1 and "IN_NO_HURRY" in os.environ:
    with open(os.environ["IN_NO_HURRY"] + ".part", "w") as file:
        file.write(str(os.getpid()))
    os.rename(file.name, os.environ["IN_NO_HURRY"])
    time.sleep(6000)  # longer than the test waits for the end of this process
"""


@pytest.fixture(scope="module")
def cells():
    return sysvi.datasets.simulate_systems(240, 120, n_types=3, n_private=0, n_samples=2, seed=1)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Folder for adapters and results; its file `counter` gets a line for each run of the adapter `good`."""
    monkeypatch.setenv("COUNTER", str(tmp_path / "counter"))
    monkeypatch.setattr("sysvi.comparison.figures.plot_umaps", lambda *arguments: None)  # takes seconds
    (tmp_path / "adapters").mkdir()
    return tmp_path


def adapter(folder, name, body, further=""):
    text = HEADER.format(name=name, further=further) + body
    (folder / "adapters" / f"{name}.py").write_text(text)


def good(folder, body=GOOD):
    adapter(folder, "good", body, "settings = { shift = 1 }\n# grid = { shift = [0, 1.5, 9] }")


def times_run(folder):
    counter = folder / "counter"
    return len(counter.read_text().splitlines()) if counter.exists() else 0


def compare(cells, folder, methods, **arguments):
    return sysvi.compare(
        cells, folder / "out", methods=methods, adapters=folder / "adapters", **COLUMNS, **(QUICK | arguments)
    )


# -- adapters ---------------------------------------------------------------------------------------------------------


def test_the_adapters_declare_the_methods_of_the_paper():
    known = read_methods()
    names = (
        "sysvi cvae vamp cyc adv pca harmony scvi scvi-sysvi drvi glue concord scvital seurat-cca seurat-rpca "
        "harmony-r stacas scmgca scgen scanvi saturn"
    )
    assert list(known) == names.split()
    for method in known.values():
        assert all(method.grid.values())
        assert len(method.grid_points("default")) == 1
    assert known["glue"].grid_points("full") == [
        (parameter, value) for parameter, values in known["glue"].grid.items() for value in values
    ]
    assert len(known["glue"].grid_points("full")) == 12
    assert known["pca"].grid_points("full") == [("", None)]
    assert [name for name in known if known[name].labels] == ["scgen", "scanvi"]
    assert {known[name].requires_python for name in ("scvi", "scvi-sysvi", "scanvi", "drvi")} == {">=3.12"}
    assert known["harmony-r"].sources == {"HARMONY_SOURCE": "harmony"}
    assert known["stacas"].sources == {"STACAS_SOURCE": "STACAS"}
    assert known["sysvi"].grid_points("default") == [("cycle_weight", 10)]


def test_adapters_read_arguments_and_write_what_they_are_told():
    """Most methods cannot be installed here, so only this is tested: each script compiles and takes three arguments."""
    for script in ADAPTERS.glob("*.py"):
        compile(script.read_text(), script, "exec")
        assert "main(sys.argv[1], sys.argv[2], json.loads(sys.argv[3]))" in script.read_text()


def test_methods_are_chosen_once_each(folder):
    good(folder)
    known = read_methods([ADAPTERS, folder / "adapters"])
    assert [method.name for method in choose_methods(known, ["good", "pca", "good"])] == ["good", "pca"]
    assert len(choose_methods(known, "all")) == 22
    with pytest.raises(InputError, match="no method scvy"):
        choose_methods(known, ["scvy"])
    with pytest.raises(InputError, match="methods is empty"):
        choose_methods(known, [])


def test_a_script_without_a_header_is_named_and_shared_code_is_not(tmp_path):
    for name in ("common.py", "common.R", "__init__.py"):
        (tmp_path / name).write_text("1\n")
    assert read_methods([tmp_path]) == {}
    (tmp_path / "mine.py").write_text("1\n")
    with pytest.raises(InputError, match=r"header of the adapter .*mine\.py is invalid: it has none"):
        read_methods([tmp_path])


@pytest.mark.parametrize("further", ["grid = { shift = [1] }", "settings = {", "colour = 'red'"])
def test_a_header_that_cannot_be_read_is_named(folder, further):
    adapter(folder, "bad", "", further)
    with pytest.raises(InputError, match=r"header of the adapter .*bad\.py"):
        read_methods([folder / "adapters"])


def test_a_source_is_that_of_an_r_package_of_the_adapter(folder):
    good(folder)
    path = folder / "adapters" / "good.py"
    text = path.read_text().replace("# [tool.sysvi.methods", '# sources = { TINY = "tiny" }\n# [tool.sysvi.methods')
    path.write_text(text)
    with pytest.raises(InputError, match="its sources name tiny, which is no R package among its dependencies"):
        read_methods([folder / "adapters"])


def test_an_adapter_names_the_python_that_it_needs(folder):
    good(folder)
    path = folder / "adapters" / "good.py"
    text = path.read_text()
    assert read_methods([folder / "adapters"])["good"].requires_python == ""
    path.write_text(text.replace("# dependencies", '# requires-python = ">=3.12"\n# dependencies'))
    assert read_methods([folder / "adapters"])["good"].requires_python == ">=3.12"
    path.write_text(text.replace("# dependencies", '# requires-python = "the newest"\n# dependencies'))
    with pytest.raises(InputError, match=r"header of the adapter .*good\.py is invalid: Invalid specifier"):
        read_methods([folder / "adapters"])


# -- runs -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(cells, tmp_path_factory):
    """A comparison with one adapter that works and several that fail, each for another reason."""
    folder = tmp_path_factory.mktemp("compare")
    (folder / "adapters").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COUNTER", str(folder / "counter"))
        good(folder)
        adapter(folder, "raises", "raise ValueError('no mass')\n")
        adapter(folder, "silent", "")
        adapter(folder, "short", "np.save(sys.argv[2], embedding[1:])\n")
        adapter(folder, "nan", "np.save(sys.argv[2], embedding * np.nan)\n")
        adapter(folder, "homeless", "")
        path = folder / "adapters" / "homeless.py"
        path.write_text(
            path.read_text().replace("# [tool.sysvi.methods", '# paths = { NOWHERE = "a map" }\n# [tool.sysvi.methods')
        )
        patch.delenv("NOWHERE", raising=False)
        names = ["good", "raises", "silent", "short", "nan", "homeless"]
        return compare(cells, folder, names, seeds=2, jobs=2), folder


@pytest.mark.slow
def test_failures_are_listed_with_their_reason_and_do_not_end_the_comparison(finished):
    found, _ = finished
    runs, methods = found.runs, found.methods.set_index("method")
    assert (runs.loc[runs["method"] == "good", "status"] == "finished").all()
    assert set(runs.loc[~runs["method"].isin(["good"]), "status"]) == {"failed"}
    expected = {
        "good": "",
        "raises": "ValueError: no mass",
        "silent": "wrote no embedding",
        "short": r"shape \(239, 8\); it must have one row for each of the 240 cells",
        "nan": "not finite",
        "homeless": "NOWHERE is not set; set it to the path of a map",
    }
    for name, reason in expected.items():
        assert pd.Series(methods.loc[name, "reason"]).str.contains(reason).all(), (name, methods.loc[name, "reason"])
    assert methods["available"].to_dict() == {name: name != "homeless" for name in expected}
    assert methods.loc["good", "version"] == np.__version__
    assert methods["failed"].to_dict() == {
        name: 2 if methods.loc[name, "available"] and name != "good" else 0 for name in expected
    }


@pytest.mark.slow
def test_every_setting_is_run_with_every_seed(finished):
    found, folder = finished
    runs = found.runs[found.runs["method"] == "good"]
    assert runs[["parameter", "value", "seed"]].values.tolist() == [
        ["shift", v, s] for v in (0, 1.5, 9) for s in (0, 1)
    ]
    orders = [json.loads(line) for line in (folder / "counter").read_text().splitlines()]
    key = lambda order: (order["settings"]["shift"], order["seed"])  # noqa: E731
    assert sorted(map(key, orders)) == [(v, s) for v in (0, 1.5, 9) for s in (0, 1)]
    assert all(order["epochs"] is None for order in orders)
    assert (runs["seconds"] > 0).all()
    assert runs["peak_mb"].between(10, 1000).all()


@pytest.mark.slow
def test_scores_are_those_of_evaluate(finished, cells):
    found, folder = finished
    run = found.runs.iloc[3]
    [path] = (folder / "out" / "cells").glob("*/cells.h5ad")
    prepared = anndata.read_h5ad(path)
    prepared.obsm["X"] = np.load(folder / "out" / "runs" / run["run"] / "embedding.npy")
    keys = {"system_key": "system", "batch_key": "batch", "label_key": "label"}
    table = sysvi.evaluate(prepared, "X", **keys, **QUICK)
    assert table["X"].notna().sum() > 15
    for metric, value in table["X"].items():
        assert run[metric] == pytest.approx(value, rel=1e-6, nan_ok=True), metric
    assert set(prepared.obs["label"]) == set(cells.obs["cell_type"])


@pytest.mark.slow
def test_the_setting_is_chosen_by_the_paper_s_rule(finished):
    found, _ = finished
    runs = found.runs[found.runs["method"] == "good"].set_index(["value", "seed"])
    low, high = (
        runs.groupby("method")[["iLISI", "NMI", "Moran"]].min(),
        runs.groupby("method")[["iLISI", "NMI", "Moran"]].max(),
    )
    scaled = (runs[["iLISI", "NMI", "Moran"]] - low.iloc[0]) / (high.iloc[0] - low.iloc[0]).replace(0, 1)
    score = 0.4 * scaled["iLISI"] + 0.3 * scaled["NMI"] + 0.3 * scaled["Moran"]
    best = score.groupby("value").mean().idxmax()
    np.testing.assert_allclose(runs["score"], score, atol=1e-12)
    assert set(runs.index[runs["chosen"]]) == {(best, 0), (best, 1)}
    assert runs["representative"].sum() == 1
    (row,) = found.table.to_dict("records")
    assert (row["method"], row["value"], row["runs"]) == ("good", best, 2)
    assert row["iLISI"] == pytest.approx(runs.loc[best, "iLISI"].mean())
    assert row["iLISI sd"] == pytest.approx(runs.loc[best, "iLISI"].std())


@pytest.mark.slow
def test_everything_is_written(finished):
    found, folder = finished
    out = folder / "out"
    for name in ("runs", "methods", "table"):
        written = pd.read_csv(out / f"{name}.csv")
        assert list(written.columns) == list(getattr(found, name).columns)
        assert len(written) == len(getattr(found, name))
    assert (out / "tests.csv").exists()
    assert json.loads((out / "versions.json").read_text())["good"]["numpy"] == np.__version__
    assert "Up to 2 runs were made at the same time" in (out / "notes.txt").read_text()
    for name in ("comparison", "umaps"):
        image = matplotlib.image.imread(out / f"{name}.png")
        assert 0.002 < (image[..., :3].min(-1) < 0.9).mean() < 0.5  # neither empty nor black
    assert not [path for path in (out / "runs").iterdir() if path.name.startswith(".")]
    assert {path.suffix for path in (out / "runs").iterdir() if path.is_file()} == {".log"}  # of what failed


@pytest.mark.slow
def test_unlabelled_cells_are_integrated_but_not_scored_by_label(cells, folder):
    """Missing and meaningless labels are treated alike, and scores are those of the input's own labels."""
    good(folder)
    label = cells.obs["cell_type"].astype(object)
    label[::11] = "Unknown"
    label[5::11] = np.nan
    label[7::11] = ""
    adata = cells.copy()
    adata.obs["cell_type"] = label
    found = compare(adata, folder, ["good"], grid="default", seeds=1)
    [path] = (folder / "out" / "cells").glob("*/cells.h5ad")
    written = anndata.read_h5ad(path)
    unlabelled = label.isna() | label.isin(["Unknown", ""])
    assert (written.obs["label"][unlabelled.to_numpy()] == "unlabelled").all()
    assert (written.obs["label"][~unlabelled.to_numpy()].astype(str) == label[~unlabelled]).all()
    run = found.runs.iloc[0]
    written.obsm["X"] = np.load(folder / "out" / "runs" / run["run"] / "embedding.npy")
    assert len(written.obsm["X"]) == cells.n_obs
    written.obs["cell_type"] = label
    table = sysvi.evaluate(written, "X", system_key="system", batch_key="batch", label_key="cell_type", **QUICK)
    for metric, value in table["X"].items():
        assert run[metric] == pytest.approx(value, rel=1e-6, nan_ok=True), metric


@pytest.mark.slow
def test_importing_compare_imports_no_figures():
    probe = "import sys; from sysvi.comparison.compare import compare; print('sysvi.comparison.figures' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", probe], text=True).strip() == "False"


@pytest.mark.slow
def test_methods_are_ranked_and_tested(cells, folder):
    good(folder)
    adapter(folder, "apart", "embedding[:, 1] += 50 * system\nnp.save(sys.argv[2], embedding)\n")
    adapter(folder, "steady", "np.save(sys.argv[2], np.eye(8)[label])\n", "deterministic = true")
    found = compare(cells, folder, ["apart", "good", "steady"], grid="default", seeds=[3, 5], jobs=2)
    assert found.table["method"].iloc[-1] == "apart"
    assert found.table.set_index("method")["runs"].to_dict() == {"good": 2, "apart": 2, "steady": 1}
    assert found.runs["seed"].tolist() == [3, 5, 3, 5, 3]
    assert found.runs["overall"].between(0, 1).all()
    tested = found.tests.set_index(["metric", "method_a", "method_b"])
    assert tested.loc[("iLISI", "apart", "good"), "difference"] < 0
    assert tested.loc[("iLISI", "apart", "steady"), "note"] == "fewer than two runs"
    assert any("default value of its tuned parameter" in note for note in found.notes)


# -- runs are kept ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_finished_runs_are_reused(cells, folder):
    good(folder)
    first = compare(cells, folder, ["good"], grid="default", seeds=2)
    assert times_run(folder) == 2
    second = compare(cells, folder, ["good"], grid="default", seeds=2)
    assert times_run(folder) == 2
    pd.testing.assert_frame_equal(first.runs, second.runs)
    compare(cells, folder, ["good"], grid="default", seeds=3)  # one more seed
    assert times_run(folder) == 3
    good(folder, "# another text\n" + GOOD)
    compare(cells[::-1].copy(), folder, ["good"], grid="default", seeds=1)
    assert times_run(folder) == 4
    compare(cells, folder, ["good"], grid="default", seeds=1)  # another adapter than at first, other cells than before
    assert times_run(folder) == 5


@pytest.mark.slow
def test_a_second_comparison_in_the_folder_is_refused_and_does_not_disturb_the_first(cells, folder):
    adapter(folder, "steady", "np.save(sys.argv[2], embedding)\n", "settings = { k = 1 }\n# grid = { k = [1, 2] }")
    refused = []

    def start_another_comparison(event):
        if event.message.endswith("since the start)"):
            with pytest.raises(InputError, match=r"Another run is working in the folder .*out"):
                compare(cells, folder, ["steady"], seeds=1)
            refused.append(event)

    found = compare(cells, folder, ["steady"], seeds=1, progress=start_another_comparison)
    assert len(refused) == 2
    assert found.runs["status"].tolist() == ["finished", "finished"]
    assert compare(cells[::-1].copy(), folder, ["steady"], seeds=1).runs["status"].tolist() == ["finished"] * 2


@pytest.mark.slow
@pytest.mark.parametrize("damage", [lambda b: b[:-8], lambda b: b[:20], lambda b: b""])
def test_a_damaged_embedding_is_made_anew(cells, folder, damage):
    good(folder)
    [run] = compare(cells, folder, ["good"], grid="default", seeds=1).runs["run"]
    path = folder / "out" / "runs" / run / "embedding.npy"
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    (path.parents[1] / ".killed.abc").mkdir()
    assert compare(cells, folder, ["good"], grid="default", seeds=1).runs["status"].tolist() == ["finished"]
    assert path.read_bytes() == whole
    assert not list(path.parents[1].glob(".*"))


@pytest.mark.slow
def test_interrupted_while_measuring(cells, folder):
    for name in ("first", "second"):
        adapter(folder, name, "np.save(sys.argv[2], embedding)\n")

    def stop(event):
        if event.message.startswith("Measuring 1 run of second"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compare(cells, folder, ["first", "second"], seeds=1, progress=stop)
    assert pd.read_csv(folder / "out" / "runs.csv")["status"].tolist() == ["finished", "not run"]
    found = compare(cells, folder, ["first", "second"], seeds=1)
    assert found.runs["status"].tolist() == ["finished", "finished"]


@pytest.mark.slow
def test_figures_of_an_earlier_comparison_are_removed_and_notes_are_kept(cells, folder):
    good(folder)
    adapter(folder, "raises", "raise ValueError('no mass')\n")
    compare(cells, folder, ["good"], grid="default", seeds=2, jobs=2)
    assert (
        "Up to 2 runs were made at the same time" in compare(cells, folder, ["good"], grid="default", seeds=2).notes[-1]
    )
    assert not any("at the same time" in note for note in compare(cells[1:].copy(), folder, ["good"], seeds=1).notes)
    assert (folder / "out" / "comparison.png").exists()
    compare(cells, folder, ["raises"], seeds=1)
    assert not (folder / "out" / "comparison.png").exists()


@pytest.mark.slow
def test_incomplete_runs_are_made_again(cells, folder):
    good(folder)
    runs = compare(cells, folder, ["good"], grid="default", seeds=7).runs["run"]
    places = [folder / "out" / "runs" / run for run in runs]
    (places[0] / "embedding.npy").unlink()
    (places[1] / "run.json").write_text((places[1] / "run.json").read_text()[:40])
    record = json.loads((places[2] / "run.json").read_text())
    record["identity"]["settings"]["shift"] = 7
    (places[2] / "run.json").write_text(json.dumps(record))
    np.save(places[3] / "embedding.npy", np.load(places[3] / "embedding.npy")[::-1])
    (places[4] / "embedding.npy").write_bytes((places[4] / "embedding.npy").read_bytes()[:-8])
    record = (places[5] / "run.json").read_text()
    (places[5] / "run.json").write_text(record.replace('"NMI": 0.', '"NMI": 1.'))
    assert record != (places[5] / "run.json").read_text()
    found = compare(cells, folder, ["good"], grid="default", seeds=7)
    assert times_run(folder) == 7 + 6
    assert found.runs["status"].tolist() == ["finished"] * 7


@pytest.mark.slow
def test_a_run_that_failed_is_tried_again(cells, folder):
    good(folder, "if 'BROKEN' in os.environ: raise ValueError('broken')\n" + GOOD)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BROKEN", "1")
        found = compare(cells, folder, ["good"], grid="default", seeds=1)
    assert found.table.empty
    assert found.methods["reason"].tolist() == ["all runs failed: ValueError: broken"]
    assert not (folder / "out" / "comparison.png").exists()
    found = compare(cells, folder, ["good"], grid="default", seeds=1)
    assert found.methods["reason"].tolist() == [""]
    assert not list((folder / "out" / "runs").glob("*.log"))


def ended(pid):
    """Whether a process ends soon; one that nobody waits for, as in a container without an init process, has ended."""
    waited = time.monotonic()
    while time.monotonic() - waited < PATIENCE:
        try:
            os.kill(pid, 0)
            if (status := Path(f"/proc/{pid}/status")).exists() and "\nState:\tZ" in status.read_text():
                return True
        except (ProcessLookupError, FileNotFoundError):
            return True
        time.sleep(0.1)
    return False


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_an_interrupted_comparison_continues(cells, folder, how):
    good(folder, SLOW + GOOD)
    cells.write_h5ad(folder / "cells.h5ad")
    command = [sys.executable, "-m", "sysvi", "compare", folder / "cells.h5ad", *OPTIONS, "--methods", "good"]
    command += ["--grid", "default", "--seeds", "2", "--min-cells", "20", "--adapters", folder / "adapters"]
    command += ["-o", folder / "out"]
    process = subprocess.Popen(
        [str(word) for word in command],
        env=os.environ | {"IN_NO_HURRY": str(folder / "slow")},
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),  # what runs in the background ignores Ctrl-C
    )
    begun = lambda: list((folder / "out" / "runs").glob(".good-seed1-*"))  # noqa: E731
    waited = time.monotonic()
    while not (folder / "slow").exists() and process.poll() is None and time.monotonic() - waited < PATIENCE:
        time.sleep(0.05)
    process.send_signal(how)
    assert process.wait(PATIENCE) == (130 if how == signal.SIGINT else -how)
    assert times_run(folder) == 1
    assert (folder / "slow").exists()
    assert ended(int((folder / "slow").read_text()))
    if how == signal.SIGINT:  # the tables hold what is finished
        written = pd.read_csv(folder / "out" / "runs.csv")
        assert written["status"].tolist() == ["finished", "not run"]
        assert written["chosen"].tolist() == [True, False]
    found = compare(cells, folder, ["good"], grid="default", seeds=2)
    assert times_run(folder) == 2
    assert found.runs["status"].tolist() == ["finished", "finished"]
    assert not begun()


# -- the rest ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_command_line(cells, folder):
    good(folder)
    adapter(folder, "raises", "raise ValueError('no mass')\n")
    cells.write_h5ad(folder / "cells.h5ad")
    command = ["compare", folder / "cells.h5ad", *OPTIONS, "--methods", "good, raises,", "--seeds", 1, "--epochs", 3]
    command += ["--min-cells", 20, "--adapters", folder / "adapters", "-o", folder / "out", "--figures", "svg"]
    command += ["--report", folder / "comparison.html"]
    result = CliRunner().invoke(main, [str(word) for word in command])
    assert result.exit_code == 0, result.output
    assert "good, shift 1.5, seed 0: running" in result.output
    assert "raises, seed 0 failed: ValueError: no mass (4 of 4)" in result.output
    assert "raises: all runs failed: ValueError: no mass" in result.output
    assert "Trained for 3 epochs instead" in result.output
    assert re.search(
        r"Compared methods over 4 runs; good has the highest score; 1 run has no result \(the same command",
        result.stderr,
    )
    page = (folder / "comparison.html").read_text(encoding="utf-8")
    assert "ValueError: no mass" in page
    sysvi.report(folder / "out", folder / "again.html", progress=False)
    assert (folder / "again.html").read_text(encoding="utf-8") == page
    assert (folder / "out" / "comparison.svg").read_text().startswith("<?xml")
    result = CliRunner().invoke(main, [*(str(word) for word in command), "--json"])
    events = [json.loads(line) for line in result.output.splitlines()]
    assert [event["reason"] for event in events if event["stage"] == "run" and "reason" in event] == [
        "ValueError: no mass"
    ]
    assert events[-1]["stage"] == "write"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"seeds": 0}, "seeds is 0"),
        ({"seeds": [1, 1]}, "different ones"),
        ({"grid": "half"}, "grid is 'half'"),
        ({"epochs": 0}, "epochs is 0"),
        ({"timeout": 0}, "timeout is 0"),
        ({"constraint": "nowhere.txt"}, "constraint file nowhere.txt cannot be read .*No such file"),
        ({"adapters": "nowhere"}, "folder nowhere \\(adapters\\) does not exist"),
        ({"label_key": "colour"}, "label_key='colour' is not a column"),
        ({"label_key": None}, "label_key=None"),
        ({"figures": "bmp"}, "figures is 'bmp'"),
        ({"output": __file__}, "The folder .*test_compare.py cannot be created"),
    ],
)
def test_bad_input(cells, tmp_path, arguments, message):
    with pytest.raises(InputError, match=message):
        sysvi.compare(cells, **{"output": tmp_path / "out", "methods": ["pca"], **COLUMNS, **QUICK, **arguments})


@pytest.mark.slow
def test_without_counts_methods_that_need_them_say_so(cells, folder):
    adapter(folder, "counting", "np.save(sys.argv[2], embedding)\n", "counts = true")
    good(folder)
    logs = sysvi.prepare(cells, "system", "batch", min_cells=3)
    assert compare(logs, folder, ["counting"], seeds=1).methods["reason"].tolist() == [""]
    del logs.layers["counts"]
    found = compare(logs, folder, ["counting", "good"], grid="default", seeds=1)
    assert found.methods["reason"].tolist() == ["it needs counts, and the input has none", ""]


def test_a_method_without_a_score_gets_its_first_setting_chosen():
    runs = pd.DataFrame({"method": "a", "title": "a", "parameter": "k", "value": [2, 2, 1], "seed": [0, 1, 0]})
    runs = scored_runs(runs.assign(status="finished", epochs=None, seconds=1.0, peak_mb=1.0, iLISI=[0.1, 0.2, 0.9]))
    assert runs["chosen"].tolist() == [True, True, False]
    assert runs["score"].isna().all()
    assert summary_table(runs, ["iLISI"])["iLISI"].tolist() == [pytest.approx(0.15)]
