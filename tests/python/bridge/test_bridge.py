"""The interface for R: what goes in and comes out, in this process and over files."""

import json
import re
import subprocess
import sys
import warnings
from importlib.metadata import PackageNotFoundError, version

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from hypothesis import given as for_any
from hypothesis import strategies as st
from scipy import sparse

import sysvi
import sysvi.api.integrate as integration
import sysvi.bridge
from sysvi._core.settings import DEFAULT_PRESET
from sysvi.api.storage import Storage
from sysvi.bridge.call import call, run_folder
from sysvi.bridge.transport import ExpressionBuffer, StreamedRows
from sysvi.data.own_genes import read_own_genes

SETTINGS = {"max_epochs": 2, "n_latent": 3, "n_hidden": 8, "n_prior_components": 2}


def blocks_of(x, widths):
    """CSR rows cut into blocks: values, genes, starts, as R cuts a dgCMatrix by columns."""
    start = 0
    for width in widths:
        block = x[start : start + width]
        yield block.data.astype(np.float64), block.indices, block.indptr
        start += width


def task(adata, **changes):
    """Values and arrays of the task "integrate" on all genes of `adata`."""
    values = {
        "genes": list(adata.var_names),
        "cells": list(adata.obs_names),
        "columns": [
            {"name": name, "levels": list(pd.Categorical(adata.obs[name]).categories)} for name in ("system", "batch")
        ]
        + [{"name": "age", "levels": None}],
        "system": "system",
        "batch": "batch",
        "categorical": [],
        "continuous": ["age"],
        "weight_systems": False,
        "device": "cpu",
        "seed": 3,
        "members": 1,
        "preset": None,
        "choose_genes": None,
        "settings": SETTINGS,
    }
    arrays = {
        f"column{i}": pd.Categorical(adata.obs[n]).codes.astype(np.int32) for i, n in enumerate(("system", "batch"))
    }
    return {**values, **changes}, {**arrays, "column2": adata.obs["age"].to_numpy()}


def filled(x, widths=None):
    expression = ExpressionBuffer()
    for block in blocks_of(sparse.csr_matrix(x), widths or [x.shape[0]]):
        expression.add(0, *block)
    return expression


def in_files(x, folder):
    """Expression in the files that R writes."""
    x = sparse.csr_matrix(x, dtype=np.float32)
    for name, array in (("values", x.data), ("genes", x.indices), ("lengths", np.diff(x.indptr))):
        np.asarray(array, np.float32 if name == "values" else np.int32).tofile(folder / f"layer0.{name}")
    return ExpressionBuffer.from_files(str(folder), 1.0)  # as R gives them


def integrate(adata, **settings):
    """Train in Python as the task "integrate" does."""
    columns = {"system_key": "system", "batch_key": "batch", "continuous_covariate_keys": ["age"]}
    return sysvi.integrate(adata, **columns, device="cpu", seed=3, progress=False, **settings)


@pytest.mark.parametrize("room", [0, 5, 18, 1000])
@pytest.mark.parametrize("widths", [[7], [1, 2, 4], [3, 0, 4]])
def test_blocks_make_the_matrix_and_copy_what_they_get(widths, room):
    x = sparse.random(7, 5, 0.5, "csr", dtype=np.float32, random_state=0)  # 18 stored values
    expression = ExpressionBuffer(room)
    for values, genes, starts in blocks_of(x, widths):
        expression.add(0.0, values, genes, starts)  # R's numbers are floats
        values[:] = -1
        genes[:] = 0
    made = expression.take_layer(0, 5)
    assert made.dtype == np.float32
    np.testing.assert_array_equal(made.toarray(), x.toarray())


def test_layers_are_joined_in_their_order():
    x = sparse.random(6, 4, 0.6, "csr", dtype=np.float32, random_state=1)
    expression = ExpressionBuffer()
    for layer, rows in ((1, x[4:]), (0, x[:4])):
        for block in blocks_of(rows, [rows.shape[0]]):
            expression.add(layer, *block)
    np.testing.assert_array_equal(expression.take_all(4).toarray(), x.toarray())


def test_integrate_equals_python(make_adata):
    adata = make_adata()
    values, arrays = task(adata)
    heard = []
    answer, out = call("integrate", json.dumps(values), arrays, filled(adata.X, [100, 200]), heard.append)
    assert json.loads(answer) == {}
    model = integrate(adata, members=1, **SETTINGS)
    np.testing.assert_array_equal(out["embedding"], adata.obsm["X_sysVI"])
    assert sorted(out) == ["embedding", "model"]
    assert [json.loads(line)["stage"] for line in heard if "warning" not in line] == ["plan", "epoch", "epoch", "end"]
    assert model.status == "finished"


def test_a_checkpoint_is_passed_on(make_adata, tmp_path):
    adata = make_adata()
    values, arrays = task(adata, checkpoint=str(tmp_path))
    _, first = call("integrate", json.dumps(values), arrays, filled(adata.X))
    heard = []
    _, second = call("integrate", json.dumps(values), arrays, filled(adata.X), heard.append)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["member-0.safetensors", "run.json"]
    assert [json.loads(line)["stage"] for line in heard if "warning" not in line] == ["checkpoint", "plan", "end"]
    np.testing.assert_array_equal(first["embedding"], second["embedding"])
    answer, _ = call("integrate", json.dumps(values | {"seed": 5}), arrays, filled(adata.X))
    assert "(seed: 3 there, 5 here): choose another folder" in json.loads(answer)["error"]


