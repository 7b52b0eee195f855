"""Broken videos: every loss is reported and located, and nothing else."""

import re
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from diffusionpose.errors import InputRefusedError
from diffusionpose.video import open_video
from tests.video.helpers import (
    CLIPS,
    HEIGHT,
    WIDTH,
    add_stream,
    barcode_frame,
    cut,
    flip_packet,
    make_video,
    read,
    refused,
    remux,
)


def test_steps_of_whole_milliseconds_are_even(tmp_path: Path) -> None:
    # 30 frames/s in Matroska: 33, 33, 34 ms.
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as output:
        stream = add_stream(output, "libx264", 30, (WIDTH, HEIGHT), {})
        for index in range(40):
            output.mux(stream.encode(av.VideoFrame.from_ndarray(barcode_frame(index))))
        output.mux(stream.encode(None))
    assert read(path).verdict.issues == ()


@pytest.mark.parametrize("share", [0.2, 0.35, 0.5, 0.65, 0.8, 0.95, 0.99])
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("a.mp4", {"movflags": "+faststart"}),
        ("b.mp4", {"movflags": "frag_keyframe+empty_moov"}),
        ("c.mkv", {}),
        ("d.ts", {}),
        ("e.webm", {}),
        ("f.avi", {}),
        ("g.gif", {}),
        ("h.ogv", {}),
        ("i.wmv", {}),
    ],
)
def test_cut_is_never_ok(name: str, options: dict[str, str], share: float, tmp_path: Path) -> None:
    codecs = {".avi": "mpeg4", ".webm": "libvpx", ".gif": "gif", ".ogv": "libvpx", ".wmv": "wmv2"}
    path = Path(name)
    whole = make_video(
        tmp_path / f"whole{path.suffix}",
        codecs.get(path.suffix, "libx264"),
        {".ogv": "ogg", ".wmv": "asf"}.get(path.suffix),
        pixel_format="rgb8" if path.suffix == ".gif" else "yuv420p",
        container_options=options,
    )
    try:
        got = read(cut(whole, tmp_path / name, share))
    except InputRefusedError:
        assert share <= 0.35
        return
    assert got.verdict.status == "partial"
    assert "TRUNCATED" in got.codes
    # Only frames being decoded at the cut may be damaged.
    assert got.ids[:-3] == list(range(len(got.ids) - 3))


def test_cut_without_index_is_refused(tmp_path: Path) -> None:
    refused(cut(CLIPS / "00_ok.mp4", tmp_path / "a.mp4", 0.9), "header cannot be read")


@pytest.mark.parametrize("dropped", [range(5, 7), range(26, 34), range(44, 48)])
@pytest.mark.parametrize("suffix", [".mkv", ".ts"])
def test_dropped_packets_leave_a_gap(dropped: range, suffix: str, tmp_path: Path) -> None:
    whole = make_video(tmp_path / "whole.mp4", bf="0")
    got = read(remux(whole, tmp_path / f"a{suffix}", lambda number: number not in dropped))
    gaps = [issue for issue in got.verdict.issues if issue.code == "PTS_GAP"]
    assert got.verdict.status == "partial"
    assert [issue.frame for issue in gaps] == [dropped.start - 1]
    assert f"about {len(dropped)} frames" in gaps[0].message


def test_one_missing_frame_is_told_in_the_singular(tmp_path: Path) -> None:
    got = read(
        remux(make_video(tmp_path / "whole.mp4", bf="0"), tmp_path / "a.mkv", lambda n: n != 5)
    )
    (gap,) = [issue for issue in got.verdict.issues if issue.code == "PTS_GAP"]
    assert "about 1 frame is missing after frame 4" in gap.message


def test_missing_first_key_frame_is_damage(tmp_path: Path) -> None:
    whole = make_video(tmp_path / "whole.mp4", "mpeg4")
    got = read(remux(whole, tmp_path / "a.mkv", lambda number: number > 0))
    damage = [issue for issue in got.verdict.issues if issue.code == "DAMAGED"]
    assert [issue.frame for issue in damage] == [0]
    assert "frames 0 to 10" in damage[0].message


def test_pause_in_mp4_is_no_loss(tmp_path: Path) -> None:
    # MP4 stores the duration of each frame, so the pause is intended.
    got = read(make_video(tmp_path / "a.mp4", pts=[*range(30), *range(36, 66)], bf="0"))
    assert (got.verdict.status, got.codes) == ("ok", {"PTS_GAP"})


@pytest.mark.parametrize("suffix", [".mkv", ".mp4"])
def test_uneven_times_are_no_gaps(suffix: str, tmp_path: Path) -> None:
    pts = np.cumsum(np.resize([1, 2, 1, 5, 3], 40)).tolist()
    got = read(make_video(tmp_path / f"a{suffix}", pts=pts))
    assert (got.verdict.status, got.codes) == ("ok", {"VFR"})
    assert got.times[-1] - got.times[0] == Fraction(pts[-1] - pts[0], 25)


@pytest.mark.parametrize("packet", [3, 20, 40])
def test_flipped_bytes_are_damage(packet: int, tmp_path: Path) -> None:
    whole = make_video(tmp_path / "whole.mp4", bf="0")
    got = read(flip_packet(whole, tmp_path / "a.mp4", packet))
    first = min(i.frame for i in got.verdict.issues if i.code == "DAMAGED" and i.frame is not None)
    assert got.verdict.status == "partial"
    assert first == packet


@pytest.mark.parametrize("packet", [14, 17, 21, 25, 29])
def test_damage_log_holds_every_changed_picture(packet: int, tmp_path: Path) -> None:
    # Open groups of pictures: frames shown before a key frame but decoded after it are
    # predicted from the previous group.
    options: dict[str, Any] = {"x264-params": "open-gop=1:keyint=12:scenecut=0", "bf": "3"}
    whole = make_video(tmp_path / "whole.mp4", **options)
    path = flip_packet(whole, tmp_path / "a.mp4", packet)
    with open_video(whole) as given, open_video(path) as broken:
        changed = {
            a.index for a, b in zip(given, broken, strict=True) if (a.image != b.image).any()
        }
        runs = [re.findall(r"\d+", issue.message.split(" (")[0]) for issue in broken.verdict.issues]
    told = {index for run in runs for index in range(int(run[0]), int(run[-1]) + 1)}
    assert changed
    assert changed <= told
