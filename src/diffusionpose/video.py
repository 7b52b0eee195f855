"""Video files and folders of images in, upright RGB frames with true times out; and the other way.

What a stranger's file may do to us is decided before FFmpeg sees it:

- we open ONE regular file ourselves and hand FFmpeg the open file, never a name, so no address,
  device, playlist or image pattern can be followed;
- the container is chosen from the first bytes and forced; FFmpeg's own guessing never runs;
- probing may not decode (no decoder is on its list), so sizes are checked before any pixel is
  allocated.

What was lost is counted while reading and summed up in a `VideoVerdict`. Codes of issues (stable):

| code | severity | meaning |
|---|---|---|
| TRUNCATED | partial | the file ends before its header says it should |
| DAMAGED | partial | pictures decoded from damaged data, or predicted from such pictures |
| PACKETS_LOST | partial | packets that no picture could be decoded from |
| PTS_GAP | partial; info in MP4, GIF | a hole in otherwise even times: pictures are missing |
| COUNT_MISMATCH | partial; info if more | another number of pictures than the header promises |
| TIMES_REBUILT | partial | pictures whose times do not increase; set one step on |
| SIZE_CHANGED | partial | pictures of another size, scaled to the first one's |
| UNREADABLE_IMAGE | partial | files of a folder that are not complete images |
| TIMES_FILLED | info | pictures without a time; set one step on |
| VFR | info | steps between pictures vary; the times are the file's own |
| ROTATION_IGNORED | info | a rotation that is no multiple of 90 degrees |
| STREAM_CHOICE | info | several video streams; which one was read |

Pictures keep their stored pixels: a sample aspect ratio other than 1 is not applied. Display
matrices (rotations by 90 degrees and mirrors) and EXIF orientations are. Times are the file's own
and need not start at 0.
"""

import errno
import math
import os
import re
import stat
import struct
from array import array
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, BinaryIO, Protocol, Self, cast

import av
import cv2
import numpy as np
from av.container import InputContainer
from av.error import FFmpegError
from av.packet import Packet
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange, Colorspace, VideoReformatter
from av.video.stream import VideoStream

from diffusionpose.errors import DiffusionPoseError, InputRefusedError, UsageError
from diffusionpose.structures import Frame, VideoInfo, VideoIssue, VideoVerdict

if TYPE_CHECKING:
    _VideoPacket = Packet[VideoStream]
else:
    # Generic for type checkers only.
    _VideoPacket = Packet

MAX_PIXELS = 64_000_000
"""Largest picture that is decoded, in pixels: room for 8K (33 million) and most cameras' photos."""
DEFAULT_IMAGE_RATE = Fraction(25)
"""Images per second of a folder when the caller gives none."""

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp"})
MAX_IMAGE_BYTES = 512 << 20

# FFmpeg's canonical names. Left out on purpose: decoders that are rarely used, so rarely looked at.
# fmt: off
ALLOWED_CODECS = frozenset((
    "av1", "cinepak", "dnxhd", "dvvideo", "ffv1", "ffvhuff", "flv1", "gif", "h263", "h264",
    "hevc", "huffyuv", "jpeg2000", "mjpeg", "mpeg1video", "mpeg2video", "mpeg4", "msmpeg4v1",
    "msmpeg4v2", "msmpeg4v3", "msvideo1", "png", "prores", "qtrle", "rawvideo", "svq3",
    "theora", "utvideo", "vc1", "vp6", "vp6f", "vp8", "vp9", "vvc", "wmv1", "wmv2", "wmv3",
))
# fmt: on
# A stored duration belongs to every picture of these, so a long one is what the author asked for.
_EXPLICIT_DURATIONS = frozenset({"mov", "gif"})
# These store no time for every picture, only when to decode; pictures come out in step with that.
_DECODING_TIMES = frozenset({"avi", "mpeg"})
# Packets of these may legally hold no picture of their own (hidden reference frames, N-VOPs).
_HIDDEN_PACKETS = frozenset({"vp8", "vp9", "mpeg4"})
# At open, give up after that many packets without a picture: the rest of a group of pictures that a
# recording was joined in has fewer.
_MAX_SILENT_PACKETS = 3000
_STEADY_SHARE = 0.9
_STEADY_TOLERANCE = 0.25
_GAP_FACTOR = 1.75
_REORDER_WINDOW = 64
_MAX_NAMED = 5


def open_video(
    source: str | os.PathLike[str],
    *,
    fps: Fraction | float | None = None,
    max_pixels: int = MAX_PIXELS,
) -> "VideoReader":
    """Opens a video file, an image or a folder of images for one pass from first to last picture.

    Args:
        source: Path of a regular file, or of a folder whose images are the frames in natural order
            of their names (2 before 10).
        fps: Images per second of a folder or an image, 25 when left out. A video has its own times.
        max_pixels: Largest picture that is decoded, in pixels.

    Returns:
        The reader, a context manager; its first picture is already decoded.

    Raises:
        InputRefusedError: The source is no video that can be read, or must not be read.
        UsageError: `fps` is given for a video file, or is no positive number.
    """
    path = _as_path(source)
    rate = None if fps is None else _as_rate(fps)
    if os.path.isdir(path):
        names = _images_of(path)
        return VideoReader(_ImageSource(path, names, rate or DEFAULT_IMAGE_RATE, max_pixels))
    file, size = _open_regular(path)
    try:
        return VideoReader(_source_of(file, size, path, rate, max_pixels))
    except BaseException:
        file.close()
        raise


