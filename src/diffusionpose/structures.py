"""What travels between the parts: boxes, frames, poses, and what is known of a video.

Coordinates are pixels of the DISPLAYED image (after rotation), (x, y), with integers at pixel centres.
Boxes are xyxy. Missing is NaN, never (0, 0). Times are exact fractions of seconds.
"""

from dataclasses import dataclass, field
from fractions import Fraction
from numbers import Rational
from pathlib import PurePath
from typing import Literal

import numpy as np

NO_TRACK = -1
IMAGES = "images"
"""The container of a video that is a folder of images."""


@dataclass(frozen=True)
class Boxes:
    """Person boxes of one frame.

    Args:
        boxes: (num_people, 4) float32, xyxy pixels.
        scores: (num_people,) float32 in [0, 1].
        track_ids: (num_people,) int64, `NO_TRACK` where unknown; filled with it when left out.
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
                f"{len(self.boxes)} boxes, {len(self.scores)} scores, {len(self.track_ids)} track ids"
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
    """One decoded picture: `image` is (height, width, 3) uint8 RGB, upright; `index` counts from 0 in display order.

    `cut` says that it is the first of another scene than the frame before.

    Raises:
        ValueError: If the image is none, or the time is not exact.
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
                f"the image of frame {self.index} is {found}, not a uint8 array (height, width, 3) of RGB"
            )


def _is_picture(shape: tuple[int, ...]) -> bool:
    return len(shape) == 3 and shape[2] == 3 and min(shape) > 0


def _check_time(index: int, time: object) -> None:
    # A whole number is as exact as a fraction.
    if not isinstance(time, Rational):
        raise ValueError(
            f"the time of frame {index} is {time!r}, not exact: give seconds as a Fraction, as Fraction({index}, 25)"
        )


@dataclass(frozen=True)
class PersonPose:
    """One person in one frame: `keypoints` is (num_joints, 3), x, y, score; NaN, NaN, 0 where missing.

    `filled` has the joints that nobody saw in this frame: their places come from the frames before and after.
    """

    track_id: int
    box: np.ndarray
    box_score: float
    score: float
    keypoints: np.ndarray
    filled: tuple[int, ...] = ()


@dataclass(frozen=True)
class FramePoses:
    """All people of one frame; `cut` as in `Frame`.

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
    """Something lost, suspect or worth knowing: `code` is stable, `message` is for people."""

    code: str
    message: str
    severity: Literal["info", "partial"] = "partial"
    frame: int | None = None


@dataclass(frozen=True)
class VideoInfo:
    """What the header of a source says, in display orientation. Unknown figures are None.

    `fingerprint` tells videos apart that have all else in common, as those of two cameras do.
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
        """What names of results begin with: a file's name without its suffix, a folder's as it is."""
        return self.name if self.container == IMAGES else PurePath(self.name).stem


@dataclass(frozen=True)
class VideoVerdict:
    """What reading a source to its end found.

    `status` is `partial` as soon as one issue of severity `partial` is there.
    """

    num_packets: int
    num_frames: int
    duration: Fraction
    issues: tuple[VideoIssue, ...] = ()

    @property
    def status(self) -> Literal["ok", "partial"]:
        """`partial` when an issue says that something is lost, else `ok`."""
        return "partial" if any(issue.severity == "partial" for issue in self.issues) else "ok"


@dataclass(frozen=True)
class PosesHeader:
    """All that a result says besides the poses themselves."""

    video: VideoInfo
    skeleton: str
    joints: tuple[str, ...]
    limbs: tuple[tuple[int, int], ...]
    model: dict[str, object]
    settings: dict[str, object]
    version: str
