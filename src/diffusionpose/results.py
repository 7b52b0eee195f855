"""Options of result files (formats, postprocessing of tracks), and conversion of results."""

import os
import re
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path

import numpy as np

from diffusionpose.errors import DataError, UsageError
from diffusionpose.exports import EXPORTS, ExportOptions, StagedExports, check_exports
from diffusionpose.formats import FORMATS, check_target, open_writers
from diffusionpose.formats.text import SECOND_DECIMALS
from diffusionpose.poses import VideoPoses
from diffusionpose.postprocess import Smoother, drop_weak, fill_gaps, smooth
from diffusionpose.structures import PosesHeader

FILM = ".mp4"
"""Suffix of the annotated video."""
PAGE = ".report.html"
"""Suffix of the report."""
SUFFIXES = (*(made.suffix for made in (*FORMATS.values(), *EXPORTS.values())), FILM, PAGE)
"""Suffixes of all files of a result; in files per person, the person precedes it: `.person3`."""


def files_of_result(folder: Path, stem: str, suffixes: Iterable[str]) -> list[Path]:
    """List the files in a folder that have names of result files, including those per person."""
    ends = "|".join(map(re.escape, suffixes))
    of_result = re.compile(rf"{re.escape(stem)}(\.person\d+)?({ends})")
    with suppress(FileNotFoundError, NotADirectoryError), os.scandir(folder) as there:
        return sorted(folder / one.name for one in there if of_result.fullmatch(one.name))
    return []


def left_over(there: Sequence[Path], made: Sequence[Path]) -> tuple[str, ...]:
    """Describe files of an earlier run that are next to those of this run but not part of them."""
    others = ", ".join(path.name for path in there if path not in made)
    return (f"left from before, not made with these results: {others}",) if others else ()


@dataclass(frozen=True)
class ResultOptions:
    """Formats and postprocessing of tracks.

    Args:
        formats: Names in `formats.FORMATS` and `exports.EXPORTS`.
        fill_gaps: Maximum length in frames of a gap to fill; 0 fills none.
        smoother: Of the paths of joints; None for no smoothing.
        export: For exports in metres.
        min_score: Joints with a lower score become missing, before gaps are filled.

    Raises:
        UsageError: If a format is unknown, or an option is missing or out of range.
        MissingExtraError: If the package that a format needs is not installed.
    """

    formats: tuple[str, ...] = ("json",)
    fill_gaps: int = 0
    smoother: Smoother | None = None
    export: ExportOptions = field(default_factory=ExportOptions)
    min_score: float = 0.0

    def __post_init__(self) -> None:
        if isinstance(self.formats, str):
            raise UsageError(f"formats must be a tuple of names, such as ({self.formats!r},)")
        if not isinstance(self.fill_gaps, int) or self.fill_gaps < 0:
            raise UsageError(f"fill_gaps must be 0 frames or more, not {self.fill_gaps!r}")
        for name in self.formats or ("",):
            if name not in FORMATS and name not in EXPORTS:
                known = ", ".join([*FORMATS, *EXPORTS])
                raise UsageError(f"unknown --format {name!r}; choose from {known}")
        if not 0 <= self.min_score <= 1:
            raise UsageError(f"--min-score must be in [0, 1], not {self.min_score:g}")
        check_exports(self.exports, self.export)

    @property
    def streamed(self) -> tuple[str, ...]:
        """Formats that are written frame by frame."""
        return tuple(name for name in self.formats if name in FORMATS)

    @property
    def exports(self) -> tuple[str, ...]:
        """Formats that need the whole result."""
        return tuple(name for name in self.formats if name in EXPORTS)

    @property
    def suffixes(self) -> tuple[str, ...]:
        """Suffixes of the files of these formats."""
        return tuple((FORMATS | EXPORTS)[name].suffix for name in self.formats)

    @property
    def changes_tracks(self) -> bool:
        """Whether postprocessing changes poses, so that nothing can be written before the end."""
        return self.min_score > 0 or self.fill_gaps > 0 or self.smoother is not None

    def noted(self, header: PosesHeader) -> PosesHeader:
        """Record postprocessing in the header's settings; repeated steps become a list."""
        settings = dict(header.settings)
        if self.min_score:
            settings["min_score"] = _after(settings.get("min_score"), self.min_score)
        if self.fill_gaps:
            settings["fill_gaps"] = _after(settings.get("fill_gaps"), self.fill_gaps)
        if self.smoother is not None:
            settings["smooth"] = _after(settings.get("smooth"), self.smoother.name)
        return replace(header, settings=settings)

    def check_rate(self, rate: Fraction | None) -> None:
        """Check the frame rate for the smoother before the video is processed.

        Args:
            rate: Frames per second; None if not constant.

        Raises:
            UsageError: If it is too low for the smoother.
        """
        if self.smoother is not None and rate is not None:
            self.smoother.check_rate(float(rate))

    def processed(self, poses: VideoPoses) -> VideoPoses:
        """Drop weak joints, fill gaps and smooth paths, as requested; note it in the header.

        Raises:
            UsageError: If the video's frame rate is too low for the smoother.
        """
        poses = replace(poses, header=self.noted(poses.header))
        if self.min_score:
            poses = drop_weak(poses, self.min_score)
        if self.fill_gaps:
            poses = fill_gaps(poses, self.fill_gaps)
        return poses if self.smoother is None else smooth(poses, self.smoother)


