"""Annotated videos, ground truth or predictions, in one form for all data set layouts."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class AnnotatedPerson:
    """One person in one frame; arrays have the 15 joints of `skeleton.POSETRACK15`.

    Args:
        track_id: None if the file has none.
        keypoints: (15, 2) pixels; NaN for joints that are not in the file.
        visible: (15,) visibility flags as stored in the file; NaN where it has none.
        scores: (15,) scores of predictions; NaN where the file has none.
        head_box: xyxy pixels, the length reference of PoseTrack's metrics; None if the file has
            none.
        box: xyxy pixels of the body; None if the file has none.
        score: Of the whole person; NaN if the file has none.
        is_crowd: Whether this is a COCO crowd region, in which predictions are ignored.
        has_points: False if the file has no list of joints, not even an empty one; PoseTrack's
            metric distinguishes the two.
    """

    track_id: int | None
    keypoints: np.ndarray
    visible: np.ndarray
    scores: np.ndarray
    head_box: np.ndarray | None = None
    box: np.ndarray | None = None
    score: float = float("nan")
    is_crowd: bool = False
    has_points: bool = True

    @property
    def has_joints(self) -> bool:
        """Whether any keypoint is present."""
        return bool(np.isfinite(self.keypoints[:, 0]).any())


@dataclass(frozen=True, eq=False)
class AnnotatedFrame:
    """One frame, annotated or not.

    Args:
        file_name: Of the image, relative to the data set's root, as in the file.
        people: Empty in a frame without annotations.
        is_labelled: None if the file does not say.
        ignore_regions: (n, 2) polygons in pixels.
        frame_id: PoseTrack18's image id; None in PoseTrack17.
        size: (height, width) in pixels; None if the file does not say.
    """

    file_name: str
    people: tuple[AnnotatedPerson, ...] = ()
    is_labelled: bool | None = None
    ignore_regions: tuple[np.ndarray, ...] = ()
    frame_id: int | None = None
    size: tuple[int, int] | None = None


@dataclass(frozen=True, eq=False)
class AnnotatedVideo:
    """All frames of a video, in order.

    Args:
        name: Stem of the annotation file; ground truth and predictions are paired by it.
        frames: Labelled or not.
        layout: `posetrack17` or `posetrack18`; PoseTrack21 uses the latter.
    """

    name: str
    frames: tuple[AnnotatedFrame, ...]
    layout: str
