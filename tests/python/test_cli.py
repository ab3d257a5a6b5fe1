"""The command line, end to end on files."""

import dataclasses
import json
import re
import subprocess
import sys
import warnings
from functools import partial

import anndata
import click
import h5py
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from click.testing import CliRunner
from scipy import sparse

import sysvi
from sysvi import ModelSettings, Ramp, SysVI, TrainSettings
from sysvi._core.progress import JsonLines
from sysvi._core.settings import DEFAULT_PRESET
from sysvi.api.support import LOW_SUPPORT
from sysvi.cli import main

pytestmark = pytest.mark.filterwarnings("ignore:System .* has fewer cells", "ignore:Only .* genes remain")

COMPARED = {"cycle_weight", "kl_weight", "prior"}  # settings of which `tune` takes several values
COLUMNS = ["--system", "system", "--batch", "batch"]
FAST = [*COLUMNS, "--members", "1", "--epochs", "2", "--device", "cpu"]


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
    sysvi.integrate(prepared, "system", "batch", members=1, max_epochs=2, device="cpu", progress=False)
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
    assert re.search(
        r"\nDone in .*\. Integrated 300 cells on \d+ genes with one model\. \d+ warnings? above\.\n", result.stderr
    )
    assert f"    sysvi report {tmp_path / 'integrated.h5ad'} -o {tmp_path / 'integrated.html'}\n" in result.stderr
    assert "\x1b" not in result.stderr


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
        members=1,
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
    sysvi.integrate(log, "system", "batch", members=1, max_epochs=2, device="cpu", progress=False)
    np.testing.assert_array_equal(embedding(path), log.obsm["X_sysVI"])


@pytest.mark.slow
def test_counts_with_fractions_are_counts_when_told_so(cells, tmp_path):
    adata = cells.copy()
    adata.X = adata.X.toarray()
    adata.X -= np.where((adata.X > 0) & (np.random.default_rng(0).random(adata.shape) < 0.5), np.float32(0.25), 0)
    adata.write_h5ad(tmp_path / "fractions.h5ad")
    for command in (["prepare", *COLUMNS], ["integrate", *FAST], ["tune", *COLUMNS]):
        arguments = [command[0], tmp_path / "fractions.h5ad", *command[1:], "-o", tmp_path / f"{command[0]}.h5ad"]
        result = run(*arguments, code=1)
        assert re.search(r"looks like counts with fractions.*round them.*--fractional-counts", result.stderr)
        if command[0] != "tune":
            assert "Normalised each cell" in run(*arguments, "--fractional-counts").stderr


def test_prepared_input_is_used_as_it_is(counts, integrated, cells, tmp_path, assert_same):
    prepared, path = tmp_path / "prepared.h5ad", tmp_path / "out.h5ad"
    run("prepare", counts, *COLUMNS, "-o", prepared)
    assert_same(anndata.read_h5ad(prepared), reread(sysvi.prepare(cells, "system", "batch"), tmp_path))
    result = run("integrate", prepared, *FAST, "-o", path)
    assert "prepared already" in result.stderr
    np.testing.assert_array_equal(embedding(path), embedding(integrated))


