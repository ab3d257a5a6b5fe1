import anndata
import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import confusion_matrix, roc_auc_score
from sklearn.neighbors import KNeighborsClassifier

import sysvi
from sysvi import InputError
from sysvi.data.columns import Columns
from sysvi.data.labels import is_labelled
from sysvi.mapping.label_classifier import LabelClassifier

KEYS = {"label_key": "cell_type", "system_key": "system", "batch_key": "donor"}
WRITTEN = ["cell_type_transferred", "cell_type_confidence", "cell_type_novelty"]


@pytest.fixture
def reference(make_embedded):
    return make_embedded()


@pytest.fixture
def query(make_embedded):
    return make_embedded(200, seed=1, types=("alpha", "beta", "delta", "new"))


def test_labels_known_types_and_calls_a_new_type_unknown(reference, query):
    result = sysvi.transfer_labels(reference, query, **KEYS)
    is_new = (query.obs["cell_type"] == "new").to_numpy()
    label = query.obs["cell_type_transferred"].astype(str)
    assert (label[is_new] == "unknown").all()
    assert (label[~is_new] == query.obs["cell_type"][~is_new]).mean() > 0.9
    assert not is_labelled(label[is_new]).any()  # evaluations leave these cells out
    assert query.obs["cell_type_confidence"].between(0, 1).all()
    assert "of 200 cells have a label" in str(result)


def test_results_are_those_of_the_classifier_for_system_and_batch(reference, query):
    reference.obs["donor"] = reference.obs["donor"].replace({"donor2": "donor0"})  # a donor of the other system
    batch = reference.obs["system"] + reference.obs["donor"]
    expected = LabelClassifier.fit(reference.obsm["X_sysVI"], reference.obs["cell_type"], batch, n_neighbors=7)
    probability, novelty = expected.predict(query.obsm["X_sysVI"])
    result = sysvi.transfer_labels(reference, query, **KEYS, n_neighbors=7, min_confidence=0.9)
    np.testing.assert_array_equal(result.probability, probability)
    assert result.probability.columns.tolist() == ["alpha", "beta", "delta", "gamma"]
    cells = result.cells
    np.testing.assert_array_equal(cells["novelty"], novelty)
    np.testing.assert_array_equal(cells["confidence"], probability.max(axis=1))
    np.testing.assert_array_equal(cells["candidate"], expected.labels[probability.argmax(axis=1)])
    unknown = (novelty > 1) | (probability.max(axis=1) < 0.9)
    assert 0 < unknown.sum() < len(unknown)
    assert (cells["label"] == np.where(unknown, "unknown", cells["candidate"])).all()
    for name, column in zip(WRITTEN, ("label", "confidence", "novelty"), strict=True):
        values = query.obs[name]
        assert values.dtype == ("category" if column == "label" else np.float32)
        np.testing.assert_array_equal(values.astype(cells[column].dtype), cells[column].astype(values.dtype))


def test_columns_of_the_model_are_the_default(reference, query):
    expected = sysvi.transfer_labels(reference, query, **KEYS)
    assert not sysvi.transfer_labels(reference, query, "cell_type").cells.equals(expected.cells)
    reference.uns["sysvi_setup"] = Columns.from_arguments("system", "donor").to_json()
    assert sysvi.transfer_labels(reference, query, "cell_type").cells.equals(expected.cells)
    del reference.obs["donor"]
    found = sysvi.transfer_labels(reference, query, "cell_type")
    del reference.uns["sysvi_setup"]
    assert found.cells.equals(sysvi.transfer_labels(reference, query, "cell_type", system_key="system").cells)


