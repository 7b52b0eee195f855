"""What a detector is, the user's own too, and what it must not give."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from diffusionpose.boxes import check_boxes
from diffusionpose.errors import UsageError
from diffusionpose.structures import NO_TRACK, Boxes, Frame


class PersonDetector(Protocol):
    """Finds people in images.

    Attributes:
        name: Goes into the settings that a result records.
        start_score: From this score on a box counts as a person by itself.
    """

    name: str
    start_score: float

    def __call__(self, images: Sequence[np.ndarray]) -> list[Boxes]:
        """Boxes of every (height, width, 3) uint8 RGB image, best score first."""
        ...


def check_detector(detector: object) -> None:
    """Before a video is read, not at its end, where the name is written down.

    Raises:
        UsageError: If it is no `PersonDetector`.
    """
    lacking = [name for name in ("name", "start_score", "__call__") if not hasattr(detector, name)]
    if lacking:
        raise UsageError(
            f"{type(detector).__name__} is no detector, it has no {' and no '.join(lacking)}: see PersonDetector"
        )


def detect_people(detector: PersonDetector, frame: Frame) -> Boxes:
    """A frame's boxes.

    Raises:
        UsageError: If the detector gives something else.
    """
    found, where = detector([frame.image]), f"detector {detector.name}: frame {frame.index}"
    if not (isinstance(found, Sequence) and len(found) == 1 and isinstance(found[0], Boxes)):
        raise UsageError(f"{where}: for a list of one image there is no list of one Boxes")
    check_boxes(found[0], where)
    if (found[0].track_ids != NO_TRACK).any():
        raise UsageError(
            f"{where}: boxes of a detector have no track ids; those of a BoxesFile may"
        )
    return found[0]
