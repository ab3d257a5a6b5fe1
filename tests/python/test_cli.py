"""The command line, end to end on files."""

import dataclasses
import json
import re
import subprocess
import sys
import warnings

import anndata
import click
import h5py
import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from scipy import sparse

import sysvi
from sysvi import ModelSettings, Ramp, SysVI, TrainSettings
from sysvi._core.progress import JsonLines
from sysvi.cli import main

pytestmark = pytest.mark.filterwarnings("ignore:System .* has fewer cells", "ignore:Only .* genes remain")

COMPARED = {"cycle_weight", "kl_weight", "prior"}  # settings of which `tune` takes several values
COLUMNS = ["--system", "system", "--batch", "batch"]
FAST = [*COLUMNS, "--epochs", "2", "--device", "cpu"]


@pytest.fixture(scope="module")
def cells(make_adata):
    """Counts, with an entry in every place that an h5ad has."""
    adata = make_adata()
    rng = np.random.default_rng(0)
    adata.raw = adata[:, :80]
    adata.layers["log"], adata.X = adata.X, adata.layers["counts"]
    adata.layers["dense"] = rng.normal(size=adata.shape)
    adata.obs["missing"] = pd.Categorical(np.where(adata.obs["sex"] == "f", "yes", None))
    adata.var["length"] = np.arange(adata.n_vars)
    adata.obsm["X_pca"] = rng.normal(size=(adata.n_obs, 3)).astype(np.float32)
    adata.obsm["frame"] = pd.DataFrame({"a": np.arange(adata.n_obs)}, index=adata.obs_names)
    adata.obsp["graph"] = sparse.random(adata.n_obs, adata.n_obs, 0.01, format="csr", random_state=0)
    adata.varp["graph"] = sparse.eye(adata.n_vars, format="csr")
    adata.uns["nested"] = {"colors": np.array(["red", "β"], dtype=object), "deep": {"n": 3, "text": "it's"}}
    return adata


@pytest.fixture(scope="module")
def counts(cells, tmp_path_factory):
    path = tmp_path_factory.mktemp("input") / "counts.h5ad"
    cells.write_h5ad(path)
    return path


def run(*arguments, code=0):
    result = CliRunner().invoke(main, [str(a) for a in arguments])
    assert result.exit_code == code, result.output
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result


@pytest.fixture(scope="module")
def integrated(counts, tmp_path_factory):
    """Output of `sysvi integrate`."""
    path = tmp_path_factory.mktemp("output") / "integrated.h5ad"
    run("integrate", counts, *FAST, "-o", path)
    return path


def embedding(path, key="X_sysVI"):
    return anndata.read_h5ad(path).obsm[key]


def json_lines(text):
    def no_nan(name):
        raise AssertionError(f"{name} is not JSON")

    return [json.loads(line, parse_constant=no_nan) for line in text.splitlines()]


# -- integrate -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_output_is_the_input_with_the_embedding(integrated, counts, assert_same):
    output = anndata.read_h5ad(integrated)
    latent = output.obsm.pop("X_sysVI")
    assert latent.shape == (300, 15)
    assert latent.dtype == np.float32
    assert np.isfinite(latent).all()
    assert latent.std(0).min() > 0
    record = output.uns.pop("sysvi")
    assert set(record["genes"]) <= set(output.var_names)
    assert json.loads(record["train_settings"])["max_epochs"] == 2
    assert_same(output, anndata.read_h5ad(counts))
    assert [p.name for p in integrated.parent.iterdir()] == [integrated.name]


@pytest.mark.slow
def test_output_is_what_python_gives(integrated, cells):
    prepared = sysvi.prepare(cells, "system", "batch")
    sysvi.integrate(prepared, "system", "batch", max_epochs=2, device="cpu", progress=False)
    np.testing.assert_array_equal(embedding(integrated), prepared.obsm["X_sysVI"])
    assert list(anndata.read_h5ad(integrated).uns["sysvi"]["genes"]) == list(prepared.var_names)


