"""Stages before the network: scene cuts, detection, tracking, and windows of three frames."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np

from diffusionpose.cuts import mark_cuts
from diffusionpose.detection import BoxesFile, PersonDetector, detect_people
from diffusionpose.errors import UsageError
from diffusionpose.structures import Boxes, Frame
from diffusionpose.tracking import Tracker


@dataclass(frozen=True)
class Window:
    """A key frame, its people, and its neighbours in the scene (itself where one is missing)."""

    previous: Frame
    key: Frame
    following: Frame
    people: Boxes


def scenes(frames: Iterable[Frame], *, find_cuts: bool = True) -> Iterator[Frame]:
    """Yield the frames; with `find_cuts`, mark the first one of every new scene.

    Raises:
        UsageError: If an item is not a frame.
    """
    checked = (_checked(frame) for frame in frames)
    return mark_cuts(checked) if find_cuts else checked


def _checked(frame: Frame) -> Frame:
    if not isinstance(frame, Frame):
        raise UsageError(
            f"a stream takes Frames, not {type(frame).__name__}: open_video(path) reads those of a "
            "video, Frame(index, Fraction(index, 25), image) makes one from an image"
        )
    return frame


def detect(
    frames: Iterable[Frame], detector: PersonDetector | BoxesFile, every: int = 1
) -> Iterator[tuple[Frame, Boxes | None]]:
    """Yield frames with their person boxes; None where the detector did not run."""
    # Count the frames passed, not their indices, which may have gaps.
    number = -1
    for frame in frames:
        number = 0 if frame.cut else number + 1
        if isinstance(detector, BoxesFile):
            yield frame, _given_boxes(detector, frame)
        else:
            yield frame, detect_people(detector, frame) if number % every == 0 else None


def _given_boxes(given: BoxesFile, frame: Frame) -> Boxes:
    boxes, (height, width) = given.boxes_at(frame.index), frame.image.shape[:2]
    x1, y1, x2, y2 = boxes.boxes.T
    outside = (x2 <= 0) | (y2 <= 0) | (x1 >= width) | (y1 >= height)
    if outside.any():
        raise UsageError(
            f"boxes file {given.name}: frame {frame.index}: box {boxes.boxes[outside][0].tolist()} "
            f"lies outside the image, which is {width} x {height}"
        )
    return boxes


def make_tracker(detector: PersonDetector | BoxesFile, every: int = 1) -> Tracker:
    """Make a tracker for the output of `detect`; boxes given by the user stay unchanged."""
    if isinstance(detector, BoxesFile):
        return Tracker(trust_boxes=True)
    return Tracker(start_score=detector.start_score, detect_every=every)


def track(
    detections: Iterable[tuple[Frame, Boxes | None]],
    tracker: Tracker,
    judge: Callable[[Frame, np.ndarray], float] | None = None,
) -> Iterator[tuple[Frame, Boxes]]:
    """Yield frames with tracked people, in order, `tracker.lag` frames late.

    Args:
        detections: From `detect`.
        tracker: From `make_tracker`.
        judge: Returns the mean joint score of the pose in a box (4,), for boxes with low scores.
    """
    waiting: deque[Frame] = deque()
    for frame, boxes in detections:
        if frame.cut:
            for done in tracker.cut():
                yield waiting.popleft(), done.boxes
        waiting.append(frame)
        of_frame = None if judge is None else partial(judge, frame)
        for done in tracker.update(frame.index, frame.time, boxes, of_frame):
            yield waiting.popleft(), done.boxes
    for done in tracker.flush():
        yield waiting.popleft(), done.boxes


def windows(tracked: Iterable[tuple[Frame, Boxes]]) -> Iterator[Window]:
    """Yield a window for every frame, with that frame as key frame."""
    previous: Frame | None = None
    key: tuple[Frame, Boxes] | None = None
    for following in tracked:
        if key is not None:
            is_cut = following[0].cut
            yield Window(previous or key[0], key[0], key[0] if is_cut else following[0], key[1])
            previous = None if is_cut else key[0]
        key = following
    if key is not None:
        yield Window(previous or key[0], key[0], key[0], key[1])
