"""Page of a comparison: safe against names, offline, with a chart for each known angle."""

import re
from dataclasses import replace
from xml.etree import ElementTree as ET

import numpy as np
import pytest

from diffusionpose import compare_page
from diffusionpose.compare import compare, movement_of
from diffusionpose.compare_page import compare_html
from tests.test_compare import HEADER, compared, poses_of, swing


def page_of(**options):
    poses = poses_of(swing(np.linspace(0, 1, 30)), missing=(5, 6), **options)
    return compare_html(compared(poses, poses))


def charts_of(page):
    """Return the SVGs by label; `ET` rejects malformed ones."""
    found = [ET.fromstring(text) for text in re.findall(r"<svg.*?</svg>", page, re.DOTALL)]
    return {svg.get("aria-label"): svg for svg in found}


def test_a_name_cannot_break_out_of_the_page():
    page = page_of(name='</title><script>alert(1)</script><img src=x onerror="a"> $title \udc80')
    assert "<script" not in page
    assert "<img" not in page
    assert page.count("&lt;script&gt;alert(1)") == 4
    assert "$title" in page


def test_the_page_asks_for_nothing_from_elsewhere():
    page = page_of()
    assert "default-src 'none'" in page
    assert not re.findall(r"https?://|url\(|@import|<script|<link|\bon\w+=", page)


def test_every_known_angle_has_a_chart_and_so_has_the_pace():
    charts = charts_of(page_of())
    assert len(charts) == 10
    elbow = charts["left elbow of A and of B"]
    lines = {path.get("class"): path.get("d") for path in elbow.iter() if path.get("class")}
    assert set(lines) == {"grid", "between", "worst", "one", "other"}
    numbers = np.array(re.findall(r"[ML](\S+) ([\d.]+)", lines["one"]), float)
    # 10 to 110 degrees, between the lines of 0 and 120.
    assert numbers[:, 1].max() == np.float64(f"{200 * (1 - 10 / 120):.1f}")
    assert numbers[:, 1].min() < 200 * (1 - 108 / 120)
    assert "nan" not in page_of()


def test_an_angle_that_nobody_shows_has_none():
    poses = poses_of([0, 10, 20])
    places = poses.keypoints.copy()
    places[:, HEADER.joints.index("left_wrist")] = np.nan
    movement = movement_of(replace(poses, keypoints=places))
    charts = charts_of(compare_html(compare(movement, movement)))
    assert len(charts) == 9
    assert "left elbow of A and of B" not in charts


def test_nothing_is_drawn_where_one_stands_still_over_a_gap():
    bends = swing(np.linspace(0, 1, 70))
    page = compare_html(compared(poses_of(bends), poses_of(bends, missing=range(20, 40))))
    assert "unknown from 0.80 s to 1.60 s" in page
    elbow = charts_of(page)["left elbow of A and of B"]
    lines = {path.get("class"): path.get("d") for path in elbow.iter() if path.get("class")}
    assert lines["one"].count("M") == 1
    assert lines["other"].count("M") == 2
    assert lines["between"].count("M") == 2


@pytest.mark.parametrize(
    ("times", "texts"),
    [
        ([0.5, 0.625, 0.75, 0.875, 1.0], ["0.50", "0.62", "0.75", "0.88", "1.00"]),
        ([0, 0.01, 0.02, 0.03, 0.04], ["0.000", "0.010", "0.020", "0.030", "0.040"]),
        ([0, 2, 4, 6, 8], ["0.0", "2.0", "4.0", "6.0", "8.0"]),
        ([3.04], ["3.0"]),
    ],
)
def test_times_have_the_decimals_that_tell_them_apart(times, texts):
    assert compare_page._seconds(np.array(times)) == texts


def test_a_long_video_makes_no_long_page(monkeypatch):
    monkeypatch.setattr(compare_page, "MOST_POINTS", 20)
    line = charts_of(page_of())["left elbow of A and of B"].find("path[@class='one']")
    assert len(re.findall("[ML]", line.get("d"))) == 20


def test_lines_break_where_nothing_is_known_and_where_the_trunk_goes_round():
    x, y = np.arange(6.0), np.array([1, 2, np.nan, 4, 5, 6])
    broken = np.array([False, False, False, False, True])
    drawn = compare_page._line(x, y, broken)
    assert drawn == "M0.0 1.0h0L1.0 2.0M3.0 4.0h0L4.0 5.0M5.0 6.0h0"