@pytest.mark.slow
def test_same_seed_same_bits(integrated, counts, tmp_path):
    again, other = tmp_path / "again.h5ad", tmp_path / "other.h5ad"
    run("integrate", counts, *FAST, "-o", again)
    run("integrate", counts, *FAST, "-o", other, "--seed", 1)
    np.testing.assert_array_equal(embedding(again), embedding(integrated))
    assert not np.allclose(embedding(other), embedding(integrated))


def test_report_is_for_people(counts, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        result = run("integrate", counts, *FAST, "-o", tmp_path / "integrated.h5ad")
    assert result.stdout == ""
    assert "The input looks like counts" in result.stderr
    assert "Training on 300 cells x" in result.stderr
    assert re.search(r"Wrote .*integrated\.h5ad: obsm\['X_sysVI'\], 300 x 15", result.stderr)
    assert "Warning: System system1, system2 has fewer cells" in result.stderr
    assert "np." not in result.stderr


def test_options_reach_the_model(counts, tmp_path, cells):
    path = tmp_path / "out.h5ad"
    options = ["--covariate", "sex", "--continuous", "age", "--weight-systems", "--cycle-weight", 2, "--kl-weight", 0.5]
    options += ["--n-latent", 3, "--prior", "gmm", "--batch-size", 50, "--seed", 4, "--key", "X_new"]
    options += ["--min-cells", 120, "--genes", 60]
    run("integrate", counts, *FAST, "-o", path, *options)
    prepared = sysvi.prepare(cells, "system", "batch", min_cells=120, n_top_genes=60)
    assert prepared.n_vars < 100
    model = sysvi.integrate(
        prepared,
        "system",
        "batch",
        categorical_covariate_keys=["sex"],
        continuous_covariate_keys=["age"],
        weight_systems=True,
        cycle_weight=2,
        kl_weight=0.5,
        n_latent=3,
        prior="gmm",
        batch_size=50,
        seed=4,
        max_epochs=2,
        device="cpu",
        progress=False,
    )
    assert model.train_settings.cycle_weight.value == 2
    np.testing.assert_array_equal(embedding(path, "X_new"), prepared.obsm["X_sysVI"])
    assert "X_sysVI" not in anndata.read_h5ad(path).obsm


@pytest.mark.slow
@pytest.mark.parametrize("all_genes", [False, True])
def test_log_normalised_input(counts, cells, tmp_path, all_genes):
    path = tmp_path / "out.h5ad"
    flags = ["--all-genes"] if all_genes else ["--genes", 40]
    result = run("integrate", counts, *FAST, "--layer", "log", "-o", path, *flags)
    assert "looks like log-normalised" in result.stderr
    log = cells.copy()
    if not all_genes:
        log = sysvi.prepare(log, "system", "batch", layer="log", normalize=False, n_top_genes=40)
        assert log.n_vars < 40
    else:
        log.X = log.layers["log"]
    sysvi.integrate(log, "system", "batch", max_epochs=2, device="cpu", progress=False)
    np.testing.assert_array_equal(embedding(path), log.obsm["X_sysVI"])


@pytest.mark.slow
def test_prepared_input_is_used_as_it_is(counts, integrated, cells, tmp_path, assert_same):
    prepared, path = tmp_path / "prepared.h5ad", tmp_path / "out.h5ad"
    run("prepare", counts, *COLUMNS, "-o", prepared)
    assert_same(anndata.read_h5ad(prepared), reread(sysvi.prepare(cells, "system", "batch"), tmp_path))
    result = run("integrate", prepared, *FAST, "-o", path)
    assert "prepared already" in result.stderr
    np.testing.assert_array_equal(embedding(path), embedding(integrated))


def reread(adata, folder):
    adata.write_h5ad(folder / "reread.h5ad")
    return anndata.read_h5ad(folder / "reread.h5ad")


@pytest.mark.slow
def test_model_is_saved_when_asked_for(counts, integrated, cells, tmp_path):
    run("integrate", counts, *FAST, "-o", tmp_path / "out.h5ad", "--save-model", tmp_path / "model")
    model = SysVI.load(tmp_path / "model", sysvi.prepare(cells, "system", "batch"))
    np.testing.assert_array_equal(model.get_latent_representation(), embedding(integrated))


def test_existing_model_is_refused_before_training(counts, tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.safetensors").write_bytes(b"precious")
    options = ["-o", tmp_path / "out.h5ad", "--save-model", tmp_path / "model", "--json"]
    lines = json_lines(run("integrate", counts, *FAST, *options, code=1).stdout)
    assert "exists already" in lines[-1]["message"]
    assert (tmp_path / "model" / "model.safetensors").read_bytes() == b"precious"
    assert "epoch" not in {line["stage"] for line in lines}


def test_interrupted_training_still_writes(counts, tmp_path, monkeypatch):
    class Impatient(JsonLines):
        def __call__(self, event):
            if event.stage == "epoch":
                raise KeyboardInterrupt

    monkeypatch.setattr("sysvi._core.progress.JsonLines", Impatient)
    run("integrate", counts, *FAST, "-o", tmp_path / "out.h5ad", "--json", code=130)
    record = anndata.read_h5ad(tmp_path / "out.h5ad").uns["sysvi"]
    assert json.loads(record["status"]) == "interrupted"


def test_file_without_obsm_and_uns(counts, integrated, tmp_path):
    bare, path = tmp_path / "bare.h5ad", tmp_path / "out.h5ad"
    bare.write_bytes(counts.read_bytes())
    with h5py.File(bare, "r+") as file:
        for group in ("obsm", "uns", "varm", "obsp", "varp"):
            del file[group]
    run("integrate", bare, *FAST, "-o", path)
    np.testing.assert_array_equal(embedding(path), embedding(integrated))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["csc", "dense"])
def test_other_matrices_give_the_same_bits(cells, integrated, tmp_path, kind):
    other = cells.copy()
    other.X = sparse.csc_matrix(cells.X) if kind == "csc" else cells.X.toarray()
    other.write_h5ad(tmp_path / "in.h5ad")
    run("integrate", tmp_path / "in.h5ad", *FAST, "-o", tmp_path / "out.h5ad")
    np.testing.assert_array_equal(embedding(tmp_path / "out.h5ad"), embedding(integrated))


# -- reporting -------------------------------------------------------------------------------------------------------


def test_json_lines_follow_the_work(counts, tmp_path):
    result = run("integrate", counts, *FAST, "-o", tmp_path / "out.h5ad", "--json")
    lines = [line for line in json_lines(result.stdout) if line["stage"] != "warning"]
    stages = [line["stage"] for line in lines]
    assert list(dict.fromkeys(stages)) == ["prepare", "plan", "epoch", "end", "write"]
    assert stages == sorted(stages, key=["prepare", "plan", "epoch", "end", "write"].index)
    assert result.stderr == ""
    plan, *epochs = (line for line in lines if line["stage"] in ("plan", "epoch"))
    assert (plan["cells"], plan["epochs"]) == (300, 2)
    assert [line["epoch"] for line in epochs] == [1, 2]
    assert {"total_train", "reconstruction_train", "kl_train", "cycle_train"} <= set(epochs[0]["losses"])
    assert lines[-1]["output"] == str(tmp_path / "out.h5ad")


def test_json_error_is_a_line(counts, tmp_path):
    result = run("integrate", counts, "--system", "species", "-o", tmp_path / "out.h5ad", "--json", code=1)
    last = json_lines(result.stdout)[-1]
    assert last["stage"] == "error"
    assert "'species' is not a column" in last["message"]
    assert result.stderr == ""


def test_quiet_prints_nothing_but_errors(counts, tmp_path):
    for command in (["integrate", counts, *FAST], ["prepare", counts, *COLUMNS]):
        result = run(*command, "-o", tmp_path / f"{command[0]}.h5ad", "--quiet")
        assert (result.stdout, result.stderr) == ("", "")
    result = run("integrate", counts, "--system", "species", "-o", tmp_path / "no.h5ad", "--quiet", code=1)
    assert "'species' is not a column" in result.stderr


@pytest.mark.parametrize("flag", ["--quiet", "--json", None])
def test_demo_reports_as_asked(tmp_path, monkeypatch, flag):
    table = pd.DataFrame({"": {"cells": "600"}})
    monkeypatch.setattr("sysvi.demo.run_demo", lambda *args: table)
    result = run("demo", "-o", tmp_path, *([flag] if flag else []))
    if flag == "--quiet":
        assert result.output == ""
    elif flag == "--json":
        assert json_lines(result.stdout)[-1]["results"] == {"cells": "600"}
    else:
        assert re.search(r"cells +600", result.stdout)


# -- output files ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_existing_output_is_replaced_only_when_asked(counts, integrated, tmp_path):
    path = tmp_path / "out.h5ad"
    path.write_text("precious")
    result = run("integrate", counts, *FAST, "-o", path, code=1)
    assert "exists already; pass --overwrite" in result.stderr
    assert path.read_text() == "precious"
    run("integrate", counts, *FAST, "-o", path, "--overwrite")
    np.testing.assert_array_equal(embedding(path), embedding(integrated))
    run("prepare", counts, *COLUMNS, "-o", path, code=1)
    run("prepare", counts, *COLUMNS, "-o", path, "--overwrite")
    assert "sysvi_prepare" in anndata.read_h5ad(path).uns


@pytest.mark.slow
def test_output_may_be_the_input_and_a_second_run_replaces_the_first(counts, integrated, tmp_path, assert_same):
    path = tmp_path / "cells.h5ad"
    path.write_bytes(counts.read_bytes())
    run("integrate", path, *FAST, "-o", path, code=1)
    assert path.read_bytes() == counts.read_bytes()
    run("integrate", path, *FAST, "-o", path, "--overwrite", "--seed", 5)
    run("integrate", path, *FAST, "-o", path, "--overwrite")
    assert_same(anndata.read_h5ad(path), anndata.read_h5ad(integrated))
    assert [p.name for p in tmp_path.iterdir()] == ["cells.h5ad"]


def test_failure_while_writing_leaves_no_file(counts, tmp_path, monkeypatch):
    def full_disk(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("sysvi.data.h5ad.write_elem", full_disk)
    CliRunner().invoke(main, ["integrate", str(counts), *FAST, "-o", str(tmp_path / "out.h5ad")])
    assert list(tmp_path.iterdir()) == []


# -- bad input -------------------------------------------------------------------------------------------------------


def bad_file(kind, path, counts):
    if kind == "text":
        path.write_text("gene,count\n")
    elif kind == "other HDF5":
        with h5py.File(path, "w") as file:
            file["matrix"] = np.eye(3)
    elif kind == "cut":
        path.write_bytes(counts.read_bytes()[:20_000])
    elif kind == "strange obs":
        with h5py.File(path, "w") as file:
            file["obs"], file["var"] = np.arange(3), np.arange(3)


@pytest.mark.parametrize("command", ["integrate", "prepare"])
@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("missing", r"There is no file .*in\.h5ad"),
        ("text", r"in\.h5ad is not an h5ad file \(it is not HDF5\)"),
        ("other HDF5", r"in\.h5ad is an HDF5 file but not an h5ad"),
        ("cut", r"in\.h5ad cannot be read as an h5ad file"),
        ("strange obs", r"in\.h5ad cannot be read as an h5ad file"),
    ],
)
def test_file_that_is_no_h5ad_is_refused(command, kind, message, counts, tmp_path):
    bad_file(kind, tmp_path / "in.h5ad", counts)
    before = sorted(tmp_path.iterdir())
    result = run(command, tmp_path / "in.h5ad", *COLUMNS, "-o", tmp_path / "out.h5ad", code=1)
    assert re.search(rf"\AError: .*{message}.*\n\Z", result.stderr)
    assert "Traceback" not in result.output
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--system", "species"], "system.*'species' is not a column.*system, batch"),
        (["--batch", "donor"], "'donor' is not a column"),
        (["--covariate", "organ"], "'organ' is not a column"),
        (["--continuous", "organ"], "'organ' is not a column"),
        (["--layer", "raw"], "no layer 'raw'"),
        (["--layer", "dense"], "negative value"),
        (["--continuous", "sex"], "'sex'.* is not numeric"),
        (["--covariate", "missing"], "'missing'.* missing values"),
        (["--covariate", "batch"], "batch, batch"),
        (["--device", "abacus"], "device 'abacus' is not known"),
        (["--min-cells", 10_000], "more than 10000 cells"),
        (["--genes", 0], "n_top_genes is 0"),
        (["--key", "a/b"], "a/b"),
    ],
    ids=str,
)
def test_error_is_one_sentence_and_leaves_nothing(counts, tmp_path, options, message):
    result = run("integrate", counts, *FAST, "-o", tmp_path / "out.h5ad", *options, code=1)
    errors = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    assert len(errors) == 1
    assert errors[0] == result.stderr.splitlines()[-1]
    assert re.search(message, errors[0])
    assert "Traceback" not in result.output
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", ["integrate", "prepare"])
def test_unwritable_output_is_refused_before_the_input_is_read(counts, tmp_path, command):
    (tmp_path / "file").touch()
    for folder in ("absent", "file"):
        result = run(command, counts, *COLUMNS, "-o", tmp_path / folder / "out.h5ad", code=1)
        assert re.fullmatch(rf"Error: The folder .*{folder} does not exist.*\n", result.stderr)
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(
    "options", [["--epochs", 0], ["--prior", "flat"], ["--cycle-weight", -1], ["--batch-size", 1], ["--n-latent", 0]]
)
def test_impossible_options_are_usage_errors(counts, tmp_path, options):
    result = run("integrate", counts, *FAST, "-o", tmp_path / "out.h5ad", *options, code=2)
    assert options[0] in result.stderr


