"""Pose estimation to files, which are published together or not at all."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from diffusionpose.cuts import note_cuts
from diffusionpose.detection import BoxesFile, PersonDetector
from diffusionpose.errors import UsageError
from diffusionpose.exports import StagedExports
from diffusionpose.faces import blur_faces
from diffusionpose.formats import (
    FORMATS,
    AtomicFile,
    PosesWriter,
    is_result_of,
    open_writers,
    staged_text,
)
from diffusionpose.overlap import Behind
from diffusionpose.poses import VideoPoses
from diffusionpose.predict import PosePipeline
from diffusionpose.render import draw_poses
from diffusionpose.results import FILM, SUFFIXES, ResultOptions, files_of_result, left_over
from diffusionpose.skeleton import Skeleton
from diffusionpose.structures import Frame, FramePoses, PosesHeader, VideoVerdict
from diffusionpose.video import VideoReader, VideoWriter

FRAMES_BEHIND = 8
"""Maximum number of frames by which drawing and encoding lag behind the network."""


@dataclass(frozen=True)
class Outcome:
    """Result of `predict_files`: the files, the verdict on the video, and notes for the user."""

    files: tuple[Path, ...]
    verdict: VideoVerdict
    num_people: int
    notes: tuple[str, ...] = ()


Progress = Callable[[FramePoses], None]
TextOf = Callable[[VideoPoses], str]


def predict_files(
    pipeline: PosePipeline,
    reader: VideoReader,
    out: Path,
    wanted: ResultOptions | None = None,
    *,
    video: bool = True,
    hide_faces: bool = False,
    overwrite: bool = False,
    on_frame: Progress | None = None,
    also: Mapping[str, TextOf] | None = None,
) -> Outcome:
    """Estimate the poses of an opened video and write result files.

    No file gets its final name before all are complete.

    Args:
        pipeline: The pose estimator.
        reader: From `open_video`.
        out: Folder; created if missing.
        wanted: Formats and postprocessing; by default JSON without postprocessing.
        video: Also write the annotated video.
        hide_faces: Cover faces in the annotated video.
        overwrite: Replace existing files even if they are not results of this video.
        on_frame: Called with the poses of each finished frame.
        also: Further text files, as a function of the whole result for each file suffix; keeps the
            whole result in memory.

    Raises:
        UsageError: If the files cannot be written, files of these names are not results of this
            video, or the frame rate is too low for the smoother.
        DiffusionPoseError: If writing fails midway; nothing is left behind.
    """
    wanted, also = wanted or ResultOptions(), also or {}
    name = reader.info.stem
    _guard_existing(out, name, reader, (*wanted.suffixes, *also), video=video, overwrite=overwrite)
    wanted.check_rate(reader.steady_rate)
    header = pipeline.header(reader.info)
    with ExitStack() as stack:
        enter = stack.enter_context
        writer = enter(open_writers(wanted.streamed, out, name, wanted.noted(header)))
        film = enter(_film(out / f"{name}{FILM}", reader)) if video else None
        draw = Drawing(film, pipeline.network.config.skeleton_graph, hide_faces=hide_faces)
        keeps = wanted.changes_tracks or bool(wanted.exports) or bool(also)
        made = _Finished(writer, draw, wanted, keeps=keeps, on_frame=on_frame)
        whole = _finish_frames(pipeline, reader, made, header).rounded()
        exports = enter(StagedExports(whole, wanted.exports, out, name, wanted.export))
        staged = [
            enter(staged_text(out / f"{name}{suffix}", text_of(whole)))
            for suffix, text_of in also.items()
        ]
        writer.stage(whole.verdict)
        if film is not None:
            film.writer.close()
            staged.insert(0, film.file)
        files = _publish(writer, exports, staged)
    notes = (
        *made.notes,
        *exports.notes,
        *_notes(pipeline.detector, whole.verdict),
        *_left_over(out, name, files, reader),
    )
    return Outcome(files, whole.verdict, len(made.tracks), notes)


def _publish(
    writer: PosesWriter, exports: StagedExports, staged: list[AtomicFile]
) -> tuple[Path, ...]:
    """Give all completed files their final names, and return these."""
    exports.publish()
    for file in staged:
        file.publish()
    # Keypoints last: once they appear, all other files are there.
    writer.publish()
    return (*writer.paths, *exports.paths, *(file.path for file in staged))


def _finish_frames(
    pipeline: PosePipeline, reader: VideoReader, made: "_Finished", header: PosesHeader
) -> VideoPoses:
    """Write and draw frames while the next are estimated; return the result if frames are kept."""
    with Behind(made, FRAMES_BEHIND) as behind, closing(pipeline.stream(reader)) as stream:
        for done in stream:
            behind(done)
    return made.whole(header, reader)


class _Finished:
    """Consumer of finished frames: writes, draws, and keeps them if the whole result is needed."""

    def __init__(
        self,
        writer: PosesWriter,
        draw: "Drawing",
        wanted: ResultOptions,
        *,
        keeps: bool,
        on_frame: Progress | None,
    ) -> None:
        self._writer, self._draw, self._wanted = writer, draw, wanted
        self._keeps, self._on_frame = keeps, on_frame
        self._kept: list[FramePoses] = []
        self._cuts: list[int] = []
        self.tracks: set[int] = set()
        self.notes: tuple[str, ...] = ()

    def __call__(self, done: tuple[Frame, FramePoses]) -> None:
        frame, poses = done
        if not self._wanted.changes_tracks:
            self._writer.write(poses)
            self._draw(frame, poses)
        if self._keeps:
            self._kept.append(poses)
        self.tracks.update(person.track_id for person in poses.people)
        if poses.cut:
            self._cuts.append(poses.index)
        if self._on_frame is not None:
            self._on_frame(poses)

    def whole(self, header: PosesHeader, reader: VideoReader) -> VideoPoses:
        """Return the result, empty unless frames were kept.

        With postprocessing of tracks, frames are written and drawn only here.
        """
        verdict = note_cuts(reader.verdict, self._cuts)
        found = VideoPoses.from_frames(header, self._kept, verdict).rounded()
        poses = found
        if self._wanted.changes_tracks:
            poses = self._changed(found)
            self._writer.retitle(poses.header)
            for frame in poses.frames():
                self._writer.write(frame)
            self._draw.all(reader, poses, found)
        return poses

    def _changed(self, poses: VideoPoses) -> VideoPoses:
        try:
            return self._wanted.processed(poses)
        except UsageError as error:
            # The frame rate is only known now; keep the poses without smoothing.
            self.notes += (f"not smoothed: {error.plain}",)
            return replace(self._wanted, smoother=None).processed(poses)


class Drawing:
    """Draws poses on frames and encodes them into the annotated video, if there is one."""

    def __init__(self, film: "_Film | None", skeleton: Skeleton, *, hide_faces: bool) -> None:
        self._film, self._skeleton, self._hide_faces = film, skeleton, hide_faces

    def __call__(self, frame: Frame, poses: FramePoses, found: FramePoses | None = None) -> None:
        """Draw and encode one frame; faces of `found` (before postprocessing) are covered, too."""
        if self._film is not None:
            image = frame.image
            if self._hide_faces:
                people = poses.people if found is None else (*poses.people, *found.people)
                image = blur_faces(image, people, self._skeleton)
            image = draw_poses(image, poses.people, self._skeleton)
            self._film.writer.write(replace(frame, image=image))

    def _draw_one(self, one: tuple[Frame, FramePoses, FramePoses]) -> None:
        self(*one)

    def all(self, reader: VideoReader, poses: VideoPoses, found: VideoPoses) -> None:
        """Draw and encode all frames in a second pass over the video."""
        if self._film is not None:
            with reader.again() as again, Behind(self._draw_one, FRAMES_BEHIND) as behind:
                for one in zip(again, poses.frames(), found.frames(), strict=True):
                    behind(one)


def _guard_existing(
    out: Path,
    name: str,
    reader: VideoReader,
    suffixes: tuple[str, ...],
    *,
    video: bool,
    overwrite: bool,
) -> None:
    """Refuse to replace the source itself, or files that are not results of this video."""
    own = is_result_of(out / f"{name}.poses.json", reader.info)
    made = {*(one.suffix for one in FORMATS.values()), *suffixes, *([FILM] if video else [])}
    for path in files_of_result(out, name, made):
        if reader.is_same_file(path):
            raise UsageError(f"{path} is the source itself: choose another --out")
        if not (own or overwrite):
            raise UsageError(
                f"{path} exists and is not a result of this video: choose another --out, or pass --overwrite"
            )


def _notes(detector: PersonDetector | BoxesFile, verdict: VideoVerdict) -> tuple[str, ...]:
    if isinstance(detector, BoxesFile) and detector.last_index >= verdict.num_frames:
        named, last = detector.last_index, verdict.num_frames - 1
        return (f"{detector.name} has boxes for frame {named}, but the last frame is {last}",)
    return ()


def _left_over(
    out: Path, name: str, files: tuple[Path, ...], reader: VideoReader
) -> tuple[str, ...]:
    """Note files of an earlier run next to those of this one."""
    there = files_of_result(out, name, SUFFIXES)
    return left_over([one for one in there if not reader.is_same_file(one)], files)


class _Film(NamedTuple):
    """The annotated video while it is being written."""

    file: AtomicFile
    writer: VideoWriter


@contextmanager
def _film(path: Path, reader: VideoReader) -> Iterator[_Film]:
    """Open a video writer under a temporary name; the file is removed unless published."""
    file, info = AtomicFile(path), reader.info
    try:
        size = info.width, info.height
        with VideoWriter(file.temporary, *size, rate=info.average_rate) as writer:
            yield _Film(file, writer)
    finally:
        file.discard()
