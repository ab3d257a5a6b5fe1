"""Mapping new cells: the same bits in R and in Python, whichever trained the model."""

import numpy as np
import pandas as pd
import pytest
from r_objects import ENSEMBLE, ENSEMBLE_R

import sysvi

EPOCHS = {"max_epochs": 2, "seed": 3}
EPOCHS_R = "max_epochs = 2, seed = 3, device = 'cpu', verbose = FALSE"
COLUMNS = ["cell_type_transferred", "cell_type_confidence", "cell_type_novelty"]


@pytest.fixture(scope="module")
def reference_and_query(log_cells):
    """Cells of all batches but one, and of this one, of which some are said to be of a new system."""
    is_new = (log_cells.obs["batch"] == log_cells.obs["batch"].iloc[0]).to_numpy()
    reference, query = log_cells[~is_new].copy(), log_cells[is_new].copy()
    system = query.obs["system"].astype(str)
    system[::3] = "system3"
    query.obs["system"] = system
    query.obs["batch"] = query.obs["batch"].astype(str) + (system == "system3").map({True: "b", False: ""})
    return reference, query


def map_in_python(model, query, reference=None):
    query = query.copy()
    sysvi.map_query(model, query, **EPOCHS, device="cpu", progress=False)
    if reference is not None:
        keys = {"system_key": "system", "batch_key": "batch"}
        sysvi.transfer_labels(reference, query, "cell_type", **keys)
    return query


def test_trained_in_python_mapped_in_r(r, build, integrate, reference_and_query, tmp_path):
    """The query has its genes in another order; the labels are those of a saved reference."""
    reference, query = reference_and_query
    model, prepared = integrate(reference, settings=ENSEMBLE)
    sysvi.save_reference(tmp_path / "reference", model, prepared, "cell_type", licence="mit")
    query = query[:, ::-1].copy()
    expected = map_in_python(model, query, prepared)
    for kind in ("Assay5", "SCE in an HDF5 file"):
        found = r(
            f"""
            object <- MapSysVI(object, folder, "cell_type", {EPOCHS_R})
            seurat <- is(object, "Seurat")
            labels <- if (seurat) object[[]] else as.data.frame(colData(object))
            list(
              z = unname(if (seurat) Embeddings(object[["sysvi"]]) else reducedDim(object, "sysVI")),
              labels = labels[columns]
            )
            """,
            object=build(kind, query),
            folder=str(tmp_path / "reference"),
            columns=COLUMNS,
        )
        np.testing.assert_array_equal(np.asarray(found["z"]), expected.obsm["X_sysVI"])
        labels = pd.DataFrame(found["labels"])
        assert labels[COLUMNS[0]].astype(str).tolist() == expected.obs[COLUMNS[0]].astype(str).tolist()
        np.testing.assert_array_equal(labels[COLUMNS[1:]].astype(np.float32), expected.obs[COLUMNS[1:]])


def test_trained_in_r_mapped_in_python(r, build, reference_and_query, tmp_path):
    reference, query = reference_and_query
    found = r(
        f"""
        object <- RunSysVI(object, "system", "batch", {ENSEMBLE_R})
        SaveReferenceSysVI(object, folder, "cell_type", licence = "mit", verbose = FALSE)
        unname(reducedDim(MapSysVI(query, object, {EPOCHS_R}), "sysVI"))
        """,
        object=build("split Assay5", reference),
        query=build("SCE", query),
        folder=str(tmp_path / "reference"),
    )
    saved = sysvi.load_reference(tmp_path / "reference")
    expected = map_in_python(saved.model, query, saved)
    np.testing.assert_array_equal(np.asarray(found), expected.obsm["X_sysVI"])
    assert set(expected.obs[COLUMNS[0]]) <= {*reference.obs["cell_type"], "unknown"}


def test_a_model_trained_in_r_normalises_counts_in_python(r, build, reference_and_query, tmp_path, recwarn):
    """R trains on log-normalised expression only, and the totals of its cells tell how it was normalised."""
    reference, query = reference_and_query
    found = r(
        f"""
        object <- RunSysVI(object, "system", "batch", {ENSEMBLE_R})
        SaveSysVI(object, folder)
        unname(Embeddings(MapSysVI(query, object, layer = "counts", {EPOCHS_R})[["sysvi"]]))
        """,
        object=build("Assay5", reference),
        query=build("Assay5", query),
        folder=str(tmp_path / "model"),
    )
    model, counts = sysvi.load(tmp_path / "model"), query.copy()
    counts.X = counts.layers["counts"]
    mapped = map_in_python(model, counts).obsm["X_sysVI"]
    assert not [w for w in recwarn if "normalised" in str(w.message)]
    np.testing.assert_array_equal(np.asarray(found), mapped)
    np.testing.assert_allclose(mapped, map_in_python(model, query).obsm["X_sysVI"], atol=1e-3)


@pytest.mark.filterwarnings("ignore:Only 120 genes")
def test_counts_are_normalised_alike(r, build, reference_and_query, tmp_path):
    """A model of counts that Python prepared knows how they were normalised."""
    reference, query = (cells.copy() for cells in reference_and_query)
    reference.X, query.X = reference.layers["counts"], query.layers["counts"]
    prepared = sysvi.prepare(reference, "system", "batch", min_cells=3)
    model = sysvi.integrate(prepared, "system", "batch", **ENSEMBLE, device="cpu", progress=False)
    model.save(tmp_path)
    found = r(
        f"unname(Embeddings(MapSysVI(object, folder, layer = 'counts', {EPOCHS_R})[['sysvi']]))",
        object=build("Assay5", query),
        folder=str(tmp_path),
    )
    np.testing.assert_array_equal(np.asarray(found), map_in_python(model, query).obsm["X_sysVI"])
