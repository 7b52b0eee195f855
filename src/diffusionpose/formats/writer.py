"""`PosesWriter` and the formats that it writes, named in `FORMATS`."""

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
    """A result file: what its name ends in, and what spells it."""

    suffix: str
    encoder: Callable[[PosesHeader], Encoder]


FORMATS = {
    "json": Format(".poses.json", JsonEncoder),
    "csv": Format(".poses.csv", CsvEncoder),
    "posetrack": Format(".posetrack.json", PoseTrackEncoder),
    "coco": Format(".coco.json", CocoEncoder),
}


class _Output:
    """One file in the making: an encoder, its spools, and the file that they become."""

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
            with suppress(OSError):  # closing flushes, which fails again where the disk is full
                spool.close()
        self.file.discard()


def _spool(folder: Path) -> TextIO:
    """Lines on disk, beside the target since /tmp may be memory; without a name, so a kill leaves nothing."""
    return tempfile.TemporaryFile(
        "w+", encoding="utf-8", newline="\n", dir=folder, prefix=".diffusionpose.tmp-"
    )


def _replayed(spool: TextIO) -> Iterator[str]:
    spool.seek(0)
    for line in spool:
        yield line.removesuffix("\n")


class PosesWriter:
    """Writes one result in several formats, a frame at a time.

    Use as a context manager and end with `close(verdict)`; leaving the block in any other way removes
    everything. To publish other files at the same moment, call `stage`, then `publish`.

    Args:
        header: Of the result.
        targets: Files to write, each with the name of its format.

    Raises:
        UsageError: If there is no such format, or a file cannot be written there.
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
        """Another header, while no frame is written.

        Raises:
            ValueError: One is, or the files are complete.
        """
        self._expect("open")
        if self._last_index >= 0:
            raise ValueError(f"frame {self._last_index} is written under another header")
        self._header = header
        for output, name in zip(self._outputs, self._names, strict=True):
            output.encoder = FORMATS[name].encoder(header)

    @property
    def paths(self) -> tuple[Path, ...]:
        """The files under their final names."""
        return tuple(output.file.path for output in self._outputs)

    def write(self, frame: FramePoses) -> None:
        """Appends a frame.

        Raises:
            ValueError: The frame is out of order or does not fit the header.
            DiffusionPoseError: It cannot be written, for example since the disk is full.
        """
        self._expect("open")
        self._check(frame)
        self._last_index, self._last_time = frame.index, float(frame.time)
        frame = rounded_frame(frame)
        for output in self._outputs:
            with explained(output.file.path):
                output.write(frame)

    def close(self, verdict: VideoVerdict) -> None:
        """Completes all files and gives them their names."""
        self.stage(verdict)
        self.publish()

    def stage(self, verdict: VideoVerdict) -> None:
        """Completes all files under their temporary names."""
        self._expect("open")
        for output in self._outputs:
            with explained(output.file.path):
                output.compose(verdict)
        self._state = "staged"

    def publish(self) -> None:
        """Gives the completed files their names."""
        self._expect("staged")
        for output in self._outputs:
            output.file.publish()
        self._state = "published"
        self.discard()

    def discard(self) -> None:
        """Removes what is not published."""
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
            raise RuntimeError("poses were written but not closed with a verdict: removed")

    def _expect(self, state: str) -> None:
        if self._state != state:
            raise ValueError(f"the writer is {self._state}, not {state}")

    def _check(self, frame: FramePoses) -> None:
        """What no reader could make sense of is refused at the frame that brings it."""
        if frame.index <= self._last_index:
            raise ValueError(f"frame {frame.index} comes after frame {self._last_index}")
        if float(frame.time) <= self._last_time:
            raise ValueError(
                f"frame {frame.index}: time {float(frame.time)} s does not come after {self._last_time} s"
            )
        shape = (len(self._header.joints), 3)
        for person in frame.people:
            if np.shape(person.keypoints) != shape:
                found = np.shape(person.keypoints)
                raise ValueError(f"frame {frame.index}: keypoints are {found}, not {shape}")
            if not np.isfinite([*person.box, person.box_score, person.score]).all():
                raise ValueError(f"frame {frame.index}: a box or score is not finite")
        check_track_ids(frame)


def _check_format(name: str) -> None:
    if name not in FORMATS:
        raise UsageError(f"format {name!r}: there are {', '.join(FORMATS)}")


def open_writers(
    formats: Sequence[str], out_dir: str | os.PathLike[str], name: str, header: PosesHeader
) -> PosesWriter:
    """A writer of `OUT_DIR/NAME` + suffix for each format; the folder is made if it is not there.

    Raises:
        UsageError: There is no such format, or the files cannot be written.
    """
    for wanted in formats:
        _check_format(wanted)
    if not name or PurePath(name).name != name or "\0" in name:
        raise UsageError(f"{name!r} cannot name a file")
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
    """A whole result into one file of a format in `FORMATS`.

    Raises:
        UsageError: There is no such format, or the file cannot be written.
        ValueError: A frame is out of order or does not fit the header.
    """
    with PosesWriter(header, [(Path(path), format_name)]) as writer:
        for frame in frames:
            writer.write(frame)
        writer.close(verdict)