class _Source(Protocol):
    """What `VideoReader` reads from: a container or a list of images."""

    info: VideoInfo

    def frames(self) -> Iterator[Frame]: ...
    def verdict(self) -> VideoVerdict: ...
    def close(self) -> None: ...


class VideoReader:
    """One pass over the frames of a video; made by `open_video`.

    Holds one frame plus what the decoder needs, and 9 bytes for every frame that was read.

    Attributes:
        info: What the header says, in display orientation.
    """

    def __init__(self, source: _Source) -> None:
        self._source = source
        self._verdict: VideoVerdict | None = None
        self._started = False
        self.info = source.info

    def __iter__(self) -> Iterator[Frame]:
        if self._started:
            raise RuntimeError("a video is read once: open it again for a second pass")
        self._started = True
        return self._frames()

    def _frames(self) -> Iterator[Frame]:
        yield from self._source.frames()
        self._verdict = self._source.verdict()

    @property
    def verdict(self) -> VideoVerdict:
        """What was found; known only when the last frame has been read.

        Raises:
            RuntimeError: Frames are still to be read.
        """
        if self._verdict is None:
            raise RuntimeError("the verdict is known only after the last frame was read")
        return self._verdict

    def close(self) -> None:
        """Closes the file. May be called twice."""
        self._source.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


# --- The door: paths and first bytes --------------------------------------------------------------


def _as_path(source: str | os.PathLike[str]) -> Path:
    text = os.fsdecode(source)
    if not text or "\0" in text:
        raise InputRefusedError(
            "the name of the video is empty or holds a NUL: give a file or folder"
        )
    return Path(text)


def _as_rate(fps: Fraction | float) -> Fraction:
    if not math.isfinite(fps) or fps <= 0:
        raise UsageError(f"fps must be a positive number of images per second, not {fps}")
    return fps if isinstance(fps, Fraction) else Fraction(str(fps))


def _open_regular(path: Path) -> tuple[BinaryIO, int]:
    """Opens `path` only if it is a regular file with bytes in it; returns it and its size in bytes.

    O_NONBLOCK keeps the open of a pipe without a writer from hanging.
    """
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
    try:
        descriptor = os.open(path, flags)
    except OSError as error:
        raise InputRefusedError(_why_not_opened(path, error)) from error
    status = os.fstat(descriptor)
    if stat.S_ISREG(status.st_mode) and status.st_size > 0:
        return os.fdopen(descriptor, "rb"), status.st_size
    os.close(descriptor)
    if stat.S_ISREG(status.st_mode):
        raise InputRefusedError(f"{path}: the file is empty (0 bytes); copy or download it again")
    raise InputRefusedError(
        f"{path}: a pipe, device or folder, not a file: save the video to a file"
    )


def _why_not_opened(path: Path, error: OSError) -> str:
    text = str(path)
    if error.errno != errno.ENOENT:
        return f"{text}: cannot be opened: {error.strerror}"
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:", text):
        return f"{text}: addresses and protocols are not opened: download the video, give its file"
    if re.search(r"%\d*d|[*?]", text):
        return f"{text}: there is no such file; image patterns are not expanded: give the folder"
    return f"{text}: there is no such file or folder"


@dataclass(frozen=True)
class _Container:
    """FFmpeg's name of a demuxer; for MPEG-TS also start and length of packets, in bytes."""

    name: str
    first_packet: int = 0
    packet_size: int = 0


_PREFIXES = {
    b"\x1a\x45\xdf\xa3": "matroska",
    b"FLV\x01": "flv",
    b"OggS": "ogg",
    b"GIF87a": "gif",
    b"GIF89a": "gif",
    b"\x00\x00\x01\xba": "mpeg",
    b"\x30\x26\xb2\x75\x8e\x66\xcf\x11": "asf",
}
_BOXES = {b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot", b"moof", b"styp"}
_PHOTO_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"mif1", b"avif"}
_SCRIPT = re.compile(
    rb"\s*(#EXTM3U|ffconcat|<\?xml|<MPD|<svg|<smil|<asx|v=0|\[playlist\]|\[InternetShortcut)",
    re.IGNORECASE,
)


def _sniff_container(head: bytes) -> _Container | None:
    """The container by its first bytes, or None."""
    if head[4:8] in _BOXES:
        return None if head[8:12] in _PHOTO_BRANDS else _Container("mov")
    if head[:4] == b"RIFF" and head[8:12] == b"AVI ":
        return _Container("avi")
    for prefix, name in _PREFIXES.items():
        if head.startswith(prefix):
            return _Container(name)
    return _sniff_transport_stream(head)


def _sniff_transport_stream(head: bytes) -> _Container | None:
    """MPEG-TS shows only by its sync byte every 188, 192 or 204 bytes; it may start in a packet."""
    for packet_size in (188, 192, 204):
        for first in range(packet_size):
            syncs = head[first : first + 8 * packet_size : packet_size]
            if len(syncs) >= 4 and syncs == b"G" * len(syncs):
                # Packets of 192 bytes start with a time stamp of 4, before the sync byte.
                start = first - 4 if packet_size == 192 else first
                return _Container("mpegts", start % packet_size, packet_size)
    return None


