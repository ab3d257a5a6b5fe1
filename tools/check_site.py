"""Check a built site: links and anchors lead somewhere, nothing is loaded from a network, public names have pages.

    python tools/check_site.py build/docs
    python tools/check_site.py --links-only --url https://sysvi.github.io/sysvi/r/ build/site-r

Links below r/ are left out: the site of the R package is built by itself, and has no public names of Python. Prints
each fault; the exit status is 1 if there is any.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

LOADED = {"script": "src", "img": "src", "iframe": "src", "source": "src", "video": "src"}
LOADED_LINKS = {"stylesheet", "icon", "preload", "modulepreload", "shortcut icon"}
ELSEWHERE = ("r/",)  # folders of the website that another build makes


@dataclass
class Page(HTMLParser):
    """What a page has and refers to: its anchors, the addresses it links to, and those it loads."""

    anchors: set[str] = field(default_factory=set)
    links: list[str] = field(default_factory=list)
    loaded: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__(convert_charrefs=True)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Collect what the tag has or refers to."""
        values = {name: value or "" for name, value in attrs}
        self.anchors.update(values[name] for name in ("id", "name") if name in values)
        if tag == "a" and "href" in values:
            self.links.append(values["href"])
        elif tag in LOADED and LOADED[tag] in values:
            self.loaded.append(values[LOADED[tag]])
        elif tag == "link" and values.get("rel") in LOADED_LINKS:
            self.loaded.append(values["href"])


def read_page(path: Path) -> Page:
    """Parse a page."""
    page = Page()
    page.feed(path.read_text(encoding="utf-8"))
    return page


def find_faults(site: Path, url: str | None = None) -> list[str]:
    """Faults of all pages of a site, a line each; `url` is its address, if pages refer to each other by it."""
    site = site.resolve()
    # Themes leave templates among their static files, which are no pages.
    pages = {path: read_page(path) for path in sorted(site.rglob("*.html")) if "_static" not in path.parts}
    faults = [] if pages else [f"{site} has no pages"]
    for path, page in pages.items():
        name = path.relative_to(site).as_posix()
        if url:
            root = f"{'../' * name.count('/')}./"
            page.loaded = [root + each.removeprefix(url) if each.startswith(url) else each for each in page.loaded]
            page.links = [root + each.removeprefix(url) if each.startswith(url) else each for each in page.links]
        for address in page.loaded:
            if urlsplit(address).scheme not in ("", "data") or address.startswith("//"):
                faults.append(f"{name} loads {address}")
        for address in (*page.links, *page.loaded):
            parts = urlsplit(address)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if target.is_dir():
                target /= "index.html"
            if not target.is_relative_to(site):
                faults.append(f"{name} links to {address}, outside of the site")
            elif target.relative_to(site).as_posix().startswith(ELSEWHERE):
                continue
            elif not target.exists():
                faults.append(f"{name} links to {address}, which is missing")
            elif parts.fragment and target in pages and unquote(parts.fragment) not in pages[target].anchors:
                faults.append(f"{name} links to {address}, which has no such anchor")
    return faults


def missing_names(site: Path) -> list[str]:
    """Public names that have no page and are not described on the first page of the reference, a line each."""
    import sysvi

    names = [name for name in sysvi.__all__ if name not in ("datasets", "metrics")]
    full = [*(f"sysvi.{name}" for name in names), *(f"sysvi.metrics.{name}" for name in sysvi.metrics.__all__)]
    listed = read_page(site / "api" / "index.html").anchors

    def is_described(name: str) -> bool:
        page = site / "api" / "generated" / f"{name}.html"
        return name in listed or (page.exists() and name in read_page(page).anchors)

    return [f"{name} has no page" for name in full if not is_described(name)]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Check the links, anchors and pages of a built site.")
    parser.add_argument("site", type=Path, help="folder of the site")
    parser.add_argument("--url", help="address of the site, if its pages refer to each other by it")
    parser.add_argument("--links-only", action="store_true", help="do not look for the public names of sysvi")
    arguments = parser.parse_args()
    found = find_faults(arguments.site, arguments.url)
    if not arguments.links_only:
        found += missing_names(arguments.site)
    checked = "links and anchors" if arguments.links_only else "links, anchors and public names"
    print("\n".join(found) or f"{arguments.site}: all {checked} are there, and nothing is loaded from elsewhere.")
    sys.exit(bool(found))
