"""Comparison of systems: the same numbers in R and in Python."""

import numpy as np
import pytest
from r_objects import ENSEMBLE_R

import sysvi


@pytest.mark.filterwarnings("ignore:Labels have no p-values")
@pytest.mark.parametrize("kind", ["Assay5", "SCE in an HDF5 file"])
def test_trained_in_python_compared_in_r(r, build, ensemble, tmp_path, kind):
    model, prepared = ensemble
    model.save(tmp_path)
    found = r(
        """
        table <- CompareSystems(object, "cell_type", folder, min_cells = 5, device = "cpu", verbose = FALSE)
        list(names = names(table), texts = unname(as.matrix(table[1:4])), numbers = unname(as.matrix(table[-(1:4)])))
        """,
        object=build(kind),
        folder=str(tmp_path),
    )
    expected = sysvi.compare_systems(model, prepared, "cell_type", min_cells=5, progress=False)
    assert list(found["names"]) == list(expected)
    assert expected["p"].notna().any()
    texts = np.reshape(found["texts"], (-1, 4), order="F")  # as R stores a matrix; rpy2 gives strings as a vector
    np.testing.assert_array_equal(texts, expected.iloc[:, :4].to_numpy().astype(str))
    np.testing.assert_array_equal(found["numbers"], expected.iloc[:, 4:].to_numpy(float))


@pytest.mark.filterwarnings("ignore:Labels have no p-values")
def test_trained_in_r_compared_in_python(r, build, log_cells, tmp_path):
    found = r(
        f"""
        object <- RunSysVI(object, "system", "batch", {ENSEMBLE_R})
        SaveSysVI(object, folder)
        CompareSystems(object, "cell_type", min_cells = 5, device = "cpu", verbose = FALSE)$effect
        """,
        object=build("SCE"),
        folder=str(tmp_path),
    )
    model = sysvi.load(tmp_path, device="cpu")
    expected = sysvi.compare_systems(model, log_cells, "cell_type", min_cells=5, progress=False)
    np.testing.assert_array_equal(found, expected["effect"])