@pytest.mark.parametrize("n_files", [1, 2])
def test_files_that_r_does_not_load_equal_python(make_adata, tmp_path, n_files):
    """Two files are prepared into one, which is gone afterwards; a prepared file is read as it is."""
    adata = make_adata()
    adata.X = adata.layers["counts"]
    del adata.layers["counts"]
    systems = adata.obs["system"].astype(str)
    files = [tmp_path / f"{name}.h5ad" for name in sorted(systems.unique())]
    for name, file in zip(sorted(systems.unique()), files, strict=True):
        adata[systems == name].copy().write_h5ad(file)
    options = {"min_cells": 3, "seed": 3}
    prepared = sysvi.prepare_files(files, tmp_path / "prepared.h5ad", "system", "batch", **options)
    if n_files == 1:
        files = [prepared]
    values, _ = task(adata, files=[str(file) for file in files], folder=str(tmp_path), layer=None, memory=None)
    values |= {"choose_genes": {"min_cells": 3}, "system_of_file": None, "orthologs": None, "checkpoint": None}
    heard = []
    answer, out = call("integrate_files", json.dumps(values), {}, on_event=heard.append)
    expected = integrate(prepared, members=1, **SETTINGS).adata
    answer = json.loads(answer)
    assert answer["cells"] == list(expected.obs_names)
    assert answer["metadata"]["order"] == ["system", "batch", "age"]
    assert answer["metadata"]["texts"]["batch"] == list(expected.obs["batch"])
    np.testing.assert_array_equal(out["metadata"], expected.obs[["age"]])
    np.testing.assert_array_equal(out["embedding"], expected.obsm["X_sysVI"])
    assert any('"stage": "prepare"' in line for line in heard) == (n_files == 2)
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".h5ad"] * 3


def test_files_that_cannot_be_used_are_named(make_adata, tmp_path):
    values, _ = task(make_adata(), files=[str(tmp_path / "absent.h5ad")], folder=str(tmp_path), layer=None, memory=None)
    answer, _ = call("integrate_files", json.dumps(values), {})
    assert "absent.h5ad" in json.loads(answer)["error"]


def test_an_ensemble_equals_python(make_adata):
    """By default the engine chooses the number of members; the answer then has the support of the cells."""
    adata = make_adata()
    values, arrays = task(adata, members=None)
    answer, out = call("integrate", json.dumps(values), arrays, filled(adata.X))
    integrate(adata, **SETTINGS)
    np.testing.assert_array_equal(out["embedding"], adata.obsm["X_sysVI"])
    assert json.loads(answer) == {"systems": ["system1", "system2"]}
    np.testing.assert_array_equal(out["support"], adata.obsm["sysvi_support"])
    np.testing.assert_array_equal(out["cell_support"], adata.obs["sysvi_support"])
    own = adata.obs["system"].to_numpy()[:, None] == ["system1", "system2"]
    np.testing.assert_array_equal(np.isnan(out["support"]), own)
    embed = {k: values[k] for k in ("genes", "cells", "columns", "device")}
    _, embedded = call("embed", json.dumps(embed), {**arrays, "model": out["model"]}, filled(adata.X))
    np.testing.assert_array_equal(embedded["embedding"], out["embedding"])


def test_a_preset_equals_python(make_adata):
    adata = make_adata()
    few = {"max_epochs": 2, "n_hidden": 8}
    values, arrays = task(adata, members=None, preset="paper", settings=few)
    answer, out = call("integrate", json.dumps(values), arrays, filled(adata.X))
    assert json.loads(answer) == {}
    integrate(adata, preset="paper", **few)
    np.testing.assert_array_equal(out["embedding"], adata.obsm["X_sysVI"])
    assert out["embedding"].shape[1] != SETTINGS["n_latent"]


def test_warnings_are_told_in_words_of_r_whatever_the_filters(make_adata, monkeypatch):
    monkeypatch.setattr(sysvi.api.separation, "SEPARATION_THRESHOLD", 10)  # everything is apart
    adata, heard = make_adata(), []
    values, arrays = task(adata)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        call("integrate", json.dumps(values), arrays, filled(adata.X), heard.append)
    told = [event["message"] for event in map(json.loads, heard) if event["stage"] == "warning"]
    assert any("leaves system1 and system2 apart" in text and "with TuneSysVI()" in text for text in told)


def test_order_and_choice_of_genes(make_adata):
    adata = make_adata()
    prepared = sysvi.prepare(adata, "system", "batch", normalize=False, n_top_genes=40, min_cells=5)
    integrate(prepared, members=1, **SETTINGS)
    values, arrays = task(adata, choose_genes={"n_top_genes": 40, "min_cells": 5})
    shuffled = np.random.default_rng(0).permutation(adata.n_obs)
    arrays["order"] = np.argsort(shuffled).astype(np.int32)
    _, out = call("integrate", json.dumps(values), arrays, filled(adata.X[shuffled]))
    np.testing.assert_array_equal(out["embedding"], prepared.obsm["X_sysVI"])


