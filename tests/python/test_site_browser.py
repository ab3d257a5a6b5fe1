"""The built site in Chromium: pages open without errors, and the search finds pages."""

import shutil
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

SITE = Path(__file__).resolve().parents[2] / "build" / "docs"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

sync_api = pytest.importorskip("playwright.sync_api", reason="needs `pip install playwright`")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium"),
    pytest.mark.skipif(not (SITE / "index.html").exists(), reason="needs `make docs`"),
]


class Handler(SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        """Serve without a word."""


@contextmanager
def served(folder):
    """Address of a folder on this machine: the search loads pages, which browsers refuse for files."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=folder)) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(scope="module")
def address():
    with served(SITE) as address:
        yield address


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(params=[1280, 390], ids=lambda width: f"{width} px")
def page(browser, address, request):
    page = browser.new_page(viewport={"width": request.param, "height": 900})
    page.set_default_timeout(600_000)
    errors, requests = [], []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.on("request", lambda sent: requests.append(sent.url))
    yield page
    page.close()
    assert not errors
    assert all(url.startswith((address, "data:", "blob:")) for url in requests)


@pytest.mark.parametrize(
    "name",
    ["index", "installation", "tutorials/first-integration", "api/generated/sysvi.integrate", "how-it-works", "cli"],
)
def test_a_page_opens_and_fits_the_width(page, address, name):
    page.goto(f"{address}/{name}.html")
    assert page.locator("h1").first.inner_text()
    assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")


@pytest.mark.parametrize(
    ("words", "found"), [("orthologues", "tutorials/species"), ("sysvi.integrate", "sysvi.integrate")]
)
def test_the_search_finds(page, address, words, found):
    page.goto(f"{address}/search.html?q={words}")
    page.wait_for_selector(f"#search-results a[href*='{found}']")