def test_union_of_the_genes_of_two_files(counts, cells, tmp_path):
    parts = {system: cells[cells.obs["system"] == system].copy() for system in ("system1", "system2")}
    for part in parts.values():
        del part.raw, part.uns["nested"], part.varm
    parts["system2"].var_names = [f"m{name}" for name in cells.var_names]
    table = pd.DataFrame({"other": parts["system2"].var_names[:80], "name": cells.var_names[:80]})
    table.to_csv(tmp_path / "table.tsv", sep="\t", index=False)
    for system, part in parts.items():
        part.write_h5ad(tmp_path / f"{system}.h5ad")
    second = tmp_path / "second.h5ad"
    parts["system1"].write_h5ad(second)
    path, files = tmp_path / "prepared.h5ad", [tmp_path / f"{system}.h5ad" for system in parts]
    options = [*COLUMNS, "--orthologs", f"system2={tmp_path / 'table.tsv'}", "--gene-set", "union"]
    result = run("prepare", *files, *options, "-o", path)
    assert "Genes: 80 of all systems, 20 of 'system1' only, 20 of 'system2' only" in result.stderr
    joined = sysvi.join_systems(
        {system: AnnData(part.X, part.obs, part.var[[]]) for system, part in parts.items()},
        genes="union",
        orthologs={"system2": table},
    )
    expected = sysvi.prepare(joined, "system", "batch", genes="union")
    found = anndata.read_h5ad(path)
    assert found.var_names.tolist() == expected.var_names.tolist()
    assert (found.X != expected.X).nnz == 0
    np.testing.assert_array_equal(found.uns["sysvi_own_genes"]["has"], expected.uns["sysvi_own_genes"]["has"])
    run("integrate", path, *FAST, "-o", tmp_path / "out.h5ad", "--save-model", tmp_path / "model")
    model = sysvi.load(tmp_path / "model")
    assert len(model.vocabulary.lacking) == 2
    run("map", path, "--model", tmp_path / "model", "-o", tmp_path / "mapped.h5ad")
    np.testing.assert_allclose(embedding(tmp_path / "mapped.h5ad"), embedding(tmp_path / "out.h5ad"), atol=1e-4)

    for arguments, message in [
        (
            [counts, *options[:4], "--gene-set", "union", "-o", path, "--overwrite"],
            "give sysvi prepare a file of each",
        ),
        ([*files, *options, "-o", tmp_path / "a.zarr"], "--gene-set union joins the cells in memory and writes .h5ad"),
        ([*files, *files[:1], *options, "-o", path, "--overwrite"], "is given twice: name each file once"),
        ([*files, second, *options, "-o", path, "--overwrite"], "it is the second file of system 'system1'"),
        ([*files, *options[:4], "--gene-set", "union", "-o", path, "--overwrite"], r"\(--orthologs\): give a table"),
    ]:
        assert re.search(message, run("prepare", *arguments, code=1).stderr)


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


@pytest.fixture(scope="module")
def reference_and_query(cells, tmp_path_factory):
    """Folder with the counts of all batches but one, and of that one, and with a model of the first."""
    folder = tmp_path_factory.mktemp("map")
    is_new = (cells.obs["batch"] == cells.obs["batch"].iloc[0]).to_numpy()
    for name, rows in (("reference", ~is_new), ("query", is_new)):
        AnnData(cells.layers["counts"], obs=cells.obs, var=cells.var)[rows].copy().write_h5ad(folder / f"{name}.h5ad")
    fast = ["--members", 2, "--epochs", 2, "--device", "cpu"]
    run(
        "integrate", folder / "reference.h5ad", *COLUMNS, *fast, "-o", folder / "out.h5ad", "--save-model", folder / "m"
    )
    return folder


def test_map_writes_what_map_query_gives(reference_and_query, tmp_path):
    source, out = reference_and_query / "query.h5ad", tmp_path / "out.h5ad"
    options = ["--model", reference_and_query / "m", "-o", out, "--save-model", tmp_path / "m2", "--epochs", 2]
    lines = json_lines(run("map", source, *options, "--seed", 3, "--device", "cpu", "--json").stdout)
    assert [line["stage"] for line in lines if line["stage"] in ("map", "plan", "write")] == [
        "map",
        "plan",
        "write",
        "write",
    ]
    query, written = anndata.read_h5ad(source), anndata.read_h5ad(out)
    model = sysvi.load(reference_and_query / "m", device="cpu")
    sysvi.map_query(model, query, max_epochs=2, seed=3, device="cpu", progress=False)
    np.testing.assert_array_equal(written.obsm["X_sysVI"], query.obsm["X_sysVI"])
    assert written.uns["sysvi"]["status"] == query.uns["sysvi"]["status"]
    assert list(written.uns["sysvi_query"]["missing_genes"]) == []
    again = ["--model", tmp_path / "m2", "-o", tmp_path / "again.h5ad", "--quiet"]  # knows the batch by now
    run("map", source, *again, "--device", "cpu")
    np.testing.assert_array_equal(anndata.read_h5ad(tmp_path / "again.h5ad").obsm["X_sysVI"], query.obsm["X_sysVI"])


