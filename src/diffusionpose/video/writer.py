"""`VideoWriter`: writes frames to an MP4 that browsers play."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from fractions import Fraction
from types import TracebackType
from typing import Self, cast

import av
import numpy as np
from av.error import FFmpegError
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange, Colorspace, VideoReformatter
from av.video.stream import VideoStream

from diffusionpose.errors import DiffusionPoseError, UsageError
from diffusionpose.structures import Frame
from diffusionpose.video.files import DEFAULT_IMAGE_RATE

WRITER_TIME_BASE = Fraction(1, 90_000)
"""Seconds per tick: exact for milliseconds and for common rates up to 120 frames/s."""

MAX_TICKS = 2**53

# In order of preference. Browsers play the first two; every build of FFmpeg has the last.
# No B-frames: MP4 stores no durations for reordered frames, and browsers step by durations.
_ENCODERS: dict[str, dict[str, str]] = {
    "libx264": {"crf": "21", "preset": "veryfast", "bf": "0"},
    "libopenh264": {"rc_mode": "quality"},
    "mpeg4": {"qscale": "3"},
}


def _find_encoder() -> str:
    for name in _ENCODERS:
        if name in av.codecs_available:
            try:
                av.Codec(name, "w")
            except ValueError:
                continue
            return name
    raise DiffusionPoseError(
        f"this build of PyAV cannot write video (none of {', '.join(_ENCODERS)}): "
        "pip install --force-reinstall av"
    )


@contextmanager
def _explained() -> Iterator[None]:
    """Turn errors of FFmpeg, such as a full disk or invalid times, into errors for the user."""
    try:
        yield
    except FFmpegError as error:
        raise _not_written(f"{error.strerror or error}") from error


def _not_written(reason: str) -> DiffusionPoseError:
    plain = f"cannot write the annotated video: {reason}"
    return DiffusionPoseError(f"{plain} (--no-video leaves it out)", plain=plain)


class VideoWriter:
    """Writer of an MP4 that browsers play (H.264, yuv420p, index first), with true frame times.

    Times are shifted so that the first frame is at 0 s. The last frame is shown as long as the
    previous one. H.264 in 4:2:0 needs even sizes: of an odd width or height, the last column or row
    is repeated, so that no coordinate changes.

    Args:
        path: File to write; an existing one is overwritten. Pass a temporary name and rename the
            file on success.
        width: Of every frame, in pixels.
        height: Of every frame, in pixels.
        rate: Approximate frames per second, for the encoder's rate control only.
        time_base: Seconds per tick, to which times are rounded.

    Raises:
        DiffusionPoseError: If this build of PyAV has no encoder, or the file cannot be written.
        UsageError: If a frame has another size, or its time does not increase.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        width: int,
        height: int,
        *,
        rate: Fraction | None = None,
        time_base: Fraction = WRITER_TIME_BASE,
    ) -> None:
        self.codec = _find_encoder()
        self._size, self._time_base = (height, width), time_base
        self._start: Fraction | None = None
        self._last_time: Fraction | None = None
        self._last_pts = -1
        self._closed = False
        self._reformatter = VideoReformatter()
        # "file:" keeps FFmpeg from interpreting the name as a protocol or pattern.
        url = "file:" + os.path.abspath(os.fsdecode(path))
        with _explained():
            self._container = av.open(url, "w", format="mp4", options={"movflags": "+faststart"})
            self._stream = self._add_stream(width + width % 2, height + height % 2, rate)

    def _add_stream(self, width: int, height: int, rate: Fraction | None) -> VideoStream:
        stream = cast(
            "VideoStream",
            self._container.add_stream(
                self.codec, rate=rate or DEFAULT_IMAGE_RATE, options=_ENCODERS[self.codec]
            ),
        )
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        context = stream.codec_context
        context.time_base = self._time_base
        context.colorspace = context.color_primaries = context.color_trc = Colorspace.ITU709.value
        context.color_range = ColorRange.MPEG
        return stream

    def write(self, frame: Frame) -> None:
        """Append a frame; `frame.image` is (height, width, 3) uint8 RGB."""
        if frame.image.shape != (*self._size, 3) or frame.image.dtype != np.uint8:
            raise UsageError(
                f"frame {frame.index} is {frame.image.dtype} {frame.image.shape}, "
                f"not uint8 {(*self._size, 3)}"
            )
        self._start = frame.time if self._start is None else self._start
        if self._last_time is not None and frame.time <= self._last_time:
            raise UsageError(
                f"frame {frame.index} at {float(frame.time)} s is not after the previous one"
            )
        self._last_time = frame.time
        # Two frames within one tick remain two frames.
        pts = max(round((frame.time - self._start) / self._time_base), self._last_pts + 1)
        if pts > MAX_TICKS:
            raise _not_written(
                f"frame {frame.index} is {float(frame.time - self._start):g} s after the first, "
                "more than MP4 can store"
            )
        self._last_pts = pts
        self._encode(self._picture(frame.image, pts))

    def _picture(self, image: np.ndarray, pts: int) -> VideoFrame:
        height, width = self._size
        if height % 2 or width % 2:
            image = np.pad(image, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        picture = self._reformatter.reformat(
            VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24"),
            format="yuv420p",
            dst_colorspace=Colorspace.ITU709,
            dst_color_range=ColorRange.MPEG,
        )
        picture.pts, picture.time_base = pts, self._time_base
        return picture

    def _encode(self, picture: VideoFrame | None) -> None:
        with _explained():
            for packet in self._stream.encode(picture):
                self._container.mux(packet)

    def close(self) -> None:
        """Finish the file, which is not playable before. May be called repeatedly.

        Raises:
            UsageError: If no frame was written.
        """
        if self._closed:
            return
        self._closed = True
        if self._start is None:
            self._container.close()
            raise UsageError("no frame was written: a video needs at least one")
        self._encode(None)
        with _explained():
            self._container.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self.close()
        else:
            with suppress(FFmpegError):  # keep the original error
                self._container.close()
