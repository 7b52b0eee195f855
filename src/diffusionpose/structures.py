"""Data structures shared by all parts: boxes, frames, poses, and facts about a video.

Coordinates are (x, y) pixels of the DISPLAYED image (after rotation), with integers at pixel
centres. Boxes are xyxy. Missing is NaN, never (0, 0). Times are exact fractions of seconds.
"""

from dataclasses import dataclass, field
from fractions import Fraction
from numbers import Rational
from pathlib import PurePath
from typing import Literal

import numpy as np

NO_TRACK = -1
IMAGES = "images"
"""Value of `VideoInfo.container` for a folder of images."""


@dataclass(frozen=True)
class Boxes:
    """Person boxes of one frame.

    Args:
        boxes: (num_people, 4) float32, xyxy pixels.
        scores: (num_people,) float32 in [0, 1].
        track_ids: (num_people,) int64, `NO_TRACK` where unknown; by default unknown for all.

    Raises:
        ValueError: If the lengths differ.
    """

    boxes: np.ndarray
    scores: np.ndarray
    track_ids: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))

    def __post_init__(self) -> None:
        set_ = object.__setattr__
        set_(self, "boxes", np.asarray(self.boxes, np.float32).reshape(-1, 4))
        set_(self, "scores", np.asarray(self.scores, np.float32).reshape(-1))
        ids = np.asarray(self.track_ids, np.int64).reshape(-1)
        set_(self, "track_ids", ids if len(ids) else np.full(len(self.boxes), NO_TRACK, np.int64))
        if not len(self.boxes) == len(self.scores) == len(self.track_ids):
            raise ValueError(
                f"numbers differ: {len(self.boxes)} boxes, {len(self.scores)} scores, "
                f"{len(self.track_ids)} track ids"
            )

    def __len__(self) -> int:
        return len(self.boxes)

    def __getitem__(self, keep: np.ndarray | slice) -> "Boxes":
        return Boxes(self.boxes[keep], self.scores[keep], self.track_ids[keep])

    @classmethod
    def empty(cls) -> "Boxes":
        """No boxes."""
        return cls(np.empty((0, 4)), np.empty(0))


@dataclass(frozen=True)
class Frame:
    """One decoded frame.

    Args:
        index: Counts from 0 in display order.
        time: Exact seconds.
        image: (height, width, 3) uint8 RGB, upright.
        cut: Whether this is the first frame of a new scene.

    Raises:
        ValueError: If the image has another shape or type, or the time is not exact.
    """

    index: int
    time: Fraction
    image: np.ndarray
    cut: bool = False

    def __post_init__(self) -> None:
        _check_time(self.index, self.time)
        is_array = isinstance(self.image, np.ndarray)
        if not is_array or self.image.dtype != np.uint8 or not _is_picture(self.image.shape):
            found = type(self.image).__name__
            found = f"{self.image.dtype} {self.image.shape}" if is_array else found
            raise ValueError(
                f"the image of frame {self.index} must be a (height, width, 3) uint8 RGB array, not {found}"
            )


def _is_picture(shape: tuple[int, ...]) -> bool:
    return len(shape) == 3 and shape[2] == 3 and min(shape) > 0


def _check_time(index: int, time: object) -> None:
    # Rational covers int, too.
    if not isinstance(time, Rational):
        raise ValueError(
            f"the time of frame {index} is {time!r}, which is not exact: give seconds as a Fraction, such as "
            f"Fraction({index}, 25)"
        )


@dataclass(frozen=True)
class PersonPose:
    """One person in one frame.

    Args:
        track_id: `NO_TRACK` if unknown.
        box: (4,) xyxy pixels.
        box_score: Of the box.
        score: Of the whole person.
        keypoints: (num_joints, 3) x, y, score; NaN, NaN, 0 where missing.
        filled: Indices of joints that were interpolated from other frames.
    """

    track_id: int
    box: np.ndarray
    box_score: float
    score: float
    keypoints: np.ndarray
    filled: tuple[int, ...] = ()


@dataclass(frozen=True)
class FramePoses:
    """All people of one frame.

    Args:
        index: Of the frame.
        time: Exact seconds.
        people: May be empty.
        cut: Whether this is the first frame of a new scene.

    Raises:
        ValueError: If the time is not exact.
    """

    index: int
    time: Fraction
    people: tuple[PersonPose, ...] = ()
    cut: bool = False

    def __post_init__(self) -> None:
        _check_time(self.index, self.time)


@dataclass(frozen=True)
class VideoIssue:
    """Anything lost, suspicious or notable in a video; `code` is stable, `message` is not."""

    code: str
    message: str
    severity: Literal["info", "partial"] = "partial"
    frame: int | None = None


@dataclass(frozen=True)
class VideoInfo:
    """Facts from the header of a source, in display orientation. Unknown values are None.

    `fingerprint` distinguishes videos whose other facts are equal, such as those of two cameras.
    """

    name: str
    width: int
    height: int
    container: str
    codec: str
    rotation: int = 0
    average_rate: Fraction | None = None
    expected_frames: int | None = None
    has_audio: bool = False
    fingerprint: str = ""

    @property
    def stem(self) -> str:
        """Stem of result file names: the file's name without suffix, or the folder's name."""
        return self.name if self.container == IMAGES else PurePath(self.name).stem


@dataclass(frozen=True)
class VideoVerdict:
    """Outcome of reading a source to its end."""

    num_packets: int
    num_frames: int
    duration: Fraction
    issues: tuple[VideoIssue, ...] = ()

    @property
    def status(self) -> Literal["ok", "partial"]:
        """`partial` if any issue has severity `partial`, else `ok`."""
        return "partial" if any(issue.severity == "partial" for issue in self.issues) else "ok"


@dataclass(frozen=True)
class PosesHeader:
    """Metadata of a result."""

    video: VideoInfo
    skeleton: str
    joints: tuple[str, ...]
    limbs: tuple[tuple[int, int], ...]
    model: dict[str, object]
    settings: dict[str, object]
    version: str