@pytest.mark.parametrize("window", [None, 1000], ids=["memory suffices", "one window from disk"])
@pytest.mark.parametrize("choose", [None, {"n_top_genes": 40, "min_cells": 5}], ids=["given genes", "chosen genes"])
@pytest.mark.parametrize("shuffled", [False, True], ids=["in order", "in another order"])
def test_expression_that_stays_in_files_gives_the_bits_of_memory(
    make_adata, tmp_path, monkeypatch, window, choose, shuffled
):
    """Embedding, support and the file of the model."""
    adata = make_adata()
    values, arrays = task(adata, choose_genes=choose, members=2, lacking_genes={"system1": [adata.var_names[3]]})
    if shuffled:
        order = np.random.default_rng(0).permutation(adata.n_obs)
        arrays["order"] = np.argsort(order).astype(np.int32)
        adata = adata[order].copy()
    x = sparse.lil_matrix(adata.X)
    x[(adata.obs["system"] == "system1").to_numpy(), 3] = 0
    x = sparse.csr_matrix(x)
    _, expected = call("integrate", json.dumps(values), arrays, filled(x))
    heard = []
    if window is not None:
        monkeypatch.setattr(integration, "choose_storage", lambda *arguments: Storage(window, 0.0, "a test"))
    expression = in_files(x, tmp_path)
    answer, out = call("integrate", json.dumps(values | {"memory": "4GB"}), arrays, expression, heard.append)
    assert "error" not in answer
    assert set(out) == set(expected)
    for name in expected:
        np.testing.assert_array_equal(out[name], expected[name], err_msg=name)
    (storage,) = [event for event in map(json.loads, heard) if event["stage"] == "storage"]
    assert storage["on_disk"] == (window is not None)
    assert [path.name for path in tmp_path.iterdir()] == ["prepared.h5ad"]


def test_windows_from_files_equal_python(make_adata, tmp_path, monkeypatch):
    """With several windows, the result is that of training from an h5ad file of the same cells."""
    monkeypatch.setattr(integration, "choose_storage", lambda *arguments: Storage(100, 0.0, "a test"))
    adata = make_adata()
    values, arrays = task(adata, memory="4GB")
    _, out = call("integrate", json.dumps(values), arrays, in_files(adata.X, tmp_path))
    adata.X = sparse.csr_matrix(adata.X)
    adata.write_h5ad(tmp_path / "cells.h5ad")
    model = integrate(tmp_path / "cells.h5ad", members=1, memory="4GB", **SETTINGS)
    np.testing.assert_array_equal(out["embedding"], model.adata.obsm["X_sysVI"])


def test_too_little_memory_is_said(make_adata, tmp_path):
    adata = make_adata()
    values, arrays = task(adata, memory="1MB")
    answer, _ = call("integrate", json.dumps(values), arrays, in_files(adata.X, tmp_path))
    assert json.loads(answer)["error"].startswith("memory='1MB' is too little")


@for_any(seed=st.integers(0, 99), n=st.integers(0, 12), start=st.integers(0, 12), width=st.integers(0, 13))
def test_rows_of_files_are_those_of_the_matrix(tmp_path_factory, seed, n, start, width):
    """Any rows of cells in any order, also of some of the cells."""
    folder, rng = tmp_path_factory.mktemp("files"), np.random.default_rng(seed)
    x = sparse.random(12, 5, rng.uniform(), "csr", dtype=np.float32, random_state=seed)
    order = rng.permutation(12)[:n] if seed % 2 else np.sort(rng.permutation(12)[:n])
    rows = in_files(x, folder).take_files(5, order)
    assert rows.shape == (n, 5)
    assert rows.nnz == x[order].nnz
    part = rows[start : start + width]
    np.testing.assert_array_equal(part.toarray(), x[order].toarray()[start : start + width])


@pytest.mark.parametrize("name", ["values", "genes"])
def test_files_that_were_cut_off_are_refused(tmp_path, name):
    in_files(sparse.eye(4), tmp_path)
    with open(tmp_path / f"layer0.{name}", "r+b") as file:
        file.truncate(12)
    with pytest.raises(sysvi.InputError, match="is incomplete, as on a full disk: free some space"):
        StreamedRows(tmp_path, 4)


def test_embed_with_the_models_bytes(make_adata):
    adata = make_adata()
    values, arrays = task(adata)
    _, trained = call("integrate", json.dumps(values), arrays, filled(adata.X))
    embed = {k: values[k] for k in ("genes", "cells", "columns", "device")}
    _, out = call("embed", json.dumps(embed), {**arrays, "model": bytearray(trained["model"])}, filled(adata.X))
    np.testing.assert_array_equal(out["embedding"], trained["embedding"])


def test_embed_with_a_model_of_a_layer(make_adata, make_sysvi, tmp_path):
    adata = make_adata()
    adata.layers["lognorm"] = adata.X
    model = make_sysvi(adata, setup={"layer": "lognorm", "categorical_covariate_keys": ["batch"]})
    model.save(tmp_path)
    file = np.fromfile(tmp_path / "model.safetensors", np.uint8)
    values, arrays = task(adata)
    _, out = call("embed", json.dumps(values), {**arrays, "model": file}, filled(adata.X))
    np.testing.assert_array_equal(out["embedding"], model.get_latent_representation())


@pytest.fixture
def reference_and_query(make_adata, tmp_path):
    """A trained ensemble's cells without one batch, the cells of this batch, and the task "map" with labels."""
    adata = make_adata()
    is_new = (adata.obs["batch"] == adata.obs["batch"].iloc[0]).to_numpy()
    reference, query = adata[~is_new].copy(), adata[is_new].copy()
    integrate(reference, members=2, **SETTINGS).save(tmp_path)
    labelled, of_reference = columns_of(reference, "cell_type", "system", "batch")
    values, arrays = task(query, orthologs=None, fractional_counts=False, max_epochs=2)
    values["labels_from"] = {**labelled, "label": "cell_type", "system": "system", "batch": "batch"}
    arrays["model"] = np.fromfile(tmp_path / "model.safetensors", np.uint8)
    of_reference["embedding"] = reference.obsm["X_sysVI"].astype(np.float64, order="F")  # as R stores it
    arrays |= {f"reference_{name}": array for name, array in of_reference.items()}
    return reference, query, values, arrays


