"""Reports as files: arguments, errors, and data of every kind."""

import json
import re
import sys

import anndata
import numpy as np
import pytest
from anndata import AnnData
from click.testing import CliRunner

import sysvi
from sysvi import InputError
from sysvi.cli import main
from sysvi.reporting.content import collect
from sysvi.reporting.shown_cells import choose_columns

pytestmark = pytest.mark.slow


def bare(integrated):
    """The results without expression."""
    return AnnData(obs=integrated.obs, obsm=dict(integrated.obsm), uns=dict(integrated.uns))


def data_of(path):
    text = path.read_text(encoding="utf-8")
    return json.loads(re.search('<script type="application/json" id="data">(.*?)</script>', text)[1])


def test_what_is_wrong_is_said_before_the_work(integrated, tmp_path, monkeypatch):
    path = tmp_path / "report.html"
    quiet = {"progress": False, "device": "cpu"}
    with pytest.raises(InputError, match="colors is the string 'age'; give a list"):
        sysvi.report(integrated, path, colors="age", **quiet)
    with pytest.raises(InputError, match="no column 'hue' \\(colors\\)"):
        sysvi.report(integrated, path, colors=["hue"], **quiet)
    with pytest.raises(InputError, match="label_key='kind' is not a column"):
        sysvi.report(integrated, path, "kind", **quiet)
    with pytest.raises(InputError, match="no embedding 'X_other'"):
        sysvi.report(integrated, path, embedding="X_other", **quiet)
    with pytest.raises(InputError, match="max_cells"):
        sysvi.report(integrated, path, max_cells=3, **quiet)
    with pytest.raises(InputError, match="label_key is 3"):
        sysvi.report(integrated, path, 3, **quiet)
    with pytest.raises(InputError, match=r"run sysvi\.integrate first"):
        sysvi.report(AnnData(np.ones((30, 2), np.float32)), path, **quiet)
    for library in ("jinja2", "plotly"):
        with monkeypatch.context() as patch:
            for name in [name for name in sys.modules if name.partition(".")[0] == library]:
                patch.delitem(sys.modules, name)
            patch.setitem(sys.modules, library, None)
            with pytest.raises(InputError, match=r'needs .* not installed: run pip install "sysvi\[report\]"\.$'):
                sysvi.report(integrated, path, **quiet)
    path.write_text("mine")
    with pytest.raises(InputError, match="exists already; pass overwrite=True"):
        sysvi.report(integrated, path, **quiet)
    assert path.read_text() == "mine"
    assert list(tmp_path.iterdir()) == [path]


def test_cells_without_expression_are_shown_after_the_integration_only(integrated):
    content = collect(bare(integrated), device="cpu")
    assert list(content.umaps) == ["X_sysVI"]
    assert any("before the integration are not shown" in note for note in content.notes)
    assert content.types is None
    assert content.mixing.empty


def test_a_sample_stands_for_many_cells(integrated):
    content = collect(bare(integrated), "cell_type", max_cells=100, device="cpu")
    assert content.n_shown == len(content.umaps["X_sysVI"]) == 100
    assert content.n_cells == 300
    systems = content.types.columns[:2]
    labelled = integrated.obs["cell_type"] != "unknown"
    assert content.types[systems].to_numpy().sum() == labelled.sum()  # tables count all cells
    assert any("100 of 300 cells" in note for note in content.notes)


def test_a_single_model_and_names_with_slashes(input_cells):
    cells = input_cells.copy()
    cells.obs["system"] = cells.obs["system"].astype(str).replace("system1", "human/adult")
    adata = sysvi.prepare(cells, "system", min_cells=3)
    sysvi.integrate(adata, "system", members=2, max_epochs=1, device="cpu", progress=False)
    content = collect(adata, device="cpu")
    assert set(content.support["cells of"]) == {"human/adult", "system2"}
    assert "batch" not in content.groups
    sysvi.integrate(adata, "system", members=1, max_epochs=1, device="cpu", progress=False)
    content = collect(adata, device="cpu")
    assert content.support is None
    assert any("One model was trained" in finding.text for finding in content.findings)


def test_columns():
    import pandas as pd

    n = 100
    obs = pd.DataFrame(
        {
            "system": ["a"] * n,
            "constant": 1,
            "barcode": [f"cell{i}" for i in range(n)],
            "number": np.arange(n),
            "flag": [True, False] * (n // 2),
            "few": ["x", "y"] * (n // 2),
        }
    )
    assert choose_columns(obs, ["system"], None) == ["system", "number", "flag", "few"]
    assert choose_columns(obs, ["system"], ["few", "system"]) == ["system", "few"]


def test_the_command_writes_the_page_of_the_function(integrated, input_cells, tmp_path):
    """The output of `integrate` has counts; the report prepares them as the run did."""
    integrated.write_h5ad(tmp_path / "prepared.h5ad")
    result = CliRunner().invoke(
        main,
        [
            *("report", str(tmp_path / "prepared.h5ad"), "--label", "cell_type", "--color", "age", "--device", "cpu"),
            *("-o", str(tmp_path / "one.html"), "--json"),
        ],
    )
    assert result.exit_code == 0, result.output
    assert json.loads(result.output.splitlines()[-1])["output"] == str(tmp_path / "one.html")
    sysvi.report(integrated, tmp_path / "two.html", "cell_type", colors=["age"], device="cpu", progress=False)
    assert (tmp_path / "one.html").read_text() == (tmp_path / "two.html").read_text()
    assert [column["name"] for column in data_of(tmp_path / "one.html")["columns"]] == [
        *("system", "batch", "sex", "cell_type", "sysvi_support", "age")
    ]


def test_integrate_writes_a_report_too(input_cells, tmp_path):
    input_cells.write_h5ad(tmp_path / "cells.h5ad")
    common = ["integrate", str(tmp_path / "cells.h5ad"), "--system", "system", "-o", str(tmp_path / "out.h5ad")]
    common += ["--epochs", "1", "--members", "2", "--min-cells", "3", "--device", "cpu"]
    result = CliRunner().invoke(main, [*common, "--label", "cell_type"])
    assert result.exit_code == 1
    assert "--label names cell types for the report: give --report too" in result.output
    result = CliRunner().invoke(main, [*common, "--report", str(tmp_path / "r.html"), "--label", "kind"])
    assert result.exit_code == 1
    assert not (tmp_path / "out.h5ad").exists()
    result = CliRunner().invoke(main, [*common, "--report", str(tmp_path / "r.html"), "--label", "cell_type"])
    assert result.exit_code == 0, result.output
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert "--min-cells 3" in page
    written = anndata.read_h5ad(tmp_path / "out.h5ad")
    again = collect(written, "cell_type", device="cpu")
    assert list(again.umaps) == ["X_pca", "X_sysVI"]
    assert again.record.preparation["genes_in"] == 150
    shown = data_of(tmp_path / "r.html")["umaps"][0]
    assert len(again.umaps["X_pca"]) == written.n_obs
    from base64 import b64decode

    drawn = np.frombuffer(b64decode(shown["x"]), "<f4")
    np.testing.assert_array_equal(again.umaps["X_pca"][:, 0].astype("<f4"), drawn)
