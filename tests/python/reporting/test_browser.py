"""The pages of reports in a browser: they draw, their controls work, they fit the screen, and ask for nothing.

Needs Chromium and the Python package playwright, which drives it; ``make install`` installs both. Without them, the
tests are skipped, and fail in CI.
"""

import os
import re
import shutil

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
SOFTWARE_WEBGL = ["--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--ignore-gpu-blocklist"]
LONG = 60_000  # milliseconds; a busy machine is slow to draw, and nothing here depends on how long it takes
BAD = "<script>alert('type')</script>"

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:.*:UserWarning")]


def lack(what):
    """Skip a test that cannot be made; in CI, that is an error."""
    message = f"There is no test in a browser, because {what} is not installed: run make install."
    if os.environ.get("CI") == "true":
        pytest.fail(message)
    pytest.skip(message)


@pytest.fixture(scope="module")
def browser():
    try:
        from playwright import sync_api as playwright
    except ImportError:
        lack("the Python package playwright")
    if CHROMIUM is None:
        lack("Chromium")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=SOFTWARE_WEBGL)
        yield browser
        browser.close()


@pytest.fixture
def visit(browser, request, tmp_path):
    """Function that opens a page, named by its fixture, in a window; what goes wrong there fails the test."""
    problems, contexts = [], []

    def open_page(width=1280, height=900, *, page="page", **options):
        path = tmp_path / f"{page}.html"
        path.write_text(request.getfixturevalue(page), encoding="utf-8")
        address = path.as_uri()
        context = browser.new_context(viewport={"width": width, "height": height}, **options)
        context.set_default_timeout(LONG)
        contexts.append(context)
        tab = context.new_page()
        tab.on("console", lambda message: problems.append(message.text) if message.type != "log" else None)
        tab.on("pageerror", lambda error: problems.append(str(error)))
        tab.on("dialog", lambda dialog: problems.append(f"dialog {dialog.message}"))
        tab.on(
            "request",
            lambda request: (
                None if re.match("data:|blob:", request.url) or request.url == address else problems.append(request.url)
            ),
        )
        tab.goto(address)
        return tab

    yield open_page
    for context in contexts:
        context.close()
    assert problems == []


def ready(tab):
    tab.wait_for_selector("html[data-ready]", state="attached")
    return tab


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [320, 1280, 3840])
def test_it_draws_and_fits(visit, width, scheme):
    tab = ready(visit(width, 900, color_scheme=scheme))
    assert tab.evaluate("document.documentElement.scrollWidth") == width
    for i in range(2):
        box = tab.locator(f"#umap-{i} canvas").first.bounding_box()
        assert 200 < box["width"] <= width
    assert tab.locator(".curves path.js-line").count() == 8  # two models, four terms
    assert not tab.locator(".static").first.is_visible()
    color = tab.evaluate("getComputedStyle(document.body).backgroundColor")
    assert color == ("rgb(255, 255, 255)" if scheme == "light" else "rgb(18, 22, 28)")
    assert tab.evaluate("document.getElementById('umap-0').layout.font.color") == (
        "#1b1f24" if scheme == "light" else "#e6edf3"
    )


def test_controls_work_by_keyboard(visit, content):
    tab = ready(visit())
    tab.locator("#colour-by").focus()
    tab.keyboard.type("cell_type")
    tab.keyboard.press("Enter")
    tab.wait_for_function("document.querySelectorAll('#legend button').length > 2")
    names = tab.locator("#legend button").all_inner_texts()
    assert BAD in names  # as text
    assert names[-1] == "missing" or "unknown" in names
    first = tab.locator("#legend button").first
    first.focus()
    tab.keyboard.press("Space")
    assert tab.locator("#legend button").first.get_attribute("aria-pressed") == "false"
    hidden = tab.evaluate("Array.from(document.getElementById('umap-1').data[0].x).filter(Number.isNaN).length")
    column = next(column for column in content.columns if column.name == "cell_type")
    assert hidden == (column.values == 0).sum() > 0
    tab.locator("#show-all").press("Enter")
    shown = tab.evaluate("Array.from(document.getElementById('umap-1').data[0].x).filter(Number.isFinite).length")
    assert shown == content.n_shown
    tab.locator("#colour-by").select_option(label="age")
    assert tab.locator("#legend button").count() == 0