@pytest.mark.parametrize("source", ["file", "folder"])
def test_map_transfers_labels_of_the_models_cells(reference_and_query, tmp_path, source):
    """Labels come from the file of the integrated cells, or from the model's folder if it is that of a reference."""
    integrated = anndata.read_h5ad(reference_and_query / "out.h5ad")
    model, query = reference_and_query / "m", anndata.read_h5ad(reference_and_query / "query.h5ad")
    options = ["--labels-from", reference_and_query / "out.h5ad"]
    if source == "folder":
        sysvi.save_reference(tmp_path / "r", sysvi.load(model), integrated, "cell_type", licence="mit")
        model, options = tmp_path / "r", []
    command = ["map", reference_and_query / "query.h5ad", "--model", model, "--label", "cell_type", *options]
    out = tmp_path / "out.h5ad"
    result = run(*command, "-o", out, "--epochs", 2, "--device", "cpu")
    sysvi.map_query(sysvi.load(model, device="cpu"), query, max_epochs=2, device="cpu", progress=False)
    expected = sysvi.transfer_labels(integrated, query, "cell_type", system_key="system", batch_key="batch")
    assert str(expected) in result.stdout
    written = anndata.read_h5ad(out)
    pd.testing.assert_frame_equal(written.obs, query.obs)
    np.testing.assert_array_equal(written.obsm["X_sysVI"], query.obsm["X_sysVI"])


def test_map_refuses_before_work(reference_and_query, tmp_path):
    query, model = reference_and_query / "query.h5ad", reference_and_query / "m"
    labels = ["--labels-from", reference_and_query / "out.h5ad", "--label"]
    (tmp_path / "out.h5ad").write_bytes(b"precious")
    refused = [
        (["--model", model, "-o", tmp_path / "out.h5ad"], "exists already; pass --overwrite"),
        (["--model", tmp_path / "none", "-o", tmp_path / "new.h5ad"], "no saved model"),
        (["--model", model, "-o", tmp_path / "new.h5ad", "--save-model", model], "exists already; pass --overwrite"),
        (["--model", model, "-o", tmp_path / "new.h5ad", "--batch", "donor"], "--batch 'donor' is not a column of obs"),
        (["--model", model, "-o", tmp_path / "new.h5ad", "--key", "a/b"], "--key"),
        (["--model", model, "-o", tmp_path / "new.h5ad", "--orthologs", "no.tsv"], "no orthologue table"),
        (["--model", model, "-o", tmp_path / "new.h5ad", "--label", "cell_type"], "no labels: give --labels-from"),
        (["--model", model, "-o", tmp_path / "new.h5ad", "--labels-from", query], "give it with --label"),
        (
            ["--model", model, "-o", tmp_path / "new.h5ad", *labels, "leiden"],
            "'leiden' is not a column of reference",
        ),
        (["--model", model, "-o", tmp_path / "new.h5ad", *labels, "batch", "--key", "X_pca"], "no embedding 'X_pca'"),
    ]
    for options, words in refused:
        result = run("map", query, *options, "--device", "cpu", code=1)
        assert words in result.stderr
        assert "epoch" not in result.stderr
    assert (tmp_path / "out.h5ad").read_bytes() == b"precious"
    assert [path.name for path in tmp_path.iterdir()] == ["out.h5ad"]


@pytest.mark.parametrize("genes", [None, "list", "file"])
def test_translate_writes_what_python_gives(reference_and_query, tmp_path, assert_same, genes):
    source, out, target = reference_and_query / "reference.h5ad", tmp_path / "out.h5ad", ["--to-system", "system2"]
    model = sysvi.load(reference_and_query / "m", device="cpu")
    chosen = None if genes is None else [str(name) for name in np.array(model.vocabulary.genes)[[5, 2]]]
    options = [] if chosen is None else ["--genes", ",".join(chosen)]
    if genes == "file":
        (tmp_path / "names.txt").write_text("\n".join(chosen) + "\n\n")
        options = ["--genes", tmp_path / "names.txt"]
    result = run("translate", source, "--model", reference_and_query / "m", *target, *options, "-o", out)
    assert re.search(
        r"Decoding \d+ genes of \d+ cells in system 'system2', .* averaged over its batches", result.stderr
    )
    assert "Wrote" in result.stderr
    expected = sysvi.translate(model, anndata.read_h5ad(source), "system2", genes=chosen, progress=False)
    assert_same(anndata.read_h5ad(out), reread(expected, tmp_path))
    again = ["--to-batch", "average", "--key", "denoised", "--overwrite", "--json"]
    lines = json_lines(run("translate", source, "--model", reference_and_query / "m", *again, "-o", out).stdout)
    assert [line["stage"] for line in lines][-2:] == ["translate", "write"]
    denoised = sysvi.translate(model, anndata.read_h5ad(source), to_batch="average", progress=False)
    np.testing.assert_array_equal(anndata.read_h5ad(out).layers["denoised"], denoised.layers["sysvi_translated"])


