"""Annotated videos as the data sets' files hold them, in one form whatever the layout: what is true, or was predicted."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class AnnotatedPerson:
    """One person in one frame; arrays run over the 15 joints of `skeleton.POSETRACK15`.

    Args:
        track_id: None where the file has none.
        keypoints: (15, 2) pixels; NaN where the file holds no such joint.
        visible: (15,) what the file says of each joint, as it says it; NaN where it says nothing.
        scores: (15,) of predictions; NaN where the file has none.
        head_box: xyxy pixels, the reference of PoseTrack's metric; None where the file has none.
        box: xyxy pixels of the body; None where the file has none.
        score: Of the whole person; NaN where the file has none.
        is_crowd: A group under one outline, as COCO has them: any number of predictions there is neither right nor wrong.
        has_points: False where the file does not even hold an empty list of joints, which the metric tells apart.
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
        """Whether there is a keypoint."""
        return bool(np.isfinite(self.keypoints[:, 0]).any())


@dataclass(frozen=True, eq=False)
class AnnotatedFrame:
    """One frame, annotated or not.

    Args:
        file_name: Of the image, relative to the data set's root, as the file has it.
        people: Empty in a frame without annotations.
        is_labelled: None where the file does not say.
        ignore_regions: (n, 2) polygons in pixels.
        frame_id: PoseTrack18's id of the image; None in PoseTrack17.
        size: (height, width) in pixels; None where the file does not say.
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
        name: The annotation file's name without its suffix: truth and predictions are paired by it.
        frames: Labelled or not.
        layout: `posetrack17` or `posetrack18`; PoseTrack21 has the second.
    """

    name: str
    frames: tuple[AnnotatedFrame, ...]
    layout: str
