"""Upright frames of one size, at the file's own times."""

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from av.video.stream import VideoStream

from diffusionpose.video import open_video
from tests.video.helpers import CLIPS, make_video, read


@pytest.mark.parametrize("turns", [0, 1, 2, 3])
@pytest.mark.parametrize("mirror", [False, True])
def test_display_matrix_is_applied(turns: int, mirror: bool, tmp_path: Path) -> None:
    def turn(stream: VideoStream) -> None:
        stream.set_display_rotation(90 * turns, hflip=mirror)

    with open_video(make_video(tmp_path / "plain.mp4", pts=[0])) as reader:
        stored = next(iter(reader)).image
    with open_video(make_video(tmp_path / "turned.mp4", pts=[0], prepare=turn)) as reader:
        shown = next(iter(reader)).image
    want = np.rot90(stored, turns)
    assert (shown == (want[:, ::-1] if mirror else want)).all()


@pytest.mark.parametrize(
    ("ratio", "turns", "told"),
    [
        (Fraction(4, 3), 0, "(4:3) and used as stored: people look narrower"),
        (Fraction(4, 3), 1, "(3:4) and used as stored: people look wider"),
        (Fraction(160, 159), 0, None),
        (Fraction(1), 0, None),
    ],
)
def test_pixels_that_are_not_square_are_told(
    ratio: Fraction, turns: int, told: str | None, tmp_path: Path
) -> None:
    def stretch(stream: VideoStream) -> None:
        stream.codec_context.sample_aspect_ratio = ratio
        stream.set_display_rotation(90 * turns)

    got = read(make_video(tmp_path / "a.mp4", pts=[0, 1], prepare=stretch))
    assert got.verdict.status == "ok"
    assert got.codes == ({"PIXELS_NOT_SQUARE"} if told else set())
    assert all(told is not None and told in issue.message for issue in got.verdict.issues)


def test_size_change_is_told_and_scaled(tmp_path: Path) -> None:
    small, large = (
        make_video(tmp_path / f"{width}.ts", size=(width, 96), bf="0") for width in (128, 256)
    )
    (tmp_path / "a.ts").write_bytes(small.read_bytes() + large.read_bytes())
    got = read(tmp_path / "a.ts")
    assert (got.info.width, got.info.height) == (128, 96)
    assert {"SIZE_CHANGED", "TIMES_REBUILT"} <= got.codes
    assert len(got.ids) == 120


@pytest.mark.parametrize(("name", "rate"), [("00_ok.mp4", 25), ("06_vfr.mp4", None)])
def test_a_rate_is_steady_where_pictures_do_not_pause(name: str, rate: int | None) -> None:
    with open_video(CLIPS / name) as reader:
        assert reader.info.average_rate is not None
        assert reader.steady_rate == rate


def test_gif_times(tmp_path: Path) -> None:
    got = read(make_video(tmp_path / "a.gif", "gif", pixel_format="rgb8", pts=[0, 5, 10, 40]))
    assert got.times == [Fraction(n, 25) for n in (0, 5, 10, 40)]
    assert got.verdict.status == "ok"
