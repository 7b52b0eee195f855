"""`open_video` and `VideoReader`: a single pass over a video file, image or folder of images."""

import math
import os
import threading
from collections.abc import Callable, Iterator
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import BinaryIO, Protocol, Self, TypeVar

from diffusionpose.errors import InputRefusedError, UsageError
from diffusionpose.structures import Frame, VideoInfo, VideoVerdict
from diffusionpose.video.containers import sniff_container, why_no_video
from diffusionpose.video.files import DEFAULT_IMAGE_RATE, MAX_PIXELS, as_path, open_regular
from diffusionpose.video.images import ImageSource, image_kind, images_of
from diffusionpose.video.source import ContainerSource

T = TypeVar("T")

MIN_RATE, MAX_RATE = 1e-3, 1e4
"""Allowed range of images per second of a folder."""


def open_video(
    source: str | os.PathLike[str],
    *,
    fps: Fraction | float | None = None,
    max_pixels: int = MAX_PIXELS,
) -> "VideoReader":
    """Open a video file, an image or a folder of images for a single pass over its frames.

    Args:
        source: Path of a regular file, or of a folder whose images are the frames, in natural order
            of their names (2 before 10).
        fps: Images per second of a folder or an image, by default 25. A video has its own times.
        max_pixels: Maximum number of pixels of a frame.

    Returns:
        The reader, a context manager; its first frame is already decoded.

    Raises:
        InputRefusedError: If the source is not a video, or cannot or must not be read.
        UsageError: If `fps` is given for a video file, or is out of range.
    """
    path = as_path(source)
    rate = None if fps is None else _as_rate(fps)
    again = partial(open_video, source, fps=fps, max_pixels=max_pixels)
    if os.path.isdir(path):
        names = images_of(path)
        images = ImageSource(path, names, rate or DEFAULT_IMAGE_RATE, max_pixels)
        return VideoReader(images, os.stat(path), again)
    file, size = open_regular(path)
    try:
        identity = os.fstat(file.fileno())
        return VideoReader(_source_of(file, size, path, rate, max_pixels), identity, again)
    except BaseException:
        file.close()
        raise


class _Source(Protocol):
    """Source of a `VideoReader`: a container or a list of images."""

    info: VideoInfo

    @property
    def steady_rate(self) -> Fraction | None: ...
    def frames(self) -> Iterator[Frame]: ...
    def verdict(self) -> VideoVerdict: ...
    def close(self) -> None: ...


class VideoReader:
    """Single pass over the frames of a video; made by `open_video`.

    Memory: one frame, the decoder's buffers, and 9 bytes for each frame read.

    Attributes:
        info: Facts from the header, in display orientation.
    """

    def __init__(
        self,
        source: _Source,
        identity: os.stat_result,
        again: Callable[[], "VideoReader"],
    ) -> None:
        self._source = source
        self._identity = identity
        self._again = again
        self._verdict: VideoVerdict | None = None
        self._started, self._closed = False, False
        # Decoding a file that is closed, or being closed by another thread, crashes the process.
        self._in_use = threading.Lock()
        self.info = source.info

    def __iter__(self) -> Iterator[Frame]:
        """Iterate over the frames in order.

        Raises:
            RuntimeError: If iterated before, or closed before the last frame.
        """
        if self._started:
            raise RuntimeError("a video can be read once: open it again for a second pass")
        self._started = True
        return self._frames()

    def _frames(self) -> Iterator[Frame]:
        following = partial(next, self._source.frames(), None)
        while (frame := self._while_open(following)) is not None:
            yield frame
        self._verdict = self._while_open(self._source.verdict)

    def _while_open(self, call: Callable[[], T]) -> T:
        with self._in_use:
            if self._closed:
                raise RuntimeError(
                    f"{self.info.name} was closed before its last frame was read: "
                    "read it inside the `with` block"
                )
            return call()

    @property
    def verdict(self) -> VideoVerdict:
        """Outcome of reading, known after the last frame.

        Raises:
            RuntimeError: If not all frames have been read.
        """
        if self._verdict is None:
            raise RuntimeError("the verdict is known only after the last frame has been read")
        return self._verdict

    @property
    def steady_rate(self) -> Fraction | None:
        """Frames per second if the source declares a constant rate, else None."""
        return self._source.steady_rate

    def again(self) -> "VideoReader":
        """Open the same source for another pass.

        Raises:
            InputRefusedError: If it is gone or has been replaced.
        """
        other = self._again()
        if not os.path.samestat(other._identity, self._identity):
            other.close()
            raise InputRefusedError(f"{self.info.name} was replaced while being read: run again")
        return other

    def is_same_file(self, path: Path) -> bool:
        """Whether `path` is the source itself, also under another name.

        Checked before output is written, so that it does not overwrite its source.
        """
        return os.path.exists(path) and os.path.samestat(os.stat(path), self._identity)

    def close(self) -> None:
        """Close the source, once no other thread is decoding a frame. May be called repeatedly."""
        with self._in_use:
            self._closed = True
            self._source.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def _as_rate(fps: Fraction | float) -> Fraction:
    if not math.isfinite(fps) or not MIN_RATE <= fps <= MAX_RATE:
        raise UsageError(
            f"fps must be from {MIN_RATE:g} to {MAX_RATE:g} images per second, not {fps}"
        )
    return fps if isinstance(fps, Fraction) else Fraction(str(fps))


def _source_of(
    file: BinaryIO, size: int, path: Path, rate: Fraction | None, max_pixels: int
) -> _Source:
    head = file.read(4096)
    container = sniff_container(head)
    if container is not None:
        if rate is not None:
            raise UsageError(f"{path}: a video has its own times; fps is for folders of images")
        return ContainerSource(file, size, path, container, max_pixels)
    if image_kind(head) is not None:
        file.close()
        rate = rate or DEFAULT_IMAGE_RATE
        return ImageSource(path.parent, [path.name], rate, max_pixels, is_whole=False)
    raise InputRefusedError(f"{path}: {why_no_video(head)}")
