"""Reports of videos and of results: what is embedded, in what size, and the file."""

from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np

from diffusionpose.errors import DataError
from diffusionpose.faces import blur_faces
from diffusionpose.formats import write_text
from diffusionpose.paths import temporary_folder
from diffusionpose.poses import VideoPoses
from diffusionpose.report.insight import Insight, Sheet
from diffusionpose.report.page import ReportParts, report_html
from diffusionpose.structures import Frame, FramePoses
from diffusionpose.video import VideoReader, VideoWriter

WIDTHS = (960, 640, 426)
"""Of the embedded video, the next one where a wider is too large."""
VIDEO_BYTES, SHEET_BYTES = 5_500_000, 4_500_000
"""For `SECONDS` of video; base64 makes four bytes of three, and a report of so much stays below 15 MB."""
SECONDS = 10
MOST_ROOM = 15
"""Times that room, however long the video: what is larger no browser opens."""


def compose_report(
    poses: VideoPoses,
    reader: VideoReader | None,
    insight: Insight | None = None,
    *,
    hide_faces: bool = False,
    timings: Sequence[tuple[str, str]] = (),
) -> str:
    """The HTML of a report.

    Args:
        poses: The result.
        reader: Of the video, for one pass; None leaves the picture grey.
        insight: What was seen while the poses were estimated.
        hide_faces: Cover faces in the embedded video.
        timings: Lines (name, text) about the run.

    Raises:
        DataError: If the video is not that of the result.
    """
    video, size = None, (0, 0)
    allowance = room(float(poses.verdict.duration))
    if reader is not None:
        _check_same(reader, poses)
        video, size = embedded_video(reader, poses, VIDEO_BYTES * allowance, hide_faces=hide_faces)
    parts = ReportParts(
        video=video,
        video_size=size,
        sheets=None if insight is None else thinned(insight.sheets, SHEET_BYTES * allowance),
        theatres=() if insight is None else insight.theatres(len(poses)),
        model_facts=[(name, str(value)) for name, value in poses.header.model.items()],
        timings=timings,
    )
    return report_html(poses, parts)


def room(seconds: float) -> float:
    """How often what is allowed for `SECONDS` of video is allowed for so many."""
    return min(max(1.0, seconds / SECONDS), MOST_ROOM)


def make_report(
    poses: VideoPoses,
    path: Path,
    reader: VideoReader | None,
    insight: Insight | None = None,
    *,
    hide_faces: bool = False,
) -> None:
    """Writes a report, complete or not at all.

    Args:
        poses: The result.
        path: Of the HTML file.
        reader: This and the rest as for `compose_report`.
        insight: What was seen while the poses were estimated.
        hide_faces: Cover faces in the embedded video.

    Raises:
        DataError: If the video is not that of the result.
        DiffusionPoseError: If the file cannot be written.
    """
    write_text(path, compose_report(poses, reader, insight, hide_faces=hide_faces))


def _check_same(reader: VideoReader, poses: VideoPoses) -> None:
    ours, theirs = poses.header.video, reader.info
    if (ours.width, ours.height) != (theirs.width, theirs.height):
        raise DataError(
            f"{theirs.name} is {theirs.width} x {theirs.height}, the poses are of {ours.name}, "
            f"{ours.width} x {ours.height}: give the video that they were made from"
        )
    if ours.fingerprint and theirs.fingerprint != ours.fingerprint:
        raise DataError(
            f"{theirs.name} is another video than {ours.name}, of which the poses are, or a copy that was changed: "
            "give the file that they were made from"
        )


def embedded_video(
    reader: VideoReader, poses: VideoPoses, most: float, *, hide_faces: bool
) -> tuple[bytes, tuple[int, int]]:
    """An MP4 in the largest of `WIDTHS` that is no more than `most` bytes, or in the smallest; and its size."""
    content, size = b"", (0, 0)
    for number, width in enumerate(WIDTHS):
        source = reader if number == 0 else reader.again()
        with source:
            content, size = _encoded(source, poses, width, hide_faces)
        if len(content) <= most:
            break
    return content, size


def _encoded(
    reader: VideoReader, poses: VideoPoses, width: int, hide_faces: bool
) -> tuple[bytes, tuple[int, int]]:
    scale = min(1.0, width / reader.info.width)
    # Even, as H.264 wants it: an edge doubled would move the picture under its poses.
    size = tuple(max(2, round(side * scale / 2) * 2) for side in (reader.info.width, reader.info.height))  # fmt: skip
    with temporary_folder() as folder:
        path = folder / "video.mp4"
        with VideoWriter(path, size[0], size[1], rate=reader.info.average_rate) as writer:
            start: Fraction | None = None
            for frame, found in _together(reader, poses):
                image = blur_faces(frame.image, found.people, poses.skeleton) if hide_faces else frame.image  # fmt: skip
                small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
                start = found.time if start is None else start
                writer.write(Frame(frame.index, found.time - start, np.ascontiguousarray(small)))
            writer.close()
        return path.read_bytes(), (size[0], size[1])


def _together(reader: VideoReader, poses: VideoPoses) -> Iterator[tuple[Frame, FramePoses]]:
    """Frames of which there are poses, with them: a result may be of a part of the video."""
    wanted = poses.frames()
    found = next(wanted, None)
    for frame in reader:
        if found is None:
            return
        if frame.index == found.index:
            yield frame, found
            found = next(wanted, None)


def thinned(sheets: dict[tuple[int, int], Sheet], most: float) -> dict[tuple[int, int], Sheet]:
    """Those of every frame, or of every 2nd, 3rd, ... so that they are no more than `most` bytes."""
    total = sum(len(sheet.png) for sheet in sheets.values())
    every = max(1, int(np.ceil(total / most)))
    return {key: sheet for key, sheet in sheets.items() if key[1] % every == 0}
