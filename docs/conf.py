"""The site of sysVI: `make docs` builds it into build/docs, without a network and without warnings."""

import hashlib
import os
import sys
from datetime import UTC, datetime
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent
sys.path[:0] = [str(HERE / "_ext"), str(ROOT / "python")]

from sysvi import __version__  # noqa: E402

project = "sysVI"
author = "The sysVI founders"
copyright = f"{datetime.now(UTC):%Y}, {author}"
version = release = __version__
repository = "https://github.com/sysvi/sysvi"

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "scanpydoc.definition_list_typed_field",
    "sphinx_click",
    "sphinx_copybutton",
    "sphinx_design",
    "mathml",
    "repository_links",
]
exclude_patterns = ["_ext", "Thumbs.db", ".DS_Store"]
templates_path = ["_templates"]
default_role = "literal"

# -- pages in Markdown, and tutorials, which are run while the site is built

myst_enable_extensions = ["amsmath", "colon_fence", "deflist", "dollarmath", "fieldlist"]
myst_heading_anchors = 4
myst_url_schemes = ["http", "https", "mailto", "r-site"]


def code_digest() -> str:
    """A hash of the package's code: tutorials that were run with other code are run again."""
    digest = hashlib.sha256()
    for path in sorted((ROOT / "python" / "sysvi").rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


os.environ["PYTHONWARNINGS"] = "ignore:IProgress not found"  # of tqdm, in a notebook without widgets
nb_execution_mode = "cache"
nb_execution_cache_path = str(ROOT / "build" / "docs-cache" / code_digest())
nb_execution_raise_on_error = True
nb_execution_timeout = 600
nb_execution_show_tb = True
nb_merge_streams = True

# -- reference, from the docstrings

autosummary_generate = True
autosummary_imported_members = True
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented_params"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
napoleon_google_docstring = False
napoleon_use_rtype = False
napoleon_use_admonition_for_notes = False
napoleon_custom_sections = [("Warns", "params_style")]

copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

# -- links

repository_url = f"{repository}/blob/main"
# The R package's own site (pkgdown) lies in the folder r/ of the same website; Read the Docs has the Python site alone.
r_site = "https://sysvi.github.io/sysvi/r/" if "READTHEDOCS" in os.environ else "r/"
repository_pages = {
    "README.md": "index",
    "CHANGELOG.md": "changelog",
    "CONTRIBUTING.md": "contributing",
    "ARCHITECTURE.md": "architecture",
    "benchmarks/README.md": "measurements",
    "benchmarks/paper/README.md": "paper",
    "vignettes/seurat.Rmd": "r-site:articles/seurat.html",
    "vignettes/bioconductor.Rmd": "r-site:articles/bioconductor.html",
    "vignettes/choosing.Rmd": "r-site:articles/choosing.html",
    "vignettes/mapping.Rmd": "r-site:articles/mapping.html",
    "vignettes/beta-cells.Rmd": "r-site:articles/beta-cells.html",
    "NEWS.md": "r-site:news/index.html",
    "DESCRIPTION": "r-site:index.html",
}

# -- the theme

html_theme = "sphinx_book_theme"
html_title = "sysVI"
html_static_path = ["_static"]
html_favicon = "_static/icon.svg"
html_css_files = ["custom.css"]
html_show_sourcelink = False
html_copy_source = False
html_last_updated_fmt = None
html_context = {"default_mode": "auto"}  # dark or light, as the browser asks for
html_theme_options = {
    "repository_url": repository,
    "repository_branch": "main",
    "path_to_docs": "docs",
    "use_repository_button": True,
    "use_issues_button": True,
    "use_download_button": False,
    "home_page_in_toc": False,
    "show_navbar_depth": 1,
    "show_toc_level": 2,
}
