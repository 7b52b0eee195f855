"""PoseTrack's evaluation up to the distances, as poseval does it: what its AP, MOTA and our HOTA start from.

Frames whose truth has no person are dropped, as are points inside ignore regions and people without points. Distances
are in head lengths, 0.6 times the diagonal of the truth's head box; within half of one, a joint is right.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from types import ModuleType

import numpy as np

from diffusionpose.annotations import AnnotatedPerson, AnnotatedVideo
from diffusionpose.errors import DataError, MissingExtraError
from diffusionpose.metrics.pairs import VideoPair

HEAD_SHARE = 0.6
"""Of the head box's diagonal: the reference length."""
THRESHOLD = 0.5
"""Of the reference length: up to here a joint is right."""
NOTHING_RIGHT = "none of their joints can be right, as in poseval"
"""What becomes of people whose head box has no extent."""
MISSING_SCORE = -9999.0
"""What poseval takes for a joint without a score."""


@dataclass(frozen=True, eq=False)
class FrameDistances:
    """One frame that counts; P predictions, T people of the truth.

    Args:
        truth: The people of the truth that are left.
        predicted: The predictions that are left.
        distances: (P, T, 15) in head lengths; infinite where either lacks the joint.
    """

    truth: tuple[AnnotatedPerson, ...]
    predicted: tuple[AnnotatedPerson, ...]
    distances: np.ndarray

    @property
    def has_truth(self) -> np.ndarray:
        """(T, 15) whether the joint is annotated."""
        return _has_joints(self.truth)

    @property
    def has_predicted(self) -> np.ndarray:
        """(P, 15) whether the joint is predicted."""
        return _has_joints(self.predicted)

    @property
    def matches(self) -> np.ndarray:
        """(P, T, 15) whether the joint is right."""
        return self.distances <= THRESHOLD


def posetrack_frames(pair: VideoPair) -> Iterator[FrameDistances]:
    """The frames of a video that count.

    Raises:
        DataError: If a person of the truth has no head box.
        MissingExtraError: If there are ignore regions, and shapely is not installed.
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
    """0.6 times the diagonal of the head box, pixels; NaN where there is none."""
    if person.head_box is None:
        return float("nan")
    return HEAD_SHARE * float(np.linalg.norm(person.head_box[2:] - person.head_box[:2]))


def require_head_boxes(truths: Sequence[AnnotatedVideo]) -> None:
    """For metrics that measure in head lengths.

    Raises:
        DataError: If a person of the truth who has joints has no head box.
    """
    for video in truths:
        for index, frame in enumerate(video.frames):
            for person in frame.people:
                _head_length(person, video, index)


def flat_head_note(truths: Sequence[AnnotatedVideo], outcome: str) -> Iterator[str]:
    """Says so where head boxes have no extent, so that nothing is within a share of it.

    Args:
        truths: Annotated videos.
        outcome: What becomes of these people.
    """
    lengths = [
        head_length(person)
        for video in truths
        for frame in video.frames
        for person in frame.people
        if person.has_joints
    ]
    if flat := sum(length == 0 for length in lengths):
        yield f"{flat} of {len(lengths)} people have a head box without extent: {outcome}"


def _head_length(person: AnnotatedPerson, video: AnnotatedVideo, index: int) -> float:
    if person.head_box is None and np.isfinite(person.keypoints).any():
        raise DataError(
            f"{video.name}: frame {index} ({video.frames[index].file_name}): a person without a head box (bbox_head, or "
            "x1 y1 x2 y2 in PoseTrack17); this metric measures in head lengths: take --metric pck or oks"
        )
    return head_length(person)


def require_shapely(truths: Sequence[AnnotatedVideo]) -> None:
    """For metrics that know ignore regions.

    Raises:
        MissingExtraError: If there are such regions, and shapely is not installed.
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
    """(people, 15, 2)"""
    return np.array([person.keypoints for person in people]).reshape(-1, 15, 2)


def _distances(
    predicted: Sequence[AnnotatedPerson], truth: Sequence[AnnotatedPerson], lengths: np.ndarray
) -> np.ndarray:
    gaps = np.linalg.norm(_stacked(predicted)[:, None] - _stacked(truth), axis=-1)
    # A joint that is not there, and 0 / 0 of a head box without extent, are NaN and match nothing, as in poseval.
    with np.errstate(divide="ignore", invalid="ignore"):
        distances = gaps / lengths[:, None]
    return np.where(np.isnan(distances), np.inf, distances)


def _outside(
    people: Sequence[AnnotatedPerson], regions: Sequence[np.ndarray]
) -> tuple[AnnotatedPerson, ...]:
    """People without their joints strictly inside a region; who has none left is dropped."""
    shapely = _shapely()
    # Fewer than three corners enclose nothing.
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
