"""Registry of exports, and atomic writing of their files."""

import importlib.util
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Self

from diffusionpose.errors import MissingExtraError, UsageError
from diffusionpose.exports.motion import NoMetresError, write_c3d, write_trc
from diffusionpose.exports.openpose import openpose_files
from diffusionpose.exports.tables import write_angles, write_npz, write_parquet
from diffusionpose.formats import AtomicFile
from diffusionpose.formats.atomic_file import AtomicFolder, explained
from diffusionpose.poses import VideoPoses


@dataclass(frozen=True)
class ExportOptions:
    """Options of exports; `height` is that of each person in metres, for TRC and C3D."""

    height: float | None = None


Write = Callable[[Path], None]
Files = Iterator[tuple[str, Write]]
"""Suffix of each file, and the function that writes it; a suffix that ends in a slash is a
folder."""


@dataclass(frozen=True)
class Export:
    """An export format.

    Args:
        suffix: Of file names; formats with a file per person insert `.person3` or the like before
            it.
        files: Yields the files to write.
        needs: Package and extra that it requires, or None.
        in_metres: Whether it needs a person's height.
    """

    suffix: str
    files: Callable[[VideoPoses, str, ExportOptions], Files]
    needs: tuple[str, str] | None = None
    in_metres: bool = False


def _one(suffix: str, write: Callable[[VideoPoses, Path], None]) -> Callable[..., Files]:
    def files(poses: VideoPoses, name: str, options: ExportOptions) -> Files:
        del name, options
        yield suffix, partial(write, poses)

    return files


def _trc(poses: VideoPoses, name: str, options: ExportOptions) -> Files:
    for track in poses.track_ids:
        suffix = f".person{track}.trc"
        yield suffix, partial(_write_trc, poses, track, options, name + suffix)


def _write_trc(
    poses: VideoPoses, track: int, options: ExportOptions, name: str, path: Path
) -> None:
    assert options.height is not None
    write_trc(poses, track, options.height, path, name)


def _c3d(poses: VideoPoses, name: str, options: ExportOptions) -> Files:
    del name
    for track in poses.track_ids:
        yield f".person{track}.c3d", partial(_write_c3d, poses, track, options)


def _write_c3d(poses: VideoPoses, track: int, options: ExportOptions, path: Path) -> None:
    assert options.height is not None
    write_c3d(poses, track, options.height, path)


def _openpose(poses: VideoPoses, name: str, options: ExportOptions) -> Files:
    del options

    def write(folder: Path) -> None:
        for file, text in openpose_files(poses, name):
            (folder / file).write_text(text, encoding="utf-8")

    yield ".openpose/", write


EXPORTS = {
    "parquet": Export(
        ".poses.parquet", _one(".poses.parquet", write_parquet), ("pyarrow", "tables")
    ),
    "npz": Export(".poses.npz", _one(".poses.npz", write_npz)),
    "angles": Export(".angles.csv", _one(".angles.csv", write_angles)),
    "openpose": Export(".openpose", _openpose),
    "trc": Export(".trc", _trc, in_metres=True),
    "c3d": Export(".c3d", _c3d, ("ezc3d", "motion"), in_metres=True),
}


def check_exports(names: Sequence[str], options: ExportOptions) -> None:
    """Check, before any work, that the exports can be written.

    Raises:
        UsageError: If a required height is missing, or it is out of range.
        MissingExtraError: If the package of an export is not installed.
    """
    for name in names:
        export = EXPORTS[name]
        if export.needs and importlib.util.find_spec(export.needs[0]) is None:
            raise MissingExtraError(*export.needs)
        if export.in_metres and options.height is None:
            raise UsageError(
                f"--format {name} is in metres: give the person's height with --height-m"
            )
    if options.height is not None and not 0.3 <= options.height <= 3:
        raise UsageError(f"--height-m must be between 0.3 and 3 metres, not {options.height:g}")


class StagedExports:
    """Exports of a result under temporary names, until `publish`. Use as a context manager.

    Raises:
        UsageError: If the files cannot be written.
    """

    notes: tuple[str, ...] = ()
    """Which files were not written, and why."""

    def __init__(
        self,
        poses: VideoPoses,
        names: Sequence[str],
        folder: Path,
        stem: str,
        options: ExportOptions,
    ) -> None:
        self._staged: list[AtomicFile | AtomicFolder] = []
        try:
            for name in names:
                self._stage(poses, name, folder, stem, options)
        except BaseException:
            self.discard()
            raise

    def _stage(
        self, poses: VideoPoses, name: str, folder: Path, stem: str, options: ExportOptions
    ) -> None:
        files = list(EXPORTS[name].files(poses, stem, options))
        if not files:
            self.notes += (f"no {name} file was written: nobody has a track id",)
        for suffix, write in files:
            path = folder / f"{stem}{suffix}"
            staged = AtomicFolder(path) if suffix.endswith("/") else AtomicFile(path)
            self._staged.append(staged)
            try:
                with explained(path):
                    write(staged.temporary)
            except NoMetresError as error:
                self.notes += (f"{path.name} was not written: {error}",)
                self._staged.remove(staged)
                staged.discard()

    @property
    def paths(self) -> tuple[Path, ...]:
        """Final paths of the files."""
        return tuple(staged.path for staged in self._staged)

    def publish(self) -> None:
        """Publish all files under their final names."""
        for staged in self._staged:
            staged.publish()

    def discard(self) -> None:
        """Remove everything that has not been published."""
        for staged in self._staged:
            staged.discard()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.discard()