def test_a_selection_is_seen_in_both_pictures(visit, content):
    tab = ready(visit())
    area = tab.locator("#umap-1 .nsewdrag")
    area.scroll_into_view_if_needed()
    box = area.bounding_box()
    corners = [(2, 2), (box["width"] - 3, 2), (box["width"] - 3, box["height"] - 3), (2, box["height"] - 3), (2, 3)]
    tab.mouse.move(box["x"] + 2, box["y"] + 2)
    tab.mouse.down()
    for x, y in corners:
        tab.mouse.move(box["x"] + x, box["y"] + y, steps=5)
    tab.mouse.up()
    tab.wait_for_function("document.getElementById('selection').textContent.includes('cells are selected. system')")
    counts = [tab.evaluate(f"document.getElementById('umap-{i}').data[0].selectedpoints.length") for i in range(2)]
    assert counts[0] == counts[1] > 0.9 * content.n_shown
    assert tab.locator("#selection").inner_text().startswith(f"{counts[0]} cells are selected. system: system")
    tab.locator("#clear").click()
    assert tab.locator("#selection").inner_text() == "No cells are selected."
    assert not tab.evaluate("document.getElementById('umap-0').data[0].selectedpoints")


def test_names_in_hover_texts_are_text(visit):
    tab = ready(visit())
    tab.locator("#colour-by").select_option(label="cell_type")
    texts = tab.evaluate("document.getElementById('umap-0').data[0].text")
    assert any("&lt;script&gt;alert('type')&lt;/script&gt;" in text for text in texts)
    assert not any("<script" in text for text in texts)


def test_no_button_sends_the_data_away(visit):
    tab = ready(visit())
    titles = [
        button.get_attribute("data-title") or button.get_attribute("aria-label") or ""
        for button in tab.locator(".modebar-btn").all()
    ]
    assert any("png" in title.lower() for title in titles)
    assert not any(re.search("cloud|studio|share|upload", title.lower()) for title in titles)


def test_pictures_stand_in_without_scripts_and_in_print(visit):
    tab = visit(java_script_enabled=False)
    for image in tab.locator(".static img").all():
        assert image.is_visible()
        assert image.bounding_box()["width"] > 300
    assert not tab.locator("#colour-by").is_visible()
    tab = ready(visit())
    tab.emulate_media(media="print")
    assert tab.locator(".static img").first.is_visible()
    assert not tab.locator("#umap-0").is_visible()
    assert not tab.locator("#legend").is_visible()


# -- tunings and comparisons -------------------------------------------------------------------------------------------

RUNS_PAGES = ["tuning_page", "comparison_page"]


@pytest.mark.parametrize("page", RUNS_PAGES)
@pytest.mark.parametrize(("width", "scheme"), [(320, "dark"), (1280, "light"), (3840, "dark")])
def test_a_page_of_runs_draws_and_fits(visit, page, width, scheme):
    tab = ready(visit(width, 900, page=page, color_scheme=scheme))
    assert tab.evaluate("document.documentElement.scrollWidth") == width
    box = tab.locator("#trade-off-plot svg").first.bounding_box()
    assert 200 < box["width"] <= width
    assert not tab.locator(".static").is_visible()
    assert tab.evaluate("document.getElementById('trade-off-plot').layout.font.color") == (
        "#1b1f24" if scheme == "light" else "#e6edf3"
    )


def test_axes_and_series_are_chosen_by_keyboard(visit, tuning):
    tab = ready(visit(page="tuning_page"))
    drawn = "document.getElementById('trade-off-plot').data"
    assert tab.evaluate("document.getElementById('trade-off-plot').layout.xaxis.title.text") == tuning.mixing
    tab.locator("#axis-x").focus()
    tab.keyboard.type("overall")
    tab.keyboard.press("Enter")
    tab.wait_for_function("document.getElementById('trade-off-plot').layout.xaxis.title.text === 'overall'")
    finished = tuning.runs["overall"].dropna()
    assert tab.evaluate(f"{drawn}[0].x") == pytest.approx(finished.tolist(), rel=1e-4)
    assert "overall" in tab.locator("#trade-off-plot").get_attribute("aria-label")
    tab.locator("#single-runs").press("Space")
    assert tab.evaluate(f"{drawn}.length") == 1  # the means
    tab.locator("#legend button").first.press("Space")
    assert tab.evaluate(f"{drawn}.length") == 0
    assert tab.locator("#legend button").first.get_attribute("aria-pressed") == "false"
    tab.locator("#show-all").press("Enter")
    assert tab.evaluate(f"{drawn}.length") == 1


@pytest.mark.parametrize("page", RUNS_PAGES)
def test_a_picture_stands_in_for_the_trade_off(visit, page):
    tab = visit(page=page, java_script_enabled=False)
    assert tab.locator(".static img").bounding_box()["width"] > 300
    assert not tab.locator("#axis-x").is_visible()
    tab = ready(visit(page=page))
    tab.emulate_media(media="print")
    assert tab.locator(".static img").is_visible()
    assert not tab.locator("#trade-off-plot").is_visible()
