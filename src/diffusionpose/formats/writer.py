"""`PosesWriter` and the formats that it writes, in `FORMATS`."""

import math
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path, PurePath
from types import TracebackType
from typing import Literal, NamedTuple, Self, TextIO

import numpy as np

from diffusionpose.errors import UsageError
from diffusionpose.formats.atomic_file import AtomicFile, explained
from diffusionpose.formats.datasets import CocoEncoder, PoseTrackEncoder
from diffusionpose.formats.encoders import CsvEncoder, Encoder, JsonEncoder
from diffusionpose.formats.schema import check_track_ids
from diffusionpose.formats.text import rounded_frame
from diffusionpose.structures import FramePoses, PosesHeader, VideoVerdict


class Format(NamedTuple):
    """A format of result files: suffix of the file name, and the encoder."""

    suffix: str
    encoder: Callable[[PosesHeader], Encoder]


FORMATS = {
    "json": Format(".poses.json", JsonEncoder),
    "csv": Format(".poses.csv", CsvEncoder),
    "posetrack": Format(".posetrack.json", PoseTrackEncoder),
    "coco": Format(".coco.json", CocoEncoder),
}


class _Output:
    """One file being written: an encoder, its spools, and the target."""

    def __init__(self, path: Path, encoder: Encoder) -> None:
        self.file = AtomicFile(path)
        self.encoder = encoder
        self._spools: list[TextIO] = []
        try:
            with explained(path, UsageError):
                for _ in range(encoder.num_spools):
                    self._spools.append(_spool(path.parent))
        except BaseException:
            self.discard()
            raise

    def write(self, frame: FramePoses) -> None:
        for spool, lines in zip(self._spools, self.encoder.encode(frame), strict=True):
            spool.writelines(f"{line}\n" for line in lines)

    def compose(self, verdict: VideoVerdict) -> None:
        with open(self.file.temporary, "w", encoding="utf-8", newline="\n") as target:
            target.writelines(self.encoder.compose(verdict, *map(_replayed, self._spools)))

    def discard(self) -> None:
        for spool in self._spools:
            with suppress(OSError):  # closing flushes, which fails again on a full disk
                spool.close()
        self.file.discard()


def _spool(folder: Path) -> TextIO:
    """Open an unnamed temporary file for lines; beside the target, since /tmp may be in memory."""
    return tempfile.TemporaryFile(
        "w+", encoding="utf-8", newline="\n", dir=folder, prefix=".diffusionpose.tmp-"
    )


def _replayed(spool: TextIO) -> Iterator[str]:
    spool.seek(0)
    for line in spool:
        yield line.removesuffix("\n")


