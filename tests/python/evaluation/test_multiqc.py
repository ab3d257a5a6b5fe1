"""Tests of the MultiQC document: its structure is that of MultiQC's documentation of custom content and tables."""

import json
import string

import anndata
import numpy as np
import pandas as pd
import pytest

import sysvi
from sysvi.evaluation.multiqc import multiqc_document

# Keys that MultiQC documents for a section of custom content, for the columns and for the whole of a table.
SECTION_KEYS = {
    *("id", "section_anchor", "section_name", "section_href", "description", "helptext", "section_extra"),
    *("file_format", "plot_type", "pconfig", "headers", "data", "parent_id", "parent_name", "parent_description"),
}
COLUMN_KEYS = {
    *("namespace", "title", "description", "max", "min", "ceiling", "floor", "minrange", "scale", "bgcols", "colour"),
    *("suffix", "format", "cond_formatting_rules", "cond_formatting_colours", "shared_key", "modify", "hidden"),
}
TABLE_KEYS = {
    *("namespace", "id", "title", "save_file", "raw_data_fn", "sort_rows", "only_defined_headers", "col1_header"),
    *("no_violin",),
}


@pytest.fixture(scope="module")
def found():
    """Eighty cells in two embeddings, without expression, so that two metrics cannot be measured."""
    rng = np.random.default_rng(0)
    obs = pd.DataFrame(
        {"system": np.tile(["human", "mouse"], 40), "cell_type": np.repeat(["alpha", "beta"], 40)}, map(str, range(80))
    )
    z = rng.normal(size=(80, 3)) + 9 * np.repeat([0, 1], 40)[:, None]
    apart = z + 9 * np.tile([0, 1], 40)[:, None]
    return sysvi.evaluate_in_detail(
        anndata.AnnData(obs=obs, obsm={"X_mixed": z, "X_apart": apart}),
        ["X_mixed", "X_apart"],
        system_key="system",
        label_key="cell_type",
        metrics=["iLISI", "PCR comparison", "cLISI", "kNN purity", "Moran"],
        device="cpu",
        progress=False,
    )


def test_keys_are_documented_ones(found):
    document = multiqc_document(found)
    assert set(document) <= SECTION_KEYS
    assert document["plot_type"] == "table"
    for name in ("id", "section_name", "description"):
        assert isinstance(document[name], str)
        assert document[name]
    assert set(document["id"]) <= set(string.ascii_lowercase + "_")  # an anchor of HTML
    assert set(document["pconfig"]) <= TABLE_KEYS
    assert {"id", "title"} <= set(document["pconfig"])
    assert document["pconfig"]["id"] != document["id"]  # MultiQC wants anchors to be unique
    for header in document["headers"].values():
        assert set(header) <= COLUMN_KEYS
        assert {"title", "description", "format"} <= set(header)
        assert header["format"].format(0.25) == "0.250"


def test_rows_are_embeddings_and_cells_are_the_values_that_were_measured(found):
    document = multiqc_document(found)
    assert list(document["headers"]) == list(found.table.index)
    assert list(document["data"]) == ["X_mixed", "X_apart"]
    for embedding, values in document["data"].items():
        pd.testing.assert_series_equal(
            pd.Series(values), found.table[embedding].dropna().astype(float), check_names=False, check_exact=True
        )
        assert not {"PCR comparison", "Moran"} & set(values)
    assert document["data"]["X_mixed"]["iLISI"] > document["data"]["X_apart"]["iLISI"]


def test_columns_have_their_group_meaning_and_range(found):
    headers = multiqc_document(found)["headers"]
    assert headers["iLISI"]["namespace"] == "Batch correction"
    assert headers["iLISI"]["description"] == "Are systems mixed around each cell?"
    assert headers["Total"]["namespace"] == "Aggregate"
    assert "0.6 biological preservation" in headers["Total"]["description"]
    assert [name for name, header in headers.items() if header["hidden"]] == ["kNN purity"]
    assert (headers["cLISI"]["min"], headers["cLISI"]["max"]) == (0, 1)
    assert "max" not in headers["Moran"]  # a ratio, which can exceed 1


@pytest.mark.slow
def test_files_are_written_beside_the_others(found, tmp_path):
    paths = {path.name: path for path in sysvi.write_evaluation(found, tmp_path)}
    assert json.loads(paths["evaluation_mqc.json"].read_text()) == multiqc_document(found)
    written = pd.read_csv(paths["scib.csv"], index_col="Embedding")
    pd.testing.assert_frame_equal(
        written.drop("Metric Type").astype(float), sysvi.scib_table(found).drop("Metric Type").astype(float)
    )
    assert list(written.loc["Metric Type"]) == list(sysvi.scib_table(found).loc["Metric Type"])


def test_names_from_files_cannot_be_html(found):
    table = found.table.rename(columns={"X_mixed": "<script>alert(1)</script>"})
    document = multiqc_document(sysvi.Evaluation(table, found.per_label, found.per_cell, ()))
    assert "<script>" not in json.dumps(document)
