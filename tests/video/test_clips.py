"""Verdicts on all test clips: intact, unusual, damaged or hostile."""

from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest

from diffusionpose.video import open_video
from tests.video.helpers import CLIPS, read, refused

# Clip: (frames, status, codes, (width, height), rotation, frames declared)
READABLE = {
    "00_ok.mp4": (60, "ok", set(), (128, 96), 0, 60),
    "01_trunc_faststart.mp4": (35, "partial", {"TRUNCATED", "COUNT_MISMATCH"}, (128, 96), 0, 60),
    "06_vfr.mp4": (30, "ok", {"VFR"}, (128, 96), 0, 30),
    "07_rot90.mp4": (60, "ok", set(), (96, 128), 90, 60),
    "08_odd_127x95.mp4": (30, "ok", set(), (127, 95), 0, 30),
    "09_bitflips_pkts20-25.mp4": (60, "partial", {"DAMAGED"}, (128, 96), 0, 60),
    "11_dropped_pkts20-27.mkv": (52, "partial", {"PTS_GAP"}, (128, 96), 0, None),
    "13_trunc_60pct.ts": (37, "partial", {"TRUNCATED", "DAMAGED"}, (128, 96), 0, None),
    "22_edit_list_ss0.6.mp4": (45, "ok", set(), (128, 96), 0, 45),
    "25_avi_count_lie.avi": (
        43,
        "partial",
        {"TRUNCATED", "DAMAGED", "COUNT_MISMATCH"},
        (128, 96),
        0,
        500,
    ),
    "31_frag_trunc.mp4": (35, "partial", {"TRUNCATED"}, (128, 96), 0, None),
}

REFUSED = {
    "03_zero_bytes.mp4": "empty",
    "04_zero_frames.mp4": "no frames",
    "15_bomb_16000x16000.mov": "16000x16000 is over the limit",
    "16_audio_only.mp4": "no video stream",
    "17_text.mp4": "text, not a video",
    "23_unknown_codec.mp4": "no decoder",
    "27_hls_ssrf.m3u8": "playlist or script",
    "29_concat_local_file.ffconcat": "playlist or script",
    "36_trunc_in_first_frame.mp4": "no frames",
}


@pytest.mark.parametrize("name", READABLE)
def test_clip_gets_the_right_verdict(name: str) -> None:
    frames, status, codes, size, rotation, promised = READABLE[name]
    got = read(CLIPS / name)
    assert (len(got.ids), got.verdict.num_frames) == (frames, frames)
    assert (got.verdict.status, got.codes) == (status, codes)
    assert (got.info.width, got.info.height) == size
    assert (got.info.rotation, got.info.expected_frames) == (rotation, promised)
    assert got.times == sorted(set(got.times))


@pytest.mark.parametrize(("name", "match"), REFUSED.items())
def test_clip_is_refused(name: str, match: str) -> None:
    refused(CLIPS / name, match)


def test_every_clip_has_an_answer() -> None:
    assert {path.name for path in CLIPS.iterdir()} == {*READABLE, *REFUSED}


@pytest.mark.parametrize(
    ("name", "ids"),
    [
        ("00_ok.mp4", list(range(60))),
        ("01_trunc_faststart.mp4", list(range(35))),
        ("06_vfr.mp4", list(range(30))),
        ("08_odd_127x95.mp4", list(range(30))),
        ("11_dropped_pkts20-27.mkv", [*range(20), *range(28, 60)]),
        ("22_edit_list_ss0.6.mp4", list(range(15, 60))),
        ("25_avi_count_lie.avi", list(range(43))),
        ("31_frag_trunc.mp4", list(range(35))),
    ],
)
def test_frames_come_in_display_order(name: str, ids: list[int]) -> None:
    got = read(CLIPS / name).ids
    # Frames predicted from a missing one, or truncated, may show another barcode.
    spoiled = {"11_dropped_pkts20-27.mkv": {20, 21}, "25_avi_count_lie.avi": {42}}.get(name, set())
    assert [want for position, want in enumerate(ids) if position not in spoiled] == [
        value for position, value in enumerate(got) if position not in spoiled
    ]
    assert len(got) == len(ids)


def test_rotated_clip_shows_the_upright_picture() -> None:
    with open_video(CLIPS / "00_ok.mp4") as plain, open_video(CLIPS / "07_rot90.mp4") as turned:
        pairs = zip(plain, turned, strict=True)
        assert all((np.rot90(a.image) == b.image).all() for a, b in pairs)


def test_variable_times_are_the_files_own() -> None:
    times = read(CLIPS / "06_vfr.mp4").times
    steps = [later - earlier for earlier, later in pairwise(times)]
    milliseconds = [33, 33, 100, 17, 500]
    assert steps == [Fraction(milliseconds[i % 5], 1000) for i in range(29)]


def test_damage_reaches_to_the_next_key_frame() -> None:
    with (
        open_video(CLIPS / "00_ok.mp4") as whole,
        open_video(CLIPS / "09_bitflips_pkts20-25.mp4") as broken,
    ):
        differ = [a.index for a, b in zip(whole, broken, strict=True) if (a.image != b.image).any()]
        (issue,) = broken.verdict.issues
    assert differ == list(range(20, 30))
    assert issue.frame == 20
    assert "frames 20 to 29" in issue.message


def test_gap_is_located() -> None:
    (issue,) = read(CLIPS / "11_dropped_pkts20-27.mkv").verdict.issues
    assert (issue.code, issue.frame) == ("PTS_GAP", 19)
    assert "8 frames" in issue.message


def test_verdict_counts_and_duration() -> None:
    verdict = read(CLIPS / "00_ok.mp4").verdict
    assert (verdict.num_packets, verdict.num_frames) == (60, 60)
    assert verdict.duration == Fraction(12, 5)
    assert read(CLIPS / "01_trunc_faststart.mp4").verdict.num_packets == 36
