"""Tests of the registry of metrics."""

import anndata
import numpy as np
import pandas as pd
import pytest

import sysvi
from sysvi.evaluation import registry
from sysvi.evaluation.embedding_view import EmbeddingView
from sysvi.evaluation.registry import BATCH, BIOLOGY, METRICS, Metric, choose_metrics
from sysvi.metrics import Score
from sysvi.metrics._score import convention

NEED_NO_LABELS = {"iLISI", "PCR comparison", "iLISI of batches"}


@convention("largest coordinate of the labelled cells")
def largest(embedding, label, seed, factor=1.0):
    assert len(embedding) == len(label)
    return Score(float(factor * embedding.max()) + seed, None, embedding.max(1))


def test_a_new_metric_is_a_function_and_a_line(monkeypatch):
    monkeypatch.setattr(registry, "METRICS", (*METRICS, Metric("Largest", BIOLOGY, largest)))
    obs = pd.DataFrame({"system": ["a", "b"] * 30, "cell_type": ["beta"] * 50 + ["unknown"] * 10})
    cells = anndata.AnnData(obs=obs.set_axis(map(str, range(60))), obsm={"Z": np.arange(60.0)[:, None]})
    found = sysvi.evaluate_in_detail(
        cells, "Z", system_key="system", label_key="cell_type", metrics=["Largest"], seed=3, progress=False
    )
    assert found.table["Z"]["Largest"] == 49 + 3
    assert found.table["convention"]["Largest"] == "largest coordinate of the labelled cells"
    assert found.table["Z"]["Biological preservation"] == 52
    expected = np.where(np.arange(60) < 50, np.arange(60.0), np.nan)
    np.testing.assert_array_equal(found.per_cell["Z", "Largest"], expected)


def test_a_parameter_that_nothing_gives_is_an_error():
    def odd(embedding, colour):
        return Score(0.0)

    with pytest.raises(ValueError, match="Parameter 'colour' of metric 'Odd'"):
        Metric("Odd", BATCH, odd)
    assert Metric("Odd", BATCH, odd, {"colour": "batch"}).required == {"embedding", "batch"}


def test_which_metrics_need_labels():
    assert {metric.name for metric in METRICS if not metric.needs_labels} == NEED_NO_LABELS
    assert {metric.name for metric in choose_metrics("all", "batch", None)} == NEED_NO_LABELS
    assert [metric.name for metric in METRICS if "batch" in metric.required] == ["iLISI of batches"]
    assert {metric.name for metric in METRICS if "moran_reference" in metric.required} == {"Moran"}


def test_metrics_that_lack_an_input_are_nan():
    view = EmbeddingView(np.eye(4), np.array(["a", "b"] * 2), label=np.array(["x"] * 4))
    by_name = {metric.name: metric for metric in METRICS}
    for name in ("PCR comparison", "Moran"):
        assert np.isnan(by_name[name].measure(view).value)


def test_the_shared_silhouette_is_computed_once(monkeypatch):
    from sysvi.evaluation import embedding_view

    calls = []
    original = embedding_view.label_silhouette
    monkeypatch.setattr(
        embedding_view, "label_silhouette", lambda *args, **kwargs: calls.append(1) or original(*args, **kwargs)
    )
    view = EmbeddingView(np.eye(4), np.array(["a", "b"] * 2), label=np.array(["x", "x", "y", "y"]))
    by_name = {metric.name: metric for metric in METRICS}
    score = by_name["Label silhouette"].measure(view)
    isolated = by_name["Isolated labels"].measure(view)
    assert calls == [1]
    pd.testing.assert_series_equal(score.per_label, original(np.eye(4), ["x", "x", "y", "y"]).per_label)
    assert isolated.value == pytest.approx(score.per_label.mean())  # both labels are in both systems
