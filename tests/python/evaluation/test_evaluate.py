"""Tests of `evaluate`: numbers, files, figures and errors."""

import json
import warnings

import anndata
import matplotlib.image
import numpy as np
import pandas as pd
import pytest
import scib_metrics
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from scib_metrics.nearest_neighbors import NeighborsResults
from sklearn.neighbors import NearestNeighbors

import sysvi
from sysvi.cli import main
from sysvi.data.labels import stratified_sample
from sysvi.evaluation.registry import METRICS
from sysvi.evaluation.tables import AGGREGATE, embedding_columns

pytestmark = pytest.mark.filterwarnings("ignore:Only .* genes remain", "ignore:System .* has fewer cells")
KEYS = {"system_key": "system", "batch_key": "batch", "label_key": "cell_type"}
QUIET = {"progress": False, "device": "cpu"}


@pytest.fixture(scope="module")
def cells():
    """600 prepared cells with one embedding that mixes systems and one that separates them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        counts = sysvi.datasets.simulate_systems(600, 150, n_types=3, n_private=0, n_samples=2, seed=3)
        adata = sysvi.prepare(counts, "system", "batch", min_cells=3)
    rng = np.random.default_rng(0)
    types = 6 * rng.normal(size=(3, 5))[pd.Categorical(adata.obs["cell_type"]).codes]
    mixed = types + rng.normal(size=types.shape)
    adata.obsm["X_mixed"] = mixed
    adata.obsm["X_apart"] = mixed + 40 * pd.Categorical(adata.obs["system"]).codes[:, None]
    return adata


@pytest.fixture(scope="module")
def found(cells):
    return sysvi.evaluate_in_detail(
        cells, ["X_apart", "X_mixed"], **KEYS, metrics="all", min_cells=40, standardised=True, **QUIET
    )


@pytest.mark.slow
def test_every_metric_is_there_with_group_and_convention(found):
    metrics = found.table[found.table["group"] != AGGREGATE]
    assert list(metrics.index) == [metric.name for metric in METRICS]
    assert metrics[embedding_columns(found.table)].notna().all(axis=None)
    assert (found.table["convention"].str.len() > 10).all()
    assert embedding_columns(found.table) == ["X_apart", "X_apart (standardised)", "X_mixed", "X_mixed (standardised)"]
    assert set(found.table["group"]) == {"batch correction", "biological preservation", "within-type", AGGREGATE}


def test_systems_apart_and_mixed_are_told_from_each_other(found):
    apart, mixed = found.table["X_apart"], found.table["X_mixed"]
    for metric in ("iLISI", "CiLISI", "BRAS", "kBET", "PCR comparison", "Batch silhouette", "Batch correction"):
        assert mixed[metric] > apart[metric] + 0.1, metric
    assert apart["iLISI"] == 0
    assert mixed["Total"] > apart["Total"]


@pytest.mark.slow
def test_values_are_those_of_scib_metrics(cells, found):
    system, label = cells.obs["system"].to_numpy(), cells.obs["cell_type"].to_numpy()
    for name in ("X_apart", "X_mixed"):
        z = cells.obsm[name]
        distances, indices = NearestNeighbors(n_neighbors=90).fit(z).kneighbors(z)
        near = NeighborsResults(indices=indices, distances=distances)
        pcs = cells.obsm.get("X_pca")
        assert pcs is None  # so that PCR compares with PCs of the expression
        expected = {
            "iLISI": scib_metrics.ilisi_knn(near, system),
            "cLISI": scib_metrics.clisi_knn(near, label),
            "BRAS": scib_metrics.bras(z, label, system),
            "Graph connectivity": scib_metrics.graph_connectivity(near.subset_neighbors(15), label),
            "Label silhouette": scib_metrics.silhouette_label(z, label),
            "Isolated labels": scib_metrics.isolated_labels(z, label, system),
            "NMI Leiden": scib_metrics.nmi_ari_cluster_labels_leiden(near.subset_neighbors(15), label, seed=0)["nmi"],
        }
        got = found.table.loc[list(expected), name].astype(float)
        np.testing.assert_allclose(got, list(expected.values()), rtol=1e-4, atol=1e-6, err_msg=name)


def test_scores_are_the_means_that_the_convention_says(found):
    table = found.table
    for name in embedding_columns(table):
        counted = table[table["in_score"]]
        batch = counted.loc[counted["group"] == "batch correction", name].astype(float).mean()
        biology = counted.loc[counted["group"] == "biological preservation", name].astype(float).mean()
        assert table[name]["Batch correction"] == pytest.approx(batch)
        assert table[name]["Biological preservation"] == pytest.approx(biology)
        assert table[name]["Within-type"] == pytest.approx(table[name]["Moran"])
        assert table[name]["Total"] == pytest.approx(0.6 * biology + 0.4 * batch)


def test_history_and_alternatives_do_not_count(found):
    in_score = found.table["in_score"]
    assert not in_score[["Batch silhouette", "NMI fixed", "NMI Leiden", "iLISI of batches", "kNN purity"]].any()


def test_values_by_label_and_by_cell(cells, found):
    per_cell = found.per_cell
    assert list(per_cell.index) == list(cells.obs_names)
    lisi = found.per_label.query("embedding == 'X_mixed' and metric == 'iLISI'").set_index("name")["value"]
    expected = per_cell["X_mixed", "iLISI"].groupby(cells.obs["cell_type"].astype(str)).median()
    pd.testing.assert_series_equal(lisi, expected, check_names=False)
    of_systems = found.per_label.query("metric == 'iLISI of batches' and embedding == 'X_mixed'")
    assert set(of_systems["by"]) == {"system"}
    assert set(of_systems["name"]) == set(cells.obs["system"])


def test_standardised_is_the_scaled_embedding(cells, found):
    scaled = anndata.AnnData(obs=cells.obs, obsm={"Z": cells.obsm["X_apart"] / cells.obsm["X_apart"].std(0)})
    names = ["iLISI", "cLISI", "Label silhouette"]
    again = sysvi.evaluate(scaled, "Z", **KEYS, metrics=names, **QUIET)
    np.testing.assert_allclose(
        again.loc[names, "Z"].astype(float), found.table.loc[names, "X_apart (standardised)"].astype(float), rtol=1e-9
    )


def test_order_of_cells_does_not_matter(cells, found):
    shuffled = cells[np.random.default_rng(1).permutation(cells.n_obs)].copy()
    names = [m.name for m in METRICS if m.name not in ("NMI Leiden", "ARI Leiden", "NMI fixed", "ARI fixed", "Jaccard")]
    again = sysvi.evaluate(shuffled, "X_mixed", **KEYS, metrics=names, min_cells=40, **QUIET)
    np.testing.assert_allclose(
        again.loc[names, "X_mixed"].astype(float), found.table.loc[names, "X_mixed"].astype(float), rtol=1e-6
    )


@pytest.mark.slow
def test_same_seed_same_table(cells):
    tables = [sysvi.evaluate(cells, "X_mixed", **KEYS, min_cells=40, seed=5, **QUIET) for _ in range(2)]
    pd.testing.assert_frame_equal(*tables)


@pytest.mark.slow
def test_input_is_not_changed(cells, assert_same):
    before = cells.copy()
    sysvi.evaluate(cells, ["X_pca", "X_mixed"], **KEYS, min_cells=40, **QUIET)
    assert_same(cells, before)


def test_without_labels_only_what_needs_none(cells):
    table = sysvi.evaluate(cells, "X_mixed", system_key="system", batch_key="batch", **QUIET)
    metrics = table.index[table["group"] != AGGREGATE]
    assert list(metrics) == ["iLISI", "PCR comparison", "iLISI of batches"]
    assert "Total" not in table.index


def test_without_expression_what_needs_it_is_left_out_with_the_reason(cells):
    bare = anndata.AnnData(obs=cells.obs, obsm={"X_mixed": cells.obsm["X_mixed"]})
    found = sysvi.evaluate_in_detail(bare, "X_mixed", **KEYS, **QUIET)
    assert found.table.loc[["Moran", "PCR comparison"], "X_mixed"].isna().all()
    assert found.table.loc["iLISI", "X_mixed"] > 0
    assert any("need expression are left out" in note for note in found.notes)


def test_cells_without_a_label_are_left_out_of_what_needs_labels(cells):
    some = cells.copy()
    label = some.obs["cell_type"].astype(object)
    label.iloc[:100], label.iloc[100:150] = "Unlabelled", np.nan
    some.obs["cell_type"] = label
    found = sysvi.evaluate_in_detail(some, "X_mixed", **KEYS, metrics=["iLISI", "cLISI", "CiLISI"], **QUIET)
    labelled = sysvi.evaluate(cells[150:], "X_mixed", **KEYS, metrics=["cLISI", "CiLISI"], **QUIET)
    everyone = sysvi.evaluate(cells, "X_mixed", system_key="system", metrics=["iLISI"], **QUIET)
    assert found.table["X_mixed"]["cLISI"] == labelled["X_mixed"]["cLISI"]
    assert found.table["X_mixed"]["CiLISI"] == labelled["X_mixed"]["CiLISI"]
    assert found.table["X_mixed"]["iLISI"] == everyone["X_mixed"]["iLISI"]
    assert found.per_cell["X_mixed", "cLISI"].isna().to_numpy().nonzero()[0].tolist() == list(range(150))
    assert any("150 of 600 cells have no label" in note for note in found.notes)
    assert "Unlabelled" not in set(found.per_label["name"])


def test_counts_are_prepared_as_for_the_model(cells):
    counts = anndata.AnnData(cells.layers["counts"], obs=cells.obs, var=cells.var, obsm=dict(cells.obsm))
    log = cells.copy()
    del log.uns["sysvi_prepare"]
    tables = [sysvi.evaluate(a, "X_mixed", **KEYS, min_cells=40, metrics=["Moran"], **QUIET) for a in (counts, log)]
    assert tables[0]["X_mixed"]["Moran"] == pytest.approx(tables[1]["X_mixed"]["Moran"], rel=0.05)


def test_pca_is_computed_where_it_is_missing_and_taken_where_it_is(cells):
    computed = sysvi.evaluate(cells, "X_pca", **KEYS, metrics=["PCR comparison", "iLISI"], **QUIET)
    assert computed["X_pca"]["PCR comparison"] == 0
    assert "50 PCs" in computed["convention"]["PCR comparison"]
    given = cells.copy()
    given.obsm["X_pca"] = given.obsm["X_mixed"]
    taken = sysvi.evaluate(given, ["X_pca", "X_mixed"], **KEYS, metrics=["iLISI"], **QUIET)
    assert taken["X_pca"]["iLISI"] == taken["X_mixed"]["iLISI"]


def test_collapsed_dimensions_are_noted(cells):
    flat = cells.copy()
    flat.obsm["X_flat"] = np.hstack([flat.obsm["X_mixed"], np.full((flat.n_obs, 1), 2.0)])
    found = sysvi.evaluate_in_detail(flat, "X_flat", system_key="system", metrics=["iLISI"], **QUIET)
    assert any("X_flat: 1 of 6 dimensions have collapsed (6)" in note for note in found.notes)


@given(n=st.integers(1, 60), share=st.integers(1, 59))
@settings(max_examples=30, deadline=None)
def test_sample_has_each_systems_share(n, share):
    obs = pd.DataFrame({"system": ["a"] * share + ["b"] * (60 - share), "cell_type": "t"}, index=map(str, range(60)))
    rows = stratified_sample(anndata.AnnData(obs=obs), "system", "cell_type", n, seed=0)
    assert len(set(rows)) == n
    assert abs((rows < share).sum() - n * share / 60) < 1


def test_a_sample_of_cells_is_stated(cells):
    found = sysvi.evaluate_in_detail(cells, "X_mixed", **KEYS, metrics=["iLISI"], max_cells=300, **QUIET)
    assert len(found.per_cell) == 300
    assert any("300 of 600 cells" in note for note in found.notes)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"embeddings": "X_none"}, "adata.obsm has no 'X_none'"),
        ({"embeddings": []}, "embeddings is empty"),
        ({"embeddings": "X_nan"}, r"adata.obsm\['X_nan'\] cannot be measured.*3 of 600"),
        ({"system_key": "species"}, "system_key='species' is not a column"),
        ({"system_key": "one"}, "holds one system only"),
        ({"label_key": "type"}, "label_key='type' is not a column"),
        ({"label_key": "nothing"}, "labels no cell"),
        ({"metrics": ["iLisi"]}, "no metric iLisi; choose"),
        ({"metrics": ["cLISI"], "label_key": None}, "cLISI cannot be measured without label_key"),
        ({"metrics": ["iLISI of batches"], "batch_key": None}, "iLISI of batches cannot be measured without batch_key"),
        ({"metrics": []}, "metrics is empty"),
        ({"max_cells": 0}, "max_cells is 0"),
        ({"min_cells": 0}, "min_cells is 0"),
        ({"device": "gpu"}, "device 'gpu' is not known"),
        ({"layer": "logs", "embeddings": "X_pca"}, "no layer .logs.: choose one"),
    ],
)
def test_bad_input_is_told_in_a_sentence(cells, change, message):
    adata = cells.copy()
    adata.obs["one"], adata.obs["nothing"] = "same", "unknown"
    adata.obsm["X_nan"] = adata.obsm["X_mixed"].copy()
    adata.obsm["X_nan"][:3] = np.nan
    arguments = {"embeddings": "X_mixed", **KEYS, **QUIET} | change
    with pytest.raises(sysvi.InputError, match=message):
        sysvi.evaluate(adata, **arguments)


def test_events_name_each_metric(cells):
    events = []
    sysvi.evaluate(cells, "X_mixed", **KEYS, metrics=["iLISI", "cLISI"], device="cpu", progress=events.append)
    assert [e.values["metric"] for e in events if e.stage == "metric"] == ["iLISI", "cLISI"]


@pytest.mark.slow
def test_files_hold_what_was_found(found, tmp_path):
    paths = sysvi.write_evaluation(found, tmp_path / "new" / "folder")
    assert {p.name for p in paths} == {p.name for p in (tmp_path / "new" / "folder").iterdir()}
    folder = tmp_path / "new" / "folder"
    table = pd.read_csv(folder / "evaluation.csv", index_col="metric")
    pd.testing.assert_frame_equal(table, found.table, check_dtype=False, check_exact=False)
    document = json.loads((folder / "evaluation.json").read_text())
    assert [row["metric"] for row in document["table"]] == list(found.table.index)
    assert document["table"][0]["X_mixed"] == pytest.approx(found.table.iloc[0]["X_mixed"])
    assert document["notes"] == list(found.notes)
    per_cell = pd.read_csv(folder / "cells.csv", index_col="cell")
    np.testing.assert_allclose(per_cell["X_mixed: iLISI"], found.per_cell["X_mixed", "iLISI"], rtol=1e-5)
    pd.testing.assert_frame_equal(pd.read_csv(folder / "labels.csv"), found.per_label)


@pytest.mark.slow
def test_missing_values_are_null_in_json(cells, tmp_path):
    found = sysvi.evaluate_in_detail(cells, "X_mixed", **KEYS, **QUIET)  # groups too small for Moran
    sysvi.write_evaluation(found, tmp_path)
    rows = {row["metric"]: row for row in json.loads((tmp_path / "evaluation.json").read_text())["table"]}
    assert rows["Moran"]["X_mixed"] is None
    assert "Within-type" not in rows


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "start"), [("png", b"\x89PNG"), ("pdf", b"%PDF"), ("svg", b"<?xml")])
def test_figures_are_written_in_each_format(found, tmp_path, kind, start):
    sysvi.plot_evaluation(found.table, tmp_path / f"table.{kind}")
    sysvi.plot_labels(found.per_label, tmp_path / f"labels.{kind}")
    for name in ("table", "labels"):
        assert (tmp_path / f"{name}.{kind}").read_bytes().startswith(start)


@pytest.mark.slow
def test_figure_shows_the_values(found, tmp_path):
    sysvi.plot_evaluation(found.table, tmp_path / "table.svg")
    sysvi.plot_evaluation(found.table.drop(columns="X_mixed"), tmp_path / "fewer.png")
    wide = matplotlib.image.imread(tmp_path / "fewer.png")
    assert wide.shape[1] > 2 * wide.shape[0]
    assert wide[..., :3].std() > 0.05  # not blank


def test_nothing_to_draw_is_an_error(cells, tmp_path):
    found = sysvi.evaluate_in_detail(cells, "X_mixed", system_key="system", metrics=["iLISI"], **QUIET)
    with pytest.raises(sysvi.InputError, match="evaluate with label_key"):
        sysvi.plot_labels(found.per_label, tmp_path / "labels.png")
    with pytest.raises(sysvi.InputError, match=r"use \.png, \.pdf or \.svg"):
        sysvi.plot_evaluation(found.table, tmp_path / "table.docx")
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def path(cells, tmp_path_factory):
    path = tmp_path_factory.mktemp("input") / "cells.h5ad"
    cells.write_h5ad(path)
    return path


COMMAND = [
    "--embedding",
    "X_mixed",
    "--system",
    "system",
    "--batch",
    "batch",
    "--label",
    "cell_type",
    "--device",
    "cpu",
]


def run(*arguments, code=0):
    result = CliRunner().invoke(main, ["evaluate", *map(str, arguments)])
    assert result.exit_code == code, result.output
    return result


@pytest.mark.slow
def test_command_prints_the_same_numbers(cells, path, tmp_path):
    table = sysvi.evaluate(cells, ["X_pca", "X_mixed"], **KEYS, min_cells=40, **QUIET)
    result = run(path, "--embedding", "X_pca", *COMMAND, "--min-cells", 40, "-o", tmp_path / "out")
    rows = {
        line[:28].strip().removesuffix(" *"): line.split()[-2:] for line in result.stdout.splitlines() if "." in line
    }
    for metric in ("iLISI", "Label silhouette", "Jaccard", "Moran", "Total"):
        assert [float(v) for v in rows[metric]] == pytest.approx(table.loc[metric, ["X_pca", "X_mixed"]], abs=6e-4)
    written = pd.read_csv(tmp_path / "out" / "evaluation.csv", index_col="metric")
    pd.testing.assert_frame_equal(written, table, check_dtype=False, check_exact=False)


def test_command_refuses_to_replace_results_unless_asked(path, tmp_path):
    fast = [path, *COMMAND, "--metric", "iLISI", "-o", tmp_path / "out"]
    run(*fast)
    assert "exists already; pass --overwrite" in run(*fast, code=1).output
    run(*fast, "--overwrite")
    (tmp_path / "file").touch()
    assert "is a file" in run(*fast[:-1], tmp_path / "file", code=2).output


def test_command_as_json_and_quiet(path, tmp_path):
    lines = run(path, *COMMAND, "--metric", "iLISI", "--json").stdout.splitlines()
    events = [json.loads(line) for line in lines]
    assert [e["metric"] for e in events if e["stage"] == "metric"] == ["iLISI"]
    assert run(path, *COMMAND, "--metric", "iLISI", "--quiet").output == ""
    lines = run(path, *COMMAND, "--metric", "Moran", "--json").stdout.splitlines()  # no group is large enough
    assert [json.loads(line)["value"] for line in lines if '"metric"' in line] == [None]
    error = run(path, "--embedding", "X_no", *COMMAND[2:], "--json", code=1)
    assert json.loads(error.stdout.splitlines()[-1])["stage"] == "error"


def test_kang_unlabelled_cells(data_dir):
    """Unlabelled cells of the Kang data (1,200 cells) are not treated as a type."""
    adata = anndata.read_h5ad(data_dir / "kang_ifnb.h5ad")
    labelled = np.flatnonzero(adata.obs["labelled"])
    others = np.random.default_rng(0).choice(np.flatnonzero(~adata.obs["labelled"]), 227, replace=False)
    adata = adata[np.sort(np.concatenate([labelled, others]))].copy()
    found = sysvi.evaluate_in_detail(adata, "X_pca", **KEYS, **QUIET)
    assert any("227 of 1200 cells have no label" in note for note in found.notes)
    assert set(found.per_label.query("metric == 'cLISI'")["name"]) == set(adata.obs["cell_type"]) - {"unlabelled"}
    assert (
        0.05 < found.per_cell["X_pca", "iLISI"].mean() < 0.6
    )  # the data are partly mixed without integration (see their README)
