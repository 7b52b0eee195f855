"""Safe opening of files, and limits and defaults shared by the readers of containers and images.

Names are untrusted: only regular files are opened, and only here.
"""

import errno
import hashlib
import os
import re
import stat
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO

from diffusionpose.errors import InputRefusedError, UsageError

MAX_PIXELS = 64_000_000
"""Maximum number of pixels of a frame: enough for 8K (33 million) and most cameras' photos."""
DEFAULT_IMAGE_RATE = Fraction(25)
"""Default images per second of a folder."""
MAX_NAMED = 5
"""Maximum number of issues of one kind that a verdict describes one by one; others are counted."""

_END_BYTES = 1 << 20


def as_path(source: str | os.PathLike[str]) -> Path:
    """Convert the source to a path.

    Raises:
        UsageError: If it is not a path, such as an array of frames.
        InputRefusedError: If it is empty or holds a NUL.
    """
    if not isinstance(source, (str, bytes, os.PathLike)):
        raise UsageError(
            f"a video is given by its path, not as {type(source).__name__}: "
            "pass your own frames to PosePipeline.stream"
        )
    text = os.fsdecode(source)
    if not text or "\0" in text:
        raise InputRefusedError(
            "the name of the video is empty or holds a NUL: pass a file or folder"
        )
    return Path(text)


def open_regular(path: Path) -> tuple[BinaryIO, int]:
    """Open a regular, non-empty file; return it and its size in bytes.

    O_NONBLOCK prevents opening a pipe without a writer from blocking.

    Raises:
        InputRefusedError: If it is anything else, or cannot be opened.
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
        raise InputRefusedError(f"{path}: the file is empty (0 bytes): copy or download it again")
    raise InputRefusedError(
        f"{path}: a pipe, device or folder, not a file: save the video to a file"
    )


def fingerprint(file: BinaryIO, size: int) -> str:
    """SHA-256 of a file's size, start and end: distinguishes videos, and is fast for long ones."""
    digest = hashlib.sha256(f"{size}\n".encode())
    for start in (0, max(0, size - _END_BYTES)):
        digest.update(os.pread(file.fileno(), _END_BYTES, start))
    return digest.hexdigest()


def _why_not_opened(path: Path, error: OSError) -> str:
    text = str(path)
    if error.errno != errno.ENOENT:
        return f"{text}: cannot be opened: {error.strerror}"
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:", text):
        return f"{text}: URLs and protocols are not opened: download the video and pass its file"
    if re.search(r"%\d*d|[*?]", text):
        return f"{text}: no such file; image patterns are not expanded: pass the folder"
    return f"{text}: no such file or folder"


def read_at(file: BinaryIO, position: int, count: int) -> bytes:
    """Read bytes at an offset."""
    file.seek(position)
    return file.read(count)


def check_pixels(path: Path, width: int, height: int, max_pixels: int) -> None:
    """Refuse frames with more pixels than allowed."""
    if width * height > max_pixels:
        raise InputRefusedError(
            f"{path}: {width}x{height} is over the limit of {max_pixels} pixels per frame: "
            "scale it down"
        )


def printable(name: str) -> str:
    """Replace the bytes of a file name that are not valid UTF-8."""
    return os.fsencode(name).decode("utf-8", "replace")
