"""Tests of the table in the form of scib-metrics: its names, layout and numbers are those of scib-metrics itself."""

import logging

import anndata
import numpy as np
import pandas as pd
import pytest
import scib_metrics
from peers import with_self
from scib_metrics.benchmark import BatchCorrection, Benchmarker, BioConservation
from scib_metrics.benchmark._core import metric_name_cleaner

import sysvi
from sysvi.evaluation.registry import METRICS
from sysvi.evaluation.scib_table import SCIB_NAMES
from sysvi.metrics._neighbors import nearest_neighbors

logging.getLogger("scib_metrics").setLevel(logging.ERROR)

# Metrics of sysVI that scib-metrics lacks, or defines in another way.
OWN = {"CiLISI", "iLISI of batches", "Batch silhouette", "Jaccard", "kNN purity", "NMI fixed", "ARI fixed", "Moran"}


def evaluation(metrics, embeddings=("X_a", "X_b")):
    """An evaluation whose table has the given values: one list per metric, one value per embedding."""
    known = {metric.name: metric for metric in METRICS}
    rows = {
        name: {"group": known[name].group, **dict(zip(embeddings, values, strict=True))}
        | {"in_score": known[name].in_score, "convention": "as defined"}
        for name, values in metrics.items()
    }
    return sysvi.Evaluation(pd.DataFrame.from_dict(rows, orient="index"), pd.DataFrame(), pd.DataFrame(), ())


def test_names_are_those_of_scib_metrics_and_every_metric_was_considered():
    assert set(SCIB_NAMES.values()) == set(metric_name_cleaner.values()) - {"Silhouette batch"}
    assert set(SCIB_NAMES) | OWN == {metric.name for metric in METRICS}
    assert OWN.isdisjoint(SCIB_NAMES)


def test_values_means_and_kinds():
    table = sysvi.scib_table(
        evaluation({"iLISI": [0.2, 0.4], "BRAS": [0.6, 0.8], "CiLISI": [1, 1], "cLISI": [0.9, 0.5], "NMI": [0.7, 0.7]})
    )
    expected = pd.DataFrame(
        {
            "KMeans NMI": [0.7, 0.7, "Bio conservation"],
            "cLISI": [0.9, 0.5, "Bio conservation"],
            "BRAS": [0.6, 0.8, "Batch correction"],
            "iLISI": [0.2, 0.4, "Batch correction"],
            "Batch correction": [0.4, 0.6, "Aggregate score"],
            "Bio conservation": [0.8, 0.6, "Aggregate score"],
            "Total": [0.4 * 0.4 + 0.6 * 0.8, 0.6, "Aggregate score"],
        },
        index=pd.Index(["X_a", "X_b", "Metric Type"], name="Embedding"),
        dtype=object,
    )
    pd.testing.assert_frame_equal(table, expected, check_exact=False)


def test_what_was_not_measured_is_no_column_and_one_kind_makes_no_total():
    nan = float("nan")
    table = sysvi.scib_table(evaluation({"iLISI": [0.2, 0.4], "PCR comparison": [nan, nan], "Moran": [0.9, 0.9]}))
    assert list(table.columns) == ["iLISI", "Batch correction"]
    assert list(table["Batch correction"][:2]) == [0.2, 0.4]
    assert list(sysvi.scib_table(evaluation({"Moran": [0.9, 0.9]})).columns) == []


def test_a_table_in_place_of_an_evaluation_is_told_in_a_sentence():
    with pytest.raises(sysvi.InputError, match="evaluation is of type DataFrame; it must be"):
        sysvi.scib_table(evaluation({"iLISI": [0.2, 0.4]}).table)


@pytest.mark.slow
def test_layout_and_numbers_are_those_of_the_benchmarker(monkeypatch):
    """scib-metrics' own pipeline on the same cells.

    Types lie far apart, so that one start of k-means finds them. Systems overlap, so that the neighbour graph of a type
    is connected and the diffusion map of kBET is unique.
    """

    def exact(points, n_neighbors):
        return with_self(nearest_neighbors(np.asarray(points), n_neighbors - 1))

    monkeypatch.setattr(scib_metrics.nearest_neighbors, "pynndescent", exact)  # kBET's search on the diffusion map
    rng = np.random.default_rng(0)
    label, system = rng.integers(3, size=450), rng.integers(2, size=450)
    types = 20 * np.eye(5)[label] + rng.normal(size=(450, 5))
    cells = anndata.AnnData(
        obs=pd.DataFrame(
            {"system": np.array(["human", "mouse"])[system], "cell_type": np.array(list("abc"))[label]},
            map(str, range(450)),
        ),
        obsm={"X_pca": types + system[:, None], "X_mixed": types + 0.2 * system[:, None]},
    )
    benchmark = Benchmarker(
        cells,
        "system",
        "cell_type",
        ["X_pca", "X_mixed"],
        BioConservation(nmi_ari_cluster_labels_leiden={"seed": 0}),
        BatchCorrection(),
        pre_integrated_embedding_obsm_key="X_pca",
        progress_bar=False,
    )
    benchmark.prepare(exact)
    benchmark.benchmark()
    theirs = benchmark.get_results()
    found = sysvi.evaluate_in_detail(
        cells,
        ["X_pca", "X_mixed"],
        system_key="system",
        label_key="cell_type",
        metrics="all",
        device="cpu",
        progress=False,
    )
    ours = sysvi.scib_table(found)
    assert list(ours.columns) == list(theirs.columns)
    assert ours.index.name == theirs.index.name
    assert list(ours.index) == list(theirs.index)
    assert list(ours.loc["Metric Type"]) == list(theirs.loc["Metric Type"])
    names = ["X_pca", "X_mixed"]
    pd.testing.assert_frame_equal(
        ours.loc[names].astype(float), theirs.loc[names].astype(float), rtol=1e-4, atol=1e-5, check_names=False
    )
    for name in ("iLISI", "BRAS", "KBET", "PCR comparison"):  # numbers that tell the two embeddings apart
        assert theirs.loc["X_mixed", name] > theirs.loc["X_pca", name] + 0.05, name
