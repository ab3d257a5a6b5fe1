"""The report of Baron's islets (human and mouse) as a picture, docs/report-baron.png.

    python benchmarks/report_baron.py                integrates with the defaults, and photographs the report
    python benchmarks/report_baron.py --members 2    with fewer models, for a quick look

Needs SYSVI_DATA, and Chromium with playwright (make install). The integrated cells and the report are kept in
benchmarks/.cache as report_baron_<members>.h5ad and .html, and reused.
"""

import argparse
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anndata
import data
from common import CACHE

import sysvi

PICTURE = Path(__file__).parents[1] / "docs" / "report-baron.png"
WIDTH, HEIGHT = 1280, 1700  # findings and cells


def main() -> None:
    """Integrate, write the report and take the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--members", type=int, default=8)
    members = parser.parse_args().members
    integrated, report = (CACHE / f"report_baron_{members}.{kind}" for kind in ("h5ad", "html"))
    if not integrated.exists():
        adata = anndata.read_h5ad(data.baron())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the report tells them
            sysvi.integrate(adata, "system", "batch", members=members)
        adata.write_h5ad(integrated)
    if not report.exists():
        sysvi.report(anndata.read_h5ad(integrated), report, "cell_type")
    photograph(report)
    print(f"Wrote {PICTURE}")


@contextmanager
def open_browser() -> Iterator[Any]:
    """Chromium with WebGL in software, driven by playwright."""
    from playwright.sync_api import sync_playwright

    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))))
    webgl = ["--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--ignore-gpu-blocklist"]
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=webgl)
        yield browser
        browser.close()


def photograph(page: Path) -> None:
    """Save the top of a report as it looks in Chromium."""
    with open_browser() as browser:
        tab = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT})
        tab.set_default_timeout(600_000)
        tab.goto(page.as_uri())
        tab.wait_for_selector("html[data-ready]", state="attached")
        tab.locator("#colour-by").select_option(label="cell_type")
        tab.screenshot(path=PICTURE)


if __name__ == "__main__":
    main()