def _source_of(
    file: BinaryIO, size: int, path: Path, rate: Fraction | None, max_pixels: int
) -> _Source:
    head = file.read(4096)
    container = _sniff_container(head)
    if container is not None:
        if rate is not None:
            raise UsageError(f"{path}: a video has its own times; fps is for folders of images")
        return _ContainerSource(file, size, path, container, max_pixels)
    if _image_kind(head) is not None:
        file.close()
        return _ImageSource(path.parent, [path.name], rate or DEFAULT_IMAGE_RATE, max_pixels)
    raise InputRefusedError(f"{path}: {_why_no_video(head)}")


def _why_no_video(head: bytes) -> str:
    if _SCRIPT.match(head.removeprefix(b"\xef\xbb\xbf")):
        return (
            "a playlist or script that names other files, which are not opened: give the video file"
        )
    if head[4:8] == b"ftyp":
        return "a HEIC or AVIF photo: convert it to JPEG or PNG"
    if b"\0" not in head:
        return "text, not a video"
    return "not a video that is read (MP4, MOV, MKV, WebM, AVI, TS, MPEG, FLV, OGG, WMV or GIF)"


# --- Containers: opening --------------------------------------------------------------------------


def _refuse_other_files(url: str, flags: int, options: dict[str, str]) -> BinaryIO:
    del flags, options
    raise PermissionError(f"a video may not open another file: {url}")


def _open_container(file: BinaryIO, path: Path, container: _Container) -> InputContainer:
    """Demuxer only: no decoder is on the list that probing may use; nothing else can be opened."""
    file.seek(0)
    try:
        return av.open(
            file,
            "r",
            format=container.name,
            options={"codec_whitelist": "none", "protocol_whitelist": "none"},
            container_options={"format_whitelist": container.name, "max_streams": "64"},
            metadata_errors="replace",
            buffer_size=1 << 18,
            io_open=_refuse_other_files,
        )
    except (FFmpegError, OSError, ValueError) as error:
        raise InputRefusedError(
            f"{path}: the header cannot be read ({_reason(error)}): the file is cut or damaged; "
            "copy it again"
        ) from error


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


def _choose_stream(container: InputContainer, path: Path, max_pixels: int) -> VideoStream:
    """The default video stream, else the largest; cover pictures of music do not count."""
    streams = _video_streams(container)
    if not streams:
        raise InputRefusedError(f"{path}: no video stream (only sound or data): nothing to see")
    known = [stream for stream in streams if stream.codec_context is not None]
    if not known:
        raise InputRefusedError(
            f"{path}: there is no decoder for its video codec: convert it to H.264"
        )
    stream = max(known, key=_preference)
    codec = stream.codec_context.codec.canonical_name
    if codec not in ALLOWED_CODECS:
        raise InputRefusedError(f"{path}: the codec {codec} is not allowed: convert it to H.264")
    _check_pixels(path, stream.codec_context.width, stream.codec_context.height, max_pixels)
    return stream


def _video_streams(container: InputContainer) -> list[VideoStream]:
    pictures = Disposition.attached_pic | Disposition.timed_thumbnails
    return [stream for stream in container.streams.video if not stream.disposition & pictures]


def _preference(stream: VideoStream) -> tuple[bool, int]:
    default = bool(stream.disposition & Disposition.default)
    return default, stream.codec_context.width * stream.codec_context.height