def test_map_equals_python(reference_and_query, tmp_path):
    reference, query, values, arrays = reference_and_query
    answer, out = call("map", json.dumps(values), arrays, filled(query.X))
    answer = json.loads(answer)
    sysvi.map_query(sysvi.load(tmp_path), query, max_epochs=2, seed=3, device="cpu", progress=False)
    expected = sysvi.transfer_labels(reference, query, "cell_type", system_key="system", batch_key="batch").cells
    np.testing.assert_array_equal(out["embedding"], query.obsm["X_sysVI"])
    assert [answer["labels"][code] for code in out["label"]] == expected["label"].tolist()
    for name in ("confidence", "novelty"):
        np.testing.assert_array_equal(out[name], expected[name])
    assert answer["missing_genes"] == []

    genes = query.var_names[::-1][:-2]  # another order, without two of the model's genes
    of_genes = {**values, "genes": list(genes), "labels_from": None}
    answer, less = call("map", json.dumps(of_genes), arrays, filled(query[:, genes].X))
    assert sorted(json.loads(answer)["missing_genes"]) == sorted(query.var_names[:2])
    assert sorted(less) == ["embedding", "model"]
    out["model"].tofile(tmp_path / "extended.safetensors")
    extended = sysvi.load(tmp_path / "extended.safetensors", device="cpu")
    np.testing.assert_array_equal(extended.get_latent_representation(query), out["embedding"])


def test_map_takes_labels_of_a_saved_reference(reference_and_query, tmp_path):
    reference, query, values, arrays = reference_and_query
    folder = tmp_path / "reference"
    saved = {"folder": str(folder), "licence": "mit", "description": "Some cells.", "overwrite": False, "device": "cpu"}
    saved["reference"] = values["labels_from"]
    assert call("save_reference", json.dumps(saved), arrays)[0] == "{}"
    sysvi.save_reference(
        tmp_path / "python", sysvi.load(tmp_path), reference, "cell_type", licence="mit", description="Some cells."
    )
    for name in ("README.md", "model.safetensors"):
        assert (folder / name).read_bytes() == (tmp_path / "python" / name).read_bytes()
    pd.testing.assert_frame_equal(
        sysvi.load_reference(folder).adata.obs, sysvi.load_reference(tmp_path / "python").adata.obs
    )
    assert "overwrite = TRUE" in json.loads(call("save_reference", json.dumps(saved), arrays)[0])["error"]

    _, out = call("map", json.dumps(values), arrays, filled(query.X))
    of_folder = {"folder": str(folder), "label": "cell_type", "system": None, "batch": None}
    _, again = call("map", json.dumps({**values, "labels_from": of_folder}), arrays, filled(query.X))
    for name, array in out.items():
        np.testing.assert_array_equal(again[name], array)


def test_what_map_refuses_is_told_in_words_of_r(reference_and_query):
    _, query, values, arrays = reference_and_query
    unlabelled = {**arrays, "reference_column0": np.full_like(arrays["reference_column0"], -1)}
    refused = [
        (values, unlabelled, query.X, "'cell_type' (label) labels no cell: choose another column, or give no label."),
        ({**values, "genes": [f"x{name}" for name in values["genes"]]}, arrays, query.X, "none of the model's"),
        ({**values, "orthologs": "none.tsv"}, arrays, query.X, "no orthologue table"),
    ]
    for of_task, given, x, words in refused:
        heard = []
        answer, out = call("map", json.dumps(of_task), given, filled(x), heard.append)
        assert words in json.loads(answer)["error"]
        assert out == {}
        assert not any(json.loads(line)["stage"] == "epoch" for line in heard)


def test_translate_equals_python(reference_and_query, tmp_path, monkeypatch):
    reference, query, values, arrays = reference_and_query
    model, genes = sysvi.load(tmp_path, device="cpu"), [str(name) for name in reference.var_names[[4, 1]]]
    for target, wanted in (("system2", None), (None, genes)):
        given, columns = task(reference, to_system=target, to_batch="average", wanted=wanted)
        answer, out = call("translate", json.dumps(given), {**columns, "model": arrays["model"]}, filled(reference.X))
        found = sysvi.translate(model, reference, target, "average", genes=wanted, progress=False)
        np.testing.assert_array_equal(out["expression"], found.layers["sysvi_translated"])
        assert json.loads(answer) == {"genes": list(found.var_names)}
    given = {**values, "to_system": "system2", "to_batch": None, "wanted": None}
    message = json.loads(call("translate", json.dumps(given), arrays, filled(query.X))[0])["error"]
    assert message.startswith("'batch' has ")
    assert message.endswith("with MapSysVI() first, and use its result as reference.")
    monkeypatch.setattr("sysvi._core.memory.free_memory", lambda device: 1e5)
    message = json.loads(call("translate", json.dumps(given), arrays, filled(query.X))[0])["error"]
    assert re.search(
        r"of \d+ cells and 100 genes takes at least .* free: choose genes .genes., translate some", message
    )