def test_compare_systems_writes_what_python_gives(reference_and_query, tmp_path):
    source, model, out = reference_and_query / "reference.h5ad", reference_and_query / "m", tmp_path / "out"
    options = ["--label", "cell_type", "--min-cells", "5", "--device", "cpu", "-o", out]
    result = run("compare-systems", source, "--model", model, *options, "--batch", "sex")
    loaded, cells = sysvi.load(model, device="cpu"), anndata.read_h5ad(source)
    settings = {"min_cells": 5, "progress": False}
    expected = sysvi.compare_systems(loaded, cells, "cell_type", batch_key="sex", **settings)
    pd.testing.assert_frame_equal(pd.read_csv(out / "differences.csv"), expected, check_dtype=False)
    assert "Genes at a false discovery rate of 0.05:" in result.stdout
    assert (out / "volcano.png").read_bytes().startswith(b"\x89PNG")
    assert (out / "specific_genes.png").exists() == (expected["fdr"] <= 0.05).any()
    (out / "differences.csv").write_text("precious")
    result = run("compare-systems", source, "--model", model, *options, code=1)
    assert "differences.csv exists already; pass --overwrite" in result.stderr
    assert (out / "differences.csv").read_text() == "precious"
    again = ["--systems", "system2, system1", "--overwrite", "--json", "--figures", "svg"]
    lines = json_lines(run("compare-systems", source, "--model", model, *options, *again).stdout)
    assert [line["stage"] for line in lines][-3:] == ["compare", "warning", "write"]
    assert "type1 (1 of system2, 2 of system1)" in str(lines[-2])
    with pytest.warns(UserWarning, match="no p-values"):
        expected = sysvi.compare_systems(loaded, cells, "cell_type", systems=["system2", "system1"], **settings)
    pd.testing.assert_frame_equal(pd.read_csv(out / "differences.csv"), expected, check_dtype=False)
    assert not (out / "volcano.svg").exists()  # there are no p-values to draw


def test_compare_systems_refuses_in_its_own_words(reference_and_query, tmp_path):
    source, query = reference_and_query / "reference.h5ad", reference_and_query / "query.h5ad"
    options = ["--model", reference_and_query / "m", "-o", tmp_path / "out", "--device", "cpu"]
    result = run("compare-systems", source, *options, "--label", "none", code=1)
    assert re.search(r"--label 'none' is not a column of obs: choose one of", result.stderr)
    result = run("compare-systems", query, *options, "--label", "cell_type", code=1)
    assert re.search(r"obs\['batch'\] has .*, which the model does not know .*sysvi map --save-model", result.stderr)
    result = run("compare-systems", source, *options, "--label", "cell_type", "--min-cells", "9999", code=1)
    assert re.search(r"Nothing can be compared: .* obs\['cell_type'\]\. Lower --min-cells", result.stderr)
    assert not (tmp_path / "out").exists()


def test_differential_expression_writes_what_python_gives(reference_and_query, tmp_path):
    source, model, out = reference_and_query / "reference.h5ad", reference_and_query / "m", tmp_path / "out.csv"
    options = ["--model", model, "--groupby", "cell_type", "--samples", "60", "--device", "cpu", "-o", out]
    run("differential-expression", source, *options, "--group1", "type1", "--group2", "type2", "--seed", "4")
    loaded, cells = sysvi.load(model, device="cpu"), anndata.read_h5ad(source)
    settings = {"n_samples_overall": 60, "progress": False}
    expected = sysvi.differential_expression(loaded, cells, "cell_type", "type1", "type2", seed=4, **settings)
    pd.testing.assert_frame_equal(pd.read_csv(out, index_col="gene"), expected, check_dtype=False)
    result = run("differential-expression", source, *options, code=1)
    assert "out.csv exists already; pass --overwrite" in result.stderr
    again = ["--mode", "vanilla", "--batch-correction", "--overwrite", "--json"]
    lines = json_lines(run("differential-expression", source, *options, *again).stdout)
    assert [line["stage"] for line in lines][-2:] == ["compare", "write"]
    settings |= {"mode": "vanilla", "batch_correction": True}
    expected = sysvi.differential_expression(loaded, cells, "cell_type", **settings)
    assert expected["comparison"].nunique() > 2
    pd.testing.assert_frame_equal(pd.read_csv(out, index_col="gene"), expected, check_dtype=False)


