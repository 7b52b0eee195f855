"""What a reader must say about whole, odd, damaged and hostile videos, and what a writer must keep.

The clips are synthetic: the top row of every frame is a barcode (8 bits index, 8 bits its inverse,
the lowest bit first), so a test can tell which frame it got. Further broken files are made here
from whole ones.
"""

import json
import os
import re
import shutil
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import av
import cv2
import numpy as np
import pytest
from av.container import OutputContainer
from av.video.stream import VideoStream

from diffusionpose.errors import InputRefusedError, UsageError
from diffusionpose.structures import Frame, VideoInfo, VideoVerdict
from diffusionpose.video import VideoWriter, open_video

CLIPS = Path(__file__).parent / "clips"
WIDTH, HEIGHT, NUM_BITS = 128, 96, 16
ODD_NAME = "кадр 漢字 🎥 'q'%03d.mp4"


# --- Helpers: the barcode, reading a whole video, making videos -----------------------------------


def barcode_id(image: np.ndarray) -> int:
    """Index that the top row of an upright frame says, -1 where the two halves contradict."""
    centres = ((np.arange(NUM_BITS) + 0.5) * (image.shape[1] // NUM_BITS)).astype(int)
    bits = [int(image[2:6, x - 1 : x + 2].mean() > 128) for x in centres]
    index, inverse = (sum(bit << k for k, bit in enumerate(half)) for half in (bits[:8], bits[8:]))
    return index if index ^ inverse == 255 else -1


def barcode_frame(index: int, width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    """A moving texture below the barcode of `index`, (height, width, 3) uint8."""
    noise = np.random.default_rng(0).integers(60, 160, (height // 8, width // 8, 3), np.uint8)
    image = np.roll(noise.repeat(8, 0).repeat(8, 1), 3 * index, 1)
    bits = [index >> k & 1 for k in range(8)]
    for k, bit in enumerate(bits + [1 - b for b in bits]):
        image[:8, k * width // NUM_BITS : (k + 1) * width // NUM_BITS] = 235 if bit else 16
    return image


@dataclass
class Reading:
    """All that one pass over a video gave."""

    info: VideoInfo
    verdict: VideoVerdict
    ids: list[int]
    times: list[Fraction]

    @property
    def codes(self) -> set[str]:
        return {issue.code for issue in self.verdict.issues}


def read(path: Path | str, **options: Any) -> Reading:
    ids, times = [], []
    with open_video(path, **options) as reader:
        for index, frame in enumerate(reader):
            assert frame.index == index
            assert frame.image.shape == (reader.info.height, reader.info.width, 3)
            assert frame.image.dtype == np.uint8
            ids.append(barcode_id(frame.image))
            times.append(frame.time)
        return Reading(reader.info, reader.verdict, ids, times)


def add_stream(
    output: OutputContainer, codec: str, rate: int, size: tuple[int, int], options: dict[str, str]
) -> VideoStream:
    stream = cast("VideoStream", output.add_stream(codec, rate=rate, options=options))
    stream.width, stream.height = size
    stream.codec_context.gop_size = 12
    return stream


def make_video(
    path: Path,
    codec: str = "libx264",
    container: str | None = None,
    *,
    pts: list[int] | None = None,
    pixel_format: str = "yuv420p",
    size: tuple[int, int] = (WIDTH, HEIGHT),
    container_options: dict[str, str] | None = None,
    prepare: Callable[[VideoStream], None] | None = None,
    **options: str,
) -> Path:
    """60 barcode frames at 25 frames/s, or one for every value of `pts` (in 1/25 s)."""
    if codec not in av.codecs_available:
        pytest.skip(f"PyAV was built without {codec}")
    with av.open(str(path), "w", format=container, options=container_options or {}) as output:
        stream = add_stream(output, codec, 25, size, options)
        stream.pix_fmt = pixel_format
        if prepare:
            prepare(stream)
        for index, time_stamp in enumerate(range(60) if pts is None else pts):
            picture = av.VideoFrame.from_ndarray(barcode_frame(index, *size), format="rgb24")
            picture = picture.reformat(format=pixel_format)
            picture.pts, picture.time_base = time_stamp, Fraction(1, 25)
            output.mux(stream.encode(picture))
        output.mux(stream.encode(None))
    return path


def remux(source: Path, target: Path, keep: Callable[[int], bool]) -> Path:
    """Copies the video packets whose number in decoding order is kept."""
    with av.open(str(source)) as given, av.open(str(target), "w") as output:
        stream = output.add_stream_from_template(given.streams.video[0])
        packets = (packet for packet in given.demux(video=0) if packet.size)
        for number, packet in enumerate(packets):
            if keep(number):
                packet.stream = stream
                output.mux(packet)
    return target


def cut(source: Path, target: Path, share: float) -> Path:
    data = source.read_bytes()
    # An odd number of bytes: a transport stream cut between two packets looks whole.
    target.write_bytes(data[: int(len(data) * share) | 1])
    return target


def refused(path: Path | str, match: str, **options: Any) -> None:
    """The source is refused within a second, in one line that names the cause."""
    start = time.monotonic()
    with pytest.raises(InputRefusedError, match=match) as caught:
        open_video(path, **options)
    assert time.monotonic() - start < 1
    assert "\n" not in str(caught.value)


# --- The given clips ------------------------------------------------------------------------------

# Clip: (frames, status, codes, (width, height), rotation, frames promised)
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
    # What was predicted from a missing picture, or cut, may show another barcode.
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


def test_odd_name_is_a_name(tmp_path: Path) -> None:
    path = shutil.copy(CLIPS / "00_ok.mp4", tmp_path / ODD_NAME)
    got = read(path)
    assert (got.info.name, got.ids, got.verdict.status) == (ODD_NAME, list(range(60)), "ok")


def test_verdict_needs_the_whole_video() -> None:
    with open_video(CLIPS / "00_ok.mp4") as reader:
        next(iter(reader))
        with pytest.raises(RuntimeError, match="after the last frame"):
            _ = reader.verdict
        with pytest.raises(RuntimeError, match="read once"):
            iter(reader)


# --- Hostile sources ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "match"),
    [
        ("http://127.0.0.1:9/a.mp4", "not opened"),
        ("rtsp://127.0.0.1:9/a", "not opened"),
        ("pipe:0", "not opened"),
        ("concat:a.mp4|b.mp4", "not opened"),
        ("subfile:,,start,0,end,9,,:a.mp4", "not opened"),
        ("data:video/mp4;base64,AAAA", "not opened"),
        ("file:a.mp4", "not opened"),
        ("s%03d.png", "patterns are not expanded"),
        ("*.png", "patterns are not expanded"),
        ("missing.mp4", "no such file"),
        ("", "empty or holds a NUL"),
        ("a\0b.mp4", "empty or holds a NUL"),
        ("x" * 5000, "cannot be opened"),
        ("/dev/zero", "pipe, device"),
    ],
)
def test_hostile_name_is_refused(
    source: str, match: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Files that a protocol or pattern would find here must not be found.
    monkeypatch.chdir(tmp_path)
    for name in ("a.mp4", "b.mp4"):
        shutil.copy(CLIPS / "00_ok.mp4", name)
    cv2.imwrite("s001.png", barcode_frame(1))
    refused(source, match)


def test_a_file_may_be_called_like_a_protocol(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(CLIPS / "00_ok.mp4", "concat:a|b")
    assert read("concat:a|b").ids == list(range(60))


def test_fifo_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.mp4")
    refused(tmp_path / "a.mp4", "pipe, device")


def test_link_to_a_device_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").symlink_to("/dev/zero")
    refused(tmp_path / "a.mp4", "pipe, device")


def test_folder_without_images_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("none here")
    refused(tmp_path, "folder without images")


@pytest.fixture
def listener() -> Iterator[list[tuple[str, int]]]:
    """Listens where the playlist clip points to; collects who connects."""
    with socket.create_server(("127.0.0.1", 18765), reuse_port=True) as server:
        server.settimeout(0.05)
        callers: list[tuple[str, int]] = []
        done = threading.Event()

        def serve() -> None:
            while not done.is_set():
                try:
                    connection, caller = server.accept()
                except TimeoutError:
                    continue
                callers.append(caller)
                connection.close()

        thread = threading.Thread(target=serve)
        thread.start()
        yield callers
        time.sleep(0.1)
        done.set()
        thread.join()
        assert callers == []


@pytest.mark.parametrize("name", ["a.m3u8", "a.mp4", "a.ts"])
def test_playlist_opens_no_connection(
    name: str, tmp_path: Path, listener: list[tuple[str, int]]
) -> None:
    path = shutil.copy(CLIPS / "27_hls_ssrf.m3u8", tmp_path / name)
    refused(path, "playlist or script")
    assert listener == []


@pytest.mark.parametrize(
    "text",
    [
        (CLIPS / "29_concat_local_file.ffconcat").read_text(),
        "\ufeffffconcat version 1.0\nfile 00_ok.mp4\n",
        "<?xml version='1.0'?><MPD><Period><BaseURL>00_ok.mp4</BaseURL></Period></MPD>",
        "v=0\no=- 0 0 IN IP4 127.0.0.1\nm=video 5004 RTP/AVP 96\n",
    ],
)
def test_script_opens_no_other_file(text: str, tmp_path: Path) -> None:
    # A pipe without a writer: who opens it hangs, and the time limit of `refused` shows it.
    os.mkfifo(tmp_path / "00_ok.mp4")
    (tmp_path / "a.mp4").write_text(text, encoding="utf-8")
    refused(tmp_path / "a.mp4", "playlist or script")


PROBE = """
import json, sys, time
from diffusionpose.video import open_video
start, answer = time.monotonic(), "opened"
try:
    open_video(sys.argv[1])
except Exception as error:
    answer = f"{type(error).__name__}: {error}"
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
json.dump([answer, time.monotonic() - start, int(status["VmHWM"].split()[0]) / 1024], sys.stdout)
"""


def lying_bomb(folder: Path) -> Path:
    """The bomb with a small size in its container's header; only the PNG itself says the truth."""
    data = bytearray((CLIPS / "15_bomb_16000x16000.mov").read_bytes())
    entry = data.find(b"png ", data.find(b"stsd"))
    data[entry + 28 : entry + 32] = struct.pack(">HH", WIDTH, HEIGHT)
    (folder / "lie.mov").write_bytes(data)
    return folder / "lie.mov"


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="measures memory by /proc")
@pytest.mark.parametrize("lies", [False, True])
def test_bomb_is_refused_before_decoding(lies: bool, tmp_path: Path) -> None:
    path = lying_bomb(tmp_path) if lies else CLIPS / "15_bomb_16000x16000.mov"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-c", PROBE, str(path)]
    run = subprocess.run(command, env=environment, capture_output=True, check=True, timeout=60)
    answer, seconds, megabytes = json.loads(run.stdout)
    assert answer.startswith("InputRefusedError")
    assert seconds < 2
    # Half of what the bomb takes where only probing decodes it.
    assert megabytes < 140


def test_pixel_limit_is_the_callers() -> None:
    refused(CLIPS / "00_ok.mp4", "over the limit of 12287", max_pixels=WIDTH * HEIGHT - 1)
    read(CLIPS / "00_ok.mp4", max_pixels=WIDTH * HEIGHT)


# --- Whole videos of many kinds -------------------------------------------------------------------

KINDS = {
    "h264.mp4": ("libx264", None, "yuv420p", {}),
    "h264.mkv": ("libx264", None, "yuv420p", {}),
    "h264.ts": ("libx264", None, "yuv420p", {}),
    "h264.flv": ("libx264", None, "yuv420p", {}),
    "h264.avi": ("libx264", None, "yuv420p", {}),
    "hevc.mp4": ("libx265", None, "yuv420p10le", {"x265-params": "log-level=none"}),
    "vp9.webm": ("libvpx-vp9", None, "yuv420p", {"cpu-used": "8", "lag-in-frames": "16"}),
    "vp8.webm": ("libvpx", None, "yuv420p", {"auto-alt-ref": "1", "lag-in-frames": "16"}),
    "vp8.ogv": ("libvpx", "ogg", "yuv420p", {}),
    "mpeg4.avi": ("mpeg4", None, "yuv420p", {"bf": "2"}),
    "mjpeg.avi": ("mjpeg", None, "yuvj420p", {}),
    "mpeg1.mpg": ("mpeg1video", "mpeg", "yuv420p", {}),
    "mpeg2.mpg": ("mpeg2video", "vob", "yuv420p", {"bf": "2"}),
    "mpeg2.ts": ("mpeg2video", "mpegts", "yuv420p", {"bf": "2"}),
    "wmv2.wmv": ("wmv2", "asf", "yuv420p", {}),
    "prores.mov": ("prores_ks", None, "yuv422p10le", {}),
    "png.mov": ("png", None, "rgb24", {}),
    "rgb.gif": ("gif", None, "rgb8", {}),
}


@pytest.mark.parametrize("name", KINDS)
def test_whole_video_is_ok(name: str, tmp_path: Path) -> None:
    codec, container, pixel_format, options = KINDS[name]
    path = make_video(tmp_path / name, codec, container, pixel_format=pixel_format, **options)
    got = read(path)
    assert got.verdict.issues == ()
    assert got.ids == list(range(60))
    assert {later - earlier for earlier, later in pairwise(got.times)} == {Fraction(1, 25)}


def test_transport_stream_with_time_stamps_is_ok(tmp_path: Path) -> None:
    path = make_video(tmp_path / "a.m2ts", container_options={"mpegts_m2ts_mode": "1"})
    got = read(path)
    assert (got.verdict.status, got.ids) == ("ok", list(range(60)))


def test_steps_of_whole_milliseconds_are_even(tmp_path: Path) -> None:
    # 30 frames/s in Matroska: 33, 33, 34 ms.
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as output:
        stream = add_stream(output, "libx264", 30, (WIDTH, HEIGHT), {})
        for index in range(40):
            output.mux(stream.encode(av.VideoFrame.from_ndarray(barcode_frame(index))))
        output.mux(stream.encode(None))
    assert read(path).verdict.issues == ()


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


# --- Broken at test time --------------------------------------------------------------------------


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
    # Only what was being decoded at the cut may be spoiled.
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


def test_missing_first_key_frame_is_damage(tmp_path: Path) -> None:
    whole = make_video(tmp_path / "whole.mp4", "mpeg4")
    got = read(remux(whole, tmp_path / "a.mkv", lambda number: number > 0))
    damage = [issue for issue in got.verdict.issues if issue.code == "DAMAGED"]
    assert [issue.frame for issue in damage] == [0]
    assert "frames 0 to 10" in damage[0].message


def test_pause_in_mp4_is_no_loss(tmp_path: Path) -> None:
    # MP4 stores how long each picture is shown, so the pause is the author's.
    got = read(make_video(tmp_path / "a.mp4", pts=[*range(30), *range(36, 66)], bf="0"))
    assert (got.verdict.status, got.codes) == ("ok", {"PTS_GAP"})


@pytest.mark.parametrize("suffix", [".mkv", ".mp4"])
def test_uneven_times_are_no_gaps(suffix: str, tmp_path: Path) -> None:
    pts = np.cumsum(np.resize([1, 2, 1, 5, 3], 40)).tolist()
    got = read(make_video(tmp_path / f"a{suffix}", pts=pts))
    assert (got.verdict.status, got.codes) == ("ok", {"VFR"})
    assert got.times[-1] - got.times[0] == Fraction(pts[-1] - pts[0], 25)


def flip_packet(source: Path, target: Path, number: int) -> Path:
    """Flips bits of all but the first 40 bytes of a packet, counted in decoding order."""
    with av.open(str(source)) as container:
        chosen = [packet for packet in container.demux(video=0) if packet.size][number]
        assert chosen.pos is not None
        start, end = chosen.pos + 40, chosen.pos + chosen.size
    data = bytearray(source.read_bytes())
    data[start:end] = bytes(byte ^ 0x5A for byte in data[start:end])
    target.write_bytes(data)
    return target


@pytest.mark.parametrize("packet", [3, 20, 40])
def test_flipped_bytes_are_damage(packet: int, tmp_path: Path) -> None:
    whole = make_video(tmp_path / "whole.mp4", bf="0")
    got = read(flip_packet(whole, tmp_path / "a.mp4", packet))
    first = min(i.frame for i in got.verdict.issues if i.code == "DAMAGED" and i.frame is not None)
    assert got.verdict.status == "partial"
    assert first == packet


@pytest.mark.parametrize("packet", [14, 17, 21, 25, 29])
def test_damage_log_holds_every_changed_picture(packet: int, tmp_path: Path) -> None:
    # Open groups of pictures: pictures shown before a key picture but decoded after it are
    # predicted from the group before.
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


def test_size_change_is_told_and_scaled(tmp_path: Path) -> None:
    small, large = (
        make_video(tmp_path / f"{width}.ts", size=(width, 96), bf="0") for width in (128, 256)
    )
    (tmp_path / "a.ts").write_bytes(small.read_bytes() + large.read_bytes())
    got = read(tmp_path / "a.ts")
    assert (got.info.width, got.info.height) == (128, 96)
    assert {"SIZE_CHANGED", "TIMES_REBUILT"} <= got.codes
    assert len(got.ids) == 120


def test_gif_times(tmp_path: Path) -> None:
    got = read(make_video(tmp_path / "a.gif", "gif", pixel_format="rgb8", pts=[0, 5, 10, 40]))
    assert got.times == [Fraction(n, 25) for n in (0, 5, 10, 40)]
    assert got.verdict.status == "ok"


# --- Images ---------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Twelve images of four formats whose names only a natural sort puts in order."""
    target = tmp_path / "frames"
    target.mkdir()
    for index in range(12):
        suffix = ("jpg", "PNG", "webp", "bmp")[index % 4]
        cv2.imwrite(str(target / f"f{index}.{suffix}"), barcode_frame(index)[..., ::-1])
    (target / "notes.txt").write_text("not an image")
    (target / ".hidden.jpg").write_bytes(b"not an image")
    return target


@pytest.mark.parametrize(("fps", "step"), [(None, Fraction(1, 25)), (29.97, Fraction(100, 2997))])
def test_folder_is_a_video(folder: Path, fps: float | None, step: Fraction) -> None:
    got = read(folder, fps=fps)
    assert (got.ids, got.verdict.status) == (list(range(12)), "ok")
    assert got.times == [index * step for index in range(12)]
    assert got.verdict.duration == 12 * step
    assert (got.info.name, got.info.container) == ("frames", "images")


def damage_half(data: bytes) -> bytes:
    return data[: len(data) // 2]


def damage_end(data: bytes) -> bytes:
    return data[:-6]


def damage_byte(data: bytes) -> bytes:
    return data[:-40] + bytes([data[-40] ^ 1]) + data[-39:]


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("f4.jpg", damage_half),
        ("f5.PNG", damage_half),
        ("f5.PNG", damage_byte),
        ("f5.PNG", damage_end),
        ("f8.jpg", damage_end),
        ("f6.webp", damage_half),
        ("f7.bmp", damage_half),
        ("f8.jpg", lambda data: b""),
        ("f8.jpg", lambda data: b"text"),
    ],
)
def test_unreadable_image_is_named(
    folder: Path, name: str, damage: Callable[[bytes], bytes]
) -> None:
    (folder / name).write_bytes(damage((folder / name).read_bytes()))
    number = int(name[1])
    got = read(folder)
    (issue,) = got.verdict.issues
    assert (issue.code, issue.severity) == ("UNREADABLE_IMAGE", "partial")
    assert name in issue.message
    assert got.ids == [index for index in range(12) if index != number]
    assert got.times == [Fraction(index, 25) for index in got.ids]


def test_other_size_is_refused_by_name(folder: Path) -> None:
    cv2.imwrite(str(folder / "f7.bmp"), np.zeros((10, 20, 3), np.uint8))
    refused(folder, "f7.bmp: 20x10, but f0.jpg is 128x96")


def test_single_image_is_one_frame(folder: Path) -> None:
    got = read(folder / "f9.PNG")
    assert (got.ids, got.info.name, got.info.codec) == ([9], "f9.PNG", "png")


def test_exif_orientation_is_applied(folder: Path) -> None:
    # Orientation 6: turn by 90 degrees clockwise to see it upright.
    exif = b"Exif\0\0MM\0*" + struct.pack(">IHHHIHHI", 8, 1, 0x0112, 3, 1, 6, 0, 0)
    data = (folder / "f8.jpg").read_bytes()
    segment = b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif
    (folder / "turned.jpg").write_bytes(data[:2] + segment + data[2:])
    with open_video(folder / "f8.jpg") as plain, open_video(folder / "turned.jpg") as turned:
        upright = next(iter(turned)).image
        assert (turned.info.width, turned.info.height) == (96, 128)
        assert (np.rot90(next(iter(plain)).image, -1) == upright).all()


def test_image_bomb_is_refused_by_its_header(tmp_path: Path) -> None:
    header = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + b"IHDR" + header + b"\0\0\0\0"
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + chunk + b"\0\0\0\0IDAT\0\0\0\0")
    refused(tmp_path / "a.png", "50000x50000 is over the limit")
    refused(tmp_path, "50000x50000 is over the limit")


def test_fps_is_for_images_only() -> None:
    with pytest.raises(UsageError, match="own times"):
        open_video(CLIPS / "00_ok.mp4", fps=25)


@pytest.mark.parametrize("fps", [0, -1, float("nan"), float("inf")])
def test_impossible_fps_is_a_usage_error(folder: Path, fps: float) -> None:
    with pytest.raises(UsageError, match="positive"):
        open_video(folder, fps=fps)


# --- Writing --------------------------------------------------------------------------------------


def write(path: Path, frames: list[Frame]) -> Path:
    height, width = frames[0].image.shape[:2]
    with VideoWriter(path, width, height) as writer:
        for frame in frames:
            writer.write(frame)
    return path


def test_written_video_keeps_pictures_and_times(tmp_path: Path) -> None:
    with open_video(CLIPS / "06_vfr.mp4") as reader:
        frames = list(reader)
    path = write(tmp_path / ODD_NAME, frames)
    got = read(path)
    assert got.ids == list(range(30))
    assert got.times == [frame.time for frame in frames]
    assert got.verdict.status == "ok"
    data = path.read_bytes()
    assert data.find(b"moov") < data.find(b"mdat")


def test_written_video_plays_in_browsers(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.mp4", [Frame(i, Fraction(i, 30), barcode_frame(i)) for i in range(9)]
    )
    with av.open(str(path)) as container:
        context = container.streams.video[0].codec_context
        assert (context.name, context.pix_fmt) == ("h264", "yuv420p")


def test_odd_size_gets_a_doubled_edge(tmp_path: Path) -> None:
    image = np.full((95, 127, 3), (200, 30, 60), np.uint8)
    path = write(tmp_path / "a.mp4", [Frame(i, Fraction(i, 30) + 2, image) for i in range(5)])
    with open_video(path) as reader:
        frames = list(reader)
    assert (reader.info.width, reader.info.height) == (128, 96)
    assert [frame.time for frame in frames] == [Fraction(i, 30) for i in range(5)]
    assert np.abs(frames[0].image.astype(int) - (200, 30, 60)).max() <= 6


def test_writer_refuses_what_it_cannot_keep(tmp_path: Path) -> None:
    image = barcode_frame(0)
    with pytest.raises(UsageError, match="not uint8"):
        write(tmp_path / "a.mp4", [Frame(0, Fraction(0), image), Frame(1, Fraction(1), image[:90])])
    with pytest.raises(UsageError, match="not after"):
        write(tmp_path / "b.mp4", [Frame(0, Fraction(1), image), Frame(1, Fraction(1), image)])
    with pytest.raises(UsageError, match="no frame"), VideoWriter(tmp_path / "c.mp4", 128, 96):
        pass
