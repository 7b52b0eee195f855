"""The `PersonDetector` protocol, and checks of user-defined detectors and their output."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from diffusionpose.boxes import check_boxes
from diffusionpose.errors import UsageError
from diffusionpose.structures import NO_TRACK, Boxes, Frame


class PersonDetector(Protocol):
    """Finds people in images.

    Attributes:
        name: Recorded in the settings of results.
        start_score: Boxes that score at least this start a track by themselves.
    """

    name: str
    start_score: float

    def __call__(self, images: Sequence[np.ndarray]) -> list[Boxes]:
        """Detect people in (height, width, 3) uint8 RGB images; boxes are sorted by score."""
        ...


def check_detector(detector: object) -> None:
    """Check that an object is a detector, before a video is read.

    Raises:
        UsageError: If it does not implement `PersonDetector`.
    """
    lacking = [name for name in ("name", "start_score", "__call__") if not hasattr(detector, name)]
    if lacking:
        raise UsageError(
            f"{type(detector).__name__} is not a detector, it has no {' and no '.join(lacking)}: see PersonDetector"
        )


def detect_people(detector: PersonDetector, frame: Frame) -> Boxes:
    """Run a detector on a frame and validate its output.

    Raises:
        UsageError: If the output is not one `Boxes` with valid boxes, scores in [0, 1], and no
            track ids.
    """
    found, where = detector([frame.image]), f"detector {detector.name}: frame {frame.index}"
    if not (isinstance(found, Sequence) and len(found) == 1 and isinstance(found[0], Boxes)):
        raise UsageError(f"{where}: a detector must return a list with one Boxes per image")
    check_boxes(found[0], where)
    if (found[0].track_ids != NO_TRACK).any():
        raise UsageError(
            f"{where}: a detector must not set track ids; use a BoxesFile for boxes with track ids"
        )
    return found[0]