def test_differential_expression_refuses_in_its_own_words(reference_and_query, tmp_path):
    source, query = reference_and_query / "reference.h5ad", reference_and_query / "query.h5ad"
    options = ["--model", reference_and_query / "m", "-o", tmp_path / "out.csv", "--device", "cpu"]
    result = run("differential-expression", source, *options, "--groupby", "none", code=1)
    assert "--groupby 'none' is not a column of obs: choose one of" in result.stderr
    result = run("differential-expression", source, *options, "--groupby", "cell_type", "--group1", "x", code=1)
    assert re.search(r"obs\['cell_type'\] has no group 'x': choose of", result.stderr)
    result = run("differential-expression", query, *options, "--groupby", "cell_type", code=1)
    assert re.search(r"obs\['batch'\] has .*, which the model does not know .*sysvi map --save-model", result.stderr)
    assert not list(tmp_path.iterdir())


def test_translate_refuses_before_work(reference_and_query, tmp_path):
    model, query = reference_and_query / "m", reference_and_query / "query.h5ad"
    (tmp_path / "out.h5ad").write_bytes(b"precious")
    result = run("translate", query, "--model", model, "-o", tmp_path / "out.h5ad", code=1)
    assert "exists already; pass --overwrite" in result.stderr
    result = run("translate", query, "--model", model, "-o", tmp_path / "new.h5ad", code=1)
    assert re.search(r"obs\['batch'\] has .*, which the model does not know .*sysvi map --save-model", result.stderr)
    assert (tmp_path / "out.h5ad").read_bytes() == b"precious"
    assert [path.name for path in tmp_path.iterdir()] == ["out.h5ad"]


@pytest.mark.parametrize("change", [lambda a: a[::-1], lambda a: a[:-1]], ids=["order", "number"])
def test_results_are_not_written_beside_other_cells(counts, cells, tmp_path, monkeypatch, change):
    source, output = tmp_path / "cells.h5ad", tmp_path / "out.h5ad"
    source.write_bytes(counts.read_bytes())

    class Replacing(JsonLines):
        def __call__(self, event):
            if event.stage == "plan":
                change(cells).copy().write_h5ad(tmp_path / "new.h5ad")
                (tmp_path / "new.h5ad").replace(source)
            super().__call__(event)

    monkeypatch.setattr("sysvi._core.progress.JsonLines", Replacing)
    result = run("integrate", source, *FAST, "-o", output, "--json", code=1)
    message = json_lines(result.stdout)[-1]["message"]
    assert re.fullmatch(r".*cells\.h5ad was changed during the run: .* is in .*out\.results\.h5ad\.", message)
    assert not output.exists()
    kept = anndata.read_h5ad(tmp_path / "out.results.h5ad")
    assert list(kept.obs_names) == list(cells.obs_names)
    run("integrate", counts, *FAST, "-o", output)
    np.testing.assert_array_equal(kept.obsm["X_sysVI"], embedding(output))


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


# -- ensembles -------------------------------------------------------------------------------------------------------


SEVERAL = [*COLUMNS, "--members", 2, "--epochs", 1, "--device", "cpu"]


@pytest.mark.slow
def test_an_ensemble_is_trained_by_default(counts, cells, tmp_path, assert_same):
    path = tmp_path / "out.h5ad"
    options = [*COLUMNS, "--epochs", 1, "--device", "cpu", "--save-model", tmp_path / "model"]
    result = run("integrate", counts, *options, "-o", path)
    prepared = sysvi.prepare(cells, "system", "batch")
    model = sysvi.integrate(prepared, "system", "batch", max_epochs=1, device="cpu", progress=False)
    output = anndata.read_h5ad(path)
    np.testing.assert_array_equal(output.obsm.pop("X_sysVI"), prepared.obsm["X_sysVI"])
    pd.testing.assert_frame_equal(output.obsm.pop("sysvi_support"), prepared.obsm["sysvi_support"])
    pd.testing.assert_series_equal(output.obs.pop("sysvi_support"), prepared.obs["sysvi_support"])
    record = output.uns.pop("sysvi")
    assert json.loads(record["members"]) == len(model.members) == DEFAULT_PRESET.members
    assert_same(output, anndata.read_h5ad(counts))
    loaded = sysvi.load(tmp_path / "model", prepared)
    assert isinstance(loaded, sysvi.Ensemble)
    np.testing.assert_array_equal(loaded.get_latent_representation(), prepared.obsm["X_sysVI"])
    assert re.search(
        r"Counterparts on which the members agree: \d+ of 150 cells of system1 in system2; ", result.stderr
    )
    assert "300 x 15, combined from 8 models; their agreement in sysvi_support of obs and obsm" in result.stderr