# -- demo, help, version ---------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_demo(tmp_path):
    result = run("demo", "--cells", 600, "-o", tmp_path / "deep" / "demo", "--json")
    folder = tmp_path / "deep" / "demo"
    assert sorted(p.name for p in folder.iterdir()) == ["demo.h5ad", "demo.png"]
    png = (folder / "demo.png").read_bytes()
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    assert all(400 < int.from_bytes(png[i : i + 4]) < 4000 for i in (16, 20))  # width and height
    cells = anndata.read_h5ad(folder / "demo.h5ad")
    assert cells.n_obs == 600
    assert cells.obsm["X_sysVI"].shape == (600, 15)
    assert np.isfinite(cells.obsm["X_sysVI"]).all()
    results = json_lines(result.stdout)[-1]["results"]
    before, after = (
        float(results[f"neighbours shared across systems, {when}"]) for when in ("before (PCA)", "after (sysVI)")
    )
    assert before < after
    assert results["cells"] == "600"


@pytest.mark.parametrize("name", list(main.commands))
def test_help_tells_what_every_option_means(name):
    text = re.sub(r"\s+", " ", run(name, "--help").stdout)
    for option in main.commands[name].params:
        if isinstance(option, click.Option):
            assert option.help, f"{option.opts[0]} has no help"
            assert option.opts[0] in text
            assert option.help in text


