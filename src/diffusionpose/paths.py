"""File paths: known suffixes, checks for regular files, temporary folders."""

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
"""Files with these suffixes in a folder are taken for videos, even if they turn out not to be."""
IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp"})
EXPORTED = ".onnx"


def is_exported(model: str | Path) -> bool:
    """Whether the name of a model is that of an exported ONNX file, which may be missing."""
    path = Path(model)
    return path.suffix.lower() == EXPORTED and not path.is_dir()


def check_regular(path: Path, error: type[DiffusionPoseError]) -> None:
    """Reject paths that exist but are not regular files: reading a pipe or device might never end.

    Args:
        path: May be missing.
        error: Class to raise.

    Raises:
        DiffusionPoseError: Of the given class, if there is a folder, pipe or device at `path`.
    """
    # Unlike these functions, the methods of `Path` raise if a name is too long for the system.
    if os.path.exists(path) and not os.path.isfile(path):
        kind = "a folder" if os.path.isdir(path) else "a pipe or device"
        raise error(f"{path} is {kind}, not a regular file")


@contextmanager
def temporary_folder(prefix: str = "diffusionpose-") -> Iterator[Path]:
    """Make a temporary folder that is removed at the end of the block.

    Raises:
        DiffusionPoseError: If it cannot be made, e.g. in a read-only container.
    """
    try:
        made = tempfile.TemporaryDirectory(prefix=prefix)
    except OSError as error:
        raise DiffusionPoseError(
            f"cannot make a temporary folder ({error.strerror}): set TMPDIR to a writable folder",
            plain=f"cannot make a temporary folder ({error.strerror})",
        ) from error
    with made as folder:
        yield Path(folder)


def bare_name(name: str) -> str:
    """Strip `images/` and similar prefixes, on which data sets disagree, from a frame's path."""
    parts = PurePosixPath(name.replace("\\", "/")).parts
    while len(parts) > 1 and parts[0] in ("data", "images", "images_renamed", "/", "."):
        parts = parts[1:]
    return "/".join(parts)
