"""Evidence of losses in a video.

Sources are the header (`read_promise`), frames that are damaged or predicted from damaged ones
(`DamageLog`), and gaps in the times (`timing_issues`).
"""

import re
import struct
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import BinaryIO

import av
import numpy as np
from av.container import InputContainer
from av.video.stream import VideoStream

from diffusionpose.structures import VideoIssue
from diffusionpose.video.containers import Container
from diffusionpose.video.files import MAX_NAMED, read_at

_STEADY_SHARE = 0.9
_STEADY_TOLERANCE = 0.25
_GAP_FACTOR = 1.75
_REORDER_WINDOW = 64


# --- Before reading: the header -------------------------------------------------------------------


@dataclass(frozen=True)
class Promise:
    """What header and index declare before reading; None where they do not.

    Args:
        frames: Number of frames to be shown.
        end: Minimum size of the file in bytes.
        seconds: End of the last packet.
    """

    frames: int | None
    end: int | None
    seconds: Fraction | None


def read_promise(
    file: BinaryIO, size: int, container: Container, opened: InputContainer, stream: VideoStream
) -> Promise:
    """Read header and index; frames hidden by an edit list and empty chunks do not count."""
    hidden = shown = end = 0
    for entry in stream.index_entries:
        hidden += entry.size == 0
        shown += not entry.is_discard
        end = max(end, entry.pos + entry.size)
    frames = stream.frames - hidden if stream.frames > 0 else None
    if container.name == "mov" and frames is not None and shown:
        frames = shown - hidden
    declared = _declared_end(file, size, container)
    return Promise(frames, max(end, declared or 0) or None, _declared_seconds(container, opened))


def _declared_seconds(container: Container, opened: InputContainer) -> Fraction | None:
    # Only these store a duration; for others, FFmpeg estimates it from the data present.
    if container.name not in {"matroska", "flv", "asf"} or not opened.duration:
        return None
    return Fraction(opened.duration, av.time_base)


def _declared_end(file: BinaryIO, size: int, container: Container) -> int | None:
    """Size in bytes that the outermost structure declares; truncated if it exceeds `size`."""
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
                tail = read_at(file, max(0, size - 512), 512).rstrip(b"\0")
                return size if tail.endswith(b";") else size + 1
            case "mpegts":
                rest = -(size - container.first_packet) % container.packet_size
                return size + rest
        return None
    finally:
        file.seek(position)


_LAST_BOXES = {b"mdat", b"moof", b"moov", b"mfra", b"sidx", b"styp"}


def _end_of_boxes(file: BinaryIO, size: int) -> int | None:
    """End of the last top-level box of an ISO file; trailing junk is not taken for a box."""
    position = 0
    while position + 8 <= size:
        header = read_at(file, position, 16)
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
    """End of a Matroska segment; None if its size is unknown, as in a live stream."""
    head = read_at(file, 0, 512)
    size, width = _ebml_size(head[4:])
    start = 4 + width + (size or 0)
    if head[start : start + 4] != b"\x18\x53\x80\x67":
        return None
    size, width = _ebml_size(head[start + 4 :])
    return None if size is None else start + 4 + width + size


def _ebml_size(data: bytes) -> tuple[int | None, int]:
    """Parse a variable-length size; return it (None if unknown: all bits set) and its width."""
    if not data or not data[0]:
        return None, 1
    width = 9 - data[0].bit_length()
    mask = (1 << 7 * width) - 1
    value = int.from_bytes(data[:width], "big") & mask
    return (None if value == mask else value), width


def _end_of_riff(file: BinaryIO) -> int | None:
    size = struct.unpack("<I", read_at(file, 4, 4))[0]
    # Writers that cannot seek back leave zero or all bits set.
    return None if size == 0 or size >= 0xFFFFFFF0 else size + 8


_ASF_FILE_PROPERTIES = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")


def _end_of_asf(file: BinaryIO) -> int | None:
    """Size in the file properties; None if it is 0, as in a broadcast."""
    head = read_at(file, 0, 4096)
    at = head.find(_ASF_FILE_PROPERTIES) + 40
    return struct.unpack("<Q", head[at : at + 8])[0] or None if 40 <= at <= len(head) - 8 else None


