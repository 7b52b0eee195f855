"""Frames from a video file: decoding, rotation, true times, and the verdict."""

from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, cast

import numpy as np
from av.error import FFmpegError
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream

from diffusionpose.errors import InputRefusedError
from diffusionpose.structures import Frame, VideoInfo, VideoIssue, VideoVerdict
from diffusionpose.video.containers import (
    Container,
    choose_stream,
    open_container,
    reason_of,
    video_streams,
)
from diffusionpose.video.evidence import DamageLog, Origin, read_promise, timing_issues
from diffusionpose.video.files import DEFAULT_IMAGE_RATE, MAX_NAMED, fingerprint, printable

if TYPE_CHECKING:
    _VideoPacket = Packet[VideoStream]
else:
    # Generic for type checkers only.
    _VideoPacket = Packet

# These store a duration for every frame, so a long one is intended.
_EXPLICIT_DURATIONS = frozenset({"mov", "gif"})
# These do not store presentation times for every frame: use decoding times instead.
_DECODING_TIMES = frozenset({"avi", "mpeg"})
# Packets of these codecs need not contain a visible frame (hidden reference frames, N-VOPs).
_HIDDEN_PACKETS = frozenset({"vp8", "vp9", "mpeg4"})
# Maximum relative difference of a header's mean and base rate if the frame rate is constant.
_STEADY = 0.01
# Maximum difference of the pixel aspect ratio from 1, which scaled videos may miss slightly.
_SQUARE = 0.02
# When opening, give up after this many packets without a frame. A recording that starts in the
# middle of a group of pictures needs fewer.
_MAX_SILENT_PACKETS = 3000


@dataclass(frozen=True)
class _Turn:
    """A display matrix as one of the eight rotations and reflections of a frame.

    Args:
        transpose: Swap x and y, before the flips.
        flip_x: Mirror left and right.
        flip_y: Mirror top and bottom.
        rotation: Degrees counter-clockwise, 0 to 270, as in ffprobe.
        exact: False if the matrix is none of the eight, and not applied.
    """

    transpose: bool = False
    flip_x: bool = False
    flip_y: bool = False
    rotation: int = 0
    exact: bool = True

    @classmethod
    def of(cls, picture: VideoFrame) -> "_Turn":
        """Read a frame's display matrix."""
        data = picture.side_data.get("DISPLAYMATRIX")
        if data is None:
            return cls()
        a, b, _, c, d = (int(v) for v in np.frombuffer(bytes(data), np.int32)[:5])
        # x' = a x + c y, y' = b x + d y, in 16.16 fixed point.
        if not (a or d) and b and c:
            return cls(True, c < 0, b < 0, 90 if b < 0 else 270)
        if not (b or c) and a and d:
            return cls(False, a < 0, d < 0, 180 if a < 0 else 0)
        return cls(exact=False)

    def size(self, width: int, height: int) -> tuple[int, int]:
        """(width, height) after rotation."""
        return (height, width) if self.transpose else (width, height)

    def apply(self, image: np.ndarray) -> np.ndarray:
        """Rotate an image (height, width, 3)."""
        if self.transpose:
            image = image.transpose(1, 0, 2)
        if self.flip_x:
            image = image[:, ::-1]
        if self.flip_y:
            image = image[::-1]
        return np.ascontiguousarray(image)


@dataclass
class _Counts:
    """Counts of events while one container is read."""

    packets: int = 0
    hidden_packets: int = 0
    cut_packets: int = 0
    lost_packets: list[tuple[int, str]] = field(default_factory=list)
    num_lost: int = 0
    stopped: str | None = None
    filled_times: int = 0
    num_rebuilt: int = 0
    first_rebuilt: int | None = None
    resized: int = 0
    interlaced: bool = False
    end: Fraction = Fraction(0)


