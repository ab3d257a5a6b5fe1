"""The documentation names files, links and versions that exist."""

import re
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(
    page.relative_to(ROOT).as_posix()
    for pattern in ("*.md", "docs/**/*.md", "benchmarks/**/*.md", ".github/*.md")
    for page in ROOT.glob(pattern)
    if not page.relative_to(ROOT).as_posix().startswith(("benchmarks/.", "docs/api/generated/"))
)
LINK = re.compile(r"\]\(([^)\s]+)\)")
CODE = re.compile(r"`([^`\n]+)`")
# A path of this repository in code style: a known folder at its head, and no placeholder or pattern in it.
PATH = re.compile(r"^(?:python|tests|docs|benchmarks|tools|vignettes|inst|R|\.github|\.ci)/[\w./-]*$")
PLACES = (ROOT, ROOT / "python" / "sysvi")  # some pages leave out python/sysvi/ before the name of a module
PACKAGES = sorted(p.parent.name for p in (ROOT / "python" / "sysvi").glob("*/__init__.py"))
MODULE = re.compile(rf"^(?:{'|'.join(PACKAGES)})/[\w./-]+\.py$")


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub makes of a page's headings."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES)
def test_relative_links_resolve(page):
    here = (ROOT / page).parent
    for link in LINK.findall((ROOT / page).read_text()):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (here / path).resolve() if path else ROOT / page
        assert target.exists(), f"{page} links to {link}"
        if anchor:
            assert anchor in anchors(target), f"{page} links to {link}, but {path or page} has no such heading"


@pytest.mark.parametrize("page", [page for page in PAGES if page != "CHANGELOG.md"])  # which tells of the past
def test_paths_in_code_style_exist(page):
    for code in CODE.findall((ROOT / page).read_text()):
        for word in code.split():
            if (PATH.match(word) or MODULE.match(word)) and "/.cache" not in word:  # which is made on demand
                assert any((place / word).exists() for place in PLACES), f"{page} names {word}"


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "docs/performance.md", "benchmarks/README.md"])
def test_make_targets_exist(page):
    makefile = (ROOT / "Makefile").read_text()
    named = set(re.findall(r"`make ([a-z-]+)", (ROOT / page).read_text()))
    assert named <= set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))


def test_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


def test_one_version_everywhere():
    from sysvi import __version__

    assert f"Version: {__version__}\n" in (ROOT / "DESCRIPTION").read_text()
    assert f"\nversion: {__version__}\n" in (ROOT / "CITATION.cff").read_text()


def test_every_development_tool_is_pinned():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pinned = {line.partition("==")[0].lower() for line in (ROOT / "constraints-dev.txt").read_text().splitlines()}
    wishes = [wish for extra in ("dev", "docs") for wish in project["optional-dependencies"][extra]]
    tools = {re.split(r"[><=; ]", wish)[0].lower() for wish in wishes}
    assert tools <= pinned


def test_a_step_is_named_timed_and_fails_as_its_command_does():
    step = ROOT / "tools" / "step.sh"
    good = subprocess.run([step, "a step", "echo", "two  words"], capture_output=True, text=True)
    assert good.returncode == 0
    assert re.fullmatch(r"\n== a step ==\ntwo  words\na step: \d+ s\n", good.stdout)
    bad = subprocess.run([step, "a step", "sh", "-c", "exit 7"], capture_output=True, text=True)
    assert bad.returncode == 7
    assert re.fullmatch(r"a step: failed after \d+ s \(exit status 7\)\n", bad.stderr)
