"""Composing reports: embeds the video and heatmaps within a size budget, and writes the file."""

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
"""Widths of the embedded video in pixels, tried in order until it is small enough."""
VIDEO_BYTES, SHEET_BYTES = 5_500_000, 4_500_000
"""Budgets for `SECONDS` of video; with base64's overhead of a third, the report stays below 15
MB."""
SECONDS = 10
MOST_ROOM = 15
"""Maximum factor of the budgets for long videos, as browsers cannot open much larger files."""


def compose_report(
    poses: VideoPoses,
    reader: VideoReader | None,
    insight: Insight | None = None,
    *,
    hide_faces: bool = False,
    timings: Sequence[tuple[str, str]] = (),
) -> str:
    """Render the HTML of a report.

    Args:
        poses: The result.
        reader: Of the video, for one pass; None shows skeletons on grey.
        insight: Observer of the pose estimation, for heatmaps and denoising.
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
    """Factor of the size budgets for a video of this duration."""
    return min(max(1.0, seconds / SECONDS), MOST_ROOM)


def make_report(
    poses: VideoPoses,
    path: Path,
    reader: VideoReader | None,
    insight: Insight | None = None,
    *,
    hide_faces: bool = False,
) -> None:
    """Write a report atomically.

    Args:
        poses: The result.
        path: Of the HTML file.
        reader: Of the video, for one pass; None shows skeletons on grey.
        insight: Observer of the pose estimation, for heatmaps and denoising.
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
            f"{theirs.name} is {theirs.width} x {theirs.height}, but the poses are of {ours.name}, "
            f"{ours.width} x {ours.height}: give the video that they were made from"
        )
    if ours.fingerprint and theirs.fingerprint != ours.fingerprint:
        raise DataError(
            f"{theirs.name} differs from {ours.name}, the video of the poses, or is a modified copy of it: give the "
            "file that they were made from"
        )


def embedded_video(
    reader: VideoReader, poses: VideoPoses, most: float, *, hide_faces: bool
) -> tuple[bytes, tuple[int, int]]:
    """Encode the video in the largest of `WIDTHS` that fits `most` bytes, else in the smallest.

    Returns:
        The MP4 file, and its (width, height).
    """
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
    # H.264 needs even sides; padding an edge instead would misalign image and poses.
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
    """Pair frames with their poses; frames without poses are skipped, as results may be cut."""
    wanted = poses.frames()
    found = next(wanted, None)
    for frame in reader:
        if found is None:
            return
        if frame.index == found.index:
            yield frame, found
            found = next(wanted, None)


def thinned(sheets: dict[tuple[int, int], Sheet], most: float) -> dict[tuple[int, int], Sheet]:
    """Keep the sheets of every n-th frame, with n such that they take about `most` bytes."""
    total = sum(len(sheet.png) for sheet in sheets.values())
    every = max(1, int(np.ceil(total / most)))
    return {key: sheet for key, sheet in sheets.items() if key[1] % every == 0}