def contents(path):
    """Values, with shape and type, and attributes of every part of an HDF5 file, by name."""
    found = {}

    def add(name, part):
        values = part[()] if isinstance(part, h5py.Dataset) else None
        if isinstance(values, np.ndarray):
            values = values.dtype, values.shape, values.tolist() if values.dtype == object else values.tobytes()
        found[name] = repr(values), {key: np.asarray(value).tolist() for key, value in part.attrs.items()}

    with h5py.File(path) as file:
        file.visititems(add)
    return found


@pytest.mark.slow
def test_the_support_of_an_earlier_run_is_replaced_or_removed(counts, integrated, tmp_path, assert_same):
    """And everything else stays as it is, to the byte."""
    path, fresh = tmp_path / "cells.h5ad", tmp_path / "fresh.h5ad"
    run("integrate", counts, *SEVERAL, "-o", path, "--seed", 1)
    run("integrate", counts, *SEVERAL, "-o", fresh)
    assert not anndata.read_h5ad(path).obs["sysvi_support"].equals(anndata.read_h5ad(fresh).obs["sysvi_support"])
    run("integrate", path, *SEVERAL, "-o", path, "--overwrite")
    assert_same(anndata.read_h5ad(path), anndata.read_h5ad(fresh))
    before, after = contents(counts), contents(path)
    order = after["obs"][1].pop("column-order")
    assert order == [*before["obs"][1].pop("column-order"), "sysvi_support"]
    assert {name: after[name] for name in before} == before
    new = {name.split("/")[1] for name in set(after) - set(before)}
    assert new == {"X_sysVI", "sysvi_support", "sysvi"}
    run("integrate", path, *FAST, "-o", path, "--overwrite")  # a single model
    assert_same(anndata.read_h5ad(path), anndata.read_h5ad(integrated))
    assert contents(path) == contents(integrated)


def test_the_support_is_a_json_line_with_numbers(counts, tmp_path):
    result = run("integrate", counts, *SEVERAL, "-o", tmp_path / "out.h5ad", "--json")
    [line] = [line for line in json_lines(result.stdout) if line["stage"] == "support"]
    table = anndata.read_h5ad(tmp_path / "out.h5ad").obsm["sysvi_support"]
    assert {(row["system"], row["other"]): row["n_cells"] for row in line["low_support"]} == {
        ("system1", "system2"): (table["system2"] < LOW_SUPPORT).sum(),
        ("system2", "system1"): (table["system1"] < LOW_SUPPORT).sum(),
    }
    assert line["message"].startswith("Counterparts on which")


def test_an_interrupted_ensemble_is_written(counts, tmp_path, monkeypatch):
    class Impatient(JsonLines):
        def __call__(self, event):
            if event.stage == "epoch":
                raise KeyboardInterrupt
            super().__call__(event)

    monkeypatch.setattr("sysvi._core.progress.JsonLines", Impatient)
    options = [*COLUMNS, "--members", 3, "--epochs", 100_000, "--device", "cpu", "--json"]
    options += ["--checkpoint", tmp_path / "kept"]
    result = run("integrate", counts, *options, "-o", tmp_path / "out.h5ad", code=130)
    output = anndata.read_h5ad(tmp_path / "out.h5ad")
    assert json.loads(output.uns["sysvi"]["status"]) == "interrupted"
    assert np.isfinite(output.obsm["X_sysVI"]).all()
    (written,) = (line["message"] for line in json_lines(result.stdout) if line["stage"] == "write")
    assert "Training was interrupted, so this is the embedding of " in written
    assert written.endswith("; the same command with --overwrite goes on from the checkpoint")