def read_result(source: Path) -> VideoPoses:
    """Read a `NAME.poses.json`; the error for another file of a result names the right one.

    Raises:
        DataError: If it is not such a file.
    """
    try:
        return VideoPoses.load(source)
    except DataError as error:
        others = tuple(suffix for suffix in SUFFIXES if suffix != FORMATS["json"].suffix)
        if source.exists() and source.name.endswith(others):
            raise DataError(
                f"{source}: only NAME.poses.json holds the whole result: pass that file"
            ) from error
        raise


def _after(before: object, now: object) -> object:
    """Append a setting to those of earlier steps."""
    if before is None:
        return now
    return [*before, now] if isinstance(before, list) else [before, now]


def _of_people(poses: VideoPoses, people: Sequence[int]) -> VideoPoses:
    if not people:
        return poses
    absent = [one for one in people if one not in poses.track_ids]
    if absent:
        there = ", ".join(map(str, poses.track_ids)) or "none"
        raise UsageError(f"unknown --person {absent[0]}; ids in this result: {there}")
    settings = poses.header.settings
    settings = settings | {"people": _after(settings.get("people"), sorted(people))}
    return replace(poses.only(people), header=replace(poses.header, settings=settings))


def _between(poses: VideoPoses, start: float | None, end: float | None) -> VideoPoses:
    span = {name: time for name, time in (("start", start), ("end", end)) if time is not None}
    if not span:
        return poses
    if not np.isfinite(list(span.values())).all():
        raise UsageError("--start and --end must be finite numbers of seconds")
    # Rounded as in files, so that a time read there matches its frame.
    times = np.round(poses.frame_times, SECOND_DECIMALS)
    first = 0 if start is None else int(np.searchsorted(times, start, "left"))
    last = len(times) if end is None else int(np.searchsorted(times, end, "right"))
    if last <= first:
        asked = " ".join(f"--{name} {time:g}" for name, time in span.items())
        there = (
            f"the video goes from {times[0]:.3f} s to {times[-1]:.3f} s"
            if len(times)
            else "the video has none"
        )
        raise UsageError(f"{asked}: no frames in this range; {there}")
    settings = dict(poses.header.settings)
    settings |= {name: _after(settings.get(name), time) for name, time in span.items()}
    header = replace(poses.header, settings=settings)
    return replace(poses[first:last], header=header)


def convert(
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    wanted: ResultOptions,
    *,
    people: Sequence[int] = (),
    start: float | None = None,
    end: float | None = None,
    overwrite: bool = False,
    on_note: Callable[[str], None] | None = None,
) -> tuple[Path, ...]:
    """Write a `NAME.poses.json` in other formats, as files of the same name.

    Args:
        source: The file; it is not changed.
        out: Folder; created if missing.
        wanted: Formats and postprocessing.
        people: Track ids to keep; by default all.
        start: Drop frames before this time in seconds, after postprocessing.
        end: Drop frames after this time in seconds, after postprocessing.
        overwrite: Replace existing files.
        on_note: Called with notes on files that could not be made or are left from an earlier run.

    Returns:
        The files written.

    Raises:
        DataError: If the file is not a result, or lacks what an export needs.
        UsageError: If a file exists, or an option does not fit the video.
    """
    source, out = Path(source), Path(out)
    poses = wanted.processed(_of_people(read_result(source), people))
    poses = _between(poses, start, end).rounded()
    stem = source.name.removesuffix(".json").removesuffix(".poses")
    with ExitStack() as stack:
        writer = stack.enter_context(open_writers(wanted.streamed, out, stem, poses.header))
        for frame in poses.frames():
            writer.write(frame)
        exports = StagedExports(poses, wanted.exports, out, stem, wanted.export)
        stack.enter_context(exports)
        writer.stage(poses.verdict)
        files = (*writer.paths, *exports.paths)
        for path in files:
            check_target(path, [source], overwrite=overwrite)
        exports.publish()
        writer.publish()
    there = files_of_result(out, stem, wanted.suffixes)
    # If people were selected, files of the others are not left over.
    for note in (*exports.notes, *(() if people else left_over(there, files))):
        if on_note is not None:
            on_note(note)
    return files
