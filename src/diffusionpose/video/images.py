"""Frames from an image or a folder of images; all headers are checked before any is decoded."""

import hashlib
import os
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO

import cv2
import numpy as np

from diffusionpose.errors import InputRefusedError
from diffusionpose.paths import IMAGE_SUFFIXES
from diffusionpose.structures import IMAGES, Frame, VideoInfo, VideoIssue, VideoVerdict
from diffusionpose.video.files import MAX_NAMED, check_pixels, open_regular, printable, read_at

MAX_IMAGE_BYTES = 512 << 20


def images_of(folder: Path) -> list[str]:
    """Names of a folder's images in natural order; hidden and other files are ignored.

    Raises:
        InputRefusedError: If there are none.
    """
    names = [
        entry.name
        for entry in os.scandir(folder)
        if os.path.splitext(entry.name)[1].lower() in IMAGE_SUFFIXES and entry.name[0] != "."
    ]
    if not names:
        raise InputRefusedError(
            f"{folder}: a folder without images: pass a video, or a folder of jpg, png, webp or bmp"
        )
    return sorted(names, key=_natural)


def _natural(name: str) -> tuple[list[tuple[int, str]], str]:
    """Sort key that compares digits as numbers; the name itself breaks ties such as 1 and 01."""
    parts = re.findall(r"([0-9]+)|([^0-9]+)", name.lower())
    return [(int(digits), "") if digits else (-1, text) for digits, text in parts], name


@dataclass(frozen=True)
class _ImageHeader:
    """Size in stored pixels, before EXIF orientation."""

    width: int
    height: int
    animated: bool = False


class _UnreadableImageError(Exception):
    """An image is damaged or truncated; other images in the folder are still read."""


def image_kind(head: bytes) -> str | None:
    """Detect the image format from a file's first bytes; None if unknown."""
    if head.startswith(b"\xff\xd8\xff"):
        return "jpeg"
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "png"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "webp"
    if head.startswith(b"BM") and head[14:18] in _BMP_HEADERS:
        return "bmp"
    return None


_BMP_HEADERS = {struct.pack("<I", size) for size in (12, 40, 52, 56, 64, 108, 124)}


def _read_image_header(file: BinaryIO) -> _ImageHeader:
    """Read only the header, so that a decompression bomb is found before decoding."""
    head = file.read(64)
    try:
        match image_kind(head):
            case "jpeg":
                return _jpeg_header(file)
            case "png":
                return _png_header(file)
            case "webp":
                return _webp_header(head)
            case "bmp":
                return _bmp_header(head)
    except (struct.error, IndexError) as error:
        raise _UnreadableImageError("its header is truncated") from error
    raise _UnreadableImageError("not a JPEG, PNG, WebP or BMP image")


def _jpeg_header(file: BinaryIO) -> _ImageHeader:
    position = 2
    while True:
        segment = read_at(file, position, 9)
        if segment[0] != 0xFF:
            raise _UnreadableImageError("its JPEG header is damaged")
        marker = segment[1]
        # SOF0 to SOF15, except DHT, JPG and DAC, which share the range.
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack(">HH", segment[5:9])
            return _ImageHeader(width, height)
        if marker == 0xFF:
            position += 1
        elif marker in (0xD9, 0xDA):
            raise _UnreadableImageError("its JPEG header has no size")
        else:
            position += 2 + struct.unpack(">H", segment[2:4])[0]


def _png_header(file: BinaryIO) -> _ImageHeader:
    width, height = struct.unpack(">II", read_at(file, 16, 8))
    position, kind = 8, b""
    while kind not in (b"acTL", b"IDAT", b"IEND"):
        length, kind = struct.unpack(">I4s", read_at(file, position, 8))
        position += 12 + length
    return _ImageHeader(width, height, kind == b"acTL")