class PosesWriter:
    """Writes one result in several formats, frame by frame.

    Use as a context manager and end with `close(verdict)`; leaving the block in any other way
    removes everything. To publish other files at the same time, call `stage`, then `publish`.

    Args:
        header: Of the result.
        targets: Files to write, each with the name of its format.

    Raises:
        UsageError: If a format is unknown, or a file cannot be written.
    """

    def __init__(self, header: PosesHeader, targets: Iterable[tuple[Path, str]]) -> None:
        self._header = header
        self._last_index, self._last_time = -1, -math.inf
        self._state: Literal["open", "staged", "published", "discarded"] = "open"
        self._outputs: list[_Output] = []
        self._names: list[str] = []
        try:
            for path, name in targets:
                _check_format(name)
                self._names.append(name)
                self._outputs.append(_Output(Path(path), FORMATS[name].encoder(header)))
        except BaseException:
            self.discard()
            raise

    def retitle(self, header: PosesHeader) -> None:
        """Replace the header before the first frame is written.

        Raises:
            ValueError: If a frame has been written, or the files are complete.
        """
        self._expect("open")
        if self._last_index >= 0:
            raise ValueError(
                f"frame {self._last_index} has already been written with another header"
            )
        self._header = header
        for output, name in zip(self._outputs, self._names, strict=True):
            output.encoder = FORMATS[name].encoder(header)

    @property
    def paths(self) -> tuple[Path, ...]:
        """Final paths of the files."""
        return tuple(output.file.path for output in self._outputs)

    def write(self, frame: FramePoses) -> None:
        """Append a frame.

        Raises:
            ValueError: If the frame is out of order or does not fit the header.
            DiffusionPoseError: If it cannot be written, for example because the disk is full.
        """
        self._expect("open")
        self._check(frame)
        self._last_index, self._last_time = frame.index, float(frame.time)
        frame = rounded_frame(frame)
        for output in self._outputs:
            with explained(output.file.path):
                output.write(frame)

    def close(self, verdict: VideoVerdict) -> None:
        """Complete and publish all files."""
        self.stage(verdict)
        self.publish()

    def stage(self, verdict: VideoVerdict) -> None:
        """Complete all files under their temporary names."""
        self._expect("open")
        for output in self._outputs:
            with explained(output.file.path):
                output.compose(verdict)
        self._state = "staged"

    def publish(self) -> None:
        """Publish the completed files under their final names."""
        self._expect("staged")
        for output in self._outputs:
            output.file.publish()
        self._state = "published"
        self.discard()

    def discard(self) -> None:
        """Remove everything that has not been published."""
        for output in self._outputs:
            output.discard()
        if self._state != "published":
            self._state = "discarded"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.discard()
        if kind is None and self._state != "published":
            raise RuntimeError("the writer was not closed with a verdict; its files were removed")

    def _expect(self, state: str) -> None:
        if self._state != state:
            raise ValueError(f"the writer is {self._state}, not {state}")

    def _check(self, frame: FramePoses) -> None:
        """Reject frames that readers would reject."""
        if frame.index <= self._last_index:
            raise ValueError(
                f"frame {frame.index} follows frame {self._last_index}: indices must increase"
            )
        if float(frame.time) <= self._last_time:
            raise ValueError(
                f"frame {frame.index}: time {float(frame.time)} s is not after {self._last_time} s"
            )
        shape = (len(self._header.joints), 3)
        for person in frame.people:
            if np.shape(person.keypoints) != shape:
                found = np.shape(person.keypoints)
                raise ValueError(f"frame {frame.index}: keypoints have shape {found}, not {shape}")
            if not np.isfinite([*person.box, person.box_score, person.score]).all():
                raise ValueError(f"frame {frame.index}: a box or score is not finite")
        check_track_ids(frame)


def _check_format(name: str) -> None:
    if name not in FORMATS:
        raise UsageError(f"unknown format {name!r}; choose from {', '.join(FORMATS)}")


def open_writers(
    formats: Sequence[str], out_dir: str | os.PathLike[str], name: str, header: PosesHeader
) -> PosesWriter:
    """Open a writer of `OUT_DIR/NAME` + suffix for each format; the folder is created if missing.

    Raises:
        UsageError: If a format is unknown, or the files cannot be written.
    """
    for wanted in formats:
        _check_format(wanted)
    if not name or PurePath(name).name != name or "\0" in name:
        raise UsageError(f"{name!r} is not a valid file name")
    folder = Path(out_dir)
    targets = [(folder / (name + FORMATS[each].suffix), each) for each in dict.fromkeys(formats)]
    return PosesWriter(header, targets)


def write_poses(
    path: str | os.PathLike[str],
    format_name: str,
    header: PosesHeader,
    frames: Iterable[FramePoses],
    verdict: VideoVerdict,
) -> None:
    """Write a complete result to one file in a format of `FORMATS`.

    Raises:
        UsageError: If the format is unknown, or the file cannot be written.
        ValueError: If a frame is out of order or does not fit the header.
    """
    with PosesWriter(header, [(Path(path), format_name)]) as writer:
        for frame in frames:
            writer.write(frame)
        writer.close(verdict)
