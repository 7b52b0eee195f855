"""Properties that a written video must preserve."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from diffusionpose.errors import DiffusionPoseError, UsageError
from diffusionpose.structures import Frame
from diffusionpose.video import VideoWriter, open_video
from tests.video.helpers import CLIPS, ODD_NAME, barcode_frame, read


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


def test_frames_are_written_in_order_with_the_durations_that_they_have(tmp_path: Path) -> None:
    with open_video(CLIPS / "06_vfr.mp4") as reader:
        path = write(tmp_path / "a.mp4", list(reader))
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
    pts = [packet.pts for packet in packets]
    assert [packet.dts for packet in packets] == pts == sorted(pts)
    assert [packet.duration for packet in packets[:-1]] == list(np.diff(pts))


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


def test_frames_within_one_tick_stay_frames(tmp_path: Path) -> None:
    times = [Fraction(0), Fraction(1, 10**6), Fraction(2, 10**6), Fraction(1, 10)]
    path = write(
        tmp_path / "a.mp4", [Frame(i, time, barcode_frame(i)) for i, time in enumerate(times)]
    )
    with open_video(path) as reader:
        found = [frame.time for frame in reader]
    assert found == [Fraction(0), Fraction(1, 90_000), Fraction(2, 90_000), Fraction(1, 10)]


@pytest.mark.parametrize("last", [10**13, 10**15])
def test_times_that_mp4_cannot_hold_are_named(tmp_path: Path, last: int) -> None:
    image = barcode_frame(0)
    frames = [Frame(i, Fraction(time), image) for i, time in enumerate((0, 1, last))]
    with pytest.raises(DiffusionPoseError, match="cannot write the annotated video") as error:
        write(tmp_path / "a.mp4", frames)
    assert str(error.value).removesuffix(" (--no-video leaves it out)") == error.value.plain


def test_closing_twice_is_closing_once(tmp_path):
    path = tmp_path / "twice.mp4"
    with VideoWriter(path, 32, 16) as writer:
        writer.write(Frame(0, Fraction(0), np.zeros((16, 32, 3), np.uint8)))
        writer.close()
    with open_video(path) as reader:
        assert len(list(reader)) == 1
