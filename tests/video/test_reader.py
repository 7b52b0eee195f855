"""Names, including strange ones, and the contract of the reader."""

import os
import shutil
import threading
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import cv2
import pytest

from diffusionpose.errors import UsageError
from diffusionpose.structures import Frame
from diffusionpose.video import open_video
from tests.video.helpers import CLIPS, HEIGHT, ODD_NAME, WIDTH, barcode_frame, read, refused


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


@pytest.mark.parametrize("source", [None, 0, [barcode_frame(0)], barcode_frame(0)])
def test_a_video_is_given_by_its_path(source: object) -> None:
    kind = type(source).__name__
    with pytest.raises(UsageError, match=f"not as {kind}: .*PosePipeline.stream"):
        open_video(source)  # type: ignore[arg-type]


def test_a_closed_video_is_not_read_on() -> None:
    with open_video(CLIPS / "00_ok.mp4") as unread:
        pass
    with pytest.raises(RuntimeError, match="closed before its last frame"):
        list(unread)
    with open_video(CLIPS / "00_ok.mp4") as begun:
        frames = iter(begun)
        next(frames)
    with pytest.raises(RuntimeError, match="closed before its last frame"):
        next(frames)


def test_closing_waits_for_the_frame_that_a_thread_decodes(monkeypatch: pytest.MonkeyPatch) -> None:
    reader = open_video(CLIPS / "00_ok.mp4")
    order, is_decoding = [], threading.Event()

    def decode() -> Iterator[Frame]:
        is_decoding.set()
        time.sleep(0.3)
        order.append("decoded")
        yield Frame(0, Fraction(0), barcode_frame(0))

    close = reader._source.close
    monkeypatch.setattr(reader._source, "frames", decode)
    monkeypatch.setattr(reader._source, "close", lambda: (order.append("closed"), close()))
    worker = threading.Thread(target=lambda: next(iter(reader)))
    worker.start()
    is_decoding.wait()
    reader.close()
    worker.join()
    assert order == ["decoded", "closed"]


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
    # A protocol or pattern must not find these files.
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


def test_pixel_limit_is_the_callers() -> None:
    refused(CLIPS / "00_ok.mp4", "over the limit of 12287", max_pixels=WIDTH * HEIGHT - 1)
    read(CLIPS / "00_ok.mp4", max_pixels=WIDTH * HEIGHT)


def test_fps_is_for_images_only() -> None:
    with pytest.raises(UsageError, match="own times"):
        open_video(CLIPS / "00_ok.mp4", fps=25)


@pytest.mark.parametrize("fps", [0, -1, float("nan"), float("inf")])
def test_impossible_fps_is_a_usage_error(tmp_path: Path, fps: float) -> None:
    with pytest.raises(UsageError, match="fps must be from"):
        open_video(tmp_path, fps=fps)


def test_same_file_is_known_by_any_name(tmp_path: Path) -> None:
    source = Path(shutil.copy(CLIPS / "00_ok.mp4", tmp_path / "a.mp4"))
    (tmp_path / "link.mp4").symlink_to(source)
    (tmp_path / "hard.mp4").hardlink_to(source)
    shutil.copy(source, tmp_path / "copy.mp4")
    with open_video(source) as reader:
        for name in ("a.mp4", "../" + tmp_path.name + "/a.mp4", "link.mp4", "hard.mp4"):
            assert reader.is_same_file(tmp_path / name)
        for name in ("copy.mp4", "missing.mp4", "a.mp4/b", "."):
            assert not reader.is_same_file(tmp_path / name)
        # The opened file counts, not another one that now has its name.
        source.rename(tmp_path / "moved.mp4")
        shutil.copy(CLIPS / "06_vfr.mp4", source)
        assert reader.is_same_file(tmp_path / "moved.mp4")
        assert not reader.is_same_file(source)


def test_same_folder_and_same_image_are_known(tmp_path: Path) -> None:
    image = tmp_path / "a.png"
    cv2.imwrite(str(image), barcode_frame(1))
    with open_video(tmp_path) as reader:
        assert reader.is_same_file(tmp_path)
        assert not reader.is_same_file(tmp_path.parent)
        assert not reader.is_same_file(image)
    with open_video(image) as reader:
        assert reader.is_same_file(image)
        assert not reader.is_same_file(tmp_path)
