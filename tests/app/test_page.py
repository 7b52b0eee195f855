"""The page in headless Chromium, from upload to zip file, with simulated work."""

import os
import shutil
import subprocess
import sys
import time
import zipfile
from contextlib import contextmanager
from pathlib import Path

import pytest

pytest.importorskip("starlette")
playwright = pytest.importorskip("playwright.sync_api")

CHROMIUM = (
    shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
)
PATIENCE_MS = 600_000
DEMO = Path(__file__).parents[2] / "examples" / "demo.mp4"
SERVER = """
import sys
from diffusionpose.app.jobs import AppSettings
from diffusionpose.app.serve import serve
from tests.app import works
if __name__ == "__main__":
    settings = AppSettings(max_upload_mb=1, keep_minutes=float(sys.argv[1]))
    work = getattr(works, sys.argv[2])
    serve(settings, "127.0.0.1", 0, on_ready=lambda a: print(a, flush=True), work=work)
"""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium"),
]


@contextmanager
def serving(folder, keep_minutes=60, work="slow"):
    """Run a server in a separate process and yield its address."""
    script = folder / "serve.py"
    script.write_text(SERVER)
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(root), *sys.path])}
    command = [sys.executable, script, str(keep_minutes), work]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        try:
            yield process.stdout.readline().strip()
        finally:
            process.terminate()


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """Address of the server shared by most tests."""
    with serving(tmp_path_factory.mktemp("server")) as found:
        yield found


@contextmanager
def visiting(address):
    """Open the page in a new browser; also yield console messages, errors and foreign URLs."""
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox"], timeout=PATIENCE_MS
        )
        context = browser.new_context(viewport={"width": 390, "height": 844})
        context.set_default_timeout(PATIENCE_MS)
        page, complaints = context.new_page(), []
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on(
            "request",
            lambda request: complaints.extend(
                [] if request.url.startswith(address) else [request.url]
            ),
        )
        page.goto(address)
        playwright.expect(page.locator("#privacy")).to_contain_text("deleted", timeout=PATIENCE_MS)
        yield page, complaints
        browser.close()


@pytest.fixture
def page(address):
    """Open the page in a new browser; console messages and errors fail the test."""
    with visiting(address) as (page, complaints):
        yield page
    assert complaints == []


def wait_until(page, condition):
    """Poll a condition: Playwright's own wait needs `eval`, which the page's policy forbids."""
    end = time.monotonic() + PATIENCE_MS / 1000
    while not page.evaluate(condition):
        assert time.monotonic() < end, condition
        page.wait_for_timeout(100)


def begin(page):
    page.set_input_files("#file", DEMO)
    page.click("#go")
    playwright.expect(page.locator("#count")).to_contain_text(" of 40", timeout=PATIENCE_MS)


def test_upload_progress_reload_second_tab_result_and_download(page, tmp_path):
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.locator("#formats span", has_text="TRC").click()
    page.set_input_files("#file", DEMO)
    page.click("#go")
    assert "height" in page.inner_text("#start-problem")
    page.fill("#height", "1.7")
    begin(page)
    assert "#job=" in page.url
    page.reload()
    page.wait_for_selector("#work:not([hidden])")
    second = page.context.new_page()
    second.goto(page.url)
    for tab in (page, second):
        tab.wait_for_selector("#result:not([hidden])")
        assert tab.inner_text("#result-title") == "2 people found"
        assert tab.inner_text("#result-name") == "demo.mp4"
    wait_until(page, "document.getElementById('film').readyState >= 2")
    page.evaluate("document.getElementById('film').currentTime = 1")
    wait_until(page, "!document.getElementById('film').seeking")
    assert page.evaluate("document.getElementById('film').currentTime") == 1
    with page.expect_download() as download:
        page.click("#download")
    download.value.save_as(tmp_path / "got.zip")
    assert download.value.suggested_filename == "demo-poses.zip"
    assert zipfile.ZipFile(tmp_path / "got.zip").namelist() == ["demo.mp4", "demo.poses.json"]
    page.click("#delete")
    page.wait_for_selector("#start:not([hidden])")
    second.reload()
    second.wait_for_selector("#trouble:not([hidden])")
    assert "no such job" in second.inner_text("#trouble-text")
    second.close()


@pytest.mark.parametrize("key", ["Control", "Shift"])
def test_the_start_in_another_tab_leaves_the_video_to_this_one(page, key):
    begin(page)
    before = page.inner_text("#count")
    with page.context.expect_page() as other:
        page.click("#home", modifiers=[key])
    other.value.wait_for_selector("#start:not([hidden])")
    other.value.close()
    assert "#job=" in page.url
    playwright.expect(page.locator("#count")).not_to_have_text(before, timeout=PATIENCE_MS)
    page.click("#cancel")
    page.wait_for_selector("#trouble:not([hidden])")


def test_results_leave_the_page_when_their_time_is_over(tmp_path):
    with serving(tmp_path, 0.1, "quick") as address, visiting(address) as (page, complaints):
        page.set_input_files("#file", DEMO)
        page.click("#go")
        page.wait_for_selector("#result:not([hidden])")
        assert "in a minute" in page.inner_text("#expires")
        page.wait_for_selector("#trouble:not([hidden])")
        assert "no such job" in page.inner_text("#trouble-text")
        assert "#job=" not in page.url
        assert page.get_attribute("#film", "src") is None
    assert [told for told in complaints if "404" not in told] == []


def test_cancel_and_another_video(page):
    begin(page)
    page.click("#cancel")
    page.wait_for_selector("#trouble:not([hidden])")
    assert page.inner_text("#trouble-title") == "Cancelled"
    page.click("#trouble .again")
    page.wait_for_selector("#start:not([hidden])")
    assert page.is_disabled("#go")


@pytest.mark.parametrize(
    ("field", "typed", "message"),
    [
        ("height", "3e", "give the person’s height"),
        ("height", "9", "0.3 to 3"),
        ("min-score", "3e", "a number from 0 to 1"),
        ("min-score", "5", "a number from 0 to 1"),
        ("fill-gaps", "1.5", "0 to 250"),
        ("detect-every", "0", "1 to 30"),
    ],
)
def test_a_field_that_makes_no_sense_is_told_before_anything_is_sent(page, field, typed, message):
    if field == "height":
        page.locator("#formats span", has_text="TRC").click()
    else:
        page.click("summary")
    page.locator(f"#{field}").clear()
    page.locator(f"#{field}").press_sequentially(typed)
    page.set_input_files("#file", DEMO)
    page.click("#go")
    assert message in page.inner_text("#start-problem")
    assert page.evaluate("document.activeElement.id") == field


def test_any_number_of_decimals_may_be_typed(page):
    page.locator("#formats span", has_text="TRC").click()
    page.fill("#height", "1.755")
    page.click("summary")
    page.fill("#min-score", "0.333")
    with page.expect_request("**/api/jobs?**") as sent:
        begin(page)
    assert "height_m=1.755" in sent.value.url
    assert "min_score=0.333" in sent.value.url
    page.click("#cancel")
    page.wait_for_selector("#trouble:not([hidden])")


def test_a_video_that_is_too_large_is_told_before_it_is_sent(page, tmp_path):
    large = tmp_path / "large.mp4"
    large.write_bytes(bytes(1_500_000))
    page.set_input_files("#file", large)
    assert "1.5 MB" in page.inner_text("#start-problem")
    assert page.is_disabled("#go")
