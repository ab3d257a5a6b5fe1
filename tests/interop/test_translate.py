"""Decoded expression: the same bits in R and in Python, whichever trained the model."""

import numpy as np
import pytest
from r_objects import ENSEMBLE, ENSEMBLE_R

import sysvi

CODE = {
    "Assay5": 'as.matrix(LayerData(object, layer = "data", assay = "translated"))',
    "SCE in an HDF5 file": 'assay(altExp(object, "translated"), "logcounts")',
}


@pytest.mark.parametrize("target", [("system2", None), ("system1", "average"), (None, None)], ids=str)
def test_trained_in_python_translated_in_r(r, build, ensemble, tmp_path, target):
    model, prepared = ensemble
    model.save(tmp_path)
    genes = [str(name) for name in prepared.var_names[[7, 2, 30]]]
    quoted = ["NULL" if name is None else f"'{name}'" for name in target]
    options = "device = 'cpu', verbose = FALSE"
    for kind, code in CODE.items():
        for chosen in (None, genes):
            arguments = f"{quoted[0]}, {quoted[1]}, {'NULL' if chosen is None else 'genes'}, {options}"
            found = r(
                f"object <- TranslateExpression(object, folder, {arguments}); unname({code})",
                object=build(kind),
                folder=str(tmp_path),
                genes=genes,
            )
            expected = sysvi.translate(model, prepared, *target, genes=chosen, progress=False)
            np.testing.assert_array_equal(np.asarray(found).T, expected.layers["sysvi_translated"])


def test_trained_in_r_translated_in_python(r, build, log_cells, tmp_path):
    found = r(
        f"""
        object <- RunSysVI(object, "system", "batch", {ENSEMBLE_R})
        SaveSysVI(object, folder)
        object <- TranslateExpression(object, to_system = "system2", device = "cpu", verbose = FALSE)
        unname(assay(altExp(object, "translated"), "logcounts"))
        """,
        object=build("SCE"),
        folder=str(tmp_path),
    )
    model = sysvi.load(tmp_path, device="cpu")
    assert len(model.members) == ENSEMBLE.get("members", 8)
    expected = sysvi.translate(model, log_cells, "system2", progress=False).layers["sysvi_translated"]
    np.testing.assert_array_equal(np.asarray(found).T, expected)
