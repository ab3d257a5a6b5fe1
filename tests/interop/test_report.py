"""Reports of R objects draw what the reports of Python draw of the same cells."""

import json
import re

import pytest
from r_objects import ENSEMBLE_R

import sysvi


def data_of(path):
    text = path.read_text(encoding="utf-8")
    return json.loads(re.search('<script type="application/json" id="data">(.*?)</script>', text)[1])


@pytest.mark.parametrize("kind", ["Assay5", "SCE"])
def test_report(r, build, ensemble, tmp_path, kind):
    sysvi.report(ensemble[1], tmp_path / "python.html", "cell_type", colors=["age"], device="cpu", progress=False)
    r(
        f"""
        object <- suppressWarnings(RunSysVI(object, system = "system", batch = "batch", {ENSEMBLE_R}))
        ReportSysVI(object, file, "cell_type", colors = "age", device = "cpu", verbose = FALSE)
        """,
        object=build(kind),
        file=str(tmp_path / "r.html"),
    )
    expected, found = data_of(tmp_path / "python.html"), data_of(tmp_path / "r.html")
    assert [column["name"] for column in found["columns"]] == ["system", "batch", "cell_type", "sysvi_support", "age"]
    assert found == expected
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert "ReportSysVI(object" in page
    assert "sysvi.prepare(" not in page