def _check_pixels(path: Path, width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise InputRefusedError(
            f"{path}: {width}x{height} is over the limit of {max_pixels} pixels a picture: "
            "scale it down"
        )


@dataclass(frozen=True)
class _Promise:
    """What header and index say before anything is read.

    Args:
        frames: Number of pictures to be shown, None where no header says.
        end: Bytes that the file should have at least, None where no header says.
        seconds: End of the last packet, None where no header says.
    """

    frames: int | None
    end: int | None
    seconds: Fraction | None


def _read_promise(
    file: BinaryIO, size: int, container: _Container, opened: InputContainer, stream: VideoStream
) -> _Promise:
    """Reads the index; pictures that an edit list hides and empty chunks are not promised."""
    hidden = shown = end = 0
    for entry in stream.index_entries:
        hidden += entry.size == 0
        shown += not entry.is_discard
        end = max(end, entry.pos + entry.size)
    frames = stream.frames - hidden if stream.frames > 0 else None
    if container.name == "mov" and frames is not None and shown:
        frames = shown - hidden
    declared = _declared_end(file, size, container)
    return _Promise(frames, max(end, declared or 0) or None, _declared_seconds(container, opened))


def _declared_seconds(container: _Container, opened: InputContainer) -> Fraction | None:
    # Only these store a duration that FFmpeg does not estimate from what is there.
    if container.name not in {"matroska", "flv", "asf"} or not opened.duration:
        return None
    return Fraction(opened.duration, av.time_base)


def _declared_end(file: BinaryIO, size: int, container: _Container) -> int | None:
    """Bytes that the file's outermost structure claims; more than `size` means that it was cut."""
    position = file.tell()
    try:
        match container.name:
            case "mov":
                return _end_of_boxes(file, size)
            case "matroska":
                return _end_of_segment(file)
            case "avi":
                return _end_of_riff(file)
            case "asf":
                return _end_of_asf(file)
            case "ogg":
                return _end_of_ogg(file, size)
            case "gif":
                tail = _read_at(file, max(0, size - 512), 512).rstrip(b"\0")
                return size if tail.endswith(b";") else size + 1
            case "mpegts":
                rest = -(size - container.first_packet) % container.packet_size
                return size + rest
        return None
    finally:
        file.seek(position)


def _read_at(file: BinaryIO, position: int, count: int) -> bytes:
    file.seek(position)
    return file.read(count)


_LAST_BOXES = {b"mdat", b"moof", b"moov", b"mfra", b"sidx", b"styp"}


def _end_of_boxes(file: BinaryIO, size: int) -> int | None:
    """End of the last top-level box of an ISO file. Junk behind it is not taken for a box."""
    position = 0
    while position + 8 <= size:
        header = _read_at(file, position, 16)
        length, kind = struct.unpack(">I4s", header[:8])
        if length == 1 and len(header) == 16:
            length = struct.unpack(">Q", header[8:])[0]
        if length < 8:
            return None
        if position + length > size and kind not in _LAST_BOXES:
            return None
        position += length
    return position


def _end_of_segment(file: BinaryIO) -> int | None:
    """End of a Matroska segment, None if it was written as a live stream (size unknown)."""
    head = _read_at(file, 0, 512)
    size, width = _ebml_size(head[4:])
    start = 4 + width + (size or 0)
    if head[start : start + 4] != b"\x18\x53\x80\x67":
        return None
    size, width = _ebml_size(head[start + 4 :])
    return None if size is None else start + 4 + width + size


def _ebml_size(data: bytes) -> tuple[int | None, int]:
    """A variable-length size and its own width in bytes; all bits set means unknown."""
    if not data or not data[0]:
        return None, 1
    width = 9 - data[0].bit_length()
    mask = (1 << 7 * width) - 1
    value = int.from_bytes(data[:width], "big") & mask
    return (None if value == mask else value), width


def _end_of_riff(file: BinaryIO) -> int | None:
    size = struct.unpack("<I", _read_at(file, 4, 4))[0]
    # Writers that cannot seek back leave 0 or all bits set.
    return None if size == 0 or size >= 0xFFFFFFF0 else size + 8


_ASF_FILE_PROPERTIES = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")


def _end_of_asf(file: BinaryIO) -> int | None:
    """The size that the file properties name; 0 in a broadcast."""
    head = _read_at(file, 0, 4096)
    at = head.find(_ASF_FILE_PROPERTIES) + 40
    return struct.unpack("<Q", head[at : at + 8])[0] or None if 40 <= at <= len(head) - 8 else None


def _end_of_ogg(file: BinaryIO, size: int) -> int | None:
    """End of the last page; a page that does not say it is the last means that there was more."""
    start = max(0, size - (1 << 17))
    tail = _read_at(file, start, 1 << 17)
    at = tail.rfind(b"OggS")
    header = tail[at : at + 27]
    if at < 0 or len(header) < 27:
        return size + 1
    segments = tail[at + 27 : at + 27 + header[26]]
    end = start + at + 27 + header[26] + sum(segments)
    return end if header[5] & 4 else max(end, size + 1)


# --- Containers: reading --------------------------------------------------------------------------


@dataclass(frozen=True)
class _Origin:
    """Travels with a packet through the decoder and tells which one a picture came from.

    Args:
        number: Of the packet, in decoding order.
        group: Number of key packets up to and including this one.
        key_pts: Time of the group's key picture; what is shown before it may be predicted from the
            group before as well.
    """

    number: int
    group: int
    key_pts: int | None

    def groups_of(self, pts: int | None) -> tuple[int, int]:
        """First and last group that a picture shown at `pts` may be predicted from."""
        leading = pts is not None and self.key_pts is not None and pts < self.key_pts
        return self.group - leading, self.group


class _DamageLog:
    """Which pictures are damaged, or predicted from damaged data up to the next key picture.

    An upper bound: a damaged picture that no other refers to spoils its group all the same. What
    the decoder does not notice (VP8, VP9 and HEVC notice little) is not in it.
    """

    def __init__(self) -> None:
        self.flags = bytearray()
        self._spoiled: dict[int, int] = {}
        self._recent: deque[tuple[tuple[int, int], int, int]] = deque(maxlen=_REORDER_WINDOW)

    def spoil(self, group: int, number: int) -> None:
        """Data of packet `number` is bad: so is what was decoded after it in its group."""
        self._spoiled[group] = min(number, self._spoiled.get(group, number))
        for groups, later, index in self._recent:
            if group in groups and later >= number:
                self.flags[index] = 1
        for old in [old for old in self._spoiled if old < group - 2]:
            del self._spoiled[old]

    def add(self, groups: tuple[int, int], number: int, damaged: bool) -> None:
        """Takes the next picture in display order, decoded from packet `number`."""
        self._recent.append((groups, number, len(self.flags)))
        self.flags.append(any(number >= self._spoiled.get(g, number + 1) for g in groups))
        if damaged:
            self.spoil(groups[0], number)

    def runs(self) -> list[tuple[int, int]]:
        """First and last index of every run of damaged pictures."""
        return [(m.start(), m.end() - 1) for m in re.finditer(b"\x01+", self.flags)]


@dataclass
class _Counts:
    """What was seen while reading one container."""

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


class _ContainerSource:
    """Decodes one video stream with one thread: with more, FFmpeg hides where a file was cut."""

    def __init__(
        self, file: BinaryIO, size: int, path: Path, container: _Container, max_pixels: int
    ) -> None:
        self._file, self._size, self._path, self._kind = file, size, path, container
        self._opened = _open_container(file, path, container)
        self._stream = _choose_stream(self._opened, self._path, max_pixels)
        self._promise = _read_promise(
            self._file, self._size, self._kind, self._opened, self._stream
        )
        self._time_base = self._stream.time_base or Fraction(1, 1000)
        self._codec = self._stream.codec_context
        self._codec.thread_count = 1
        self._codec.copy_opaque = True
        # A picture larger than its header says fails inside the decoder, before it is allocated.
        self._codec.options = {"max_pixels": str(max_pixels)}
        self._counts, self._damage, self._pts = _Counts(), _DamageLog(), array("q")
        self._last_duration = 0
        self._reformatter = VideoReformatter()
        self._pictures = self._decode()
        self._first = self._prime()
        self._turn = _Turn.of(self._first)
        self.info = self._info()

    def _prime(self) -> VideoFrame:
        """The first picture: only it proves that this is a video, only it knows the true size."""
        first = next(self._pictures, None)
        if first is not None:
            return first
        counts = self._counts
        if counts.packets == 0:
            raise InputRefusedError(f"{self._path}: no frames: the video stream is empty")
        why = counts.lost_packets[0][1] if counts.lost_packets else "no error was reported"
        raise InputRefusedError(
            f"{self._path}: no frames: none of {counts.packets} packets could be decoded ({why}); "
            "the file is cut or damaged, or its pictures are over the limit of pixels"
        )

    def _info(self) -> VideoInfo:
        width, height = self._turn.size(self._first.width, self._first.height)
        return VideoInfo(
            name=_printable(self._path.name),
            width=width,
            height=height,
            container=self._kind.name,
            codec=self._codec.codec.canonical_name,
            rotation=self._turn.rotation,
            average_rate=self._stream.average_rate or None,
            expected_frames=self._promise.frames,
            has_audio=bool(self._opened.streams.audio),
        )

    def close(self) -> None:
        self._opened.close()
        self._file.close()

    def frames(self) -> Iterator[Frame]:
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
        """The picture's own time in ticks, or one step after the last if that does not move on."""
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
        """Pictures in display order; what cannot be decoded is counted."""
        origin = _Origin(-1, 0, None)
        for packet in self._demux():
            origin = self._origin_of(packet, origin)
            packet.opaque = origin
            yield from self._decode_packet(packet, origin)
            if not self._damage.flags and self._counts.packets >= _MAX_SILENT_PACKETS:
                return
        yield from self._decode_packet(None, origin)

    def _demux(self) -> Iterator[_VideoPacket]:
        """The stream's packets. The other streams' are read too, for how far the file reaches."""
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
            self._counts.stopped = _reason(error)

    def _origin_of(self, packet: _VideoPacket, last: _Origin) -> _Origin:
        self._counts.packets += 1
        self._counts.hidden_packets += packet.is_discard
        number = last.number + 1
        if packet.is_keyframe:
            return _Origin(number, last.group + 1, packet.pts)
        if number == 0:
            # What a first packet that is no key packet was predicted from is not in the file.
            self._damage.spoil(0, 0)
        return _Origin(number, last.group, last.key_pts)

    def _decode_packet(self, packet: _VideoPacket | None, origin: _Origin) -> Iterator[VideoFrame]:
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

    def _note_lost(self, packet: _VideoPacket | None, origin: _Origin, error: FFmpegError) -> None:
        counts = self._counts
        counts.num_lost += 1
        if len(counts.lost_packets) < _MAX_NAMED:
            counts.lost_packets.append((origin.number, _reason(error)))
        if packet is not None:
            self._damage.spoil(origin.groups_of(packet.pts)[0], origin.number)

    def _log_picture(self, picture: VideoFrame, latest: _Origin) -> None:
        own = picture.opaque if isinstance(picture.opaque, _Origin) else latest
        self._damage.add(own.groups_of(picture.pts), own.number, picture.is_corrupt)
        self._counts.interlaced |= picture.interlaced_frame

    def verdict(self) -> VideoVerdict:
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
        yield from _timing_issues(
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
            why = f"{self._size} bytes, at least {promise.end} are declared"
        elif promise.seconds is not None and self._ends_early(promise.seconds):
            ends, declared = float(self._counts.end), float(promise.seconds)
            why = f"it ends at {ends:.3f} s, {declared:.3f} s are declared"
        elif self._counts.stopped is not None:
            why = f"reading stopped: {self._counts.stopped}"
        else:
            return
        yield VideoIssue("TRUNCATED", f"the file is cut ({why}): {tail}", frame=read - 1)

    def _ends_early(self, seconds: Fraction) -> bool:
        step = Fraction(self._nominal_step()) * self._time_base
        return seconds - self._counts.end > max(Fraction(5, 2) * step, Fraction(1, 20))

    def _damaged_runs(self) -> Iterator[VideoIssue]:
        runs = self._damage.runs()
        for first, last in runs[:_MAX_NAMED]:
            at = float(self._pts[first] * self._time_base)
            what = f"frame {first} is" if first == last else f"frames {first} to {last} are"
            text = f"{what} damaged or predicted from damaged data (from {at:.3f} s)"
            yield VideoIssue("DAMAGED", text, frame=first)
        if rest := runs[_MAX_NAMED:]:
            number = sum(last - first + 1 for first, last in rest)
            text = f"{number} more frames in {len(rest)} places are damaged or predicted from such"
            yield VideoIssue("DAMAGED", text, frame=rest[0][0])

    def _losses(self) -> Iterator[VideoIssue]:
        """Packets that failed, but for those that a cut explains."""
        number = self._counts.num_lost - self._counts.cut_packets
        if number > 0 and self._counts.lost_packets:
            packet, reason = self._counts.lost_packets[0]
            text = f"{number} packets could not be decoded, the first is packet {packet}: {reason}"
            yield VideoIssue("PACKETS_LOST", text)

    def _count_mismatch(self) -> Iterator[VideoIssue]:
        read, promised = len(self._pts), self._promise.frames
        if promised is not None and promised != read:
            severity = "partial" if read < promised else "info"
            text = f"the header promises {promised} frames, {read} could be read"
            yield VideoIssue("COUNT_MISMATCH", text, severity)
            return
        silent = self._counts.packets - self._counts.hidden_packets - self._counts.num_lost - read
        # A field of an interlaced picture is a packet of its own in some containers.
        excused = self._counts.interlaced or self.info.codec in _HIDDEN_PACKETS
        if promised is None and silent > 0 and not excused:
            text = f"{silent} of {self._counts.packets} packets gave no picture"
            yield VideoIssue("COUNT_MISMATCH", text)

    def _oddities(self) -> Iterator[VideoIssue]:
        counts = self._counts
        if counts.num_rebuilt:
            text = (
                f"{counts.num_rebuilt} frames had times that do not increase, the first is "
                f"{counts.first_rebuilt}: set one step after the frame before"
            )
            yield VideoIssue("TIMES_REBUILT", text, frame=counts.first_rebuilt)
        if counts.filled_times and self._kind.name not in _DECODING_TIMES:
            text = f"{counts.filled_times} frames have no time: set one step after the frame before"
            yield VideoIssue("TIMES_FILLED", text, "info")
        if counts.resized:
            text = f"{counts.resized} frames have another size and were scaled to the first frame's"
            yield VideoIssue("SIZE_CHANGED", text)
        if not self._turn.exact:
            text = "the rotation is no multiple of 90 degrees and was not applied"
            yield VideoIssue("ROTATION_IGNORED", text, "info")
        if (number := len(_video_streams(self._opened))) > 1:
            text = f"{number} video streams; stream {self._stream.index} was read"
            yield VideoIssue("STREAM_CHOICE", text, "info")


def _printable(name: str) -> str:
    """A name that can be written as UTF-8, whatever bytes the file system holds."""
    return os.fsencode(name).decode("utf-8", "replace")


@dataclass(frozen=True)
class _Turn:
    """The display matrix as one of the eight turns and mirrors of a picture.

    Args:
        transpose: Swap x and y, before the flips.
        flip_x: Mirror left and right.
        flip_y: Mirror top and bottom.
        rotation: Degrees counter-clockwise, 0 to 270, as ffprobe says it.
        exact: False if the matrix is none of the eight, which then is not applied.
    """

    transpose: bool = False
    flip_x: bool = False
    flip_y: bool = False
    rotation: int = 0
    exact: bool = True

    @classmethod
    def of(cls, picture: VideoFrame) -> "_Turn":
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
        """(width, height) after the turn."""
        return (height, width) if self.transpose else (width, height)

    def apply(self, image: np.ndarray) -> np.ndarray:
        """Turns an image (height, width, 3)."""
        if self.transpose:
            image = image.transpose(1, 0, 2)
        if self.flip_x:
            image = image[:, ::-1]
        if self.flip_y:
            image = image[::-1]
        return np.ascontiguousarray(image)


def _timing_issues(
    pts: np.ndarray, time_base: Fraction, explicit_durations: bool
) -> Iterator[VideoIssue]:
    """Uneven times (VFR), or holes in even times (PTS_GAP).

    Only a stream whose steps are nearly all alike can show that pictures are missing. A container
    that stores how long each picture is shown says itself that a hole is no loss: there a hole is
    worth a word, no more.

    Args:
        pts: (num_frames,) increasing times in ticks.
        time_base: Seconds a tick.
        explicit_durations: The container stores a duration for every picture.
    """
    steps = np.diff(pts)
    if len(steps) < 2:
        return
    step = float(np.median(steps))
    # One tick of rounding is no unevenness: Matroska counts milliseconds.
    even = np.abs(steps - step) <= max(_STEADY_TOLERANCE * step, 1.0)
    if even.mean() < _STEADY_SHARE:
        low, high = (float(steps[i] * time_base) for i in (steps.argmin(), steps.argmax()))
        text = (
            f"variable frame rate: steps from {low:.4f} s to {high:.4f} s; times are the file's own"
        )
        yield VideoIssue("VFR", text, "info")
        return
    gaps = np.flatnonzero(steps >= max(_GAP_FACTOR * step, step + 2))
    severity = "info" if explicit_durations else "partial"
    for index in map(int, gaps[:_MAX_NAMED]):
        missing = round(float(steps[index]) / step) - 1
        start, end = (float(int(pts[i]) * time_base) for i in (index, index + 1))
        text = (
            f"about {missing} frames are missing after frame {index}, "
            f"between {start:.3f} s and {end:.3f} s"
        )
        yield VideoIssue("PTS_GAP", text, severity, index)
    if len(gaps) > _MAX_NAMED:
        text = f"{len(gaps) - _MAX_NAMED} more gaps between frames"
        yield VideoIssue("PTS_GAP", text, severity, int(gaps[_MAX_NAMED]))


# --- Images ---------------------------------------------------------------------------------------


def _images_of(folder: Path) -> list[str]:
    """Names of a folder's images in natural order; hidden files and other kinds are left alone."""
    names = [
        entry.name
        for entry in os.scandir(folder)
        if os.path.splitext(entry.name)[1].lower() in IMAGE_SUFFIXES and entry.name[0] != "."
    ]
    if not names:
        raise InputRefusedError(
            f"{folder}: a folder without images: give a video, or a folder of jpg, png, webp or bmp"
        )
    return sorted(names, key=_natural)


def _natural(name: str) -> tuple[list[tuple[int, str]], str]:
    """Digits compare as numbers; the name itself decides between 1 and 01."""
    parts = re.findall(r"([0-9]+)|([^0-9]+)", name.lower())
    return [(int(digits), "") if digits else (-1, text) for digits, text in parts], name


@dataclass(frozen=True)
class _ImageHeader:
    """Size in stored pixels, before any EXIF orientation."""

    width: int
    height: int
    animated: bool = False


class _UnreadableImageError(Exception):
    """An image that is damaged or cut; other images of the folder are still delivered."""


def _image_kind(head: bytes) -> str | None:
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
    """Reads only the header, so that a bomb is known before it is decoded."""
    head = file.read(64)
    try:
        match _image_kind(head):
            case "jpeg":
                return _jpeg_header(file)
            case "png":
                return _png_header(file)
            case "webp":
                return _webp_header(head)
            case "bmp":
                return _bmp_header(head)
    except (struct.error, IndexError) as error:
        raise _UnreadableImageError("its header is cut") from error
    raise _UnreadableImageError("not a JPEG, PNG, WebP or BMP image")


def _jpeg_header(file: BinaryIO) -> _ImageHeader:
    position = 2
    while True:
        segment = _read_at(file, position, 9)
        if segment[0] != 0xFF:
            raise _UnreadableImageError("its JPEG header is damaged")
        marker = segment[1]
        # SOF0 to SOF15, without the tables DHT, JPG and DAC that share the range.
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack(">HH", segment[5:9])
            return _ImageHeader(width, height)
        if marker == 0xFF:
            position += 1
        elif marker in (0xD9, 0xDA):
            raise _UnreadableImageError("its JPEG header names no size")
        else:
            position += 2 + struct.unpack(">H", segment[2:4])[0]


def _png_header(file: BinaryIO) -> _ImageHeader:
    width, height = struct.unpack(">II", _read_at(file, 16, 8))
    position, kind = 8, b""
    while kind not in (b"acTL", b"IDAT", b"IEND"):
        length, kind = struct.unpack(">I4s", _read_at(file, position, 8))
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
    """Decoders fill a cut JPEG up with grey and say nothing, so look for the end ourselves.

    PNG needs no look: OpenCV checks the sums of its chunks.
    """
    match _image_kind(data):
        case "jpeg":
            # Coded data never holds an end mark; a preview, before the last scan header, may.
            return data.find(b"\xff\xd9", max(data.rfind(b"\xff\xda"), 0)) >= 0
        case "webp":
            return struct.unpack("<I", data[4:8])[0] + 8 <= len(data)
        case "bmp":
            return struct.unpack("<I", data[2:6])[0] <= len(data)
        case _:
            return True


def _decode_image(path: Path) -> np.ndarray:
    """An image as (height, width, 3) uint8 RGB, EXIF orientation applied, transparency dropped."""
    try:
        file, size = _open_regular(path)
    except InputRefusedError as error:
        raise _UnreadableImageError(str(error)) from error
    with file:
        if size > MAX_IMAGE_BYTES:
            raise _UnreadableImageError(f"its {size} bytes are over the limit of {MAX_IMAGE_BYTES}")
        data = file.read()
    if not _is_complete(data):
        raise _UnreadableImageError("it is cut or damaged")
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    if image is None:
        raise _UnreadableImageError("it is damaged")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


class _ImageSource:
    """Images of a folder as a video: image i of the sorted names is shown at i / rate seconds."""

    def __init__(self, folder: Path, names: list[str], rate: Fraction, max_pixels: int) -> None:
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
        name = names[0] if len(names) == 1 else folder.resolve().name
        codec = "jpeg" if suffix == "jpg" else suffix
        self.info = VideoInfo(_printable(name), width, height, "images", codec, 0, rate, len(names))

    def _where(self) -> Path:
        return self._folder / self._names[0] if len(self._names) == 1 else self._folder

    def _check_headers(self, max_pixels: int) -> None:
        """Refuses, before anything is delivered, what is too large, animated or of another size."""
        first: tuple[str, _ImageHeader] | None = None
        for name in self._names:
            header = self._header_of(name)
            if header is None:
                continue
            path = self._folder / name
            _check_pixels(path, header.width, header.height, max_pixels)
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
                f"{expected[0]}x{expected[1]}: the images of a folder must have one size"
            )

    def _header_of(self, name: str) -> _ImageHeader | None:
        """None for a file whose header cannot be read: decoding will fail and report it."""
        try:
            file, _ = _open_regular(self._folder / name)
            with file:
                return _read_image_header(file)
        except (_UnreadableImageError, InputRefusedError):
            return None

    def _decode(self) -> Iterator[tuple[int, np.ndarray]]:
        """(position among the names, image) of each image that can be read."""
        for position, name in enumerate(self._names):
            try:
                if self._header_of(name) is None:
                    raise _UnreadableImageError("its header cannot be read")
                yield position, _decode_image(self._folder / name)
            except _UnreadableImageError as error:
                self._note_unreadable(name, error)

    def _note_unreadable(self, name: str, error: _UnreadableImageError) -> None:
        self._num_unreadable += 1
        if self._num_unreadable <= _MAX_NAMED:
            text = f"{_printable(name)} cannot be read as an image: {error}"
            self._issues.append(VideoIssue("UNREADABLE_IMAGE", text, frame=self._num_frames))

    def frames(self) -> Iterator[Frame]:
        current = self._first
        while current is not None:
            position, image = current
            size = (image.shape[1], image.shape[0])
            expected = (self.info.width, self.info.height)
            # Headers agreed, so only an EXIF orientation can differ here.
            self._check_size(self._names[position], size, self._names[0], expected)
            yield Frame(self._num_frames, position / self._rate, image)
            self._num_frames += 1
            current = next(self._images, None)

    def verdict(self) -> VideoVerdict:
        issues = list(self._issues)
        if (rest := self._num_unreadable - _MAX_NAMED) > 0:
            issues.append(VideoIssue("UNREADABLE_IMAGE", f"{rest} more images cannot be read"))
        number = len(self._names)
        return VideoVerdict(number, self._num_frames, number / self._rate, tuple(issues))

    def close(self) -> None:
        """Nothing stays open between images."""


# --- Writing --------------------------------------------------------------------------------------

WRITER_TIME_BASE = Fraction(1, 90_000)
"""Seconds a tick: exact for milliseconds and for every common rate up to 120 frames/s."""

# In order of preference. Browsers play the first two; the last is what every build of FFmpeg has.
_ENCODERS: dict[str, dict[str, str]] = {
    "libx264": {"crf": "20", "preset": "veryfast"},
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
        f"this build of PyAV can write no video (none of {', '.join(_ENCODERS)}): "
        "pip install --force-reinstall av"
    )


class VideoWriter:
    """Writes frames as an MP4 that browsers play (H.264, yuv420p, index first), at their own times.

    The first frame is shown at 0 s, the others as much later as their times say; the last as long
    as the one before. H.264 in 4:2:0 needs even sizes: an odd width or height gets its last column
    or row doubled, so no coordinate moves.

    Args:
        path: File to write; what is there is overwritten. Give a temporary name and rename it when
            all is well.
        width: Of every frame, pixels.
        height: Of every frame, pixels.
        rate: About how many frames a second to expect, for the encoder's rate control only.
        time_base: Seconds a tick. Times are rounded to it.

    Raises:
        DiffusionPoseError: There is no encoder in this build of PyAV.
        UsageError: A frame has another size, or its time does not come after the one before it.
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
        self._last_pts = -1
        self._reformatter = VideoReformatter()
        # "file:" keeps FFmpeg from reading a protocol or pattern into the name.
        url = "file:" + os.path.abspath(os.fsdecode(path))
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
        """Appends a frame; `frame.image` is (height, width, 3) uint8 RGB."""
        if frame.image.shape != (*self._size, 3) or frame.image.dtype != np.uint8:
            raise UsageError(
                f"frame {frame.index} is {frame.image.dtype} {frame.image.shape}, "
                f"not uint8 {(*self._size, 3)}"
            )
        self._start = frame.time if self._start is None else self._start
        pts = round((frame.time - self._start) / self._time_base)
        if pts <= self._last_pts:
            raise UsageError(
                f"frame {frame.index} at {float(frame.time)} s is not after the one before"
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
        for packet in self._stream.encode(picture):
            self._container.mux(packet)

    def close(self) -> None:
        """Finishes the file. Without it there is no playable video."""
        if self._start is None:
            self._container.close()
            raise UsageError("no frame was written: a video needs at least one")
        self._encode(None)
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
            self._container.close()
