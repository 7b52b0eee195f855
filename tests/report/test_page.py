"""The report in headless Chromium: skeletons in sync with the video, and keyboard control."""

import shutil
import time
from dataclasses import replace
from fractions import Fraction

import pytest

from diffusionpose.poses import VideoPoses
from diffusionpose.report import make_report
from diffusionpose.report.page import ReportParts, report_html
from diffusionpose.structures import FramePoses
from diffusionpose.video import open_video
from tests.exports.test_exports import POSES
from tests.video.helpers import CLIPS

playwright = pytest.importorskip("playwright.sync_api")
CHROMIUM = (
    shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium"),
]

READ = """() => {
  const canvas = document.getElementById("original"), width = canvas.width;
  const row = canvas.getContext("2d").getImageData(0, Math.round(canvas.height / 24), width, 1).data;
  const bit = (k) => Number(row[4 * Math.floor((k + 0.5) * width / 16)] > 128);
  let index = 0, inverse = 0;
  for (let k = 0; k < 8; k++) { index += bit(k) << k; inverse += bit(k + 8) << k; }
  const told = Number(document.getElementById("clock").textContent.match(/frame (\\d+)/)[1]);
  return [told, (index ^ inverse) === 255 ? index : -1];
}"""
"""Reads the frame number displayed, that of the skeletons, and the one in the image, or -1."""


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser, tmp_path):
    """Open the report of a clip without people; errors on the page fail the test."""
    complaints = []

    def call(clip):
        with open_video(CLIPS / clip) as reader:
            header = replace(POSES.header, video=reader.info)
            frames = [FramePoses(frame.index, frame.time) for frame in reader]
        poses = VideoPoses.from_frames(header, frames, reader.verdict)
        make_report(poses, tmp_path / "a.html", reader.again())
        page = browser.new_page(viewport={"width": 1200, "height": 900})
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto((tmp_path / "a.html").as_uri())
        wait_until(page, "document.getElementById('source').readyState >= 2")
        return page

    yield call
    assert complaints == []


def wait_until(page, condition):
    """Poll a condition: Playwright's own wait needs `eval`, which the page's policy forbids."""
    end = time.monotonic() + 60
    while not page.evaluate(condition):
        assert time.monotonic() < end, condition
        page.wait_for_timeout(50)


def test_every_step_shows_the_frame_that_it_tells(open_page):
    page = open_page("06_vfr.mp4")
    for frame in range(30):
        wait_until(page, f"({READ})()[1] >= 0 && !document.getElementById('source').seeking")
        assert page.evaluate(READ) == [frame, frame]
        page.click("#forth")


def test_playing_shows_the_frame_that_it_tells(open_page):
    page = open_page("00_ok.mp4")
    pairs = page.evaluate(
        """() => new Promise((done) => {
          const read = READ, pairs = [], button = document.getElementById("play");
          const tick = () => {
            if (button.textContent === "Play") { done(pairs); return; }
            pairs.push(read());
            requestAnimationFrame(tick);
          };
          button.click();
          requestAnimationFrame(tick);
        })""".replace("READ", READ)
    )
    pairs = [pair for pair in pairs if pair[1] >= 0]
    assert len(pairs) > 60
    assert len({seen for _, seen in pairs}) > 30
    # A slow browser may show a frame before reporting it.
    assert sum(told != seen for told, seen in pairs) < 0.05 * len(pairs)


def test_keys_play_and_step_whatever_has_the_focus(open_page):
    page = open_page("00_ok.mp4")
    page.evaluate("document.getElementById('show-heat').parentElement.hidden = false")
    for name in ("#forth", "#play", "#overlay", "#show-heat"):
        page.focus(name)
        before = page.evaluate(READ)[0]
        for key in ("ArrowRight", "ArrowRight", "ArrowLeft"):
            page.keyboard.press(key)
        assert page.evaluate(READ)[0] == before + 1
        page.keyboard.press("Space")
        assert page.inner_text("#play") == "Pause", name
        page.keyboard.press("Space")
        assert page.inner_text("#play") == "Play", name
    assert not page.is_checked("#show-heat")
    page.keyboard.press("Enter")
    assert page.is_checked("#show-heat")
    before = page.evaluate(READ)[0]
    page.focus("#scrubber")
    page.keyboard.press("ArrowRight")
    assert page.evaluate(READ)[0] == before + 1, "its own step, and no other"
    page.focus("#speed")
    page.keyboard.press("ArrowRight")
    assert page.evaluate(READ)[0] == before + 1
    assert page.inner_text("#play") == "Play"


def test_what_was_played_to_its_end_plays_again(open_page):
    page = open_page("00_ok.mp4")
    for _ in range(2):
        page.click("#play")
        page.wait_for_timeout(500)
        assert 0 < page.evaluate(READ)[0] < 59
        wait_until(page, "document.getElementById('play').textContent === 'Play'")
        assert page.evaluate(READ)[0] == 59


def test_no_mark_of_a_chart_is_cut(browser, tmp_path):
    (tmp_path / "a.html").write_text(report_html(POSES, ReportParts()), "utf-8")
    page = browser.new_page()
    page.goto((tmp_path / "a.html").as_uri())
    inked = page.evaluate(
        """() => {
          const { width, height } = document.getElementById("plausible");
          const marks = document.getElementById("plausible").getContext("2d").getImageData(0, 0, 45, height).data;
          return Array.from({ length: height }, (_, y) => marks.subarray(180 * y, 180 * y + 180).some(Boolean));
        }"""
    )
    starts = [row for row in range(1, len(inked)) if inked[row] and not inked[row - 1]]
    assert len(starts) == 5
    assert not inked[0]
    assert not inked[-1]


def test_who_comes_later_is_drawn_then_and_only_then(browser, tmp_path):
    person = POSES[0].people[0]
    frames = [FramePoses(n, Fraction(n, 25), (person,) if n == 2 else ()) for n in range(4)]
    poses = VideoPoses.from_frames(POSES.header, frames, POSES.verdict)
    (tmp_path / "a.html").write_text(report_html(poses, ReportParts()), "utf-8")
    page = browser.new_page()
    page.goto((tmp_path / "a.html").as_uri())
    for frame in range(4):
        is_drawn = page.evaluate(
            """() => {
              const { width, height } = document.getElementById("overlay");
              const drawn = document.getElementById("overlay").getContext("2d").getImageData(0, 0, width, height).data;
              return new Set(new Uint32Array(drawn.buffer)).size > 8;  // edges of the backdrop have some
            }"""
        )
        assert is_drawn == (frame == 2), frame
        page.click("#forth")


def test_a_very_long_video_can_be_gone_through(browser, tmp_path):
    num_frames, person = 70_000, POSES[0].people[0]
    frames = [FramePoses(n, Fraction(n, 25), (person,)) for n in range(num_frames)]
    poses = VideoPoses.from_frames(POSES.header, frames, POSES.verdict)
    (tmp_path / "a.html").write_text(report_html(poses, ReportParts()), "utf-8")
    complaints, page = [], browser.new_page()
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto((tmp_path / "a.html").as_uri())
    page.click("#forth")
    assert page.inner_text("#clock").startswith(f"frame 1 of {num_frames - 1}")
    assert complaints == []