def test_the_preset_of_the_paper(counts, tmp_path):
    options = [*COLUMNS, "--preset", "paper", "--cycle-weight", 2, "--epochs", 1, "--device", "cpu"]
    run("integrate", counts, *options, "-o", tmp_path / "out.h5ad")
    output = anndata.read_h5ad(tmp_path / "out.h5ad")
    training = json.loads(output.uns["sysvi"]["train_settings"])
    assert (training["batch_size"], training["max_epochs"]) == (128, 1)
    assert (training["cycle_weight"], training["mixture_share"]) == ([2, 0, 0], [1, 0, 0])
    assert "members" not in output.uns["sysvi"]  # a single model
    assert "sysvi_support" not in output.obs


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
        (["--genes", 0], "--genes is 0"),
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
    "options",
    [
        ["--epochs", 0],
        ["--prior", "flat"],
        ["--cycle-weight", -1],
        ["--batch-size", 1],
        ["--n-latent", 0],
        ["--members", 0],
        ["--preset", "quick"],
    ],
)
def test_impossible_options_are_usage_errors(counts, tmp_path, options):
    result = run("integrate", counts, *FAST, "-o", tmp_path / "out.h5ad", *options, code=2)
    assert options[0] in result.stderr


# -- demo, help, version ---------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_demo(tmp_path, monkeypatch):
    """With two short trainings in place of four of the usual length."""
    monkeypatch.setattr("sysvi.demo.integrate", partial(sysvi.integrate, members=2, max_epochs=100))
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
            option, default = options[setting.name], DEFAULT_PRESET.settings.get(setting.name, setting.default)
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


@pytest.fixture(scope="module")
def embedded(cells, tmp_path_factory):
    """Files of a reference and a query that have an embedding in which cell types are apart."""
    adata = cells.copy()
    del adata.raw, adata.layers
    place = pd.factorize(adata.obs["cell_type"])[0]
    adata.obsm["X_sysVI"] = np.random.default_rng(0).normal(size=(adata.n_obs, 3)) + 9 * place[:, None]
    is_query = np.arange(adata.n_obs) % 3 == 0
    folder = tmp_path_factory.mktemp("embedded")
    adata[~is_query].copy().write_h5ad(folder / "reference.h5ad")
    adata[is_query].copy().write_h5ad(folder / "query.h5ad")
    return folder


def test_transfer_writes_the_columns_of_transfer_labels_into_a_copy(embedded, tmp_path):
    reference, query = (anndata.read_h5ad(embedded / f"{name}.h5ad") for name in ("reference", "query"))
    expected = sysvi.transfer_labels(reference, query, "cell_type", system_key="system", batch_key="batch")
    command = ["transfer", embedded / "reference.h5ad", embedded / "query.h5ad", *COLUMNS, "--label", "cell_type"]
    result = run(*command, "-o", tmp_path / "labelled.h5ad")
    assert str(expected) in result.stdout
    written = anndata.read_h5ad(tmp_path / "labelled.h5ad")
    pd.testing.assert_frame_equal(written.obs, query.obs)
    np.testing.assert_array_equal(written.X.toarray(), query.X.toarray())
    assert "exists already" in run(*command, "-o", tmp_path / "labelled.h5ad", code=1).output
    event = json.loads(run(*command, "-o", tmp_path / "again.h5ad", "--json").stdout.splitlines()[-1])
    assert event["labels"] == expected.cells["label"].value_counts().to_dict()
    assert event["calibration_error"] == pytest.approx(expected.calibration_error)
    message = run(*command, "-o", tmp_path / "other.h5ad", "--cluster", "leiden", code=1).output
    assert "--cluster 'leiden' is not a column of query.obs" in message


def test_transfer_reads_the_folder_of_a_reference(cells, tmp_path):
    adata = sysvi.prepare(cells, "system", "batch", layer="log", normalize=False, min_cells=3)
    model = sysvi.integrate(adata, "system", "batch", members=1, max_epochs=1, progress=False)
    sysvi.save_reference(tmp_path / "reference", model, adata, "cell_type", licence="mit")
    query = adata[::2].copy()
    query.obs_names = [f"new {name}" for name in query.obs_names]
    query.write_h5ad(tmp_path / "query.h5ad")
    output = tmp_path / "labelled.h5ad"
    run("transfer", tmp_path / "reference", tmp_path / "query.h5ad", "--label", "cell_type", "-o", output)
    sysvi.transfer_labels(sysvi.load_reference(tmp_path / "reference"), query, "cell_type")
    pd.testing.assert_frame_equal(anndata.read_h5ad(output).obs, query.obs)
