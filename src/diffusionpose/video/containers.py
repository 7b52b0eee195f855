"""Detection and safe opening of containers, and the choice of a video stream."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import av
from av.container import InputContainer
from av.error import FFmpegError
from av.stream import Disposition
from av.video.stream import VideoStream

from diffusionpose.errors import InputRefusedError
from diffusionpose.video.files import check_pixels

# FFmpeg's canonical names. Rarely used decoders, which few people review, are left out on purpose.
# fmt: off
ALLOWED_CODECS = frozenset((
    "av1", "cinepak", "dnxhd", "dvvideo", "ffv1", "ffvhuff", "flv1", "gif", "h263", "h264",
    "hevc", "huffyuv", "jpeg2000", "mjpeg", "mpeg1video", "mpeg2video", "mpeg4", "msmpeg4v1",
    "msmpeg4v2", "msmpeg4v3", "msvideo1", "png", "prores", "qtrle", "rawvideo", "svq3",
    "theora", "utvideo", "vc1", "vp6", "vp6f", "vp8", "vp9", "vvc", "wmv1", "wmv2", "wmv3",
))
# fmt: on


@dataclass(frozen=True)
class Container:
    """FFmpeg's name of a demuxer; for MPEG-TS also the offset and length of packets in bytes."""

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


def sniff_container(head: bytes) -> Container | None:
    """Detect the container from a file's first bytes; None if unknown."""
    if head[4:8] in _BOXES:
        return None if head[8:12] in _PHOTO_BRANDS else Container("mov")
    if head[:4] == b"RIFF" and head[8:12] == b"AVI ":
        return Container("avi")
    for prefix, name in _PREFIXES.items():
        if head.startswith(prefix):
            return Container(name)
    return _sniff_transport_stream(head)


def _sniff_transport_stream(head: bytes) -> Container | None:
    """Detect MPEG-TS by a sync byte every 188, 192 or 204 bytes; it may start inside a packet."""
    for packet_size in (188, 192, 204):
        for first in range(packet_size):
            syncs = head[first : first + 8 * packet_size : packet_size]
            if len(syncs) >= 4 and syncs == b"G" * len(syncs):
                # Packets of 192 bytes start with a timestamp of 4 bytes, before the sync byte.
                start = first - 4 if packet_size == 192 else first
                return Container("mpegts", start % packet_size, packet_size)
    return None


def why_no_video(head: bytes) -> str:
    """Say what the first bytes are instead of a video, for the error message."""
    if _SCRIPT.match(head.removeprefix(b"\xef\xbb\xbf")):
        return (
            "a playlist or script that refers to other files, which are not opened: "
            "pass the video file itself"
        )
    if head[4:8] == b"ftyp":
        return "a HEIC or AVIF photo: convert it to JPEG or PNG"
    if b"\0" not in head:
        return "text, not a video"
    return "not a supported video (MP4, MOV, MKV, WebM, AVI, TS, MPEG, FLV, OGG, WMV or GIF)"


def _refuse_other_files(url: str, flags: int, options: dict[str, str]) -> BinaryIO:
    del flags, options
    raise PermissionError(f"a video may not open another file: {url}")


def open_container(file: BinaryIO, path: Path, container: Container) -> InputContainer:
    """Open the demuxer only: probing may use no decoder, and no other file can be opened.

    Raises:
        InputRefusedError: If the header cannot be read.
    """
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
            f"{path}: the header cannot be read ({reason_of(error)}): the file is truncated or "
            "damaged; copy it again"
        ) from error


def reason_of(error: Exception) -> str:
    """FFmpeg's description of an error, for messages."""
    return getattr(error, "strerror", None) or str(error)


def choose_stream(container: InputContainer, path: Path, max_pixels: int) -> VideoStream:
    """Return the default video stream, else the largest one, ignoring cover art.

    Raises:
        InputRefusedError: If there is none, or its codec or size is not allowed.
    """
    streams = video_streams(container)
    if not streams:
        raise InputRefusedError(f"{path}: no video stream, only audio or data")
    known = [stream for stream in streams if stream.codec_context is not None]
    if not known:
        raise InputRefusedError(
            f"{path}: there is no decoder for its video codec: convert it to H.264"
        )
    stream = max(known, key=_preference)
    codec = stream.codec_context.codec.canonical_name
    if codec not in ALLOWED_CODECS:
        raise InputRefusedError(f"{path}: the codec {codec} is not allowed: convert it to H.264")
    check_pixels(path, stream.codec_context.width, stream.codec_context.height, max_pixels)
    return stream


def video_streams(container: InputContainer) -> list[VideoStream]:
    """Return the video streams, without cover art and thumbnails."""
    pictures = Disposition.attached_pic | Disposition.timed_thumbnails
    return [stream for stream in container.streams.video if not stream.disposition & pictures]


def _preference(stream: VideoStream) -> tuple[bool, int]:
    default = bool(stream.disposition & Disposition.default)
    return default, stream.codec_context.width * stream.codec_context.height
