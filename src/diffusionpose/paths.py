"""What a name may stand for: strangers give pipes, devices and folders where files are meant."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from diffusionpose.errors import DiffusionPoseError

# fmt: off
VIDEO_SUFFIXES = frozenset((
    ".mp4", ".m4v", ".mov", ".qt", ".mkv", ".webm", ".avi", ".ts", ".mts", ".m2ts", ".mpg", ".mpeg",
    ".vob", ".flv", ".f4v", ".ogv", ".ogg", ".wmv", ".asf", ".3gp", ".3g2", ".mxf", ".dv", ".m2v",
    ".h264", ".h265", ".hevc", ".y4m", ".rm", ".rmvb",
))
# fmt: on
"""A file so named in a folder is meant as a video, also when it turns out to be none."""
IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp"})


def check_regular(path: Path, error: type[DiffusionPoseError]) -> None:
    """Lets regular files pass, and names that stand for nothing: a pipe or a device would be read without an end.

    Raises:
        DiffusionPoseError: Of the given class, if there is anything else under that name.
    """
    # Not the methods of `Path`, which raise on names too long for the system.
    if os.path.exists(path) and not os.path.isfile(path):
        kind = "a folder" if os.path.isdir(path) else "a pipe or device"
        raise error(f"{path}: {kind}, not a regular file: give a file")


@contextmanager
def temporary_folder(prefix: str = "diffusionpose-") -> Iterator[Path]:
    """A folder that is removed at the end of the block.

    Raises:
        DiffusionPoseError: If none can be made, as in a container that is all read-only.
    """
    try:
        made = tempfile.TemporaryDirectory(prefix=prefix)
    except OSError as error:
        raise DiffusionPoseError(
            f"no temporary folder ({error.strerror}): set TMPDIR to a folder that can be written to",
            plain=f"no temporary folder ({error.strerror})",
        ) from error
    with made as folder:
        yield Path(folder)


def bare_name(name: str) -> str:
    """A frame's path without `images/` and the like in front, which files disagree about."""
    parts = PurePosixPath(name.replace("\\", "/")).parts
    while len(parts) > 1 and parts[0] in ("data", "images", "images_renamed", "/", "."):
        parts = parts[1:]
    return "/".join(parts)
