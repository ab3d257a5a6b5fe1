"""Reports of tunings and comparisons: content, pages, folders, and what is wrong."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from click.testing import CliRunner

import sysvi
from sysvi import InputError
from sysvi.cli import main
from sysvi.reporting.comparison_content import collect_comparison
from sysvi.reporting.document import load_libraries
from sysvi.reporting.runs_page import render_runs

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
BAD = "<script>alert('type')</script>"


def data_of(page):
    return json.loads(re.search('<script type="application/json" id="data">(.*?)</script>', page, re.S)[1])


class Tables(HTMLParser):
    """The tables of a page by their captions: rows of texts."""

    def __init__(self, text):
        super().__init__()
        self.found, self.caption, self.rows, self.tag, self.headings = {}, "", [], "", []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tag = tag
        if tag == "table":
            self.caption, self.rows = "", []
        if tag == "tr":
            self.rows.append([])
        if tag in ("th", "td"):
            self.rows[-1].append("")
        if re.fullmatch("h[1-6]", tag):
            self.headings.append(int(tag[1]))

    def handle_endtag(self, tag):
        if tag == "table":
            self.found[self.caption] = self.rows
        self.tag = ""

    def handle_data(self, data):
        if self.tag == "caption":
            self.caption += data
        elif self.tag in ("th", "td"):
            self.rows[-1][-1] += data


def test_a_tuning_is_told_whole(tuning, tuning_page):
    tables = Tables(tuning_page)
    rows = tables.found["All runs; those of the chosen setting are bold"]
    assert rows[0] == ["Cycle weight", "KL weight", "Prior", "Seed", "Status", "Score", *rows[0][6:]]
    assert len(rows) == 1 + len(tuning.runs)
    for row, (_, run) in zip(rows[1:], tuning.runs.iterrows(), strict=True):
        assert row[:4] == [f"{run['cycle_weight']:g}", "1", "vamp", str(run["seed"])]
        assert row[5] == ("-" if np.isnan(run["overall"]) else f"{run['overall']:.3f}")
    settings = tables.found["Settings, best first; the chosen one is bold"]
    assert [row[0] for row in settings[1:]] == [f"{weight:g}" for weight, _, _ in tuning.settings.index]
    best = tuning.settings.iloc[0]
    assert settings[1][3] == f"{best['overall']:.3f} ± {best['overall SD']:.3f}"
    failed = tables.found["Runs without a result"]
    assert failed[1] == ["7", "1", "vamp", "1", f"The loss became {BAD}"]
    assert tuning.why.replace("'", "&#39;") in tuning_page
    assert "1 run has no result" in tuning_page
    assert "The chosen cycle weight is the largest" in tuning_page or best.name[0] != 5
    assert tables.headings[0] == 1
    assert "<script>alert" not in tuning_page


def test_the_figure_of_a_tuning_has_its_numbers(tuning, tuning_page):
    data = data_of(tuning_page)
    assert data["axes"][:2] == [tuning.mixing, "biology"]
    (series,) = data["series"]
    finished = tuning.runs[tuning.runs["overall"].notna()]
    for axis, name in enumerate(data["axes"]):
        drawn = [np.nan if p["values"][axis] is None else p["values"][axis] for p in series["runs"]]
        np.testing.assert_allclose(drawn, finished[name].astype(float), rtol=1e-4)
        for point in series["means"]:
            of_setting = finished.loc[finished["cycle_weight"] == float(point["name"]), name].astype(float)
            if np.isfinite(of_setting).all():
                np.testing.assert_allclose(point["values"][axis], of_setting.mean(), rtol=1e-4)
            if len(of_setting) > 1 and np.isfinite(of_setting).all():
                np.testing.assert_allclose(point["spreads"][axis], of_setting.std(), rtol=1e-3, atol=1e-12)
    assert [point["name"] for point in series["means"] if point["chosen"]] == [f"{tuning.cycle_weight:g}"]
    assert [float(point["name"]) for point in series["means"]] == sorted(float(p["name"]) for p in series["means"])


def test_the_folder_of_a_tuning_gives_the_same_page(tuning, tuning_page, tmp_path):
    sysvi.write_tuning(tuning, tmp_path / "out")
    result = CliRunner().invoke(main, ["report", str(tmp_path / "out"), "-o", str(tmp_path / "page.html")])
    assert result.exit_code == 0, result.output
    assert (tmp_path / "page.html").read_text(encoding="utf-8") == tuning_page
    sysvi.report(tuning, tmp_path / "again.html", progress=False)
    assert (tmp_path / "again.html").read_text(encoding="utf-8") == tuning_page


def test_the_command_of_a_page_makes_the_same_runs(tuning, tuning_page, tuned_cells, tmp_path):
    """The shell command and the Python code name all arguments in which the call differed from the defaults."""
    command = re.search(r"sysvi tune cells\.h5ad.*?tuning\.html", tuning_page, re.S)
    assert command is None  # min_cells of the preparation is not the default, and sysvi tune has no option for it
    code = re.search(r"import anndata\n.*?\)\nsysvi\.report\(tuning", tuning_page, re.S)[0]
    code = code.replace("&#39;", "'").replace("&#34;", '"').replace("sysvi.report(tuning", "")
    tuned_cells.write_h5ad(tmp_path / "cells.h5ad")
    code = code.replace('"cells.h5ad"', repr(str(tmp_path / "cells.h5ad"))).replace("'tuning'", "None")
    variables = {}
    exec(code, variables)
    again = variables["tuning"]
    finished = tuning.runs[tuning.runs["overall"].notna()]
    same = again.runs.merge(finished, on=["cycle_weight", "seed"], suffixes=("", " before"))
    assert len(same) == len(finished)
    np.testing.assert_array_equal(same["NMI"], same["NMI before"])


def test_a_comparison_is_told_whole(comparison, comparison_page):
    tables = Tables(comparison_page)
    (first,) = tables.found["Methods at their chosen settings"][1:]
    row = comparison.table.iloc[0]
    assert first[:3] == [row["title"], "", "1"]
    assert first[-2:] == [f"{row['seconds']:,.0f}", f"{row['peak_mb']:,.0f}"]
    failed = tables.found["Methods and runs without a result"]
    assert [r[0] for r in failed[1:]] == ["bad <b>"]
    assert "it broke" in failed[1][-1]
    assert "Without a result: bad &lt;b&gt;." in comparison_page
    assert "<b>" not in comparison_page.replace("<br>", "")[: comparison_page.index('id="data"')]
    data = data_of(comparison_page)
    assert data["axes"][:2] == ["iLISI", "NMI"]
    assert {"time (s)", "peak memory (MB)"} <= set(data["axes"])
    assert [series["name"] for series in data["series"]] == [row["title"]]
    assert "sysvi compare cells.h5ad" in comparison_page
    assert "--methods pca,bad" in comparison_page


def test_the_folder_of_a_comparison_gives_the_same_page(comparison, comparison_page, tmp_path):
    sysvi.report(str(comparison.folder), tmp_path / "page.html", progress=False)
    assert (tmp_path / "page.html").read_text(encoding="utf-8") == comparison_page


def test_a_comparison_without_results_is_a_page_too(comparison, tmp_path):
    runs = comparison.runs.assign(status="failed", reason="it broke", chosen=False)
    empty = replace(comparison, table=comparison.table.iloc[:0], runs=runs, tests=comparison.tests.iloc[:0])
    page = render_runs(collect_comparison(empty), load_libraries())
    assert "No method gave a result" in page
    assert "there is nothing to draw" in page


def test_what_is_wrong_is_said(tuning, tmp_path):
    path = tmp_path / "page.html"
    with pytest.raises(InputError, match="label_key can be given for the report of an integration only"):
        sysvi.report(tuning, path, "cell_type", progress=False)
    with pytest.raises(InputError, match=r"There is no folder .*missing: give the output of sysvi\.tune"):
        sysvi.report(tmp_path / "missing", path, progress=False)
    with pytest.raises(InputError, match=r"has no results of sysvi\.tune or sysvi\.compare"):
        sysvi.report(tmp_path, path, progress=False)
    out = tmp_path / "out"
    sysvi.write_tuning(tuning, out)
    (out / "runs.csv").unlink()
    with pytest.raises(InputError, match=r"no complete results of a tuning .*runs\.csv.*run sysvi\.tune with the same"):
        sysvi.report(out, path, progress=False)
    (out / "tuning.json").write_text('{"why": 1')
    with pytest.raises(InputError, match="no complete results of a tuning"):
        sysvi.report(out, path, progress=False)
    assert not path.exists()
    result = CliRunner().invoke(main, ["report", str(out), "-o", str(path), "--label", "cell_type"])
    assert result.exit_code == 1
    assert "Error: --label can be given for the report of an integration only" in result.output


def test_a_report_replaces_a_report_only(tuned_cells, tmp_path):
    tuned_cells.write_h5ad(tmp_path / "cells.h5ad")
    command = ["tune", str(tmp_path / "cells.h5ad"), "--system", "system", "--seeds", "1", "--cycle-weight", "0"]
    command += ["--epochs", "1", "--min-cells", "20", "--device", "cpu", "-o", str(tmp_path / "out"), "--json"]
    command += ["--report", str(tmp_path / "page.html")]
    (tmp_path / "page.html").write_text("mine")
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 1
    assert "exists already" in result.output
    assert (tmp_path / "page.html").read_text() == "mine"
    (tmp_path / "page.html").unlink()
    for _ in range(2):
        result = CliRunner().invoke(main, command)
        assert result.exit_code == 0, result.output
        page = (tmp_path / "page.html").read_text(encoding="utf-8")
        assert "Chosen: Cycle weight 0 is the only setting" in page.replace("&#39;", "'")
        (tmp_path / "page.html").write_text(page[:5000], encoding="utf-8")  # is still recognised