def test_compare_systems_equals_python(reference_and_query, tmp_path):
    reference, _, _, arrays = reference_and_query
    labelled, columns = columns_of(reference, "cell_type", "system", "batch", "sex", "age")
    values = {**labelled, "genes": list(reference.var_names), "device": "cpu", "label": "cell_type"}
    model = sysvi.load(tmp_path, device="cpu")
    for pair, donor in ((None, "sex"), (["system2", "system1"], "sex")):
        given = {**values, "compared": pair, "donor": donor, "min_cells": 5}
        answer, out = call(
            "compare_systems", json.dumps(given), {**columns, "model": arrays["model"]}, filled(reference.X)
        )
        header = json.loads(answer)["table"]
        expected = sysvi.compare_systems(
            model, reference, "cell_type", systems=pair, batch_key=donor, min_cells=5, progress=False
        )
        assert header["order"] == list(expected)
        for name, values_of_column in header["texts"].items():
            assert values_of_column == expected[name].tolist()
        np.testing.assert_array_equal(out["table"], expected.drop(columns=list(header["texts"])).to_numpy(float))
        assert np.isfinite(out["table"]).any(axis=0).all()
    given = {**values, "compared": None, "donor": None, "min_cells": 5}
    heard: list[str] = []
    call("compare_systems", json.dumps(given), {**columns, "model": arrays["model"]}, filled(reference.X), heard.append)
    assert any("type1 (2 of system1, 1 of system2)" in line for line in heard)


def test_differential_expression_equals_python(reference_and_query, tmp_path):
    reference, _, _, arrays = reference_and_query
    labelled, columns = columns_of(reference, "cell_type", "system", "batch", "sex", "age")
    settings = {"mode": "change", "delta": 0.5, "batch_correction": True, "n_samples_overall": 50, "seed": 3}
    groups = {"groupby": "cell_type", "group1": ["type1", "type2"], "group2": None}
    values = {**labelled, "genes": list(reference.var_names), "device": "cpu", "groups": groups, "settings": settings}
    answer, out = call(
        "differential_expression", json.dumps(values), {**columns, "model": arrays["model"]}, filled(reference.X)
    )
    header = json.loads(answer)["table"]
    model = sysvi.load(tmp_path, device="cpu")
    expected = sysvi.differential_expression(model, reference, **groups, **settings, progress=False).reset_index()
    assert header["order"] == list(expected)
    for name, values_of_column in header["texts"].items():
        assert values_of_column == expected[name].tolist()
    np.testing.assert_array_equal(out["table"], expected.drop(columns=list(header["texts"])).to_numpy(float))


@pytest.mark.parametrize("genes", ["shared", "union"])
def test_prepare_systems_equals_python(genes):
    counts = sysvi.datasets.simulate_systems(200, 150, n_markers=10, n_programme_genes=10, seed=1)
    human = counts[counts.obs["system"] == "system1"].copy()
    mouse = counts[counts.obs["system"] == "system2"].copy()[:, list(counts.var_names)[::-1]].copy()
    mouse.var_names = [f"m{name}" for name in mouse.var_names]
    table = {"human": list(counts.var_names), "mouse": [f"m{n}" for n in counts.var_names], "note": [None] * 150}
    if genes == "union":
        table = {name: values[:130] for name, values in table.items()}
    values = {
        "systems": [
            {"name": n, "genes": list(a.var_names), "cells": list(a.obs_names)} for n, a in (("h", human), ("m", mouse))
        ],
        "orthologs": table,
        "reference": "h",
        "system": "species",
        "duplicates": "drop",
        "min_cells": 20,
        "normalize": True,
        "fractional_counts": False,
        "gene_set": genes,
    }
    expression = ExpressionBuffer()
    for layer, adata in enumerate((human, mouse)):
        for block in blocks_of(sparse.csr_matrix(adata.X), [50, 50]):
            expression.add(layer, *block)
    answer, out = call("prepare_systems", json.dumps(values), {}, expression)
    answer = json.loads(answer)
    pairs = pd.DataFrame(table)[["human", "mouse"]]
    if genes == "union":
        systems = {name: AnnData(a.X, a.obs[[]], a.var[[]]) for name, a in (("h", human), ("m", mouse))}
        joined = sysvi.join_systems(systems, "species", genes="union", orthologs={"m": pairs})
    else:
        joined = sysvi.join_systems({"h": human, "m": sysvi.map_orthologs(mouse, pairs)}, "species")
    expected = sysvi.prepare(joined, "species", genes=genes, n_top_genes=200)
    has = read_own_genes(expected.uns, expected.var_names, ["h", "m"])
    lacking = [] if has is None else [gene for row in has for gene in expected.var_names[~row]]
    assert answer.get("lacking_genes", []) == lacking
    assert bool(lacking) == (genes == "union")
    assert answer["cells"] == list(expected.obs_names)
    assert answer["genes"] == list(expected.var_names)
    shape = expected.shape
    for name, matrix in (("expression", expected.X), ("counts", expected.layers["counts"])):
        made = sparse.csr_matrix((out[name], out["genes"], out["starts"]), shape=shape)
        np.testing.assert_array_equal(made.toarray(), matrix.toarray())


def table_of(described, numbers):
    """A table as R puts it together again."""
    texts = described["texts"]
    numbers = pd.DataFrame(numbers, columns=[name for name in described["order"] if name not in texts])
    return numbers.assign(**texts)[described["order"]]


def columns_of(adata, *names):
    """Categorical columns as R hands them over: values, arrays."""
    factors = {name: pd.Categorical(adata.obs[name]) for name in names}
    described = [{"name": name, "levels": list(factor.categories)} for name, factor in factors.items()]
    arrays = {f"column{i}": factor.codes.astype(np.int32) for i, factor in enumerate(factors.values())}
    return {"cells": list(adata.obs_names), "columns": described}, arrays


