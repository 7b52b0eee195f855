"""Locating the images of annotated videos and their temporal neighbours."""

import os
import re
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path, PurePath, PurePosixPath

from diffusionpose.annotations import AnnotatedVideo
from diffusionpose.errors import DataError

_LAST_NUMBER = re.compile(r"[0-9]{1,18}(?=[^0-9]*$)")


class VideoImages:
    """The image files of a video, and their temporal neighbours.

    Args:
        files: Image files in the order of the annotation file.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        self.files = tuple(files)
        numbers = [frame_number(file) for file in self.files]
        known = sorted(number for number in numbers if number is not None)
        if len(set(known)) < len(self.files):
            # Without unique frame numbers, assume that files are in temporal order.
            numbers = known = list(range(len(self.files)))
            self._is_numbered = False
        else:
            self._is_numbered = True
        self._numbers = [number or 0 for number in numbers]
        self._at = dict(zip(self._numbers, self.files, strict=True))
        gaps = [later - earlier for earlier, later in pairwise(known)]
        self._step = min(gaps, default=1)

    def at(self, index: int, offset: int) -> Path | None:
        """Return the frame `offset` frames after that at `index`, listed or only on disk; or None.

        If only every n-th frame of a video exists, the n-th counts as the next.
        """
        number = self._numbers[index] + offset
        if number in self._at:
            return self._at[number]
        if self._is_numbered and number >= 0:
            file = _renumbered(self.files[index], number)
            if is_file(file):
                return file
        return self._at.get(self._numbers[index] + offset * self._step)

    def clip(self, index: int, offset: int = 1) -> tuple[Path, Path, Path]:
        """Return frames t - offset, t, t + offset for t = `index`; t replaces missing ones."""
        key = self.files[index]
        return self.at(index, -offset) or key, key, self.at(index, offset) or key


def is_file(path: Path) -> bool:
    """Return whether a file exists; False, not an error, for invalid names in annotations."""
    return os.path.isfile(path)


def frame_number(file: PurePath) -> int | None:
    """Return the last number in a file's name: 7 for `000007.jpg` and for `0007_crop.jpg`."""
    found = _LAST_NUMBER.search(file.stem)
    return int(found.group()) if found else None


def _renumbered(file: Path, number: int) -> Path:
    stem = _LAST_NUMBER.sub(lambda old: f"{number:0{len(old.group())}d}", file.stem)
    return file.with_name(stem + file.suffix)


def locate_images(root: Path, split: str, video: AnnotatedVideo) -> VideoImages:
    """Locate the image files of a video in one of the usual layouts of PoseTrack roots.

    Files may be at the annotated path, under `images` or `data`, or renamed by common PoseTrack17
    tools to `images_renamed/.../%08d.jpg`, counted from 1. The first layout in which any frame
    exists is used for all frames of the video.

    Raises:
        DataError: If none of the images exists.
    """
    places = list(_places(Path(root), split, video))
    for place in places:
        if is_file(place(0)):
            return VideoImages([place(index) for index in range(len(video.frames))])
    for place in places:
        files = [place(index) for index in range(len(video.frames))]
        if any(map(is_file, files)):
            return VideoImages(files)
    looked = ", ".join(dict.fromkeys(repr(str(place(0))) for place in places))
    raise DataError(f"video {video.name}: none of its images exists; looked for {looked}, ...")


def _places(root: Path, split: str, video: AnnotatedVideo) -> Iterator[Callable[[int], Path]]:
    """Yield functions from the index of a frame to its possible path, one per layout."""

    def under(folder: str) -> Callable[[int], Path]:
        return lambda index: root / folder / video.frames[index].file_name

    def renamed(*folders: str) -> Callable[[int], Path]:
        return lambda index: root.joinpath("images_renamed", *folders, f"{index + 1:08d}.jpg")

    yield from (under(folder) for folder in ("", "images", "data", "images_renamed"))
    parent = PurePosixPath(video.frames[0].file_name).parent
    for name in dict.fromkeys((video.name, parent.name)):
        yield renamed(split, name)
        yield renamed(name)
    yield renamed(*parent.parts)
