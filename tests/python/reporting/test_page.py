"""The page of a report as a parser of HTML reads it: safe, complete, accessible, and without a network."""

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from itertools import pairwise

import numpy as np
import pytest

from sysvi.evaluation.registry import METRICS
from sysvi.reporting.document import _inside_script, load_libraries, read_template
from sysvi.reporting.page import render

BAD = "<script>alert('type')</script>"
BAD_COLUMN = '"><script>alert("column") &'
pytestmark = pytest.mark.slow


class Page(HTMLParser):
    """Tags with their attributes, and the texts of scripts and of everything else."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.scripts, self.texts, self.open = [], [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append([dict(attrs), ""])
        if tag not in ("meta", "img", "br", "link", "input"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag  # every tag is closed where it was opened

    def handle_data(self, data):
        if self.open and self.open[-1] == "script":
            self.scripts[-1][1] += data
        else:
            self.texts.append(data)


@pytest.fixture(scope="module")
def parsed(page):
    return Page(page)


@pytest.fixture(scope="module")
def data(parsed):
    """What the script of the page draws."""
    return json.loads(next(text for attributes, text in parsed.scripts if attributes.get("id") == "data"))


def decode(text, dtype):
    return np.frombuffer(base64.b64decode(text), dtype)


def test_nothing_is_loaded_from_anywhere(parsed):
    assert {tag for tag, _ in parsed.tags} & {"link", "iframe", "object", "embed", "base", "form"} == set()
    for tag, attributes in parsed.tags:
        for name, value in attributes.items():
            assert not name.startswith("on"), f"{tag} has {name}"
            if name in ("src", "href", "action", "data", "srcset", "poster"):
                assert value.startswith(("#", "data:image/png;base64,")), f"{tag} loads {value[:60]}"
    assert "url(" not in read_template("report.css")
    assert "@import" not in read_template("report.css")


def test_the_policy_allows_the_scripts_of_the_page_and_no_others(parsed):
    policy = next(a["content"] for tag, a in parsed.tags if a.get("http-equiv") == "Content-Security-Policy")
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'"
    assert set(re.findall("'(sha256-.*?)'", rules["script-src"])) == {
        "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        for attributes, text in parsed.scripts
        if attributes.get("type") != "application/json"
    }
    assert "unsafe-inline" not in rules["script-src"]
    assert not re.search("https?:", policy)


def test_names_are_text_and_never_tags(page, parsed, data):
    assert len(parsed.scripts) == 3
    assert "alert('type')" not in "".join(text for attributes, text in parsed.scripts if "id" not in attributes)
    assert any(text.strip() == BAD for text in parsed.texts)  # as the name of a row
    assert BAD_COLUMN in [text.strip() for text in parsed.texts]  # as an option
    assert "<script>alert" not in page
    columns = {column["name"]: column for column in data["columns"]}
    assert columns[BAD_COLUMN]["categories"] == [BAD, "b & c"]
    assert BAD in columns["cell_type"]["categories"]


def test_the_page_draws_the_cells_it_was_given(content, data, integrated):
    n = integrated.n_obs
    for umap, points in zip(data["umaps"], content.umaps.values(), strict=True):
        drawn = np.column_stack([decode(umap["x"], "<f4"), decode(umap["y"], "<f4")])
        np.testing.assert_array_equal(drawn, points.astype(np.float32))
    columns = {column["name"]: column for column in data["columns"]}
    assert list(columns)[:4] == ["system", "batch", "sex", "cell_type"]
    for name in ("system", "batch", "cell_type"):
        column = columns[name]
        names = np.array([*column["categories"], ""])[decode(column["values"], "<i4")]
        missing = integrated.obs[name].astype(str).str.lower().isin(["nan", "none", ""])
        expected = integrated.obs[name].astype(str).where(~missing, "")
        assert sorted(names) == sorted(expected)
        assert len(column["colors"]) == len(column["categories"])
    age = decode(columns["age"]["values"], "<f4")
    assert np.isnan(age).sum() == integrated.obs["age"].isna().sum() > 0
    assert len(age) == n
    pairs = {
        (columns["system"]["categories"][s], columns["batch"]["categories"][b])
        for s, b in zip(*(decode(columns[name]["values"], "<i4") for name in ("system", "batch")), strict=True)
    }
    assert pairs == set(zip(integrated.obs["system"], integrated.obs["batch"], strict=True))  # columns go together


def test_everything_that_was_promised_is_there(parsed, content, integrated):
    text = " ".join(" ".join(parsed.texts).split())
    table = content.evaluation.table
    for metric in METRICS:
        if metric.name in table.index:
            assert metric.meaning in text
    assert f"{table['X_sysVI']['Total']:.2f}" in text
    assert "Seen in more than 3 cells of every system" in text
    assert all(f"seed {seed}" in text for seed in content.record.member_seeds)
    assert all(finding.text in text for finding in content.findings)
    assert all(f"{name} {version}" in text for name, version in content.record.versions.items())
    assert "sysvi integrate cells.h5ad" in text
    assert ("noscript", {}) in parsed.tags
    assert "Scripts are off, so these are pictures" in text
    assert "adata = sysvi.prepare(cells, 'system', 'batch', min_cells=3)" in text
    assert f"{integrated.n_vars}" in text


def test_every_metric_has_a_meaning():
    assert all(metric.meaning.endswith(("?", ".")) for metric in METRICS)


def test_structure_is_accessible(parsed):
    tags = parsed.tags
    assert ("html", {"lang": "en"}) in tags
    headings = [int(tag[1]) for tag, _ in tags if re.fullmatch("h[1-6]", tag)]
    assert headings[0] == 1
    assert headings.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(headings))
    ids = [a["id"] for _, a in tags if "id" in a]
    assert len(ids) == len(set(ids))
    for tag, a in tags:
        if tag == "img":
            assert a["alt"]
        if tag == "a":
            assert a["href"][1:] in ids
        if tag == "th":
            assert a["scope"] in ("row", "col", "rowgroup", "colgroup")
        if a.get("role") in ("img", "region"):
            assert a["aria-label"]
        if "aria-labelledby" in a:
            assert a["aria-labelledby"] in ids
    labels = {a["for"] for tag, a in tags if tag == "label"}
    assert {a["id"] for tag, a in tags if tag == "select"} == labels
    assert sum(tag == "table" for tag, _ in tags) == sum(tag == "caption" for tag, _ in tags)


def luminance(color):
    parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in parts]
    return np.dot(linear, [0.2126, 0.7152, 0.0722])


def contrast(one, other):
    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


def test_text_has_the_contrast_of_wcag_aa():
    css = read_template("report.css")
    classes = re.findall(r"\.h(\d+) \{ background: (#\w+); color: (#\w+); \}", css)
    assert [int(number) for number, _, _ in classes] == list(range(11))
    for _, background, color in classes:
        assert contrast(background, color) >= 4.5
    schemes = [dict(re.findall(r"--(\w+): (#\w{6})", block)) for block in re.findall(r":root \{(.*?)\}", css, re.S)]
    assert len(schemes) == 3  # light, dark, print
    for scheme in schemes:
        for name in ("text", "soft", "link", "good", "note", "warning"):
            for background in ("page", "panel"):
                assert contrast(scheme[name], scheme[background]) >= 4.5, (name, background)


def test_the_same_content_gives_the_same_page(content, page):
    assert render(content, load_libraries()) == page


def test_r_gets_code_of_r(content):
    page = render(content, load_libraries(), for_r=True, translate=lambda text: text.replace("Cells", "CELLS"))
    assert "RunSysVI(" in page
    assert "sysvi integrate cells.h5ad" not in page


def test_no_text_ends_a_script():
    text = _inside_script('a = "</SCRIPT><!-- x";')
    assert text == 'a = "\\x3c/SCRIPT>\\x3c!-- x";'
