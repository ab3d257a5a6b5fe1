"""The sources of the site: every public name has its place, and what checks and rewrites links does so."""

import ast
import importlib.util
import re
import sys
import tomllib
from pathlib import Path

import pytest

import sysvi

ROOT = Path(__file__).resolve().parents[2]
TUTORIALS = sorted(path for path in (ROOT / "docs" / "tutorials").glob("*.md") if path.stem != "index")


def load_script(path):
    """The module in this file."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = sys.modules[path.stem] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


check_site = load_script(ROOT / "tools" / "check_site.py")


def listed_names():
    """The names that docs/api/index.md gives a page, or describes itself, in full."""
    module, names = "", []
    for line in (ROOT / "docs" / "api" / "index.md").read_text().splitlines():
        if line.startswith(".. currentmodule:: "):
            module = line.removeprefix(".. currentmodule:: ")
        elif name := re.fullmatch(r"(?:   |\.\. py:data:: )([\w.]+)", line):
            names.append(f"{module}.{name[1]}")
    return names


def test_every_public_name_has_a_page():
    public = {f"sysvi.{name}" for name in sysvi.__all__} - {"sysvi.datasets", "sysvi.metrics"}
    public |= {f"sysvi.datasets.{name}" for name in sysvi.datasets.__all__}
    public |= {f"sysvi.metrics.{name}" for name in sysvi.metrics.__all__}
    names = listed_names()
    assert len(names) == len(set(names))
    assert set(names) == public


class TestNumbers:
    """The numbers of the documentation are those of the tables in benchmarks/results."""

    @pytest.fixture(scope="class")
    def numbers(self):
        folder = ROOT / "benchmarks" / "pages"
        with pytest.MonkeyPatch.context() as patch:
            patch.syspath_prepend(folder)
            yield load_script(folder / "write.py")
        for name in ("write", "tables", "sentences", "fig5", "results"):
            sys.modules.pop(name, None)

    def test_of_tables(self, numbers):
        stale = [name for name, text in numbers.pages().items() if numbers.with_tables(text) != text]
        assert not stale, "run `python benchmarks/pages/write.py`"

    def test_every_table_has_a_page(self, numbers):
        used = {name for text in numbers.pages().values() for name in numbers.BLOCK.findall(text)}
        assert used == set(numbers.TABLES)

    def test_of_sentences(self, numbers):
        assert [fault for name, text in numbers.pages().items() for fault in numbers.faults(name, text)] == []

    def test_the_papers_score_is_that_of_the_comparison(self, numbers):
        tables = sys.modules["tables"]
        for name in ("baron", "hard", "held_out"):
            runs = tables.method_runs(name)
            assert tables.paper_score(runs).to_numpy() == pytest.approx(runs["overall"].to_numpy(), abs=1e-6)

    def test_a_changed_number_is_found(self, numbers):
        text = numbers.pages()["README.md"]
        (said,) = re.findall(r"NMI at most (\d\.\d\d) lower", text)
        changed = text.replace(f"at most {said} lower", "at most 0.99 lower")
        missing, *unknown = numbers.faults("README.md", changed)
        assert missing.startswith("README.md should say: ")
        assert f"at most {said} lower" in missing
        assert any("at most 0.99 lower" in fault for fault in unknown)
        assert numbers.faults("README.md", text + "\nIt is 12.5 times as fast.\n")
        block = text.index("<!-- table: readme -->")
        cell = re.search(r"\d\.\d\d", text[block:])
        start, end = block + cell.start(), block + cell.end()
        assert numbers.with_tables(text[:start] + "7.77" + text[end:]) == text


def test_every_extra_is_explained():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    text = (ROOT / "docs" / "installation.md").read_text()
    table = text[text.index("| extra | for |") :].split("\n\n")[0]
    assert set(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)) == set(project["optional-dependencies"])


@pytest.mark.parametrize("path", TUTORIALS, ids=lambda path: path.stem)
def test_tutorials_are_notebooks_with_python_code(path):
    text = path.read_text()
    assert text.startswith("---\nfile_format: mystnb\nkernelspec:")
    cells = re.findall(r"^```\{code-cell\} ipython3\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert cells
    ast.parse("\n".join(line for line in "".join(cells).splitlines() if not line.startswith("!")))
    assert f"({path.name})" in (path.parent / "index.md").read_text()


class TestRewrittenLinks:
    """Links are written as on GitHub and lead to the right place on the site."""

    @pytest.fixture(scope="class")
    def rewrite(self):
        pytest.importorskip("sphinx", reason="`make docs` installs sphinx")
        module = load_script(ROOT / "docs" / "_ext" / "repository_links.py")

        pages = {
            "CHANGELOG.md": "changelog",
            "DESCRIPTION": "r-site:index.html",
            "benchmarks/README.md": "measurements",
        }

        def rewrite(text, folder="docs", page_folder="docs"):
            return module.rewrite_links(text, folder, page_folder, pages, "https://host/blob/main")

        return rewrite

    @pytest.mark.parametrize(
        ("link", "rewritten"),
        [
            ("trust.md#anchors", "trust.md#anchors"),
            ("#here", "#here"),
            ("https://a.b/c", "https://a.b/c"),
            ("../CHANGELOG.md#unreleased", "changelog.md#unreleased"),
            ("../benchmarks/README.md#imports", "measurements.md#imports"),
            ("../DESCRIPTION", "r-site:index.html"),
            ("../python/sysvi/cli.py", "https://host/blob/main/python/sysvi/cli.py"),
        ],
    )
    def test_of_a_page(self, rewrite, link, rewritten):
        assert rewrite(f"See [it]({link}) there.") == f"See [it]({rewritten}) there."

    def test_of_a_file_that_a_page_includes(self, rewrite):
        text = "![a](figures/a.png) [b](../../docs/trust.md) [c](methods.py)"
        expected = "![a](../benchmarks/paper/figures/a.png) [b](trust.md) [c](https://host/blob/main/benchmarks/paper/methods.py)"
        assert rewrite(text, "benchmarks/paper") == expected

    def test_of_a_page_in_a_folder(self, rewrite):
        assert rewrite("[a](../trust.md) [b](../../CHANGELOG.md)", "docs/tutorials", "docs/tutorials") == (
            "[a](../trust.md) [b](../changelog.md)"
        )


class TestCheckOfLinks:
    """tools/check_site.py finds what is wrong, and nothing else."""

    good = (
        '<link rel="stylesheet" href="_static/a.css?v=1"><h1 id="top">A</h1><a href="#top">1</a>'
        '<a href="b.html#x">2</a><a href="https://host/">3</a><a href="r/index.html">4</a>'
        '<a href="mailto:a@b">5</a><img src="data:image/png,">'
    )

    @pytest.fixture
    def site(self, tmp_path):
        (tmp_path / "_static").mkdir()
        (tmp_path / "_static" / "a.css").touch()
        (tmp_path / "b.html").write_text('<p id="x"></p><a href=".">home</a>')
        (tmp_path / "index.html").write_text(self.good)
        return tmp_path

    def test_of_a_good_site(self, site):
        assert check_site.find_faults(site) == []

    @pytest.mark.parametrize(
        ("html", "fault"),
        [
            ('<a href="c.html">', "index.html links to c.html, which is missing"),
            ('<a href="b.html#y">', "index.html links to b.html#y, which has no such anchor"),
            ('<a href="#nowhere">', "index.html links to #nowhere, which has no such anchor"),
            ('<a href="../up.html">', "index.html links to ../up.html, outside of the site"),
            ('<img src="missing.png">', "index.html links to missing.png, which is missing"),
            ('<script src="https://cdn/x.js"></script>', "index.html loads https://cdn/x.js"),
            ('<link rel="stylesheet" href="//cdn/x.css">', "index.html loads //cdn/x.css"),
        ],
    )
    def test_of_a_fault(self, site, html, fault):
        (site / "index.html").write_text(self.good + html)
        assert check_site.find_faults(site) == [fault]

    def test_of_a_site_whose_pages_give_its_address(self, site):
        url = "https://host/site/"
        (site / "sub").mkdir()
        html = f'<a href="{url}b.html#x"><img src="{url}x.png"><script src="{url}y.js">'
        (site / "sub" / "page.html").write_text(html)
        (site / "x.png").touch()
        assert check_site.find_faults(site, url) == ["sub/page.html links to .././y.js, which is missing"]

    def test_of_an_empty_folder(self, tmp_path):
        assert check_site.find_faults(tmp_path) == [f"{tmp_path} has no pages"]
