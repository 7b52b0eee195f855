"""Playlists, scripts and bombs, which are refused, and the supported containers."""

import json
import os
import shutil
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import pytest

from tests.video.helpers import CLIPS, HEIGHT, WIDTH, make_video, read, refused


@pytest.fixture
def listener() -> Iterator[list[tuple[str, int]]]:
    """Listen at the address in the playlist clip; collect the clients that connect."""
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
    # Opening a pipe without a writer blocks, which the time limit of `refused` reveals.
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
    """Write the bomb with a false, small size in the container; only the PNG has the true one."""
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
    # Half of the memory that is needed if only probing decodes the bomb.
    assert megabytes < 140


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