def evaluation_task(adata, **changes):
    """Values and arrays of the task "evaluate" on two embeddings, the PCA to measure as well."""
    columns, arrays = columns_of(adata, "system", "batch", "cell_type")
    embeddings = {"pca": adata.obsm["X_pca"], "wide": adata.obsm["X_pca"] * np.arange(1, 6)}
    values = {
        "genes": list(adata.var_names),
        **columns,
        "system": "system",
        "batch": "batch",
        "label": "cell_type",
        "embeddings": list(embeddings),
        "measured": ["wide", "pca"],
        "before": "pca",
        "choose_genes": True,
        "device": "cpu",
        "seed": 1,
        "settings": {"min_cells": 20},
    }
    return {**values, **changes}, arrays | {f"embedding{i}": z for i, z in enumerate(embeddings.values())}


@pytest.fixture
def evaluated(make_adata):
    """Cells with what shall be a PCA, some without a label."""
    adata = make_adata()
    adata.obsm["X_pca"] = adata.X.toarray()[:, :5].astype(np.float64)
    adata.obsm["wide"] = adata.obsm["X_pca"] * np.arange(1, 6)
    adata.obs.loc[adata.obs_names[:7], "cell_type"] = np.nan
    return adata


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Only .* genes remain")
@pytest.mark.parametrize("settings", [{}, {"standardised": True, "max_cells": 200}])
def test_evaluate_equals_python(evaluated, settings):
    values, arrays = evaluation_task(evaluated, settings={"min_cells": 20, **settings})
    heard = []
    answer, out = call("evaluate", json.dumps(values), arrays, filled(evaluated.X), heard.append)
    answer = json.loads(answer)
    expected = sysvi.evaluate_in_detail(
        evaluated,
        ["wide", "X_pca"],
        system_key="system",
        batch_key="batch",
        label_key="cell_type",
        device="cpu",
        seed=1,
        progress=False,
        **values["settings"],
    )
    table = table_of(answer["table"], out["table"]).set_index("metric").drop(columns="convention")
    pd.testing.assert_frame_equal(
        table.rename(columns=lambda name: name.replace("pca", "X_pca")),
        expected.table.drop(columns="convention"),
        check_dtype=False,
    )
    by_label = table_of(answer["per_label"], out["per_label"]).replace({"pca": "X_pca"}, regex=True)
    pd.testing.assert_frame_equal(by_label, expected.per_label)
    assert list(evaluated.obs_names[out["rows"]]) == list(expected.per_cell.index)
    assert answer["per_cell"][0] == "wide: iLISI"
    np.testing.assert_array_equal(out["per_cell"], expected.per_cell.to_numpy())
    assert len(answer["notes"]) == len(expected.notes)
    assert any(text.endswith("before: 'pca'") for text in answer["table"]["texts"]["convention"])
    assert not any("NaN" in line or "warning" in line for line in heard)


def test_evaluate_without_expression_leaves_out_what_needs_it(evaluated):
    values, arrays = evaluation_task(evaluated, genes=None, before=None)
    answer, out = call("evaluate", json.dumps(values), arrays)
    answer = json.loads(answer)
    scores = table_of(answer["table"], out["table"]).set_index("metric")["wide"]
    assert scores.isna()[["PCR comparison", "Moran"]].all()
    assert scores.notna().sum() > 10
    assert "Metrics that need expression are left out. There is no expression." in answer["notes"]


def test_evaluate_takes_chosen_genes_as_they_are(evaluated):
    few = evaluated[:, :30].copy()
    values, arrays = evaluation_task(few, choose_genes=False, before=None, settings={"metrics": "PCR comparison"})
    _, out = call("evaluate", json.dumps(values), arrays, filled(few.X))
    few.uns["sysvi_prepare"] = {}
    del few.obsm["X_pca"]
    expected = sysvi.evaluate(
        few, "wide", system_key="system", metrics="PCR comparison", device="cpu", seed=1, progress=False
    )
    assert out["table"][0, 0] == expected.loc["PCR comparison", "wide"]


def test_what_evaluate_refuses_is_told_in_words_of_r(evaluated):
    values, arrays = evaluation_task(evaluated)
    arrays["embedding1"] = np.full_like(arrays["embedding1"], np.nan)
    answer, _ = call("evaluate", json.dumps(values), arrays, filled(evaluated.X))
    assert json.loads(answer)["error"].startswith("'wide' cannot be measured. The embedding of 300 of 300 cells")
    values, arrays = evaluation_task(evaluated)
    evaluated.obs["cell_type"] = "unknown"
    arrays |= columns_of(evaluated, "system", "batch", "cell_type")[1]
    values |= columns_of(evaluated, "system", "batch", "cell_type")[0]
    answer, _ = call("evaluate", json.dumps(values), arrays, filled(evaluated.X))
    assert json.loads(answer)["error"].startswith("'cell_type' (label) labels no cell")


@pytest.mark.filterwarnings("ignore:Only .* genes remain")
@pytest.mark.parametrize(("min_cells", "choose_genes"), [(10, True), (10, False), (10_000, True)])
def test_batch_strength_equals_python(make_adata, min_cells, choose_genes):
    adata = make_adata()
    keys = ["system", "batch", "cell_type"]
    columns, arrays = columns_of(adata, *keys)
    values = {
        "genes": list(adata.var_names),
        **columns,
        **dict(zip(("system", "batch", "label"), keys, strict=True)),
        "choose_genes": choose_genes,
        "seed": 0,
        "settings": {"min_cells": min_cells},
    }
    answer, out = call("batch_strength", json.dumps(values), arrays, filled(adata.X))
    answer = json.loads(answer)
    chosen = sysvi.prepare(adata, "system", "batch", normalize=False) if choose_genes else adata
    expected = sysvi.batch_strength(chosen, *keys, min_cells=min_cells)
    assert (answer["substantial"], answer["advice"]) == (expected.substantial, expected.advice)
    table = table_of(answer["table"], out["table"]).set_index(["label", "system"])
    pd.testing.assert_frame_equal(table, expected.table, check_dtype=False, check_index_type=False)
    distances = table_of(answer["distances"], out["distances"])
    pd.testing.assert_frame_equal(distances, expected.distances, check_dtype=False)