def test_tables(reference, query):
    query.obs["cluster"] = np.where(query.obs["cell_type"] == "alpha", "a", "b")
    query.obs.loc[query.obs_names[:20], "cell_type"] = [*["unlabelled"] * 10, *[np.nan] * 10]
    result = sysvi.transfer_labels(reference, query, **KEYS, cluster_key="cluster")
    cells, own = result.cells, query.obs["cell_type"].to_numpy()

    labelled = np.arange(len(own)) >= 20
    names = sorted({*own[labelled], *cells["label"][labelled]})
    expected = pd.DataFrame(confusion_matrix(own[labelled], cells["label"][labelled], labels=names), names, names)
    found = result.confusion.reindex(index=names, columns=names, fill_value=0)
    np.testing.assert_array_equal(found, expected)

    assert result.summary.index.tolist() == ["b", "a"]
    for name, row in result.summary.iterrows():
        part = cells[(query.obs["cluster"] == name).to_numpy()]
        counts = part["label"].value_counts()
        assert (row["n_cells"], row["label"]) == (len(part), counts.index[0])
        assert row["share"] == counts.iloc[0] / len(part)
        assert row["unknown"] == (part["label"] == "unknown").mean()
        assert row["confidence"] == pytest.approx(part["confidence"].mean())
        assert row["novelty"] == pytest.approx(part["novelty"].median())

    checked = result.reliability.groupby("cells")["n_cells"].sum()
    assert checked["reference"] == reference.n_obs
    comparable = labelled & np.isin(own.astype(str), ["alpha", "beta", "delta", "gamma"])
    assert checked["query"] == comparable.sum()
    right = (cells["candidate"].to_numpy() == own)[comparable].mean()
    of_query = result.reliability[result.reliability["cells"] == "query"]
    assert np.average(of_query["accuracy"], weights=of_query["n_cells"]) == pytest.approx(right)
    assert set(result.calibration_error) == {"reference", "query"}
    assert all(0 <= error < 0.1 for error in result.calibration_error.values())


def test_without_clusters_the_summary_is_of_candidates(reference, query):
    result = sysvi.transfer_labels(reference, query, **KEYS)
    assert result.summary["n_cells"].to_dict() == result.cells["candidate"].value_counts().to_dict()


@pytest.mark.parametrize("labels", [None, "unknown"])
def test_a_query_without_labels_has_no_confusion(reference, query, labels):
    if labels is None:
        del query.obs["cell_type"]
    else:
        query.obs["cell_type"] = labels
    result = sysvi.transfer_labels(reference, query, **KEYS)
    assert result.confusion is None
    assert set(result.calibration_error) == {"reference"}


def test_unlabelled_cells_of_the_reference_have_no_influence(reference, query, make_embedded):
    expected = sysvi.transfer_labels(reference, query.copy(), **KEYS)
    more = make_embedded(50, seed=2)
    more.obs["cell_type"] = ["Unassigned", None] * 25
    found = sysvi.transfer_labels(anndata.concat([reference, more]), query, **KEYS)
    pd.testing.assert_frame_equal(found.cells, expected.cells)


def test_one_cell_one_label_one_batch(reference, query):
    reference.obs["cell_type"] = "islet cell"
    result = sysvi.transfer_labels(reference, query[:1].copy(), "cell_type")
    assert result.cells["candidate"].tolist() == ["islet cell"]
    assert result.cells["confidence"].tolist() == [1]


def test_a_query_of_one_new_type_alone_is_unknown(reference, query):
    alone = query[query.obs["cell_type"] == "new"].copy()
    sysvi.transfer_labels(reference, alone, **KEYS)
    assert (alone.obs["cell_type_transferred"] == "unknown").all()
    sysvi.transfer_labels(reference, one := alone[:1].copy(), **KEYS)
    assert (one.obs["cell_type_transferred"] == "unknown").all()


def test_results_survive_an_h5ad_file_and_a_second_call(reference, query, tmp_path):
    sysvi.transfer_labels(reference, query, **KEYS)
    first = query.obs[WRITTEN].copy()
    sysvi.transfer_labels(reference, query, **KEYS)
    pd.testing.assert_frame_equal(query.obs[WRITTEN], first)
    query.write_h5ad(tmp_path / "query.h5ad")
    pd.testing.assert_frame_equal(anndata.read_h5ad(tmp_path / "query.h5ad").obs[WRITTEN], first)


def test_a_query_that_is_the_reference_is_warned_about(reference):
    with pytest.warns(UserWarning, match="300 of 300 cells of the query are cells of the reference too"):
        sysvi.transfer_labels(reference, reference.copy(), **KEYS)


def test_equal_names_of_other_cells_are_no_reason_to_warn(reference, query, recwarn):
    query.obs_names = reference.obs_names[: query.n_obs]
    sysvi.transfer_labels(reference, query, **KEYS)
    assert not recwarn


def set_value(part, key, value):
    def change(reference, query):
        getattr({"reference": reference, "query": query}[part[0]], part[1])[key] = value

    return change