def _webp_header(head: bytes) -> _ImageHeader:
    kind = head[12:16]
    if kind == b"VP8X":
        width, height = (int.from_bytes(head[at : at + 3], "little") + 1 for at in (24, 27))
        return _ImageHeader(width, height, bool(head[20] & 2))
    if kind == b"VP8L":
        bits = struct.unpack("<I", head[21:25])[0]
        return _ImageHeader((bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1)
    width, height = struct.unpack("<HH", head[26:30])
    return _ImageHeader(width & 0x3FFF, height & 0x3FFF)


def _bmp_header(head: bytes) -> _ImageHeader:
    if head[14:18] == struct.pack("<I", 12):
        return _ImageHeader(*struct.unpack("<HH", head[18:22]))
    width, height = struct.unpack("<ii", head[18:26])
    return _ImageHeader(abs(width), abs(height))


def _is_complete(data: bytes) -> bool:
    """Check for the end of the data: decoders silently fill up a truncated JPEG with grey.

    PNG needs no check: OpenCV verifies the checksums of its chunks.
    """
    match image_kind(data):
        case "jpeg":
            # Entropy-coded data contains no end marker, but a preview before the last scan may.
            return data.find(b"\xff\xd9", max(data.rfind(b"\xff\xda"), 0)) >= 0
        case "webp":
            return struct.unpack("<I", data[4:8])[0] + 8 <= len(data)
        case "bmp":
            return struct.unpack("<I", data[2:6])[0] <= len(data)
        case _:
            return True


def _decode_image(path: Path) -> np.ndarray:
    """Decode to (height, width, 3) uint8 RGB; apply EXIF orientation, drop transparency."""
    try:
        file, size = open_regular(path)
    except InputRefusedError as error:
        raise _UnreadableImageError(str(error)) from error
    with file:
        if size > MAX_IMAGE_BYTES:
            raise _UnreadableImageError(f"its {size} bytes are over the limit of {MAX_IMAGE_BYTES}")
        data = file.read()
    if not _is_complete(data):
        raise _UnreadableImageError("it is truncated or damaged")
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    if image is None:
        raise _UnreadableImageError("it is damaged")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


class ImageSource:
    """Images of a folder as a video: image i of the names is shown at i / rate seconds.

    Args:
        folder: Folder of the images.
        names: File names, sorted.
        rate: Images per second.
        max_pixels: Maximum number of pixels of an image.
        is_whole: False if a single image was given instead of its folder.

    Raises:
        InputRefusedError: If no image can be read, or one is too large, animated or of another
            size.
    """

    def __init__(
        self,
        folder: Path,
        names: list[str],
        rate: Fraction,
        max_pixels: int,
        *,
        is_whole: bool = True,
    ) -> None:
        self._folder, self._names, self._rate = folder, names, rate
        self._issues: list[VideoIssue] = []
        self._num_unreadable = 0
        self._num_frames = 0
        self._check_headers(max_pixels)
        self._images = self._decode()
        self._first = next(self._images, None)
        if self._first is None:
            raise InputRefusedError(f"{self._where()}: {self._issues[0].message}")
        height, width = self._first[1].shape[:2]
        suffix = os.path.splitext(names[0])[1].lower().lstrip(".")
        name = folder.resolve().name if is_whole else names[0]
        codec = "jpeg" if suffix == "jpg" else suffix
        self.steady_rate = rate
        digest = hashlib.sha256("\0".join(names).encode("utf-8", "surrogateescape"))
        digest.update(self._first[1].tobytes())
        self.info = VideoInfo(
            name=printable(name),
            width=width,
            height=height,
            container=IMAGES if is_whole else "image",
            codec=codec,
            average_rate=rate,
            expected_frames=len(names),
            fingerprint=digest.hexdigest(),
        )

    def _where(self) -> Path:
        return self._folder / self._names[0] if len(self._names) == 1 else self._folder

    def _check_headers(self, max_pixels: int) -> None:
        """Refuse images that are too large, animated or of another size, before any is decoded."""
        first: tuple[str, _ImageHeader] | None = None
        for name in self._names:
            header = self._header_of(name)
            if header is None:
                continue
            path = self._folder / name
            check_pixels(path, header.width, header.height, max_pixels)
            if header.animated:
                raise InputRefusedError(
                    f"{path}: an animation: convert it to MP4 or to a folder of images"
                )
            first = first or (name, header)
            self._check_size(
                name, (header.width, header.height), first[0], (first[1].width, first[1].height)
            )

    def _check_size(
        self, name: str, size: tuple[int, int], first: str, expected: tuple[int, int]
    ) -> None:
        if size != expected:
            raise InputRefusedError(
                f"{self._folder / name}: {size[0]}x{size[1]}, but {first} is "
                f"{expected[0]}x{expected[1]}: the images of a folder are the frames of one video and "
                "must have the same size; for separate photos, give the files to `diffusionpose batch`"
            )

    def _header_of(self, name: str) -> _ImageHeader | None:
        """Read a header; None if it cannot be read, which decoding reports later."""
        try:
            file, _ = open_regular(self._folder / name)
            with file:
                return _read_image_header(file)
        except (_UnreadableImageError, InputRefusedError):
            return None

    def _decode(self) -> Iterator[tuple[int, np.ndarray]]:
        """Yield (position among the names, image) of each readable image."""
        for position, name in enumerate(self._names):
            try:
                if self._header_of(name) is None:
                    raise _UnreadableImageError("its header cannot be read")
                yield position, _decode_image(self._folder / name)
            except _UnreadableImageError as error:
                self._note_unreadable(name, error)

    def _note_unreadable(self, name: str, error: _UnreadableImageError) -> None:
        self._num_unreadable += 1
        if self._num_unreadable <= MAX_NAMED:
            text = f"{printable(name)} cannot be read as an image: {error}"
            self._issues.append(VideoIssue("UNREADABLE_IMAGE", text, frame=self._num_frames))

    def frames(self) -> Iterator[Frame]:
        """Yield the images in order, at their times."""
        current = self._first
        while current is not None:
            position, image = current
            size = (image.shape[1], image.shape[0])
            expected = (self.info.width, self.info.height)
            # Sizes in headers are equal, so only EXIF orientation can make a difference here.
            self._check_size(self._names[position], size, self._names[0], expected)
            yield Frame(self._num_frames, position / self._rate, image)
            self._num_frames += 1
            current = next(self._images, None)

    def verdict(self) -> VideoVerdict:
        """Return the outcome of reading; complete after the last frame."""
        issues = list(self._issues)
        if (rest := self._num_unreadable - MAX_NAMED) > 0:
            issues.append(VideoIssue("UNREADABLE_IMAGE", f"{rest} more images cannot be read"))
        number = len(self._names)
        return VideoVerdict(number, self._num_frames, number / self._rate, tuple(issues))

    def close(self) -> None:
        """Do nothing: no file stays open between images."""