def tuning_task(adata, label, **compared):
    """Values and arrays of the task "tune" on all genes of `adata`."""
    columns, arrays = columns_of(adata, "system", "batch", *([] if label is None else [label]))
    few = {
        "cycle_weights": [0, 5],
        "kl_weights": [1],
        "priors": ["vamp"],
        "seeds": [0, 4],
        "min_cells": 20,
        "max_cells": 50_000,
    }
    values = {
        **task(adata, continuous=[], label=label, folder=None, compared={**few, **compared})[0],
        **columns,
    }
    return values, arrays


@pytest.mark.slow
@pytest.mark.parametrize("label", ["cell_type", None])
def test_tune_equals_python(make_adata, label):
    adata = make_adata()
    adata.obs.loc[adata.obs_names[:7], "cell_type"] = np.nan
    values, arrays = tuning_task(adata, label)
    heard = []
    answer, out = call("tune", json.dumps(values), arrays, filled(adata.X), heard.append)
    answer = json.loads(answer)
    expected = sysvi.tune(
        adata, "system", "batch", label, device="cpu", progress=False, **values["compared"], **SETTINGS
    )
    pd.testing.assert_frame_equal(table_of(answer["runs"], out["runs"]), expected.runs, check_dtype=False)
    settings = table_of(answer["settings"], out["settings"]).set_index(["cycle_weight", "kl_weight", "prior"])
    pd.testing.assert_frame_equal(settings, expected.settings, check_dtype=False)
    weights = {"cycle_weight": expected.cycle_weight, "kl_weight": expected.kl_weight}
    assert answer["chosen"] == {**weights, "prior": expected.prior, "seed": expected.seed}
    assert (answer["mixing"], answer["why"]) == (expected.mixing, expected.why)
    assert answer["warnings"] == list(expected.warnings)
    np.testing.assert_array_equal(out["embedding"], expected.embedding)
    np.testing.assert_array_equal(out["support"], adata.obsm["sysvi_support"])
    assert b"sysvi-model" in bytes(out["model"])
    assert sum(json.loads(line)["stage"] == "model" for line in heard) == 4


@pytest.mark.slow
def test_tune_on_chosen_genes_from_a_folder(make_adata, tmp_path):
    adata = make_adata()
    prepared = sysvi.prepare(adata, "system", "batch", normalize=False, n_top_genes=40, min_cells=5)
    values, arrays = tuning_task(adata, "cell_type", seeds=1)
    values |= {"folder": str(tmp_path / "runs"), "choose_genes": {"n_top_genes": 40, "min_cells": 5}}
    first = call("tune", json.dumps(values), arrays, filled(adata.X))
    heard = []
    again = call("tune", json.dumps(values), arrays, filled(adata.X), heard.append)
    assert not any(json.loads(line)["stage"] == "epoch" for line in heard)
    assert again[0] == first[0]
    for name, array in first[1].items():
        np.testing.assert_array_equal(again[1][name], array, err_msg=name)
    expected = sysvi.tune(
        prepared, "system", "batch", "cell_type", device="cpu", progress=False, **values["compared"], **SETTINGS
    )
    np.testing.assert_array_equal(first[1]["runs"][:, 3:5], expected.runs[["iLISI", "NMI"]])


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["epoch", "model"])
def test_a_listener_can_stop_a_tuning(make_adata, stage):
    adata = make_adata()
    values, arrays = tuning_task(adata, "cell_type", seeds=list(range(20)))
    values["settings"] = {**SETTINGS, "max_epochs": 20}
    heard = []

    def stop(line):
        """Once, at the first model or at the first epoch after it."""
        heard.append(json.loads(line)["stage"])
        first = heard[-1] == stage and "model" in heard and "stop" not in heard
        heard.extend(["stop"] * first)
        return first

    answer = json.loads(call("tune", json.dumps(values), arrays, filled(adata.X), stop)[0])
    status = answer["runs"]["texts"]["status"]
    assert 1 <= status.count("finished") < 40
    assert answer["n_missing"] == 40 - len(status) > 0


def test_what_tune_refuses_is_told_in_words_of_r(make_adata):
    adata = make_adata()
    adata.obs["system"] = np.where(np.arange(300) < 8, "few", "many")
    values, arrays = tuning_task(adata, None)
    answer, out = call("tune", json.dumps(values), arrays, filled(adata.X))
    assert json.loads(answer)["error"].startswith("System 'few' of 'system' has 8 cells")
    assert out == {}
    adata = make_adata()
    adata.obs["cell_type"] = "unknown"
    values, arrays = tuning_task(adata, "cell_type")
    answer, _ = call("tune", json.dumps(values), arrays, filled(adata.X))
    assert json.loads(answer)["error"].startswith("'cell_type' (label) labels no cell")


def test_bad_input_is_told_as_a_value(make_adata):
    adata = make_adata()
    values, arrays = task(adata, settings={"n_latent": 0})
    answer, out = call("integrate", json.dumps(values), arrays, filled(adata.X))
    assert "n_latent is 0" in json.loads(answer)["error"]
    assert out == {}


def test_a_listener_can_stop_training(make_adata):
    adata = make_adata()
    values, arrays = task(adata, settings={**SETTINGS, "max_epochs": 50})
    _, out = call("integrate", json.dumps(values), arrays, filled(adata.X), lambda line: '"epoch": 2' in line)
    assert b'\\"status\\": \\"interrupted\\"' in bytes(out["model"])