@pytest.mark.parametrize(
    ("change", "arguments", "message"),
    [
        (None, {"label_key": "type"}, "'type' is not a column of reference.obs: choose one of its columns"),
        (None, {"batch_key": "sample"}, "batch_key='sample' is not a column of reference.obs"),
        (None, {"cluster_key": "leiden"}, "cluster_key='leiden' is not a column of query.obs"),
        (None, {"embedding": "X_pca"}, "reference.obsm has no embedding 'X_pca': choose one of its keys"),
        (None, {"n_neighbors": 0}, "n_neighbors is 0; it must be a whole number of 1 or more"),
        (None, {"min_confidence": 2}, "min_confidence is 2; it must be at least 0 and at most 1"),
        (None, {"max_known_unknown": -1}, "max_known_unknown is -1; it must be at least 0"),
        (set_value(("reference", "obs"), "cell_type", "unknown"), {}, "labels no cell"),
        (set_value(("reference", "obs"), "donor", None), {}, r"reference.obs\['donor'\] \(batch_key\) has 300 missing"),
        (set_value(("query", "obsm"), "X_sysVI", np.ones((200, 3))), {}, "query has 3 dimensions, but that of the"),
        (set_value(("query", "obsm"), "X_sysVI", np.full((200, 4), np.nan)), {}, "query.obsm.*200 of 200 cells"),
    ],
)
def test_bad_input_is_refused(reference, query, change, arguments, message):
    if change:
        change(reference, query)
    with pytest.raises(InputError, match=message):
        sysvi.transfer_labels(reference, query, **{**KEYS, **arguments})
    assert not set(WRITTEN) & set(query.obs)


def test_other_objects_are_refused(reference, query):
    with pytest.raises(InputError, match="reference must be an AnnData object, but it is of type str"):
        sysvi.transfer_labels("cells.h5ad", query, **KEYS)
    with pytest.raises(InputError, match="query must be an AnnData object, but it is of type NoneType"):
        sysvi.transfer_labels(reference, None, **KEYS)


def test_figures(reference, query, tmp_path):
    reference.obs["cell_type"] = reference.obs["cell_type"].replace({"beta": "$\\beta$ cell"})
    result = sysvi.transfer_labels(reference, query, **KEYS)
    for plot, name in ((sysvi.plot_reliability, "reliability.png"), (sysvi.plot_confusion, "confusion.svg")):
        plot(result, tmp_path / name)
        assert (tmp_path / name).stat().st_size > 1000
    svg = (tmp_path / "confusion.svg").read_text()
    assert "$\\beta$ cell" in svg  # as it is, not as a formula
    assert svg.index("delta") < svg.index("unknown")


def test_a_figure_without_content_is_refused(reference, query, tmp_path):
    del query.obs["cell_type"]
    with pytest.raises(InputError, match="query has no labels of its own"):
        sysvi.plot_confusion(sysvi.transfer_labels(reference, query, **KEYS), tmp_path / "confusion.png")


@pytest.mark.slow
def test_a_donor_of_real_cells(baron_pca):
    human = baron_pca[baron_pca.obs["system"] == "human"].copy()
    is_query = (human.obs["batch"] == "human1").to_numpy()
    reference, query = human[~is_query].copy(), human[is_query].copy()
    keys = {"label_key": "cell_type", "batch_key": "batch", "embedding": "X_pca"}
    result = sysvi.transfer_labels(reference, query, **keys)
    own = query.obs["cell_type"].astype(str)
    peer = KNeighborsClassifier(15, weights="distance").fit(reference.obsm["X_pca"], reference.obs["cell_type"])
    right, right_of_peer = result.cells["candidate"] == own, peer.predict(query.obsm["X_pca"]) == own
    assert right.mean() > right_of_peer.mean() - 0.02
    assert right.groupby(own).mean().mean() > right_of_peer.groupby(own).mean().mean()  # rare types gain
    assert result.calibration_error["query"] < 0.08  # the donors are not integrated
    for removed in ("ductal", "acinar", "endothelial"):
        found = sysvi.transfer_labels(reference[reference.obs["cell_type"] != removed].copy(), query, **keys)
        assert roc_auc_score(own == removed, found.cells["novelty"]) > 0.8
