"""PoseTrack's evaluation up to joint distances, as in poseval; shared by AP, MOTA and HOTA.

Frames without people in the ground truth are dropped, as are joints inside ignore regions and
people without a list of points. Distances are in head lengths, i.e. 0.6 times the diagonal of the
ground-truth head box; a joint is correct within half a head length.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from types import ModuleType

import numpy as np

from diffusionpose.annotations import AnnotatedPerson, AnnotatedVideo
from diffusionpose.errors import DataError, MissingExtraError
from diffusionpose.metrics.pairs import VideoPair

HEAD_SHARE = 0.6
"""Head length as a share of the head box's diagonal."""
THRESHOLD = 0.5
"""Largest distance of a correct joint, in head lengths."""
NOTHING_RIGHT = "none of their joints can be correct, as in poseval"
"""Consequence for people whose head box has no extent, for warnings."""
MISSING_SCORE = -9999.0
"""Score that poseval gives to joints without one."""


@dataclass(frozen=True, eq=False)
class FrameDistances:
    """An evaluated frame with P predictions and T people in the ground truth.

    Args:
        truth: People of the ground truth, after filtering.
        predicted: Predictions, after filtering.
        distances: (P, T, 15) in head lengths; infinite where either lacks the joint.
    """

    truth: tuple[AnnotatedPerson, ...]
    predicted: tuple[AnnotatedPerson, ...]
    distances: np.ndarray

    @property
    def has_truth(self) -> np.ndarray:
        """Mask (T, 15) of annotated joints."""
        return _has_joints(self.truth)

    @property
    def has_predicted(self) -> np.ndarray:
        """Mask (P, 15) of predicted joints."""
        return _has_joints(self.predicted)

    @property
    def matches(self) -> np.ndarray:
        """Mask (P, T, 15) of correct joints."""
        return self.distances <= THRESHOLD


def posetrack_frames(pair: VideoPair) -> Iterator[FrameDistances]:
    """Yield the frames of a video that are evaluated.

    Raises:
        DataError: If a person of the ground truth has no head box.
        MissingExtraError: If there are ignore regions and shapely is not installed.
    """
    for index, (truth, predicted) in enumerate(pair.frames):
        if not truth.people:
            continue
        true, found = (
            tuple(person for person in frame.people if person.has_points)
            for frame in (truth, predicted)
        )
        if truth.ignore_regions:
            true, found = (_outside(people, truth.ignore_regions) for people in (true, found))
        lengths = np.array([_head_length(person, pair.truth, index) for person in true])
        yield FrameDistances(true, found, _distances(found, true, lengths))


def head_length(person: AnnotatedPerson) -> float:
    """Return 0.6 times the diagonal of the head box in pixels; NaN without a head box."""
    if person.head_box is None:
        return float("nan")
    return HEAD_SHARE * float(np.linalg.norm(person.head_box[2:] - person.head_box[:2]))


def require_head_boxes(truths: Sequence[AnnotatedVideo]) -> None:
    """Check that everybody with joints has a head box, as metrics in head lengths need.

    Raises:
        DataError: If somebody has none.
    """
    for video in truths:
        for index, frame in enumerate(video.frames):
            for person in frame.people:
                _head_length(person, video, index)


def flat_head_note(truths: Sequence[AnnotatedVideo], outcome: str) -> Iterator[str]:
    """Warn of people whose head box has no extent, so that their head length is 0.

    Args:
        truths: Annotated videos.
        outcome: What happens to these people, for the message.
    """
    lengths = [
        head_length(person)
        for video in truths
        for frame in video.frames
        for person in frame.people
        if person.has_joints
    ]
    if flat := sum(length == 0 for length in lengths):
        yield f"{flat} of {len(lengths)} people have a head box without extent; {outcome}"


def _head_length(person: AnnotatedPerson, video: AnnotatedVideo, index: int) -> float:
    if person.head_box is None and np.isfinite(person.keypoints).any():
        raise DataError(
            f"{video.name}: frame {index} ({video.frames[index].file_name}): a person without a "
            "head box (bbox_head, or x1 y1 x2 y2 in PoseTrack17), which this metric needs; use "
            "--metric pck or oks"
        )
    return head_length(person)


def require_shapely(truths: Sequence[AnnotatedVideo]) -> None:
    """Check that shapely is installed if there are ignore regions.

    Raises:
        MissingExtraError: If it is not.
    """
    if any(frame.ignore_regions for video in truths for frame in video.frames):
        _shapely()


def _shapely() -> ModuleType:
    try:
        import shapely
    except ImportError:
        raise MissingExtraError("shapely", "eval") from None
    return shapely


def _has_joints(people: Sequence[AnnotatedPerson]) -> np.ndarray:
    return np.isfinite(_stacked(people)[..., 0])


def _stacked(people: Sequence[AnnotatedPerson]) -> np.ndarray:
    """Return the keypoints as an array (people, 15, 2)."""
    return np.array([person.keypoints for person in people]).reshape(-1, 15, 2)


def _distances(
    predicted: Sequence[AnnotatedPerson], truth: Sequence[AnnotatedPerson], lengths: np.ndarray
) -> np.ndarray:
    gaps = np.linalg.norm(_stacked(predicted)[:, None] - _stacked(truth), axis=-1)
    # Missing joints and 0 / 0 of a head box without extent are NaN and match nothing, as in
    # poseval.
    with np.errstate(divide="ignore", invalid="ignore"):
        distances = gaps / lengths[:, None]
    return np.where(np.isnan(distances), np.inf, distances)


def _outside(
    people: Sequence[AnnotatedPerson], regions: Sequence[np.ndarray]
) -> tuple[AnnotatedPerson, ...]:
    """Remove joints strictly inside a region, and people without any joints left."""
    shapely = _shapely()
    polygons = [shapely.Polygon(region) for region in regions if len(region) >= 3]
    out = []
    for person in people:
        points = person.keypoints.copy()
        known = np.flatnonzero(np.isfinite(points[:, 0]))
        inside = np.zeros(len(known), bool)
        for polygon in polygons:
            inside |= shapely.contains_xy(polygon, points[known])
        points[known[inside]] = np.nan
        if np.isfinite(points).any():
            out.append(replace(person, keypoints=points))
    return tuple(out)