def test_a_listener_can_stop_the_training_of_a_mapping(reference_and_query):
    _, query, values, arrays = reference_and_query
    values = {**values, "max_epochs": 50}
    answer, out = call("map", json.dumps(values), arrays, filled(query.X), lambda line: '"epoch": 2' in line)
    assert b'\\"status\\": \\"interrupted\\"' in bytes(out["model"])
    assert "error" not in json.loads(answer)
    assert len(out["label"]) == query.n_obs


def test_a_listener_can_stop_the_training_of_an_ensemble(make_adata, tmp_path):
    """The members that have ended by then are kept. Others go on until the listener is asked: so there are many."""
    adata = make_adata()
    values, arrays = task(adata, settings={**SETTINGS, "max_epochs": 20}, members=60)
    stages = []

    def stop(line):
        stages.append(json.loads(line)["stage"])
        return stages.count("model") == 1 and stages[-1] == "model"

    _, out = call("integrate", json.dumps(values), arrays, filled(adata.X), stop)
    out["model"].tofile(tmp_path / "model.safetensors")
    model = sysvi.load(tmp_path)
    assert model.status == "interrupted"
    assert len(model.members) < 60
    assert all(len(member.history["loss_train"]) == 20 for member in model.members)


def test_an_interrupt_before_training_is_told_as_a_value(make_adata):
    def interrupt(line):
        raise KeyboardInterrupt

    adata = make_adata()
    values, arrays = task(adata)
    answer, out = call("integrate", json.dumps(values), arrays, filled(adata.X), interrupt)
    assert json.loads(answer) == {"interrupted": True}
    assert out == {}


@pytest.mark.slow
def test_sigint_handler_of_the_host_comes_back():
    code = """
import ctypes, signal
from sysvi.bridge import call
get = ctypes.pythonapi.PyOS_getsig
get.restype = ctypes.c_void_p
put = ctypes.pythonapi.PyOS_setsig
put.argtypes = [ctypes.c_int, ctypes.c_void_p]
put(signal.SIGINT, ctypes.c_void_p(1))  # SIG_IGN, set as C code would
call("device", '{"device": "cpu"}', {})
assert get(signal.SIGINT) == 1
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_versions_without_an_installed_sysvi(make_adata, monkeypatch):
    def not_installed(name):
        if name == "sysvi":
            raise PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr("sysvi.api.sysvi.version", not_installed)
    adata = make_adata()
    values, arrays = task(adata)
    answer, _ = call("integrate", json.dumps(values), arrays, filled(adata.X))
    assert json.loads(answer) == {}


def test_folder_gives_the_same(make_adata, tmp_path, capsys):
    adata = make_adata()
    values, arrays = task(adata)
    _, expected = call("integrate", json.dumps(values), arrays, filled(adata.X))
    in_files(adata.X, tmp_path)
    described = {}
    for name, array in arrays.items():
        described[name] = {"type": str(array.dtype), "shape": list(array.shape)}
        array.tofile(tmp_path / f"in.{name}")
    given = {"task": "integrate", "values": values, "arrays": described, "layers": 1}
    (tmp_path / "task.json").write_text(json.dumps(given))
    run_folder(tmp_path)
    answer = json.loads((tmp_path / "answer.json").read_text())
    assert answer["arrays"]["embedding"] == {"type": "float32", "shape": [300, 3]}
    embedding = np.fromfile(tmp_path / "out.embedding", np.float32).reshape(300, 3, order="F")
    np.testing.assert_array_equal(embedding, expected["embedding"])
    stages = [json.loads(line)["stage"] for line in capsys.readouterr().out.splitlines()]
    assert stages[-1] == "end"


def test_an_empty_matrix_in_files(tmp_path):
    for name in ("values", "genes"):
        (tmp_path / f"layer0.{name}").touch()
    np.zeros(3, np.int32).tofile(tmp_path / "layer0.lengths")
    assert ExpressionBuffer.from_files(tmp_path, 1).take_all(4).shape == (3, 4)


def test_defaults_are_those_of_the_settings():
    answer, out = call("defaults", "{}", {})
    defaults = json.loads(answer)
    assert out == {}
    assert sysvi.ModelSettings(**defaults["model"]) == sysvi.ModelSettings()
    assert sysvi.TrainSettings(**defaults["training"]) == sysvi.TrainSettings()
    assert defaults["training"]["cycle_weight"] == list(sysvi.TrainSettings().cycle_weight)
    assert defaults["members"] == DEFAULT_PRESET.members
    assert defaults["training"]["max_epochs"] is None


def test_what_r_calls_is_there():
    """R/engine.R creates a buffer, adds blocks through the class and calls by these names."""
    buffer = sysvi.bridge.Expression(3.0)
    sysvi.bridge.Expression.add(buffer, 0, np.array([1.5, 2.0]), np.array([0, 1]), np.array([0, 1, 2]))
    assert buffer.take_all(2).toarray().tolist() == [[1.5, 0], [0, 2]]
    assert sysvi.bridge.call is call


def test_simulated_counts():
    answer, out = call("simulate", json.dumps({"n_cells": 120, "n_genes": 300, "seed": 2}), {})
    answer = json.loads(answer)
    expected = sysvi.datasets.simulate_systems(120, 300, seed=2)
    made = sparse.csr_matrix((out["values"], out["genes"], out["starts"]), shape=(120, 300))
    np.testing.assert_array_equal(made.toarray(), AnnData(expected.X).to_df().to_numpy())
    assert answer["columns"]["system"] == expected.obs["system"].tolist()
