"""Processor time that a browser takes for a report of many simulated cells, and the size of the page.

    python benchmarks/report_scale.py [--cells 100000]

The page is that of a short integration of few cells, in which the drawn cells are replaced by simulated ones: points of
a UMAP in ten clusters, and their columns. It is opened in Chromium without a graphics card (WebGL in software),
coloured by another column, a category is hidden, and cells are selected. Processor time is that of all processes of
Chromium.
Needs Chromium and playwright (make install). Writes benchmarks/results/report_scale.csv.
"""

import argparse
import os
import tempfile
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from common import RESULTS
from report_baron import open_browser

import sysvi
from sysvi.reporting.content import collect
from sysvi.reporting.document import load_libraries
from sysvi.reporting.page import render
from sysvi.reporting.shown_cells import Column


def main() -> None:
    """Make the page, open it, use it and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=100_000)
    page = make_page(parser.parse_args().cells)
    rows = [("size of the page, MB", len(page.encode()) / 1e6)]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "report.html"
        path.write_text(page, encoding="utf-8")
        rows += [(f"{name}, s of processor time", seconds) for name, seconds in use_page(path)]
    table = pd.DataFrame(rows, columns=["what", "value"])
    RESULTS.mkdir(exist_ok=True)
    table.to_csv(RESULTS / "report_scale.csv", index=False, float_format="%.2f")
    print(table.round(2).to_string(index=False))


def make_page(n_cells: int) -> str:
    """The page of a report that draws so many cells."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # few genes, short training
        cells = sysvi.datasets.simulate_systems(300, 150, n_types=4, n_private=1, seed=1)
        adata = sysvi.prepare(cells, "system", "batch", min_cells=3)
        sysvi.integrate(adata, "system", "batch", members=2, max_epochs=2, progress=False)
        content = collect(adata, "cell_type")
    rng = np.random.default_rng(0)
    cluster = rng.integers(10, size=n_cells)
    umaps = {
        name: (rng.normal(scale=8, size=(10, 2))[cluster] + rng.normal(size=(n_cells, 2))).astype(np.float32)
        for name in content.umaps
    }
    clusters = Column("cluster", cluster.astype(np.int32), tuple(f"cluster {i}" for i in range(10)))
    columns = [Column(c.name, rng.choice(c.values, n_cells), c.categories) for c in content.columns]
    return render(replace(content, n_cells=n_cells, umaps=umaps, columns=(*columns, clusters)), load_libraries())


def use_page(path: Path) -> list[tuple[str, float]]:
    """Open the page and work its controls: processor time of Chromium for each step, s."""
    before = set(chromium_processes())
    with open_browser() as browser:
        tab = browser.new_page(viewport={"width": 1280, "height": 900})
        tab.set_default_timeout(600_000)
        found, last = [], used_seconds(before)

        def measure(name: str) -> None:
            nonlocal last
            tab.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
            now = used_seconds(before)
            found.append((name, now - last))
            last = now

        tab.goto(path.as_uri())
        tab.wait_for_selector("html[data-ready]", state="attached")
        measure("opening")
        tab.locator("#colour-by").select_option(label="cluster")
        measure("colouring by another column")
        tab.locator("#legend button").first.click()
        measure("hiding a category")
        area = tab.locator("#umap-1 .nsewdrag")
        area.scroll_into_view_if_needed()
        box = area.bounding_box()
        tab.mouse.move(box["x"] + 5, box["y"] + 5)
        tab.mouse.down()
        for x, y in ((0.9, 0.05), (0.9, 0.9), (0.05, 0.9), (0.05, 0.05)):
            tab.mouse.move(box["x"] + x * box["width"], box["y"] + y * box["height"], steps=5)
        tab.mouse.up()
        tab.wait_for_function("document.getElementById('selection').textContent.includes('cells are selected.')")
        measure("selecting cells with a lasso")
    return found


def chromium_processes() -> list[int]:
    """Numbers of all processes of Chromium (Linux)."""
    names = {int(path.parent.name): path for path in Path("/proc").glob("[0-9]*/comm")}
    return [pid for pid, path in names.items() if _read(path).startswith(("chrom", "chrome"))]


def used_seconds(without: set[int]) -> float:
    """Processor time of the processes of Chromium except some, s."""
    ticks = 0
    for pid in set(chromium_processes()) - without:
        fields = _read(Path(f"/proc/{pid}/stat")).rpartition(")")[2].split()
        ticks += sum(map(int, fields[11:13]))
    return ticks / os.sysconf("SC_CLK_TCK")


def _read(path: Path) -> str:
    """The text of a file of a process, "0" for one that has ended."""
    try:
        return path.read_text()
    except OSError:
        return ") " + "0 " * 20


if __name__ == "__main__":
    main()