def _end_of_ogg(file: BinaryIO, size: int) -> int | None:
    """End of the last page; beyond `size` if that page is not flagged as the last one."""
    start = max(0, size - (1 << 17))
    tail = read_at(file, start, 1 << 17)
    at = tail.rfind(b"OggS")
    header = tail[at : at + 27]
    if at < 0 or len(header) < 27:
        return size + 1
    segments = tail[at + 27 : at + 27 + header[26]]
    end = start + at + 27 + header[26] + sum(segments)
    return end if header[5] & 4 else max(end, size + 1)


# --- While reading: damage and its spread ---------------------------------------------------------


@dataclass(frozen=True)
class Origin:
    """Tag of a packet that passes through the decoder and identifies the source of a frame.

    Args:
        number: Of the packet, in decoding order.
        group: Number of key packets up to and including this one.
        key_pts: Time of the group's key frame; frames shown before it may also be predicted from
            the previous group.
    """

    number: int
    group: int
    key_pts: int | None

    def groups_of(self, pts: int | None) -> tuple[int, int]:
        """First and last group that a frame shown at `pts` may be predicted from."""
        leading = pts is not None and self.key_pts is not None and pts < self.key_pts
        return self.group - leading, self.group


class DamageLog:
    """Record of frames that are damaged, or predicted from damaged data, up to the next key frame.

    An upper bound on detected damage: a damaged frame marks the rest of its group even if no other
    frame refers to it. Damage that the decoder does not detect (those of VP8, VP9 and HEVC detect
    little) is missing.
    """

    def __init__(self) -> None:
        self.flags = bytearray()
        self._spoiled: dict[int, int] = {}
        self._recent: deque[tuple[tuple[int, int], int, int]] = deque(maxlen=_REORDER_WINDOW)

    def spoil(self, group: int, number: int) -> None:
        """Mark everything decoded from packet `number` on in its group as damaged."""
        self._spoiled[group] = min(number, self._spoiled.get(group, number))
        for groups, later, index in self._recent:
            if group in groups and later >= number:
                self.flags[index] = 1
        for old in [old for old in self._spoiled if old < group - 2]:
            del self._spoiled[old]

    def add(self, groups: tuple[int, int], number: int, damaged: bool) -> None:
        """Record the next frame in display order, decoded from packet `number`."""
        self._recent.append((groups, number, len(self.flags)))
        self.flags.append(any(number >= self._spoiled.get(g, number + 1) for g in groups))
        if damaged:
            self.spoil(groups[0], number)

    def runs(self) -> list[tuple[int, int]]:
        """First and last index of every run of damaged frames."""
        return [(m.start(), m.end() - 1) for m in re.finditer(b"\x01+", self.flags)]


# --- After reading: the times ---------------------------------------------------------------------


def timing_issues(
    pts: np.ndarray, time_base: Fraction, explicit_durations: bool
) -> Iterator[VideoIssue]:
    """Yield issues for irregular times (VFR), or for gaps in otherwise regular times (PTS_GAP).

    Missing frames can only be inferred if nearly all steps are equal. If the container stores the
    duration of each frame, a gap is intended, and its severity is only `info`.

    Args:
        pts: (num_frames,) increasing times in ticks.
        time_base: Seconds per tick.
        explicit_durations: Whether the container stores a duration for every frame.
    """
    steps = np.diff(pts)
    if len(steps) < 2:
        return
    step = float(np.median(steps))
    # Tolerate rounding by one tick: those of Matroska are whole milliseconds.
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
    for index in map(int, gaps[:MAX_NAMED]):
        missing = round(float(steps[index]) / step) - 1
        start, end = (float(int(pts[i]) * time_base) for i in (index, index + 1))
        what = "1 frame is" if missing == 1 else f"{missing} frames are"
        text = f"about {what} missing after frame {index}, between {start:.3f} s and {end:.3f} s"
        yield VideoIssue("PTS_GAP", text, severity, index)
    if len(gaps) > MAX_NAMED:
        text = f"{len(gaps) - MAX_NAMED} more gaps between frames"
        yield VideoIssue("PTS_GAP", text, severity, int(gaps[MAX_NAMED]))
