"""Folders of images and single images as videos."""

import struct
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest

from diffusionpose.video import open_video
from tests.video.helpers import barcode_frame, read, refused


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Write twelve images in four formats, whose names need natural sorting."""
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
    # Orientation 6: rotate by 90 degrees clockwise to make it upright.
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