def test_help_names_the_commands():
    for flag in ("--help", "-h"):
        text = run(flag).stdout
        assert all(re.search(rf"^  {name} +\w", text, re.M) for name in main.commands)


@pytest.mark.parametrize(("command", "without"), [("integrate", {"seed"}), ("tune", {"seed", *COMPARED})])
def test_every_setting_is_an_option_with_the_default_and_help_of_the_setting(command, without):
    options = {option.name: option for option in main.commands[command].params}
    for setting in (*dataclasses.fields(ModelSettings), *dataclasses.fields(TrainSettings)):
        if setting.name not in without:
            option, default = options[setting.name], setting.default
            assert option.default == (default.value if isinstance(default, Ramp) else default)
            assert option.help == setting.metadata["help"]


OTHER_SETTINGS = [
    ("n_hidden", ["--n-hidden", 8], 8),
    ("trainable_priors", ["--no-trainable-priors"], False),
    ("embed_categorical_covariates", ["--embed-categorical-covariates"], True),
    ("pseudoinputs_system", ["--pseudoinputs", "system", "--pseudoinputs-system", "system2"], "system2"),
    ("pseudoinputs", ["--pseudoinputs", "balanced_label", "--pseudoinputs-label", "cell_type"], "balanced_label"),
    ("mixture_share", ["--mixture-share", 0.5], [0.5, 0.1, 0.6]),  # start and end of the default
    ("adversarial_weight", ["--adversarial-weight", 2], [2, 0, 0]),
    ("train_size", ["--early-stopping"], 0.9),
    ("lr", ["--lr", 0.002], 0.002),
    ("precision", ["--precision", "float32"], "float32"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("setting", "options", "value"), OTHER_SETTINGS, ids=[name for name, *_ in OTHER_SETTINGS])
def test_settings_that_are_rarely_changed_reach_the_model(counts, tmp_path, setting, options, value):
    run("integrate", counts, *FAST, "-o", tmp_path / "out.h5ad", *options)
    record = anndata.read_h5ad(tmp_path / "out.h5ad").uns["sysvi"]
    settings = json.loads(record["model_settings"]) | json.loads(record["train_settings"])
    assert settings[setting] == value


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--n-layers", 0], "x>=1"),
        (["--dropout-rate", 1], "0<=x<1"),
        (["--mixture-share", 1.5], "0<=x<=1"),
        (["--lr", 0], "x>0"),
        (["--kl-weight", -1], "x>=0"),
        (["--mixture", "other"], "'dimension', 'joint'"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_values_outside_of_the_limits_of_a_setting_are_refused(counts, tmp_path, options, message):
    result = run("integrate", counts, *FAST, "-o", tmp_path / "out.h5ad", *options, code=2)
    assert message in result.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("module", ["sysvi", "sysvi.cli"])
def test_import_leaves_heavy_libraries_alone(module):
    """So that `sysvi --help` and `import sysvi` are fast."""
    heavy = ["torch", "anndata", "pandas", "scanpy", "matplotlib"]
    code = f"import sys, {module}; print([name for name in {heavy} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "[]\n"


@pytest.mark.slow
def test_module_is_the_command():
    result = subprocess.run([sys.executable, "-m", "sysvi", "--version"], capture_output=True, text=True, check=True)
    assert result.stdout == f"sysvi, version {sysvi.__version__}\n"
    assert result.stderr == ""


def test_batch_strength_prints_advice_and_writes_table_and_figure(counts, tmp_path):
    command = ["batch-strength", counts, *COLUMNS, "--label", "cell_type", "--min-cells", 5]
    result = run(*command, "-o", tmp_path / "strength.csv")
    prepared = sysvi.prepare(anndata.read_h5ad(counts), "system", "batch")
    strength = sysvi.batch_strength(prepared, "system", "batch", "cell_type", min_cells=5)
    assert strength.advice in result.stdout
    table = pd.read_csv(tmp_path / "strength.csv", index_col=[0, 1])
    pd.testing.assert_frame_equal(table, strength.table, check_dtype=False)
    assert (tmp_path / "strength.png").read_bytes().startswith(b"\x89PNG")
    assert "exists already" in run(*command, "-o", tmp_path / "strength.csv", code=1).output
    events = [json.loads(line) for line in run(*command, "--json").stdout.splitlines()]
    assert events[-1]["substantial"] is strength.substantial
