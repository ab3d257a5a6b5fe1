"""Links of Markdown pages to other files of the repository, which work on GitHub, made to work on the site.

A page links to files as GitHub resolves them: relative to its own folder. On the site, a link to a file that has a page
(``repository_pages`` in conf.py) goes to this page, and a link to any other file outside of docs/ to GitHub. A file
that a page includes is treated in the same way, from its own folder.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx

LINK = re.compile(r"(\]\()([^()\s]+)(\))")
SCHEME = re.compile(r"[a-z-]+:")
R_SITE = "r-site:"


def rewrite_links(text: str, folder: str, page_folder: str, pages: Mapping[str, str], url: str) -> str:
    """Rewrite the relative links of a Markdown text.

    Parameters
    ----------
    text
        The Markdown text.
    folder
        Folder of the file that the text is from, relative to the root of the repository.
    page_folder
        Folder of the page that shows the text.
    pages
        For each file outside of docs/ that has a page: its name without ending, relative to docs/, or an address.
    url
        Address of the repository's files.
    """

    def rewrite(found: re.Match[str]) -> str:
        target, hash_sign, anchor = found[2].partition("#")
        if not target or SCHEME.match(target):
            return found[0]
        path = posixpath.normpath(posixpath.join(folder, target))
        page = pages.get(path)
        if page is not None and SCHEME.match(page):
            link = page
        elif page is not None:
            link = posixpath.relpath(f"docs/{page}.md", page_folder) + hash_sign + anchor
        elif path.startswith("docs/") or path.endswith(".png"):
            link = posixpath.relpath(path, page_folder) + hash_sign + anchor
        else:
            link = f"{url}/{path}{hash_sign}{anchor}"
        return found[1] + link + found[3]

    return LINK.sub(rewrite, text)


def setup(app: Sphinx) -> dict[str, Any]:
    """Rewrite the links of each page, and of each file that a page includes."""
    app.add_config_value("repository_pages", {}, "env")
    app.add_config_value("repository_url", "", "env")
    app.add_config_value("r_site", "", "env")
    app.connect("source-read", rewrite_page)
    app.connect("include-read", rewrite_included)
    app.connect("doctree-resolved", point_to_r_site)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def rewrite_page(app: Sphinx, docname: str, content: list[str]) -> None:
    """Rewrite the links of a page."""
    if app.env.doc2path(docname).suffix == ".md":
        folder = posixpath.join("docs", posixpath.dirname(docname))
        content[0] = rewrite_links(content[0], folder, folder, app.config.repository_pages, app.config.repository_url)


def rewrite_included(app: Sphinx, path: Path, docname: str, content: list[str]) -> None:
    """Rewrite the links of a file that a page includes."""
    root = Path(app.srcdir).parent
    folder = Path(app.srcdir, path).resolve().parent.relative_to(root).as_posix()
    page_folder = posixpath.normpath(posixpath.join("docs", posixpath.dirname(docname)))
    content[0] = rewrite_links(content[0], folder, page_folder, app.config.repository_pages, app.config.repository_url)


def point_to_r_site(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Make links to the R package's site relative to the page, or absolute where the site lies elsewhere."""
    for link in doctree.findall(nodes.reference):
        address = link.get("refuri", "")
        if address.startswith(R_SITE):
            target = app.config.r_site + address.removeprefix(R_SITE)
            page = posixpath.dirname(app.builder.get_target_uri(docname))
            link["refuri"] = target if SCHEME.match(target) else posixpath.relpath(target, page or ".")
