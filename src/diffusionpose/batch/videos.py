"""Finding the video files of a batch."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from diffusionpose.errors import UsageError
from diffusionpose.paths import VIDEO_SUFFIXES
from diffusionpose.video.containers import sniff_container

_HEAD_BYTES = 4096


def find_videos(given: Sequence[Path]) -> tuple[Path, ...]:
    """List the given files, and the videos directly in the given folders by name; each once.

    In a folder, videos are files that are not hidden and have a video's suffix or first bytes.

    Raises:
        UsageError: If nothing is found, a folder cannot be read, or two videos would have results
            of the same name.
    """
    found: dict[Path, Path] = {}
    for path in given:
        for video in _in_folder(path) if path.is_dir() else [path]:
            found.setdefault(video.absolute().resolve(), video)
    videos = tuple(found.values())
    if not videos:
        raise UsageError("no videos: give video files, or folders with videos directly in them")
    _check_names(videos)
    return videos


def _in_folder(folder: Path) -> Iterator[Path]:
    try:
        names = sorted(os.listdir(folder))
    except OSError as error:
        raise UsageError(f"{folder}: cannot be read: {error.strerror}") from None
    videos = [folder / name for name in names if _is_meant_as_video(folder / name)]
    if not videos:
        raise UsageError(f"{folder} has no videos directly in it")
    yield from videos


def _is_meant_as_video(path: Path) -> bool:
    if path.name.startswith(".") or not path.is_file():
        return False
    if path.suffix.lower() in VIDEO_SUFFIXES:
        return True
    try:
        with path.open("rb") as file:
            return sniff_container(file.read(_HEAD_BYTES)) is not None
    except OSError:
        # An unreadable file must not stop the batch.
        return False


def _check_names(videos: Sequence[Path]) -> None:
    """Refuse videos whose results would overwrite each other."""
    seen: dict[str, Path] = {}
    for video in videos:
        # Some file systems are case-insensitive.
        other = seen.setdefault(video.stem.casefold(), video)
        if other is not video:
            raise UsageError(
                f"{other} and {video} would both become {video.stem}.poses.json: rename one, or process "
                "them in two batches with different --out"
            )