class ContainerSource:
    """Decoder of one video stream, in one thread: with more, FFmpeg hides where a file was cut.

    Raises:
        InputRefusedError: If the file is not allowed, or no frame can be decoded.
    """

    def __init__(
        self, file: BinaryIO, size: int, path: Path, container: Container, max_pixels: int
    ) -> None:
        self._file, self._size, self._path, self._kind = file, size, path, container
        self._opened = open_container(file, path, container)
        self._stream = choose_stream(self._opened, self._path, max_pixels)
        self._promise = read_promise(self._file, self._size, self._kind, self._opened, self._stream)
        self._time_base = self._stream.time_base or Fraction(1, 1000)
        self._codec = self._stream.codec_context
        self._codec.thread_count = 1
        self._codec.copy_opaque = True
        # Frames larger than the header says fail in the decoder, before memory is allocated.
        self._codec.options = {"max_pixels": str(max_pixels)}
        self._counts, self._damage, self._pts = _Counts(), DamageLog(), array("q")
        self._last_duration = 0
        self._reformatter = VideoReformatter()
        self._pictures = self._decode()
        self._first = self._prime()
        self._turn = _Turn.of(self._first)
        self.info = self._info()

    def _prime(self) -> VideoFrame:
        """Decode the first frame, which alone proves that this is a video and has the true size."""
        first = next(self._pictures, None)
        if first is not None:
            return first
        counts = self._counts
        if counts.packets == 0:
            raise InputRefusedError(f"{self._path}: no frames: the video stream is empty")
        why = counts.lost_packets[0][1] if counts.lost_packets else "no error was reported"
        raise InputRefusedError(
            f"{self._path}: no frames: none of {counts.packets} packets could be decoded ({why}); "
            "the file is truncated or damaged, or its frames are over the limit of pixels"
        )

    def _info(self) -> VideoInfo:
        width, height = self._turn.size(self._first.width, self._first.height)
        return VideoInfo(
            name=printable(self._path.name),
            width=width,
            height=height,
            container=self._kind.name,
            codec=self._codec.codec.canonical_name,
            rotation=self._turn.rotation,
            average_rate=self._stream.average_rate or None,
            expected_frames=self._promise.frames,
            has_audio=bool(self._opened.streams.audio),
            fingerprint=fingerprint(self._file, self._size),
        )

    @property
    def steady_rate(self) -> Fraction | None:
        """See `VideoReader.steady_rate`; with irregular times, the base rate exceeds the mean."""
        mean, finest = self._stream.average_rate, self._stream.base_rate
        return mean if mean and finest and abs(mean / finest - 1) <= _STEADY else None

    def close(self) -> None:
        """Close container and file."""
        self._opened.close()
        self._file.close()

    def frames(self) -> Iterator[Frame]:
        """Yield the frames in display order, at their true times."""
        picture: VideoFrame | None = self._first
        while picture is not None:
            index = len(self._pts)
            pts = picture.dts if self._kind.name in _DECODING_TIMES else picture.pts
            self._pts.append(self._next_pts(pts, index))
            self._last_duration = picture.duration or 0
            yield Frame(index, self._pts[-1] * self._time_base, self._upright(picture))
            picture = next(self._pictures, None)

    def _upright(self, picture: VideoFrame) -> np.ndarray:
        width, height = self._first.width, self._first.height
        self._counts.resized += (picture.width, picture.height) != (width, height)
        rgb = self._reformatter.reformat(picture, width=width, height=height, format="rgb24")
        return self._turn.apply(rgb.to_ndarray())

    def _next_pts(self, pts: int | None, index: int) -> int:
        """Return the frame's time in ticks, or one step after the last if it does not increase."""
        if pts is not None and (index == 0 or pts > self._pts[-1]):
            return pts
        if pts is None:
            self._counts.filled_times += 1
        else:
            self._counts.num_rebuilt += 1
            self._counts.first_rebuilt = self._counts.first_rebuilt or index
        return 0 if index == 0 else self._pts[-1] + self._nominal_step()

    def _nominal_step(self) -> int:
        if self._last_duration:
            return self._last_duration
        rate = self._stream.average_rate or DEFAULT_IMAGE_RATE
        return max(1, round(1 / (rate * self._time_base)))

    def _decode(self) -> Iterator[VideoFrame]:
        """Yield frames in display order, and count what cannot be decoded."""
        origin = Origin(-1, 0, None)
        for packet in self._demux():
            origin = self._origin_of(packet, origin)
            packet.opaque = origin
            yield from self._decode_packet(packet, origin)
            if not self._damage.flags and self._counts.packets >= _MAX_SILENT_PACKETS:
                return
        yield from self._decode_packet(None, origin)

    def _demux(self) -> Iterator[_VideoPacket]:
        """Yield the stream's packets; those of others only tell where the file ends."""
        packets = self._opened.demux()
        try:
            for packet in packets:
                if packet.size == 0:
                    continue
                if packet.pts is not None and packet.time_base:
                    end = (packet.pts + (packet.duration or 0)) * packet.time_base
                    self._counts.end = max(self._counts.end, end)
                if packet.stream_index == self._stream.index:
                    yield cast("_VideoPacket", packet)
        except (FFmpegError, OSError) as error:
            self._counts.stopped = reason_of(error)

    def _origin_of(self, packet: _VideoPacket, last: Origin) -> Origin:
        self._counts.packets += 1
        self._counts.hidden_packets += packet.is_discard
        number = last.number + 1
        if packet.is_keyframe:
            return Origin(number, last.group + 1, packet.pts)
        if number == 0:
            # The first packet is predicted from data that is not in the file.
            self._damage.spoil(0, 0)
        return Origin(number, last.group, last.key_pts)

    def _decode_packet(self, packet: _VideoPacket | None, origin: Origin) -> Iterator[VideoFrame]:
        if packet is not None and packet.is_corrupt:
            self._counts.cut_packets += 1
            self._damage.spoil(origin.groups_of(packet.pts)[0], origin.number)
        try:
            pictures = self._codec.decode(packet)
        except FFmpegError as error:
            self._note_lost(packet, origin, error)
            return
        for picture in pictures:
            self._log_picture(picture, origin)
            yield picture

    def _note_lost(self, packet: _VideoPacket | None, origin: Origin, error: FFmpegError) -> None:
        counts = self._counts
        counts.num_lost += 1
        if len(counts.lost_packets) < MAX_NAMED:
            counts.lost_packets.append((origin.number, reason_of(error)))
        if packet is not None:
            self._damage.spoil(origin.groups_of(packet.pts)[0], origin.number)

    def _log_picture(self, picture: VideoFrame, latest: Origin) -> None:
        own = picture.opaque if isinstance(picture.opaque, Origin) else latest
        self._damage.add(own.groups_of(picture.pts), own.number, picture.is_corrupt)
        self._counts.interlaced |= picture.interlaced_frame

    def verdict(self) -> VideoVerdict:
        """Return the outcome of reading; complete after the last frame."""
        return VideoVerdict(
            num_packets=self._counts.packets,
            num_frames=len(self._pts),
            duration=(self._pts[-1] - self._pts[0] + self._last_step()) * self._time_base,
            issues=tuple(self._issues()),
        )

    def _last_step(self) -> int:
        return self._last_duration or (self._pts[-1] - self._pts[-2] if len(self._pts) > 1 else 0)

    def _issues(self) -> Iterator[VideoIssue]:
        yield from self._truncation()
        yield from self._damaged_runs()
        yield from self._losses()
        yield from self._count_mismatch()
        yield from timing_issues(
            np.frombuffer(self._pts, np.int64),
            self._time_base,
            self._kind.name in _EXPLICIT_DURATIONS,
        )
        yield from self._oddities()

    def _truncation(self) -> Iterator[VideoIssue]:
        promise, read, last = self._promise, len(self._pts), self._pts[-1] * self._time_base
        of = f" of {promise.frames}" if promise.frames and promise.frames > read else ""
        tail = f"{read}{of} frames could be read, the last at {float(last):.3f} s"
        if promise.end is not None and promise.end > self._size:
            why = f"{self._size} bytes, but at least {promise.end} are declared"
        elif promise.seconds is not None and self._ends_early(promise.seconds):
            ends, declared = float(self._counts.end), float(promise.seconds)
            why = f"it ends at {ends:.3f} s, but {declared:.3f} s are declared"
        elif self._counts.stopped is not None:
            why = f"reading stopped: {self._counts.stopped}"
        else:
            return
        yield VideoIssue("TRUNCATED", f"the file is truncated ({why}): {tail}", frame=read - 1)

    def _ends_early(self, seconds: Fraction) -> bool:
        step = Fraction(self._nominal_step()) * self._time_base
        return seconds - self._counts.end > max(Fraction(5, 2) * step, Fraction(1, 20))

    def _damaged_runs(self) -> Iterator[VideoIssue]:
        runs = self._damage.runs()
        for first, last in runs[:MAX_NAMED]:
            at = float(self._pts[first] * self._time_base)
            what = f"frame {first} is" if first == last else f"frames {first} to {last} are"
            text = f"{what} damaged or predicted from damaged data (from {at:.3f} s)"
            yield VideoIssue("DAMAGED", text, frame=first)
        if rest := runs[MAX_NAMED:]:
            number = sum(last - first + 1 for first, last in rest)
            text = f"{number} more frames in {len(rest)} places are damaged or predicted from those"
            yield VideoIssue("DAMAGED", text, frame=rest[0][0])

    def _losses(self) -> Iterator[VideoIssue]:
        """Yield an issue for packets that failed, except those explained by truncation."""
        number = self._counts.num_lost - self._counts.cut_packets
        if number > 0 and self._counts.lost_packets:
            packet, reason = self._counts.lost_packets[0]
            text = f"{number} packets could not be decoded, the first is packet {packet}: {reason}"
            yield VideoIssue("PACKETS_LOST", text)

    def _count_mismatch(self) -> Iterator[VideoIssue]:
        read, promised = len(self._pts), self._promise.frames
        if promised is not None and promised != read:
            severity = "partial" if read < promised else "info"
            text = f"the header declares {promised} frames, but {read} could be read"
            yield VideoIssue("COUNT_MISMATCH", text, severity)
            return
        silent = self._counts.packets - self._counts.hidden_packets - self._counts.num_lost - read
        # In some containers, each field of an interlaced frame is a packet of its own.
        excused = self._counts.interlaced or self.info.codec in _HIDDEN_PACKETS
        if promised is None and silent > 0 and not excused:
            text = f"{silent} of {self._counts.packets} packets contain no frame"
            yield VideoIssue("COUNT_MISMATCH", text)

    def _pixel_ratio(self) -> Fraction:
        """Pixel aspect ratio, width by height, after rotation; 1 if not declared."""
        ratio = self._stream.sample_aspect_ratio or Fraction(1)
        return 1 / ratio if self._turn.transpose else ratio

    def _oddities(self) -> Iterator[VideoIssue]:
        counts = self._counts
        if counts.num_rebuilt:
            text = (
                f"{counts.num_rebuilt} frames had times that do not increase, the first is "
                f"{counts.first_rebuilt}: set one step after the previous frame"
            )
            yield VideoIssue("TIMES_REBUILT", text, frame=counts.first_rebuilt)
        if counts.filled_times and self._kind.name not in _DECODING_TIMES:
            text = (
                f"{counts.filled_times} frames have no time: set one step after the previous frame"
            )
            yield VideoIssue("TIMES_FILLED", text, "info")
        if counts.resized:
            text = f"{counts.resized} frames have another size: scaled to the size of the first"
            yield VideoIssue("SIZE_CHANGED", text)
        if not self._turn.exact:
            text = "the rotation is not a multiple of 90 degrees and was not applied"
            yield VideoIssue("ROTATION_IGNORED", text, "info")
        ratio = self._pixel_ratio()
        if abs(ratio - 1) > _SQUARE:
            shape = "narrower" if ratio > 1 else "wider"
            text = (
                f"pixels are not square ({ratio.numerator}:{ratio.denominator}) and used as "
                f"stored: people look {shape}, and angles differ: convert it to square pixels"
            )
            yield VideoIssue("PIXELS_NOT_SQUARE", text, "info")
        if (number := len(video_streams(self._opened))) > 1:
            text = f"{number} video streams; stream {self._stream.index} was read"
            yield VideoIssue("STREAM_CHOICE", text, "info")
