"""Options that a visitor may choose."""

from typing import get_args

import pytest

from diffusionpose.app import options
from diffusionpose.app.options import FormatName, display_name, each_once, file_name, parse_options
from diffusionpose.errors import UsageError
from diffusionpose.exports import EXPORTS
from diffusionpose.formats import FORMATS


def test_the_page_offers_every_format():
    assert {*get_args(FormatName), "angles"} == {*FORMATS, *EXPORTS}


def test_options_become_those_of_the_command_line():
    wanted = parse_options(
        {"formats": "csv,trc", "height_m": "1.75", "angles": "true", "smooth": "butterworth", "fill_gaps": "5", "min_score": "0.3"}
    ).wanted()  # fmt: skip
    assert wanted.formats == ("json", "csv", "trc", "angles")
    assert wanted.export.height == 1.75
    assert wanted.fill_gaps == 5
    assert wanted.min_score == 0.3
    assert wanted.smoother.name == "butterworth:6"
    assert parse_options({}).wanted().formats == ("json",)


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ({"formats": "xml"}, "formats.0: "),
        ({"formats": ""}, "formats.0: "),
        ({"formats": "trc"}, "TRC is in metres: give the person's height"),
        ({"height_m": "nan"}, "height_m: "),
        ({"height_m": "9"}, "height_m: "),
        ({"fill_gaps": "-1"}, "fill_gaps: "),
        ({"min_score": "nan"}, "min_score: "),
        ({"fill_gaps": "9" * 5000}, "fill_gaps: "),
        ({"detect_every": "0"}, "detect_every: "),
        ({"smooth": "hard"}, "smooth: "),
        ({"model": "/etc/passwd"}, "model: "),
        ({"a\nb\x1b[1m": "1"}, "a b [1m: "),
    ],
)
def test_others_are_refused_in_one_line_that_names_them(query, message):
    with pytest.raises(UsageError) as error:
        parse_options(query)
    assert str(error.value).startswith(message)
    assert len(str(error.value)) <= 200
    assert str(error.value).isprintable()


def test_an_option_that_is_given_twice_is_refused():
    assert each_once([("formats", "csv"), ("angles", "true")]) == {
        "formats": "csv",
        "angles": "true",
    }
    with pytest.raises(UsageError, match="formats is given more than once: give it once"):
        each_once([("formats", "csv"), ("formats", "coco")])


def test_a_format_whose_package_is_missing_is_refused(monkeypatch):
    monkeypatch.setattr(options, "_is_installed", lambda name: name != "parquet")
    with pytest.raises(UsageError, match="parquet is not available"):
        parse_options({"formats": "parquet"})


@pytest.mark.parametrize(
    ("name", "displayed", "safe"),
    [
        ("walk.mp4", "walk.mp4", "walk.mp4"),
        ("../../etc/passwd", "passwd", "passwd"),
        ("C:\\films\\Été 1.mov", "Été 1.mov", "Été-1.mov"),
        ("a\u202egpm.4pm\n\x00", "a gpm.4pm", "a-gpm-4pm"),
        (".mp4", ".mp4", "mp4"),
        ("..", "..", "video"),
        ("", "video", "video"),
        ("x" * 500, "x" * 80, "x" * 80),
        (
            "S01.session2." + "x" * 99 + ".MP4",
            "S01.session2." + "x" * 63 + ".MP4",
            "S01-session2-" + "x" * 63 + ".MP4",
        ),
        ("x" * 75 + " y.mp4", "x" * 75 + ".mp4", "x" * 75 + ".mp4"),
        ("Trial 1.5 kmh", "Trial 1.5 kmh", "Trial-1-5-kmh"),
        ("Trial 1.5 kmh.mov", "Trial 1.5 kmh.mov", "Trial-1-5-kmh.mov"),
        ("CON.mp4", "CON.mp4", "CON-video.mp4"),
        ("Lpt1", "Lpt1", "Lpt1-video"),
        ("com¹.avi", "com¹.avi", "com¹-video.avi"),
        ("-nul.", "-nul.", "nul-video"),
        ("console.mp4", "console.mp4", "console.mp4"),
        ("jump.gif", "jump.gif", "jump.gif"),
        ("漢" * 70 + ".mp4", "漢" * 70 + ".mp4", "漢" * 40 + ".mp4"),
        ("a.b.c", "a.b.c", "a-b-c"),
        ("no suffix.<>", "no suffix.<>", "no-suffix"),
        ("<b>&.mp4", "<b>&.mp4", "b.mp4"),
    ],
)
def test_names_are_shown_safely(name, displayed, safe):
    assert display_name(name) == displayed
    assert file_name(name) == safe
